"""Runs a case as a user would, in forked processes that cost no imports, and judges what came of it."""

import faulthandler
import gc
import hashlib
import itertools
import os
import re
import resource
import signal
import stat
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from benchmarks.hostile.case import Case
from compress.cli import main

POLL = 0.005  # seconds between looks at a command
SECONDS = 5.0  # of processor time that a refusal may take
BYTES = 6 * 2**30  # of memory beside what is loaded already
LONGEST = 2000  # characters of a message that anyone would read
# What no message may hold: a trace, an address of memory, words of a library that are not for users.
LEAKS = (
    r"Traceback \(most recent call last\)",
    r'^\s*File "',
    r"\bat 0x[0-9a-f]{6,}",
    r"pydantic",
    r"\[type=",
    r"For further information",
    r"Exception ignored in",
)
BOX = re.compile(r"^╭─ Error ─", re.MULTILINE)  # the command line's own messages come in a frame


@dataclass(frozen=True)
class Outcome:
    """What a command did. code: of its end, negative for a signal, None: it was stopped. seconds: of processor time."""

    code: int | None
    out: str
    err: str
    seconds: float

    @property
    def messages(self) -> list[str]:
        """One for each fault."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        return lines or BOX.findall(self.err)


def call(words: Sequence[str], folder: Path) -> Outcome:
    """`compress` with `words` in `folder`. Everything it needs is imported already, and its process ends with it."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if not child:
            _become(words, folder, out, err)
        code, used = _wait(child)
        return Outcome(code, _text(out), _text(err), used.ru_utime + used.ru_stime)


def _text(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode("utf-8", "replace")


def _become(words: Sequence[str], folder: Path, out: IO[bytes], err: IO[bytes]) -> NoReturn:
    """The forked process from here to its end."""
    code = 1
    gc.freeze()  # else what the caller holds may be searched for garbage here, for seconds
    try:
        os.setsid()
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        faulthandler.register(signal.SIGUSR1, file=2, all_threads=False)
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + BYTES, now + BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.alarm(300)  # so that it ends when nobody waits for it any more
        sys.argv = ["compress", *words]
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(child: int) -> tuple[int | None, resource.struct_rusage]:
    """(exit code, what it used); the code is None for one that computes or waits for too long."""
    used, idle = 0.0, 0
    # looks are counted: a clock goes on while everything is stopped
    while used < 4 * SECONDS and idle * POLL < SECONDS:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status), usage
        state, *fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        now = (float(fields[10]) + float(fields[11])) / os.sysconf("SC_CLK_TCK")
        waits = now == used and state == "S"  # and neither runs nor would if others let it
        used, idle = now, idle + 1 if waits else 0
        time.sleep(POLL)
    os.kill(child, signal.SIGUSR1)  # it says where it stands
    time.sleep(0.2)
    os.killpg(child, signal.SIGKILL)
    return None, os.wait4(child, 0)[2]


Snapshot = Mapping[str, tuple[object, ...]]


def snapshot(folder: Path) -> Snapshot:
    """Kind, rights and content of everything below a folder; links are not followed."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        content = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(mode) and mode & 0o400 else ""
        found[str(path.relative_to(folder))] = (stat.S_IFMT(mode), stat.S_IMODE(mode), content)
    return found


def judged(case: Case, folder: Path) -> tuple[list[str], bool]:
    """(what is wrong with what became of a case, nothing if it held; whether it was accepted).

    The case has `folder`, which is empty, to itself, and works in a folder within it.
    """
    place = folder / "place"
    place.mkdir()
    case.lay(place)
    found: list[str] = []
    refusals: list[list[str]] = []
    for words in case.commands:
        before = snapshot(folder)
        outcome = call(words, place)
        faults = [*_ended(case, outcome), *_left(words, before, snapshot(folder), outcome.code == 0)]
        found += [f"{' '.join(words[:1])}: {fault}" for fault in faults]
        refusals.append(sorted(outcome.messages))
    if case.same and case.valid is not True and not found and any(other != refusals[0] for other in refusals):
        found.append(f"{' and '.join(words[0] for words in case.commands)} disagree: {refusals}"[:600])
    return found, not any(refusals)


def _ended(case: Case, outcome: Outcome) -> list[str]:
    if outcome.code is None:
        return [f"hangs, or takes more than {SECONDS:g} s: {_last(outcome, stack=True)}"]
    found = []
    if outcome.code and outcome.seconds > SECONDS:  # what is accepted does its work
        found.append(f"took {outcome.seconds:.1f} s")
    leaks = [leak for leak in LEAKS if re.search(leak, outcome.err, re.MULTILINE)]
    if leaks:
        found.append(f"leaks {leaks[0]}: {_last(outcome)}")
    if outcome.code == 0 and case.valid is not False:
        return found
    if outcome.code != 2 or case.valid is True:
        return [*found, f"ended with {outcome.code}, expected {0 if case.valid else 2}: {_last(outcome)}"]
    messages = outcome.messages
    if len(set(messages)) != len(messages) or not messages or case.faults not in (None, len(messages)):
        found.append(f"{len(messages)} messages, expected {case.faults or 'some'}: {_last(outcome)}")
    if any(len(message) > LONGEST for message in messages):
        found.append(f"a message of {max(map(len, messages)):,} characters: {messages[0][:100]}")
    unsaid = [word for word in case.mentions if word not in outcome.err]
    if unsaid:
        found.append(f"does not say {unsaid[0]!r}: {_last(outcome)}")
    return found


def _last(outcome: Outcome, stack: bool = False) -> str:
    """The last of what it said; stack: the innermost calls of where it stood."""
    lines = [line.strip() for line in outcome.err.splitlines() if line.strip()]
    if stack:
        lines = [line.rpartition("/")[2] for line in lines if line.startswith("File ")][:6]
    return " / ".join(lines[-3:] if not stack else lines)[-400:]


def _left(words: Sequence[str], before: Snapshot, after: Snapshot, done: bool) -> list[str]:
    """What a command did to files that it should have left alone."""
    given = [word for option, word in itertools.pairwise(words) if option in ("--output", "--out")]
    own = [f"place/{os.path.normpath(word)}" for word in given] if done or words[:1] == ("apply",) else []
    found = []
    for name in sorted(before.keys() | after.keys()):
        mine = any(name == path or name.startswith(f"{path}/") or path.startswith(f"{name}/") for path in own)
        if name.rpartition("/")[2].endswith(".part"):
            found.append(f"left {name} half-written")
        elif name in before and before[name] != after.get(name) and not (mine and done):
            found.append(f"{'changed' if name in after else 'removed'} {name}")
        elif name not in before and not mine:
            found.append(f"left {name} behind")
    return found[:3]
