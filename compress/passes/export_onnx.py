"""Write the model as ONNX, with everything a device needs to draw samples from it.

The bundle holds `denoiser.onnx` (inputs: sample, timestep and the conditions; output: out_sample) and
`bundle.json` (shapes, the sampling table, guidance, hashes). Before it counts as exported the file is held against the
PyTorch model on noise; an int8 file against its simulation. `sampler.onnx`, if asked for, is the whole way from noise
to image in one graph; it is checked against the step-by-step runtime.
"""

import time
from dataclasses import asdict
from functools import cache
from typing import Any, Literal

import onnx_ir as ir
import torch
from pydantic import Field

from compress import targets
from compress.contract import Context, Forecast, PassConfig, PassResult, Unwritten
from compress.diffusion.stock_schedulers import stock_scheduler
from compress.errors import PassError
from compress.judge import leaps
from compress.judge.parity import check_bundle
from compress.judge.parts import check_parts, check_sampler
from compress.measure import counts
from compress.model.denoiser import Denoiser, Quantized, example_inputs
from compress.model.open_sizes import Sizes, asked_sizes, resized
from compress.onnx_graph.export import to_onnx
from compress.onnx_graph.parts import Precisions, denoiser_file, draws_from_pictures, export_parts, for_clients, told
from compress.onnx_graph.precompute import INLINE_LIMIT, constant_bytes
from compress.onnx_graph.unroll import sampler_of
from compress.onnx_graph.whole_pipeline import from_tokens_to_pixels
from compress.pipeline.manifest import input_names, write_manifest
from compress.quantization.calibration import trajectory_points
from compress.randomness import Draw
from compress.runtime import Bundle
from compress.runtime.schemes import SCHEMES
from compress.settings import Listed, Many, Pair
from compress.targets import ITSELF, NOT_JUDGED
from compress.targets.made import Exported, Source
from compress.targets.needs import Needs

SAMPLER = "sampler.onnx"
LARGE = 2**28  # bytes of a file from which a plan does without one
SECONDS, MEMORY = 3e-8, 1.1  # that an export takes a byte on two cores, and bytes: the engine holds the weights too
LATENTS = 100  # by which a decoder is calibrated
TRAJECTORIES, POINTS = 16, 128  # on which targets read ranges


class Config(PassConfig):
    """Settings of `export_onnx`."""

    batch: int | None = Field(None, ge=1, le=64, description="a fixed batch size; absent: any batch size")
    opset: int = Field(20, ge=18, le=23, description="ONNX operator set")
    timesteps: Literal["any", "own"] = Field(
        "any",
        description="at which the file answers. own: those of its sampling alone, so that what follows from the "
        "timestep becomes a table where that is smaller; for models of few steps",
    )
    sampler: bool = Field(
        False,
        description="also sampler.onnx: (noise, conditions) to image in one call, all steps inside; of a pipeline "
        "(noise, token ids) to pixels",
    )
    size: Literal["free"] | Listed[Pair[int]] | None = Field(
        None,
        description="[height, width] of pictures that can be drawn beside those of the config's size, e.g. "
        "[[512, 768], [640, 640]]; free: whatever the net can take; of latents, where no decoder is beside the net",
    )
    adaptive: bool = Field(
        False, description="calibrate adaptive steps: which tolerance keeps which quality, and how many steps it saves"
    )
    text_encoder: Literal["float", "int8_weights"] = Field("float", description="scheme of a pipeline's text encoder")
    decoder: Literal["float", "int8", "int8_weights", "fp16"] = Field(
        "float", description="scheme of a pipeline's decoder"
    )
    encoder: bool | None = Field(
        None, description="also the VAE's encoder; default: where the pipeline draws from pictures, as in inpainting"
    )
    external_data: bool = Field(False, description="weights in a file beside the graph; always so above 1.5 GB")
    targets: Many[Literal["onnxruntime", "web", "openvino", "npu", "npu_int8"]] = Field(
        (ITSELF,),
        description="where else it is to run, each a folder beside the bundle. web: for any static server, drawn in "
        "browsers; openvino: int8 in its form; npu: the net with weights of 8 bits and activations of 16, sizes fixed, "
        "as Qualcomm's and Intel's compilers take it; npu_int8: activations of 8, Rockchip's too",
    )

    @property
    def beside(self) -> list[str]:
        """The targets that have a folder of their own."""
        return [name for name in targets.TARGETS if name in self.targets]


def run(model: Denoiser | Quantized, config: Config, context: Context) -> PassResult[Bundle]:
    """Export, check, and describe."""
    sizes = _refuse(model, config, context)
    folder = context.output / "onnx"
    folder.mkdir(parents=True)
    multiple = None if sizes is None else sizes.multiple
    model = model if multiple is None else _left_open(model, multiple)
    inputs, names = example_inputs(model, batch=config.batch or 2), input_names(model)
    timesteps = _own(model) if config.timesteps == "own" else []
    with context.progress(f"{context.name}: exporting", 1) as task, model.family.lean.within(model.net):
        graph = to_onnx(model.module, inputs, names, config.batch, config.opset, timesteps, multiple)
        task.advance()
    parts, precisions = context.parts(), _precisions(config, context)
    name = denoiser_file(model, parts)
    (folder / name).parent.mkdir(exist_ok=True)
    graph = for_clients(graph) if parts.folders else graph
    ir.save(graph, folder / name, external_data="weights.bin" if _beside(graph, config) else None)
    with context.progress(f"{context.name}: exporting what is around", 1) as task:
        around = export_parts(model, parts, folder, config.opset, precisions, sizes is not None)
        task.advance()
    for warning in told(stock_scheduler(model.sampling, model.scheduler).warning, around):
        context.log(f"{context.name}: {warning}")
    if config.sampler:
        whole = from_tokens_to_pixels(sampler_of(model, graph), folder, around)
        ir.save(whole, folder / SAMPLER, external_data="sampler.bin" if _beside(whole, config) else None)
    about = {
        "name": context.recipe,
        "model": name,
        **around,
        "sampler": SAMPLER if config.sampler else None,
        "timesteps": timesteps or None,
        "sizes": sizes and asdict(sizes),
        "params": counts.parameters(model),
        "macs": counts.macs(model),
        "data": None if context.data is None else context.data.source,
        "teacher_sampling": context.sampling.model_dump(exclude_none=True),
        "targets": dict.fromkeys([ITSELF, *config.beside], NOT_JUDGED),
    }
    write_manifest(folder, model, config.batch, about)
    bundle, told_to = Bundle(folder), (config.batch, config.opset, context.seed, context.name)
    others = sizes.beside(model.sample_shape) if sizes else []
    notes: dict[str, Any] = {
        "inputs": {name: bundle.inputs[name]["shape"] for name in names},
        "bytes": bundle.size_bytes,
        "nodes": len(graph.graph),
        **check_bundle(model, bundle, inputs, *told_to),
        **check_parts(parts, bundle, precisions.latents, others, context.seed, context.name),
    }
    for sides in others:
        check_bundle(model, bundle, resized(inputs, sides), *told_to)
    if config.adaptive:
        drawn_for = context.seed, context.dataset, context.progress, context.name
        notes["adaptive"] = leaps.calibrate(model, bundle, *drawn_for)
    if config.sampler:
        notes["sampler_sqnr_db"] = round(check_sampler(model, bundle, context.dataset, context.seed, context.name), 2)
    points, check = cache(lambda: _points(model, context)), lambda other: check_bundle(model, other, inputs, *told_to)
    made = Exported(bundle, Source(model, about, _own(model), points, check))
    for target in config.beside:
        notes[target] = targets.write(target, made, context.output / target)
    return PassResult(bundle, changed=True, notes=notes)


def _points(model: Denoiser, context: Context) -> list[torch.Tensor]:
    """Where the model is evaluated while it draws: (sample, timestep, *inputs), each [n,…]."""
    key = context.seed, context.dataset
    return trajectory_points(model, TRAJECTORIES, POINTS, *key, Draw.TARGET_CALIBRATION)


def _beside(graph: ir.Model, config: Config) -> bool:
    return config.external_data or constant_bytes(graph) > INLINE_LIMIT


def _left_open(model: Denoiser | Quantized, multiple: int) -> Denoiser | Quantized:
    """The model in a form that takes samples whose sides are multiples of a number; a quantized one is traced anew."""
    if model.precision is None:
        return model
    from compress.quantization import quantized  # brings torchao, which only quantized models need

    made = model.precision
    return quantized.rebuild(model.in_float(), made.scheme, made.ranges, made.float_layers, multiple)


def _precisions(config: Config, context: Context) -> Precisions:
    key = context.seed, Draw.DECODER_CALIBRATION
    encoder = draws_from_pictures(context.parts()) if config.encoder is None else config.encoder
    latents = cache(lambda: context.training_data().batch(LATENTS, *key).images)
    return Precisions(config.text_encoder, config.decoder, encoder, latents)


def _refuse(model: Denoiser, config: Config, context: Context) -> Sizes | None:
    """Raise PassError for what cannot be exported as asked; else the sizes that are asked for."""
    name, size = context.name, config.size
    hindered = {
        "the steps of this model were distilled": model.sampling.distilled,
        "they need batch: 1, or any": (config.batch or 1) > 1,
        "the solver unipc corrects what is behind": model.sampling.solver == "unipc",
    }
    for why in (why for why, found in hindered.items() if config.adaptive and found):
        raise PassError(f"{name}: adaptive: steps cannot adapt, because {why}; set it to false")
    if config.encoder and context.parts().decoder is None:
        raise PassError(f"{name}: encoder: true, and the checkpoint has no VAE; leave it out")
    if config.timesteps == "own" and model.sampling.dtype != torch.int64:
        raise PassError(f"{name}: timesteps: own needs whole numbers, which this model is not told; set it to any")
    if model.sampling.guidance.kind == "classifier":
        raise PassError(
            f"{name}: a bundle cannot follow a classifier's gradient; put `distill_guidance`, or "
            "`distill_steps: {bake_guidance: true}`, before it"
        )
    targets.prepare(config.targets, lambda: Needs.of_model(model, context.parts()))
    try:
        return None if size is None else asked_sizes(model, size, context.parts().factor)
    except ValueError as error:
        raise PassError(f"{name}: size: {error}") from None


def forecast(model: Denoiser | Quantized, config: Config, context: Context) -> Forecast:
    """A model is really exported, for onnxruntime alone; of a large one, size and time are those of its weights."""
    _refuse(model, config, context)
    size = counts.parameters(model) * SCHEMES[model.scheme].bytes
    if size <= LARGE:
        began = time.monotonic()
        itself = config.model_copy(update={"targets": (ITSELF,)})  # a simulator takes minutes
        return Forecast(run(model, itself, context).model, time.monotonic() - began)
    return Forecast(Unwritten(model, config.batch, size), size * SECONDS, round(size * MEMORY))


def _own(model: Denoiser) -> list[int]:
    """What the net is told in every number of steps that the model serves, in order."""
    sampling = model.sampling
    paths = (sampling.timesteps, *sampling.others)
    return sorted({int(step.timestep) for path in paths for step in sampling.at(len(path)).steps()})
