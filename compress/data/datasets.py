"""Images in a data set of Hugging Face's library `datasets`, on disk."""

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from compress.data.dataset import Dataset
from compress.data.pictures import decode, pictures
from compress.data.texts import Texts
from compress.errors import DataError, short, suggest
from compress.files import cache_folder, raising, walk
from compress.settings import Existing, Frozen

_SUFFIX = ".parquet"


class Datasets(Frozen):
    """A folder that `Dataset.save_to_disk` made, or .parquet files; read by `pip install 'compress-diffusion[data]'`.

    Pictures are the bytes of files, as its feature Image keeps them. Nothing is fetched and no script is run.
    """

    source: Literal["datasets"]
    path: Existing
    split: str | None = Field(None, description="one of several; of .parquet files those whose names begin with it")
    image: str = Field("image", description="column of pictures")
    label: str = Field("label", description="column of whole numbers, for class-conditional models")
    text: str | None = Field(None, description="column of captions; default: `text` or `caption`, if there is one")
    resize: bool = Field(False, description="scale and centre-crop images that have another size than the model's")

    def read(self, shape: tuple[int, ...], conditions: Collection[str]) -> Dataset:
        """All images, with labels where they are asked for, and captions."""
        with self._blamed():
            found = self._opened().with_format("arrow")
            table = found.data
            names: list[str] = list(table.column_names)
        if not len(found):
            raise DataError(f"{self.path}: holds no images")
        self._check(self.image, names)

        def read(i: int) -> np.ndarray:
            where = f"{self.path}: `{self.image}` {i}"
            with self._blamed():
                value = table.column(self.image)[i].as_py()
            content = value.get("bytes") if isinstance(value, dict) else value
            if not isinstance(content, bytes):
                raise DataError(f"{where}: should be the bytes of a picture; got {short(value)}: save them with it")
            return decode(content, where, shape, self.resize)

        images, made = pictures(self.path, len(found), shape, read), {}
        if "class_labels" in conditions:
            self._check(self.label, names)
            made["class_labels"] = torch.from_numpy(self._labels(table.column(self.label)))
        text = self.text or next((name for name in ("text", "caption") if name in names), None)
        if text is None:
            return Dataset(images, made)
        self._check(text, names)
        captions = table.column(text)
        if captions.null_count or str(captions.type) not in ("string", "large_string", "string_view"):
            raise DataError(f"{self.path}: `{text}` should be a text for each image; got {captions.type}")
        return Dataset(images, made, Texts(len(found), lambda i: captions[i].as_py()))

    def _labels(self, column: Any) -> np.ndarray:
        if column.null_count or not str(column.type).startswith(("int", "uint")):
            raise DataError(f"{self.path}: `{self.label}` should be a whole number for each image; got {column.type}")
        return column.to_numpy().astype(np.int64)

    def _check(self, column: str, names: list[str]) -> None:
        if column not in names:
            raise DataError(f"{self.path}: has no column `{column}`{suggest(column, names)}")

    def _opened(self) -> Any:
        """The data set, mapped into memory; .parquet files are unpacked into the cache for it, once."""
        library = _library()
        if self.path.is_dir() and not any(self.path.glob("**/*" + _SUFFIX)):
            found = library.load_from_disk(str(self.path), keep_in_memory=False)
            if not isinstance(found, library.DatasetDict):
                return found
            name = self.split or (next(iter(found)) if len(found) == 1 else None)
            if name not in found:
                raise DataError(f"{self.path}: has the splits {', '.join(found)}; name one of them by `split`")
            return found[name]
        files = [str(file) for file in self._files()]
        return library.Dataset.from_parquet(files, cache_dir=str(cache_folder() / "datasets"), keep_in_memory=False)

    def _files(self) -> list[Path]:
        if not self.path.is_dir():
            return [self.path]
        with raising(DataError, self.path):
            files = [Path(entry.path) for entry in walk(self.path) if entry.name.endswith(_SUFFIX)]
        files = [file for file in files if file.name.startswith(self.split or "")]
        if not files:
            raise DataError(f"{self.path}: holds no .parquet files whose names begin with {self.split}")
        return files

    @contextlib.contextmanager
    def _blamed(self) -> Iterator[None]:
        """What the libraries raise, whatever it is, as a DataError in one line."""
        try:
            yield
        except DataError:
            raise
        except Exception as error:  # of many kinds
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DataError(f"{self.path}: cannot be read as a data set: {reason}") from None


def _library() -> Any:
    """The library `datasets`, without its bars. Raises DataError where it is missing."""
    try:
        import datasets
    except ImportError:
        raise DataError("data: source: datasets is read by a library: pip install 'compress-diffusion[data]'") from None
    datasets.disable_progress_bars()
    return datasets
