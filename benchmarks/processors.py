"""`python -m benchmarks.processors [BUNDLE …]`: the same file on every kind of processor, emulated.

Products of bytes are computed by other instructions on a processor with VNNI, on one with AVX2 alone, on one with SSE4
and on Arm. Debian's qemu-user runs the bundle's own runtime on each of the last three, on any x86 machine. For every
processor the table says how far onnxruntime's kernels are from the same graph computed node by node, and how far the
images are from those drawn here, from the same noise.

--arm FOLDER: an unpacked Python for Arm; made there if it is missing, which takes root, Debian's apt and pip.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bars import finish
from compress import terminal
from compress.files import write_json, write_text
from compress.judge.quality import psnr, sqnr
from compress.measure.latency import processor

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BUNDLES = (ROOT / "exported" / "digits-edge", ROOT / "exported" / "digits-flagship")
IMAGES = 2
# What is run on every processor: numpy, onnxruntime and the package's own runtime.
PROGRAM = """
import sys
import numpy as np, onnxruntime
from compress.runtime import Bundle
from compress.runtime.engines import OnnxRuntime
folder, given, answer = sys.argv[1:]
given = dict(np.load(given))
noise = given.pop("noise")
bundle = Bundle(folder, threads=1)
found = {"images": bundle.sample(noise, **given), "version": np.array(onnxruntime.__version__)}
for name in ("kernels", "plain"):
    bundle = Bundle(folder, threads=1, engine=OnnxRuntime(optimized=name == "kernels"))
    times = [bundle.steps[i * len(bundle.steps) // len(noise)].timestep for i in range(len(noise))]
    found[name] = np.concatenate([
        bundle.denoise(noise[i : i + 1], times[i], {key: value[i : i + 1] for key, value in given.items()})
        for i in range(len(noise))
    ])
np.savez(answer, **found)
"""
DEBS = """libc6 python3.11-minimal libpython3.11-minimal libpython3.11-stdlib zlib1g libexpat1 libssl3 libffi8
libstdc++6 libgcc-s1 libbz2-1.0 liblzma5 libuuid1"""
WHEELS = ("numpy==2.4.0", "onnxruntime==1.24.1")  # newer ones of onnxruntime crash at import in qemu 7.2


@dataclass(frozen=True)
class Machine:
    """command: what goes before `-c PROGRAM`. packages: where numpy and onnxruntime are."""

    name: str
    command: Sequence[str]
    packages: str


def machines(arm: Path | None) -> list[Machine]:
    """This processor, and those that can be emulated on it."""
    python = str(Path(sys.executable).resolve())
    own = sysconfig.get_paths()["purelib"]
    found = [Machine(f"this one: {processor()}", [python], own)]
    if shutil.which("qemu-x86_64"):
        for name, cpu in (("AVX2 (Haswell)", "Haswell"), ("SSE4 (Nehalem)", "Nehalem")):
            found.append(Machine(name, ["qemu-x86_64", "-cpu", cpu, python], own))
    else:
        terminal.log("x86 is left out: install Debian's qemu-user")
    if arm is None:
        terminal.log("Arm is left out: give --arm FOLDER")
    else:
        root = arm / "root"
        for name, cpu in (("Arm (Cortex-A72)", "cortex-a72"), ("Arm with dot products (Cortex-A76)", "cortex-a76")):
            command = ["qemu-aarch64", "-cpu", cpu, "-L", str(root), str(root / "usr/bin/python3.11")]
            found.append(Machine(name, command, str(arm / "site")))
    return found


def unpack_arm(folder: Path) -> None:
    """Debian's Python for Arm with numpy and onnxruntime, in a folder of its own; nothing is installed."""
    (folder / "packages").mkdir(parents=True)

    def call(*command: str, where: Path = folder) -> None:
        subprocess.run(command, cwd=where, check=True, stdout=subprocess.DEVNULL)

    call("dpkg", "--add-architecture", "arm64")
    call("apt-get", "update", "-qq")
    call("apt-get", "download", "-qq", *(f"{name}:arm64" for name in DEBS.split()), where=folder / "packages")
    for package in sorted((folder / "packages").glob("*.deb")):
        call("dpkg", "-x", str(package), str(folder / "root"))
    platforms = [f"--platform=manylinux_2_{glibc}_aarch64" for glibc in (17, 27, 28)]
    exactly = ["--no-deps", "--only-binary=:all:", "--python-version=3.11", "--implementation=cp", *platforms]
    call(sys.executable, "-m", "pip", "install", "-q", *exactly, "--target", str(folder / "site"), *WHEELS)


def run(machine: Machine, bundle: Path, given: Path) -> dict[str, np.ndarray]:
    """What the program answers there."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.npz")
        path = os.pathsep.join([machine.packages, str(ROOT)])
        environment = {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}
        command = [*machine.command, "-c", PROGRAM, str(bundle), str(given), str(answer)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{machine.name}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
        with np.load(answer) as found:
            return dict(found)


def measure(result: Path, found: Sequence[Machine]) -> list[dict[str, Any]]:
    """A row for every processor; the first is this one, whose images are those to compare with."""
    bundle = result / "onnx"
    manifest = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder, "given.npz")
        noise = np.random.default_rng(0).standard_normal((IMAGES, *manifest["inputs"]["sample"]["shape"][1:]))
        np.savez(given, noise=noise.astype(np.float32), class_labels=np.arange(IMAGES) % 10)
        rows: list[dict[str, Any]] = []
        images: np.ndarray | None = None
        for machine in found:
            answer = run(machine, bundle, given)
            images = answer["images"] if images is None else images
            rows.append(
                {
                    "bundle": result.name,
                    "processor": machine.name,
                    "onnxruntime": str(answer["version"]),
                    "kernels_db": sqnr(answer["plain"], answer["kernels"]),
                    "images_psnr": float(psnr(images, answer["images"]).mean()) if rows else None,
                }
            )
            terminal.log(" ".join(f"{value}" for value in rows[-1].values()))
    return rows


def main() -> None:
    """Measure, write the table, hold the bars."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.processors", description=__doc__)
    parser.add_argument(
        "bundles", nargs="*", type=Path, default=BUNDLES, help="result folders of class-conditional nets"
    )
    parser.add_argument("--arm", type=Path)
    asked = parser.parse_args()
    if asked.arm is not None and not asked.arm.exists():
        unpack_arm(asked.arm)
    found = machines(asked.arm)
    rows = [row for bundle in asked.bundles for row in measure(bundle, found)]
    write_json(RESULTS / "processors.json", rows)
    write_text(RESULTS / "processors.md", table(rows))
    emulated = [row for row in rows if row["images_psnr"] is not None]
    finish(
        {
            "processors_kernels_db": min(row["kernels_db"] for row in rows),
            "processors_images_psnr": min((row["images_psnr"] for row in emulated), default=float("nan")),
        }
    )


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The Markdown page."""
    lines = [
        "# The same files on every kind of processor",
        "",
        "`python -m benchmarks.processors`; all but this machine's own processor are emulated by qemu-user.",
        f"Kernels: dB between the file as onnxruntime optimizes it and its graph node by node, {IMAGES} evaluations.",
        f"Images: PSNR to those drawn on this machine's own processor from the same noise, mean of {IMAGES}.",
        "",
        "| bundle | processor | onnxruntime | kernels, dB | images, dB |",
        "|---|---|---|---:|---:|",
    ]
    for row in rows:
        images = "" if row["images_psnr"] is None else f"{row['images_psnr']:.1f}"
        cells = (row["bundle"], row["processor"], row["onnxruntime"], f"{row['kernels_db']:.1f}", images)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
