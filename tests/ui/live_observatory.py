"""The observatory and the memory page in a real browser, beside what model.route and /metrics say."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

import octuor
from command_line import environment, program
from octuor.config import ModelConfig
from octuor.routing.colours import EXPERTS
from octuor.tokenizer import encode_chat
from serve_process import ServeProcess, serve_process
from tiny_models import random_checkpoint, write_model
from ui.chromium import PHONE, Chat, until

TOKENS = "return [...document.querySelectorAll('#observatory-text .tok')].map(e => [+e.dataset.id, +e.dataset.e])"
COLOURS = (
    "return [...document.querySelectorAll('#observatory-text .tok')].map(e => getComputedStyle(e).backgroundColor)"
)
# Moves the slider as a hand does, and says how long it took until the colours were there.
SLIDE = """
const slider = document.querySelector('#observatory-layer'), began = performance.now();
slider.value = arguments[0];
slider.dispatchEvent(new Event('input', {bubbles: true}));
getComputedStyle(document.querySelector('#observatory-text .tok')).backgroundColor;
return performance.now() - began;
"""
REQUESTS = "return performance.getEntriesByType('resource').filter(e => e.name.includes(arguments[0])).length"
WILD = (
    'A <script>window.ran = 1</script>\n\t<img src=x onerror="window.ran = 1">\u202e {{x}} ${x} $$y$$ é🐶 **b**\n\nEnd'
)


@pytest.fixture(scope="module")
def model() -> octuor.Model:
    return octuor.load()


def observatory(chat: Chat) -> None:
    chat.click("#tab-observatory-button")
    chat.one("#observatory-about")


def shown(chat: Chat) -> tuple[list[int], list[int]]:
    """Ids and experts of the tokens, once there are any."""
    found = until(lambda: chat.script(TOKENS), "coloured tokens")
    return [token_id for token_id, _ in found], [expert for _, expert in found]


def tip(chat: Chat) -> str:
    return str(chat.script("const tip = document.querySelector('.tip'); return tip.hidden ? '' : tip.innerText"))


def rgb(code: str) -> str:
    return "rgb({}, {}, {})".format(*(int(code[n : n + 2], 16) for n in (1, 3, 5)))


def test_colours_are_those_of_model_route_in_every_layer(chat: Chat, model: octuor.Model) -> None:
    chat.complaints()
    chat.set("temperature", 0)
    chat.set("max-new-tokens", 60)
    question = "Tell me a story about a dog."
    answer = chat.say(question)
    prompt = encode_chat(model.tokenizer, [{"role": "user", "content": question}])
    observatory(chat)
    said, _ = shown(chat)
    ids = [*prompt, *said]
    expected = model.route(ids, spoken=[range(len(prompt), len(ids))]).experts[len(prompt) :, :, 0]
    text = chat.script("return document.querySelector('#observatory-text').textContent")
    assert "".join(answer.split()).startswith("".join(text.split()))  # the last token is never computed
    for layer in range(model.config.n_layers):
        took_ms = chat.script(SLIDE, layer)
        assert shown(chat) == (said, expected[:, layer].tolist())
        assert chat.script(COLOURS) == [rgb(EXPERTS[expert]) for expert in expected[:, layer]]
        assert took_ms < 100
    chat.click("[data-go='0']")
    assert shown(chat)[1] == expected[:, 0].tolist()
    shares = [key.text for key in chat.all(".octuor-routing .key b")]
    counts = np.bincount(expected[:, 0], minlength=8) / len(said)
    assert shares == [f"{100 * share:.1f}\u202f%" for share in counts]
    assert chat.complaints() == []


def test_a_whole_conversation_has_each_token_once(chat: Chat, model: octuor.Model) -> None:
    chat.set("temperature", 0)
    chat.set("max-new-tokens", 30)
    questions = ["Tell me about a cat.", "And then?"]
    answers = [chat.say(question) for question in questions]
    observatory(chat)
    n_last = len(shown(chat)[0])
    chat.click("#observe-conversation")
    until(lambda: len(chat.script(TOKENS)) > n_last, "the whole conversation")
    ids, experts = shown(chat)
    talk = [{"role": "user", "content": questions[0]}, {"role": "assistant", "content": answers[0]}]
    before = len(encode_chat(model.tokenizer, talk[:1]))
    prompt = encode_chat(model.tokenizer, [*talk, {"role": "user", "content": questions[1]}])
    assert ids[: len(prompt)] == prompt
    assert len(ids) == len(prompt) + n_last
    spoken = [range(before, prompt.index(model.tokenizer.eos_id) + 1), range(len(prompt), len(ids))]
    assert experts == model.route(ids, spoken=spoken).experts[:, 0, 0].tolist()


def test_what_is_told_of_a_token_is_what_the_model_says(chat: Chat, model: octuor.Model) -> None:
    observatory(chat)
    chat.click("#observe-text")
    text = "Once upon a time there was a little dog."
    chat.type("#observatory-input textarea", text)
    chat.click("#observatory-route")
    routing = model.route(text)
    until(lambda: len(chat.script(TOKENS)) == len(routing), "the text's tokens")
    place, layer = 6, 3
    chat.script(SLIDE, layer)
    ActionChains(chat.driver).move_to_element(chat.all("#observatory-text .tok")[place]).perform()
    told = until(lambda: tip(chat), "something told")
    for expert, weight in zip(routing.experts[place, layer], routing.weights[place, layer], strict=True):
        assert re.search(rf"Expert {expert}\n{round(100 * float(weight))}\u202f%", told), told
    assert f"Probability {100 * np.exp(routing.logprobs[place]):.1f}\u202f%" in told
    for piece, logprob in zip(routing.alternatives.pieces[place], routing.alternatives.logprobs[place], strict=True):
        assert f"{piece.replace(' ', '␣')}\n{100 * np.exp(logprob):.1f}\u202f%" in told
    chat.script("scrollTo(0, document.body.scrollHeight)")
    cell = chat.all("#observatory-heat td")[0]
    ActionChains(chat.driver).move_to_element(cell).perform()
    until(lambda: "Layer 0, expert 0:" in tip(chat), "a cell's numbers")
    bar = chat.all("#observatory-repetition .bars > div")[layer]
    ActionChains(chat.driver).move_to_element(bar).perform()
    share = f"{100 * routing.repetition()[layer]:.1f}\u202f% (chance 12.5\u202f%)"
    until(lambda: share in tip(chat), "a bar's numbers")


def test_the_keyboard_walks_through_tokens_and_layers(chat: Chat, model: octuor.Model) -> None:
    observatory(chat)
    chat.click("#observe-text")
    chat.type("#observatory-input textarea", "A dog ran home.")
    chat.click("#observatory-route")
    until(lambda: len(chat.script(TOKENS)) == len(model.route("A dog ran home.")), "the text's tokens")
    n_asked = chat.script(REQUESTS, "queue/join")
    chat.script("document.querySelector('#observatory-text .tok').focus()")

    def press(*keys: str) -> str:
        ActionChains(chat.driver).send_keys(*keys).perform()
        return tip(chat)

    assert "token 2," in press(Keys.ARROW_RIGHT)
    assert "token 4," in press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert "Experts at layer 2" in press(Keys.ARROW_UP, Keys.ARROW_UP)
    assert "Experts at layer 1" in press(Keys.ARROW_DOWN)
    assert "token 1," in press(Keys.HOME)
    assert press(Keys.ESCAPE) == ""
    assert chat.value("#observatory-layer") == "1"
    assert chat.script(REQUESTS, "queue/join") == n_asked  # all of it without asking the server


def test_a_legend_key_leaves_one_experts_tokens_bright(chat: Chat) -> None:
    observatory(chat)
    chat.click("#observe-text")
    chat.type("#observatory-input textarea", "The sun was warm and the birds sang in the tall green trees.")
    chat.click("#observatory-route")
    _, experts = shown(chat)
    chat.click(f".octuor-routing .key[data-e='{experts[2]}']")
    dim = "return [...document.querySelectorAll('#observatory-text .tok')].map(e => e.classList.contains('dim'))"
    assert chat.script(dim) == [expert != experts[2] for expert in experts]
    chat.click(f".octuor-routing .key[data-e='{experts[2]}']")
    assert not any(chat.script(dim))


def test_a_text_of_any_kind_is_shown_and_not_run(chat: Chat, model: octuor.Model) -> None:
    chat.complaints()  # of what the page that was left had under way
    observatory(chat)
    chat.click("#observe-text")
    chat.one("#observatory-input textarea")
    chat.script(
        "const box = document.querySelector('#observatory-input textarea'); box.value = arguments[0];"
        "box.dispatchEvent(new Event('input', {bubbles: true}))",
        WILD,
    )
    chat.click("#observatory-route")
    routing = model.route(WILD)
    until(lambda: len(chat.script(TOKENS)) == len(routing), "the text's tokens")
    assert shown(chat)[0] == routing.ids.tolist()
    text = chat.script("return document.querySelector('#observatory-text').textContent")
    assert text == WILD.replace("\u202e", "")
    assert (
        chat.script("return document.querySelectorAll('#observatory-text :is(script, img, .katex, strong)').length")
        == 0
    )
    assert chat.script("return window.ran") is None
    sign = "return document.querySelector('#observatory-text .ctl').dataset.u"
    assert chat.script(sign) == "U+202E"
    assert chat.complaints() == []


def test_there_is_a_line_where_there_is_nothing_to_see(chat: Chat) -> None:
    observatory(chat)
    until(lambda: "Nothing to see yet" in chat.one("#observatory").text, "a line")


# ---- the memory page -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    """A model without end under a limit that a part of its experts fit in."""
    folder = tmp_path_factory.mktemp("limited")
    config = ModelConfig(
        dim=256, n_layers=6, n_heads=8, n_kv_heads=2, head_dim=32, hidden_dim=1024, vocab_size=32000, n_experts=8,
        max_seq_len=1024,
    )  # fmt: skip
    path = write_model(random_checkpoint(config), folder / "large.octuor")
    refused = subprocess.run(
        program("serve", path, "--ui", "--port", 0, "--context", 1024, "--memory", "1MB"),
        env={**environment(), "OCTUOR_HOME": str(folder)},
        capture_output=True,
        text=True,
    )
    least = re.search(r"expected at least ([\d.]+) MB", refused.stderr)
    assert least, refused.stderr
    options = ("--ui", "--context", "1024", "--memory", f"{float(least[1]) + 60:.0f}MB")
    with serve_process(folder / "home", str(path), *options) as process:
        yield process


def number_in(chat: Chat, name: str) -> float:
    text = chat.script(f"return document.querySelector('[data-tile={name}]')?.childNodes[1].textContent ?? ''")
    return float(str(text).strip().replace("–", "nan") or "nan")


def cells(chat: Chat, kind: str) -> int:
    return int(chat.script(f"return document.querySelectorAll('.octuor-memory td.{kind}').length"))


def test_the_memory_page_shows_the_store_and_moves(limited: ServeProcess, another: Callable[..., Chat]) -> None:
    chat = another(limited.url).open()
    chat.set("max-new-tokens", 900)
    chat.ask("Go on and on.")
    until(lambda: chat.answers and len(chat.answers[0]) > 20, "an answer under way")
    chat.click("#tab-memory-button")
    until(lambda: number_in(chat, "running") == 1, "one answer running")
    until(lambda: number_in(chat, "answers") > 0, "a speed")
    read = "return document.querySelector('.octuor-memory dl')?.innerText"
    before = chat.script(read)
    until(lambda: chat.script(read) != before, "numbers that move")
    assert cells(chat, "in") > 0 < cells(chat, "out")
    assert cells(chat, "in") + cells(chat, "out") == 6 * 8
    chat.picture("memory")
    chat.click("#tab-chat-button")
    chat.click("#stop")
    until(lambda: limited.gauge("_num_requests_running") == 0, "the engine to be idle")
    chat.click("#tab-memory-button")
    until(lambda: number_in(chat, "running") == 0, "none running")
    held = int(limited.gauge("_experts_held"))
    until(lambda: cells(chat, "in") == held, f"{held} experts in memory")
    visits = limited.gauge("_expert_hits_total") + limited.gauge("_expert_misses_total")
    assert f"{100 * limited.gauge('_expert_hits_total') / visits:.1f}\u202f% of {visits:,.0f} visits" in chat.script(
        read
    )
    assert f"{limited.gauge('_kv_cache_pages_used'):.0f} of {limited.gauge('_kv_cache_pages'):.0f}" in chat.script(read)
    assert chat.complaints() == []


def test_the_memory_page_asks_only_while_it_is_seen(limited: ServeProcess, another: Callable[..., Chat]) -> None:
    chat = another(limited.url).open()
    chat.click("#tab-memory-button")
    first = chat.script(REQUESTS, "queue/join")
    until(lambda: chat.script(REQUESTS, "queue/join") >= first + 2, "it to ask again")
    chat.click("#tab-chat-button")
    until(lambda: not chat.is_seen(".octuor-memory"), "the chat in its place")
    asked, at = chat.script(REQUESTS, "queue/join"), chat.script("return performance.now()")
    until(lambda: chat.script("return performance.now()") > at + 5000, "five seconds to pass")
    assert chat.script(REQUESTS, "queue/join") == asked


# ---- pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["light", "dark", "phone"])
def test_pictures(kind: str, another: Callable[..., Chat]) -> None:
    options: dict[str, object] = {"size": PHONE, "phone": True} if kind == "phone" else {"size": (1280, 1160)}
    chat = another(**options)
    if kind == "dark":
        features = [{"name": "prefers-color-scheme", "value": "dark"}]
        chat.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    chat.open()
    chat.set("seed", 7)
    if kind == "phone":
        chat.driver.find_element("tag name", "body").send_keys(Keys.ESCAPE)  # the panel lies over the chat there
    chat.say("Tell me a story about a little dog who finds a red ball.")
    observatory(chat)
    shown(chat)
    token = chat.all("#observatory-text .tok")[20]
    if kind == "phone":
        chat.script("arguments[0].click()", token)
    else:
        ActionChains(chat.driver).move_to_element(token).perform()
    until(lambda: tip(chat), "something told")
    width = "return [document.documentElement.scrollWidth, innerWidth]"
    assert chat.script(width)[0] <= chat.script(width)[1]  # nothing to scroll sideways for
    path = chat.picture(f"observatory-{kind}")
    assert path.stat().st_size > 10_000
    assert chat.complaints() == []
