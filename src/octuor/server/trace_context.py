"""Where a request stands in its caller's trace: the header `traceparent` of W3C Trace Context.

Source: https://www.w3.org/TR/trace-context/, sections 3.2 and 4.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MAX_STATE = 512  # characters that have to be passed on; longer ones may be dropped


@dataclass(frozen=True)
class TraceContext:
    """A caller's place in a trace.

    trace_id    32 hexadecimal digits
    span_id     16 of the caller's own span
    is_sampled  the caller records its part
    state       `tracestate` as it came, for other systems
    """

    trace_id: str
    span_id: str
    is_sampled: bool
    state: str = ""


def parse_traceparent(parent: str, state: str = "") -> TraceContext | None:
    """The place that the headers tell; None where they tell none, which is then as if they were not there."""
    match = _PARENT.fullmatch(parent.strip())
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    is_of_the_future = version != "00"
    if version == "ff" or (rest and not is_of_the_future) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & 1), state if len(state) <= _MAX_STATE else "")
