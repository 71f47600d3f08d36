"""`python -m benchmarks.int8`: the ways to quantize, side by side: time, exactness, bytes.

Every way is exported and run by onnxruntime, all of a model interleaved in one run, two threads, batch 1 and 8. SQNR is
that of the output against PyTorch's fp32 on inputs that neither calibration nor training saw; PSNR that of whole images
against the float model's of the same noise. Weights of the larger nets are random: they say nothing of images. Rows by
onnxruntime's tools are made of the float file. NNCF on OpenVINO and others: `python -m benchmarks.peers`.
"""

import argparse
import dataclasses
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from benchmarks.bars import finish
from benchmarks.peer_models import HELD_OUT, HELD_OUT_SEED, SUBJECTS, Subject, context_of
from compress import terminal
from compress.contract import Context
from compress.files import write_json, write_text
from compress.judge import quality
from compress.measure import latency
from compress.model.denoiser import Denoiser
from compress.model.reference import conditions_for, noise_like
from compress.passes import export_onnx, quantize
from compress.pipeline.manifest import MODEL
from compress.quantization import four_bits, quantized
from compress.quantization.quantizer import int8_layers
from compress.report.statistics import bootstrap, bootstrap_mean, interval
from compress.runtime import Bundle

RESULT = Path(__file__).parent / "results" / "int8.json"
BATCHES = (1, 8)
THREADS = 2
ROUNDS = {1: 30, 8: 10}
PAUSE = 0.02  # seconds, in which the threads of another session fall asleep
IMAGES = 40
QAT = {"steps": 300, "learning_rate": 1e-5, "warmup": 0.1}
FLOAT, INT8, AUTO, TRAINED = "float", "int8", "auto", "int8, trained (qat)"
MINMAX = "int8, ranges that clip nothing"
DYNAMIC, INT4 = "dynamic int8, by onnxruntime's tool", "int4 weights of linear layers, by onnxruntime's tool"
INT4_BLOCK = 32  # weights of one scale
WEIGHTS, FOUR_BITS = "int8 weights, float arithmetic", "int4 weights of transformers, float arithmetic"
SCHEMES = {WEIGHTS: "int8_weights", FOUR_BITS: "int4_weights", INT8: "int8"}
GPTQ = {way: f"{way}, rounding by gptq" for way in SCHEMES}
ONCE = (MINMAX, *GPTQ.values())  # other numbers in the same graph take the same time

TRIED = """\
## Tried and not kept

Each measured once, on an AMD EPYC with VNNI, two threads, batch 1, on the CIFAR-10 net in int8 unless said
otherwise.

- Upsampling and its convolution as four convolutions of 2×2 on the small image, with 4/9 of the arithmetic: about 1
  ms of 24 less in convolutions, half of which DepthToSpace takes again, and the file is 4% larger. On nets as
  narrow as the digits' it would lose.
- LayerNormalization as the core of group norms instead of InstanceNormalization: 23.6 against 23.7 ms. With scale
  and shift of every element in it, so that the kernel for the affine part goes: 1.4 against 0.8 ms for eight norms.
  ONNX's GroupNormalization: onnxruntime takes it apart into a dozen kernels, 1.2 to 3.4 times the time.
- Sums of residuals and concatenations of skips in int8 as well (QLinearAdd, QLinearConcat): 25.5 against 25.1 ms, and
  1.5 dB less exact.
- What the time embedding adds as the bias of the convolution before it: 25.8 against 25.4 ms. onnxruntime's fast
  kernel takes a bias that is constant; with another, each convolution takes a fifth longer.
- Channels last (onnxruntime's NhwcTransformer left on): 7% slower; it moves transposes past dequantization.
- The two halves of a skip concatenation quantized apart (digits): +0.3 dB, which is not resolved, for one more
  convolution and addition a shortcut. What does help there is a float shortcut (the table above); `auto` takes it
  where it pays.
- Outputs of a convolution scaled to one range in every group of the group norm behind it, which takes the scale back
  exactly (cross-layer equalisation; digits): groups differ by 1.3 to 1.8 only, and 33.1 dB become 33.3, or with gptq
  33.4 become 33.3. Inside attention it does help, and is done.
- Ranges of activations by percentile, all but one in 10,000 at each end, and by entropy: 0.1 to 0.6 and 1.7 to 2.4 dB
  below those of least squared error, on each of the three nets.
- bf16: onnxruntime has no kernels for it on CPUs. A batch of 8 as calls of one image: 23.2 against 21.4 ms an image.
"""


def ways(subject: Subject, model: Denoiser, context: Context, points: list[torch.Tensor]) -> dict[str, Denoiser]:
    """The model in every arithmetic, by name. Training needs the trajectories of a trained net."""

    def config(**settings: Any) -> quantize.Config:
        return quantize.Config.model_validate(settings)

    found: dict[str, Denoiser] = {FLOAT: model}
    found["fp16"] = quantize.run(model, config(scheme="fp16"), context).model
    found[WEIGHTS] = quantize.run(model, config(scheme=SCHEMES[WEIGHTS]), context).model
    if four_bits.layers(model, ()):
        found[FOUR_BITS] = quantize.run(model, config(scheme=SCHEMES[FOUR_BITS]), context).model
    found[INT8] = quantize.quantized_at(model, config(), context, points).model
    found[MINMAX] = quantize.quantized_at(model, config(observer="minmax"), context, points).model
    everything = config(float_layers=())
    found["int8, every layer"] = quantize.quantized_at(model, everything, context, points).model
    for way in (way for way in SCHEMES if way in found):
        learned = config(scheme=SCHEMES[way], rounding="gptq")
        found[GPTQ[way]] = quantize.quantized_at(model, learned, context, points).model
    found[AUTO] = quantize.quantized_at(model, config(scheme="auto"), context, points).model
    if subject.trained:
        found[TRAINED] = quantize.run(model, config(qat=QAT), context).model
    return found


def measure(name: str) -> dict[str, Any]:
    """Every row of a subject at both batch sizes."""
    subject = SUBJECTS[name]
    model = subject.load()
    with tempfile.TemporaryDirectory() as folder:
        context = context_of(model, Path(folder))
        points = subject.points(model, context, subject.calibration)
        made = ways(subject, model, context, points)
        unseen = subject.points(model, dataclasses.replace(context, seed=HELD_OUT_SEED), HELD_OUT)
        with torch.no_grad():
            parts = [model.module(*(value[i : i + 8] for value in unseen)) for i in range(0, HELD_OUT, 8)]
        wanted = torch.cat(parts).numpy()
        rows: dict[str, dict[str, Any]] = {way: {} for way in made}
        for batch in BATCHES:
            bundles = {
                way: _export(one, batch, Path(folder, way.replace(" ", "_")), context)
                for way, one in made.items()
                if batch == BATCHES[0] or way not in ONCE
            }
            if batch == BATCHES[0]:  # dynamic int8 takes seconds a call with more
                bundles |= _by_tools(bundles[FLOAT], Path(folder))
            first = [value[:batch].numpy() for value in unseen]
            calls = {way: _call(bundle, first) for way, bundle in bundles.items() if way not in ONCE}
            taken = latency.interleaved(calls, ROUNDS[batch], terminal.progress, f"{name}, batch {batch}", PAUSE)
            for way in calls:
                ratio, ends = latency.speedup(taken[way], taken[FLOAT])  # time ÷ the float model's
                rows.setdefault(way, {})[f"batch {batch}"] = {
                    "ms": float(np.median(taken[way])),
                    "ratio": ratio,
                    "interval": ends,
                }
            if batch == BATCHES[0]:
                errors = {way: _errors(bundle, unseen, wanted, batch) for way, bundle in bundles.items()}
                images = _images(subject, model, bundles)
                for way, bundle in bundles.items():
                    rows[way] |= _exactness(errors[way]) | images.get(way, {})
                    rows[way]["bytes"] = sum(
                        f.stat().st_size for f in bundle.path.iterdir() if f.suffix in (".onnx", ".bin")
                    )
        found: dict[str, Any] = {"title": subject.title, "rows": rows}
        found["sources"] = sources(model, context, points, unseen, wanted)
        learned = {way: other for way, other in GPTQ.items() if other in errors}
        found["gptq_gain_db"] = {way: _gain(errors[way], errors[other]) for way, other in learned.items()}
        if TRAINED in errors:
            found["trained_gain_db"] = _gain(errors[INT8], errors[TRAINED])
        auto = made[AUTO].precision
        assert auto is not None
        found["auto_int8_observers"] = len(auto.ranges)
    return found


def sources(
    model: Denoiser, context: Context, points: list[torch.Tensor], unseen: list[torch.Tensor], wanted: np.ndarray
) -> dict[str, float]:
    """SQNR in dB of simulated int8 with a part of its rounding left out: all that doing that part better can gain."""
    config = quantize.Config()
    made = quantize.quantized_at(model, config, context, points).model.precision
    assert made is not None
    rounded = quantized.fake_quantized(model, made.scheme, made.ranges, made.float_layers)
    layers = int8_layers(rounded.module.graph)  # type: ignore[arg-type]
    left_out: dict[str, set[str]] = {"nothing": set()}
    for i, part in enumerate(("inputs of layers", "weights", "outputs of layers")):
        left_out[part] = {names[i] for names in layers.values()}
    for part, kind in (("shortcuts behind skips", "conv_shortcut"), ("attention", "attentions")):
        left_out[part] = {name for path, names in layers.items() if kind in path for name in names}
    found = {}
    for part, names in left_out.items():
        for name, rounding in rounded.module.named_modules():
            if isinstance(rounding, quantized.FakeQuantize):
                rounding.active = name not in names
        with torch.no_grad():
            parts = [rounded.module(*(value[i : i + 8] for value in unseen)) for i in range(0, HELD_OUT, 8)]
        found[part] = quality.sqnr(wanted, torch.cat(parts).numpy())
    return found


def _export(model: Denoiser, batch: int, output: Path, context: Context) -> Bundle:
    given = dataclasses.replace(context, output=output / str(batch))
    exported = export_onnx.run(model, export_onnx.Config(batch=batch), given).model
    return Bundle(exported.path, threads=THREADS)


def _by_tools(bundle: Bundle, folder: Path) -> dict[str, Bundle]:
    """Copies of a float bundle with its file as onnxruntime's tools quantize it; int4 where a product has weights."""
    found = {}
    source = str(bundle.path / MODEL)
    for way in (DYNAMIC, INT4):
        copied = folder / f"{bundle.batch} {way}"
        shutil.copytree(bundle.path, copied)
        target = copied / MODEL
        if way == DYNAMIC:
            quantize_dynamic(source, target, per_channel=True, weight_type=QuantType.QInt8)
        else:
            quantizer = MatMulNBitsQuantizer(source, block_size=INT4_BLOCK, is_symmetric=True, accuracy_level=4)
            quantizer.process()
            graph: onnx.ModelProto = quantizer.model.model
            if not any(node.op_type == "MatMulNBits" for node in graph.graph.node):
                continue
            onnx.save(graph, target)
        found[way] = Bundle(copied, threads=THREADS, check_hashes=False)
    return found


def _call(bundle: Bundle, inputs: list[np.ndarray]) -> Any:
    sample, timestep, *values = inputs
    conditions = dict(zip(bundle.conditions, values, strict=True))
    return lambda: bundle.denoise(sample, timestep, conditions)


def _errors(bundle: Bundle, points: list[torch.Tensor], wanted: np.ndarray, batch: int) -> np.ndarray:
    """Squared error and squared answer of every input, [n,2]."""
    parts = []
    for start in range(0, len(wanted), batch):
        parts.append(_call(bundle, [value[start : start + batch].numpy() for value in points])())
    got, axes = np.concatenate(parts), tuple(range(1, wanted.ndim))
    return np.stack([np.square(got - wanted).sum(axes), np.square(wanted).sum(axes)], axis=1)


def _decibels(errors: np.ndarray) -> float:
    error, answer = errors.sum(axis=0)
    return float(10 * np.log10(answer / max(error, 1e-30)))


def _exactness(errors: np.ndarray) -> dict[str, Any]:
    ends = interval(bootstrap(lambda i: _decibels(errors[i]), len(errors)))
    return {"sqnr_db": _decibels(errors), "sqnr_interval": ends}


def _gain(before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Decibels by which `after` is more exact on the same inputs."""
    ends = interval(bootstrap(lambda i: _decibels(after[i]) - _decibels(before[i]), len(before)))
    return {"value": _decibels(after) - _decibels(before), "interval": ends}


def _images(subject: Subject, model: Denoiser, bundles: Mapping[str, Bundle]) -> dict[str, dict[str, Any]]:
    """PSNR of whole images to those of the float bundle."""
    if not subject.trained:
        return {}
    noise = noise_like(model, IMAGES, HELD_OUT_SEED, 9).numpy()

    def no_dataset() -> Any:
        raise AssertionError("the model takes labels alone")

    given = {n: v.numpy() for n, v in conditions_for(model, IMAGES, no_dataset, HELD_OUT_SEED).items()}
    drawn = {}
    with terminal.progress("images", len(bundles)) as task:
        for way, bundle in bundles.items():
            parts = [
                bundle.sample(noise[i : i + 1], **{n: v[i : i + 1] for n, v in given.items()}) for i in range(IMAGES)
            ]
            drawn[way] = np.concatenate(parts)
            task.advance()
    values = {way: quality.psnr(drawn[FLOAT], images) for way, images in drawn.items() if way != FLOAT}
    return {way: {"psnr_db": float(each.mean()), "psnr_interval": bootstrap_mean(each)} for way, each in values.items()}


def table(found: Mapping[str, Any]) -> str:
    """Markdown: one table a model."""
    parts = ["# Ways to quantize\n", (__doc__ or "").partition("\n\n")[2]]
    for subject in found.values():
        parts.append(f"## {subject['title']}\n")
        parts.append(
            "| | batch 1: ms | time ÷ float | batch 8: ms | time ÷ float | SQNR, dB | PSNR of images, dB | "
            "bytes ÷ float |"
        )
        parts.append("|---|---:|---|---:|---|---|---|---:|")
        whole = subject["rows"][FLOAT]["bytes"]
        for way, row in subject["rows"].items():
            cells = [way]
            for batch in BATCHES:
                one = row.get(f"batch {batch}")
                low, high = one["interval"] if one else (0.0, 0.0)
                cells += [f"{one['ms']:.2f}", f"{one['ratio']:.2f} ({low:.2f} … {high:.2f})"] if one else ["", ""]
            cells.append(f"{row['sqnr_db']:.1f} ({row['sqnr_interval'][0]:.1f} … {row['sqnr_interval'][1]:.1f})")
            shown = (
                f"{row['psnr_db']:.1f} ({row['psnr_interval'][0]:.1f} … {row['psnr_interval'][1]:.1f})"
                if "psnr_db" in row
                else ""
            )
            cells += [shown, f"{row['bytes'] / whole:.2f}"]
            parts.append(f"| {' | '.join(cells)} |")
        parts.append("\n| rounding left out, simulated | SQNR, dB |\n|---|---:|")
        parts += [f"| {part} | {value:.1f} |" for part, value in subject["sources"].items()]
        parts.append("\n| what is gained, inputs compared one by one | dB |\n|---|---:|")
        gains = {f"gptq: {way}": gain for way, gain in subject["gptq_gain_db"].items()}
        if "trained_gain_db" in subject:
            gains["training under rounding"] = subject["trained_gain_db"]
        for what, gain in gains.items():
            low, high = gain["interval"]
            parts.append(f"| {what} | {gain['value']:+.2f} ({low:+.2f} … {high:+.2f}) |")
        parts.append("")
    return "\n".join([*parts, f"{latency.processor()}, {THREADS} threads; 95% intervals.\n", TRIED])


def bars(found: Mapping[str, Any]) -> dict[str, float]:
    """The figures that are held to a limit."""
    autos = [subject["rows"][AUTO] for subject in found.values()]
    values = {
        "int8_auto_over_float": max(row[f"batch {batch}"]["ratio"] for row in autos for batch in BATCHES),
        "int8_auto_sqnr_db": min(row["sqnr_db"] for row in autos),
    }
    if "cifar10" in found:
        row = found["cifar10"]["rows"][INT8]
        values["int8_cifar10_over_float"] = max(row[f"batch {batch}"]["ratio"] for batch in BATCHES)
    if "digits" in found:
        row = found["digits"]["rows"][INT8]
        values["int8_digits_psnr_db"] = row["psnr_db"]
        values["int8_digits_bytes"] = row["bytes"] / found["digits"]["rows"][FLOAT]["bytes"]
        values["int8_trained_gain_db"] = found["digits"]["trained_gain_db"]["interval"][0]
    return values


def main() -> None:
    """Measure, write the table, hold the bars."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.int8", description=__doc__)
    parser.add_argument(
        "--subjects", nargs="*", choices=list(SUBJECTS), default=list(SUBJECTS), help="only these models"
    )
    asked = parser.parse_args()
    found: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
    for name in asked.subjects:
        found[name] = measure(name)
        write_json(RESULT, found)
        write_text(RESULT.with_suffix(".md"), table(found))
    print(table(found))
    finish(bars({name: found[name] for name in asked.subjects}))


if __name__ == "__main__":
    main()
