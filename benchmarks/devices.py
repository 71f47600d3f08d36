"""`python -m benchmarks.devices [BUNDLE …]`: the same file on every kind of processor, most of them emulated.

Products of bytes are computed by other instructions on a processor with VNNI, on one with AVX2 alone, on one with SSE4
and on Arm. Debian's qemu-user runs the bundle's own runtime on each of the last three, on any x86 machine; Chromium
runs its web page. For every processor the table says how exact the file is there, how far its images are from those
drawn here from the same noise, and whether the bundle's own sample.py, with numpy and onnxruntime alone, draws what the
runtime draws.

A bundle has not the float net that it was made from. What kernels lose is told from the file: its graph without the
rounding of activations stands for the float net, and its graph node by node for the simulation; both have the same
weights. `judge.probe.kernel_loss` holds the kernels of each processor to these. What that leaves of the simulated dB of
the report is the file's dB to the float net on that processor.

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
import timeit
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.bars import finish
from compress import terminal
from compress.errors import ReportError
from compress.files import read_json, write_json, write_text
from compress.judge.probe import kernel_loss
from compress.judge.quality import psnr
from compress.measure import latency, processes
from compress.report.report import read as read_report
from compress.runtime import Bundle
from compress.runtime.engines import OnnxRuntime
from compress.runtime.sampling import solve
from compress.targets import web
from compress.targets.browser import NoBrowser, evaluate
from compress.targets.made import Exported
from compress.targets.needs import Needs

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BUNDLES = tuple(ROOT / "exported" / name for name in ("emoji-edge", "digits-edge", "digits-flagship"))
STATES = 8  # of trajectories, at which a net is asked
SEED, LABEL = 0, 3  # of the images
PROMPTS = ("flat, red apple", "3d, rocket", "noto, grinning face")
CALLS = 300  # of an evaluation that is timed
# What is run on every processor: numpy, onnxruntime and the package's own runtime; tokenizers for texts.
PROGRAM = """
import sys
import numpy as np, onnxruntime
from compress.runtime import Bundle
folder, given, answer, prompt = sys.argv[1:]
given = dict(np.load(given))
bundle = Bundle(folder, threads=1)
told = bundle.text.encode([prompt]) if bundle.text else {"class_labels": given["class_labels"][:1]}
image = bundle.pixels(bundle.sample(given.pop("noise"), **told))
states, times = given.pop("states"), given.pop("times")
asked = [{name: value[i : i + 1] for name, value in given.items()} for i in range(len(states))]
outputs = [bundle.denoise(state[None], time, one) for state, time, one in zip(states, times, asked)]
np.savez(answer, image=image, outputs=np.concatenate(outputs), version=np.array(onnxruntime.__version__))
"""
DEBS = """libc6 python3.11-minimal libpython3.11-minimal libpython3.11-stdlib zlib1g libexpat1 libssl3 libffi8
libstdc++6 libgcc-s1 libbz2-1.0 liblzma5 libuuid1"""
# newer ones of onnxruntime crash at import in qemu 7.2
WHEELS = ("numpy==2.4.0", "tokenizers==0.23.2", "onnxruntime==1.24.1")
ALONE = ("numpy", "numpy.libs", "onnxruntime")  # all that sample.py is given
FLAGS = {"amx_int8": "AMX", "avx512_vnni": "AVX-512 VNNI", "avx_vnni": "AVX VNNI", "avx512f": "AVX-512", "avx2": "AVX2"}
X86 = {"AVX2 (Haswell)": "Haswell", "SSE4 (Nehalem)": "Nehalem"}
ARM = {"Arm Cortex-A53": "cortex-a53", "Arm Cortex-A72": "cortex-a72", "Arm Cortex-A76, dot products": "cortex-a76"}
BROWSER = f"browser, WebAssembly ({web.PACKAGE})"
ASKED = """(async () => {
  const { run } = await import("./page.js"), given = %s, answers = [];
  for (const told of given.asked)
    answers.push([...(await run(given.model, given.scheme, told, given.batch))[0].data]);
  return { answers, image: [...(await draw(given.noise, given.told)).data] };
})()"""


@dataclass(frozen=True)
class Machine:
    """command: Python there. packages: where numpy and onnxruntime are. fault: why it is not run."""

    name: str
    command: Sequence[str] = ()
    packages: str = ""
    fault: str = ""
    emulated: bool = True


def machines(arm: Path | None) -> list[Machine]:
    """This processor, those that can be emulated on it, and those that cannot."""
    python, own = str(Path(sys.executable).resolve()), sysconfig.get_paths()["purelib"]
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text(encoding="utf-8").split()) if cpuinfo.exists() else set()
    kind = next((name for flag, name in FLAGS.items() if flag in flags), "no byte products")
    found = [Machine(f"this one: {latency.processor()}, {kind}", [python], own, emulated=False)]
    for name, cpu in X86.items():
        emulator = shutil.which("qemu-x86_64")
        fault = "" if emulator else "not run: install Debian's qemu-user"
        found.append(Machine(name, [str(emulator), "-cpu", cpu, python], own, fault))
    for name, cpu in ARM.items():
        emulator = shutil.which("qemu-aarch64")
        fault = "" if emulator and arm else "not run: install Debian's qemu-user and give --arm FOLDER"
        root = Path(arm or "") / "root"
        command = [str(emulator), "-cpu", cpu, "-L", str(root), str(root / "usr/bin/python3.11")]
        found.append(Machine(name, command, str(Path(arm or "") / "site"), fault))
    return [*found, Machine(BROWSER)]


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


def without_rounding(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with activations in float: what quantizes them, clips their bytes or gives them back passes on."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    constant = {weights.name for weights in found.graph.initializer}
    bounds = {weights.name for weights in found.graph.initializer if weights.data_type != onnx.TensorProto.FLOAT}
    for node in found.graph.node:
        if all(name in constant for name in node.input):
            constant.update(node.output)
        elif node.input[0] in constant:
            continue
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear") or (
            node.op_type == "Clip" and bounds.intersection(node.input[1:])
        ):
            node.CopyFrom(onnx.helper.make_node("Identity", node.input[:1], node.output))
    del found.graph.value_info[:]  # which say that they are bytes
    return found


def told(bundle: Bundle, number: int) -> dict[str, np.ndarray]:
    """Conditions [1,…] of the image of that number."""
    if bundle.text:
        return bundle.text.encode([PROMPTS[number % len(PROMPTS)]])
    return {"class_labels": np.array([(LABEL + number) % bundle.manifest["classes"]])}


def states(bundle: Bundle) -> dict[str, np.ndarray]:
    """Noise [1,…] of the image that is drawn; states, times and conditions [n,…] of trajectories to ask the net at."""
    noise = np.random.default_rng(SEED).standard_normal((1, *bundle.sample_shape), dtype=np.float32)
    met: list[dict[str, np.ndarray]] = []
    for number in range(-(-STATES // len(bundle.steps))):
        conditions, other = told(bundle, number), np.random.default_rng(SEED + number)

        def ask(sample: np.ndarray, time: float, conditions: dict[str, np.ndarray] = conditions) -> np.ndarray:
            met.append({"states": sample, "times": np.array([time]), **conditions})
            return bundle.guided(sample, time, conditions)

        solve(ask, other.standard_normal(noise.shape, dtype=np.float32), bundle.steps, bundle.clip_range)
    chosen = [met[i * len(met) // STATES] for i in range(STATES)]
    return {"noise": noise, **{name: np.concatenate([one[name] for one in chosen]) for name in chosen[0]}}


def python(machine: Machine, packages: str, *arguments: str) -> None:
    """Run Python there. Exits where it fails."""
    environment = {**os.environ, "PYTHONPATH": packages, "OPENBLAS_NUM_THREADS": "1"}
    command = [*machine.command, "-S", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{machine.name}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")


def answers(machine: Machine, bundle: Bundle, given: Path, folder: Path) -> dict[str, np.ndarray]:
    """What the program answers there, and what the bundle's own file draws where nothing else can be imported."""
    packages = os.pathsep.join([machine.packages, str(ROOT)])
    python(machine, packages, "-c", PROGRAM, str(bundle.path), str(given), str(folder / "answer.npz"), PROMPTS[0])
    (folder / "alone").mkdir()
    for name in ALONE:
        (folder / "alone" / name).symlink_to(Path(machine.packages, name))
    asked = ["--prompt", PROMPTS[0]] if bundle.text else ["--class", str(LABEL)]
    own = [str(bundle.path / "sample.py"), str(folder / "own.npy"), *asked, "--seed", str(SEED)]
    python(machine, str(folder / "alone"), *own)
    with np.load(folder / "answer.npz") as found:
        return dict(found) | {"own": np.load(folder / "own.npy")[None]}


def in_browser(bundle: Bundle, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the web page of a bundle answers. Raises NoBrowser."""
    about, shape = bundle.manifest, bundle.sample_shape

    def numbers(values: np.ndarray) -> dict[str, Any]:
        return {"data": values.ravel().tolist(), "shape": values.shape}

    asked = [{name: numbers(feed[name][0]) for name in bundle.inputs} for feed in feeds(bundle, given)]
    asks = {
        "asked": asked,
        "model": about["model"],
        "scheme": about["scheme"],
        "batch": bundle.batch or 1,
        "noise": given["noise"].ravel().tolist(),
        "told": {"prompt": PROMPTS[0]} if bundle.text else {"class": LABEL},
    }
    web.prepare(Needs.of_bundle(bundle))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        web.write(Exported(bundle), folder)
        page = read_json(folder / "page.json")
        if not (folder / about["model"]).exists():  # which a page with a sampler leaves out
            shutil.copyfile(bundle.path / about["model"], folder / about["model"])
        write_json(folder / "page.json", {**page, "beside": {**page["beside"], about["model"]: []}})
        found = evaluate(folder, ASKED % json.dumps(asks))
    if "error" in found:
        sys.exit(f"{BROWSER}: {found['error']}")
    outputs, image = (np.array(found["value"][key], np.float32) for key in ("answers", "image"))
    drawn = (about.get("decoder") or {"pixels": shape})["pixels"]
    return {"outputs": outputs.reshape(-1, *shape), "image": image.reshape(1, *drawn), "version": np.array(web.VERSION)}


def feeds(bundle: Bundle, given: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """What the graph of the net takes at every state, [1,…] by name."""
    kinds = {name: about["dtype"] for name, about in bundle.inputs.items()}
    whole = given | {"sample": given["states"], "timestep": given["times"].astype(kinds["timestep"])}
    return [{name: whole[name][i : i + 1] for name in kinds} for i in range(STATES)]


def measure(result: Path, found: Sequence[Machine]) -> list[dict[str, Any]]:
    """A row for every processor; the first is this one, whose images are those to compare with."""
    bundle, simulated = Bundle(result / "onnx", threads=1), _simulated(result)
    given, rows, images = states(bundle), list[dict[str, Any]](), list[np.ndarray]()
    file = bundle.path / bundle.manifest["model"]
    engine, asked = OnnxRuntime(optimized=False), feeds(bundle, given)

    def computed(graph: bytes | Path) -> np.ndarray:
        run = engine.open(graph, 1).run
        return np.concatenate([run(feed)[0] for feed in asked])[None]

    whole, fake = computed(without_rounding(onnx.load(file)).SerializeToString()), computed(file)
    for machine in found:
        row: dict[str, Any] = {"bundle": result.name, "processor": machine.name}
        rows.append(row)
        if machine.fault:
            row["fault"] = machine.fault
            continue
        try:
            answer = _answered(machine, bundle, given)
        except NoBrowser as error:
            row["fault"] = f"not run: {error}"
            continue
        images.append(answer["image"])
        lost = kernel_loss(whole, fake, answer["outputs"][None])
        row |= {"onnxruntime": str(answer["version"]), "loss_db": lost.value, "loss_interval": lost.interval}
        row |= {"simulated_db": simulated, "float_db": None if simulated is None else simulated - lost.value}
        row["images_psnr"] = float(psnr(images[0], answer["image"]).mean()) if machine.emulated else None
        row["own_psnr"] = float(psnr(answer["image"], answer["own"]).mean()) if "own" in answer else None
        if not machine.emulated:
            row |= _costs(bundle, asked[0])
        terminal.log(" ".join(f"{value}" for value in row.values()))
    return rows


def _answered(machine: Machine, bundle: Bundle, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if machine.name == BROWSER:
        return in_browser(bundle, given)
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder, "given.npz"), **given)  # type: ignore[arg-type]
        return answers(machine, bundle, Path(folder, "given.npz"), Path(folder))


def _simulated(result: Path) -> float | None:
    """dB of the simulation to the float net, if a report knows them."""
    try:
        quantization = read_report(result).quantization
    except ReportError:
        return None
    return None if quantization is None else quantization.simulated_sqnr_db


def _costs(bundle: Bundle, feeds: dict[str, np.ndarray]) -> dict[str, float]:
    """Milliseconds of one evaluation, one thread, and bytes of a fresh process at its peak.

    The least of many, since all else that the machine does can only add to it.
    """
    taken = 1000 * min(timeit.repeat(partial(bundle.graph.run, feeds), number=1, repeat=CALLS))
    program = processes.TIMED.format(program=processes.STUDENT)
    _, peak = processes.start(program, [str(bundle.path), "1", bundle.engine.name], bundle.path.parent.name)
    return {"ms": taken, "peak_bytes": peak}


def main() -> None:
    """Measure, write the table, hold the bars."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.devices", description=__doc__)
    parser.add_argument(
        "bundles",
        nargs="*",
        type=Path,
        default=BUNDLES,
        help="result folders of class-conditional nets, or of pipelines",
    )
    parser.add_argument("--arm", type=Path)
    asked = parser.parse_args()
    if asked.arm is not None and not asked.arm.exists():
        unpack_arm(asked.arm)
    found = machines(asked.arm)
    rows = [row for bundle in asked.bundles for row in measure(bundle, found)]
    write_json(RESULTS / "devices.json", rows)
    write_text(RESULTS / "devices.md", table(rows))
    finish(bars(rows))


def bars(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The worst of every cell."""
    run = [row for row in rows if "fault" not in row]
    images = [row["images_psnr"] for row in run if row["images_psnr"] is not None]
    return {
        "devices_lost_db": max(row["loss_db"] for row in run),
        "devices_images_psnr": min(images, default=float("nan")),
        "devices_own_psnr": min(row["own_psnr"] for row in run if row["own_psnr"] is not None),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The Markdown page."""
    lines = [
        "# The same files on every kind of processor",
        "",
        "`python -m benchmarks.devices`; all but this machine's own processor are emulated by qemu-user, not timed.",
        "Float: dB to the float net there, the report's simulated dB less what kernels lose against the simulation (at",
        f"most 1 dB is wanted), on {STATES} states of the bundle's own trajectories. Image: PSNR to that drawn on this",
        "machine's own processor from the same noise. sample.py: PSNR of what the bundle's own file draws, with numpy",
        "and onnxruntime alone, to what the runtime draws there; 200 is the same to the last bit. ms: an evaluation on",
        f"one thread, the least of {CALLS}; memory: of a fresh process at its peak.",
        "",
        "| bundle | processor | onnxruntime | float, dB | kernels lose, dB | image, dB | sample.py, dB | ms | memory |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        cells = [row["bundle"], row["processor"], *_cells(row)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cells(row: dict[str, Any]) -> list[str]:
    if "fault" in row:
        return [row["fault"], *[""] * 6]
    low, high = row["loss_interval"]
    numbers = ["" if row[name] is None else f"{row[name]:.1f}" for name in ("float_db", "images_psnr", "own_psnr")]
    cost = [f"{row['ms']:.2f}", f"{row['peak_bytes'] / 1e6:.0f} MB"] if "ms" in row else ["", ""]
    return [row["onnxruntime"], numbers[0], f"{row['loss_db']:.2f} ({low:.2f} … {high:.2f})", *numbers[1:], *cost]


if __name__ == "__main__":
    main()
