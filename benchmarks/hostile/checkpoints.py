"""Model folders: configs, weights and the files beside them, each with what it cannot hold."""

import json
import math
import os
import pickle
import random
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.hostile import good, values
from benchmarks.hostile.case import Case, Lay, after, pipe
from compress.diffusion.schedulers import SamplingOptions, from_scheduler_config

BOTH = (("plan", "recipe.yaml"), ("apply", "recipe.yaml", "--output", "out"))
TRUSTING = tuple((*command, "--allow-pickle") for command in BOTH)
CONFIG, WEIGHTS, SCHEDULER = "unet/config.json", f"unet/{good.WEIGHTS}", "scheduler/scheduler_config.json"
INDEX = f"{WEIGHTS}.index.json"
PICKLE = "unet/diffusion_pytorch_model.bin"
LAYER = "conv_in.weight"
FILES = (CONFIG, WEIGHTS, SCHEDULER, INDEX, "structure.json", "sampling.json", "null_embedding.safetensors")
Tensors = dict[str, torch.Tensor]


def of(name: str, change: Lay, recipe: Mapping[str, Any] | None = None, **expected: Any) -> Case:
    """The good checkpoint, changed, under the recipe that prunes it."""
    commands = expected.pop("commands", BOTH)

    def lay(folder: Path) -> None:
        good.checkpoint(folder / "model")
        good.write_recipe(folder, good.recipe() if recipe is None else recipe)
        change(folder / "model")

    return Case(name, lay, commands, **expected)


def of_json(file: str, changes: Mapping[str, Any], **expected: Any) -> Case:
    """One of its JSON files with other values."""

    def change(model: Path) -> None:
        content = json.loads((model / file).read_text(encoding="utf-8")) if (model / file).is_file() else {}
        good.write(model / file, {**content, **changes})

    shown = ", ".join(f"{key}: {str(value)[:40]}" for key, value in changes.items())
    return of(f"{Path(file).name} {shown}", change, **expected)


def of_file(file: str, content: str | bytes, **expected: Any) -> Case:
    """One of its files replaced."""

    def change(model: Path) -> None:
        (model / file).parent.mkdir(exist_ok=True)
        (model / file).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))

    return of(f"{Path(file).name} {content[:30]!r}", change, **expected)


def of_pipe(file: str, **expected: Any) -> Case:
    """A named pipe in place of a file."""
    return of(f"{Path(file).name} is a pipe", lambda model: pipe(model / file), mentions=(Path(file).name,), **expected)


def of_folder(file: str) -> Case:
    """A folder in place of a file."""

    def change(model: Path) -> None:
        (model / file).unlink()
        (model / file).mkdir()

    return of(f"{Path(file).name} is a folder", change)


def of_weights(name: str, change: Callable[[Tensors], Any], **expected: Any) -> Case:
    """Its tensors changed in place."""

    def rewrite(model: Path) -> None:
        tensors = dict(good.weights())
        change(tensors)
        save_file(tensors, model / WEIGHTS)

    return of(f"weights: {name}", rewrite, **expected)


def of_pickle(name: str, content: Any, trusted: bool = True, **expected: Any) -> Case:
    """A pickle in place of its weights."""

    def change(model: Path) -> None:
        (model / WEIGHTS).unlink()
        if isinstance(content, bytes):
            (model / PICKLE).write_bytes(content)
        else:
            torch.save(content() if callable(content) else content, model / PICKLE)

    return of(f"pickle: {name}", change, commands=TRUSTING if trusted else BOTH, **expected)


def of_sampling(changes: Mapping[str, Any], **expected: Any) -> Case:
    """A sampling.json as a pass would have written it, changed."""
    sampling = from_scheduler_config(good.SCHEDULER, SamplingOptions(steps=4)).model_dump(mode="json")
    for place, value in changes.items():
        sampling = values.put(sampling, tuple(place.split(".")), value)
    shown = ", ".join(f"{key}: {str(value)[:40]}" for key, value in changes.items())
    recipe = {key: value for key, value in good.recipe().items() if key != "sampling"}
    return of(f"sampling.json {shown}", lambda model: good.write(model / "sampling.json", sampling), recipe, **expected)


def header(content: Mapping[str, Any], data: bytes = b"\0" * 64) -> bytes:
    """A safetensors file with this header."""
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + data


def replaced(name: str, tensor: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], None]:
    """One tensor changed."""

    def change(tensors: Tensors) -> None:
        tensors[name] = tensor(tensors[name]).contiguous()

    return change


def filled(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """One number of a tensor changed."""

    def fill(tensor: torch.Tensor) -> torch.Tensor:
        found = tensor.clone()
        found.view(-1)[0] = value
        return found

    return fill


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch pwned",)


def _quantized() -> Tensors:
    return {**good.weights(), LAYER: torch.quantize_per_tensor(good.weights()[LAYER], 0.1, 0, torch.qint8)}


def _torchscript(model: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Identity(), torch.zeros(1)), model.parent / "classifier.pt")


def _move(source: str, target: str) -> Lay:
    def change(model: Path) -> None:
        (model / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(model / source, model / target)

    return change


def _loop(model: Path) -> None:
    (model / WEIGHTS).unlink()
    (model / WEIGHTS).symlink_to(model / WEIGHTS)


def _shards(model: Path) -> None:
    """Two files and an index of them, as diffusers writes large models."""
    (model / WEIGHTS).unlink()
    names = sorted(good.weights())
    halves = {f"diffusion_pytorch_model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, half in halves.items():
        save_file({name: good.weights()[name] for name in half}, model / "unet" / file)
    good.write(model / INDEX, {"metadata": {}, "weight_map": {n: file for file, half in halves.items() for n in half}})


def _lora(model: Path) -> None:
    weights = {"unet.down_blocks.0.resnets.0.conv1.lora.down.weight": torch.zeros(4, 16, 3, 3)}
    save_file(weights, model / "pytorch_lora_weights.safetensors")


def _transformer(model: Path) -> None:
    shutil.rmtree(model / "unet")
    good.write(model / "transformer" / "config.json", {"_class_name": "DiTTransformer2DModel"})


def _single_file(model: Path) -> None:
    shutil.copy(model / WEIGHTS, model.parent / "single.safetensors")


def _shapes(channels: tuple[int, int], kind: str = "class") -> Lay:
    """Another number of channels in and out."""

    def change(model: Path) -> None:
        config = {**good.CONFIG, "in_channels": channels[0], "out_channels": channels[1]}
        from compress.families import FAMILIES

        shutil.rmtree(model)
        good.checkpoint(model, config, tensors=FAMILIES["UNet2DModel"].build(config).state_dict())

    return change


GUIDED = good.recipe(guidance={"scale": 2, "classifier": "classifier.pt"}, passes=[good.PRUNE])

# What the fields of a config cannot be.
BAD_CONFIG: dict[str, tuple[Any, ...]] = {
    "sample_size": (None, "8", -1, 7, 10**9, 0, 1.5, True, [], [8], [8, -8], [8, 8, 8], {}),
    "in_channels": (None, "1", -1, 0, 10**9, 1.5, [], [1]),
    "out_channels": (None, "1", -1, 0, 10**9, 1.5, [], [1]),
    "block_out_channels": (None, "x", 16, [], [0, 0], [-16, 32], [16], [16, 10**9], ["16", "32"], [15, 31]),
    "layers_per_block": (None, "1", -1, 0, 2000, 10**9, 1.5, [], [1, 1]),
    "down_block_types": (None, "x", [], ["x", "y"], ["DownBlock2D"], [1, 2], [None, None], 5),
    "up_block_types": (None, "x", [], ["x", "y"], ["UpBlock2D"], [1, 2], 5),
    "attention_head_dim": (-1, 0, "8", 1.5, 7, 10**9, []),
    "norm_num_groups": (-1, 0, "4", 7, 1.5, 10**9, []),
    "norm_eps": (None, "x", [], -1, math.nan),
    "downsample_padding": (None, 100, -1, "1", 10**9, 1.5),
    "freq_shift": (None, "x", [], math.nan, 8),
    "act_fn": (None, "x", 5, []),
    "time_embedding_type": ("x", 5, "fourier"),
    "num_class_embeds": (-1, 0, 7, 10**12, "11", 1.5, []),
    "class_embed_type": ("x", 5, []),
    "mid_block_scale_factor": (0, "x", [], math.nan),
    "_class_name": (None, "x", 5, [], "DiTTransformer2DModel", "UNet2DConditionModel"),
    "dropout": (-1, 2, "x", []),
    "resnet_time_scale_shift": ("x", 5),
}
BAD_SCHEDULER: dict[str, tuple[Any, ...]] = {
    "_class_name": (None, "x", 5, "LCMScheduler"),
    "num_train_timesteps": (None, 0, -1, 1, 10**9, "1000", 1.5, [], True),
    "beta_start": (None, -0.1, 1.5, "x", [], math.nan, math.inf, True),
    "beta_end": (None, -0.1, 1.5, "x", [], math.nan, math.inf, True),
    "beta_schedule": (None, "x", 5, []),
    "trained_betas": ([0.1], [], "x", 5, [2.0] * 1000, [-0.1] * 1000, ["x"] * 1000, [math.nan] * 1000, [[0.1]] * 1000),
    "prediction_type": (None, "x", 5, []),
    "clip_sample": ("x", 5, []),
    "clip_sample_range": (-1, "x", [], 0),
    "steps_offset": (-1, "x", [], 10**9, 1.5),
    "timestep_spacing": ("x", 5, []),
    "rescale_betas_zero_snr": ("x", 5, []),
    "set_alpha_to_one": ("x", []),
    "thresholding": (True, "x", 5),
}
CLIPPING = {"clip_sample": True}  # without which its range is not read
BAD_SAMPLING: tuple[dict[str, Any], ...] = (
    {"guidance": {"kind": "cfg", "scale": 2.0}},
    {"guidance": {"kind": "cfg", "scale": 2.0, "null_class": 99}},
    {"guidance": {"kind": "cfg", "scale": 2.0, "null_class": -1}},
    {"guidance": {"kind": "cfg", "scale": math.nan, "null_class": 10}},
    {"guidance": {"kind": "x"}},
    {"guidance": None},
    {"guidance": 5},
    {"guidance.scal": 5},
    {"num_train_timesteps": 10**9},
    {"num_train_timesteps": True},
    {"beta_start": -0.1},
    {"beta_end": 1.5},
    {"trained_betas": [0.1, 0.1]},
    {"trained_betas": [2.0] * 1000},
    {"timesteps": []},
    {"timesteps": [1, 2]},
    {"timesteps": [1000]},
    {"timesteps": [-1]},
    {"timesteps": "x"},
    {"timesteps": [True]},
    {"timestep": [5]},
    {"prediction_type": "x"},
    {"solver": "x"},
    {"final": 5},
    {"clip_range": -1},
    {"clip_range": math.nan},
    {"others": [[1, 2]]},
    {"others": 5},
    {"distilled": "x"},
    {"beta_schedule": None},
)
BAD_STRUCTURE: tuple[dict[str, Any], ...] = (
    {"edits": 5},
    {"edits": {"nowhere": {"kind": "shortcut"}}},
    {"edits": {"mid_block": 5}},
    {"edits": {"mid_block": {"kind": "x"}}},
    {"edits": {"mid_block": {"kind": []}}},
    {"edits": {"conv_in": {"kind": "low_rank", "rank": -1}}},
    {"edits": {"conv_in": {"kind": "low_rank", "rank": 10**12}}},
    {"edits": {"": {"kind": "passthrough"}}},
    {"shapes": {LAYER: [2**30, 2**30, 2**30, 2**30]}},
    {"shapes": {LAYER: [True, True, True, True]}},
    {"shapes": {LAYER: [16, 1, 3]}},
    {"shapes": {LAYER: "x"}},
    {"shapes": {"nowhere": [1]}},
    {"shapes": []},
    {"attributes": {"": {"forward": 1}}},
    {"attributes": {"nowhere": {"x": 1}}},
    {"attributes": {"conv_in": 5}},
    {"attributes": 5},
    {"kept": 5},
    {"kept": {"x": ["y"]}},
    {"kept": {"down_blocks.0": list(range(17))}},
    {"kept": {"down_blocks.0": [True]}},
    {"quantization": 5},
    {"quantization": {"scheme": "x"}},
    {"quantization": {"scheme": "int8"}},
    {"quantization": {"scheme": [], "float_layers": 5}},
    {"unknown": {}},
)
TENSORS: dict[str, Case] = {
    name: of_weights(name, change)
    for name, change in {
        "float64 that is infinite in float32": replaced(LAYER, lambda t: filled(1e300)(t.double())),
        "integers": replaced(LAYER, lambda t: t.int()),
        "bytes": replaced(LAYER, lambda t: t.to(torch.uint8)),
        "booleans": replaced(LAYER, lambda t: t > 0),
        "complex numbers": replaced(LAYER, lambda t: t.to(torch.complex64)),
        "fp8": replaced(LAYER, lambda t: t.to(torch.float8_e4m3fn)),
        "fp8 of the other kind": replaced(LAYER, lambda t: t.to(torch.float8_e5m2)),
        "NaN": replaced(LAYER, filled(math.nan)),
        "infinity": replaced("conv_out.bias", filled(-math.inf)),
        "another shape": replaced(LAYER, lambda t: t[:8]),
        "another rank": replaced(LAYER, lambda t: t[..., 0]),
        "an empty tensor": replaced(LAYER, lambda t: t[:0]),
        "a scalar": replaced("conv_out.bias", lambda t: t.sum()),
        "one missing": lambda tensors: tensors.pop(LAYER),
        "all missing": lambda tensors: tensors.clear(),
        "one too many": lambda tensors: tensors.update(other=torch.zeros(1)),
        "one misnamed": lambda tensors: tensors.update(conv_inn=tensors.pop(LAYER)),
    }.items()
}
PICKLES: dict[str, Case] = {
    "pickle without trust": of_pickle(
        "without trust", lambda: dict(good.weights()), False, mentions=("--allow-pickle",)
    ),
    "pickle that runs code": of_pickle("runs code", pickle.dumps({LAYER: Trap()})),
    "pickle in torch's file that runs code": of_pickle("runs code", lambda: {LAYER: Trap()}),
    "pickle, nested": of_pickle("nested", lambda: {"state_dict": dict(good.weights())}),
    "pickle, on the meta device": of_pickle("meta", lambda: {n: t.to("meta") for n, t in good.weights().items()}),
    "pickle, quantized": of_pickle("quantized", _quantized),
    "pickle, sparse": of_pickle("sparse", lambda: {n: t.to_sparse() for n, t in good.weights().items()}),
    "pickle, integer keys": of_pickle("integer keys", lambda: dict(enumerate(good.weights().values()))),
    "pickle, a list": of_pickle("list", lambda: list(good.weights().values())),
    "pickle, a number": of_pickle("number", 5),
    "pickle, empty": of_pickle("empty", b""),
    "pickle, truncated": of_pickle("truncated", b"PK\x03\x04" + b"\0" * 50),
    "pickle, no pickle": of_pickle("text", b"hello"),
    "pickle, NaN": of_pickle("NaN", lambda: {**good.weights(), LAYER: filled(math.nan)(good.weights()[LAYER])}),
    "pickle, integers": of_pickle("integers", lambda: {**good.weights(), LAYER: good.weights()[LAYER].int()}),
    "pickle, good": of_pickle("good", lambda: dict(good.weights()), valid=True),
}
SAFETENSORS: dict[str, bytes] = {
    "empty": b"",
    "short": b"\1\2\3",
    "no header": struct.pack("<Q", 2**60) + b"{}",
    "a header that is no JSON": struct.pack("<Q", 8) + b"{{{{{{{{",
    "a nested header": struct.pack("<Q", 40_000) + values.nested(20_000).encode(),
    "a file without tensors": header({}),
    "a tensor beyond its end": header({LAYER: {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
    "offsets that lie": header({LAYER: {"dtype": "F32", "shape": [4], "data_offsets": [0, 64]}}),
    "negative offsets": header({LAYER: {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}}),
    "an unknown type": header({LAYER: {"dtype": "X9", "shape": [16], "data_offsets": [0, 64]}}),
    "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1234\n",
}
BAD_INDEX: tuple[Any, ...] = (
    {},
    {"weight_map": None},
    {"weight_map": 5},
    {"weight_map": []},
    {"weight_map": {}},
    {"weight_map": {LAYER: 5}},
    {"weight_map": {LAYER: "nowhere.safetensors"}},
    {"weight_map": {LAYER: "../../outside.safetensors"}},
    {"weight_map": {LAYER: "/etc/passwd"}},
    {"weight_map": {LAYER: "a\0b"}},
    {"weight_map": {LAYER: "x" * 5000}},
    {"weight_map": {LAYER: ".."}},
    {"weight_map": {LAYER: ""}},
    [],
)

NAMED: dict[str, Case] = {
    **{
        f"config {key}: {str(value)[:30]}": of_json(CONFIG, {key: value})
        for key, found in BAD_CONFIG.items()
        for value in found
    },
    **{
        f"scheduler {key}: {str(value)[:30]}": of_json(
            SCHEDULER,
            {**(CLIPPING if key == "clip_sample_range" else {}), key: value},
            mentions=("scheduler_config.json",),
        )
        for key, found in BAD_SCHEDULER.items()
        for value in found
    },
    **{f"sampling {str(changes)[:80]}": of_sampling(changes, mentions=("sampling.json",)) for changes in BAD_SAMPLING},
    **{
        f"structure {str(changes)[:80]}": of_json("structure.json", changes, mentions=("structure.json",))
        for changes in BAD_STRUCTURE
    },
    **TENSORS,
    **PICKLES,
    **{f"safetensors: {name}": of_file(WEIGHTS, content) for name, content in SAFETENSORS.items()},
    "safetensors: truncated": of("truncated", lambda model: os.truncate(model / WEIGHTS, 2000)),
    **{f"index {str(content)[:60]}": of_file(INDEX, json.dumps(content)) for content in BAD_INDEX},
    **{f"{file} is a named pipe": of_pipe(file) for file in FILES},
    **{
        f"{file} nested 100,000 deep": of_file(file, values.nested(100_000, "mapping"), mentions=(Path(file).name,))
        for file in (CONFIG, SCHEDULER, INDEX, "structure.json", "sampling.json")
    },
    **{f"{file} is no JSON": of_file(file, "{") for file in (CONFIG, SCHEDULER, INDEX, "structure.json")},
    **{f"{file} is empty": of_file(file, "") for file in (CONFIG, SCHEDULER, INDEX, "sampling.json")},
    "config of 5,000 digits": of_file(CONFIG, json.dumps(good.CONFIG)[:-1] + ', "sample_size": ' + "9" * 5000 + "}"),
    "config with NaN": of_file(CONFIG, json.dumps(good.CONFIG)[:-1] + ', "norm_eps": NaN}'),
    "config as a list": of_file(CONFIG, "[]"),
    "config in Latin-1": of_file(CONFIG, b'{"a": "\xe9"}'),
    "config with half a surrogate pair": of_file(CONFIG, '{"_class_name": "\\ud800"}'),
    "scheduler: misspelt": of_json(SCHEDULER, {"predicton_type": "epsilon"}, valid=None, mentions=("prediction_type",)),
    "folder without a net": of("no net", lambda model: shutil.rmtree(model / "unet")),
    "folder without weights": of("no weights", lambda model: (model / WEIGHTS).unlink()),
    "folder without a config": of("no config", lambda model: (model / CONFIG).unlink()),
    "folder without a scheduler": of("no scheduler", lambda model: shutil.rmtree(model / "scheduler")),
    **{f"{file} is a folder": of_folder(file) for file in (CONFIG, WEIGHTS, SCHEDULER)},
    "weights link to themselves": of("a loop", _loop),
    "a LoRA beside": of("LoRA", _lora, mentions=("LoRA", "pytorch_lora_weights")),
    "a transformer": of("transformer/", _transformer, mentions=("transformer",)),
    "a single file": of(
        "single file", _single_file, good.recipe(checkpoint="single.safetensors"), mentions=("single",)
    ),
    "a bundle as checkpoint": of("bundle", after(shutil.rmtree, good.bundle), mentions=("model",)),
    "TorchScript without trust": of("TorchScript", _torchscript, GUIDED, mentions=("--allow-pickle",)),
    "learned variance": of("1 → 2 channels", _shapes((1, 2)), valid=True),
    "inpainting": of("9 → 4 channels", _shapes((9, 4)), valid=True),
    "upscaling": of("7 → 4 channels", _shapes((7, 4)), valid=True),
    "labels as channels": of("5 → 1 channels", _shapes((5, 1)), valid=True),
    # what is right
    "a good checkpoint": of("good", lambda model: None, valid=True),
    "a good sampling.json": of_sampling({}, valid=True),
    "a good scheduler": of_json(SCHEDULER, {"beta_end": 0.01, "clip_sample": True}, valid=True),
    "good weights in half precision": of_weights(
        "half", lambda tensors: tensors.update({n: t.half() for n, t in tensors.items()}), valid=True
    ),
    "good weights in float64": of_weights(
        "double", lambda tensors: tensors.update({n: t.double() for n, t in tensors.items()}), valid=True
    ),
    "a good folder without unet/": of(
        "flat",
        after(_move(CONFIG, "config.json"), _move(WEIGHTS, good.WEIGHTS), lambda m: (m / "unet").rmdir()),
        valid=True,
    ),
    "good shards": of("shards", _shards, valid=True),
}


def draw(choose: random.Random) -> Case:
    """A field of one of its JSON files that is something else, a tensor that is, bytes that fell over, or none."""
    return choose.choice((_field, _field, _field, _tensor, _tensor, _bytes, _good, _named))(choose)


def _named(choose: random.Random) -> Case:
    return NAMED[choose.choice(sorted(NAMED))]


def _good(choose: random.Random) -> Case:
    changes: dict[str, Any] = {
        "beta_end": choose.choice((0.01, 0.012, 0.02)),
        "beta_schedule": choose.choice(("linear", "scaled_linear", "squaredcos_cap_v2")),
        "timestep_spacing": choose.choice(("leading", "trailing", "linspace")),
        "prediction_type": choose.choice(("epsilon", "sample", "v_prediction")),
        "clip_sample": choose.choice((True, False)),
    }
    return of_json(SCHEDULER, changes, valid=True)


def _field(choose: random.Random) -> Case:
    """Any value of any field: it is refused, or it means something."""
    file = choose.choice((CONFIG, SCHEDULER, "sampling.json"))
    sampling = from_scheduler_config(good.SCHEDULER, SamplingOptions(steps=4)).model_dump(mode="json")
    content = {CONFIG: good.CONFIG, SCHEDULER: good.SCHEDULER, "sampling.json": sampling}[file]
    place = choose.choice(list(values.places(content)))
    pool: tuple[Any, ...] = (
        None,
        "",
        "x",
        -1,
        0,
        7,
        10**9,
        -(10**30),
        1e300,
        math.nan,
        math.inf,
        True,
        [],
        [-1],
        [10**9],
        {},
        [[1]],
    )
    value = choose.choice(pool)
    changed = values.put(content, place, value)
    name = f"{Path(file).name} {'.'.join(map(str, place))}: {value!r}"
    return of(name, lambda model: good.write(model / file, changed), valid=None)


def _tensor(choose: random.Random) -> Case:
    name = choose.choice(sorted(good.weights()))
    changes: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "NaN": filled(math.nan),
        "infinity": filled(math.inf),
        "too large": lambda tensor: filled(1e39)(tensor.double()),
        "integers": lambda tensor: tensor.long(),
        "bytes": lambda tensor: tensor.to(torch.int8),
        "booleans": lambda tensor: tensor > 0,
        "complex": lambda tensor: tensor.to(torch.complex64),
        "fp8": lambda tensor: tensor.to(torch.float8_e4m3fn),
        "longer": lambda tensor: torch.cat([tensor, tensor]),
        "of another rank": lambda tensor: tensor[None],
    }
    what = choose.choice(sorted(changes))
    return of_weights(f"{name}: {what}", replaced(name, changes[what]), mentions=(name,))


def _bytes(choose: random.Random) -> Case:
    """A file cut short, or with bytes turned: it is refused, or it is as good as before (a byte within a weight)."""
    file = choose.choice((CONFIG, WEIGHTS, SCHEDULER))
    cut = choose.random() < 0.5
    places = [choose.random() ** 4 for _ in range(choose.choice((1, 3, 10)))]
    byte = choose.randrange(256)

    def change(model: Path) -> None:
        content = bytearray((model / file).read_bytes())
        if cut:
            del content[int(places[0] * len(content)) :]
        for place in () if cut else places:
            content[int(place * len(content))] = byte
        (model / file).write_bytes(content)

    return of(
        f"{Path(file).name}, {'cut' if cut else 'turned'} at {places[0]:.2f}", change, valid=False if cut else None
    )
