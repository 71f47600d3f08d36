"""What a pass may ask of an architecture: values and plain functions, of which each family fills in its own."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from compress.families.replacements import Edit, writer


@dataclass(frozen=True)
class Condition:
    """One input beside sample and timestep. shape: of one item, without the batch dimension."""

    dtype: torch.dtype
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Projections:
    """Of an attention block: paths of the layers whose outputs [b,tokens,heads × width] are split into heads.

    key, value: None: it has none of its own. The block's module says `heads` too.
    """

    heads: int
    query: str
    key: str | None
    value: str | None

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of those that there are."""
        return tuple(path for path in (self.query, self.key, self.value) if path is not None)


@contextmanager
def _as_it_is(_net: nn.Module) -> Iterator[None]:
    yield


@dataclass(frozen=True)
class Lean:
    """Attention in fewer kernels, as nets are exported and quantized; as it stands here, nothing is to be had.

    within: while it is open, the blocks of a net that can do so compute by parts of their own: modules of these names.
    folded: paths of the layers whose weights such blocks compute with and do not read as they are.
    parts: name of a part → the layers whose weights it has or stands between, by their paths in the block. One called
        `probabilities` gives softmax(q^T k) and is fed the product.
    """

    within: Callable[[nn.Module], AbstractContextManager[None]] = _as_it_is
    folded: Callable[[nn.Module], set[str]] = lambda net: set()
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Layers:
    """Layers that want to be treated otherwise than most, as globs of their paths.

    ends: cheap layers at the ends of the net, whose error nothing later can repair.
    small_inputs: they read one small vector, and nothing computes it faster in int8: of them only the bytes count.
    float_outputs: they write small vectors that are added to maps which are float again.
    large: where linear layers are large and many, so that four bits for a weight pay.
    """

    ends: tuple[str, ...]
    small_inputs: tuple[str, ...] = ()
    float_outputs: tuple[str, ...] = ()
    large: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """One architecture: how to build it, call it, take it apart and read its features.

    name, folder: diffusers' class name, as in `config.json`, and name of the folder in a pipeline.
    dimensions: of a sample [channels, …] beside its channels: 1 of sound, 2 of images.
    once: class names in configs that were written before the class had its own.
    refuse: why a config of this class cannot be used, or None.
    classes: number of labels, the null class included; None: it takes none.
    channels: how many channels a prediction of a net of this config has.
    multiple: of which number the sides of a sample should be a multiple; of a net for one size alone, that size.
    any_size: whether a net takes samples of other sizes than its config's, in multiples of that number.
    conditions: the conditions of a net in the order of `positional`; `tokens` is the text length.
    positional: a module f(sample, timestep, *conditions, *scalars) -> prediction [b,c,h,w] around a net.
    scalars: path → width of the modules (or of None) that may give way to a `ScalarEmbedding`, and then take what
        that takes; what they give [b,width] is added to an embedding of time. ValueError: why a net has none.
    stages: tap name → path of the module whose first output is that stage's feature map, and path of the layer that
        writes its channels.
    channel_axis: where feature maps have their channels: 1 of [b,c,h,w], 2 of [b,tokens,c].
    attention: path → what is known of it, for every block.
    protected: layers whose output channels are part of the interface, or cannot be told apart.
    blocks: what can be taken out without a change of widths: path → edit, in the order of the net.
    left: kind of such an edit → what makes of a block the module that is left in its place, called as the block is.
    layouts: blocks that a layout leaves out which was published under this name.
    repair: after layers changed width or blocks gave way, put right what modules and config store about that.
    tables: fill, in a net that was built on the meta device, the buffers that no file holds.
    counterpart: (name of a student's parameter, student, teacher) → the teacher's name of it, where both are of this
        family and the student has fewer blocks.
    narrower: (net, share, multiple of channels, heads) → a plain net on the meta device whose every width has lost
        that share, heads being narrowed or removed; None: there is none. PassError: why a config cannot say that.
    sinusoids: weights [out,in] whose inputs are sines of a number at frequencies in equal ratios, then cosines.
    renamed: parts of parameters' names in old checkpoints → today's.
    """

    name: str
    folder: str
    build: Callable[[Mapping[str, Any]], nn.Module]
    refuse: Callable[[Mapping[str, Any]], str | None]
    classes: Callable[[nn.Module], int | None]
    channels: Callable[[Mapping[str, Any]], int]
    multiple: Callable[[Mapping[str, Any]], int]
    conditions: Callable[[nn.Module, int], dict[str, Condition]]
    positional: Callable[[nn.Module], nn.Module]
    scalars: Callable[[nn.Module], dict[str, int]]
    stages: Callable[[nn.Module], dict[str, tuple[str, str]]]
    channel_axis: int
    attention: Callable[[nn.Module], dict[str, Projections]]
    protected: Callable[[nn.Module], list[nn.Module]]
    blocks: Callable[[nn.Module], dict[str, Edit]]
    left: Mapping[str, Callable[[Any], nn.Module]]
    repair: Callable[[nn.Module], None]
    counterpart: Callable[[str, nn.Module, nn.Module], str]
    layers: Layers
    lean: Lean = Lean()
    layouts: Mapping[str, Callable[[nn.Module], list[str]]] = field(default_factory=dict)
    tables: Callable[[nn.Module], None] = lambda net: None
    narrower: Callable[[nn.Module, float, int, Literal["narrow", "remove"]], nn.Module] | None = None
    sinusoids: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    once: tuple[str, ...] = ()
    dimensions: int = 2
    any_size: bool = False

    def sample_shape(self, config: Mapping[str, Any]) -> tuple[int, ...]:
        """(channels, length) or (channels, height, width) of one sample. A size that is one number is every side's."""
        size = config["sample_size"]
        sides = (size,) * self.dimensions if isinstance(size, int) else size
        return (int(config["in_channels"]), *map(int, sides))

    def heads(self, net: nn.Module) -> dict[nn.Module, int]:
        """The layers that write queries, keys and values → into how many heads."""
        return {
            writer(net.get_submodule(path)): block.heads
            for block in self.attention(net).values()
            for path in block.paths
        }
