"""Rules of the house: the order of the rooms, recipes that validate, a README that is true."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer

from benchmarks import edge
from compress import cli, data, passes
from compress.judge.classifier import train_classifier
from compress.randomness import Draw
from compress.recipe.recipe import read
from compress.report.report import read as read_report
from compress.runtime import Bundle

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "compress"
# A room imports from rooms further down alone.
ROOMS = [
    "__main__", "cli", "plan", "verify_command", "verify_bundle", "verify_candidate", "sample_bundle", "options",
    "engine", "recipe", "terminal", "pages", "passes", "training", "contract", "targets", "judge", "measure",
    "onnx_graph", "pipeline", "quantization", "model", "families", "data", "randomness", "diffusion", "runtime",
    "report", "devices", "processes", "tracking", "settings", "folders", "files", "errors",
]  # fmt: skip
README = (ROOT / "README.md").read_text(encoding="utf-8")


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(file: Path) -> set[str]:
    """Modules of this package that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "compress":
            found.add(node.module)
            found |= {
                f"{node.module}.{alias.name}" for alias in node.names if node.module in ("compress", "compress.passes")
            }
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "compress"}
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_down(file: Path) -> None:
    own = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for module in imports(file):
        other = room(module)
        if other in ("", "__version__") or other == own:
            continue
        assert ROOMS.index(own) < ROOMS.index(other), f"{own} imports {module}, which is above it"


# Names within nets. Settings whose descriptions give examples of them, and a hint in an error, are all that may.
INSIDES = re.compile(
    r"\b(down_blocks|up_blocks|mid_block|conv_in|conv_out|conv_shortcut|transformer_blocks|resnets|downsamplers|upsamplers"
    r"|time_embedding|time_emb_proj|to_q|to_k|to_v|to_out|add_k_proj|proj_in|proj_out|pos_embed|block_out_channels"
    r"|layers_per_block|UNet2D\w*|DiT\w*|unet)\b"
)
EXAMPLES = {
    "passes/prune_blocks.py": {"mid_block", "down_blocks", "resnets"},
    "passes/prune_channels.py": {"mid_block"},
    "passes/new_student.py": {"block_out_channels"},
}


def test_families_keep_their_secrets() -> None:
    """Names within nets are written in families/ alone; a family needs nothing of the package but errors."""
    for file in FILES:
        own = file.relative_to(PACKAGE)
        tree = ast.parse(file.read_text(encoding="utf-8"))
        if own.parts[0] == "families":
            assert {room(module) for module in imports(file)} <= {"families", "errors"}, own
            continue
        nodes = list(ast.walk(tree))
        described = {id(node.body[0].value) for node in nodes if isinstance(getattr(node, "body", None), list)
                     and node.body and isinstance(node.body[0], ast.Expr)}  # fmt: skip
        words = {
            word
            for node in nodes
            if id(node) not in described
            for value in vars(node).values()
            if isinstance(value, str)
            for word in INSIDES.findall(value)
        }
        assert words == EXAMPLES.get(own.as_posix(), set()), own
        modules = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        modules |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        assert not any(module.startswith("diffusers.models") for module in modules), own


def test_no_pass_imports_another() -> None:
    for file in (PACKAGE / "passes").glob("[!_]*.py"):
        assert not [module for module in imports(file) if room(module) == "passes"], file


def test_every_room_has_its_place_in_the_order() -> None:
    found = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path.is_dir() and any(path.glob("*.py")))
    }
    assert found - {"__init__"} == set(ROOMS)


# Files over 250 lines, functions over 60, signatures over 7 arguments: each with its reason.
EXCEPTIONS: dict[str, str] = {}


def test_files_can_be_read_in_one_sitting() -> None:
    long = set()
    for file in FILES:
        name, text = file.relative_to(PACKAGE).as_posix(), file.read_text(encoding="utf-8")
        if len(text.splitlines()) > 250:
            long.add(name)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                given = [one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                many = len([one for one in given if one not in ("self", "cls")]) > 7
                if many or node.end_lineno - node.lineno + 1 > 60:  # type: ignore[operator]
                    long.add(f"{name}:{node.name}")
    assert long == set(EXCEPTIONS)


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").rglob("*.yaml")), ids=lambda path: path.name)
def test_recipes_validate(recipe: Path) -> None:
    read(recipe)
    assert recipe.read_text(encoding="utf-8").startswith("#"), "a recipe says what it is for"


def test_readme_lists_every_pass() -> None:
    table = README.split("## Passes", 1)[1].split("\n## ", 1)[0]
    assert re.findall(r"^\| `(\w+)` \|", table, flags=re.M) == passes.names()


def test_readme_tree_lists_every_room() -> None:
    for name in ROOMS:
        assert f"{name}.py" in README or f"{name}/" in README, f"{name} is missing from the README's tree"


def test_readme_commands_exist() -> None:
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    lines = re.findall(r"^(?:\S+/)?compress (\w+)(.*)$", README, flags=re.M)
    assert lines
    for name, rest in lines:
        assert name in commands, f"compress {name}"
        known = {option for parameter in commands[name].params for option in parameter.opts}
        used = {word.split("=")[0] for word in rest.split("#")[0].split() if word.startswith("--")}
        assert used <= known, f"compress {name}: {used - known}"


def test_readme_recipe_is_the_quick_one() -> None:
    shown = README.split("## A recipe", 1)[1].split("```yaml\n", 1)[1].split("```", 1)[0]
    assert (ROOT / "recipes" / "digits-quick.yaml").read_text(encoding="utf-8").split("\n", 1)[1] == shown


def test_paths_named_in_the_readme_exist() -> None:
    for path in set(re.findall(r"(?:recipes|benchmarks|exported)/[\w./-]+", README)):
        assert (ROOT / path.rstrip(".")).exists(), path


def test_command_starts_without_torch() -> None:
    code = "import sys; import compress.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_readme_figures_are_those_of_the_report() -> None:
    report = read_report(ROOT / "exported" / "digits-edge")
    table = README.split("<!-- edge -->", 1)[1].split("<!-- /edge -->", 1)[0]
    assert table.strip() == edge.table(report).strip()


def test_committed_bundle_is_small_and_passed() -> None:
    folder = ROOT / "exported" / "digits-edge"
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 3_000_000
    report = read_report(folder)
    limits = {gate.name: (gate.kind, gate.limit) for gate in report.gates}
    assert limits["macs"] == ("max", 0.5) and limits["bytes"] == ("max", 0.2)
    assert limits["call_speedup"] == ("min", 8.0) and limits["class_agreement"] == ("min", 0.97)
    assert all(gate.passed for gate in report.gates) and report.verdict == "pass"


def test_committed_bundle_draws_digits() -> None:
    bundle = Bundle(ROOT / "exported" / "digits-edge" / "onnx")
    labels = np.arange(10)
    noise = np.random.default_rng(5).standard_normal((10, *bundle.sample_shape), dtype=np.float32)
    judge = train_classifier(data.load(data.Digits(source="digits"), (1, 16, 16), 10))
    assert (judge.classify(bundle.sample(noise, class_labels=labels)) == labels).sum() >= 9


def test_no_two_draws_share_a_key() -> None:
    """Every call that makes random numbers names its Draw, and each Draw belongs to one file."""
    named: dict[str, set[str]] = {}
    unnamed = []
    for file in (file for file in FILES if file.name != "randomness.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Draw":
                named.setdefault(node.attr, set()).add(file.name)
            makes = isinstance(node, ast.Call) and ast.unparse(node.func) in ("generator", "noise_like")
            if makes and "Draw." not in ast.unparse(node) and not any(isinstance(a, ast.Starred) for a in node.args):
                unnamed.append(f"{file.name}: {ast.unparse(node)}")
    assert unnamed == ["calibration.py: noise_like(model, samples, seed, draw)"]  # its callers name it
    assert {name: files for name, files in named.items() if len(files) > 1} == {}
    assert set(named) == {draw.name for draw in Draw}


def test_the_runtime_alone_opens_graphs() -> None:
    """A session is opened, and a provider or a device's engine named, in runtime/engines.py, and where nothing is at
    hand but onnxruntime."""
    named = re.compile(r"\bInferenceSession\b|\w+ExecutionProvider\b|\bcompile_model\b")
    found = {f.relative_to(PACKAGE).as_posix() for f in FILES if named.search(f.read_text(encoding="utf-8"))}
    assert found == {"runtime/engines.py", "runtime/qnn.py", "runtime/standalone.py"}
