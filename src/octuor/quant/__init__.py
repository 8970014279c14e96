"""Number formats, one row each. A new format is one entry here, its layout in a module beside."""

from octuor.errors import FormatError
from octuor.quant.base import Format
from octuor.quant.grouped import Q2, Q3, Q4, Q5, Q6
from octuor.quant.int8_exact import Q8
from octuor.quant.plain import BF16, F16, F32

__all__ = ["BF16", "F16", "F32", "FORMATS", "Q2", "Q3", "Q4", "Q5", "Q6", "Q8", "Format", "find_format"]

FORMATS: dict[str, Format] = {row.name: row for row in (F32, F16, BF16, Q8, Q6, Q5, Q4, Q3, Q2)}


def find_format(name: str) -> Format:
    """The format called `name`; FormatError with the names there are."""
    if name not in FORMATS:
        raise FormatError(f"number format: expected one of {', '.join(FORMATS)}; found {name!r}")
    return FORMATS[name]
