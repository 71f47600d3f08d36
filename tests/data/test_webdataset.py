"""Shards: what is found in them, and what is refused by name."""

import io
import os
import struct
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress import data
from compress.data import dataset, shards
from compress.errors import DataError
from tests.data.helpers import COLOUR, png_chunk, refused
from tests.data.shards import pixels, png, samples, webdataset, write_tar

PNG = png(pixels(1)[0])


def shard(path: Path, **members: bytes) -> Path:
    """kind_number → content: png_0 is 0000.png."""
    named = {f"{int(name.split('_')[1]):04d}.{name.split('_')[0]}": content for name, content in members.items()}
    return write_tar(path / "a.tar", named)


def test_shards_follow_each_other_by_name(tmp_path: Path) -> None:
    for name in ("b", "a/2", "c"):
        write_tar(tmp_path / f"{name}.tar", samples(pixels(2)))
    (tmp_path / "notes.md").write_text("no shard")
    found = webdataset(tmp_path).read(COLOUR, ["class_labels"])
    assert len(found) == 6 and found.conditions["class_labels"][:].tolist() == [0, 1] * 3
    assert len(webdataset(tmp_path / "c.tar").read(COLOUR, [])) == 2


@pytest.mark.parametrize("content", ['{"text": "a", "label": 7}', '{"caption": "a", "label": 7, "text": 3}'])
def test_json_says_what_no_file_says(tmp_path: Path, content: str) -> None:
    file = shard(
        tmp_path, png_0=PNG, json_0=content.encode(), jpg_1=PNG, txt_1=b"b\n", cls_1=b"2\n", json_1=b'{"text": "c"}'
    )
    found = webdataset(file).read(COLOUR, ["class_labels"])
    assert list(found.texts) == ["a", "b"] and found.conditions["class_labels"][:].tolist() == [7, 2]


def test_files_of_other_kinds_and_of_the_system_are_passed_over(tmp_path: Path) -> None:
    members = {"./x/0.jpg": PNG, "./x/0.seg.png": b"mask", "./x/._0.jpg": b"mac", "./x/0.npy": b"z", "y/0.PNG": PNG}
    found = webdataset(write_tar(tmp_path / "a.tar", members)).read(COLOUR, [])
    assert len(found) == 2 and found.texts == ()


def test_a_shard_is_looked_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_tar(tmp_path / "a.tar", samples(pixels(3)))
    first = webdataset(file).read(COLOUR, ["class_labels"])
    with monkeypatch.context() as patch:
        patch.setattr(shards, "_found", lambda *_: pytest.fail("it was looked through again"))
        again = webdataset(file).read(COLOUR, ["class_labels"])
    assert torch.equal(first.images[:], again.images[:]) and list(first.texts) == list(again.texts)
    write_tar(file, samples(pixels(4)))
    assert len(webdataset(file).read(COLOUR, [])) == 4


def test_what_is_kept_of_a_shard_may_be_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    file = write_tar(tmp_path / "a.tar", samples(pixels(3)))
    webdataset(file).read(COLOUR, [])
    kept = sorted((tmp_path / "cache" / "shards").iterdir())
    assert len(kept) == 2
    for one in kept:
        one.write_bytes(one.read_bytes()[:50])
        assert len(webdataset(file).read(COLOUR, [])) == 3


def header(name: str, size: bytes, kind: bytes = b"0") -> bytes:
    """A header of a .tar file that says what it likes of the size, 12 bytes."""
    found = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    found[124:136], found[156:157], found[148:156] = size, kind, b" " * 8
    found[148:156] = b"%06o\0 " % sum(found)
    return bytes(found)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def changed(change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        file = shard(path, png_0=PNG, txt_0=b"a", png_1=PNG, txt_1=b"b")
        file.write_bytes(change(file.read_bytes()))
        return file

    return make


def written(content: bytes) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        (path / "a.tar").write_bytes(content)
        return path / "a.tar"

    return make


def linked(kind: bytes) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        with tarfile.open(path / "a.tar", "w") as opened:
            about = tarfile.TarInfo("0000.png")
            about.type, about.linkname = kind, "/etc/passwd"
            opened.addfile(about)
        return path / "a.tar"

    return make


def bomb() -> bytes:
    start = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + png_chunk(b"IDAT", zlib.compress(b"\0" * 10**5)) + png_chunk(b"IEND", b"")


END = len(padded(PNG)) + 512 + 1024  # of the first sample
HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "cut within a picture": (changed(lambda c: c[: END + 512 + 100]), "0001.png.: says that it has|0001.png: says"),
    "cut within a header": (changed(lambda c: c[: END + 100]), "breaks off, or is damaged, after"),
    "cut between samples": (changed(lambda c: c[:END]), "breaks off, or is damaged, after"),
    "a damaged header": (changed(lambda c: c[:END] + b"\xff" * 512 + c[END + 512 :]), "breaks off, or is damaged"),
    "empty": (written(b""), "cannot be read as a .tar file"),
    "zeros": (written(bytes(10240)), "holds no samples"),
    "text": (written(b"not a shard" * 100), "cannot be read as a .tar file"),
    "a picture by itself": (written(PNG), "cannot be read as a .tar file"),
    "negative size": (written(header("0.png", b"\xff" * 11 + b"\x80")), "0.png: says|cannot be read"),
    "enormous size": (written(header("0.png", b"\x80" + b"\x7f" * 11) + bytes(2048)), "0.png: says that it has"),
    "a header of gigabytes": (written(header("0.png", b"77777777777\0", b"x") + bytes(2048)), "a header of it says"),
    "headers without end": (written(header("0.png", b"00000000000\0", b"x") * 3000), "cannot be read as a .tar file"),
    "a symbolic link": (linked(tarfile.SYMTYPE), "0000.png: is a link"),
    "a hard link": (linked(tarfile.LNKTYPE), "0000.png: is a link"),
    "a device": (linked(tarfile.CHRTYPE), "0000.png: is a link, a device"),
    "a pipe within": (linked(tarfile.FIFOTYPE), "0000.png: is a link, a device"),
    "no picture": (lambda path: shard(path, png_0=PNG, txt_1=b"a", png_2=PNG), "0001: has no picture"),
    "two pictures": (lambda path: shard(path, png_0=PNG, jpg_0=PNG), "0000: has several pictures"),
    "the same name twice": (
        changed(lambda c: padded(c[: 512 + len(PNG)]) + c),
        "0000: has several pictures",
    ),
    "a caption that is not UTF-8": (lambda path: shard(path, png_0=PNG, txt_0=b"\xff\xfe"), "0000.txt: is not UTF-8"),
    "a label in words": (lambda path: shard(path, png_0=PNG, cls_0=b"cat"), "a whole number; got cat"),
    "a label of many digits": (lambda path: shard(path, png_0=PNG, cls_0=b"9" * 30), "a whole number"),
    "a caption of megabytes": (lambda path: shard(path, png_0=PNG, txt_0=b"a" * 2**21), "0000.txt: has 2,097,152"),
    "no JSON": (lambda path: shard(path, png_0=PNG, json_0=b"{"), "0000.json: is no JSON"),
    "deep JSON": (lambda path: shard(path, png_0=PNG, json_0=b"[" * 10**5), "0000.json: is no JSON"),
    "a picture of too many pixels": (lambda path: shard(path, png_0=bomb()), "0000.png: holds more than 67,108,864"),
    "no picture inside": (lambda path: shard(path, png_0=b"a"), "0000.png: cannot be read as an image"),
    "packed": (lambda path: write_tar(path / "a.tar", {"0.png": PNG}, "w:gz"), "is packed by gzip"),
    "packed by its name": (lambda path: write_tar(path / "x" / "a.tar.xz", {"0.png": PNG}, "w:xz").parent, "by xz"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_shards(name: str, tmp_path: Path) -> None:
    make, words = HOSTILE[name]
    path = make(tmp_path)
    with pytest.raises(DataError, match=words) as caught:
        data.load(webdataset(path), COLOUR, None)
    assert str(tmp_path) in str(caught.value) and len(str(caught.value)) < 500


def test_a_folder_without_shards_and_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    refused(webdataset(tmp_path / "a"), COLOUR, None, tmp_path / "a", "holds no .tar files")
    os.mkfifo(tmp_path / "pipe.tar")
    refused(webdataset(tmp_path / "pipe.tar"), COLOUR, None, tmp_path / "pipe.tar", "is a pipe")


def test_what_only_some_samples_have(tmp_path: Path) -> None:
    file = shard(tmp_path, png_0=PNG, cls_0=b"1", txt_0=b"a", png_1=PNG)
    assert data.load(webdataset(file), COLOUR, None, {}).texts == ()
    refused(webdataset(file), COLOUR, 3, "0001.png", "has no label", "1 of 2", ".cls")
    with pytest.raises(DataError, match=r"0001.png: has no caption, as 1 of 2; put a .txt beside it"):
        data.load(webdataset(file), COLOUR, None, {"encoder_hidden_states": (2, 4)}, lambda _: {})
    file = shard(tmp_path, png_0=PNG, cls_0=b"5")
    refused(webdataset(file), COLOUR, 3, "labels run from 5 to 5")


def gone(file: Path) -> None:
    file.unlink()


def shrunk(file: Path) -> None:
    os.truncate(file, 100)


def replaced(file: Path) -> None:
    write_tar(file, samples(pixels(3, seed=1)))
    os.utime(file, ns=(1, 1))


@pytest.mark.parametrize(
    ("change", "words"),
    [(gone, "cannot be read any more: no such file"), (shrunk, "has changed"), (replaced, "has changed")],
)
def test_a_shard_that_changes_while_it_is_read(
    change: Callable[[Path], Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "IN_MEMORY", 0)
    file = write_tar(tmp_path / "a.tar", samples(pixels(3)))
    found = data.load(webdataset(tmp_path), COLOUR, 3)
    change(file)
    with pytest.raises(DataError, match=words) as caught:
        found.batch(2, 0, 0)
    assert str(file) in str(caught.value)


def test_a_name_that_no_text_can_hold(tmp_path: Path) -> None:
    about = tarfile.TarInfo("a\udcff.png")
    about.size = 1
    with tarfile.open(tmp_path / "a.tar", "w") as opened:
        opened.addfile(about, io.BytesIO(b"x"))
    refused(webdataset(tmp_path / "a.tar"), COLOUR, None, "cannot be read as an image")


@given(place=st.integers(0, 10**6), value=st.integers(0, 255), kept=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_bytes_that_fell_over(place: int, value: int, kept: int) -> None:
    """Whatever stands in a shard, it is refused in one message or gives pictures."""
    with tempfile.TemporaryDirectory() as folder:
        file = write_tar(Path(folder, "a.tar"), samples(pixels(2)))
        content = bytearray(file.read_bytes())
        content[place % len(content)] = value
        file.write_bytes(content[: len(content) - (kept % len(content) if kept % 3 == 0 else 0)])
        try:
            found = data.load(webdataset(file), COLOUR, 3)
        except DataError as error:
            assert str(file) in str(error)
        else:
            assert len(found) in (1, 2) and found.images.shape[1:] == COLOUR
