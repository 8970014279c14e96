"""The page of `octuor routing --html` in a browser: colours, layers, what a token tells; nothing is fetched or run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from octuor.api import load
from octuor.routing.colours import expert_tint
from octuor.routing.plot import Block
from octuor.tools.routing.analysis import Analysis, analyse
from octuor.tools.routing.page import routing_page
from octuor.tools.routing.texts import Domain
from ui.chromium import chromium, elsewhere, requested

NASTY = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">\n<b>end'
TEXTS = (Domain("nasty", (NASTY,)), Domain("story", ("Once upon a time there was a dog.",)))


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyse(load(), "pocket", TEXTS)


def shown(browser: Chrome, block: int, column: int) -> list[tuple[str, str]]:
    """Text and background of every token of a column, as they are seen."""
    script = """return [...document.querySelectorAll(
        `.text[data-block="${arguments[0]}"][data-column="${arguments[1]}"] > .tok`)]
        .map(e => [e.textContent, getComputedStyle(e).backgroundColor])"""
    return [tuple(pair) for pair in browser.execute_script(script, block, column)]


def expected(block: Block, layer: int) -> list[tuple[str, str]]:
    """The same by the routing."""
    pairs = []
    for piece, expert in zip(block.routing.pieces, block.routing.experts[:, layer, 0], strict=True):
        tint = expert_tint(int(expert))
        red, green, blue = (int(tint[at : at + 2], 16) for at in (1, 3, 5))
        pairs.append((piece.replace("\n", "↵\n") or "▫", f"rgb({red}, {green}, {blue})"))
    return pairs


def test_the_page(analysis: Analysis, tmp_path: Path) -> None:
    page = tmp_path / "routing.html"
    page.write_text(routing_page(analysis, [0, 5]), encoding="utf-8")
    log = tmp_path / "net.json"
    with chromium(tmp_path / "profile", f"--log-net-log={log}") as browser:
        browser.get(page.as_uri())
        for n, block in enumerate(analysis.blocks):
            assert shown(browser, n, 0) == expected(block, 0)
            assert shown(browser, n, 1) == expected(block, 5)

        Select(browser.find_elements(By.CSS_SELECTOR, "select")[0]).select_by_visible_text("3")
        for n, block in enumerate(analysis.blocks):
            assert shown(browser, n, 0) == expected(block, 3)
            assert shown(browser, n, 1) == expected(block, 5)

        about, story = browser.find_element(By.ID, "about"), analysis.blocks[1].routing
        token = browser.find_elements(By.CSS_SELECTOR, '.text[data-block="1"][data-column="0"] .tok')[3]
        ActionChains(browser).move_to_element(token).perform()
        first, second = story.experts[3, 3]
        assert f"token 3 “{story.pieces[3].strip()}”" in about.text.replace("“ ", "“")
        assert f"layer 3: experts {first} ({100 * story.weights[3, 3, 0]:.1f} %) and {second} (" in about.text
        assert "probability " in about.text
        assert about.text.count("“") == 1 + 5

        column = browser.find_element(By.CSS_SELECTOR, '.text[data-block="1"][data-column="1"]')
        column.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
        assert about.text.startswith("token 1 ")
        assert "layer 5: experts " in about.text

        assert browser.execute_script("return window.hacked") is None
        noted: Any = browser  # its logs are not typed
        assert not [entry for entry in noted.get_log("browser") if entry["level"] == "SEVERE"]
    assert not elsewhere(requested(log))
