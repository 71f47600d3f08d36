"""Command lines: every option with what it cannot be, and folders, pipes and systems where files should go."""

import os
import random
import socket
from pathlib import Path
from typing import Any

from benchmarks.hostile import good
from benchmarks.hostile.case import Case, Lay, pipe

BUNDLE = ("--class", "3")
NUMBERS = (
    "",
    "x",
    "-1",
    "0",
    "1.5",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "9" * 5000,
    "0x10",
    "١٢٣x",
    "--",
    "true",
    "1,5",
    "½",
)


def of(name: str, *words: str, lay: Lay = lambda folder: None, **expected: Any) -> Case:
    """A command in a folder that holds everything that is good: recipe.yaml, model, bundle, other, kept/precious."""

    def everything(folder: Path) -> None:
        good.checkpoint(folder / "model")
        good.bundle(folder / "bundle")
        good.write_recipe(folder, good.recipe())
        for name in ("one", "two"):
            (folder / name).mkdir()
            for file in ("report.json", "record.json", "samples.png"):
                source = good.BUNDLE.parent / file
                (folder / name / file).write_bytes(source.read_bytes())
        (folder / "kept" / "deeper").mkdir(parents=True)
        (folder / "kept" / "precious.txt").write_text("years of work")
        (folder / "kept" / "deeper" / "precious.txt").write_text("more of it")
        (folder / "file").write_text("x")
        pipe(folder / "pipe")
        (folder / "link").symlink_to("kept")
        lay(folder)

    return Case(name, everything, (words,), **expected)


def sample(*words: str, **expected: Any) -> Case:
    """`compress sample` of the good bundle, with other options."""
    given = {"--out": "grid.png", "--count": "1", "--class": "3", "--threads": "1"}
    left = [word for option, value in given.items() if option not in words for word in (option, value)]
    return of(f"sample {' '.join(words)[:60]}", "sample", "bundle", *left, *words, **expected)


def _socket(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        here = Path.cwd()
        os.chdir(folder)  # the names of sockets are short
        opened.bind("socket")
        os.chdir(here)


def _frozen(folder: Path) -> None:
    (folder / "frozen").mkdir(mode=0o500)


def _report(text: str) -> Lay:
    """Another report beside one bundle."""
    return lambda folder: (folder / "two" / "report.json").write_text(text)


# Where nothing can be written, or nothing may be.
PLACES = ("kept", "kept/", ".", "..", "link", "/proc/x.png", "/dev/null/x.png", "file/x.png", "pipe",
          "x" * 300 + ".png", "a\nb/\udcff" + "x" * 300, "")  # fmt: skip
OPTIONS: dict[str, tuple[str, ...]] = {
    "--count": ("0", "-1", "100000000000", "1.5", "x", ""),
    "--seed": ("-1", "x", "1.5", ""),
    "--threads": ("0", "-1", "100000", "x", "9" * 30),
    "--class": ("-1", "10", "99", "x", "9" * 30),
    "--guidance-scale": ("inf", "-inf", "nan", "x", "1e400", ""),
    "--steps": ("0", "-1", "3", "x", "100000000000"),
    "--psnr": ("nan", "inf", "x", "-inf"),
    "--milliseconds": ("nan", "inf", "-1", "x", "-inf"),
    "--embeddings": ("nowhere.npz", "kept", "pipe"),
}

NAMED: dict[str, Case] = {
    **{f"sample {option} {value[:20]}": sample(option, value) for option, found in OPTIONS.items() for value in found},
    **{f"sample --out {place[:20]!r}": sample("--out", place) for place in PLACES},
    **{f"compare --out {place[:20]!r}": of("compare", "compare", "one", "two", "--out", place) for place in PLACES},
    **{f"apply --output {place[:20]!r}": of("apply", "apply", "recipe.yaml", "--output", place) for place in PLACES},
    **{
        f"verify --output {place[:20]!r}": of("verify", "verify", "bundle", "--teacher", "model", "--output", place)
        for place in PLACES
    },
    "sample --count that memory cannot hold": sample("--count", "100000000"),
    "sample of nothing": of("sample", "sample", "nowhere"),
    "sample of a file": of("sample", "sample", "file"),
    "sample of a pipe": of("sample", "sample", "pipe"),
    "sample of a checkpoint": of("sample", "sample", "model"),
    "sample of a name that is too long": of("sample", "sample", "x" * 5000),
    "sample of nothing at all": of("sample", "sample"),
    "sample with an unknown option": sample("--cuont", "1"),
    "sample of two bundles": sample("other"),
    "compare of one": of("compare", "compare", "one"),
    "compare of one twice": of("compare", "compare", "one", "one"),
    "compare with nothing": of("compare", "compare", "one", "nowhere"),
    "compare with a checkpoint": of("compare", "compare", "one", "model"),
    "compare of nothing": of("compare", "compare"),
    **{
        f"compare with a report {name}": of(
            "compare",
            "compare",
            "one",
            "two",
            lay=_report(text),
        )
        for name, text in {
            "empty": "",
            "of a list": "[]",
            "of a number": "5",
            "of nothing": "{}",
            "of text": "hello",
            "nested": "[" * 100_000 + "]" * 100_000,
            "of digits": '{"a": ' + "9" * 5000 + "}",
        }.items()
    },
    "compare with a report that is a pipe": of(
        "compare",
        "compare",
        "one",
        "two",
        lay=lambda folder: pipe(folder / "two" / "report.json"),
    ),
    "bench of nothing": of("bench", "bench", "nowhere"),
    "bench of a file": of("bench", "bench", "file"),
    "bench of a pipe": of("bench", "bench", "pipe"),
    "bench of nothing at all": of("bench", "bench"),
    "bench of an empty graph": of("bench", "bench", "x.onnx", lay=lambda folder: (folder / "x.onnx").write_bytes(b"")),
    "bench of a graph that is a pipe": of("bench", "bench", "x.onnx", lay=lambda folder: pipe(folder / "x.onnx")),
    **{
        f"bench --{option} {value}": of("bench", "bench", "bundle", f"--{option}", value)
        for option, found in {
            "batch": ("0", "-1", "x", "100000000000"),
            "rounds": ("0", "9", "x"),
            "threads": ("0", "100000", "x"),
        }.items()
        for value in found
        if (option, value) != ("batch", "100000000000")
    },
    "bench --batch of a checkpoint": of("bench", "bench", "model", "--batch", "100000000000", "--threads", "1"),
    "verify without a teacher": of("verify", "verify", "bundle"),
    "verify with no teacher": of("verify", "verify", "bundle", "--teacher", "nowhere"),
    "verify with another teacher": of("verify", "verify", "bundle", "--teacher", "model"),
    "verify with a recipe without verify": of(
        "verify", "verify", "bundle", "--teacher", "model", "--recipe", "recipe.yaml"
    ),
    "verify with a recipe that is a pipe": of("verify", "verify", "bundle", "--teacher", "model", "--recipe", "pipe"),
    "verify of nothing": of("verify", "verify", "nowhere", "--teacher", "model"),
    **{
        f"{command} {' '.join(words)[:40]}": of(command, command, *words, *(output if words else ()))
        for command, output in (("plan", ()), ("apply", ("--output", "out")))
        for words in (
            (),
            ("nowhere.yaml",),
            ("kept",),
            ("pipe",),
            ("socket",),
            ("",),
            ("x" * 5000,),
            ("/dev/zero",),
            ("/proc/self/mem",),
            ("recipe.yaml", "extra"),
            ("recipe.yaml", "--device", "tpu"),
            ("recipe.yaml", "--device", ""),
            ("recipe.yaml", "--device", "cuda"),
            ("recipe.yaml", "--checkpoint", "nowhere"),
            ("recipe.yaml", "--checkpoint", "file"),
            ("recipe.yaml", "--checkpoint", "pipe"),
            ("recipe.yaml", "--checkpoint", ""),
            ("recipe.yaml", "--checkpoint", "kept"),
            ("recipe.yaml", "--checkpoint", "x" * 5000),
            ("recipe.yaml", "--chekpoint", "model"),
            ("recipe.yaml", "--checkpoint", "\udcff"),
            ("recipe.yaml", "--set", "seed"),
        )
    },
    "apply to a folder that cannot be written": of(
        "apply", "apply", "recipe.yaml", "--output", "frozen/out", lay=_frozen
    ),
    "sample to a folder that cannot be written": sample("--out", "frozen/x.png", lay=_frozen),
    "no such command": of("appyl", "appyl"),
    "passes with a word": of("passes", "passes", "x"),
    "schema with an option": of("schema", "schema", "--x"),
    # what is right
    "passes": of("passes", "passes", valid=True),
    "schema": of("schema", "schema", valid=True),
    "help": of("help", "--help", valid=True),
    "a good sample": sample(valid=True),
    "a good sample over an earlier one": sample(
        "--out", "old.png", lay=lambda folder: (folder / "old.png").write_text("x"), valid=True
    ),
    "a good sample in a new folder": sample("--out", "new/er/grid.png", valid=True),
    "a good comparison": of("compare", "compare", "one", "two", "--out", "page.html", valid=True),
    "a good bench": of("bench", "bench", "bundle", "--rounds", "10", "--threads", "1", valid=True),
    "a good plan": of("plan", "plan", "recipe.yaml", "--device", "cpu", valid=True),
    "a good plan of another checkpoint": of("plan", "plan", "recipe.yaml", "--checkpoint", "./model", valid=True),
}
# root may write everywhere, and a machine with CUDA may take it
if os.geteuid() == 0:
    for name in [name for name in NAMED if "cannot be written" in name]:
        del NAMED[name]

# options that take a number, and the command that goes with them
NUMERIC = {
    "--count": ("sample", "bundle", "--out", "grid.png", "--class", "3", "--threads", "1"),
    "--seed": ("sample", "bundle", "--out", "grid.png", "--class", "3", "--count", "1", "--threads", "1"),
    "--class": ("sample", "bundle", "--out", "grid.png", "--count", "1", "--threads", "1"),
    "--threads": ("sample", "bundle", "--out", "grid.png", "--class", "3", "--count", "1"),
    "--guidance-scale": ("sample", "bundle", "--out", "grid.png", "--class", "3", "--count", "1", "--threads", "1"),
    "--steps": ("sample", "bundle", "--out", "grid.png", "--class", "3", "--count", "1", "--threads", "1"),
    "--psnr": ("sample", "bundle", "--out", "grid.png", "--class", "3", "--count", "1", "--threads", "1"),
    "--milliseconds": ("sample", "bundle", "--out", "grid.png", "--class", "3", "--count", "1", "--threads", "1"),
    "--batch": ("bench", "bundle", "--rounds", "10", "--threads", "1"),
    "--rounds": ("bench", "bundle", "--threads", "1"),
}


def draw(choose: random.Random) -> Case:
    """A number that an option cannot take, a place that cannot be written, a misspelt word, or what is right."""
    return choose.choice((_number, _number, _place, _word, _good, _named))(choose)


def _named(choose: random.Random) -> Case:
    return NAMED[choose.choice(sorted(NAMED))]


def _good(choose: random.Random) -> Case:
    count = choose.randrange(1, 4)
    scale, label = f"{choose.uniform(1, 5):.2f}", str(choose.randrange(10))
    words = ("--count", str(count), "--class", label, "--guidance-scale", scale, "--seed", str(choose.randrange(10**6)))
    return sample(*words, "--out", f"{choose.choice('abc')}/grid.png", valid=True)


def _number(choose: random.Random) -> Case:
    option = choose.choice(sorted(NUMERIC))
    value = choose.choice(NUMBERS)
    surely = value in ("", "x", "0x10", "١٢٣x", "true", "1,5", "½", "--")
    return of(f"{option} {value[:20]}", *NUMERIC[option], f"{option}={value}", valid=False if surely else None)


def _place(choose: random.Random) -> Case:
    place = choose.choice(PLACES)
    return sample("--out", place) if choose.random() < 0.5 else of("compare", "compare", "one", "two", "--out", place)


def _word(choose: random.Random) -> Case:
    """A good command with a letter of an option or of the command's name left out."""
    words = list(choose.choice(list(NUMERIC.values())))
    places = [i for i, word in enumerate(words) if i == 0 or word.startswith("--")]
    at = choose.choice(places)
    words[at] = words[at][:-1] + choose.choice("qxz")
    return of(f"misspelt {words[at]}", *words)
