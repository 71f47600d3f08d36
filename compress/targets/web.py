"""The browser: a folder that any static server can serve, with a page that draws by onnxruntime-web.

The page needs no network but its own folder. onnxruntime-web is fetched once from the registry that npm is told of.
"""

import base64
import hashlib
import http.client
import io
import json
import os
import re
import shutil
import tarfile
import urllib.request
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import numpy as np

from compress.errors import TargetError
from compress.files import cache_folder, copy, write_atomically, write_json
from compress.judge.quality import sqnr
from compress.runtime.contents import graphs
from compress.runtime.engine import Engine
from compress.runtime.external import external_files
from compress.runtime.schemes import SCHEMES
from compress.runtime.texts import IDS
from compress.targets.browser import NoBrowser, evaluate
from compress.targets.made import Exported
from compress.targets.needs import Needs

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
INTEGRITY = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="  # SHA-512
REGISTRY = "https://registry.npmjs.org"
WASM = {"ort.wasm.js": "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm"}
WEBGPU = {
    "ort.webgpu.js": "ort.webgpu.bundle.min.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm": "ort-wasm-simd-threaded.asyncify.wasm",
}  # names in the folder, since many servers do not know .mjs for a script, → in the package
ON_CPU = ("int8",)  # schemes of whose kernels WebGPU has none
MOST = 2**31  # bytes of weights: the engine's memory ends at 4 GiB and holds a graph and what it makes of it
SECONDS = 60  # without an answer of the registry
PROMPT = "a red apple"  # that a check draws, as class 0 or this

engine: Engine | None = None  # the page is no bundle


def prepare(needs: Needs) -> None:
    """As `compress.targets` says. Raises TargetError."""
    others = [name for name, inputs in needs.encoders.items() if list(inputs) != [IDS]]
    why = ""
    if others:
        why = f"{', '.join(others)} is T5, and the page reads texts for CLIP alone"
    elif needs.conditions:
        why = f"it is given {', '.join(needs.conditions)}, and the page asks for a class or a prompt alone"
    elif len(needs.pixels) != 3 or needs.pixels[0] not in (1, 3):
        why = f"it draws {list(needs.pixels)}, and the page shows pictures of 1 or 3 channels"
    elif needs.bytes > MOST:
        why = f"it has {needs.bytes:,} bytes, and a browser holds at most {MOST:,}"
    if why:
        raise TargetError(f"web: the page cannot draw by this model: {why}; leave `web` out of the targets")
    for name in {**WASM, **WEBGPU}.values():
        _runtime(name)


def write(made: Exported, folder: Path) -> None:
    """The page, those files of the bundle that it reads, and the runtime."""
    bundle, about = made.bundle, made.bundle.manifest
    read = [name for name in graphs(about) if name != (about.get("encoder") or {}).get("model")]
    if about.get("sampler") and not bundle.sampling.get("others"):
        read = [about["sampler"]]  # nothing is drawn step by step
    beside = {name: sorted(external_files(bundle.path / name)) for name in read}
    needed = [*read, *(str(PurePosixPath(name).parent / file) for name, files in beside.items() for file in files)]
    needed += [one["tokenizer"] for one in (about.get("text") or {"encoders": {}})["encoders"].values()]
    needed += [name for name in bundle.guidance.get("null", {}).values() if isinstance(name, str)]
    for name in dict.fromkeys([*needed, "bundle.json"]):
        (folder / name).parent.mkdir(exist_ok=True)
        copy(bundle.path / name, folder / name)
    gpu = about["scheme"] not in ON_CPU
    for own, name in (WASM | (WEBGPU if gpu else {})).items():
        copy(_runtime(name), folder / own)
    for name in ("index.html", "page.js"):
        shutil.copyfile(Path(__file__).with_name(name), folder / name)
    sessions = {name: dict(row.session) for name, row in SCHEMES.items()}
    told = {"webgpu": gpu, "bytes": bundle.size_bytes, "beside": beside, "sessions": sessions}
    write_json(folder / "page.json", told)


def judge(made: Exported, folder: Path) -> Mapping[str, Any]:
    """One picture in Chromium, held against the runtime's. Raises TargetError."""
    bundle = made.bundle
    noise = np.random.default_rng(0).standard_normal((1, *bundle.sample_shape), dtype=np.float32)
    rows = np.repeat(noise, bundle.batch or 1, axis=0)
    given = {"class_labels": np.zeros(len(rows), np.int64)} if "class_labels" in bundle.conditions else {}
    texts = [PROMPT] * len(rows)
    if bundle.manifest.get("sampler"):
        (wanted, *_) = bundle.sample_at_once(rows, **given, **(bundle.text.tokens(texts) if bundle.text else {}))
    else:
        (wanted, *_) = bundle.pixels(bundle.sample(rows, **given, **(bundle.text.encode(texts) if bundle.text else {})))
    drawing = f"draw({noise.ravel().tolist()}, {json.dumps({'class': 0, 'prompt': PROMPT})})"
    try:
        found = evaluate(folder, f"{drawing}.then(({{data, seconds}}) => ({{data: [...data], seconds}}))")
    except NoBrowser as error:
        return {"run": f"converted, not run: {error}"}
    if "error" in found:
        raise TargetError(f"web: the page cannot draw: {found['error']}; please report it and the browser")
    drawn = np.array(found["value"]["data"], np.float32)
    agreement, least = sqnr(wanted.ravel(), drawn), SCHEMES[bundle.manifest["scheme"]].least_sampler_db
    if not agreement >= least:
        raise TargetError(
            f"web: the page draws another picture than the runtime: {agreement:.1f} dB SQNR, at least {least:.0f} "
            "expected; please report the model's config and the browser"
        )
    return {"sqnr_db": round(agreement, 2), "seconds": round(found["value"]["seconds"], 4)}


def _runtime(name: str) -> Path:
    """A file of onnxruntime-web in the cache, fetched unless it is there. Raises TargetError."""
    kept = cache_folder() / f"{PACKAGE}-{VERSION}"
    if not (kept / name).is_file():
        with tarfile.open(fileobj=io.BytesIO(_fetched())) as package:
            for one in {**WASM, **WEBGPU}.values():
                content = cast(IO[bytes], package.extractfile(f"package/dist/{one}")).read()
                write_atomically(kept / one, partial(Path.write_bytes, data=content))
    return kept / name


def _fetched() -> bytes:
    """The package, as its hash says. Raises TargetError."""
    place = f"{_registry().rstrip('/')}/{PACKAGE}/-/{PACKAGE}-{VERSION}.tgz"
    advice = "name another registry by npm_config_registry, or leave `web` out of the targets"
    try:
        with urllib.request.urlopen(place, timeout=SECONDS) as answer:
            content: bytes = answer.read()
    except (OSError, ValueError, http.client.HTTPException) as error:  # of no URL, no host, no file
        raise TargetError(f"{place}: cannot be fetched: {error}; {advice}") from None
    found = base64.b64encode(hashlib.sha512(content).digest()).decode()
    if found != INTEGRITY:
        raise TargetError(f"{place}: is not {PACKAGE} {VERSION}: SHA-512 {found}, expected {INTEGRITY}; {advice}")
    return content


def _registry() -> str:
    """As npm has it: of the environment, or of ~/.npmrc; without a name and a password, which would be shown."""
    named = {name.lower(): value for name, value in os.environ.items()}.get("npm_config_registry")
    file = Path.home() / ".npmrc"
    found = re.search(r"^registry\s*=\s*(\S+)", file.read_text("utf-8"), re.M) if file.is_file() else None
    return re.sub("//[^/]*@", "//", named or (found[1] if found else REGISTRY))
