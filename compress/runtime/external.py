"""Names of the files that an ONNX graph takes weights from, read without the onnx package.

A graph is a Protocol Buffers message; of its fields those are followed that lead to a tensor (onnx/onnx.proto).
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

from compress.errors import BundleError

_Bytes = memoryview
# message -> field -> message
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_KEY, _VALUE = 1, 2  # fields of an entry
_LOCATION = b"location"


def external_files(file: Path) -> set[str]:
    """Every location that a tensor of the graph in `file` names, wherever it stands. Raises BundleError."""
    if not file.stat().st_size:
        return set()
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(_LOCATION) < 0:  # almost always: no need to look further
            return set()
        graph = content[:]
    try:
        return set(_locations(memoryview(graph)))
    except (ValueError, IndexError):
        raise BundleError(f"{file}: is no ONNX graph; copy or export it again") from None


def _locations(content: _Bytes) -> Iterator[str]:
    waiting = [("model", content)]  # a list, not calls within calls: graphs may nest deeply
    while waiting:
        kind, message = waiting.pop()
        entry = {}
        for field, value in _parts(message):
            if kind == "entry":
                entry[field] = bytes(value)
            elif field in _FIELDS[kind]:
                waiting.append((_FIELDS[kind][field], value))
        if entry.get(_KEY) == _LOCATION:
            yield entry.get(_VALUE, b"").decode()


def _parts(message: _Bytes) -> Iterator[tuple[int, _Bytes]]:
    """(field, content) of every part of a message that has a length. Raises ValueError or IndexError."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        tag, kind = tag & 0xFFFFFFFF, tag & 7  # 32 bits, as for every other reader
        if kind == 0:
            _, place = _varint(message, place)
        elif kind in (1, 5):
            place += 8 if kind == 1 else 4
        elif kind == 2:
            size, place = _varint(message, place)
            if size > len(message) - place:
                raise ValueError("a part is longer than the whole")
            yield tag >> 3, message[place : place + size]
            place += size
        else:
            raise ValueError(f"wire type {kind}")


def _varint(message: _Bytes, place: int) -> tuple[int, int]:
    """(value, place after it)."""
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
        if shift > 63:
            raise ValueError("a number of more than ten bytes")
