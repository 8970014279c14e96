"""The page as it is seen and used: pictures, the keyboard, a phone, the dark, five languages."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from ui.chromium import PHONE, Chat, until

SENDS = {"en": "message", "fr": "message", "de": "Nachricht", "it": "messaggio", "es": "mensaje"}
# Everything on the page that is wider than the window, but what scrolls by itself.
WIDER = """
return [...document.querySelectorAll('body *')].filter(e => {
  const box = e.getBoundingClientRect();
  if (!box.width || !box.height || (box.right <= innerWidth + 1 && box.left >= -1)) return false;
  for (let over = e; over; over = over.parentElement) {
    const style = getComputedStyle(over);
    if (style.visibility === 'hidden' || style.opacity === '0') return false;
    if (over !== e && over !== document.body && style.overflowX !== 'visible') return false;
    if (style.position === 'fixed') return false;
  }
  return true;
}).map(e => e.tagName + '#' + e.id + '.' + e.className).slice(0, 5)
"""
# What has the focus: the ids around it, what it is, and whether something shows it.
FOCUS = """
const e = document.activeElement, style = getComputedStyle(e), ids = [];
for (let over = e; over; over = over.parentElement) if (over.id) ids.push(over.id);
const ring = (s) => s.outlineStyle !== 'none' || s.boxShadow !== 'none';
return [ids, e.tagName, ring(style) || [...'12345'].some((_, n) => {
  let over = e;
  for (let up = 0; up <= n && over; up++) over = over.parentElement;
  return over && over.matches(':focus-within') && ring(getComputedStyle(over));
}) || style.borderColor !== getComputedStyle(e.parentElement || e).borderColor]
"""


def talk(chat: Chat) -> None:
    """A conversation to be looked at: the same words each time."""
    chat.set("seed", 5)
    chat.set("temperature", 0.5)
    chat.click("#toggle-settings")
    chat.say("Hello! How are you?")
    chat.say("Tell me a story about a little dog.")


def tab(chat: Chat, place: int) -> None:
    """The chat's tab, the observatory's, the memory's."""
    tabs = [found for found in chat.all("button[role='tab']") if found.is_displayed()]
    tabs[place].click()


def test_pictures_of_each_tab_in_light_and_dark(chat: Chat) -> None:
    talk(chat)
    chat.picture("chat")
    tab(chat, 1)
    until(lambda: len(chat.all("#observatory-text .tok")) > 5, "coloured tokens")
    until(lambda: chat.all("#observatory-heat *"), "the heat map")
    chat.picture("observatory")
    tab(chat, 2)
    until(lambda: "pocket" in chat.one("#memory").text, "the model's memory")
    chat.picture("memory")
    tab(chat, 0)
    chat.click("#theme")
    until(lambda: chat.script("return document.body.classList.contains('dark')"), "the dark")
    colour = chat.script("return getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", colour)[:3])) < 80, colour
    chat.picture("chat-dark")
    tab(chat, 1)
    chat.picture("observatory-dark")
    chat.click("#theme")
    until(lambda: not chat.script("return document.body.classList.contains('dark')"), "the light")
    assert chat.complaints() == []


def test_the_dark_of_the_system_is_the_pages(another: Callable[..., Chat]) -> None:
    chat = another()
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    chat.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    chat.open()
    assert chat.script("return document.body.classList.contains('dark')")


def test_a_phone_shows_all_of_it(another: Callable[..., Chat]) -> None:
    chat = another(size=PHONE, phone=True).open()
    assert chat.script("return innerWidth") == PHONE[0]
    assert chat.script(WIDER) == []
    chat.say("Hello!")
    assert chat.script(WIDER) == []
    chat.picture("phone")
    box = chat.one("#message textarea").rect
    assert box["width"] > 0.6 * PHONE[0]
    assert box["y"] + box["height"] <= PHONE[1]  # to be reached without scrolling
    chat.click("#toggle-conversations")
    until(lambda: any(found.is_displayed() for found in chat.all("#conversations li button")), "the list")
    chat.picture("phone-conversations")
    chat.all("#conversations li button")[0].click()
    until(
        lambda: not chat.is_seen("#new-conversation") or not chat.is_seen("#conversations li button"), "the chat again"
    )
    chat.settings_open()
    assert chat.script(WIDER) == []
    chat.picture("phone-settings")
    chat.one("#message textarea").send_keys(Keys.ESCAPE)
    tab(chat, 1)
    until(lambda: chat.all("#observatory-text .tok"), "coloured tokens")
    assert chat.script(WIDER) == []
    chat.picture("phone-observatory")


def test_all_of_it_is_used_with_the_keyboard(chat: Chat) -> None:
    keys = ActionChains(chat.driver)

    def press(*pressed: str) -> None:
        for key in pressed[:-1]:
            keys.key_down(key)
        keys.send_keys(pressed[-1])
        for key in pressed[:-1]:
            keys.key_up(key)
        keys.perform()
        keys.reset_actions()

    until(
        lambda: chat.script("return document.activeElement?.closest('#message') !== null"), "the box to have the focus"
    )
    press("One line")
    press(Keys.SHIFT, Keys.ENTER)
    press("and another")
    assert chat.value("#message textarea") == "One line\nand another"
    press(Keys.ENTER)
    chat.answered(1)
    assert chat.texts("user") == ["One line\nand another"]
    press(Keys.CONTROL, Keys.SHIFT, "o")
    until(lambda: not chat.texts("user"), "a new conversation")
    chat.choose("endless")
    chat.set("max-new-tokens", 3000)
    chat.ask("Go on.")
    until(lambda: chat.is_answering and chat.answers and len(chat.answers[0]) > 20, "an answer under way")
    press(Keys.ESCAPE)
    until(lambda: not chat.is_answering, "the answer to stop")


def test_the_tab_key_reaches_what_can_be_done(chat: Chat) -> None:
    """In an order, with a ring around what has the focus."""
    chat.say("Hello!")
    chat.script("document.activeElement.blur(); document.body.tabIndex = -1; document.body.focus()")
    wanted = {
        "new-conversation",
        "search",
        "rename",
        "model",
        "retry",
        "undo",
        "continue",
        "message",
        "theme",
        "language",
    }
    seen, without_ring = set(), []
    for _ in range(60):
        ActionChains(chat.driver).send_keys(Keys.TAB).perform()
        found = chat.script(FOCUS)
        seen.update(found[0])
        if not found[2] and found[1] != "BODY":
            without_ring.append(found[:2])
    assert wanted <= seen, wanted - seen
    assert without_ring == []


@pytest.mark.parametrize("language", SENDS)
def test_the_page_speaks_five_languages(chat: Chat, language: str) -> None:
    Select(chat.one("select#language, #language select")).select_by_value(language)
    until(lambda: chat.script("return document.documentElement.lang") == language, f"the page in {language}")
    chat.loaded()
    chat.complaints()  # of what the page that was left had under way
    said = chat.script("return document.querySelector('#message textarea').placeholder")
    assert SENDS[language].lower() in said.lower()
    assert language == "en" or "Search" not in chat.script("return document.body.innerText")
    chat.say("Hello!")
    assert chat.complaints() == []


def test_everything_has_a_name_for_screen_readers(chat: Chat) -> None:
    chat.say("Hello!")
    nodes = chat.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = ("button", "textbox", "combobox", "slider", "spinbutton", "tab", "link", "checkbox", "searchbox")
    nameless = [
        node["role"]["value"]
        for node in nodes
        if not node["ignored"] and node.get("role", {}).get("value") in roles
        and not node.get("name", {}).get("value", "").strip()
    ]  # fmt: skip
    assert nameless == []
