"""From prompt to pixels: a whole pipeline through recipe, bundle and command line."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, DiffusionPipeline
from PIL import Image

from compress.data import Dataset, Folder, read_prompts
from compress.diffusion.schedulers import SamplingOptions, from_scheduler_config
from compress.diffusion.solvers import SolverName
from compress.diffusion.stock_schedulers import stock_scheduler
from compress.errors import BundleError, CheckpointError, DataError, PassError, RecipeError
from compress.judge.quality import sqnr
from compress.judge.yardsticks import Yardsticks
from compress.model.reference import Drawn, silent
from compress.pipeline.manifest import sampling_of
from compress.pipeline.pipeline import Parts, decoder_of, encode, parts
from compress.recipe.recipe import read
from compress.report import report as reports
from compress.runtime import Bundle
from tests.command import compress
from tests.conftest import TEXT_CONFIG, make_denoiser, read_json, write_recipe
from tests.data.helpers import write_image
from tests.families.unet.configs import PNDM
from tests.judge.classifiers import save_classifier
from tests.runtime.test_standalone import drawn as standalone_picture
from tests.text_to_image import apply, save_clip, save_pipeline

PROMPTS = ["a b", "c", "h g"]
LONG = "a b c d e f g h"
GUIDANCE = {"scale": 2.0}
GATES = {"psnr": {"min": 1}, "bytes": {"max": 0.9}, "attribute_accuracy": {"margin": 1}}
JUDGED = {"prompts": "held_out.jsonl", "attributes": "light.onnx", "alignment": "clip", "gates": GATES}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def exported(pipeline: Path) -> Path:
    """The teacher itself as a bundle."""
    return apply(pipeline.parent, [{"export_onnx": {}}], guidance=GUIDANCE) / "onnx"


@pytest.fixture(scope="module")
def compressed(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of all that is done to a pipeline."""
    folder = tmp_path_factory.mktemp("compressed")
    shutil.copytree(pipeline, folder / "teacher")
    (folder / "prompts.txt").write_text("\n".join([*PROMPTS, "", LONG]))
    asked = [{"text": "d", "light": "dark"}, {"text": "e f", "light": "bright"}]
    (folder / "held_out.jsonl").write_text("\n".join(map(json.dumps, asked)))
    save_classifier(folder / "light.onnx")
    save_clip(folder / "clip", folder / "teacher" / "tokenizer")
    data = {"source": "teacher", "prompts": "prompts.txt", "count": 12}
    passes: list[Any] = [
        {"prune_channels": {"target": {"macs": 0.7}, "importance": "l1", "widths": "stock"}},
        {"compress_decoder": {"width": 4, "blocks": 1, "steps": 3, "batch_size": 4}},
        {"quantize": {"samples": 4, "evaluations": 16}},
        {"export_onnx": {"text_encoder": "int8_weights", "decoder": "int8", "sampler": True, "batch": 1}},
        {"verify": {"samples": 10, "rounds": 10, "starts": 0, **JUDGED}},
    ]
    return apply(folder, passes, data=data, guidance=GUIDANCE)


def drawn(folder: Path, prompts: list[str], noise: torch.Tensor, **settings: Any) -> np.ndarray:
    """Pictures [n,c,h,w] that diffusers draws."""
    made = DiffusionPipeline.from_pretrained(folder)
    made.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "np", **settings}
    images = made(prompts, latents=noise, **settings).images
    return np.asarray(images).transpose(0, 3, 1, 2) * 2 - 1


def by_bundle(bundle: Bundle, prompts: list[str], noise: torch.Tensor) -> np.ndarray:
    assert bundle.text is not None
    samples = bundle.sample(noise.numpy(), **bundle.text.encode(prompts))
    return bundle.pixels(samples).clip(-1, 1)


def test_a_bundle_draws_what_diffusers_draws(pipeline: Path, exported: Path) -> None:
    noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    bundle = Bundle(exported)
    prompts = [*PROMPTS[:2], LONG]
    wanted = drawn(pipeline, prompts, noise)
    assert wanted.shape == (3, 3, 16, 16)
    assert sqnr(wanted, by_bundle(bundle, prompts, noise)) > 60
    away = drawn(pipeline, prompts, noise, negative_prompt=["h h"] * 3)
    assert sqnr(away, by_bundle(bundle.without("h h"), prompts, noise)) > 60
    assert sqnr(away, wanted) < 40


def test_a_negative_prompt_of_the_recipe_is_what_is_left_out(pipeline: Path, tmp_path: Path) -> None:
    shutil.copytree(pipeline, tmp_path / "teacher")
    guidance = {**GUIDANCE, "negative_prompt": "h h"}
    bundle = Bundle(apply(tmp_path, [{"export_onnx": {}}], guidance=guidance) / "onnx")
    wanted = bundle.without("h h").null["encoder_hidden_states"]
    assert np.abs(bundle.null["encoder_hidden_states"] - wanted).max() < 1e-5
    assert np.abs(wanted - bundle.without("").null["encoder_hidden_states"]).max() > 0.1


def test_texts_are_cut_as_diffusers_cuts_them(pipeline: Path, exported: Path) -> None:
    text, own = Bundle(exported).text, parts(str(pipeline), None).text
    assert text is not None and own is not None
    assert text.cut([*PROMPTS, LONG]) == own.cut([*PROMPTS, LONG]) == {LONG: 5}
    (states,) = text.encode([*PROMPTS, LONG]).values()
    assert np.abs(states - own.encode([*PROMPTS, LONG])["encoder_hidden_states"].numpy()).max() < 1e-5


def test_all_that_is_compressed_is_judged_in_pixels(compressed: Path) -> None:
    report = reports.read(compressed)
    assert report.verdict == "pass"
    assert "alignment" in report.quality or "does not tell the texts" in report.unmeasured["alignment"]
    named = report.attributes["light"].metrics
    assert named["attribute_accuracy"].count == named["attribute_agreement"].count == 10
    with np.load(compressed / "passes" / "05-verify" / "files" / "samples.npz") as shown:
        dark = np.array([text == "d" for text in shown["texts"]])
        right = (shown["student"].mean(axis=(1, 2, 3)) < 0) == dark
    assert 0 < dark.sum() < 10 and named["attribute_accuracy"].value == pytest.approx(right.mean())
    with np.load(compressed / "passes" / "05-verify" / "files" / "samples.npz") as shown:
        assert shown["student"].shape == shown["teacher"].shape == (10, 3, 16, 16)
    units = {(row.side, row.engine, row.unit) for row in report.latency}
    sides = [("teacher", "PyTorch"), ("teacher", "onnxruntime"), ("student", "onnxruntime")]
    assert {(*side, unit) for side in sides for unit in ("text", "decoding", "guided call")} <= units
    single = {(row.side, row.engine, row.unit): row.ms for row in report.latency if row.batch == 1}
    image = sum(single["teacher", "PyTorch", unit] for unit in ("text", "decoding"))
    image += 2 * single["teacher", "PyTorch", "guided call"]
    assert report.teacher.ms_per_image == pytest.approx(image, rel=0.5)
    whole = single["student", "onnxruntime", "whole image"]  # one graph, from token ids to pixels
    assert report.student.ms_per_image == pytest.approx(whole, rel=0.5)
    assert report.pipeline[1].student_ms < whole
    assert [part.name for part in report.pipeline] == ["text encoder", "denoiser", "decoder"]
    for side in ("teacher", "student"):
        assert sum(getattr(part, f"{side}_bytes") for part in report.pipeline) == getattr(report, side).bytes
        total = sum(getattr(part, f"{side}_ms") for part in report.pipeline)
        assert total == pytest.approx(getattr(report, side).ms_per_image, rel=0.5)
    assert all(part.psnr is not None and part.psnr.count == 10 for part in report.pipeline)


def test_the_student_is_a_pipeline_that_diffusers_loads_and_this_package_too(compressed: Path) -> None:
    made = DiffusionPipeline.from_pretrained(compressed / "student")
    assert isinstance(made.vae, AutoencoderTiny)
    assert made.vae.config.decoder_block_out_channels == [4, 4]
    before = compressed / "passes" / "01-prune_channels" / "model" / "vae"  # its files are linked
    for file in before.iterdir():
        assert file.read_bytes() == (compressed.parent / "teacher" / "vae" / file.name).read_bytes()
    found = parts(str(compressed / "student"), None)
    assert found.decoder is not None and found.decoder.shape((4, 8, 8)) == (3, 16, 16)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    bundle = Bundle(compressed / "onnx")
    agreement = sqnr(found.decoder.decode(latents).numpy(), bundle.pixels(latents.numpy()))
    assert bundle.manifest["decoder"]["scheme"] == "int8" and 15 < agreement < 60
    assert bundle.manifest["text"]["encoders"]["text_encoder"]["scheme"] == "int8_weights"
    said = [file for file in (compressed / "onnx").rglob("*.json") if str(compressed.parent) in file.read_text()]
    assert not said, "a device is told of folders that it does not have"
    assert found.decoder.encode(torch.zeros(1, 3, 16, 16)).shape == (1, 4, 8, 8)


def test_a_prompt_draws_from_the_command_line(compressed: Path) -> None:
    folder = compressed.parent
    one = compress("sample", "out", "--prompt", "a b", "--negative-prompt", "c", "--out", "one.png", folder=folder)
    assert one.returncode == 0, one.stderr
    many = ("--prompt", "a", "--prompt", LONG, "--out", "two.npz")
    two = compress("sample", "out", *many, folder=folder)
    assert two.returncode == 0 and f"cut to 5 tokens: '{LONG}'" in two.stderr
    with np.load(folder / "two.npz") as found:
        assert found["samples"].shape == (2, 3, 16, 16)
    bare = compress("sample", "out", folder=folder)
    assert bare.returncode == 2 and "give --prompt" in bare.stderr


def test_what_no_pipeline_can_do_is_refused(pipeline: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(pipeline, teacher)
    prompts = tmp_path / "prompts.txt"
    index = read_json(teacher / "model_index.json")

    def without(**changes: Any) -> Path:
        (teacher / "model_index.json").write_text(json.dumps({**index, **changes}))
        return teacher

    t5 = {"text_encoder": ["transformers", "T5EncoderModel"]}
    two = {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}
    for changes, said in (
        (t5, "text_encoder is a T5EncoderModel, and texts are encoded by a CLIPTextModel (text_encoder) alone: give"),
        (two, "text_encoder_2 is a CLIPTextModelWithProjection, and texts are encoded by a CLIPTextModel"),
        ({"tokenizer": [None, None]}, "has a text_encoder and no tokenizer"),
        ({"text_encoder": [None, None]}, "has no text_encoder"),
    ):
        (teacher / "text_encoder_2").mkdir(exist_ok=True)
        with pytest.raises(DataError) as caught:
            encode(parts(str(without(**changes)), None), ["a"], silent, print)
        assert said in str(caught.value)
    with pytest.raises(DataError, match="the checkpoint is a net alone"):
        encode(Parts(), ["a"], silent, print)
    deep = parts(str(without(vae=["diffusers", "AutoencoderDC"])), None)
    with pytest.raises(CheckpointError, match=r"one of AutoencoderKL.*; found vae: AutoencoderDC"):
        decoder_of(dataclasses.replace(deep, folders={"vae": deep.folders["vae"]}), "compress_decoder")
    prompts.write_text(" \n\n")
    with pytest.raises(DataError, match="holds no texts; write one a line"):
        read_prompts(prompts)
    without()
    without()
    (teacher / "text_encoder" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="text_encoder or tokenizer cannot be read"):
        _ = parts(str(teacher), None).text


def test_a_decoder_is_compressed_before_export_and_where_there_is_one(pipeline: Path, tmp_path: Path) -> None:
    passes = [{"export_onnx": {}}, {"compress_decoder": {"steps": 1}}]
    content = json.dumps({"name": "late", "checkpoint": str(pipeline), "passes": passes})
    with pytest.raises(RecipeError, match="compress_decoder needs a float model or a quantized model, and after"):
        read(write_recipe(tmp_path, content))
    shutil.copytree(pipeline, tmp_path / "teacher")
    (tmp_path / "teacher" / "model_index.json").unlink()
    (tmp_path / "prompts.npz").write_bytes(b"")
    with pytest.raises(CheckpointError, match="compress_decoder: the model has no decoder"):
        apply(tmp_path, [{"compress_decoder": {"steps": 1}}])


@pytest.mark.parametrize(
    ("part", "key", "value", "said"),
    [
        (
            "text.encoders.text_encoder",
            "model",
            "text_encoder/other.onnx",
            "'text_encoder/other.onnx' is not among `files`",
        ),
        ("text.encoders.text_encoder", "tokenizer", "words.json", "text_encoder.tokenizer: 'words.json' is not among"),
        ("text.encoders.text_encoder", "tokens", 0, "text.encoders.text_encoder.tokens: should be a whole number"),
        ("text.encoders.text_encoder", "outputs", {"last": [5, 12]}, "text.made: does not follow from text.encoders"),
        ("text", "made", {"sample": [["text_encoder.last_hidden_state"]]}, "text: makes [5, 12] of sample"),
        (
            "text",
            "made",
            {"encoder_hidden_states": [3, ["text_encoder.last_hidden_state"]]},
            "cannot follow one another",
        ),
        ("text", "told", {"time_ids": ["height", "depth"]}, "text.told.time_ids[1]: should be a number, height, width"),
        ("text", "told", {"time_ids": ["height"]}, "text: makes [1] of time_ids, which the inputs say is []"),
        ("decoder", "scale", 0, "decoder.scale: should be a finite number"),
        ("decoder", "pixels", [3, 16], "decoder.pixels: should be a list of at least 3"),
        ("decoder", "pixels", [3, 16, 4], "decoder.pixels: should be channels and multiples of the sample's [8, 8]"),
    ],
)
def test_a_damaged_manifest_is_told(exported: Path, tmp_path: Path, part: str, key: str, value: Any, said: str) -> None:
    content = read_json(exported / "bundle.json")
    place = content
    for name in part.split("."):
        place = place[name]
    place[key] = value
    (tmp_path / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(BundleError) as caught:
        Bundle(tmp_path)
    assert said in str(caught.value)


def test_a_part_that_is_not_what_was_exported_is_told(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "onnx")
    shutil.copy(tmp_path / "onnx" / "vae_decoder" / "model.onnx", tmp_path / "onnx" / "text_encoder" / "model.onnx")
    with pytest.raises(BundleError, match="differs from what was exported"):
        Bundle(tmp_path / "onnx")
    with pytest.raises(BundleError, match=r"text_encoder/model.onnx: its inputs are \['latent_sample'\]"):
        _ = Bundle(tmp_path / "onnx", check_hashes=False).text


def test_pictures_with_captions_are_encoded_once(
    pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "kept"))
    shutil.copytree(pipeline, tmp_path / "teacher")
    rows = []
    for i, text in enumerate(["a b", "c", "h g", "d"]):
        write_image(tmp_path / "pictures" / f"{i}.png", (60 * i,) * 3, "RGB", (16, 16))
        rows.append(json.dumps({"file_name": f"{i}.png", "text": text}))
    (tmp_path / "pictures" / "metadata.jsonl").write_text("\n".join(rows))
    head = {"data": {"source": "folder", "path": "pictures"}, "guidance": GUIDANCE}
    passes = [{"distill": {"steps": 1, "batch_size": 2}}, {"export_onnx": {"decoder": "int8"}}]
    apply(tmp_path, passes, **head)
    (kept,) = (tmp_path / "kept" / "latents").glob("*/latents.npy")
    (told,) = (tmp_path / "kept" / "texts").glob("*/encoder_hidden_states.npy")
    whole = parts(str(pipeline), None)
    assert whole.decoder is not None
    picture = torch.full((1, 3, 16, 16), 60 / 127.5 - 1)
    latents = np.load(kept)
    assert latents.shape == (4, 4, 8, 8)
    assert sqnr(whole.decoder.encode(picture)[0].numpy(), latents[1]) > 60
    assert whole.text is not None
    wanted = whole.text.encode(["a b", "c", "h g", "d"])["encoder_hidden_states"].numpy()
    assert np.array_equal(np.load(told), wanted)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1: is no JSON"),
        ('{"file_name": "1.png"}', 'line 1: should be like {"file_name": "1.png", "text": "a red apple"}'),
        ('["1.png", "a"]', "line 1: should be like"),
        ('{"file_name": "../1.png", "text": "a"}', "line 1: '../1.png' leads out of the folder"),
        ('{"file_name": "/1.png", "text": "a"}', "leads out of the folder"),
        ('{"file_name": "none.png", "text": "a"}', "none.png"),
        ("", "names no images"),
    ],
)
def test_captions_that_cannot_be_read(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "metadata.jsonl").write_text(line)
    with pytest.raises(DataError) as caught:
        Folder(source="folder", path=tmp_path).read((3, 8, 8), ())
    assert said in str(caught.value)


def test_parts_of_other_kinds_travel_and_the_net_is_exported_without_them(pipeline: Path, tmp_path: Path) -> None:
    """As it was for a pipeline whose texts come as embeddings."""
    shutil.copytree(pipeline, tmp_path / "teacher")
    index = read_json(tmp_path / "teacher" / "model_index.json")
    other = {"text_encoder": ["transformers", "T5EncoderModel"], "vae": ["diffusers", "AutoencoderDC"]}
    (tmp_path / "teacher" / "model_index.json").write_text(json.dumps({**index, **other}))
    np.save(tmp_path / "null.npy", np.zeros((5, 12), np.float32))
    prune = {"prune_channels": {"target": {"macs": 0.7}, "importance": "l1"}}
    out = apply(tmp_path, [prune, {"export_onnx": {}}], guidance={**GUIDANCE, "null_embedding": "null.npy"})
    bundle = Bundle(out / "onnx")
    assert bundle.text is None and bundle.decoder is None
    assert (out / "student" / "text_encoder" / "model.safetensors").is_file()
    samples = np.zeros((2, 4, 8, 8), np.float32)
    assert bundle.pixels(samples) is samples


def test_a_student_is_judged_by_its_own_text_encoder(compressed: Path, pipeline: Path) -> None:
    bundle, own = Bundle(compressed / "onnx"), parts(str(pipeline), None).text
    assert bundle.text is not None and own is not None
    texts = ["a b", "c", "a b"]
    asked = Dataset(torch.zeros(3, 1), {"encoder_hidden_states": own.encode(texts)["encoder_hidden_states"]}, texts)
    picked = torch.tensor([1, 2, 2, 0])
    noise = torch.zeros(4, 4, 8, 8)
    drawn = Drawn(noise, {"encoder_hidden_states": asked.conditions["encoder_hidden_states"][picked]}, noise)
    told = Yardsticks(lambda: asked, None, (), 0.9, silent).as_told(bundle, drawn).conditions["encoder_hidden_states"]
    (wanted,) = bundle.text.encode([texts[i] for i in picked]).values()
    np.testing.assert_array_equal(told.numpy(), wanted)
    assert 15 < sqnr(drawn.conditions["encoder_hidden_states"].numpy(), told.numpy()) < 60


def test_pictures_of_other_sizes_are_decoded_too(pipeline: Path, tmp_path: Path) -> None:
    shutil.copytree(pipeline, tmp_path / "teacher")
    bundle = Bundle(apply(tmp_path, [{"export_onnx": {"size": "free"}}], guidance=GUIDANCE) / "onnx")
    noise = torch.randn(2, 4, 4, 12, generator=torch.Generator().manual_seed(1))
    wanted = drawn(pipeline, PROMPTS[:2], noise, height=8, width=24)
    assert wanted.shape == (2, 3, 8, 24)
    assert sqnr(wanted, by_bundle(bundle, PROMPTS[:2], noise)) > 60
    sized = compress("sample", "out", "--prompt", "a b", "--size", "8x24", "--out", "one.npz", folder=tmp_path)
    assert sized.returncode == 0, sized.stderr
    with np.load(tmp_path / "one.npz") as found:
        assert found["samples"].shape == (1, 3, 8, 24)
    odd = compress("sample", "out", "--prompt", "a b", "--size", "12x18", "--out", "one.npz", folder=tmp_path)
    assert odd.returncode == 2 and "of [16, 16] (or sides that are multiples of 4); got [12, 18]" in odd.stderr


@pytest.mark.parametrize(("scheme", "least"), [("int8", 15), ("fp16", 40)])
def test_listed_sizes_are_of_pictures_and_a_quantized_pipeline_takes_them(
    scheme: str, least: float, pipeline: Path, tmp_path: Path
) -> None:
    shutil.copytree(pipeline, tmp_path / "teacher")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    data = {"source": "teacher", "prompts": "prompts.txt", "count": 4}
    made: list[Any] = [{"quantize": {"scheme": scheme, "samples": 4, "evaluations": 16}}]
    made += [{"export_onnx": {"size": [[12, 20]], "decoder": scheme}}]
    bundle = Bundle(apply(tmp_path, made, data=data, guidance=GUIDANCE) / "onnx")
    assert bundle.manifest["sizes"] == {"multiple": 2, "listed": [[6, 10]]}
    latents = torch.randn(2, 4, 6, 10, generator=torch.Generator().manual_seed(1))
    own = parts(str(pipeline), None).decoder
    assert own is not None
    assert least < sqnr(own.decode(latents).numpy(), bundle.pixels(latents.numpy())) < 80
    with pytest.raises(PassError, match=r"size: \[12, 18\]: sides of its pictures are multiples of 4"):
        apply(tmp_path, [{"export_onnx": {"size": [[12, 18]]}}], guidance=GUIDANCE)


@pytest.mark.parametrize(
    ("name", "solver", "least"),
    [
        ("DDIMScheduler", None, 100),
        ("DPMSolverMultistepScheduler", "dpmpp_2m", 100),
        ("EulerDiscreteScheduler", None, 45),  # starts from 0.998 of our noise at these betas
    ],
)
def test_the_scheduler_beside_a_bundle_draws_what_it_draws(
    exported: Path, name: str, solver: SolverName | None, least: float
) -> None:
    """A client's loop: diffusers' scheduler by its config, the bundle's net."""
    config = {**PNDM, "_class_name": name, "timestep_spacing": "trailing"}
    sampling = from_scheduler_config(config, SamplingOptions(solver=solver, steps=7 if name[0] == "E" else 10))
    bundle = Bundle(exported)
    model = make_denoiser(TEXT_CONFIG)
    manifest = sampling_of(dataclasses.replace(model, sampling=sampling))
    bundle = bundle.with_sampling({**manifest, "guidance": bundle.guidance})
    assert bundle.text is not None
    given = bundle.text.encode(["a b"])
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    settings = dict(stock_scheduler(sampling, config).config)
    client = getattr(diffusers, settings.pop("_class_name")).from_config(settings)
    assert type(client).__name__ == name
    client.set_timesteps(len(bundle.steps))
    latents = noise * client.init_noise_sigma
    for timestep in client.timesteps:
        output = bundle.guided(client.scale_model_input(latents, timestep).numpy(), float(timestep), given)
        latents = client.step(torch.from_numpy(output), timestep, latents).prev_sample
    assert sqnr(bundle.sample(noise.numpy(), **given), latents.numpy()) > least


def test_the_scheduler_beside_a_bundle_is_the_one_that_draws_so(exported: Path) -> None:
    config = read_json(exported / "scheduler" / "scheduler_config.json")
    assert read_json(exported / "model_index.json")["scheduler"] == ["diffusers", config["_class_name"]]
    found = from_scheduler_config(config, SamplingOptions(steps=2))
    assert [vars(step) for step in found.steps()] == [vars(step) for step in Bundle(exported).steps]


def test_the_file_in_the_bundle_draws_the_same(exported: Path, compressed: Path, tmp_path: Path) -> None:
    for folder in (exported, compressed / "onnx"):
        for options in (["--prompt", "a b"], ["--prompt", "c", "--negative-prompt", "h g", "--seed", "5"]):
            assert compress("sample", folder, "--out", "one.png", *options, folder=tmp_path).returncode == 0
            wanted = np.asarray(Image.open(tmp_path / "one.png"))
            np.testing.assert_array_equal(standalone_picture(folder, tmp_path / "own.png", *options), wanted)


def test_clients_know_the_decoder_whatever_it_is(exported: Path, compressed: Path) -> None:
    for folder in (exported, compressed / "onnx"):
        config, decoder = read_json(folder / "vae_decoder" / "config.json"), Bundle(folder).manifest["decoder"]
        assert config["_class_name"] == "AutoencoderKL"
        assert config["scaling_factor"] == decoder["scale"]
        assert 2 ** (len(config["block_out_channels"]) - 1) == decoder["pixels"][1] // 8
