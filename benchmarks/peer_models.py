"""The models that peers are compared on, and the files that all of them start from."""

import contextlib
import dataclasses
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
import torch

from compress import terminal
from compress.contract import Context
from compress.diffusion.schedulers import SamplingOptions, from_scheduler_config
from compress.errors import CompressError
from compress.families import FAMILIES
from compress.model.denoiser import Denoiser, example_inputs
from compress.model.reference import cycled_labels
from compress.onnx_graph.for_openvino import for_openvino
from compress.passes import export_onnx, quantize
from compress.pipeline import checkpoint
from compress.pipeline.manifest import MODEL
from compress.quantization.calibration import trajectory_points
from compress.randomness import generator

HERE = Path(__file__).parent
SEED, HELD_OUT_SEED = 0, 1
HELD_OUT = 64  # inputs on which outputs are compared; every batch size divides it
OPSET = 20

# The config of google/ddpm-cifar10-32 (Ho et al. 2020), 35.7 M parameters.
CIFAR10 = {
    "_class_name": "UNet2DModel",
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [128, 256, 256, 256],
    "layers_per_block": 2,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": None,
    "act_fn": "silu",
    "center_input_sample": False,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "time_embedding_type": "positional",
}
CIFAR10_SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "clip_sample": True,
}

# Small beside Stable Diffusion's (Rombach et al. 2022) and built like it: linear layers hold a third of its weights.
TEXT = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [128, 256, 256],
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "attention_head_dim": 8,
    "cross_attention_dim": 512,
}

# DiT-S/2 (Peebles and Xie 2022) on latents 4×32×32: 33 M parameters, which are 40 M in diffusers, where every block
# holds the embeddings of time and class.
DIT = {
    "_class_name": "DiTTransformer2DModel",
    "sample_size": 32,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 12,
    "num_attention_heads": 6,
    "attention_head_dim": 64,
    "patch_size": 2,
    "num_embeds_ada_norm": 1000,
}

Points = list[torch.Tensor]
Made = TypeVar("Made")


@dataclass(frozen=True)
class Subject:
    """A model to compare on. points: (model, context, count) → inputs as it meets them, determined by context.seed."""

    title: str
    load: Callable[[], Denoiser]
    points: Callable[[Denoiser, Context, int], Points]
    calibration: int
    trained: bool = True


def _digits() -> Denoiser:
    model = checkpoint.load(HERE / "teachers" / "digits")
    assert isinstance(model, Denoiser)
    return model


def _random(config: dict[str, Any]) -> Denoiser:
    family = FAMILIES[config["_class_name"]]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        net = family.build(config).eval().requires_grad_(False)
        for path, layer in net.named_modules():
            if path.endswith("norm1.linear") and isinstance(layer, torch.nn.Linear):
                # A new transformer's gates are zero: it would be the identity. These shifts and gates are about a half.
                torch.nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    sampling = from_scheduler_config(CIFAR10_SCHEDULER, SamplingOptions(steps=50))
    return Denoiser(net, family, sampling, CIFAR10_SCHEDULER)


def _trajectories(model: Denoiser, context: Context, count: int) -> Points:
    config = quantize.Config(samples=max(1, count // 10), evaluations=count)  # as many points an image as by default
    return trajectory_points(model, config.samples, config.evaluations, context.seed, context.dataset)


def _noise(model: Denoiser, context: Context, count: int) -> Points:
    """Standard normal samples and texts, labels in turn: a random net has no trajectory from noise to image."""
    timesteps = torch.tensor(model.sampling.timesteps)
    sample = torch.randn(count, *model.sample_shape, generator=generator(context.seed, 4))
    order = torch.randperm(count, generator=generator(context.seed, 5))
    random = generator(context.seed, 6)
    labels = cycled_labels(model.classes or 1, count) * 31 % (model.classes or 1)
    given = [
        torch.randn(count, *condition.shape, generator=random) if condition.shape else labels
        for condition in model.inputs.values()
    ]
    return [sample, timesteps[torch.arange(count) * len(timesteps) // count][order], *given]


SUBJECTS = {
    "digits": Subject("digits teacher, 1.7 M parameters, trained", _digits, _trajectories, 400),
    "cifar10": Subject(
        "CIFAR-10 DDPM U-Net, 35.7 M parameters, random weights", partial(_random, CIFAR10), _noise, 64, False
    ),
    "text": Subject(
        "text-conditional U-Net of latents, 24.4 M parameters, random weights",
        partial(_random, TEXT),
        _noise,
        64,
        False,
    ),
    "dit": Subject("DiT-S/2 on latents, 40 M parameters, random weights", partial(_random, DIT), _noise, 64, False),
}


@dataclass(frozen=True)
class Files:
    """What workers read. sources: (kind, batch) → file or folder, or why there is none."""

    calibration: Path
    held_out: Path
    wanted: np.ndarray
    sources: dict[tuple[str, int], Path | str]


def prepare(subject: Subject, batches: Sequence[int], folder: Path) -> Files:
    """Write the model in every form that a peer starts from, and the inputs of calibration and comparison.

    Kinds of source: "unet", a diffusers folder; "plain", PyTorch's own ONNX export; "lean" and "int8", this
    toolkit's export of the float model and of the quantized one; "int8_openvino", that in OpenVINO's form.
    """
    model = subject.load()
    context = context_of(model, folder)
    names = ["sample", "timestep", *model.inputs]
    with terminal.progress("drawing inputs", 2) as task:
        points = subject.points(model, context, subject.calibration)
        task.advance()
        held_out = subject.points(model, dataclasses.replace(context, seed=HELD_OUT_SEED), HELD_OUT)
        task.advance()
    for file, values in (("calibration", points), ("held_out", held_out)):
        np.savez(folder / f"{file}.npz", **{n: v.numpy() for n, v in zip(names, values, strict=True)})  # type: ignore[arg-type]
    with torch.no_grad():
        parts = [model.module(*(value[i : i + 8] for value in held_out)) for i in range(0, HELD_OUT, 8)]
    model.net.save_pretrained(folder / "unet")  # type: ignore[operator]
    sources: dict[tuple[str, int], Path | str] = {("unet", batch): folder / "unet" for batch in batches}
    with terminal.progress("exporting", len(batches)) as task:
        for batch in batches:
            sources["plain", batch] = _tried(partial(_plain, model, names, batch, folder))
            sources["lean", batch] = _tried(partial(_exported, model, batch, "lean", context))
            task.advance()
    int8 = _tried(lambda: quantize.quantized_at(model, quantize.Config(), context, points).model)
    for batch in batches:
        made = int8 if isinstance(int8, str) else _tried(partial(_exported, int8, batch, "int8", context))
        sources["int8", batch] = made
        sources["int8_openvino", batch] = made if isinstance(made, str) else _tried(partial(_for_openvino, made))
    wanted = torch.cat(parts).numpy()
    return Files(folder / "calibration.npz", folder / "held_out.npz", wanted, sources)


def _tried(make: Callable[[], Made]) -> Made | str:
    """What `make` gives, or the reason why it could not: a fault of one form must not end the suite."""
    try:
        return make()
    except CompressError as error:
        return str(error).splitlines()[0]
    except Exception as error:  # exporters raise many kinds
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"[:300]


def _plain(model: Denoiser, names: list[str], batch: int, folder: Path) -> Path:
    """PyTorch's export as a user would call it, with a fixed batch."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"), torch.no_grad():
        program = torch.onnx.export(
            model.module,
            example_inputs(model, batch),
            input_names=names,
            output_names=["out_sample"],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    file = folder / f"plain-{batch}.onnx"
    program.save(str(file))
    return file


def _exported(model: Denoiser, batch: int, kind: str, context: Context) -> Path:
    output = context.output / f"{kind}-{batch}"
    config = export_onnx.Config(batch=batch, opset=OPSET)
    export_onnx.run(model, config, dataclasses.replace(context, name=kind, output=output))
    return output / "onnx" / MODEL


def _for_openvino(file: Path) -> Path:
    graph = ir.load(file)
    for_openvino(graph)
    ir.save(graph, file.with_name("openvino.onnx"))
    return file.with_name("openvino.onnx")


def context_of(model: Denoiser, folder: Path) -> Context:
    """What a pass is given when it runs by itself."""

    def no_dataset() -> None:
        raise AssertionError("neither model needs a data set")

    return Context(
        name="int8",
        recipe="peers",
        seed=SEED,
        device=torch.device("cpu"),
        workdir=folder,
        output=folder,
        guidance=model.sampling.guidance,
        sampling=SamplingOptions(),
        data=None,
        teacher=lambda: model,
        dataset=no_dataset,  # type: ignore[arg-type]
        progress=terminal.progress,
        log=terminal.log,
    )
