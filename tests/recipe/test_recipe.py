"""Recipes: what they say is read, and all that is wrong with them is said at once, line by line."""

import json
import re
from pathlib import Path

import diffusers
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from compress import passes
from compress.data import Digits, Folder
from compress.diffusion.schedulers import SCHEDULERS
from compress.errors import RecipeError
from compress.families import FAMILIES
from compress.recipe import recipe
from compress.recipe.guidance import GuidanceOptions
from compress.recipe.head import Head
from compress.recipe.recipe import Recipe
from tests.conftest import write_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
MODEL = "name: test\ncheckpoint: model\n"
PASSES = "passes:\n"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with the subfolder `model` to stand for a checkpoint."""
    (tmp_path / "model").mkdir()
    return tmp_path


def read(home: Path, text: str, *overrides: str) -> Recipe:
    return recipe.read(write_recipe(home, text), overrides)


def faults(home: Path, text: str, *overrides: str) -> list[str]:
    """The faults of a recipe, each with the file's path cut off."""
    file = write_recipe(home, text)
    with pytest.raises(RecipeError) as caught:
        recipe.read(file, overrides)
    return [fault.removeprefix(f"{file}:") for fault in caught.value.faults]


def fault(home: Path, text: str, *overrides: str) -> str:
    found = faults(home, text, *overrides)
    assert len(found) == 1, found
    return found[0]


def of_pass(settings: str) -> str:
    """A recipe with one pass, whose settings stand from line 4 on."""
    return MODEL + PASSES + settings


# Recipes that are right.


def test_the_example_recipe(tmp_path: Path) -> None:
    text = (RECIPES / "digits-quick.yaml").read_text(encoding="utf-8")
    (tmp_path / "benchmarks" / "teachers" / "digits").mkdir(parents=True)
    found = read(tmp_path / "recipes", text)
    assert found.head.name == "digits-quick"
    assert found.head.checkpoint == str(tmp_path / "benchmarks" / "teachers" / "digits")
    assert found.head.data == Digits(source="digits")
    assert found.head.guidance == GuidanceOptions(scale=2.0, null_class=10)
    assert [step.kind for step in found.steps] == ["prune_channels", "distill", "quantize", "export_onnx", "verify"]
    assert found.steps[0].config.target.macs == 0.45
    assert found.steps[1].config.steps == 300
    assert found.steps[4].config.gates["bytes"].max == 0.2


def test_the_teachers_recipe_starts_from_nothing() -> None:
    found = recipe.read(RECIPES / "digits-teacher.yaml")
    assert found.head.checkpoint is None
    assert [step.kind for step in found.steps] == ["train"]
    assert found.steps[0].config.model["_class_name"] == "UNet2DModel"


def test_what_is_left_out_has_defaults(home: Path) -> None:
    found = read(home, of_pass("  - distill: {}\n"))
    assert (found.head.seed, found.head.guidance, found.head.data) == (0, None, None)
    assert found.steps[0].config == passes.module("distill").Config()


@pytest.mark.parametrize("spelling", ["distill", "distill:", "distill: {}", "distill: null"])
def test_a_pass_without_settings(home: Path, spelling: str) -> None:
    assert read(home, of_pass(f"  - {spelling}\n")).steps[0].kind == "distill"


@pytest.mark.parametrize("spelling", ["{distill: {as: other, steps: 5}}", "{distill: {steps: 5}, as: other}"])
def test_a_pass_with_another_name(home: Path, spelling: str) -> None:
    step = read(home, of_pass(f"  - {spelling}\n")).steps[0]
    assert (step.name, step.kind, step.config.steps) == ("other", "distill", 5)


def test_the_same_pass_twice_under_two_names(home: Path) -> None:
    steps = read(home, of_pass("  - distill\n  - distill: {as: again}\n")).steps
    assert [(step.name, step.kind) for step in steps] == [("distill", "distill"), ("again", "distill")]


def test_reading_twice_gives_the_same(home: Path) -> None:
    text = of_pass("  - distill: {steps: 5}\n")
    assert read(home, text) == read(home, text)


# Paths.


def test_paths_are_relative_to_the_recipe(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "images").mkdir()
    np.save(home / "null.npy", np.zeros(2))
    text = (
        "name: test\ncheckpoint: ./model\ndata: {source: folder, path: ../images}\n"
        "guidance: {scale: 2, null_embedding: ../null.npy}\npasses: [distill]\n"
    ).replace("./model", "../model")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    head = read(home / "recipes", text).head
    assert head.checkpoint == str(home / "model")
    assert head.data == Folder(source="folder", path=home / "images")
    assert head.guidance is not None and head.guidance.null_embedding == home / "null.npy"


def test_absolute_paths_stay(home: Path) -> None:
    text = f"name: test\ncheckpoint: {home / 'model'}\npasses: [distill]\n"
    assert read(home / "sub", text).head.checkpoint == str(home / "model")


def test_hub_id_stays(home: Path) -> None:
    assert read(home, "name: test\ncheckpoint: google/ddpm-cat-256\npasses: [distill]\n").head.checkpoint == (
        "google/ddpm-cat-256"
    )


def test_a_local_folder_goes_before_a_hub_id(home: Path) -> None:
    (home / "google" / "ddpm").mkdir(parents=True)
    head = read(home, "name: test\ncheckpoint: google/ddpm\npasses: [distill]\n").head
    assert head.checkpoint == str(home / "google" / "ddpm")


def test_checkpoint_of_the_command_line_is_relative_to_the_working_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "work" / "other").mkdir(parents=True)
    monkeypatch.chdir(home / "work")
    file = write_recipe(home, of_pass("  - distill\n"))
    assert recipe.read(file, checkpoint="other").head.checkpoint == str(home / "work" / "other")


def test_checkpoint_of_the_command_line_that_no_file_system_knows(home: Path) -> None:
    file = write_recipe(home, of_pass("  - distill\n"))
    with pytest.raises(RecipeError, match="checkpoint"):
        recipe.read(file, checkpoint="x" * 300)


@pytest.mark.parametrize("path", ["../absent/model", "/absent/model", "./absent", "absent", "a/b/c"])
def test_missing_checkpoint_folder(home: Path, path: str) -> None:
    found = fault(home, f"name: test\ncheckpoint: {path}\npasses: [distill]\n")
    assert found.startswith("2: checkpoint: ") and "does not exist" in found
    assert str((home / path).resolve()) in found


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("data: {source: folder, path: absent}", "data.path"),
        ("data: {source: npz, path: absent}", "data.path"),
        ("data: {source: teacher, embeddings: absent}", "data.embeddings"),
        ("guidance: {scale: 2, null_embedding: absent}", "guidance.null_embedding"),
    ],
)
def test_missing_data_path(home: Path, line: str, key: str) -> None:
    found = fault(home, f"{MODEL}{line}\npasses: [distill]\n")
    assert found == f"3: {key}: {home / 'absent'} does not exist; got 'absent'"


@pytest.mark.parametrize("path", ['"a\\0b"', '"~nobody-at-all/model"', "x" * 300, "y/" * 3000])
@pytest.mark.parametrize("key", ["checkpoint", "data"])
def test_path_that_no_file_system_knows(home: Path, path: str, key: str) -> None:
    value = path if key == "checkpoint" else f"{{source: folder, path: {path}}}"
    text = MODEL.replace("checkpoint: model\n", "") + f"{key}: {value}\npasses: [train]\n"
    assert fault(home, text).startswith(f"2: {key}")


# Files that are no recipe.


def test_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=re.escape(str(tmp_path / "absent.yaml"))):
        recipe.read(tmp_path / "absent.yaml")


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=re.escape(str(tmp_path))):
        recipe.read(tmp_path)


def test_recipe_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes("name: größe".encode("latin-1"))
    with pytest.raises(RecipeError, match=r"r\.yaml: .*UTF-8"):
        recipe.read(tmp_path / "r.yaml")


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n- b\n", "text", "5", "null"])
def test_yaml_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    assert "should be a mapping" in fault(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name: test\nseed: [1, 2\npasses: {}\n", 3),
        ("name: test\n\tseed: 1\n", 2),
        ("name: test\npasses:\n  - a: {b: 1\n", 4),
        ("name: 'test\n", 2),
        ("name: *absent\n", 1),
        ("name: test\n? [a, b]\n: 1\n", 2),
        ("name: !!python/object:os.system x\n", 1),
        ("name: one\n---\nname: two\n", 2),
    ],
)
def test_yaml_syntax_error_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    found = fault(tmp_path, text)
    assert found.startswith(f"{line}: ") and "YAML" in found


@pytest.mark.parametrize("value", ["2024-13-45", "!!int x", "!!float x", "!!timestamp x", "0b_"])
def test_yaml_value_that_cannot_be_built(home: Path, value: str) -> None:
    assert faults(home, f"name: test\ncheckpoint: model\nseed: {value}\npasses: [distill]\n")


def test_control_character(tmp_path: Path) -> None:
    assert "YAML" in fault(tmp_path, "name: a\x07b\n")


def test_value_that_holds_itself(home: Path) -> None:
    assert faults(home, of_pass("  - train: {model: &a {b: *a}, steps: x}\n"))


def test_duplicate_keys(home: Path) -> None:
    text = "name: test\ncheckpoint: model\nname: again\npasses:\n  - distill:\n      steps: 1\n      steps: 2\n"
    assert faults(home, text) == ["3: name is given twice", "7: steps is given twice"]


# Faults of the head.


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("sed: 1", "unknown key 'sed'; did you mean 'seed'?"),
        ("pass: 1", "unknown key 'pass'; did you mean 'passes'?"),
        ("zzzz: 1", "unknown key 'zzzz'; known: checkpoint, config, subfolder"),
        ("seed: many", "seed: should be a whole number"),
        ("seed: -1", "seed: should be greater than or equal to 0; got -1"),
        ("seed: 2147483648", "seed: should be less than 2147483648"),
        ("data: 5", "data: "),
        ("data: {path: x}", "data.source is missing; give one of digits, folder, npz, webdataset, datasets, teacher"),
        (
            "data: {source: digit}",
            "data.source: should be one of 'digits', 'folder', 'npz', 'webdataset', 'datasets', 'teacher'; got 'digit'",
        ),
        ("data: {source: folder}", "data.path is missing"),
        ("data: {source: folder, path: model, resiz: true}", "unknown key 'data.resiz'; did you mean 'resize'?"),
        ("data: {source: digits, folder: 1}", "unknown key 'data.folder'"),
        ("data: {source: teacher, count: 0}", "data.count: should be greater than or equal to 1; got 0"),
        ("guidance: {scale: 2, null_class: 1, negative_prompt: x}", "guidance: give one of null_class"),
        ("guidance: {scale: 2, null_class: 1, null_embedding: recipe.yaml}", "guidance: give one of null_class"),
        ("guidance: {null_class: 1}", "guidance.scale is missing"),
        ("guidance: {scal: 2, scale: 2, null_class: 1}", "unknown key 'guidance.scal'; did you mean 'scale'?"),
        ("guidance: {scale: 101, null_class: 1}", "guidance.scale: should be less than or equal to 100"),
        ("guidance: {scale: .nan, null_class: 1}", "guidance.scale: "),
        ("sampling: {steps: 0}", "sampling.steps: should be greater than or equal to 1; got 0"),
        ("sampling: {stepps: 5}", "unknown key 'sampling.stepps'; did you mean 'steps'?"),
        ("sampling: {solver: euler}", "sampling.solver: "),
        ("5: 6", ""),
    ],
)
def test_fault_of_the_head(home: Path, line: str, expected: str) -> None:
    assert fault(home, f"{MODEL}{line}\npasses: [distill]\n").startswith(f"3: {expected}")


def test_key_that_is_no_text(home: Path) -> None:
    assert "should be text; got null" in fault(home, f"{MODEL}null: 6\npasses: [distill]\n")


def test_missing_name(home: Path) -> None:
    assert fault(home, "# a comment\ncheckpoint: model\npasses: [distill]\n") == "2: name is missing"


@pytest.mark.parametrize("name", ["''", "../escape", "a/b", "-x", "a b", "5", "[x]"])
def test_name_that_cannot_name_a_folder(home: Path, name: str) -> None:
    assert fault(home, f"name: {name}\ncheckpoint: model\npasses: [distill]\n").startswith("1: name: ")


def test_nested_faults_stand_on_their_own_lines(home: Path) -> None:
    text = MODEL + "guidance:\n  null_class: 1\n  scale: fast\npasses:\n  - distill\n"
    assert fault(home, text).startswith("5: guidance.scale: ")


# Faults of the passes.


@pytest.mark.parametrize("value", ["", " {}", " []", " 5", " {distill: {}}"])
def test_passes_that_are_no_list(home: Path, value: str) -> None:
    assert fault(home, f"{MODEL}passes:{value}\n").startswith("3: should be a list of passes")


def test_passes_missing(home: Path) -> None:
    assert "should be a list of passes" in fault(home, MODEL)


@pytest.mark.parametrize("item", ["5", "[distill]", "{}", "null", "{distill: {}, quantize: {}}", "{as: x}", "{5: {}}"])
def test_item_that_is_no_pass(home: Path, item: str) -> None:
    assert fault(home, of_pass(f"  - {item}\n")).startswith("4: should be one pass")


@pytest.mark.parametrize(
    ("item", "suggestion"),
    [
        ("distil: {}", "did you mean 'distill'?"),
        ("distil", "did you mean 'distill'?"),
        ("prune_channel: {}", "did you mean 'prune_channels'?"),
        ("export: {}", "did you mean 'export_onnx'?"),
        ("Verify: {}", "did you mean 'verify'?"),
        ("zzzz: {}", f"known: {', '.join(passes.names())}"),
        ("__init__: {}", f"known: {', '.join(passes.names())}"),
    ],
)
def test_unknown_pass(home: Path, item: str, suggestion: str) -> None:
    found = fault(home, of_pass(f"  - {item}\n"))
    assert found.startswith("4: unknown pass ") and found.endswith(suggestion)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("distill: {stepz: 5}", "unknown key 'distill.stepz'; did you mean 'steps'?"),
        ("distill: {learning_rat: 5}", "unknown key 'distill.learning_rat'; did you mean 'learning_rate'?"),
        ("distill: {az: x}", "unknown key 'distill.az'; did you mean 'as'?"),
        ("distill: {losses: {outptu: 1}}", "unknown key 'distill.losses.outptu'; did you mean 'output'?"),
        ("prune_channels: {target: {mac: 0.5, macs: 0.5}}", "unknown key 'prune_channels.target.mac'; did you mean"),
        ("distill: {steps: many}", "distill.steps: should be a whole number"),
        ("distill: {steps: 1.5}", "distill.steps: should be a whole number"),
        ("distill: {steps: null}", "distill.steps: should be a whole number"),
        ("distill: {steps: 0}", "distill.steps: should be greater than or equal to 1; got 0"),
        ("distill: {ema: 1}", "distill.ema: should be less than 1; got 1"),
        ("distill: {learning_rate: 0}", "distill.learning_rate: should be greater than 0; got 0"),
        ("distill: {learning_rate: .nan}", "distill.learning_rate: "),
        ("distill: {learning_rate: .inf}", "distill.learning_rate: "),
        ("distill: {losses: {output: .inf}}", "distill.losses.output: "),
        ("distill: {losses: {output: -1}}", "distill.losses.output: should be greater than or equal to 0; got -1"),
        ("distill: {losses: 5}", "distill.losses: "),
        ("distill: {precision: int4}", "distill.precision: should be 'fp32', 'bf16', 'fp16' or 'auto'; got 'int4'"),
        ("distill: 5", "distill: the settings should be a mapping; got 5"),
        ("distill: [steps]", "distill: the settings should be a mapping"),
        ("prune_channels: {}", "prune_channels.target is missing"),
        ("prune_channels", "prune_channels.target is missing"),
        ("prune_channels: {target: 0.5}", "prune_channels.target: "),
        (
            "prune_channels: {target: {}}",
            "prune_channels.target: give exactly one of macs, params, bytes, latency, channels",
        ),
        ("prune_channels: {target: {macs: 0.5, params: 0.5}}", "prune_channels.target: give exactly one of"),
        ("prune_channels: {target: {macs: 0}}", "prune_channels.target.macs: should be greater than 0; got 0"),
        ("prune_channels: {target: {macs: 1.5}}", "prune_channels.target.macs: should be less than or equal to 1"),
        ("prune_channels: {target: {macs: 0.5}, importance: norm}", "prune_channels.importance: should be 'taylor',"),
        (
            "quantize: {scheme: int4}",
            "quantize.scheme: should be 'auto', 'int8', 'int8_weights', 'int4_weights' or 'fp16'; got 'int4'",
        ),
        ("distill: {as: a/b}", "as: 'a/b' should be a plain name"),
        ("distill: {as: ..}", "as: '..' should be a plain name"),
        ("distill: {as: 5}", "as: 5 should be a plain name"),
        ("distill: {as: null}", "as: null should be a plain name"),
    ],
)
def test_fault_of_a_pass(home: Path, settings: str, expected: str) -> None:
    assert fault(home, of_pass(f"  - {settings}\n")).startswith(f"4: {expected}")


def test_paths_in_settings_are_relative_to_the_recipe(home: Path) -> None:
    (home / "mine.onnx").write_bytes(b"any")
    text = of_pass("  - export_onnx\n  - verify: {features: [mine.onnx]}\n")
    config = read(home, text).steps[-1].config
    assert config.features == ((home / "mine.onnx").resolve(),)  # type: ignore[attr-defined]
    missing = of_pass("  - export_onnx\n  - verify: {features: [mine.onnx, other.onnx]}\n")
    assert fault(home, missing).startswith("5: verify.features.1: ") and "other.onnx does not exist" in fault(
        home, missing
    )


def test_misspelt_choice_gets_a_suggestion(home: Path) -> None:
    text = "  - export_onnx\n  - verify: {gates: {prsn: {min: 5}}}\n"
    assert fault(home, of_pass(text)).endswith("got 'prsn'; did you mean 'psnr'?")
    text = "  - prune_channels: {target: {macs: 0.5}, importance: tailor}\n"
    assert fault(home, of_pass(text)).endswith("got 'tailor'; did you mean 'taylor'?")


@pytest.mark.parametrize(
    ("gates", "expected"),
    [
        ("{psnr: {}}", "verify.gates.psnr: give min, max or margin"),
        ("{psnr: {mim: 5, min: 5}}", "unknown key 'verify.gates.psnr.mim'; did you mean 'min'?"),
        ("{psnr: {min: high}}", "verify.gates.psnr.min: should be a number"),
        ("{psnr: 5}", "verify.gates.psnr: "),
        ("{prsn: {min: 5}}", "verify.gates.prsn: should be 'psnr'"),
        ("{psnr: {min: .nan}}", "verify.gates.psnr.min: "),
    ],
)
def test_fault_of_a_gate(home: Path, gates: str, expected: str) -> None:
    assert fault(home, of_pass(f"  - export_onnx\n  - verify: {{gates: {gates}}}\n")).startswith(f"5: {expected}")


def test_fault_of_a_pass_stands_on_the_line_of_its_key(home: Path) -> None:
    text = of_pass("  - distill:\n      steps: 5\n      losses:\n        output: 1\n        featur: 2\n")
    assert fault(home, text) == "8: unknown key 'distill.losses.featur'; did you mean 'feature'?"


def test_two_passes_of_the_same_name(home: Path) -> None:
    found = fault(home, of_pass("  - distill: {}\n  - distill: {}\n"))
    assert found.startswith("5: a second pass called distill") and "as:" in found


@pytest.mark.parametrize("second", ["{quantize: {as: distill}}", "{quantize: {}, as: distill}"])
def test_another_name_that_is_taken(home: Path, second: str) -> None:
    assert fault(home, of_pass(f"  - distill: {{}}\n  - {second}\n")).startswith("5: a second pass called distill")


def test_all_faults_are_found_in_one_go(home: Path) -> None:
    text = (
        "nam: test\n"
        "checkpoint: ./absent\n"
        "data:\n"
        "  source: folder\n"
        "  path: absent\n"
        "seed: -1\n"
        "passes:\n"
        "  - distil: {}\n"
        "  - prune_channels: {}\n"
        "  - distill:\n"
        "      steps: 0\n"
        "      losses: {outpt: 1}\n"
        "  - quantize: {}\n"
        "  - quantize: {}\n"
    )
    found = faults(home, text)
    by_line = {int(one.partition(":")[0]): one for one in found}
    assert "name is missing" in "".join(found) and "did you mean 'name'?" in by_line[1]
    assert set(by_line) == {1, 2, 5, 6, 8, 9, 11, 12, 14} and len(found) == 10, found


def test_missing_paths_are_found_beside_faults_of_the_passes(home: Path) -> None:
    text = "name: test\ncheckpoint: ./absent\ndata: {source: folder, path: gone}\npasses:\n  - distil: {}\n"
    assert sorted(one[:2] for one in faults(home, text)) == ["2:", "3:", "5:"]


def test_a_second_pass_is_found_though_the_first_is_faulty(home: Path) -> None:
    found = faults(home, of_pass("  - distill: {steps: 0}\n  - distill: {}\n"))
    assert [one[:2] for one in found] == ["4:", "5:"]


def test_the_error_text_holds_every_fault(home: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        read(home, of_pass("  - distil\n  - quantise\n"))
    assert str(caught.value).splitlines() == caught.value.faults and len(caught.value.faults) == 2


# Chains.


@pytest.mark.parametrize(
    ("chain", "line", "expected"),
    [
        ("export_onnx, {prune_channels: {target: {macs: 0.5}}}", 5, "prune_channels needs a float model"),
        ("verify", 4, "verify needs an exported bundle"),
        ("quantize, verify", 5, "verify needs an exported bundle"),
        ("quantize, {quantize: {as: again}}", 5, "again needs a float model, and after quantize there is a quantized"),
        ("quantize, distill", 5, "distill needs a float model, and after quantize there is a quantized model"),
        ("export_onnx, {export_onnx: {as: again}}", 5, "again needs a float model or a quantized model"),
        ("export_onnx, verify, distill", 6, "distill needs a float model, and after verify there is an exported"),
    ],
)
def test_impossible_chain(home: Path, chain: str, line: int, expected: str) -> None:
    items = re.split(r", (?![^{]*\}\}?)", chain)
    assert fault(home, of_pass("".join(f"  - {item}\n" for item in items))).startswith(f"{line}: {expected}")


@pytest.mark.parametrize(
    "first", ["distill", "quantize", "export_onnx", "verify", "prune_channels: {target: {macs: 1}}"]
)
def test_first_pass_needs_a_model_that_is_not_there(home: Path, first: str) -> None:
    found = fault(home, f"name: test\npasses:\n  - {first}\n")
    assert found.startswith("3: ") and "a recipe without checkpoint there is no model yet" in found


def test_chain_after_an_impossible_link_is_judged_on(home: Path) -> None:
    found = faults(home, of_pass("  - verify\n  - distill\n"))
    assert [one[:2] for one in found] == ["4:", "5:"]


@pytest.mark.parametrize(
    "chain", ["quantize, export_onnx, verify", "export_onnx, verify, {verify: {as: v}}", "train, distill"]
)
def test_possible_chain(home: Path, chain: str) -> None:
    assert len(read(home, f"{MODEL}passes: [{chain}]\n").steps) == len(chain.split(", "))


# Overrides.


def test_override_of_the_head(home: Path) -> None:
    found = read(home, of_pass("  - distill\n"), "seed=7", "name=other", "guidance={scale: 3, null_class: 1}")
    assert (found.head.seed, found.head.name) == (7, "other")
    assert found.head.guidance == GuidanceOptions(scale=3, null_class=1)


def test_override_of_a_nested_key_keeps_its_neighbours(home: Path) -> None:
    text = MODEL + "guidance: {scale: 2, null_class: 4}\npasses: [distill]\n"
    assert read(home, text, "guidance.scale=5").head.guidance == GuidanceOptions(scale=5, null_class=4)


@pytest.mark.parametrize("spelling", ["distill", "distill:", "distill: null", "distill: {}", "distill: {steps: 9}"])
def test_override_of_a_pass(home: Path, spelling: str) -> None:
    found = read(home, of_pass(f"  - {spelling}\n"), "passes.distill.steps=50", "passes.distill.losses.task=0.5")
    assert found.steps[0].config.steps == 50
    assert found.steps[0].config.losses.task == 0.5
    assert found.steps[0].config.losses.output == 1


@pytest.mark.parametrize("spelling", ["{distill: {as: again, steps: 5}}", "{distill: {steps: 5}, as: again}"])
def test_override_of_a_pass_by_its_other_name(home: Path, spelling: str) -> None:
    found = read(home, of_pass(f"  - distill: {{steps: 4}}\n  - {spelling}\n"), "passes.again.steps=50")
    assert [step.config.steps for step in found.steps] == [4, 50]


def test_later_overrides_win(home: Path) -> None:
    assert read(home, of_pass("  - distill\n"), "seed=1", "seed=2").head.seed == 2


def test_override_leaves_the_file_alone(home: Path) -> None:
    text = of_pass("  - distill\n")
    read(home, text, "seed=1")
    assert (home / "recipe.yaml").read_text() == text


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed", "--set seed: should be key=value"),
        ("=5", "--set =5: should be key=value"),
        ("", "--set : should be key=value"),
        ("passes..steps=5", "--set passes..steps=5: should be key=value"),
        ("seed=[1", "--set seed=[1: the value is not YAML"),
        ("seed=2024-13-45", "--set seed"),
        ("seed=\x07", "--set 'seed=\\x07': the value is not YAML"),
        ("seed=many", "--set seed: seed: should be a whole number"),
        ("seed=", "--set seed: seed: should be a whole number"),
        ("seeds=1", "--set seeds: unknown key 'seeds'; did you mean 'seed'?"),
        ("seed.x=1", "--set seed"),
        ("passes.distil.steps=5", "--set passes.distil.steps=5: no pass is called distil; did you mean 'distill'?"),
        ("passes.quantize.scheme=int8", "--set passes.quantize.scheme=int8: no pass is called quantize"),
        ("passes.distill=5", "--set passes.distill=5: names no setting"),
        ("passes.distill.stepz=5", "--set passes.distill.stepz: unknown key 'distill.stepz'; did you mean 'steps'?"),
        ("passes.distill.steps=0", "--set passes.distill.steps: distill.steps: should be greater than or equal to 1"),
        ("passes.distill.losses.outpt=0", "--set passes.distill.losses.outpt: unknown key 'distill.losses.outpt'"),
        ("passes.distill.losses=5", "--set passes.distill.losses: distill.losses: "),
        ("passes=5", "--set passes: should be a list of passes"),
    ],
)
def test_bad_override(home: Path, override: str, expected: str) -> None:
    assert fault(home, of_pass("  - distill:\n"), override).startswith(expected)


@pytest.mark.parametrize("override", ["passes.distill.steps=5", "passes.distill.losses.output=1", "passes.distill=1"])
@pytest.mark.parametrize("settings", ["5", "[a]", "text"])
def test_override_of_a_pass_with_impossible_settings(home: Path, settings: str, override: str) -> None:
    assert any("mapping" in one for one in faults(home, of_pass(f"  - distill: {settings}\n"), override))


@pytest.mark.parametrize("item", ["{5: {}}", "{null: {}}", "{distill: {}, quantize: {}}", "7"])
@pytest.mark.parametrize("name", ["5", "None", "quantize", "7"])
def test_override_of_an_item_that_is_no_pass(home: Path, item: str, name: str) -> None:
    assert any("should be one pass" in one for one in faults(home, of_pass(f"  - {item}\n"), f"passes.{name}.x=1"))


# Anything at all.

WORDS = sorted(
    {*Head.model_fields, *passes.names(), "passes", "as", "source", "path", "count", "embeddings", "scale"}
    | {"null_class", "null_embedding", "solver", "steps", "scheduler", "digits", "folder", "npz", "teacher", "target"}
    | {name for kind in passes.names() for name in passes.module(kind).Config.model_fields}
    | {"macs", "output", "psnr", "min", "max", "model", "int8"}
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.dates(), st.binary(max_size=4)
)
WORD = st.sampled_from(WORDS)
KEYS = st.one_of(WORD, WORD, WORD, SCALARS.filter(lambda key: key == key))
VALUES = st.recursive(
    WORD | SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=8
)
ITEMS = st.one_of(
    VALUES,
    st.sampled_from(passes.names()),
    st.dictionaries(st.sampled_from([*passes.names(), "as"]), st.dictionaries(KEYS, VALUES, max_size=3), max_size=2),
)
CONTENTS = st.one_of(
    st.dictionaries(KEYS, VALUES, max_size=5),
    st.fixed_dictionaries(
        {"name": st.just("x"), "passes": st.lists(ITEMS, min_size=1, max_size=3)},
        optional={"checkpoint": VALUES, "data": VALUES, "guidance": VALUES, "sampling": VALUES, "seed": VALUES},
    ),
)
ANYTHING = settings(max_examples=70, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


def read_or_refuse(folder: Path, text: str, overrides: list[str]) -> None:
    file = write_recipe(folder, text)
    try:
        found = recipe.read(file, overrides)
    except RecipeError as error:
        assert error.faults and all(error.faults)
    else:
        assert found.steps and found.path == file


@given(content=CONTENTS)
@ANYTHING
def test_any_mapping_is_read_or_refused(scratch: Path, content: dict) -> None:
    read_or_refuse(scratch, yaml.safe_dump(content, allow_unicode=True), [])


@given(text=st.text(st.sampled_from("ab:-{}[],&*!|>'\"#? \n\t0.~<"), max_size=30))
@ANYTHING
def test_any_text_is_read_or_refused(scratch: Path, text: str) -> None:
    read_or_refuse(scratch, text, [])


@given(
    content=CONTENTS,
    keys=st.lists(st.one_of(WORD, st.text(max_size=4)), max_size=4),
    value=st.text(max_size=6),
)
@ANYTHING
def test_any_override_is_read_or_refused(scratch: Path, content: dict, keys: list[str], value: str) -> None:
    text = yaml.safe_dump(content, allow_unicode=True)
    read_or_refuse(scratch, text, [f"{'.'.join(keys)}={value}", f"passes.{'.'.join(keys)}={value}"])


# Schedulers and new models.


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("predicton_type: epsilon", "predicton_type: unknown key; did you mean 'prediction_type'?"),
        ("_clas_name: DDIMScheduler", "_clas_name: unknown key; did you mean '_class_name'?"),
        ("solver_order: 5", "solver_order: 5 is not supported with DDIMScheduler; set it to 2"),
        ("beta_end: 7", "beta_end: should be less than or equal to 1; got 7"),
        ("beta_start: -1", "beta_start: should be greater than or equal to 0; got -1"),
        ("beta_start: true", "beta_start: should be a number; got true"),
        ("beta_schedule: lineer", "beta_schedule: should be 'linear', 'scaled_linear' or"),
        ("trained_betas: [0.1, 2.0]", "trained_betas: should be less than or equal to 1; got 2.0"),
        ("num_train_timesteps: 1000000000", "num_train_timesteps: should be less than or equal to 100000"),
        ("steps_offset: 9999999", "steps_offset: should be less than 100000"),
        ("clip_sample: maybe", "clip_sample: should be true or false; got 'maybe'"),
    ],
)
def test_fault_of_the_recipes_scheduler(home: Path, line: str, expected: str) -> None:
    text = MODEL + f"sampling:\n  scheduler:\n    _class_name: DDIMScheduler\n    {line}\npasses: [distill]\n"
    assert fault(home, text).startswith(f"6: sampling.scheduler.{expected}")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("num_train_timesteps: 10", "50 sampling steps: must lie in 1…10"),
        ("trained_betas: [0.1, 0.2]", "trained_betas: 2 numbers for 1000"),
        ("rescale_betas_zero_snr: true", "epsilon prediction at zero terminal SNR"),
        ("beta_start: 0.9, beta_end: 1.0", "betas: a sample cannot be drawn"),
        ("steps_offset: 9999", "timesteps should lie in 0…999"),
    ],
)
def test_settings_of_the_recipes_scheduler_that_do_not_fit(home: Path, settings: str, expected: str) -> None:
    text = MODEL + f"sampling:\n  scheduler: {{_class_name: DDIMScheduler, {settings}}}\npasses: [distill]\n"
    assert fault(home, text).startswith(f"4: sampling.scheduler: {expected}")


@pytest.mark.parametrize("name", list(SCHEDULERS))
def test_every_key_of_diffusers_own_scheduler_is_known(home: Path, name: str) -> None:
    config = json.loads(getattr(diffusers, name)().to_json_string())
    read(home, MODEL + f"sampling: {{scheduler: {json.dumps(config)}}}\npasses: [distill]\n")


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("sample_sise: 16", "sample_sise: unknown key; did you mean 'sample_size'?"),
        (
            "_class_name: UNet2DModl",
            f"_class_name: should be one of {', '.join(FAMILIES)}; got 'UNet2DModl'",
        ),
        (
            "_class_name: [x]",
            f"_class_name: should be one of {', '.join(FAMILIES)}; got ['x']",
        ),
    ],
)
def test_fault_of_a_new_model(home: Path, key: str, expected: str) -> None:
    name = "" if key.startswith("_class_name") else "        _class_name: UNet2DModel\n"
    text = f"name: t\npasses:\n  - train:\n      model:\n        {key}\n{name}"
    assert fault(home, text).startswith(f"5: train.model.{expected}")


@pytest.mark.parametrize("value", ["true", "yes", "'1'", "1.0", "[1]", "null"])
@pytest.mark.parametrize("kind", passes.names())
def test_no_number_of_any_pass_is_of_another_kind(home: Path, kind: str, value: str) -> None:
    config = passes.module(kind).Config
    given = yaml.safe_load(value)
    for name, field in config.model_fields.items():
        kinds = {int: "should be a whole number", float: "should be a number", bool: "should be true or false"}
        if field.annotation in kinds and not isinstance(given, field.annotation):
            found = faults(home, of_pass(f"  - {kind}: {{{name}: {value}}}\n"))
            assert any(one.startswith(f"4: {kind}.{name}: {kinds[field.annotation]}; got ") for one in found), found


@pytest.mark.parametrize(
    "line",
    [
        "seed: yes",
        "sampling: {steps: true}",
        "guidance: {scale: 2, null_class: true}",
        "data: {source: teacher, count: yes}",
    ],
)
def test_no_number_of_the_head_is_a_truth_value(home: Path, line: str) -> None:
    assert "should be a whole number; got true" in fault(home, f"{MODEL}{line}\npasses: [distill]\n")


LISTS = [
    (kind, name, str(field.annotation))
    for kind in passes.names()
    for name, field in passes.module(kind).Config.model_fields.items()
    if "tuple[" in str(field.annotation)
    and ", ...]" in str(field.annotation)  # and not the pair `scales`
    and "int, int]" not in str(field.annotation)  # nor pairs in a list, each of which is one itself
]


@pytest.mark.parametrize(("kind", "name", "annotation"), LISTS)
def test_every_list_may_be_its_only_item(kind: str, name: str, annotation: str) -> None:
    config = passes.module(kind).Config
    item = 3 if re.search(r"\b(int|float)\b", annotation) else "web" if "'web'" in annotation else "x"
    required = {"target": {"macs": 0.5}} if config.model_fields.get("target") and kind != "prune_blocks" else {}
    assert getattr(config.model_validate({name: item, **required}), name) == (
        Path("x") if "Path" in annotation else item,
    )
    described = config.model_json_schema()["properties"][name]["anyOf"]
    kinds = {"int": "integer", "float": "number"}
    types = {"array", next((kind for word, kind in kinds.items() if re.search(rf"\b{word}\b", annotation)), "string")}
    assert types <= {option.get("type") for option in described[0].get("anyOf", ()) or described}


def test_every_list_is_found() -> None:
    assert len(LISTS) >= 9
