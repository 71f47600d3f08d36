"""The processes that peers run in: their virtual environments, and the talk with `peer_worker.py`."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from compress import terminal
from compress.files import write_json
from compress.folders import own_folder, remove_own

WORKER = Path(__file__).with_name("peer_worker.py")
PATIENCE = 1800.0  # seconds; compiling and calibrating a large net takes minutes


class PeerError(Exception):
    """A peer could not be installed, loaded or timed; the message is the reason."""


def cache_folder() -> Path:
    """Where environments of peers are kept: $COMPRESS_CACHE, or ~/.cache/compress."""
    return Path(os.environ.get("COMPRESS_CACHE") or Path.home() / ".cache" / "compress") / "peers"


def environment(name: str, requirements: Sequence[str], base: Path) -> tuple[Path, dict[str, str]]:
    """Interpreter of the virtual environment `base`/`name`, made if need be, and the versions installed in it.

    Made anew where `requirements` or this Python changed or it was not finished. Raises PeerError.
    """
    folder = base / name
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    record, wanted = folder / "installed.json", {"requirements": list(requirements), "python": sys.version}
    with contextlib.suppress(OSError, ValueError, KeyError):
        found = json.loads(record.read_text(encoding="utf-8"))
        if found["wanted"] == wanted and python.exists():
            return python, found["versions"]
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_own(folder)
    own_folder(folder)
    _must([sys.executable, "-m", "venv", str(folder)])
    _must([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements])
    listed = json.loads(_must([str(python), "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"]))
    versions = {package["name"]: package["version"] for package in listed}
    write_json(record, {"wanted": wanted, "versions": versions})  # written last: it says that the rest is whole
    return python, versions


def own_versions(names: Sequence[str]) -> dict[str, str]:
    """Versions of packages in this environment, of those that are installed."""
    found = {}
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


OWN = "compress"  # the environment of this package
OWN_VERSIONS = own_versions(("torch", "onnxruntime", "onnx", "diffusers", "torchao", "numpy"))
ENVIRONMENTS = {
    "openvino": ("openvino>=2025.4", "nncf>=2.19"),
    # the versions that this toolkit runs on
    "onnxruntime": (*(f"{name}=={OWN_VERSIONS[name]}" for name in ("onnxruntime", "onnx")), "sympy"),
    "optimum-quanto": ("optimum-quanto>=0.2.7", "torch>=2.9,<2.14", "diffusers>=0.35,<0.43", "accelerate"),
}
Place = tuple[Path, dict[str, str]] | str  # interpreter and versions, or why there are none


def places(names: Sequence[str]) -> dict[str, Place]:
    """The environments, made if need be; one that cannot be made is its reason."""
    found: dict[str, Place] = {OWN: (Path(sys.executable), OWN_VERSIONS)}
    with terminal.progress("environments of the peers", len(names)) as task:
        for name in names:
            try:
                found[name] = environment(name, ENVIRONMENTS[name], cache_folder())
            except PeerError as error:
                found[name] = str(error)
            task.advance()
    return found


def _must(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith(("ERROR", "Error"))] or lines[-1:]
        raise PeerError(f"cannot be installed: {(errors or ['no reason given'])[0]}"[:300])
    return done.stdout


class Worker:
    """A running `peer_worker.py`. It sleeps on its standard input unless it is asked something."""

    def __init__(self, python: Path, threads: int, log: Path, script: Path = WORKER) -> None:
        self.log = log
        environ = {**os.environ, "OMP_NUM_THREADS": str(threads), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                [str(python), "-I", str(script)],  # -I: nothing of this environment or this folder
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environ,
            )

    def ask(self, patience: float = PATIENCE, **request: Any) -> dict[str, Any]:
        """The answer to a request. Raises PeerError if it is an error, or if none comes within `patience` seconds."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None and stdout is not None
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self.process.kill()

        timer = threading.Timer(patience, give_up)
        timer.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # already dead: the missing answer says so
                stdin.write(json.dumps(request) + "\n")
                stdin.flush()
            line = stdout.readline()
        finally:
            timer.cancel()
        if late.is_set():
            raise PeerError(f"{request['do']}: no answer within {patience:g} s")
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            how = f"answered {line.strip()[:100]!r}, no JSON" if line.endswith("\n") else self._death()
            raise PeerError(f"{request['do']}: the process {how}") from None
        if "error" in answer:
            raise PeerError(f"{request['do']}: {answer['error']}")
        return answer

    def _death(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        code = self.process.poll()
        if code is None:
            return "closed its output"
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return how + (f": {lines[-1][:200]}" if lines else "")

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError):
            if self.process.stdin:
                self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
