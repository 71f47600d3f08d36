"""Draw a picture from the bundle that this file lies in; needs numpy and onnxruntime alone.

    python sample.py picture.png --prompt "flat, red apple" --seed 1
    python sample.py picture.png --class 3

For all else that a bundle can, and to have its files checked: pip install compress-diffusion, and compress sample.
"""

import argparse
import json
import runpy
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

HERE = Path(__file__).resolve().parent
SESSIONS = {  # onnxruntime's options with which a scheme runs as it was judged
    "int8": {"optimization.disable_specified_optimizers": "NhwcTransformer", "session.qdqisint8allowed": "1"},
    **{name: {"session.disable_quant_qdq": "1"} for name in ("int8_weights", "int4_weights", "w8a16", "w8a8")},
}


def opened(name: str, scheme: str, batch: int = 1) -> Callable[..., list[np.ndarray]]:
    """A graph of the bundle: takes arrays [1,…] by name, gives such. batch: that it was exported for."""
    options = onnxruntime.SessionOptions()
    for key, value in SESSIONS.get(scheme, {}).items():
        options.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(str(HERE / name), options, providers=["CPUExecutionProvider"])
    kinds = {i.name: "f4" if i.type == "tensor(float)" else "i8" for i in session.get_inputs()}

    def run(**given: np.ndarray) -> list[np.ndarray]:
        feeds = {name: np.repeat(given[name].astype(kind), batch, 0) for name, kind in kinds.items()}
        return [output[:1] for output in session.run(None, feeds)]

    return run


def encoded(text: str, bundle: dict[str, Any]) -> dict[str, np.ndarray]:
    """Conditions [1,…] of a text, by name."""
    token_ids = runpy.run_path(str(HERE / "tokens.py"))["token_ids"]
    about, found = bundle["text"], dict[str, np.ndarray]()
    for name, encoder in about["encoders"].items():
        states = opened(encoder["model"], encoder["scheme"])(input_ids=token_ids(text, encoder))
        found |= {f"{name}.{output}": value for output, value in zip(encoder["outputs"], states, strict=True)}
    _, height, width = bundle["decoder"]["pixels"] if bundle.get("decoder") else bundle["inputs"]["sample"]["shape"][1:]
    known = {"height": height, "width": width, "aspect": height / width}
    made = {name: np.array([[known.get(n, n) for n in numbers]]) for name, numbers in about["told"].items()}
    for name, rows in about["made"].items():  # one after the other along the tokens; a number: as many that are 0
        parts = [np.zeros((1, r, 0)) if isinstance(r, int) else np.concatenate([found[k] for k in r], -1) for r in rows]
        width = max(about["width"], *(part.shape[-1] for part in parts)) if parts[0].ndim == 3 else parts[0].shape[-1]
        made[name] = np.concatenate([np.pad(p, [(0, 0)] * (p.ndim - 1) + [(0, width - p.shape[-1])]) for p in parts], 1)
    return made


def sampled(bundle: dict[str, Any], asked: argparse.Namespace) -> np.ndarray:
    """A picture [c,h,w], or what else the net makes: every solver is a table of the numbers in bundle.json."""
    net, sampling = opened(bundle["model"], bundle["scheme"], bundle["batch"] or 1), bundle["sampling"]
    guidance, null = sampling["guidance"], {}
    given = {"class_labels": np.array([asked.label])} | (dict(np.load(asked.given)) if asked.given else {})
    given |= encoded(asked.prompt, bundle) if bundle.get("text") else {}
    if guidance["kind"] == "cfg":
        null = {k: np.array([v if isinstance(v, int) else np.load(HERE / v)]) for k, v in guidance["null"].items()}
        said = {} if asked.negative_prompt is None else encoded(asked.negative_prompt, bundle)
        null |= {name: value for name, value in said.items() if name in null}
    scale = np.float32(guidance["scale"] if asked.guidance_scale is None else asked.guidance_scale)
    size = bundle["inputs"]["sample"]["shape"][1:]
    sample = np.random.default_rng(asked.seed).standard_normal((1, *size), dtype=np.float32)
    before = earlier = np.zeros_like(sample)
    for step in sampling["steps"]:
        given |= {"sample": sample, "timestep": np.array([step["timestep"]])}
        given |= {"guidance_scale": np.array([scale]), "steps": np.array([len(sampling["steps"])])}
        (output,) = net(**given)
        if null:
            (other,) = net(**{**given, **null})
            output = other + scale * (output - other)
        clean = step["clean_from_sample"] * sample + step["clean_from_output"] * output
        limit = sampling["clip_range"]
        clean = clean if limit is None else clean.clip(-limit, limit)
        sample = step["next_from_sample"] * sample + step["next_from_clean"] * clean
        sample = sample + step.get("next_from_previous", 0) * before + step.get("next_from_earlier", 0) * earlier
        before, earlier = clean, before
    if about := bundle.get("decoder"):
        latents = sample / np.float32(about["scale"]) + np.float32(about["shift"])
        (sample,) = opened(about["model"], about["scheme"])(latent_sample=latents)
    return np.asarray(sample[0])


def png(image: np.ndarray) -> bytes:
    """The file of a picture [1 or 3,h,w] in [-1, 1]. ISO/IEC 15948."""
    pixels = ((image + 1) * 127.5).clip(0, 255).round().astype(np.uint8).transpose(1, 2, 0)
    head = struct.pack(">IIBBBBB", *pixels.shape[1::-1], 8, {1: 0, 3: 2}[len(image)], 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))
    chunks = [b"IHDR" + head, b"IDAT" + rows, b"IEND"]
    packed = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="picture to write (PNG), or .npy of what is none")
    parser.add_argument("--prompt", default="")
    parser.add_argument("--negative-prompt")
    parser.add_argument("--class", dest="label", type=int, default=0)
    parser.add_argument("--given", help=".npz with other conditions [1,…], by name")
    parser.add_argument("--guidance-scale", type=float)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    drawn = sampled(json.loads((HERE / "bundle.json").read_text("utf-8")), asked)
    if asked.out.suffix == ".npy":
        np.save(asked.out, drawn)
    else:
        asked.out.write_bytes(png(drawn))
