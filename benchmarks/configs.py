"""`python -m benchmarks.configs`: models of many configs through every pass at random settings.

A config is drawn from what diffusers' two U-Nets can be built with. Each pass by itself, and then several in a chain,
must give a model that runs, reloads to the bit, and exports to a file that computes the same. A pass may refuse its
settings with a message; anything else that stops it is a failure.
"""

import argparse
import dataclasses
import json
import random
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from benchmarks.bars import finish
from compress import passes, terminal
from compress.contract import Context
from compress.data import Dataset, FromTeacher
from compress.diffusion.sampling import Guidance
from compress.diffusion.schedulers import SamplingOptions, from_scheduler_config
from compress.errors import CompressError, ExportError
from compress.families import FAMILIES
from compress.files import write_json, write_text
from compress.model.denoiser import Denoiser, predict
from compress.model.reference import silent
from compress.pipeline import checkpoint
from compress.randomness import generator

ROOT = Path(__file__).parents[1]
TOKENS = 5
SAMPLER = {"sampler": True}
IMAGES = 24
SCHEDULER = json.loads(
    (ROOT / "benchmarks" / "teachers" / "digits" / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8")
)
PLAIN = {
    "down": ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"),
    "up": ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
}
TEXT = {
    "down": ("CrossAttnDownBlock2D", "DownBlock2D", "SimpleCrossAttnDownBlock2D", "ResnetDownsampleBlock2D"),
    "up": ("CrossAttnUpBlock2D", "UpBlock2D", "SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
}


def config(seed: int) -> dict[str, Any]:
    """A config of `UNet2DModel` (even seeds) or `UNet2DConditionModel` (odd ones)."""
    choose = random.Random(seed)
    text = seed % 2 == 1
    levels = choose.choice((1, 2, 2, 3))
    groups = choose.choice((1, 2, 4, 8))
    head = choose.choice((4, 8))
    names = TEXT if text else PLAIN
    kinds = [choose.randrange(len(names["down"])) for _ in range(levels)]
    found: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel" if text else "UNet2DModel",
        "sample_size": choose.choice((8, 16, [8, 16])),
        "in_channels": choose.choice((1, 3, 4)),
        "block_out_channels": sorted(choose.choice((16, 24, 32)) for _ in range(levels)),
        "layers_per_block": choose.choice((1, 1, 2)),
        "norm_num_groups": groups,
        "down_block_types": [names["down"][kind] for kind in kinds],
        "up_block_types": [names["up"][kind] for kind in reversed(kinds)],
        "act_fn": choose.choice(("silu", "silu", "gelu", "mish", "relu")),
        "dropout": choose.choice((0.0, 0.1)),
        "resnet_time_scale_shift": choose.choice(("default", "scale_shift")),
        "center_input_sample": choose.random() < 0.2,
        "flip_sin_to_cos": choose.random() < 0.5,
        "downsample_padding": 1,
        "time_embedding_dim": choose.choice((None, 48)),
    }
    found["out_channels"] = found["in_channels"]
    classes = choose.choice((None, "labels", "labels", "timestep", "identity"))
    if text:
        found |= {
            "cross_attention_dim": choose.choice((12, 20)),
            "attention_head_dim": choose.choice((2, 4, 8)),
            "use_linear_projection": choose.random() < 0.5,
            "only_cross_attention": choose.random() < 0.2,
            "upcast_attention": choose.random() < 0.2,
            "transformer_layers_per_block": choose.choice((1, 1, 2)),
            "mid_block_type": choose.choice(
                (
                    "UNetMidBlock2DCrossAttn",
                    "UNetMidBlock2DCrossAttn",
                    "UNetMidBlock2DSimpleCrossAttn",
                    "UNetMidBlock2D",
                )
            ),
            "conv_in_kernel": choose.choice((1, 3)),
            "resnet_skip_time_act": choose.random() < 0.2,
            "timestep_post_act": choose.choice((None, "silu")),
        }
        if choose.random() < 0.2:
            found |= {"encoder_hid_dim": 20, "encoder_hid_dim_type": "text_proj"}
        if "SimpleCrossAttnDownBlock2D" in found["down_block_types"] or "Simple" in found["mid_block_type"]:
            found["attention_head_dim"] = 8  # there it is the width of a head, and not the number of heads
        classes = choose.choice((None, None, "labels", "timestep", "identity", "projection", "simple_projection"))
        if classes in ("projection", "simple_projection"):
            found["projection_class_embeddings_input_dim"] = 10
            found["class_embeddings_concat"] = choose.random() < 0.5
    else:
        found |= {
            "attention_head_dim": choose.choice((head, None)),
            "add_attention": choose.random() < 0.8,
            "downsample_type": choose.choice(("conv", "resnet")),
            "upsample_type": choose.choice(("conv", "resnet")),
            "mid_block_scale_factor": choose.choice((1, 2**0.5)),
            "attn_norm_num_groups": choose.choice((None, 4)),
        }
    if classes == "labels":
        found["num_class_embeds"] = 11
    elif classes is not None:
        found["class_embed_type"] = classes
    return found


def settings(seed: int, levels: int) -> dict[str, dict[str, Any]]:
    """Settings of every pass that gives a model."""
    choose = random.Random(1000 + seed)
    part = round(choose.uniform(0.4, 0.9), 2)
    stock = choose.random() < 0.3
    text = seed % 2 == 1
    return {
        "prune_channels": {
            "target": {choose.choice(("macs", "params", "bytes", "channels")): part},
            "importance": choose.choice(("taylor", "diffusion_taylor", "l1", "l2", "random")),
            "ranking": "per_layer" if stock else choose.choice(("per_layer", "global", "per_cost")),
            "widths": "stock" if stock else "free",
            "heads": "narrow" if stock and text else choose.choice(("narrow", "remove")),
            "multiple_of": choose.choice((1, 1, 4)),
            "batches": 1,
        },
        "prune_blocks": choose.choice(
            (
                {"layout": choose.choice(("bk-base", "bk-small", "bk-tiny"))},
                {"target": {"macs": 0.8}, "probe_steps": 1, "batch_size": 4, "batches": 1},
            )
        ),
        "factorize": {"target": {choose.choice(("macs", "params", "energy", "rank")): part}, "batches": 1},
        "new_student": {
            "config": {"block_out_channels": [choose.choice((8, 16))] * levels},
            "inherit": choose.choice(("weights", "slices", "none")),
        },
        "distill": {
            "steps": 1,
            "batch_size": 4,
            "losses": {
                "output": 1,
                "feature": choose.choice((0, 1)),
                "attention": 0,
                "task": choose.choice((0, 1)),
            },
        },
        "choose_timesteps": {"sampling_steps": 1, "samples": 4},
        "distill_guidance": {"steps": 1, "batch_size": 4, "mode": choose.choice(("baked", "embedded"))},
        "distill_steps": {
            "steps": 1,
            "batch_size": 4,
            "trajectories": 10,
            **choose.choice(
                (
                    {"sampling_steps": [1]},
                    {"sampling_steps": [1, 2]},
                    {"sampling_steps": [1], "method": "progressive"},
                    {"sampling_steps": [1], "method": "consistency"},
                )
            ),
        },
        "quantize": {"scheme": choose.choice(("int8", "int8", "fp16")), "samples": 2, "evaluations": 8},
    }


def model(seed: int) -> Denoiser:
    """A model of the config, with random weights; guided where it has a condition to leave out."""
    found = config(seed)
    family = FAMILIES[found["_class_name"]]
    reason = family.refuse(found)
    assert reason is None, reason
    torch.manual_seed(seed)
    net = family.build(found).eval().requires_grad_(False)
    with torch.no_grad():
        net.conv_out.weight.mul_(3)  # type: ignore[union-attr, operator]
    sampling = from_scheduler_config(SCHEDULER, SamplingOptions(steps=2))
    made = Denoiser(net, family, sampling, SCHEDULER)
    null = torch.randn(TOKENS, made.conditions["encoder_hidden_states"].shape[1]) if seed % 2 else None
    made = dataclasses.replace(made, null={} if null is None else {"encoder_hidden_states": null})
    guidance = Guidance()
    if null is not None:
        guidance = Guidance(kind="cfg", scale=2.0)
    elif "class_labels" in made.conditions:
        guidance = Guidance(kind="cfg", scale=2.0, null_class=10)
    return dataclasses.replace(made, sampling=sampling.model_copy(update={"guidance": guidance}))


def inputs(made: Denoiser, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Random (sample, timestep, conditions)."""
    drawn = generator(seed, 99)
    conditions = {
        name: torch.randint(10, (count, *condition.shape), generator=drawn)
        if condition.dtype == torch.int64
        else torch.randn(count, *condition.shape, generator=drawn)
        for name, condition in made.conditions.items()
    }
    sample = torch.randn(count, *made.sample_shape, generator=drawn)
    return sample, torch.randint(1000, (count,), generator=drawn), conditions


def context(made: Denoiser, folder: Path, name: str) -> Context:
    """What a pass is given: the model itself as teacher, and noise as images."""
    sample, _, conditions = inputs(made, IMAGES, 1)
    for part in ("work", "files"):
        (folder / part).mkdir(parents=True)
    return Context(
        name=name,
        recipe="configs",
        seed=0,
        device=torch.device("cpu"),
        workdir=folder / "work",
        output=folder / "files",
        guidance=made.sampling.guidance,
        sampling=SamplingOptions(steps=2, scheduler=SCHEDULER),
        data=FromTeacher(source="teacher", count=IMAGES),
        teacher=lambda: made,
        dataset=lambda: Dataset(sample.clamp(-1, 1), conditions),
        progress=silent,
        log=lambda message: None,
    )


@torch.no_grad()
def hold(result: Any, whole: Denoiser, folder: Path) -> None:
    """Raises AssertionError if a pass's model does not run, or reloads to another."""
    sample, timestep, conditions = inputs(whole, 2, 3)
    output = predict(result, sample, timestep, conditions)
    assert output.shape == sample.shape, "another shape"
    assert output.isfinite().all(), "not finite"
    checkpoint.save(result, folder / "saved")
    again = predict(checkpoint.load(folder / "saved"), sample, timestep, conditions)
    assert torch.equal(again, output), "reloaded, it computes something else"


def apply(kind: str, given: Any, whole: Denoiser, chosen: dict[str, Any], folder: Path) -> tuple[Any, str]:
    """(the model that a pass gives, what became of it: `changed`, `idle` or `refused`)."""
    module = passes.module(kind)
    try:
        result = module.run(given, module.Config.model_validate(chosen), context(whole, folder / kind, kind))
    except CompressError as error:
        if isinstance(error, ExportError):
            raise
        return given, f"refused: {error}"
    if kind != "export_onnx":
        hold(result.model, whole, folder / kind)
    return result.model, "changed" if result.changed else "idle"


def check(seed: int, folder: Path, export: bool = True) -> dict[str, str]:
    """What became of every pass on the config of `seed`; `export` also compares the exported files."""
    whole = model(seed)
    chosen = settings(seed, len(whole.config["block_out_channels"]))
    if seed % 2 == 0 and "class_labels" not in whole.conditions:
        chosen["prune_blocks"] = {"layout": "bk-base"}
    found = {kind: apply(kind, whole, whole, values, folder / "alone")[1] for kind, values in chosen.items()}
    student: Any = whole
    for kind in ("prune_blocks", "prune_channels", "factorize", "distill", "distill_guidance", "distill_steps"):
        student, found[f"{kind}, in a chain"] = apply(kind, student, whole, chosen[kind], folder / "chain")
    if export:  # export_onnx itself compares the file with the model
        _, found["export_onnx"] = apply("export_onnx", student, whole, SAMPLER, folder / "chain")
        small, found["quantize, in a chain"] = apply("quantize", student, whole, chosen["quantize"], folder / "chain")
        if found["quantize, in a chain"] == "changed":
            _, found["export_onnx, quantized"] = apply("export_onnx", small, whole, SAMPLER, folder / "quantized")
    return found


def table(found: dict[int, dict[str, str]]) -> str:
    """Markdown: what became of every pass."""
    kinds = list(dict.fromkeys(kind for row in found.values() for kind in row))
    head = "| pass | changed | idle | refused | failed |\n|---|---:|---:|---:|---:|\n"
    lines = []
    for kind in kinds:
        counted = Counter(row[kind].partition(":")[0] for row in found.values() if kind in row)
        cells = [str(counted[name]) for name in ("changed", "idle", "refused", "failed")]
        lines.append(f"| {' | '.join([kind, *cells])} |")
    return head + "\n".join(lines) + f"\n\n{len(found)} configs, half of either U-Net.\n"


def main() -> None:
    """Run the configs, write the table, print the bar."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.configs", description=__doc__)
    parser.add_argument("--count", type=int, default=60, help="configs")
    parser.add_argument("--first", type=int, default=100, help="seed of the first; the tests run the small ones")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found: dict[int, dict[str, str]] = {}
    with terminal.progress("configs", asked.count) as task:
        for seed in range(asked.first, asked.first + asked.count):
            with tempfile.TemporaryDirectory() as folder:
                try:
                    found[seed] = check(seed, Path(folder))
                except Exception as error:  # a failure of any kind is what is looked for
                    found[seed] = {"config": f"failed: {type(error).__name__}: {error}"}
                    terminal.log(f"{seed}: {found[seed]['config']}")
            task.advance()
    file = ROOT / "benchmarks" / "results" / "configs.json"
    write_json(file, {str(seed): row for seed, row in found.items()})
    write_text(file.with_suffix(".md"), table(found))
    print(table(found))
    finish({"configs_failed": float(sum("config" in row for row in found.values()))})


if __name__ == "__main__":
    main()
