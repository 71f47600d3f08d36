"""`python -m benchmarks [NAME…]`: runs everything that the README claims, one benchmark after the other.

Each is a module of its own that writes its table to results/ and ends with its bars. What has run on the same code is
not run again unless --fresh; a run that was stopped goes on. Ends with 1 if any bar is short.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from compress import terminal
from compress.files import sha256, write_json
from compress.pages.tables import Table
from compress.recipe.identity import digest

ROOT = Path(__file__).parents[1]
STATE = ROOT / "benchmarks" / "results" / "suite.json"
# in the order in which they build on each other; what each measures
SUITE = {
    "teacher": "the teacher's guided samples are named by their label",
    "edge": "digits-edge is made anew and verified",
    "emoji_edge": "emoji-edge is made anew and verified",
    "verifier_power": "what the verifier catches, and its false alarms",
    "structure": "what to prune, how to rank it, what to distill back",
    "distill_cost": "what a step of distill costs beside the arithmetic it needs",
    "few_steps": "images in few steps, by every method, and the flagship in one graph",
    "configs": "models of many configs through every pass",
    "hostile": "thousands of hostile inputs, each refused in one clear message",
    "int8": "the ways to quantize, side by side",
    "devices": "the same files on processors with VNNI, AVX2, SSE4 and on Arm, emulated",
    "lean_graph": "what each rewrite of an exported graph gains",
    "candidates": "files of optimum, NNCF and onnxruntime, and spoilt ones, judged",
    "sizes": "memory and time of plan, prune and export of U-Nets as large as SD 1.5's and SDXL's",
    "streaming": "a million pictures in shards: time to open, memory, pictures a second",
    "peers": "int8 beside NNCF on OpenVINO, onnxruntime, torch.compile and optimum-quanto",
}


def code() -> str:
    """Hash of everything that a result depends on."""
    folders = ("compress", "benchmarks", "recipes")
    files = [file for name in folders for file in sorted((ROOT / name).rglob("*")) if file.is_file()]
    kept = [file for file in files if file.suffix in (".py", ".yaml", ".safetensors") and "results" not in file.parts]
    return digest({str(file.relative_to(ROOT)): sha256(file) for file in kept})


def main() -> None:
    """Run what is asked for, or everything."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SUITE))
    parser.add_argument("--fresh", action="store_true", help="run again what has run on this code")
    asked = parser.parse_args()
    unknown = [name for name in asked.names if name not in SUITE]
    if unknown:
        parser.error(f"no benchmark is called {unknown[0]}; there are {', '.join(SUITE)}")
    state = json.loads(STATE.read_text(encoding="utf-8")) if STATE.is_file() else {}
    short = []
    for name in asked.names or SUITE:
        now = code()
        done = state.get(name, {})
        if done.get("code") != now or asked.fresh:
            terminal.log(f"{name}: {SUITE[name]}")
            began = time.monotonic()
            ended = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=ROOT, check=False).returncode
            if ended not in (0, 1):
                sys.exit(f"{name}: broke off with exit code {ended}; the same command goes on from here")
            done = {"code": now, "bars": "short" if ended else "ok", "seconds": round(time.monotonic() - began)}
            state[name] = done
            write_json(STATE, state)
        else:
            terminal.log(f"{name}: has run on this code")
        short += [name] if done["bars"] == "short" else []
    rows = [(name, done["bars"], str(done["seconds"])) for name, done in state.items()]
    terminal.table(Table(("benchmark", "bars", "seconds"), rows))
    sys.exit(f"bars are short in {', '.join(short)}" if short else 0)


if __name__ == "__main__":
    main()
