"""`python -m benchmarks.clients`: other people's pipelines draw from our bundles, from the same noise as our runtime.

The bundle's folder is handed to optimum's ORTStableDiffusionPipeline as it is, and to OpenVINO GenAI's
Text2ImagePipeline after its own conversion, each in an environment of its own. Both sample by diffusers' scheduler in
the folder.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peer_process import cache_folder, environment
from compress import engine, terminal
from compress.files import write_json, write_text
from compress.recipe.inputs import Options
from compress.recipe.recipe import read
from compress.runtime import Bundle

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "clients.json"
WORKER = Path(__file__).with_name("client_worker.py")
TORCH = "torch>=2.9,<2.14"
CLIENTS = {
    # optimum-onnx 0.1 needs what is older than our own; left to itself pip looks for it for minutes
    "optimum": (TORCH, "optimum-onnx[onnxruntime]==0.1.0", "diffusers==0.39.0", "transformers==4.57.6"),
    "openvino_genai": ("openvino-genai", "openvino-tokenizers", "transformers", "numpy"),
}
PASSES: dict[str, list[dict[str, Any]]] = {
    "float": [{"export_onnx": {}}],
    "int8": [{"quantize": {"samples": 8}}, {"export_onnx": {"text_encoder": "int8_weights", "decoder": "int8"}}],
}
EDGE = "exported/emoji-edge"
PROMPT, STEPS, SCALE = "flat, red apple", 10, 3.0
# PSNR in dB to our own runtime's pictures: float graphs in the same engine differ by rounding alone, pictures of eight
# bits by a last bit; int8 kernels of another engine, and of onnxruntime without our session's options, round otherwise.
LEAST = {
    "optimum": {"float": 80.0, "int8": 25.0, EDGE: 25.0},
    "openvino_genai": {"float": 45.0, "int8": 25.0, EDGE: 25.0},
}


def bundle(scheme: str, folder: Path) -> Path:
    """A committed bundle, or the emoji teacher as one."""
    if scheme not in PASSES:
        return ROOT / scheme / "onnx"
    teacher = ROOT / "benchmarks" / "teachers" / "emoji"
    content = {
        "name": "clients",
        "checkpoint": str(teacher),
        "data": {"source": "teacher", "prompts": str(teacher / "prompts.txt"), "count": 20},
        "guidance": {"scale": SCALE},
        "sampling": {"steps": STEPS},
        "passes": PASSES[scheme],
    }
    recipe = folder / f"{list(PASSES).index(scheme)}.yaml"
    recipe.write_text(json.dumps(content), encoding="utf-8")
    options = Options.on("cpu", terminal.progress, terminal.log)
    return engine.apply(read(recipe), recipe.with_suffix(""), options).output / "onnx"


def ours(path: Path, work: Path) -> np.ndarray:
    """Pictures [n,h,w,c] in [0, 1] by our runtime; what the client is asked lies in `work` then."""
    own = Bundle(path)
    text = own.text
    assert text is not None
    asked: dict[str, Any] = {"prompt": PROMPT, "steps": STEPS, "guidance_scale": SCALE}
    if own.guidance["kind"] != "cfg":
        asked["guidance_scale"] = 1.0  # as diffusers says that there is one evaluation
    noise = np.random.default_rng(0).standard_normal((2, *own.sample_shape), dtype=np.float32)
    np.save(work / "noise.npy", noise)
    write_json(work / "asked.json", asked)
    pixels = own.pixels(own.sample(noise, **text.encode([PROMPT] * len(noise))))
    return np.clip((pixels + 1) / 2, 0, 1).transpose(0, 2, 3, 1)


def main() -> None:
    """Draw by every client and write the table; ends with 1 if a picture is not ours."""
    torch.set_num_threads(2)
    rows, short = [], False
    with tempfile.TemporaryDirectory() as folder:
        for number, scheme in enumerate((*PASSES, EDGE)):
            path = bundle(scheme, Path(folder))
            for client, requirements in CLIENTS.items():
                python, versions = environment(client, requirements, cache_folder().parent / "clients")
                work = Path(folder, f"{number}-{client}")
                work.mkdir()
                wanted = ours(path, work)
                called = [str(python), str(WORKER), client, str(path), str(work)]
                done = subprocess.run(called, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(f"{client}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
                error = float(np.square(wanted - np.load(work / f"{client}.npy")).mean())
                agreement = 10 * np.log10(1 / max(error, 1e-15))
                short |= not agreement >= LEAST[client][scheme]
                named = [name for name in ("optimum-onnx", "onnxruntime", "openvino-genai") if name in versions]
                said = ", ".join(f"{name} {versions[name]}" for name in named)
                rows.append({"client": client, "versions": said, "scheme": scheme, "psnr_db": round(agreement, 1)})
                terminal.log(f"{client}, {scheme}: {agreement:.1f} dB")
    write_json(RESULTS, {"prompt": PROMPT, "steps": STEPS, "guidance_scale": SCALE, "rows": rows})
    lines = [f"| {r['client']} ({r['versions']}) | {r['scheme']} | {r['psnr_db']} |" for r in rows]
    about = [
        "`python -m benchmarks.clients`: the emoji teacher as our bundle, and the student that ships, drawn from by",
        "other pipelines, from the same noise as by our runtime.",
    ]
    head = ["| client | bundle | PSNR to our pictures, dB |", "|---|---|---:|"]
    table = ["# Other people's pipelines", "", *about, "", *head, *lines, ""]
    write_text(RESULTS.with_suffix(".md"), "\n".join(table))
    if short:
        sys.exit("a client draws something else")


if __name__ == "__main__":
    main()
