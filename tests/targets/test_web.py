"""The page draws, in a real browser, what the runtime draws."""

import base64
import dataclasses
import functools
import hashlib
import io
import json
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from tokenizers import Tokenizer

from compress import targets
from compress.errors import TargetError
from compress.files import cache_folder
from compress.judge.quality import sqnr
from compress.passes import export_onnx
from compress.pipeline.pipeline import parts
from compress.runtime import Bundle
from compress.targets import browser, web
from compress.targets.made import Exported
from compress.targets.needs import Needs
from tests.command import compress
from tests.conftest import CLASS_CONFIG, TEXT_CONFIG, make_context, make_denoiser, write_recipe
from tests.families.unet.configs import INPAINTING
from tests.runtime.test_standalone import SPECIAL, TOKENIZER, TOKENS, TRICKY
from tests.text_to_image import apply, save_pipeline, save_pixart

EXPORTED = Path(__file__).parents[2] / "exported"
KEPT = cache_folder()  # between runs of the suite: onnxruntime-web is 33 MB
DIGIT = Needs([], {}, (1, 16, 16), 10**6, True)
# kernels of WASM round otherwise than those of x86, 20 evaluations with guidance one after the other; 34 and 36 seen
INT8_DB, FLOAT_DB = 28, 60
PRESSED = """(async () => {
  const until = async (what) => { while (!what()) await new Promise((done) => setTimeout(done, 20)); };
  const button = document.querySelector("button");
  await until(() => !button.disabled);
  document.querySelector("[name=class][value='7']").click();
  button.click();
  await until(() => document.querySelector("canvas") || document.querySelector(".fault"));
  const { data } = document.querySelector("canvas").getContext("2d").getImageData(0, 0, 16, 16);
  return { said: document.querySelector("figcaption").textContent, spread: Math.max(...data) - Math.min(...data) };
})()"""


def absent(why: str) -> NoReturn:
    pytest.skip(f"no page is drawn: {why}")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Browser and onnxruntime-web are at hand."""
    if not any(map(shutil.which, browser.NAMES)):
        absent(f"none of {', '.join(browser.NAMES)} is installed")
    monkeypatch.setenv("COMPRESS_CACHE", str(KEPT))
    try:
        web.prepare(DIGIT)
    except TargetError as error:
        absent(str(error))


def drawn(folder: Path, noise: np.ndarray, **asked: Any) -> np.ndarray:
    found = browser.evaluate(
        folder, f"draw({noise.ravel().tolist()}, {json.dumps(asked)}).then((one) => [...one.data])"
    )
    assert "error" not in found, found
    return np.array(found["value"], np.float32)


def noise_for(bundle: Bundle, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, *bundle.sample_shape), dtype=np.float32)


@pytest.mark.parametrize("name", ["digits-flagship", "digits-edge"])  # in one graph; step by step, guided
def test_a_bundle_becomes_a_page_by_one_command(name: str, engine: None, tmp_path: Path) -> None:
    done = compress("web", EXPORTED / name, "--out", "new/page", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    bundle, folder = Bundle(EXPORTED / name / "onnx"), tmp_path / "new" / "page"
    assert (folder / "denoiser.onnx").exists() == (name == "digits-edge"), "what is not read is not there"
    sampling = bundle.sample if name == "digits-edge" else bundle.sample_at_once
    noise = noise_for(bundle)
    wanted = sampling(noise, class_labels=np.array([7]))
    assert sqnr(wanted.ravel(), drawn(folder, noise, **{"class": 7})) > INT8_DB
    assert sqnr(sampling(noise, class_labels=np.array([1])), wanted) < 20


def test_a_press_of_the_button_shows_a_picture(engine: None, tmp_path: Path) -> None:
    web.write(Exported(Bundle(EXPORTED / "digits-flagship" / "onnx")), tmp_path)
    found = browser.evaluate(tmp_path, PRESSED)["value"]
    assert found["said"].startswith("class 7, seed 0 · 2 steps, ") and found["spread"] > 200


def test_float_files_draw_the_same_in_any_number_of_steps(engine: None, tmp_path: Path) -> None:
    config = export_onnx.Config(targets=("onnxruntime", "web"), external_data=True, batch=2, sampler=True)
    model = make_denoiser(CLASS_CONFIG)
    model = dataclasses.replace(model, sampling=model.sampling.model_copy(update={"others": ((999, 400),)}))
    done = export_onnx.run(model, config, make_context(model, tmp_path))
    assert done.notes["web"]["sqnr_db"] > FLOAT_DB and done.notes["web"]["seconds"] > 0
    folder, noise = tmp_path / "files" / "web", noise_for(done.model)
    assert (folder / "weights.bin").is_file() and (folder / "sampler.bin").is_file()
    wanted = done.model.at_steps(2).sample(np.repeat(noise, 2, axis=0), class_labels=np.array([4, 4]))[0]
    assert sqnr(wanted.ravel(), drawn(folder, noise, **{"class": 4, "steps": 2})) > FLOAT_DB


@pytest.mark.parametrize("sampler", [False, True])
def test_a_page_reads_prompts(sampler: bool, engine: None, tmp_path: Path) -> None:
    save_pipeline(tmp_path)
    export = {"targets": ["onnxruntime", "web"], "sampler": sampler}
    out = apply(tmp_path, [{"export_onnx": export}], guidance={"scale": 2.0})
    bundle, noise = Bundle(out / "onnx"), noise_for(Bundle(out / "onnx"))
    assert bundle.text is not None
    prompt = "a b c d e f"  # longer than the encoder takes
    wanted = bundle.pixels(bundle.sample(noise, **bundle.text.encode([prompt])))
    assert sqnr(wanted.ravel(), drawn(out / "web", noise, prompt=prompt)) > FLOAT_DB
    assert (out / "web" / "unet").exists() != sampler, "what is not read is not there"
    foreseen = Needs.of_model(make_denoiser(TEXT_CONFIG), parts(str(tmp_path / "teacher"), None))
    found = Needs.of_bundle(bundle)
    assert foreseen.conditions == found.conditions == [] and foreseen.encoders == found.encoders
    assert [*foreseen.pixels] == [*found.pixels] == [3, 16, 16]


def test_tokens_are_those_of_the_library(engine: None, tmp_path: Path) -> None:
    for file in (TOKENIZER, *(Path(web.__file__).with_name(name) for name in ("index.html", "page.js"))):
        shutil.copyfile(file, tmp_path / file.name)
    known = Tokenizer.from_file(str(TOKENIZER))
    end = known.token_to_id("<|endoftext|>")
    known.enable_truncation(TOKENS)
    known.enable_padding(length=TOKENS, pad_id=end, pad_token="<|endoftext|>")
    texts = [
        "",
        "flat, red apple",
        "it's 2 o'clock!!",
        "a " * 40,
        TRICKY,
        *TRICKY,
        TRICKY[::-1],
        "".join(SPECIAL),
        "<|endoftext|>a<|StartOfText|><|endoftext|> b",
        "\u1e9b\u0323 x\u3000y",
    ]
    about = {"tokens": TOKENS, "pad": end}
    asked = f"fetch('tokenizer.json').then((one) => one.json()).then((one) => {json.dumps(texts)}.map(tokenizer(one, "
    found = browser.evaluate(tmp_path, f"{asked}{json.dumps(about)})))")["value"]
    assert dict(zip(texts, found, strict=True)) == {text: known.encode(text).ids for text in texts}


def test_without_a_browser_nothing_is_claimed(engine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser, "NAMES", ("no-such-browser",))
    for _ in range(2):  # what is there is replaced
        found = targets.write("web", Exported(Bundle(EXPORTED / "digits-flagship" / "onnx")), tmp_path / "web")
    assert found == {"run": "converted, not run: none of no-such-browser is installed"}
    assert (tmp_path / "web" / "index.html").is_file()


def test_another_picture_is_refused(engine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle(EXPORTED / "digits-flagship" / "onnx")
    other = np.random.default_rng(1).standard_normal(256).tolist()
    monkeypatch.setattr(web, "evaluate", lambda *_: {"value": {"data": other, "seconds": 1.0}})
    with pytest.raises(TargetError, match=r"another picture than the runtime: .* dB SQNR, at least 20 expected"):
        targets.write("web", Exported(bundle), tmp_path / "web")
    monkeypatch.setattr(web, "evaluate", lambda *_: {"error": "Error: no kernel"})
    with pytest.raises(TargetError, match="cannot draw: Error: no kernel"):
        targets.write("web", Exported(bundle), tmp_path / "web")
    assert [*tmp_path.iterdir()] == [], "nothing is left half-written"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"encoders": {"text_encoder": ["input_ids", "attention_mask"]}}, "text_encoder is T5"),
        ({"conditions": ["mask", "masked_image_latents"]}, "is given mask, masked_image_latents"),
        ({"pixels": (2, 64)}, r"draws \[2, 64\]"),
        ({"pixels": (4, 8, 8)}, r"draws \[4, 8, 8\]"),
        ({"bytes": 3 * 2**30}, "has 3,221,225,472 bytes, and a browser holds at most 2,147,483,648"),
    ],
)
def test_what_no_page_can_draw_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(TargetError, match=f"{said}.*leave `web` out of the targets"):
        web.prepare(dataclasses.replace(DIGIT, **changed))


def test_a_plan_refuses_it_before_anything_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_onnx, "to_onnx", lambda *_, **__: pytest.fail("exported"))
    monkeypatch.setattr(export_onnx, "LARGE", 0)
    model = make_denoiser(INPAINTING)
    with pytest.raises(TargetError, match="is given encoder_hidden_states, mask, masked_image_latents"):
        export_onnx.forecast(model, export_onnx.Config(targets=("web",)), make_context(model, tmp_path))
    needs = Needs.of_model(model, parts(str(save_pixart(tmp_path / "pixart")), None))
    assert needs.encoders == {"text_encoder": ["input_ids", "attention_mask"]}


def test_targets_are_those_of_the_table(tmp_path: Path) -> None:
    _, one = export_onnx.Config.model_json_schema()["properties"]["targets"]["anyOf"]
    known = one["enum"]
    assert known == ["onnxruntime", *targets.TARGETS]
    text = 'name: one\ncheckpoint: "."\npasses:\n- export_onnx: {targets: [onnxruntime, browser]}\n'
    done = compress("apply", write_recipe(tmp_path, text), folder=tmp_path)
    assert done.returncode == 2
    assert (
        "export_onnx.targets.1: should be 'onnxruntime', 'web', 'openvino', 'npu' or 'npu_int8'; got 'browser'"
        in done.stderr
    )


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], str]]:
    """registry(package) serves it; its URL. The cache is empty."""
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "registry"
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(SimpleHTTPRequestHandler, directory=str(root)))

    def serve(package: bytes) -> str:
        file = root / "onnxruntime-web" / "-" / f"onnxruntime-web-{web.VERSION}.tgz"
        file.parent.mkdir(parents=True)
        file.write_bytes(package)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    with server:
        yield serve
        if root.exists():
            server.shutdown()


def test_the_runtime_is_fetched_once_from_where_npm_would(
    registry: Callable[[bytes], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, packed = sorted({**web.WASM, **web.WEBGPU}.values()), io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as package:
        for name in names:
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(name)
            package.addfile(entry, io.BytesIO(name.encode()))
    integrity = base64.b64encode(hashlib.sha512(packed.getvalue()).digest()).decode()
    monkeypatch.setattr(web, "INTEGRITY", integrity)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("npm_config_registry", raising=False)
    (tmp_path / ".npmrc").write_text(f"fund=false\nregistry={registry(packed.getvalue())}/\n")
    web.prepare(DIGIT)
    kept = tmp_path / "cache" / f"onnxruntime-web-{web.VERSION}"
    assert {file.name: file.read_text() for file in kept.iterdir()} == {name: name for name in names}
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:1")
    web.prepare(DIGIT)


def test_a_registry_that_gives_another_package_or_none(
    registry: Callable[[bytes], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("npm_config_registry", "http://user:password@127.0.0.1:1")
    with pytest.raises(
        TargetError, match=r"^http://127\.0\.0\.1:1/\S+\.tgz: cannot be fetched: .* name another registry"
    ):
        web.prepare(DIGIT)
    monkeypatch.setenv("npm_config_registry", registry(b"something else"))
    with pytest.raises(TargetError, match=r"is not onnxruntime-web 1\.30\.0: SHA-512 \S+, expected q0y\+"):
        web.prepare(DIGIT)
    assert not (tmp_path / "cache").exists()
