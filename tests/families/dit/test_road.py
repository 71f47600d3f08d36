"""A tiny transformer from a pipeline's folder to a verdict, through the command line."""

import json
from pathlib import Path

import yaml

from compress.pipeline import checkpoint
from tests.command import compress
from tests.conftest import read_json
from tests.families.dit.models import transformer


def test_transformer_goes_the_whole_road(tmp_path: Path) -> None:
    checkpoint.save(transformer(None), tmp_path / "teacher")
    (tmp_path / "teacher" / "sampling.json").unlink()  # as diffusers would have written it
    (tmp_path / "teacher" / "model_index.json").write_text(
        json.dumps({"_class_name": "DiTPipeline", "id2label": {"0": "tench"}})
    )
    passes = [
        {"prune_blocks": {"blocks": ["transformer_blocks.1"]}},
        {"prune_channels": {"target": {"macs": 0.85}, "batches": 1, "heads": "remove"}},
        {"distill": {"steps": 3, "batch_size": 4}},
        {"choose_timesteps": {"sampling_steps": 3, "samples": 4}},
        {"quantize": {"samples": 4, "evaluations": 16}},
        {"export_onnx": {}},
        {"verify": {"samples": 10, "rounds": 10, "gates": {"params": {"max": 0.9}, "output_error": {"max": 9}}}},
    ]
    recipe = {
        "name": "road",
        "checkpoint": "teacher",
        "data": {"source": "teacher", "count": 20},
        "guidance": {"scale": 2.0, "null_class": 10},
        "sampling": {"steps": 4},
        "passes": passes,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = compress("apply", "recipe.yaml", "--output", "out", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    report = read_json(tmp_path / "out" / "report.json")
    assert report["verdict"] == "pass"
    structure = read_json(tmp_path / "out" / "student" / "structure.json")
    assert structure["edits"] == {"transformer_blocks.1": {"kind": "passthrough"}}
    assert structure["quantization"]["scheme"] == "int8"
    manifest = read_json(tmp_path / "out" / "onnx" / "bundle.json")
    assert manifest["inputs"]["sample"]["shape"] == ["batch", 1, 8, 8] and len(manifest["sampling"]["steps"]) == 3
    planned = compress("plan", "recipe.yaml", folder=tmp_path)
    assert planned.returncode == 0, planned.stderr
