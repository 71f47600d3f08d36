"""Architectures: a folder each, the only place that names its blocks or imports `diffusers.models`.

What a pass may ask of one is `family.Family`; `replacements` holds modules that stand in for others in any of them.
A family imports torch, diffusers, `compress.errors` and this room. To add one: its folder, and its line in the list.
Start reading with `family.py`, then `unet/common.py`.
"""

from compress.families.dit import dit
from compress.families.family import Family
from compress.families.pixart import pixart
from compress.families.sd3 import sd3
from compress.families.unet import unet1d, unet2d, unet2d_condition

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        unet2d.FAMILY,
        unet2d_condition.FAMILY,
        dit.FAMILY,
        unet1d.FAMILY,
        sd3.FAMILY,
        pixart.FAMILY,
    )
}
