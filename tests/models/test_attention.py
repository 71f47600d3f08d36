"""The lean form of attention is the same function as diffusers' own."""

import copy

import pytest
import torch
from diffusers.models.attention_processor import Attention

from compress.models.attention import ChannelsFirst, channels_first
from compress.models.families import FAMILIES
from tests.conftest import CLASS_CONFIG, TEXT_CONFIG


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("residual", [True, False])
def test_equals_diffusers(heads: int, bias: bool, residual: bool) -> None:
    torch.manual_seed(0)
    block = Attention(
        12,
        heads=heads,
        dim_head=4,
        norm_num_groups=4,
        bias=bias,
        residual_connection=residual,
        rescale_output_factor=2.0,
    )
    torch.nn.init.normal_(block.group_norm.weight)
    torch.nn.init.normal_(block.group_norm.bias)
    x = torch.randn(2, 12, 5, 7)
    with torch.no_grad():
        wanted = block(x)
        with channels_first(block):
            assert isinstance(block.processor, ChannelsFirst)
            torch.testing.assert_close(block(x), wanted, rtol=1e-5, atol=1e-5)
    assert not isinstance(block.processor, ChannelsFirst)


def test_what_it_cannot_do_is_left_alone() -> None:
    net = FAMILIES["UNet2DConditionModel"].build(copy.deepcopy(TEXT_CONFIG))
    cross = Attention(8, cross_attention_dim=6, norm_num_groups=4, residual_connection=True)
    normed = Attention(8, qk_norm="layer_norm", norm_num_groups=4, residual_connection=True)
    narrow = Attention(8, norm_num_groups=4, heads=2, dim_head=4, residual_connection=True)
    narrow.to_v = torch.nn.Linear(8, 4)  # pruned otherwise than queries and keys
    for module in (net, cross, normed, narrow):
        with channels_first(module):
            assert not any(isinstance(getattr(m, "processor", None), ChannelsFirst) for m in module.modules())


def test_only_wanted_blocks_change_and_change_back_after_an_error() -> None:
    net = FAMILIES["UNet2DModel"].build(copy.deepcopy(CLASS_CONFIG))
    blocks = {path: m for path, m in net.named_modules() if isinstance(m, Attention)}
    with pytest.raises(ZeroDivisionError), channels_first(net, lambda path: path.startswith("mid_block")):
        for path, block in blocks.items():
            assert isinstance(block.processor, ChannelsFirst) == path.startswith("mid_block")
        raise ZeroDivisionError
    assert not any(isinstance(block.processor, ChannelsFirst) for block in blocks.values())
