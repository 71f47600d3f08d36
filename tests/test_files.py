"""Writing that is complete or not there at all."""

import errno
import json
import math
import os
import sys

import pytest

from compress import files
from compress.errors import OutputError
from compress.files import write_atomically, write_json, write_text


def write_file(content: str):
    def write(part):
        part.write_text(content)

    return write


def tree(folder) -> dict[str, str | None]:
    found = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_text() if path.is_file() else None for path in found}


def test_file_is_written_in_a_new_folder(tmp_path):
    write_atomically(tmp_path / "a" / "b" / "c.txt", write_file("new"))
    assert tree(tmp_path) == {"a": None, "a/b": None, "a/b/c.txt": "new"}


def test_file_replaces_a_file(tmp_path):
    (tmp_path / "x").write_text("old")
    write_atomically(tmp_path / "x", write_file("new"))
    assert tree(tmp_path) == {"x": "new"}


def half_a_file(part):
    part.write_text("half")
    raise RuntimeError("disk full")


def nothing_at_all(part):
    raise RuntimeError("disk full")


@pytest.mark.parametrize("write", [half_a_file, nothing_at_all])
def test_failed_writer_leaves_nothing_behind(tmp_path, write):
    with pytest.raises(RuntimeError, match="disk full"):
        write_atomically(tmp_path / "x", write)
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("write", [half_a_file, nothing_at_all])
def test_failed_writer_leaves_the_old_one(tmp_path, write):
    write_file("old")(tmp_path / "x")
    before = tree(tmp_path)
    with pytest.raises(RuntimeError, match="disk full"):
        write_atomically(tmp_path / "x", write)
    assert tree(tmp_path) == before


def test_interrupt_leaves_nothing_behind(tmp_path):
    def interrupted(part):
        part.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "x", interrupted)
    assert tree(tmp_path) == {}


def test_writer_that_writes_nothing_is_an_error_and_keeps_the_old_file(tmp_path):
    (tmp_path / "x").write_text("old")
    with pytest.raises(OutputError, match="No such file"):
        write_atomically(tmp_path / "x", lambda part: None)
    assert tree(tmp_path) == {"x": "old"}


def test_leftover_of_a_killed_run_does_not_matter(tmp_path):
    used = []
    write_atomically(tmp_path / "other", lambda part: used.append(part) or write_file("")(part))
    write_file("left")(used[0].with_name(used[0].name.replace("other", "x")))
    write_atomically(tmp_path / "x", write_file("new"))
    assert tree(tmp_path) == {"other": "", "x": "new"}


def test_nobody_sees_a_half_written_file(tmp_path):
    def write(part):
        part.write_text("half")
        assert part.parent == tmp_path and not (tmp_path / "x").exists()
        part.write_text("whole")

    write_atomically(tmp_path / "x", write)
    assert tree(tmp_path) == {"x": "whole"}


def test_text_is_utf8(tmp_path):
    write_text(tmp_path / "x", "σ² ≥ 0\n")
    assert (tmp_path / "x").read_bytes() == "σ² ≥ 0\n".encode()


def test_json_is_readable_by_eye_and_by_machine(tmp_path):
    content = {"name": "größer", "list": [1, 2.5, None, True]}
    write_json(tmp_path / "x.json", content)
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == content
    assert "größer" in text and text.count("\n") > 4 and text.endswith("}\n")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_json_refuses_what_it_has_not(tmp_path, bad):
    write_json(tmp_path / "x.json", {"value": 1})
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"deep": [{"value": bad}]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"value": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


@pytest.fixture
def target(tmp_path, request):
    """Something that is no ordinary file, with a file of somebody's behind it."""
    kind = request.param
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text").write_text("mine")
    if kind == "folder":
        return tmp_path / "thesis"
    if kind == "link":
        (tmp_path / "link").symlink_to(tmp_path / "thesis", target_is_directory=True)
    if kind == "pipe":
        os.mkfifo(tmp_path / "pipe")
    return tmp_path / kind


@pytest.mark.parametrize("target", ["folder", "link", "pipe"], indirect=True)
def test_a_file_never_replaces_what_is_no_file(tmp_path, target):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match="give a") as caught:
        write_atomically(target, lambda part: pytest.fail("wrote before it looked"))
    assert str(target) in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "thesis" / "text").read_text() == "mine"


@pytest.mark.parametrize("name", ["file/x", "n" * 300, "missing/x"])
def test_a_place_that_cannot_be_written_is_one_error(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="cannot be written"):
        write_atomically(tmp_path / name, write_file("new"), parents=False)
    assert tree(tmp_path) == {"file": "mine"}


@pytest.mark.parametrize(("code", "advice"), [(errno.ENOSPC, "free some space"), (errno.EACCES, "another place")])
def test_advice_fits_the_reason(tmp_path, code, advice):
    def write(part):
        raise OSError(code, os.strerror(code))

    with pytest.raises(OutputError, match=advice):
        write_atomically(tmp_path / "x", write)


@pytest.mark.parametrize("name", ["x" * 300, "file"])
def test_folders_made_for_a_file_that_cannot_be_written_go_again(tmp_path, name):
    def write(part):
        raise ValueError("no")

    (tmp_path / "kept").mkdir()
    with pytest.raises((OutputError, ValueError)):
        write_atomically(tmp_path / "kept" / "new" / "er" / name, write)
    assert list(tmp_path.rglob("*")) == [tmp_path / "kept"]


def test_what_no_text_can_hold_is_read_back_from_json(tmp_path):
    content = {"path": os.fsdecode(b"/data/\xff"), "words": "σ² ≥ 0"}
    write_json(tmp_path / "x.json", content)
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == content


def linked(folder, content: bytes = b"weights") -> bool:
    """Whether `copy` makes a second name for a large file; the copy holds the same in any case."""
    (folder / "one").write_bytes(content)
    files.copy(folder / "one", folder / "two")
    assert (folder / "two").read_bytes() == content
    return (folder / "one").samefile(folder / "two")


@pytest.mark.skipif(sys.platform == "win32", reason="files are copied there")
def test_a_large_file_gets_a_second_name_that_nobody_can_write_into(tmp_path, monkeypatch):
    assert not linked(tmp_path) and (tmp_path / "one").stat().st_mode & 0o200
    monkeypatch.setattr(files, "LARGE", 5)
    (tmp_path / "two").unlink()
    assert linked(tmp_path)
    assert not (tmp_path / "one").stat().st_mode & 0o222
    files.copy(tmp_path / "two", tmp_path / "three")  # our own names, which are safe
    assert (tmp_path / "one").samefile(tmp_path / "three")
    (tmp_path / "one").unlink()
    write_atomically(tmp_path / "two", write_file("other"))
    assert tree(tmp_path) == {"three": "weights", "two": "other"}


def test_a_file_that_is_linked_already_or_cannot_be_is_copied(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGE", 5)
    (tmp_path / "one").write_bytes(b"")
    (tmp_path / "theirs").hardlink_to(tmp_path / "one")
    assert not linked(tmp_path)
    assert (tmp_path / "theirs").stat().st_mode & 0o200  # somebody else's, who may write into it

    def refused(*_):
        raise OSError(errno.EPERM, "no links here")

    for path in tmp_path.iterdir():
        path.unlink()
    monkeypatch.setattr(os, "link", refused)
    assert not linked(tmp_path)
    assert all(path.stat().st_mode & 0o200 for path in tmp_path.iterdir())
