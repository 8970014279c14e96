"""W3C Trace Context: what is a place in a trace and what is not."""

from __future__ import annotations

import pytest

from octuor.server.trace_context import TraceContext, parse_traceparent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("parent", "is_sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f" 00-{TRACE}-{SPAN}-03 ", True),
        (f"cc-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like", True),
    ],
)
def test_a_parent(parent: str, is_sampled: bool) -> None:
    assert parse_traceparent(parent, "a=1") == TraceContext(TRACE, SPAN, is_sampled, "a=1")


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0x",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01.more",
    ],
)
def test_what_is_none_is_passed_over(parent: str) -> None:
    assert parse_traceparent(parent) is None


def test_a_state_beyond_its_limit_is_dropped() -> None:
    found = parse_traceparent(f"00-{TRACE}-{SPAN}-01", "a=" + "1" * 600)
    assert found is not None
    assert found.state == ""
