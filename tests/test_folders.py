"""Only folders that were made here are removed, and a folder is written whole or not at all."""

import errno
import os
import subprocess
import sys

import pytest

from compress.errors import CheckpointError, OutputError
from compress.folders import MARK, alone, foreign, own_folder, remove_leftovers, remove_own, write_folder


def files(**content: str):
    def write(part):
        for name, text in content.items():
            (part / "deep").mkdir(exist_ok=True)
            (part / "deep" / name).write_text(text)

    return write


def names(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != MARK)


def test_a_folder_replaces_its_earlier_self_with_all_its_content(tmp_path):
    write_folder(tmp_path / "x", files(old="1", both="1"))
    write_folder(tmp_path / "x", files(new="2", both="2"))
    assert names(tmp_path) == ["x", "x/deep", "x/deep/both", "x/deep/new"]
    assert (tmp_path / "x" / "deep" / "both").read_text() == "2"


def theirs(path):
    path.mkdir()
    (path / "thesis").write_text("mine")


def empty(path):
    path.mkdir()


def a_file(path):
    path.write_text("mine")


def added(path):
    write_folder(path, files(ours="1"))
    (path / "deep" / "thesis").write_text("mine")


def linked(path):
    write_folder(path.with_name("elsewhere"), files(ours="1"))
    path.symlink_to(path.with_name("elsewhere"), target_is_directory=True)


def dangling(path):
    path.symlink_to(path.with_name("nowhere"))


def piped(path):
    path.mkdir()
    os.mkfifo(path / MARK)


@pytest.mark.parametrize("make", [theirs, empty, a_file, added, linked, dangling, piped])
@pytest.mark.parametrize("act", [lambda path: write_folder(path, lambda _: pytest.fail("wrote")), remove_own])
def test_what_was_not_made_here_is_never_removed(tmp_path, make, act):
    make(tmp_path / "x")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match=r"x.*: was not written by this version"):
        act(tmp_path / "x")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("make", [theirs, a_file, linked, dangling])
def test_a_folder_of_work_is_not_made_of_somebody_elses(tmp_path, make):
    make(tmp_path / "x")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError):
        own_folder(tmp_path / "x")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_of_work_goes_with_everything_in_it_but_what_it_links_to(tmp_path):
    theirs(tmp_path / "thesis")
    own_folder(tmp_path / "work")
    own_folder(tmp_path / "work")
    files(state="1")(tmp_path / "work")
    (tmp_path / "work" / "link").symlink_to(tmp_path / "thesis", target_is_directory=True)
    remove_own(tmp_path / "work")
    remove_own(tmp_path / "work")
    assert names(tmp_path) == ["thesis", "thesis/thesis"]


@pytest.mark.parametrize("error", [RuntimeError("disk full"), KeyboardInterrupt()])
def test_a_failed_writer_leaves_nothing_behind_and_the_old_folder_as_it_was(tmp_path, error):
    def fail(part):
        files(half="2")(part)
        raise error

    for expected in ([], ["x", "x/deep", "x/deep/old"]):
        with pytest.raises(type(error)):
            write_folder(tmp_path / "x", fail)
        assert names(tmp_path) == expected
        write_folder(tmp_path / "x", files(old="1"))


def test_a_file_that_comes_to_the_old_folder_while_the_new_one_is_written_is_kept(tmp_path):
    write_folder(tmp_path / "x", files(old="1"))

    def write(part):
        files(new="2")(part)
        (tmp_path / "x" / "thesis").write_text("mine")

    with pytest.raises(OutputError, match="thesis"):
        write_folder(tmp_path / "x", write)
    assert [path.read_text() for path in tmp_path.rglob("thesis")] == ["mine"]


def test_a_removal_that_was_interrupted_can_go_on(tmp_path, monkeypatch):
    write_folder(tmp_path / "x", files(one="1"))
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            remove_own(tmp_path / "x")
    assert foreign(tmp_path / "x") is None
    remove_own(tmp_path / "x")
    assert names(tmp_path) == []


def test_leftovers_of_killed_runs_go_and_nothing_else(tmp_path):
    own_folder(tmp_path / ".x.12.part")
    own_folder(tmp_path / ".x.12.old")
    (tmp_path / ".y.json.12.part").write_text("half")
    theirs(tmp_path / ".z.12.part")
    own_folder(tmp_path / "x.part")
    (tmp_path / ".y.json.part").write_text("mine")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".y.json.part", ".z.12.part", ".z.12.part/thesis", "x.part"]


def test_a_second_run_is_told_and_the_lock_ends_with_its_process(tmp_path):
    code = "import os, sys; from pathlib import Path; from compress.folders import alone\n"
    code += "with alone(Path(sys.argv[1])): print('in', flush=True); sys.stdin.read(); os._exit(9)"
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "in\n"
        with pytest.raises(OutputError, match="another run"), alone(tmp_path):
            pytest.fail("two at once")
        first.kill()
    with alone(tmp_path) as still:
        still()
        (tmp_path / ".lock").unlink()
        with pytest.raises(OutputError, match="was moved or deleted"):
            still()


def test_a_run_that_fails_because_its_folder_has_gone_says_so(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="was moved or deleted"), alone(tmp_path / "out"):
        (tmp_path / "out").rename(tmp_path / "moved")
        raise CheckpointError("no such file")


def test_a_folder_that_cannot_be_made_is_the_systems_own_error(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError) as caught:
        write_folder(tmp_path / "file" / "x", files(new="1"))
    assert caught.value.errno == errno.ENOTDIR
