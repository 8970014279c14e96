"""What the chat looks like: messages, the line below them, the list of conversations."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from octuor.ui.backend import ChatSettings, ModelCard
from octuor.ui.chat_view import chat_messages, conversations_html, status_html
from octuor.ui.conversations import Conversation, Ending, Turn
from octuor.ui.talk import Live, Shown
from octuor.ui.texts import LANGUAGES, Language

QUESTION = Turn("user", "Why?")
ANSWER = Turn("assistant", "Because.", "stop", "mixtral", 20, 5, 7.25)
CARD = ModelCard("mixtral", 32768, can_observe=True)
NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


def texts(shown: Shown, language: Language = "en") -> list[tuple[str, str]]:
    return [(message["role"], message["content"][0]["text"]) for message in chat_messages(shown, language)]


def line(shown: Shown, language: Language = "en", card: ModelCard | None = CARD) -> list[str]:
    html = status_html(shown, language, card)
    return [part.partition(">")[2] for part in html.split("</span>")[:-1]]


def test_each_turn_is_a_message_in_its_place() -> None:
    assert texts(Shown(None, (QUESTION, ANSWER))) == [("user", "Why?"), ("assistant", "Because.")]
    indented = Turn("user", "    code")
    assert texts(Shown(None, (indented,))) == [("user", "    code")]


def test_an_answer_without_a_word_yet_waits() -> None:
    shown = Shown(None, (QUESTION, Turn("assistant", "")), Live(0, None, 2.4))
    assert "waiting" in texts(shown)[1][1]
    assert line(shown) == ["Reading, 2 s"]


def test_an_error_is_one_line_after_the_messages_and_holds_no_html() -> None:
    shown = Shown(None, (QUESTION,), error="<b>full</b>;\n\ntry again")
    question, error = texts(shown, "de")
    assert question == ("user", "Why?")
    assert error == ("assistant", '<div class="failed"><b>Keine Antwort</b> &lt;b&gt;full&lt;/b&gt;; try again</div>')


def test_html_in_a_message_is_text() -> None:
    (shown,) = texts(Shown(None, (Turn("user", "<script>alert(1)</script> `<b>`"),)))
    assert shown[1] == "<\u2060script>alert(1)<\u2060/script> `<b>`"


def test_the_line_tells_speed_tokens_and_why_the_answer_ended() -> None:
    assert line(Shown(None, (QUESTION, ANSWER))) == [
        "7.2 tokens/s",
        "5 tokens",
        "25 of 32,768 tokens of the context",
        "complete",
    ]
    assert line(Shown(None, (QUESTION, ANSWER)), "fr") == [
        "7,2 jetons/s",
        "5 jetons",
        "25 jetons du contexte sur 32\u202f768",
        "réponse complète",
    ]
    assert line(Shown(None, (QUESTION, ANSWER)), card=None)[2] == "25 tokens in the context"


def test_what_is_not_known_is_not_told() -> None:
    unknown = replace(ANSWER, prompt_tokens=None, tokens_per_s=None, finish="cancelled")
    assert line(Shown(None, (QUESTION, unknown))) == ["5 tokens", "stopped"]
    assert line(Shown(None)) == []


def test_the_style_sheet_is_told_what_can_be_done_next() -> None:
    def classes(shown: Shown) -> list[str]:
        return [part.partition('"')[0] for part in status_html(shown, "en", CARD).split('class="')[1:]]

    assert classes(Shown(None, (QUESTION,))) == ["asked"]
    assert classes(Shown(None, (QUESTION, ANSWER)))[-1] == "ended stop"
    assert classes(Shown(None, (QUESTION, ANSWER), Live(3, 5.0, 1.0))) == ["live speed", "live answered"]
    assert classes(Shown(None, (QUESTION, replace(ANSWER, finish=None))))[-1] == "ended cancelled"


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("finish", ["stop", "length", "cancelled", "failed"])
def test_every_ending_is_told_in_every_language(language: Language, finish: Ending) -> None:
    shown = Shown(None, (QUESTION, replace(ANSWER, finish=finish)))
    assert f'class="ended {finish}"' in status_html(shown, language, CARD)


def test_an_answer_under_way_tells_how_it_goes() -> None:
    shown = Shown(None, (QUESTION, ANSWER), Live(1200, 123.4, 9.0))
    assert line(shown) == ["123 tokens/s", "1,200 tokens"]
    assert line(Shown(None, (QUESTION, ANSWER), Live(1, None, 1.0))) == ["1 tokens"]


def conversation(title: str, days_ago: int) -> Conversation:
    updated = (NOW - timedelta(days=days_ago)).timestamp()
    return Conversation(f"id{days_ago}", title, updated, updated, "mixtral", ChatSettings())


def test_conversations_stand_under_their_days() -> None:
    days = [0, 1, 2, 6, 7, 400]
    html = conversations_html([conversation(f"n{n}", n) for n in days], "id1", "en", NOW, is_search=False)
    order = ["Today", "n0", "Yesterday", "n1", "Last 7 days", "n2", "n6", "Older", "n7", "n400"]
    places = [html.index(f">{text}<") for text in order]
    assert places == sorted(places)
    assert html.count("<h3>") == html.count("<ul>") == html.count("</ul>") == 4
    assert html.count('class="current"') == 1
    assert 'id="c-id1" title="n1" class="current"' in html
    assert html.startswith('<nav id="shown-id1"')


def test_titles_are_escaped_and_on_one_line() -> None:
    # a Markdown component would take an empty line for the end of the HTML
    html = conversations_html([conversation('<script>"&\n\n# x', 0)], "", "en", NOW, is_search=False)
    assert "<script>" not in html
    assert "\n" not in html
    assert "&lt;script&gt;&quot;&amp; # x" in html


def test_an_empty_list_says_why() -> None:
    assert "Nothing found" in conversations_html([], "", "en", NOW, is_search=True)
    assert "Your conversations" in conversations_html([], "", "en", NOW, is_search=False)
