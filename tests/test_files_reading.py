"""Reading files that may be anything."""

import json
import os
from pathlib import Path

import pytest

from compress import files
from compress.files import Unreadable, walk


@pytest.fixture(params=["pipe", "folder", "device", "nothing", "link to itself"])
def no_file(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """Something that is no ordinary file, and what is said of it."""
    path = tmp_path / "given"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "folder":
        path.mkdir()
    elif request.param == "device":
        path.symlink_to("/dev/zero")
    elif request.param == "link to itself":
        path.symlink_to(path)
    words = {"folder": "is a folder", "nothing": "no such file", "link to itself": "too many levels"}
    return path, words.get(request.param, "is a pipe, a socket or a device")


def test_what_is_no_file_is_not_opened(no_file: tuple[Path, str]) -> None:
    path, words = no_file
    for read in (files.check_regular, files.read_json, lambda path: files.read_text(path, 10)):
        with pytest.raises(Unreadable, match=words):
            read(path)


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "given"
    path.write_bytes(b"1234")
    assert files.read_text(path, 4) == "1234"
    with pytest.raises(Unreadable, match="holds 4 bytes; at most 3 are read"):
        files.read_text(path, 3)
    with pytest.raises(Unreadable, match="holds more than 3 bytes"):
        files.read_text(Path("/proc/self/status"), 3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "nested more than 50 deep"),
        ('{"a":' * 51 + "1" + "}" * 51, "nested more than 50 deep"),
        ("1" * 5000, "integer of thousands of digits"),
        ("{", "is not JSON: .* line 1"),
        (b"\xff", "is not UTF-8 text"),
    ],
    ids=["brackets", "mappings", "digits", "broken", "bytes"],
)
def test_json_that_is_none(tmp_path: Path, text: str | bytes, words: str) -> None:
    path = tmp_path / "given.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(Unreadable, match=words):
        files.read_json(path)


def test_json_as_deep_as_is_read(tmp_path: Path) -> None:
    path = tmp_path / "given.json"
    path.write_text("[" * 50 + "1" + "]" * 50)
    assert json.dumps(files.read_json(path)) == path.read_text()


def test_everything_in_a_folder_in_the_order_of_paths(tmp_path: Path) -> None:
    for name in ("a/x.png", "a-b/1", "a.b", "b/c/d/e", "b/c-d", "b/c.d", "ä", ".h/i", "B/1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    assert [Path(entry.path) for entry in walk(tmp_path)] == sorted(tmp_path.rglob("*"))
    with pytest.raises(Unreadable, match="cannot be listed"):
        list(walk(tmp_path / "absent"))
