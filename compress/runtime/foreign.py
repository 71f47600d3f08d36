"""A denoiser's graph that another tool wrote: which of its inputs is which of ours, and how their axes lie.

By name, as diffusers, optimum and phone vendors have them; else by shape and type, where that leaves no doubt; or as
one says. Start with `match`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import BundleError, suggest
from compress.runtime.engine import Graph, Specs

SAMPLE, TIMESTEP = "sample", "timestep"
# Other names of ours, letters and digits alone.
NAMES: Mapping[str, tuple[str, ...]] = {
    SAMPLE: ("latent", "latents", "latentmodelinput", "noisylatents", "hiddenstates", "x", "xt", "image", "input"),
    TIMESTEP: ("timesteps", "time", "t", "step"),
    "encoder_hidden_states": ("textemb", "textembeddings", "promptembeds", "embeddings", "context", "text"),
    "class_labels": ("labels", "label", "classes", "y"),
    "text_embeds": ("pooledpromptembeds", "addtextembeds", "pooledprojections"),
    "pooled_projections": ("pooledpromptembeds", "textembeds"),
    "time_ids": ("addtimeids",),
    "encoder_attention_mask": ("attentionmask", "promptattentionmask"),
}
_DTYPES = {"tensor(double)": "float64", "tensor(bool)": "bool"}  # what bundles do not have
Shape = tuple[int | None, ...]  # None: any size


@dataclass(frozen=True)
class Ours:
    """What a denoiser takes. shape: of one item; whole: a whole number; beside: channels beside the sample's."""

    shape: Shape
    whole: bool = False
    beside: bool = False


@dataclass(frozen=True)
class Input:
    """An input of the graph. order: axes of ours, behind the batch, in the order that they have there."""

    name: str
    ours: str
    dtype: str
    shape: Shape
    order: tuple[int, ...]

    def laid(self, value: np.ndarray) -> np.ndarray:
        """A batch of ours as the graph takes it."""
        moved = value.transpose(0, *(1 + axis for axis in self.order))
        if moved.ndim != len(self.shape):  # of axes of one more, or fewer
            sizes = iter(size for size in moved.shape[1:] if size != 1)
            moved = moved.reshape(len(value), *(1 if size == 1 else next(sizes) for size in self.shape[1:]))
        return _cast(moved, self.dtype)


@dataclass(frozen=True)
class Foreign:
    """An opened graph, to be asked as a denoiser is. batch: items that it takes at once; None: any number.

    one_time: whether it is told one timestep for all items. output: place among the outputs, and order of its axes.
    """

    graph: Graph
    inputs: tuple[Input, ...]
    batch: int | None
    one_time: bool
    output: tuple[int, tuple[int, ...]]

    def feeds(self, sample: np.ndarray, told: float, conditions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the graph is fed, for exactly as many items as it takes."""
        given, found = {SAMPLE: sample, **conditions}, {}
        taken = {one.ours for one in self.inputs}
        beside = [value for name, value in conditions.items() if name not in taken and value.ndim == sample.ndim]
        given[SAMPLE] = np.concatenate([sample, *beside], axis=1)
        for one in self.inputs:
            if one.ours == TIMESTEP:
                count = 1 if self.one_time else len(sample)
                sizes = (count, 1)[: len(one.shape)] if one.shape else ()
                found[one.name] = _cast(np.full(sizes, told), one.dtype)
            else:
                found[one.name] = one.laid(given[one.ours])
        return found

    def __call__(self, sample: np.ndarray, told: float, conditions: Mapping[str, np.ndarray]) -> np.ndarray:
        """Output float32 [b,c,…] for samples [b,c,…] that are told one number; a fixed batch is filled by repeating."""
        count, parts = len(sample), []
        place, order = self.output
        back = (0, *(1 + int(axis) for axis in np.argsort(order)))
        for start in range(0, count, self.batch or count):
            index = np.arange(start, start + (self.batch or count)) % count
            chosen = {name: value[index] for name, value in conditions.items()}
            try:
                found = self.graph.run(self.feeds(sample[index], told, chosen))[place]
            except Exception as error:  # engines raise exception types of their own
                as_fed = ", ".join(f"{one.name}={one.ours}" for one in self.inputs)
                reason = " ".join(str(error).split())
                raise BundleError(f"the file cannot be run with {as_fed}: {reason}; is this what they are?") from None
            parts.append(found.transpose(back)[:, : sample.shape[1]].astype(np.float32))
        return np.concatenate(parts)[:count]


def match(graph: Graph, ours: Mapping[str, Ours], said: Mapping[str, str], file: Path) -> Foreign:
    """Find what is what. ours: sample, timestep and conditions; said: ours by names of theirs. Raises BundleError."""
    shapes = {name: _shape(spec) for name, spec in graph.inputs.items()}
    dtypes = {name: _dtype(name, spec, file) for name, spec in graph.inputs.items()}
    for names, known in ((said, shapes), (said.values(), ours)):
        for name in (name for name in names if name not in known):
            raise BundleError(f"--inputs: {name!r} is no input of {file} or of its teacher{suggest(name, list(known))}")
    found = {**said, **_by_name([n for n in shapes if n not in said], [n for n in ours if n not in said.values()])}
    joined = [name for name, one in ours.items() if one.beside and name not in found.values()]
    channels = sum(ours[name].shape[0] or 0 for name in (SAMPLE, *joined))
    wanted = {name: one for name, one in ours.items() if name not in joined}
    wanted[SAMPLE] = Ours((channels, *ours[SAMPLE].shape[1:]))
    found |= _by_shape(
        (theirs, name)
        for theirs in shapes.keys() - found.keys()
        for name, one in wanted.items()
        if name not in found.values()
        and order_of(shapes[theirs], one, name) is not None
        and (name == TIMESTEP or np.dtype(dtypes[theirs]).kind in ("iu" if one.whole else "f"))
    )
    orders = {name: order_of(shapes[name], wanted[known], known) for name, known in found.items()}
    batches = {shape[0] for name, shape in shapes.items() if shape and found.get(name) != TIMESTEP} - {None}
    matched = set(found) == set(shapes) and sorted(found.values()) == sorted(wanted)
    if not matched or None in orders.values() or len(batches) > 1:
        raise BundleError(_unmatched(file, graph.inputs, wanted, found, orders))
    inputs = [Input(name, known, dtypes[name], shapes[name], orders[name] or ()) for name, known in found.items()]
    sample, time = (
        graph.inputs[name]["shape"][:1] for one in (SAMPLE, TIMESTEP) for name in found if found[name] == one
    )
    return Foreign(
        graph, tuple(inputs), batches.pop() if batches else None, sample != time, _output(graph, ours[SAMPLE], file)
    )


def order_of(theirs: Shape, ours: Ours, name: str = "") -> tuple[int, ...] | None:
    """In which order axes of ours, behind the batch, are those of theirs: as they are, or channels last; axes of one
    item count for nothing. None: in neither."""
    if name == TIMESTEP:
        return () if len(theirs) <= 2 and set(theirs[1:]) <= {None, 1} else None
    if not theirs:
        return None
    axes = tuple(range(len(ours.shape)))
    for bare in (lambda shape: shape, lambda shape: tuple(size for size in shape if size != 1)):
        for order in dict.fromkeys((axes, (*axes[1:], *axes[:1]))):
            laid, there = bare(tuple(ours.shape[axis] for axis in order)), bare(theirs[1:])
            if len(laid) == len(there) and all(a == b or None in (a, b) for a, b in zip(laid, there, strict=True)):
                return order
    return None


def _by_name(theirs: Sequence[str], ours: Sequence[str]) -> dict[str, str]:
    """Ours by names of theirs: the same names first, so that another name of one is never taken for it."""
    found: dict[str, str] = {}
    for names in ({one: (_plain(one),) for one in ours}, NAMES):
        for one in (one for one in ours if one not in found.values()):
            same = [name for name in theirs if name not in found and _plain(name) in names.get(one, ())]
            found |= {name: one for name in same[:1]}
    return found


def _by_shape(possible: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Ours by names of theirs, from all pairs that are possible, wherever only one can be meant."""
    left, found = set(possible), dict[str, str]()
    while sure := [pair for pair in left if any(sum(one[i] == pair[i] for one in left) == 1 for i in (0, 1))]:
        theirs, ours = min(sure)
        found[theirs] = ours
        left = {pair for pair in left if pair[0] != theirs and pair[1] != ours}
    return found


def _output(graph: Graph, sample: Ours, file: Path) -> tuple[int, tuple[int, ...]]:
    """The first output that has the sample's shape, with or without a variance behind its channels."""
    channels, *sides = sample.shape
    for place, spec in enumerate(graph.outputs.values()):
        for count in (channels, 2 * (channels or 0)):
            order = order_of(_shape(spec), Ours((count, *sides)))
            if order is not None and len(spec["shape"]) == 1 + len(order):
                return place, order
    raise BundleError(
        f"{file}: has no output of the sample's shape {_said(sample.shape)}; found {_listed(graph.outputs)}"
    )


def _unmatched(
    file: Path,
    inputs: Specs,
    wanted: Mapping[str, Ours],
    found: Mapping[str, str],
    orders: Mapping[str, tuple[int, ...] | None],
) -> str:
    """What was found, what is expected, what to give."""
    here = ", ".join(f"{name} {'whole' if one.whole else 'real'} {_said(one.shape)}" for name, one in wanted.items())
    pairs = [f"{theirs}={ours}{' (other sizes)' * (orders[theirs] is None)}" for theirs, ours in found.items()]
    return (
        f"{file}: its inputs cannot be matched with the teacher's; found {_listed(inputs)}; expected, for each item, "
        f"{here}; matched {', '.join(pairs) or 'none'}; say which is which by --inputs theirs=ours, once for each, or "
        "export it for the teacher's inputs and sizes"
    )


def _listed(specs: Specs) -> str:
    return ", ".join(f"{name} {spec['dtype']} {_said(spec['shape'])}" for name, spec in specs.items())


def _said(shape: Sequence[Any]) -> str:
    return f"[{', '.join('any' if size is None else str(size) for size in shape)}]"


def _shape(spec: Mapping[str, Any]) -> Shape:
    return tuple(size if isinstance(size, int) and size > 0 else None for size in spec["shape"])


def _dtype(name: str, spec: Mapping[str, Any], file: Path) -> str:
    """numpy's name of a type. Raises BundleError for what numpy does not have."""
    dtype = _DTYPES.get(spec["dtype"], spec["dtype"])
    try:
        return np.dtype(dtype).name
    except TypeError:
        said = f"is of type {dtype}, which cannot be fed; export it with floats of 16 or 32 bits"
        raise BundleError(f"{file}: its input {name} {said}") from None


def _cast(value: np.ndarray, dtype: str) -> np.ndarray:
    whole = np.dtype(dtype).kind in "iu" and value.dtype.kind == "f"
    return np.array(np.rint(value) if whole else value, dtype, order="C")


def _plain(name: str) -> str:
    return "".join(sign for sign in name.lower() if sign.isalnum())
