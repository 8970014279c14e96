"""The chat's finer points in a real browser: what is kept, what is chosen, and messages as they were written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from ui.chromium import Chat, until

MARKDOWN = 'A <b>tag</b>, `<i>code</i>`, $a<b$ and\n\n```python\nx = "<u>"\n```'


def begin_endless(chat: Chat) -> None:
    """An answer under way that does not end by itself."""
    chat.choose("endless")
    chat.set("max-new-tokens", 3000)
    chat.ask("Go on and on.")
    until(lambda: len(chat.answers) == 1 and len(chat.answers[0]) > 200, "an answer under way")


def bring(chat: Chat, document: Any, folder: Path) -> None:
    """Import a conversation."""
    file = folder / "conversation.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    chat.all("input[type='file']")[0].send_keys(str(file))


def pasted(chat: Chat, button: str) -> str:
    """What a copy button puts into the clipboard."""
    chat.click(button)
    chat.type("#message textarea", "", Keys.CONTROL + "v" + Keys.NULL)
    return until(lambda: chat.value("#message textarea"), "a text to be pasted")


def test_a_page_loaded_again_during_an_answer_has_what_was_said(chat: Chat) -> None:
    begin_endless(chat)
    until(lambda: chat.script("return location.search"), "the conversation in the address")
    before = len(chat.answers[0])
    until(lambda: len(chat.answers[0]) > before + 400, "more than a second's worth")
    chat.reload()
    until(lambda: len(chat.answers) == 1, "the answer")
    assert len(chat.answers[0]) > 100
    assert chat.texts("user") == ["Go on and on."]
    assert "stopped" in chat.status


def test_another_conversation_ends_the_answer_which_is_kept(chat: Chat) -> None:
    begin_endless(chat)
    title = chat.titles()[0]
    chat.new()
    until(lambda: not chat.is_answering, "the answer to end")
    assert chat.answers == []
    assert chat.value("#rename textarea") == ""
    chat.click(f"#conversations button[title='{title}']")
    until(lambda: len(chat.answers) == 1, "the answer")
    assert len(chat.answers[0]) > 200
    chat.set("max-new-tokens", 3)
    chat.click("#continue")
    until(lambda: "longest" in chat.status, "three tokens more")


def test_settings_belong_to_their_conversation(chat: Chat) -> None:
    chat.set("max-new-tokens", 3)
    chat.say("One.")
    chat.set("temperature", 0.35)
    chat.new()
    chat.set("temperature", 0.65)
    chat.say("Two.")
    chat.click("#conversations li:nth-child(2) button")
    until(lambda: chat.texts("user") == ["One."], "the first conversation")
    until(lambda: chat.value("#temperature input[type='number']") == "0.35", "its temperature")
    chat.reload()
    until(lambda: chat.value("#temperature input[type='number']") == "0.35", "its temperature, kept")


def test_a_starter_begins_a_conversation(chat: Chat) -> None:
    starter = chat.one("#chat .example").text
    chat.click("#chat .example")
    chat.answered(1)
    assert chat.texts("user") == [starter]


def test_a_language_is_chosen_and_a_draft_stays(chat: Chat) -> None:
    chat.type("#message textarea", "a draft")
    Select(chat.one("#language")).select_by_value("it")
    until(lambda: "Nuova conversazione" in chat.one("#new-conversation").text, "Italian")
    chat.loaded()
    until(lambda: chat.value("#message textarea") == "a draft", "the draft")
    chat.reload()
    assert "Nuova conversazione" in chat.one("#new-conversation").text
    assert chat.script("return document.documentElement.lang") == "it"
    Select(chat.one("#language")).select_by_value("en")
    until(lambda: "New conversation" in chat.one("#new-conversation").text, "English")
    chat.loaded()


def test_light_or_dark_is_chosen(chat: Chat) -> None:
    def is_dark() -> bool:
        return bool(chat.script("return document.body.classList.contains('dark')"))

    before = is_dark()
    chat.click("#theme")
    until(lambda: is_dark() is not before, "the other one")
    chat.reload()
    assert is_dark() is not before
    chat.click("#theme")
    until(lambda: is_dark() is before, "the first one")


def test_html_is_text_and_is_copied_as_it_was_written(chat: Chat, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "<u>?"}, {"role": "assistant", "content": MARKDOWN}]
    bring(chat, {"title": "Tags", "messages": messages}, tmp_path)
    until(lambda: len(chat.answers) == 1, "the answer")
    assert chat.script("return document.querySelectorAll('#chat .message :is(b, i, u)').length") == 0
    assert "A <\u2060b>tag<\u2060/b>, <i>code</i>" in chat.answers[0]
    assert chat.all("#chat .message .katex")
    assert pasted(chat, "#chat .message-buttons-left button") == MARKDOWN
    assert pasted(chat, "#chat .copy_code_button").strip() == 'x = "<u>"'


def test_what_is_no_conversation_is_refused_with_a_note(chat: Chat, tmp_path: Path) -> None:
    bring(chat, {"messages": [{"role": "tool"}]}, tmp_path)
    note = until(lambda: chat.script("return document.querySelector('.toast-wrap')?.innerText"), "a note")
    assert 'message 1: role: expected "user" or "assistant"' in note
    assert chat.answers == []
