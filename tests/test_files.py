"""Writing that is complete or not there at all."""

import json
import math

import pytest

from compress.files import remove, write_atomically, write_json, write_text


def write_file(content: str):
    def write(part):
        part.write_text(content)

    return write


def write_folder(**files: str):
    def write(part):
        part.mkdir()
        for name, content in files.items():
            (part / name).write_text(content)

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


def test_folder_replaces_a_folder_with_all_its_content(tmp_path):
    write_folder(old="1", both="1")(tmp_path / "x")
    write_atomically(tmp_path / "x", write_folder(both="2", new="2"))
    assert tree(tmp_path) == {"x": None, "x/both": "2", "x/new": "2"}


def test_file_replaces_a_folder(tmp_path):
    write_folder(old="1")(tmp_path / "x")
    write_atomically(tmp_path / "x", write_file("new"))
    assert tree(tmp_path) == {"x": "new"}


def test_folder_replaces_a_file(tmp_path):
    (tmp_path / "x").write_text("old")
    write_atomically(tmp_path / "x", write_folder(new="2"))
    assert tree(tmp_path) == {"x": None, "x/new": "2"}


def half_a_file(part):
    part.write_text("half")
    raise RuntimeError("disk full")


def half_a_folder(part):
    (part / "deep").mkdir(parents=True)
    (part / "deep" / "file").write_text("half")
    raise RuntimeError("disk full")


def nothing_at_all(part):
    raise RuntimeError("disk full")


@pytest.mark.parametrize("write", [half_a_file, half_a_folder, nothing_at_all])
def test_failed_writer_leaves_nothing_behind(tmp_path, write):
    with pytest.raises(RuntimeError, match="disk full"):
        write_atomically(tmp_path / "x", write)
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("write", [half_a_file, half_a_folder, nothing_at_all])
@pytest.mark.parametrize("old", [write_file("old"), write_folder(old="1")])
def test_failed_writer_leaves_the_old_one(tmp_path, old, write):
    old(tmp_path / "x")
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
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "x", lambda part: None)
    assert tree(tmp_path) == {"x": "old"}


@pytest.mark.parametrize("write", [write_file("new"), write_folder(new="2")])
@pytest.mark.parametrize("leftover", [write_file("left"), write_folder(left="1")])
def test_leftover_of_a_killed_run_does_not_matter(tmp_path, leftover, write):
    used = []
    write_atomically(tmp_path / "other", lambda part: used.append(part) or write_file("")(part))
    leftover(used[0].with_name(used[0].name.replace("other", "x")))
    write_atomically(tmp_path / "x", write)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "x"]
    assert "left" not in tree(tmp_path).values() and "x/left" not in tree(tmp_path)


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


def test_remove_takes_files_folders_and_absence(tmp_path):
    write_file("1")(tmp_path / "file")
    write_folder(inside="1")(tmp_path / "folder")
    for name in ("file", "folder", "nothing"):
        remove(tmp_path / name)
    assert tree(tmp_path) == {}


def test_remove_follows_no_link(tmp_path):
    write_folder(inside="1")(tmp_path / "folder")
    (tmp_path / "link").symlink_to(tmp_path / "folder", target_is_directory=True)
    remove(tmp_path / "link")
    assert tree(tmp_path) == {"folder": None, "folder/inside": "1"}
