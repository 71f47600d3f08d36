"""What a pass is given and gives back.

A pass is one file in `compress/passes/`; the file's name is its name in a recipe. It holds

    class Config(PassConfig)         see `compress.settings`; the field descriptions are the documentation
    def run(model, config, context) -> PassResult[Denoiser | Quantized | Bundle]
    def forecast(model, config, context) -> Forecast       only if `run` takes long: what `compress plan` calls

What a pass accepts and returns is read from the annotations of `run`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from pydantic import field_validator

from compress.data import DataConfig, Dataset
from compress.diffusion.sampling import Guidance
from compress.diffusion.schedulers import SamplingOptions
from compress.errors import PassError
from compress.model.denoiser import Denoiser
from compress.pipeline.pipeline import Parts
from compress.processes import ALONE, Processes
from compress.settings import Frozen

Model = TypeVar("Model", covariant=True)
MOST = 10_000_000  # images, steps, rounds, … that a recipe may ask for


class PassConfig(Frozen):
    """Base of every pass's `Config`. Its whole numbers are counts, and none may be larger than memory ever is.

    together: whether the processes of a command run the pass together, and not the first of them alone.
    """

    together: ClassVar[bool] = False

    @field_validator("*")
    @classmethod
    def _countable(cls, value: Any) -> Any:
        given = value if isinstance(value, tuple) else (value,)
        if any(type(number) is int and number > MOST for number in given):
            raise ValueError(f"should be at most {MOST}")
        return value


@dataclass(frozen=True)
class PassResult(Generic[Model]):
    """What a pass gives back. notes: what it found and did, JSON-able, for the record."""

    model: Model
    changed: bool
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Unwritten:
    """A bundle as a plan foresees it, of a model that takes too long to export for that. size_bytes: about."""

    denoiser: Denoiser
    batch: int | None
    size_bytes: int


@dataclass(frozen=True)
class Forecast:
    """What `compress plan` says of a pass: the model it would give, and what running it would cost.

    memory_bytes: peak beyond the models themselves.
    """

    model: Any
    seconds: float = 0.0
    memory_bytes: int = 0


class Task(Protocol):
    """One line of progress."""

    def advance(self, count: int = 1, **shown: float) -> None:
        """Count steps as done; `shown` are figures to print beside the bar."""


@dataclass(frozen=True)
class Finished:
    """A finished pass of the recipe. load: the model it gave."""

    name: str
    kind: str
    load: Callable[[], Any]


@dataclass(frozen=True)
class Context:
    """What a pass may use besides its model and its config.

    name: of the pass in its recipe. recipe: the recipe's name. workdir: kept if the pass is killed and given back to it
    when it runs again. output: what a pass leaves here is moved to the recipe's output folder. teacher, dataset: loaded
    when first asked for. pictures: the data set as it is seen, where `dataset` has latents. around: what is around the
    teacher's net; parts: around that of the model so far. finished: the passes before this one that changed the model.
    allow_pickle: whether files that are programs may be run. progress: `with progress("sampling", total) as task` shows
    a bar. guidance, sampling: as the recipe asks. processes: that run the pass together. track: opens a tracker of
    Accelerate's for a run of that name, where somebody watches.
    """

    name: str
    recipe: str
    seed: int
    device: torch.device
    workdir: Path
    output: Path
    guidance: Guidance
    sampling: SamplingOptions
    data: DataConfig | None
    teacher: Callable[[], Denoiser]
    dataset: Callable[[], Dataset]
    progress: Callable[[str, int], AbstractContextManager[Task]]
    log: Callable[[str], None]
    pictures: Callable[[], Dataset] | None = None
    around: Callable[[], Parts] = Parts
    parts: Callable[[], Parts] = Parts
    finished: Sequence[Finished] = ()
    allow_pickle: bool = False
    processes: Processes = ALONE
    track: Callable[[str], Any] | None = None

    def leader(self, name: str | None) -> Denoiser:
        """The float model that a pass before this one gave, by the pass's name; None: the teacher. Raises PassError."""
        if name is None:
            return self.teacher()
        found = next((one for one in self.finished if one.name == name), None)
        if found is None:
            known = ", ".join(one.name for one in self.finished) or "none"
            raise PassError(f"{self.name}: teacher: no pass {name!r} before this one; there are: {known}")
        model = found.load()
        if not isinstance(model, Denoiser) or model.precision is not None:
            raise PassError(f"{self.name}: teacher: {name} gives no float model")
        return model

    def training_data(self) -> Dataset:
        """The part of the data that may be trained on."""
        return self.dataset().split()[0]
