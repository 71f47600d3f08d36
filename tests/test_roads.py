"""The whole road, from recipe to verdict, through the command line, for both families."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import FlowMatchEulerDiscreteScheduler, UNet2DModel
from safetensors.torch import load_file, save_file

from compress.passes import distill
from compress.pipeline import checkpoint
from tests.command import compress
from tests.conftest import CLASS_CONFIG, FLOW, SCHEDULER, TOKENS, make_context, make_denoiser, read_json
from tests.families.unet.configs import PNDM, SD_1

ROOT = Path(__file__).parents[1]


def road(folder: Path, head: dict, gates: dict) -> Path:
    passes = [
        {"prune_channels": {"target": {"macs": 0.7}, "batches": 1}},
        {"distill": {"steps": 3, "batch_size": 4}},
        {"quantize": {"samples": 4, "evaluations": 16}},
        {"export_onnx": {}},
        {"verify": {"samples": 10, "rounds": 10, "gates": gates}},
    ]
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "road", "checkpoint": "teacher", **head, "passes": passes}))
    return path


def test_text_conditional_model_goes_the_whole_road(tmp_path: Path) -> None:
    """As Stable Diffusion 1 has it."""
    checkpoint.save(make_denoiser(SD_1, scale=None, scheduler=PNDM), tmp_path / "teacher")
    (tmp_path / "teacher" / "sampling.json").unlink()  # as diffusers would have written it
    random = np.random.default_rng(0)
    np.save(tmp_path / "null.npy", random.standard_normal((TOKENS, 12)).astype(np.float32))
    images = random.standard_normal((20, 4, 8, 8)).astype(np.float32)  # latents
    embeddings = random.standard_normal((20, TOKENS, 12)).astype(np.float32)
    np.savez(tmp_path / "data.npz", images=images, embeddings=embeddings)
    head = {
        "data": {"source": "npz", "path": "data.npz"},
        "guidance": {"scale": 3.0, "null_embedding": "null.npy"},
        "sampling": {"solver": "dpmpp_2m", "steps": 3},
    }
    gates = {"params": {"max": 0.9}, "output_error": {"max": 9}}
    done = compress("apply", road(tmp_path, head, gates), "--output", "out", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    report = read_json(tmp_path / "out" / "report.json")
    assert report["verdict"] == "pass" and "class_agreement" not in report["quality"]
    sampled = compress("sample", "out", "--embeddings", "data.npz", "--count", 2, "--out", "grid.png", folder=tmp_path)
    assert sampled.returncode == 0, sampled.stderr
    assert (tmp_path / "grid.png").read_bytes()[:4] == b"\x89PNG"


def test_half_precision_v_prediction_zero_snr_checkpoint_goes_the_whole_road(tmp_path: Path) -> None:
    """And a gate that fails gives exit code 1, with everything written."""
    assert SCHEDULER["prediction_type"] == "v_prediction" and SCHEDULER["rescale_betas_zero_snr"]
    assert SCHEDULER["timestep_spacing"] == "trailing"
    checkpoint.save(make_denoiser(CLASS_CONFIG, scale=None), tmp_path / "teacher")
    file = tmp_path / "teacher" / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file)
    (tmp_path / "teacher" / "sampling.json").unlink()  # as diffusers would have written it
    head = {
        "data": {"source": "teacher", "count": 100},
        "guidance": {"scale": 2.0, "null_class": 10},
        "sampling": {"steps": 4},
    }
    recipe = road(tmp_path, head, {"psnr": {"min": 1000}})
    done = compress("apply", recipe, "--output", "out", folder=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "verdict: fail" in done.stdout
    out = tmp_path / "out"
    names = {path.name for path in out.iterdir()}
    assert {"student", "onnx", "report.json", "report.html", "record.json", "README.md", "samples.png"} <= names
    again = compress("verify", "out", "--teacher", "teacher", folder=tmp_path)
    assert again.returncode == 1, again.stderr  # the gates of the report beside it
    benched = compress("bench", "out", "teacher", "out/onnx/denoiser.onnx", "--rounds", 10, folder=tmp_path)
    assert benched.returncode == 0, benched.stderr
    assert benched.stdout.count("×") == 3
    planned = compress("plan", recipe, folder=tmp_path)
    assert planned.returncode == 0, planned.stderr
    rows = [line for line in planned.stdout.splitlines() if "prune_channels" in line]
    assert f"{json.loads((out / 'report.json').read_text())['student']['params']:,}" in rows[0]


def test_student_of_unchanged_widths_is_a_plain_diffusers_model(tmp_path: Path) -> None:
    teacher = make_denoiser(CLASS_CONFIG)
    config = distill.Config.model_validate({"steps": 2, "batch_size": 4, "losses": {"task": 1}})
    student = distill.run(teacher, config, make_context(teacher, tmp_path)).model
    checkpoint.save(student, tmp_path / "student")
    plain = UNet2DModel.from_pretrained(tmp_path / "student" / "unet")
    sample, labels = torch.randn(2, 1, 8, 8), torch.tensor([1, 2])
    with torch.no_grad():
        ours = student.net(sample, 10, class_labels=labels).sample
        assert torch.equal(plain(sample, 10, class_labels=labels).sample, ours)
        assert not torch.equal(teacher.net(sample, 10, class_labels=labels).sample, ours)
    assert not (tmp_path / "student" / "structure.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("apply", "missing.yaml"), "missing.yaml: no such file"),
        (("verify", "nowhere", "--teacher", "teacher"), "no bundle.json"),
        (("sample", "nowhere"), "no bundle.json"),
        (("bench", "nowhere"), "no such folder"),
        (("apply", "bad.yaml"), "did you mean 'distill'"),
        (("apply", "broken.yaml"), "is missing, truncated or damaged"),
        (("apply", "good.yaml", "--device", "tpu"), "should be auto, cpu or cuda"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    checkpoint.save(make_denoiser(CLASS_CONFIG), tmp_path / "teacher")
    checkpoint.save(make_denoiser(CLASS_CONFIG), tmp_path / "cut")
    cut = tmp_path / "cut" / "unet" / "diffusion_pytorch_model.safetensors"
    cut.write_bytes(cut.read_bytes()[:5000])
    (tmp_path / "bad.yaml").write_text("name: bad\ncheckpoint: teacher\npasses:\n  - distil: {}\n")
    (tmp_path / "good.yaml").write_text("name: good\ncheckpoint: teacher\npasses:\n  - export_onnx: {}\n")
    (tmp_path / "broken.yaml").write_text("name: broken\ncheckpoint: cut\npasses:\n  - export_onnx: {}\n")
    done = compress(*words, folder=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_faults_show_a_traceback_only_when_asked(tmp_path: Path) -> None:
    done = compress("-v", "apply", "missing.yaml", folder=tmp_path)
    assert done.returncode == 2 and "Traceback" in done.stderr


def test_the_module_is_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "compress", "apply", "missing.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "missing.yaml: no such file" in done.stderr and "Traceback" not in done.stderr


def test_lists_of_passes_and_schema(tmp_path: Path) -> None:
    assert "prune_channels" in compress("passes", folder=tmp_path).stdout
    schema = json.loads(compress("schema", folder=tmp_path).stdout)
    assert schema["required"] == ["name", "passes"]


def test_flow_matching_model_goes_the_whole_road(tmp_path: Path) -> None:
    """As SD3 is sampled: velocities, a shift, timesteps that are no whole numbers."""
    checkpoint.save(make_denoiser(CLASS_CONFIG, scale=None, scheduler=FLOW), tmp_path / "teacher")
    (tmp_path / "teacher" / "sampling.json").unlink()  # as diffusers would have written it
    head = {
        "data": {"source": "teacher", "count": 20},
        "guidance": {"scale": 2.0, "null_class": 10},
        "sampling": {"steps": 3},
    }
    gates = {"params": {"max": 0.9}, "sampling_error": {"max": 1e-6}, "output_error": {"max": 9}}
    done = compress("apply", road(tmp_path, head, gates), "--output", "out", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_json(tmp_path / "out" / "report.json")["verdict"] == "pass"
    manifest = read_json(tmp_path / "out" / "onnx" / "bundle.json")
    assert manifest["inputs"]["timestep"]["dtype"] == "float32"
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(3)
    told = [step["timestep"] for step in manifest["sampling"]["steps"]]
    np.testing.assert_allclose(told, scheduler.timesteps.numpy(), rtol=1e-5)
    np.testing.assert_allclose(manifest["sampling"]["levels"]["sigma"], scheduler.sigmas.numpy(), rtol=1e-5)
