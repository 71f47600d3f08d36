"""Quantized models beside their float selves."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from pydantic import ValidationError

from compress.errors import PassError
from compress.judge.quality import sqnr
from compress.measure.kernels import Pair
from compress.model.denoiser import Denoiser, predict
from compress.passes import export_onnx, quantize
from compress.pipeline import checkpoint
from compress.quantization import four_bits, quantizer, rounding
from compress.quantization import quantized as quantize_models
from compress.quantization.calibration import answers, trajectory_points
from compress.randomness import Draw
from compress.runtime.engines import ONNXRUNTIME
from tests.conftest import CLASS_CONFIG, TEXT_CONFIG, assert_close_db, inputs_for, make_context, make_denoiser
from tests.families.dit.models import transformer


def quantized(model: Denoiser, folder: Path, **settings: object):  # type: ignore[no-untyped-def]
    config = quantize.Config.model_validate({"samples": 8, "evaluations": 48, **settings})
    return quantize.run(model, config, make_context(model, folder)).model


def points_of(
    model: Denoiser, folder: Path, samples: int = 8, evaluations: int = 48, draw: Draw = Draw.CALIBRATION
) -> list[torch.Tensor]:
    context = make_context(model, folder)
    return trajectory_points(model, samples, evaluations, context.seed, context.dataset, draw)


@pytest.mark.parametrize(("scheme", "least"), [("fp16", 50), ("int8_weights", 35), ("int8", 20)])
def test_stays_near_the_float_model_and_exports(scheme: str, least: float, tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    result = quantized(model, tmp_path, scheme=scheme, least_attention_width=0)
    sample, timestep, conditions = inputs_for(model)
    timestep = torch.full_like(timestep, 749)
    with torch.no_grad():
        wanted = predict(model, sample, timestep, conditions).numpy()
        assert_close_db(wanted, predict(result, sample, timestep, conditions).numpy(), least)
    bundle = export_onnx.run(result, export_onnx.Config(), make_context(model, tmp_path)).model
    got = bundle.denoise(sample.numpy(), 749, {name: value.numpy() for name, value in conditions.items()})
    assert_close_db(wanted, got, least)
    assert bundle.manifest["scheme"] == scheme
    checkpoint.save(result, tmp_path / "saved")
    loaded = checkpoint.load(tmp_path / "saved")
    with torch.no_grad():
        outputs = [predict(m, sample, timestep, conditions).numpy() for m in (result, loaded)]
    np.testing.assert_array_equal(*outputs)


BLOCK, MIDDLE = "transformer_blocks.0", "mid_block.attentions.0.transformer_blocks.0.attn1"


def unet() -> Denoiser:
    return make_denoiser(CLASS_CONFIG)


def text_unet() -> Denoiser:
    return make_denoiser(TEXT_CONFIG)


@torch.no_grad()
def _large(net: torch.nn.Module, paths: Sequence[str], factor: float) -> None:
    for parameter in (parameter for path in paths for parameter in net.get_submodule(path).parameters()):
        parameter.mul_(factor)


@pytest.mark.parametrize(
    ("make", "grown", "factor", "named"),
    [
        # what a norm follows on, whose mean square alone would not fit either
        (unet, ["down_blocks.0.resnets.0.conv1"], 3e5, "down_blocks.0.resnets.0.conv1"),
        # a sum of what fits
        (unet, ["up_blocks.1.resnets.1.conv2", "up_blocks.1.resnets.1.conv_shortcut"], 3e4, "up_blocks.1.resnets.1"),
        # scores of attention: queries and keys fit
        (transformer, [f"{BLOCK}.attn1.to_q", f"{BLOCK}.attn1.to_k"], 2e3, f"{BLOCK}.attn1"),
        (text_unet, [f"{MIDDLE}.to_q", f"{MIDDLE}.to_k"], 1e3, MIDDLE),
    ],
    ids=["layer", "sum", "scores", "scores in one node"],
)
def test_half_precision_keeps_in_float_what_is_beyond_it(
    make: Callable[[], Denoiser], grown: Sequence[str], factor: float, named: str, tmp_path: Path
) -> None:
    model = make()
    _large(model.net, grown, factor)
    said: list[str] = []
    context = dataclasses.replace(make_context(model, tmp_path), log=said.append)
    result = quantize.run(model, quantize.Config(scheme="fp16", samples=8, evaluations=48), context)
    kept = result.notes["float_layers"]
    assert named in kept and len(kept) < 8, kept
    assert all(f" {path}" in said[0] for path in kept) and "float16 ends at 65,504" in said[0]
    points = points_of(model, tmp_path)
    wanted, found = (answers(one, points).numpy() for one in (model, result.model))
    assert_close_db(wanted, found, 40)
    bundle = export_onnx.run(result.model, export_onnx.Config(), make_context(model, tmp_path)).model
    given = dict(zip(model.inputs, (value.numpy() for value in points[2:]), strict=True))
    assert_close_db(wanted, bundle.denoise(points[0].numpy(), points[1].numpy(), given), 40)
    checkpoint.save(result.model, tmp_path / "saved")
    np.testing.assert_array_equal(found, answers(checkpoint.load(tmp_path / "saved"), points).numpy())
    if make is text_unet:  # PyTorch sums these scores in float32, within one kernel; devices need not
        return
    spoilt = answers(quantize_models.rebuild(model, "fp16", {}), points).numpy()
    assert not np.isfinite(spoilt).all() or sqnr(wanted, spoilt) < 20


def test_weights_alone_become_float_when_the_session_opens(tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    result = quantized(model, tmp_path, scheme="int8_weights")
    path = export_onnx.run(result, export_onnx.Config(batch=1), make_context(model, tmp_path)).model.path
    assert "QuantizeLinear" not in [node.op_type for node in onnx.load(path / "denoiser.onnx").graph.node]
    kept = {}
    for scheme in ("float", "int8_weights"):
        options = ONNXRUNTIME.options(1, scheme)
        options.optimized_model_filepath = str(tmp_path / f"{scheme}.onnx")
        onnxruntime.InferenceSession(path / "denoiser.onnx", options, providers=["CPUExecutionProvider"])
        kept[scheme] = [node.op_type for node in onnx.load(tmp_path / f"{scheme}.onnx").graph.node]
    assert "DequantizeLinear" in kept["float"] and "DequantizeLinear" not in kept["int8_weights"]


def test_linear_layers_of_transformers_take_four_bits(tmp_path: Path) -> None:
    model = make_denoiser({**TEXT_CONFIG, "block_out_channels": [32, 64]})
    sizes, last = {}, None
    for scheme in ("int8_weights", "int4_weights"):
        last = quantized(model, tmp_path / scheme, scheme=scheme)
        path = export_onnx.run(last, export_onnx.Config(batch=1), make_context(model, tmp_path / scheme)).model.path
        graph = onnx.load(path / "denoiser.onnx").graph
        sizes[scheme] = (path / "denoiser.onnx").stat().st_size
    kinds = [tensor.data_type for tensor in graph.initializer]
    paths = four_bits.layers(model, ())
    assert kinds.count(onnx.TensorProto.INT4) == len(paths) > 10
    assert not [path for path in paths if "attn2.to_k" in path or "attn2.to_v" in path], "texts have 12 numbers a token"
    assert sizes["int4_weights"] < sizes["int8_weights"]
    sample, timestep, conditions = inputs_for(model)
    checkpoint.save(last, tmp_path / "saved")
    with torch.no_grad():
        wanted, ours, again = (
            predict(each, sample, timestep, conditions).numpy()
            for each in (model, last, checkpoint.load(tmp_path / "saved"))
        )
    assert_close_db(wanted, ours, 15)
    np.testing.assert_array_equal(ours, again)
    assert 0 < len(four_bits.layers(model, ("*.ff.*",))) < len(paths)
    with pytest.raises(PassError, match="no transformer whose linear layers take a multiple of 32 inputs"):
        quantized(make_denoiser(CLASS_CONFIG), tmp_path, scheme="int4_weights")


@pytest.mark.parametrize(("scheme", "least"), [("int8_weights", 1.0), ("int4_weights", 1.0), ("int8", -0.5)])
def test_rounding_by_gptq_is_more_exact(scheme: str, least: float, tmp_path: Path) -> None:
    """Where activations are rounded as well, which costs more, the gain drowns in a net as small as this."""
    four = scheme == "int4_weights"
    model = make_denoiser({**TEXT_CONFIG, "block_out_channels": [32, 64]} if four else CLASS_CONFIG)
    nearest, ours = (quantized(model, tmp_path / way, scheme=scheme, rounding=way) for way in ("nearest", "gptq"))
    points = points_of(model, tmp_path, draw=Draw.QAT)
    checkpoint.save(ours, tmp_path / "saved")
    with torch.no_grad():
        each = (model, nearest, ours, checkpoint.load(tmp_path / "saved"))
        wanted, plain, found, again = (one.module(*points).numpy() for one in each)
    assert sqnr(wanted, found) > sqnr(wanted, plain) + least
    np.testing.assert_array_equal(found, again)
    bundle = export_onnx.run(ours, export_onnx.Config(batch=1), make_context(model, tmp_path)).model
    if four:
        stored = [tensor.data_type for tensor in onnx.load(bundle.path / "denoiser.onnx").graph.initializer]
        assert stored.count(onnx.TensorProto.INT4) == len(four_bits.layers(model, ()))
    sample, timestep, *conditions = (value[:8].numpy() for value in points)
    got = bundle.denoise(sample, timestep, dict(zip(model.inputs, conditions, strict=True)))
    assert_close_db(found[:8], got, 25 if scheme == "int8" else 80)


def test_weights_are_rounded_in_groups_that_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_denoiser(CLASS_CONFIG)
    points = points_of(model, tmp_path)
    monkeypatch.setattr(rounding, "PLACES", 10_000)  # all: no draw depends on the groups
    found = []
    for held in (2**30, 1):
        monkeypatch.setattr(rounding, "MOMENTS_BYTES", held)
        work = quantize._Work("int8", ("conv_*",), quantize.Config(), make_context(model, tmp_path), points)
        found.append(work.rounded(model).net)
    groups = rounding._groups({"a": 10, "b": 10, "c": 11})
    assert groups == [["a"], ["b"], ["c"]]
    monkeypatch.setattr(rounding, "MOMENTS_BYTES", 4 * 200)
    assert rounding._groups({"a": 10, "b": 10, "c": 11}) == [["a", "b"], ["c"]]
    for (path, one), other, before in zip(
        found[0].state_dict().items(), found[1].state_dict().values(), model.net.state_dict().values(), strict=True
    ):
        assert (one == other).float().mean() > 0.98, "sums in another order move a weight here and there"
        if path in ("conv_in.weight", "conv_out.weight") or path.endswith("bias"):
            assert torch.equal(one, before)


@pytest.mark.parametrize("given", [{"scheme": "fp16"}, {"scheme": "int8", "qat": {}}])
def test_rounding_is_refused_where_nothing_uses_it(given: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValidationError, match="rounding: gptq: leave it away with"):
        quantize.Config.model_validate({**given, "rounding": "gptq"})


def test_ranges_that_clip_nothing_stay_near_the_float_model(tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    results = [quantized(model, tmp_path / name, observer=name) for name in ("mse", "minmax")]
    points = points_of(model, tmp_path, draw=Draw.QAT)
    with torch.no_grad():
        wanted, mse, other = (m.module(*points).numpy() for m in (model, *results))
    assert_close_db(wanted, other, 20)
    assert not np.array_equal(mse, other)


def test_attention_in_int8_leaves_no_float_weights_in_the_file(tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    result = quantized(model, tmp_path, least_attention_width=0)
    path = export_onnx.run(result, export_onnx.Config(batch=1), make_context(model, tmp_path)).model.path
    graph = onnx.load(path / "denoiser.onnx").graph
    floats = [t for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) > 1]
    kept = [m.weight.numel() for path, m in model.net.named_modules() if quantizer.matches(path, ENDS)]
    assert sum(int(np.prod(t.dims)) for t in floats) <= sum(kept) + 11 * 32  # and the table of labels
    dequantized = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    products = [node for node in graph.node if node.op_type == "Conv" and node.input[1] in dequantized]
    heads = sum(path.endswith("to_q") for path, _ in model.net.named_modules())
    assert sum(len(graph_shape(graph, node.input[1])) == 3 for node in products) == heads > 0


ENDS = ("conv_in", "conv_out", "class_embedding")


def graph_shape(graph: onnx.GraphProto, weight: str) -> list[int]:
    """Of what a value was dequantized from."""
    source = next(node.input[0] for node in graph.node if weight in node.output)
    return next(list(tensor.dims) for tensor in graph.initializer if tensor.name == source)


QAT = {"steps": 30, "batch_size": 52, "samples": 16, "evaluations": 320, "learning_rate": 1e-4}


def test_training_under_rounding_brings_int8_nearer_to_the_float_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantizer, "SECOND", 7)  # so coarse that training has much to mend
    model = make_denoiser(CLASS_CONFIG)
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    static = quantized(model, tmp_path / "static", least_attention_width=0)
    aware = quantized(model, tmp_path / "aware", least_attention_width=0, qat=QAT)
    points = points_of(model, tmp_path, draw=Draw.QAT)
    with torch.no_grad():
        wanted, *got = (m.module(*points) for m in (model, static, aware))
    errors = [float((one - wanted).square().mean()) for one in got]
    assert errors[1] < 0.6 * errors[0], errors
    assert all(torch.equal(value, before[name]) for name, value in model.net.state_dict().items()), "the input is kept"
    checkpoint.save(aware, tmp_path / "saved")
    with torch.no_grad():
        np.testing.assert_array_equal(checkpoint.load(tmp_path / "saved").module(*points), got[1])


def test_rounding_in_training_is_that_of_the_quantized_model(tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    context = make_context(model, tmp_path)
    points = points_of(model, tmp_path)
    converted = quantize.quantized_at(model, quantize.Config(least_attention_width=0), context, points).model
    made = converted.precision
    rounded = quantize_models.fake_quantized(model, made.scheme, made.ranges, made.float_layers)
    with torch.no_grad():
        wanted, in_training, in_use = (m.module(*points) for m in (model, rounded, converted))
    assert_close_db(in_use.numpy(), in_training.numpy(), 45)
    assert float((in_training - wanted).square().mean()) > 30 * float((in_training - in_use).square().mean())


def test_training_is_for_int8_alone() -> None:
    with pytest.raises(ValidationError, match="qat: trains for int8"):
        quantize.Config.model_validate({"scheme": "fp16", "qat": {}})


def test_float_layers_stay_float_in_the_file(tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    counts = {}
    for name, layers in (("few", ["conv_in", "conv_out"]), ("many", ["conv_in", "conv_out", "*.resnets.*"])):
        result = quantized(model, tmp_path / name, float_layers=layers)
        bundle = export_onnx.run(result, export_onnx.Config(batch=1), make_context(model, tmp_path / name)).model
        graph = onnx.load(bundle.path / "denoiser.onnx").graph
        counts[name] = sum(tensor.data_type == onnx.TensorProto.INT8 for tensor in graph.initializer)
    assert 0 < counts["many"] < counts["few"]


def test_pairs_of_products_fit_in_16_bits(tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    shipped = quantized(model, tmp_path)
    bundle = export_onnx.run(shipped, export_onnx.Config(batch=1), make_context(model, tmp_path)).model
    graph = onnx.load(bundle.path / "denoiser.onnx").graph
    tensors = [t for t in graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1]
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in tensors]
    largest = max(int(np.abs(weight.astype(int)).max()) for weight in weights)
    assert largest > 32 and 2 * 255 * largest < 2**15


def test_attention_stays_float_by_the_names_of_its_layers(tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    layers = [path for path, layer in model.net.named_modules() if isinstance(layer, kinds)]
    config = quantize.Config(samples=4, evaluations=8, float_layers=tuple(layers))  # all that has a name
    result = quantize.run(model, config, make_context(model, tmp_path))
    assert result.notes["observers"] == 0
    sample, timestep, conditions = inputs_for(model)
    with torch.no_grad():
        wanted, got = (predict(m, sample, timestep, conditions).numpy() for m in (model, result.model))
    assert_close_db(wanted, got, 100)


def test_attention_multiplies_uint8_and_int8(tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    shipped = quantized(model, tmp_path)
    bundle = export_onnx.run(shipped, export_onnx.Config(batch=1), make_context(model, tmp_path)).model
    options = ONNXRUNTIME.options(1, "int8")
    options.optimized_model_filepath = str(tmp_path / "run.onnx")
    onnxruntime.InferenceSession(bundle.path / "denoiser.onnx", options, providers=["CPUExecutionProvider"])
    graph = onnx.load(tmp_path / "run.onnx").graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for kind, zero_points in (("MatMulIntegerToFloat", (4, 5)), ("QLinearMatMul", (2, 5))):  # scores; sums of values
        found = [tuple(types[node.input[i]] for i in zero_points) for node in graph.node if node.op_type == kind]
        pairs = [(onnx.TensorProto.UINT8, onnx.TensorProto.INT8)] * len(found)
        assert found == pairs and found, kind


def test_calibration_meets_every_own_timestep_with_and_without_condition(tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    _, timestep, labels = points_of(model, tmp_path)
    assert set(timestep.tolist()) == set(model.sampling.timesteps)
    assert (labels == 10).sum() == 24
    assert set(labels[labels != 10].tolist()) <= set(range(8))


def timed(monkeypatch: pytest.MonkeyPatch, whole: float = 2.0, slow: str = "none") -> None:
    """int8 saves a millisecond a layer, but for `slow`; the whole net is `whole` times as fast."""

    def layers(model: Denoiser, paths: list[str], *_: object) -> dict[str, Pair]:
        return {
            path: Pair(1.0, 2.0, 0.5, (0.5, 0.5)) if path == slow else Pair(2.0, 1.0, 2.0, (2, 2)) for path in paths
        }

    monkeypatch.setattr(quantize.kernels, "layer_times", layers)
    times = {"float": np.full(10, whole), "mixed": np.ones(10)}
    monkeypatch.setattr(quantize.kernels, "whole_times", lambda *_: times)


def test_auto_leaves_what_int8_makes_slower_in_float(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_denoiser(CLASS_CONFIG)
    slow = "down_blocks.0.resnets.0.conv1"
    timed(monkeypatch, slow=slow)
    config = quantize.Config(scheme="auto", samples=4, evaluations=24, least_sqnr=5.0, least_attention_width=0)
    result = quantize.run(model, config, make_context(model, tmp_path))
    layers = result.notes["layers"]
    assert {name for name, layer in layers.items() if layer["arithmetic"] == "float"} == {slow}
    assert layers[slow]["reason"] == "int8 is not faster"
    assert "down_blocks.1.attentions.0.*" in layers, "an attention is decided as a whole"
    bundle = export_onnx.run(result.model, export_onnx.Config(batch=1), make_context(model, tmp_path)).model
    initializers = onnx.load(bundle.path / "denoiser.onnx").graph.initializer
    weights = {tuple(t.dims) for t in initializers if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) == 4}
    assert tuple(model.net.get_submodule(slow).weight.shape) in weights


def test_auto_finds_the_layer_that_ruins_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_denoiser(CLASS_CONFIG)
    bad = model.net.get_submodule("up_blocks.1.resnets.0.conv1")
    with torch.no_grad():  # one input channel a thousand times as strong, and weights that undo it
        norm = model.net.get_submodule("up_blocks.1.resnets.0.norm1")
        norm.weight[0] *= 300
        bad.weight[:, 0] /= 300
    timed(monkeypatch)
    settings = {"samples": 4, "evaluations": 24, "least_attention_width": 0}
    config = quantize.Config(scheme="auto", least_sqnr=18.0, **settings)
    result = quantize.run(model, config, make_context(model, tmp_path))
    floats = [name for name, layer in result.notes["layers"].items() if layer["arithmetic"] == "float"]
    assert "up_blocks.1.resnets.0.conv1" in floats and len(floats) <= 3, floats
    plain = quantize.run(model, quantize.Config(**settings), make_context(model, tmp_path)).model
    points = points_of(model, tmp_path, 4, 24)
    with torch.no_grad():
        wanted, mixed, all_int8 = (m.module(*points) for m in (model, result.model, plain))
    errors = [float((got - wanted).square().sum() / wanted.square().sum()) for got in (mixed, all_int8)]
    assert errors[0] < 10 ** (-17.5 / 10) < errors[1], errors
    assert result.notes["sqnr_db"]["all"] == pytest.approx(-10 * np.log10(errors[0]), abs=0.01)
    assert set(result.notes["sqnr_db"]) == {"all", *map(str, model.sampling.timesteps)}


def test_auto_is_float_where_the_net_is_no_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_denoiser(CLASS_CONFIG)
    timed(monkeypatch, whole=0.9)
    config = quantize.Config(scheme="auto", samples=4, evaluations=8)
    result = quantize.run(model, config, make_context(model, tmp_path))
    assert result.notes["int8_layers"] == 0
    assert all(layer["reason"] == "the whole net is not faster with int8" for layer in result.notes["layers"].values())
    sample, timestep, conditions = inputs_for(model)
    with torch.no_grad():
        wanted, got = (predict(m, sample, timestep, conditions).numpy() for m in (model, result.model))
    assert_close_db(wanted, got, 100)


def test_settings_of_auto_are_for_auto() -> None:
    with pytest.raises(ValidationError, match="least_sqnr: only for scheme: auto"):
        quantize.Config.model_validate({"least_sqnr": 20})


def test_narrow_attention_stays_float_where_weights_alone_are_quantized(tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    result = quantized(model, tmp_path, scheme="int8_weights", least_attention_width=33)
    patterns = [f"{path}.*" for path in model.family.attention(model.net)]
    assert result.precision.float_layers == ("conv_in", "conv_out", *sorted(patterns))
