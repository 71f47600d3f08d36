"""Which blocks a layout of BK-SDM means."""

from compress.model.blocks import without
from tests.conftest import CLASS_CONFIG, make_denoiser

# as Stable Diffusion's: four stages of two layers, the innermost without attention
DEEP = {
    **CLASS_CONFIG,
    "sample_size": 16,
    "block_out_channels": [8, 8, 16, 16],
    "layers_per_block": 2,
    "down_block_types": [*["AttnDownBlock2D"] * 3, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["AttnUpBlock2D"] * 3],
}


def test_layouts_are_those_of_the_paper() -> None:
    model = make_denoiser(DEEP)
    base_of, small, tiny = (model.family.layouts[name] for name in ("bk-base", "bk-small", "bk-tiny"))
    base = {f"down_blocks.{i}.resnets.1" for i in range(4)} | {f"down_blocks.{i}.attentions.1" for i in range(3)}
    base |= {f"up_blocks.{i}.resnets.1" for i in range(4)} | {f"up_blocks.{i}.attentions.1" for i in range(1, 4)}
    innermost = {"down_blocks.3.resnets.0", "up_blocks.0.resnets.0", "up_blocks.0.resnets.2"}
    assert set(base_of(model.net)) == base
    assert set(small(model.net)) == base | {"mid_block"}
    assert set(tiny(model.net)) == base | {"mid_block"} | innermost
    assert tiny(without(model, tiny(model.net)).net) == []
