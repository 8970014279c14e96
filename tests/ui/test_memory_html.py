"""The memory page says what the Status says, and escapes what others named."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from octuor.experts.store import StoreStats
from octuor.ui.backend import ModelStatus, Status
from octuor.ui.memory_html import failed_html, memory_html, parts_of
from octuor.ui.texts import LANGUAGES

RESIDENT = np.arange(3 * 8).reshape(3, 8) % 5 > 1
STREAMED = ModelStatus(
    name="a <b>model</b>",
    resident=RESIDENT,
    expert_bytes=24_000_000,
    held_bytes=15_000_000,
    other_bytes=4_000_000,
    cache_pages=2000,
    pages_used=100,
    pages_known=30,
    page_tokens=64,
    page_bytes=20_000,
    tokens_per_s=12.34,
    prompt_tokens_per_s=None,
    running=2,
    waiting=1,
    store=StoreStats(900, 100, 5, 7_500_000, 1.25, (5, 5, 5), 15_000_000, 16_000_000),
)
STATUS = Status((STREAMED,), process_bytes=30_000_000, limit_bytes=32_000_000, headroom_bytes=2_000_000)


def text_of(markup: str) -> str:
    return re.sub(r"<[^>]*>", " ", markup)


def test_parts_add_up_to_what_may_be_taken() -> None:
    parts = parts_of(STATUS)
    assert (parts.experts, parts.others, parts.cache, parts.headroom) == (15_000_000, 4_000_000, 2_000_000, 2_000_000)
    taken = parts.experts + parts.others + parts.cache + parts.work
    assert taken == STATUS.process_bytes
    assert taken + parts.headroom == STATUS.limit_bytes


def test_weights_that_were_never_touched_leave_nothing_for_work() -> None:
    assert parts_of(replace(STATUS, process_bytes=5_000_000)).work == 0


def test_the_bar_and_its_legend_have_each_part() -> None:
    markup = memory_html(STATUS, "en")
    found = dict(re.findall(r'data-part="(\w+)" data-bytes="(\d+)"', markup))
    assert found == {name: str(n_bytes) for name, n_bytes in vars(parts_of(STATUS)).items()}
    shares = [float(share) for share in re.findall(r"flex-grow:([\d.]+)", markup)]
    assert sum(shares) == pytest.approx(1, abs=1e-4)
    assert "30.00\u202fMB of 32.00\u202fMB taken, 2.00\u202fMB may still be taken" in markup


def test_the_grid_has_a_row_an_expert_and_a_column_a_layer() -> None:
    rows = re.findall(r'<tr data-e="(\d)">(.*?)</tr>', memory_html(STATUS, "en"))
    assert [int(expert) for expert, _ in rows] == list(range(8))
    cells = [re.findall(r'<td class="(in|out)" title="([^"]*)"', row) for _, row in rows]
    assert np.array_equal(np.array([[kind == "in" for kind, _ in row] for row in cells]), RESIDENT.T)
    assert cells[0][0][1] == "Layer 0, expert 0: on disk"
    assert cells[2][0][1] == "Layer 0, expert 2: in memory"


def test_numbers_are_those_of_the_store_and_the_cache() -> None:
    text = text_of(memory_html(STATUS, "en"))
    assert f"{RESIDENT.sum()} of 24 experts are in memory: 15.00\u202fMB of 24.00\u202fMB." in text
    assert "90.0\u202f% of 1,000 visits" in text
    assert "7.50\u202fMB; waited 1.2 s for it" in text
    assert "100 of 2,000 in use (6,400 tokens, 2.00\u202fMB); 30 of them remember beginnings" in text


def test_tiles_add_up_models_and_tell_what_is_not_known() -> None:
    both = replace(STATUS, models=(STREAMED, replace(STREAMED, tokens_per_s=1.0)))
    tiles = dict(re.findall(r'data-tile="(\w+)">(.*?)</div>', memory_html(both, "en")))
    assert [text_of(tiles[name]).split()[-2] for name in ("answers", "prompts")] == ["13.3", "–"]
    assert [text_of(tiles[name]).split()[-1] for name in ("running", "waiting")] == ["4", "2"]


def test_names_are_escaped() -> None:
    markup = memory_html(STATUS, "en")
    assert "<b>model</b>" not in markup
    assert "a &lt;b&gt;model&lt;/b&gt;" in markup
    assert "<i>" not in failed_html("<i>no</i>")


@pytest.mark.parametrize("language", LANGUAGES)
def test_all_kinds_of_models_are_told_of_in_every_language(language: str) -> None:
    mapped = replace(STREAMED, store=None, resident=np.ones((3, 8), np.bool_))
    dense = replace(STREAMED, store=None, resident=np.ones((3, 1), np.bool_))
    unknown = replace(STREAMED, store=replace(STREAMED.store, hits=0, misses=0))  # type: ignore[type-var]
    markup = memory_html(replace(STATUS, models=(mapped, dense, unknown), limit_bytes=None), language)  # type: ignore[arg-type]
    assert f'lang="{language}"' in markup
    assert markup.count('class="grid"') == 2
    assert markup.count("--memory") == 1
    assert "{" not in markup
    assert ("30,00" in markup) == (language != "en")


def test_an_address_that_tells_nothing_is_one_line() -> None:
    assert memory_html(None, "en").count("<p") == 1
    assert "does not tell" in memory_html(None, "en")
