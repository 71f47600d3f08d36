"""The families that are supported."""

from compress.models import unet2d, unet2d_condition
from compress.models.family import Family

FAMILIES: dict[str, Family] = {family.name: family for family in (unet2d.FAMILY, unet2d_condition.FAMILY)}
