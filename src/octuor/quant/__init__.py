"""Number formats, one row each. A new format is one entry here, its layout in a module beside."""

from octuor.errors import FormatError
from octuor.quant.base import Format
from octuor.quant.grouped import Q2, Q3, Q4, Q5, Q6
from octuor.quant.int8_exact import Q8
from octuor.quant.plain import BF16, F16, F32
from octuor.quant.q8_0 import Q8_0

__all__ = [
    "BF16", "F16", "F32", "FORMATS", "IN_PACKS", "Q2", "Q3", "Q4", "Q5", "Q6", "Q8", "Q8_0", "Format", "find_format",
    "find_in_packs",
]  # fmt: skip

FORMATS: dict[str, Format] = {row.name: row for row in (F32, F16, BF16, Q8, Q6, Q5, Q4, Q3, Q2)}
# What a pack may hold: also what is chosen for single matrices only.
IN_PACKS: dict[str, Format] = FORMATS | {Q8_0.name: Q8_0}


def find_format(name: str) -> Format:
    """The format called `name`; FormatError with the names there are."""
    if name not in FORMATS:
        raise FormatError(f"number format: expected one of {', '.join(FORMATS)}; found {name!r}")
    return FORMATS[name]


def find_in_packs(name: str) -> Format:
    """The format of a pack's matrix called `name`; FormatError with the names there are."""
    if name not in IN_PACKS:
        raise FormatError(f"number format: expected one of {', '.join(IN_PACKS)}; found {name!r}")
    return IN_PACKS[name]
