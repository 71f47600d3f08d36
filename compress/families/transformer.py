"""What transformers on patches have in common: `transformer_blocks` on tokens [b,tokens,width], and their table."""

from typing import Any

from diffusers.models.embeddings import PatchEmbed


def blocks(net: Any, kind: type) -> dict[str, Any]:
    """The blocks of a class that are there, by their paths."""
    return {
        f"transformer_blocks.{i}": block for i, block in enumerate(net.transformer_blocks) if isinstance(block, kind)
    }


def fill_table(net: Any) -> None:
    """The sines and cosines of positions [1,tokens,width], which no file holds."""
    size, patch, own = net.config.sample_size, net.config.patch_size, net.pos_embed
    scale = own.interpolation_scale
    filled = PatchEmbed(size, size, patch, net.config.in_channels, net.inner_dim, interpolation_scale=scale)
    own.pos_embed = filled.pos_embed


def counterpart(name: str, student: Any, teacher: Any) -> str:
    """Blocks at the same share of the depth; the first and the last stay."""
    part, _, rest = name.partition(".")
    if part != "transformer_blocks":
        return name
    index, _, rest = rest.partition(".")
    last, theirs = len(student.transformer_blocks) - 1, len(teacher.transformer_blocks) - 1
    return f"transformer_blocks.{round(int(index) * theirs / max(last, 1))}.{rest}"
