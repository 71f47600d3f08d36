"""What a fresh process of either side takes until its first result."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from compress.errors import VerifyError
from compress.model.denoiser import Denoiser
from compress.model.reference import Progress
from compress.pipeline import checkpoint
from compress.report.parts import Process, Row
from compress.runtime import Bundle

STUDENT = """
from compress.runtime import Bundle
from compress.runtime.engines import engine_called
bundle = Bundle(sys.argv[1], int(sys.argv[2]), engine=engine_called(sys.argv[3]))
sample, given = bundle.example(bundle.batch or 1)
bundle.denoise(sample, bundle.steps[0].timestep, given)
"""
TEACHER = """
import warnings; warnings.filterwarnings("ignore")
import torch
from compress.pipeline import checkpoint
from compress.model.denoiser import example_inputs
torch.set_num_threads(int(sys.argv[2]))
model = checkpoint.load(sys.argv[1], allow_pickle=True)  # written by the process that starts this one
with torch.no_grad():
    model.module(*example_inputs(model, 1))
"""
# of the peak, getrusage would count the parent's memory in, as it was when the process was made
TIMED = """
import sys, time
began = time.time()
{program}
try:
    lines = open("/proc/self/status").read().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
except OSError:
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(time.time() - began, peak)
"""


def measure(
    teacher: Denoiser, bundle: Bundle, names: tuple[Row, Row], starts: int, progress: Progress
) -> tuple[Process, ...]:
    """Seconds until the first result, and peak memory, of processes that start from nothing; medians.

    names: the teacher's row and the student's. starts: of each. Raises VerifyError.
    """
    if not starts:
        return ()
    rows = []
    with tempfile.TemporaryDirectory() as folder, progress("fresh processes", 2 * starts) as task:
        checkpoint.save(teacher, Path(folder, "teacher"))
        programs = (TEACHER, Path(folder, "teacher")), (STUDENT, bundle.path.resolve())
        for row, (program, path) in zip(names, programs, strict=True):
            arguments, started = [str(path), str(bundle.threads or 1), row.engine], []
            for _ in range(starts):
                started.append(start(TIMED.format(program=program), arguments, row.name))
                task.advance()
            seconds, peak = np.median(started, axis=0)
            rows.append(Process(**dict(row), cold_start_s=float(seconds), peak_memory_bytes=int(peak)))
    return tuple(rows)


def start(program: str, arguments: list[str], name: str) -> tuple[float, ...]:
    """(seconds, bytes) of one process. Raises VerifyError."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        raise VerifyError(f"{name}: a fresh process failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return tuple(map(float, done.stdout.split()[-2:]))
