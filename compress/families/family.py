"""What a pass may ask of an architecture: values and plain functions, of which each family fills in its own."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from compress.families.replacements import Edit, writer
from compress.families.texts import Texts


@dataclass(frozen=True)
class Condition:
    """One input beside sample and timestep. shape: of one item, without the batch dimension.

    dropped: whether guidance without a null class leaves it out. concatenated: whether it is channels beside the
    sample's, of its sides.
    """

    dtype: torch.dtype
    shape: tuple[int, ...] = ()
    dropped: bool = False
    concatenated: bool = False


def sides(config: Mapping[str, Any], dimensions: int = 2) -> tuple[int, ...]:
    """Height and width of a sample, or its length. A size that is one number is every side's."""
    size = config["sample_size"]
    return tuple(map(int, (size,) * dimensions if isinstance(size, int) else size))


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
    merged: at export all are merged into one product, so that none is float or int8 by itself.
    large: where linear layers are large and many, so that four bits for a weight pay.
    tables: of embeddings, that are rounded as weights are.
    """

    ends: tuple[str, ...]
    small_inputs: tuple[str, ...] = ()
    merged: tuple[str, ...] = ()
    large: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """One architecture: how to build it, call it, take it apart and read its features.

    name, folder: diffusers' class name, as in `config.json`, and name of the folder in a pipeline.
    dimensions: of a sample [channels, …] beside its channels: 1 of sound, 2 of images.
    once: class names in configs that were written before the class had its own.
    refuse: why a config of this class cannot be used, or None.
    classes: number of labels, the null class included; None: it takes none.
    multiple: of which number the sides of a sample should be a multiple; of a net for one size alone, that size.
    any_size: whether a net takes samples of other sizes than its config's, in multiples of that number.
    conditions: the conditions of a net in its order; `tokens` is the text length.
    call: what a net gives for (itself, sample, timestep, conditions, scalars): a tensor whose first channels are the
        prediction. Conditions that are concatenated are part of the sample. scalars [b]: `told`, then those that were
        added.
    scalars: path → width of the modules (or of None) that may give way to a `ScalarEmbedding`, and then take what
        that takes; what they give [b,width] is added to an embedding of time. ValueError: why a net has none.
    told: names of the scalars that a net takes by itself.
    texts: how a pipeline makes the conditions of a net with this config of texts, by its model_index.json; None: it
        does not, or in a way that is not known.
    stages: tap name → path of the module that gives that stage's feature map, and path of the layer that writes its
        channels.
    feature: that map, of what such a module gives.
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
    lora: (tensors of a LoRA file without alphas, config of a net) → the same by the names that diffusers has for them,
        `folder.layer…`, `text_encoder.layer…`; None: it reads none for this class.
    """

    name: str
    folder: str
    build: Callable[[Mapping[str, Any]], nn.Module]
    refuse: Callable[[Mapping[str, Any]], str | None]
    classes: Callable[[nn.Module], int | None]
    multiple: Callable[[Mapping[str, Any]], int]
    conditions: Callable[[nn.Module, int], dict[str, Condition]]
    call: Callable[
        [Any, torch.Tensor, torch.Tensor, Mapping[str, torch.Tensor], tuple[torch.Tensor, ...]], torch.Tensor
    ]
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
    told: Callable[[nn.Module], tuple[str, ...]] = lambda net: ()
    texts: Callable[[Mapping[str, Any], Mapping[str, Any]], Texts | None] = lambda config, index: None
    feature: Callable[[Any], torch.Tensor] = lambda output: output[0] if isinstance(output, tuple) else output
    tables: Callable[[nn.Module], None] = lambda net: None
    narrower: Callable[[nn.Module, float, int, Literal["narrow", "remove"]], nn.Module] | None = None
    sinusoids: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    lora: Callable[[dict[str, torch.Tensor], Any], dict[str, torch.Tensor]] | None = None
    once: tuple[str, ...] = ()
    dimensions: int = 2
    any_size: bool = False

    def sample_shape(self, config: Mapping[str, Any]) -> tuple[int, ...]:
        """(channels, length) or (channels, height, width) of one sample."""
        return (self.channels(config), *sides(config, self.dimensions))

    def channels(self, config: Mapping[str, Any]) -> int:
        """Channels of a sample: a net may take conditions as channels beside them, and give a variance."""
        taken = int(config["in_channels"])
        return min(taken, int(config.get("out_channels") or taken))

    def positional(self, net: nn.Module) -> nn.Module:
        """A module f(sample, timestep, *conditions, *scalars) -> prediction [b,c,…] around a net."""
        return Positional(net, self)

    def heads(self, net: nn.Module) -> dict[nn.Module, int]:
        """The layers that write queries, keys and values → into how many heads."""
        return {
            writer(net.get_submodule(path)): block.heads
            for block in self.attention(net).values()
            for path in block.paths
        }


class Positional(nn.Module):
    """f(sample [b,c,…], timestep [b], *conditions, *scalars [b]) -> prediction [b,c,…], without a variance.

    In the sample's type, whatever the net computes in.
    """

    def __init__(self, net: nn.Module, family: Family) -> None:
        super().__init__()
        self.net: Any = net
        self.call = family.call
        self.conditions = family.conditions(net, 1)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
        dtype, count = next(self.net.parameters()).dtype, len(self.conditions)  # `net.dtype` asks every module
        values = [value.to(dtype) if value.is_floating_point() else value for value in given[:count]]
        conditions = dict(zip(self.conditions, values, strict=True))
        beside = [conditions.pop(name) for name, one in self.conditions.items() if one.concatenated]
        whole = torch.cat([sample.to(dtype), *beside], dim=1) if beside else sample.to(dtype)
        output = self.call(self.net, whole, timestep, conditions, given[count:])
        channels = sample.shape[1]
        return (output if output.shape[1] == channels else output[:, :channels]).to(sample.dtype)
