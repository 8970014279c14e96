"""Which pages in a browser may read answers: by default those of this machine, which is where demos are tried."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# A page of a stranger could otherwise talk to a server without keys on its reader's machine.
LOCAL_PAGES = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"
EXPOSED = ("x-request-id", "retry-after")
PREFLIGHT_S = 600


def cors_options(origins: Sequence[str]) -> dict[str, Any]:
    """What Starlette's CORSMiddleware is made with.

    origins  "https://chat.example.org", or "*" for all, in addition to pages of this machine
    """
    return {
        "allow_origins": tuple(origins),
        "allow_origin_regex": LOCAL_PAGES,
        "allow_methods": ("GET", "POST"),
        "allow_headers": ("*",),
        "expose_headers": EXPOSED,
        "max_age": PREFLIGHT_S,
    }
