"""Recipes and `--set`: text that is no YAML, YAML that is no recipe, and every field of it with what it cannot be."""

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from benchmarks.hostile import good, values
from benchmarks.hostile.case import Case
from compress import passes
from compress.recipe.head import Head

BOTH = (("plan", "recipe.yaml"), ("apply", "recipe.yaml", "--output", "out"))
# The least that each pass needs to be told.
SETTINGS: dict[str, dict[str, Any]] = {
    "choose_timesteps": {"sampling_steps": 2},
    "factorize": {"target": {"params": 0.8}},
    "new_student": {"config": {"layers_per_block": 1}},
    "prune_blocks": {"layout": "bk-base"},
    "prune_channels": good.PRUNE["prune_channels"],
}
# What has to come before a pass that does not take a float model.
BEFORE: dict[str, list[dict[str, Any]]] = {"verify": [{"export_onnx": {}}]}
BOMB = "&a0 [x, x]" + "".join(f", &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10))
LINES = """name: tiny
checkpoint: model
sampling: {steps: 4}
passes:
- prune_channels: {target: {channels: 0.8}, importance: l2}
"""


def of_text(name: str, text: str | bytes, **expected: Any) -> Case:
    """A recipe file with this content."""
    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text

    def lay(folder: Path) -> None:
        good.checkpoint(folder / "model")
        (folder / "recipe.yaml").write_bytes(content)

    return Case(name, lay, BOTH, **expected)


def of_content(name: str, content: Any, **expected: Any) -> Case:
    """A recipe file with this content, which YAML can hold."""
    return of_text(name, yaml.safe_dump(content, sort_keys=False, allow_unicode=True), **expected)


def of_set(name: str, *texts: str, **expected: Any) -> Case:
    """The good recipe, with `--set`."""
    given = [word for text in texts for word in ("--set", text)]

    def lay(folder: Path) -> None:
        good.checkpoint(folder / "model")
        good.write_recipe(folder, good.recipe())

    return Case(name, lay, [(*command, *given) for command in BOTH], **expected)


# Values that break readers of YAML, as they stand in the text.
TEXTS: dict[str, str] = {
    "aliases nine levels deep": f"[{BOMB}]",
    "an alias of what it stands in": "&self [*self]",
    "a mapping that merges itself": "&self {<<: *self}",
    "an alias of nothing": "*nothing",
    "500 lists in each other": values.nested(500),
    "3,000 lists in each other": values.nested(3000),
    "3,000 mappings in each other": values.nested(3000, "mapping"),
    "100,000 lists in each other": values.nested(100_000),
    "100,000 open brackets": "[" * 100_000,
    "!!bool x": "!!bool x",
    "!!int ''": "!!int ''",
    "!!float ''": "!!float ''",
    "!!int x": "!!int x",
    "!!float x": "!!float x",
    "!!null x": "!!null x",
    "!!timestamp x": "!!timestamp x",
    "!!binary x": "!!binary x",
    "!!map x": "!!map x",
    "!!seq x": "!!seq x",
    "!!set x": "!!set x",
    "!!omap x": "!!omap x",
    "!!pairs [1]": "!!pairs [1]",
    "!!str of a list": "!!str [a]",
    "!!bool of a list": "!!bool [a]",
    "!!int of a mapping": "!!int {a: 1}",
    "a Python object": "!!python/object/apply:os.system [touch pwned]",
    "a Python name": "!!python/name:os.system",
    "a tag of its own": "!unknown x",
    "an integer of 5,000 digits": "9" * 5000,
    "a negative integer of 5,000 digits": "-" + "9" * 5000,
    "a hexadecimal of 20,000 digits": "0x" + "f" * 20_000,
    "an underscore for a hexadecimal": "0x_",
    "an underscore for a binary": "0b_",
    "minutes of 5,000 digits": "1" * 5000 + ":30",
    "the 13th month": "2024-13-45",
    "a time after midnight": "2024-01-01 25:61:61",
    "a float of many digits": "1." + "9" * 5000 + "e+99",
    "a megabyte of a word": "x" * 1_000_000,
    "an unhashable key": "{[a]: b}",
    "a key of two lines": '{? "a\\nb" : c}',
    "NUL, escaped": '"\\0"',
    "half a surrogate pair": '"\\ud800"',
    "a terminal's escape": '"\\e[31m"',
    "a new line": '"a\\nb"',
    "a bad escape": '"\\q"',
    "an open quotation": '"',
    "an open bracket": "[1",
    "a tab": "\tx",
    "@": "@x",
    "`": "`x",
    "%": "%x",
}
# Where such a value may stand: never one that it could be right for.
SPOTS: dict[str, Callable[[str], str]] = {
    "seed": lambda text: f"{LINES}seed: {text}\n",
    "sampling.steps": lambda text: LINES.replace("steps: 4", f"steps: {text}"),
    "sampling": lambda text: LINES.replace("{steps: 4}", text),
    "sampling.scheduler": lambda text: LINES.replace("steps: 4", f"scheduler: {text}"),
    "data": lambda text: f"{LINES}data: {text}\n",
    "guidance": lambda text: f"{LINES}guidance: {text}\n",
    "a pass": lambda text: LINES.replace("{target: {channels: 0.8}, importance: l2}", text),
    "a target": lambda text: LINES.replace("0.8", text),
    "a choice": lambda text: LINES.replace("l2", text),
    "an unknown key": lambda text: f"{LINES}sede: {text}\n",
}

NAMED: dict[str, Case] = {
    **{f"{name} as seed": of_text(name, SPOTS["seed"](text)) for name, text in TEXTS.items()},
    "aliases in a pass": of_text("aliases", SPOTS["a pass"](TEXTS["aliases nine levels deep"])),
    "aliases as the recipe": of_text("aliases", f"[{BOMB}]"),
    "nested as the recipe": of_text("nested", values.nested(3000)),
    "merges itself": of_text("merges itself", LINES.replace("{channels: 0.8}", "&t {<<: *t, channels: 0.8}")),
    "merges a number": of_text("merges a number", f"{LINES}<<: 5\n"),
    "merges numbers": of_text("merges numbers", f"{LINES}<<: [1, 2]\n"),
    "a key twice": of_text("twice", f"{LINES}name: other\n"),
    "a pass's key twice": of_text("twice", LINES.replace("importance: l2", "importance: l2, importance: l1")),
    "empty": of_text("empty", ""),
    "a comment": of_text("comment", "# nothing\n"),
    "a word": of_text("word", "word\n"),
    "a list": of_text("list", "- 1\n"),
    "two documents": of_text("two documents", f"{LINES}---\n{LINES}"),
    "NUL": of_text("NUL", LINES + "\0"),
    "a bell": of_text("bell", LINES + "seed: \a\n"),
    "Latin-1": of_text("Latin-1", LINES.encode() + b"# \xe9\n"),
    "UTF-16": of_text("UTF-16", LINES.encode("utf-16")),
    "bytes": of_text("bytes", bytes(range(256))),
    "a mark of byte order": of_text("BOM", b"\xef\xbb\xbf" + LINES.encode(), valid=None),
    "indented by tabs": of_text("tabs", "name: tiny\npasses:\n\t- prune_channels\n"),
    "keys that are no words": of_text("keys", f"{LINES}5: 6\n"),
    "a list as a key": of_text("keys", f"{LINES}? [a]\n: b\n"),
    "null as a key": of_text("keys", f"{LINES}~: b\n"),
    # numbers that are words for yes
    "seed: yes": of_text("yes", f"{LINES}seed: yes\n"),
    "steps: true": of_text("true", LINES.replace("steps: 4", "steps: true")),
    "null_class: true": of_text("true", f"{LINES}guidance: {{scale: 2, null_class: true}}\n"),
    "scale: true": of_text("true", f"{LINES}guidance: {{scale: true, null_class: 10}}\n"),
    "params: true": of_text("true", LINES.replace("0.8", "true")),
    "resize: x": of_text("x", f"{LINES}data: {{source: folder, path: model, resize: x}}\n"),
    "count: true": of_text("true", f"{LINES}data: {{source: teacher, count: true}}\n"),
    "path: 5": of_text("5", f"{LINES}data: {{source: npz, path: 5}}\n"),
    "no source": of_text("no source", f"{LINES}data: {{path: model}}\n"),
    "another source": of_text("source", f"{LINES}data: {{source: digit}}\n", mentions=("digits",)),
    "a source of lists": of_text("source", f"{LINES}data: {{source: [digits]}}\n"),
    # keys that would have been ignored without a word
    "predicton_type": of_content(
        "misspelt",
        good.recipe(sampling={"scheduler": {**good.SCHEDULER, "predicton_type": "epsilon"}}),
        mentions=("predicton_type", "prediction_type"),
    ),
    "an unknown key of train.model": of_content(
        "misspelt",
        good.recipe(
            checkpoint=None,
            sampling={"scheduler": good.SCHEDULER},
            data={"source": "digits"},
            passes=[{"train": {"model": {**good.CONFIG, "sample_size": 16, "layers_per_blok": 2}}}],
        ),
        mentions=("layers_per_blok", "layers_per_block"),
    ),
    "an unknown key of new_student.config": of_content(
        "misspelt",
        good.recipe(passes=[{"new_student": {"config": {"layers_per_blok": 2}}}]),
        mentions=("layers_per_blok", "layers_per_block"),
    ),
    "as within and without": of_content(
        "two names",
        good.recipe(passes=[{"prune_channels": {**good.PRUNE["prune_channels"], "as": "one"}, "as": "two"}]),
    ),
    "betas above 1": of_content(
        "betas",
        good.recipe(sampling={"steps": 4, "scheduler": {**good.SCHEDULER, "beta_end": 1.5}}),
        mentions=("recipe.yaml", "beta_end"),
    ),
    "num_train_timesteps: 1000000000": of_content(
        "many timesteps",
        good.recipe(sampling={"steps": 4, "scheduler": {**good.SCHEDULER, "num_train_timesteps": 10**9}}),
        mentions=("recipe.yaml", "num_train_timesteps"),
    ),
    "train a net of 2,000 layers": of_content(
        "many layers",
        good.recipe(
            checkpoint=None,
            sampling={"scheduler": good.SCHEDULER},
            data={"source": "digits"},
            passes=[{"train": {"model": {**good.CONFIG, "sample_size": 16, "layers_per_block": 2000}}}],
        ),
    ),
    # --set
    "--set of 3,000 brackets": of_set("nested", f"seed={values.nested(3000)}"),
    "--set of aliases": of_set("aliases", f"seed=[{BOMB}]"),
    "--set of a yes": of_set("yes", "seed=yes"),
    **{f"--set seed={name}": of_set(name, f"seed={text}") for name, text in TEXTS.items() if len(text) < 100_000},
    "--set without a value": of_set("no value", "seed"),
    "--set without a key": of_set("no key", "=5"),
    "--set of nothing": of_set("nothing", ""),
    "--set with an empty part": of_set("empty part", "passes..batches=2"),
    "--set of a key 5,000 deep": of_set("deep key", ".".join(["sampling"] * 5000) + "=1"),
    "--set of no pass": of_set("no pass", "passes.prune_chanels.batches=2", mentions=("prune_channels",)),
    "--set of a pass itself": of_set("pass", "passes.prune_channels=5"),
    "--set of all passes": of_set("passes", "passes=5"),
    "--set of no setting": of_set("misspelt", "passes.prune_channels.batchs=2", mentions=("batches",)),
    "--set within a number": of_set("number", "seed.deeper=5", faults=1),
    "--set of what is no text": of_set("surrogate", "name=\udcff\udcfe"),
    "--set twice wrong": of_set("two faults", "seed=yes", "passes.prune_channels.batchs=2", faults=2),
    # what is right
    "a good recipe": of_content("good", good.recipe(), valid=True),
    "a good --set": of_set("good", "seed=3", "passes.prune_channels.target.channels=0.9", valid=True),
    "good aliases": of_text(
        "good",
        LINES.replace("{channels: 0.8}", "&t {channels: 0.8}")
        + "- prune_channels: {target: *t, importance: l1, as: b}\n",
        valid=True,
    ),
    "a good merge": of_text(
        "good",
        LINES.replace("{target: {channels: 0.8}, importance: l2}", "&p {target: {channels: 0.8}, importance: l2}")
        + "- prune_channels: {<<: *p, as: second}\n",
        valid=True,
    ),
}


@cache
def _fields(kind: str) -> list[tuple[values.Place, list[Any]]]:
    """Fields of the head, or of a pass, each with what it cannot be."""
    found = values.fields(Head if kind == "head" else passes.module(kind).Config)
    return [(place, values.wrong_for(*of)) for place, of in found.items()]


def _settings(kind: str) -> dict[str, Any]:
    return SETTINGS.get(kind, {})


def _of_pass(kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """A recipe with this pass, and those that it needs."""
    return good.recipe(passes=[*BEFORE.get(kind, []), {kind: settings}])


def read_only(content: dict[str, Any]) -> dict[str, Any]:
    """The recipe, which reading alone shall judge: its checkpoint does not exist, which is the one fault of it."""
    return {**content, "checkpoint": "nowhere"}


def draw(choose: random.Random) -> Case:
    """A recipe with one fault, or none."""
    kind = choose.choice(("text", "field", "field", "field", "key", "key", "set", "good"))
    if kind == "text":
        name, spot = (
            choose.choice(sorted(TEXTS.keys() - {"!!null x"})),
            choose.choice(sorted(SPOTS)),
        )  # many may be null
        return of_text(f"{name} as {spot}", SPOTS[spot](TEXTS[name]))
    if kind == "good":
        return _good(choose)
    return _of_field(choose) if kind == "field" else _of_key(choose) if kind == "key" else _of_set(choose)


def _good(choose: random.Random) -> Case:
    """Right but for a checkpoint that is nowhere, of any pass; or right altogether."""
    step = choose.choice(sorted(SETTINGS))
    content = good.recipe(seed=choose.randrange(2**31), passes=[{step: SETTINGS[step]}])
    if choose.random() < 0.5:
        return of_content(f"{step}, without its checkpoint", read_only(content), mentions=("checkpoint", "nowhere"))
    pruned = {"target": {choose.choice(("params", "macs", "channels")): 0.9}, "importance": choose.choice(("l1", "l2"))}
    return of_content(
        "good", good.recipe(seed=choose.randrange(2**31), passes=[{"prune_channels": pruned}]), valid=True
    )


def _of_field(choose: random.Random) -> Case:
    kind = choose.choice(("head", *passes.names()))
    place, wrong = choose.choice([(place, wrong) for place, wrong in _fields(kind) if wrong and place != ("passes",)])
    value = choose.choice(wrong)
    name = f"{kind}: {'.'.join(place)}: {value!r}"
    if kind == "head":
        faulty = values.put({**good.recipe(), **_parent(place)}, place, value)
        return of_content(name, faulty)
    return of_content(name, _of_pass(kind, values.put(_settings(kind), place, value)))


def _parent(place: values.Place) -> dict[str, Any]:
    """What a section needs for a fault in it to be the only one."""
    sections = {"guidance": {"scale": 2, "null_class": 10}, "data": {"source": "digits"}}
    return {place[0]: sections[place[0]]} if len(place) > 1 and place[0] in sections else {}


def _of_key(choose: random.Random) -> Case:
    """A misspelt key, for which the right one must be named."""
    kind = choose.choice(("head", "scheduler", *passes.names()))
    if kind == "scheduler":
        right = choose.choice([key for key in good.SCHEDULER if key != "_class_name"])
        wrong = values.misspelt(right, choose)
        scheduler = {key: value for key, value in good.SCHEDULER.items() if key != right}
        content = good.recipe(sampling={"scheduler": {**scheduler, wrong: good.SCHEDULER[right]}})
        return of_content(f"sampling.scheduler.{wrong}", content, mentions=(wrong, "recipe.yaml"))
    places = [place for place, _ in _fields(kind)]
    place = choose.choice([place for place in places if len(place[-1]) > 3 and len(place) == 1])
    wrong = values.misspelt(place[-1], choose)
    if (wrong,) in places:
        wrong += "x"
    if kind == "head":
        return of_content(wrong, good.recipe(**{wrong: 1}), mentions=(f"{wrong!r}", "did you mean"))
    content = _of_pass(kind, {**_settings(kind), wrong: 1})
    return of_content(f"{kind}.{wrong}", content, mentions=(wrong, "did you mean"))


def _of_set(choose: random.Random) -> Case:
    place, wrong = choose.choice([(place, wrong) for place, wrong in _fields("prune_channels") if wrong])
    value = choose.choice(wrong)
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()
    return of_set(f"{'.'.join(place)}={text}", f"passes.prune_channels.{'.'.join(place)}={text}")
