"""An analysis of a tiny model, made once."""

from __future__ import annotations

import pytest

from octuor.api import Model
from octuor.ops.native import NativeOps
from octuor.tools.routing.analysis import Analysis, analyse
from octuor.tools.routing.texts import Domain
from tiny_models import random_checkpoint

NASTY = '</script><script>alert(1)</script> <img src=x onerror="alert(2)"> &amp; $x$\n\tend'
DOMAINS = (
    Domain("stories & <b>", ("Once upon a time, there was a dog.", "The end of the day came.")),
    Domain("code", ("def f(x):\n    return x",)),
)


@pytest.fixture(scope="session")
def tiny() -> Model:
    return Model(random_checkpoint(), NativeOps(threads=2), context=64, cache_dtype="f16")


@pytest.fixture(scope="session")
def analysis(tiny: Model) -> Analysis:
    """Two domains, and a text that would be markup if it could."""
    return analyse(tiny, "tiny", DOMAINS, [Domain("nasty", (NASTY,))])
