"""What is computed once: the same numbers however often it is stopped, and never half of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.data.kept import kept
from compress.errors import DataError, OutputError
from compress.folders import alone
from compress.model.reference import silent

COUNT, AT_ONCE = 23, 5


def rows(start: int, end: int) -> dict[str, torch.Tensor]:
    numbers = torch.arange(start, end).float()
    return {"a": numbers[:, None, None].expand(-1, 2, 3) * 2, "b": -numbers[:, None]}


def keep(folder: Path, make: Callable[[int, int], dict[str, torch.Tensor]] = rows) -> dict[str, torch.Tensor]:
    found = kept(folder, COUNT, AT_ONCE, make, lambda: silent("", COUNT))
    return {name: one[:] for name, one in found.items()}


WANTED = rows(0, COUNT)


def right(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == WANTED.keys() and all(torch.equal(found[name], WANTED[name]) for name in found)


def test_rows_are_computed_once_in_order(tmp_path: Path) -> None:
    calls = []
    assert right(keep(tmp_path / "x", lambda *part: calls.append(part) or rows(*part)))
    assert calls == [(0, 5), (5, 10), (10, 15), (15, 20), (20, 23)]
    assert right(keep(tmp_path / "x", lambda *_: pytest.fail("it was computed again")))
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_rows_are_mapped_and_can_be_taken_in_any_order(tmp_path: Path) -> None:
    keep(tmp_path / "x")
    found = kept(tmp_path / "x", COUNT, AT_ONCE, rows, lambda: silent("", COUNT))["a"]
    assert isinstance(found.array, np.memmap) and not found.array.flags.writeable
    assert found.shape == (COUNT, 2, 3) and found.array.dtype == np.float32
    taken = found[torch.tensor([22, 0, 0])]
    assert taken[:, 0, 0].tolist() == [44, 0, 0]
    taken[0] = 7  # a copy
    assert right(keep(tmp_path / "x"))


@pytest.mark.parametrize("stops", range(5))
def test_stopped_and_called_again(stops: int, tmp_path: Path) -> None:
    def killed(start: int, end: int) -> dict[str, torch.Tensor]:
        if start == stops * AT_ONCE:
            raise KeyboardInterrupt
        return rows(start, end)

    with pytest.raises(KeyboardInterrupt):
        keep(tmp_path / "x", killed)
    assert not (tmp_path / "x").exists()
    calls = []
    assert right(keep(tmp_path / "x", lambda *part: calls.append(part[0]) or rows(*part)))
    assert calls == list(range(stops * AT_ONCE, COUNT, AT_ONCE))


def test_killed_between_the_rows_of_two_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, written = Path.open, []

    def opened(self: Path, *more: object, **named: object) -> object:
        if self.suffix == ".npy":
            written.append(self.name)
            if len(written) == 4:
                raise KeyboardInterrupt
        return write(self, *more, **named)  # type: ignore[arg-type, call-overload]

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "open", opened)
        keep(tmp_path / "x")
    assert written == ["a.npy", "b.npy", "a.npy", "b.npy"]
    assert right(keep(tmp_path / "x"))


def test_two_runs_at_once(tmp_path: Path) -> None:
    (tmp_path / "x.part").mkdir()
    with alone(tmp_path / "x.part"), pytest.raises(OutputError, match="another run is at work"):
        keep(tmp_path / "x")
    assert right(keep(tmp_path / "x"))


def test_what_is_damaged_is_named(tmp_path: Path) -> None:
    keep(tmp_path / "x")
    (tmp_path / "x" / "a.npy").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"x: cannot be read: .*; delete it"):
        keep(tmp_path / "x")


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    def full(_start: int, _end: int) -> dict[str, torch.Tensor]:
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"x.part: cannot be written: No space left on device; free some space"):
        keep(tmp_path / "x", full)
