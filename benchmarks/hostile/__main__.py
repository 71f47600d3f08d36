"""`python -m benchmarks.hostile`: thousands of hostile inputs of every kind, each refused in one clear message.

Every named case, and then seeded ones, is laid out in a folder of its own and given to the command line. What is
refused must end with 2, in under 5 s of processor time, with one message a fault and no trace, and must leave every
file as it was; what is valid must pass.
"""

import argparse
import random
import tempfile
from collections import Counter
from pathlib import Path

import torch

from benchmarks.bars import finish
from benchmarks.hostile import arguments, bundles, checkpoints, datasets, recipes
from benchmarks.hostile.case import Case, Draw
from benchmarks.hostile.running import judged
from compress import terminal
from compress import verify_bundle as judge  # noqa: F401  imported before the forks, which then need not
from compress.files import write_json, write_text
from compress.quantization import quantized  # noqa: F401

ROOT = Path(__file__).parents[2]
KINDS: dict[str, tuple[dict[str, Case], Draw]] = {
    "recipes and --set": (recipes.NAMED, recipes.draw),
    "checkpoints": (checkpoints.NAMED, checkpoints.draw),
    "bundles": (bundles.NAMED, bundles.draw),
    "data": (datasets.NAMED, datasets.draw),
    "arguments": (arguments.NAMED, arguments.draw),
}


def drawn(kind: str, seed: int) -> Case:
    """The case of a seed."""
    return KINDS[kind][1](random.Random(f"{kind} {seed}"))


def cases(count: int, seed: int) -> dict[tuple[str, str], Case]:
    """(kind, name or seed) → case: every named one, and as many seeded ones of each kind as make up the count."""
    found = {(kind, name): case for kind, (named, _) in KINDS.items() for name, case in named.items()}
    kinds = list(KINDS)
    for number in range(max(0, count - len(found))):
        kind = kinds[number % len(kinds)]
        found[kind, f"seed {seed + number}"] = drawn(kind, seed + number)
    return found


def table(rows: list[dict[str, str]]) -> str:
    """Markdown: what became of the cases of every kind."""
    lines = ["| kind | cases | refused rightly | accepted validly | failed |", "|---|---:|---:|---:|---:|"]
    for kind in (*KINDS, "all"):
        counted = Counter(row["became"] for row in rows if kind in (row["kind"], "all"))
        cells = (counted.total(), counted["refused"], counted["accepted"], counted["failed"])
        lines.append(f"| {kind} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the cases, write the table, print the bar."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile", description=__doc__)
    parser.add_argument("--cases", type=int, default=2000, help="how many, named ones included")
    parser.add_argument("--seed", type=int, default=0, help="of the first that is drawn")
    parser.add_argument("--only", default="", help="cases of which the kind and name hold this text")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    chosen = {key: case for key, case in cases(asked.cases, asked.seed).items() if asked.only in ": ".join(key)}
    rows = []
    with terminal.progress("hostile", len(chosen)) as task:
        for (kind, name), case in chosen.items():
            with tempfile.TemporaryDirectory() as folder:
                faults, accepted = judged(case, Path(folder))
            became = "failed" if faults else "accepted" if accepted else "refused"
            rows.append({"kind": kind, "name": name, "case": case.name, "became": became, "fault": "; ".join(faults)})
            if faults:
                terminal.log(f"{kind}: {name} ({case.name}): {faults[0]}")
            task.advance()
            if len(rows) % 100 == 0:
                terminal.log(f"{len(rows)} of {len(chosen)}")
    if not asked.only:
        file = ROOT / "benchmarks" / "results" / "hostile.json"
        failed = [row for row in rows if row["became"] == "failed"]
        write_json(file, {"seed": asked.seed, "cases": len(rows), "failed": failed})
        write_text(file.with_suffix(".md"), table(rows))
    print(table(rows))
    finish({"hostile_failed": float(sum(row["became"] == "failed" for row in rows))})


if __name__ == "__main__":
    main()
