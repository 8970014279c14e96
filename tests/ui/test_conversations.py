"""Conversations are kept, found, and nobody else's."""

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from octuor.errors import AccountError, UiError
from octuor.ui.backend import ChatSettings
from octuor.ui.conversations import (
    FILE_NAME,
    MAX_CONTENT,
    MAX_TITLE,
    MAX_TURNS,
    Conversation,
    Conversations,
    Turn,
    check_size,
    folded,
    open_conversations,
    title_of,
)

ANN, BOB = "browser:ann", "browser:bob"
QUESTION = Turn("user", "What is an octet?")
ANSWER = Turn("assistant", "Eight of them.", "stop", "mixtral", 12, 5, 7.5, routing=b"routes")


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Conversations]:
    seconds = iter(range(1000, 100_000))
    conversations = Conversations(tmp_path / FILE_NAME, clock=lambda: float(next(seconds)))
    yield conversations
    conversations.close()


def made(kept: Conversations, owner: str = ANN, title: str = "Music") -> Conversation:
    return kept.create(owner, title, "mixtral", ChatSettings(system="Be brief.", seed=7))


def contents(kept: Conversations, conversation: Conversation, owner: str = ANN) -> list[str]:
    return [turn.content for turn in kept.turns(owner, conversation.id)]


def test_what_is_kept_comes_back_after_opening_again(kept: Conversations) -> None:
    conversation = made(kept)
    first, second = kept.replace_from(ANN, conversation.id, 0, [QUESTION, ANSWER]) or ()
    kept.close()
    again = Conversations(kept.path)
    found = again.find(ANN, conversation.id)
    assert found is not None
    assert found.settings == ChatSettings(system="Be brief.", seed=7)
    assert (found.title, found.model, found.created) == ("Music", "mixtral", 1000.0)
    assert again.turns(ANN, conversation.id) == (first, second)
    assert (second.finish, second.prompt_tokens, second.completion_tokens, second.tokens_per_s) == ("stop", 12, 5, 7.5)
    assert second.has_routing
    assert not first.has_routing
    assert again.routing(ANN, second.id) == b"routes"
    assert again.routing(ANN, first.id) is None
    again.close()


def test_nobody_else_finds_reads_or_changes_anything(kept: Conversations) -> None:
    conversation = made(kept)
    _, answer = kept.replace_from(ANN, conversation.id, 0, [QUESTION, ANSWER]) or ()
    before = kept.find(ANN, conversation.id)
    assert kept.list(BOB) == kept.search(BOB, "octet") == kept.search(BOB, "music") == ()
    assert kept.find(BOB, conversation.id) is None
    assert kept.turns(BOB, conversation.id) == ()
    assert kept.routing(BOB, answer.id) is None
    assert not kept.rename(BOB, conversation.id, "Mine")
    assert not kept.configure(BOB, conversation.id, "other", ChatSettings())
    assert not kept.delete(BOB, conversation.id)
    assert kept.replace_from(BOB, conversation.id, 0, [QUESTION]) is None
    assert not kept.update(BOB, conversation.id, answer)
    mine = made(kept, BOB)
    assert not kept.update(BOB, mine.id, answer)  # Ann's answer, under Bob's conversation
    assert kept.find(ANN, conversation.id) == before
    assert contents(kept, conversation) == [QUESTION.content, ANSWER.content]


def test_the_list_begins_with_what_was_written_last(kept: Conversations) -> None:
    one, two, three = (made(kept, title=title) for title in ("one", "two", "three"))
    kept.replace_from(ANN, two.id, 0, [QUESTION])
    assert [found.id for found in kept.list(ANN)] == [two.id, three.id, one.id]
    kept.rename(ANN, one.id, "another name")  # is not writing
    assert [found.id for found in kept.list(ANN)] == [two.id, three.id, one.id]


def test_a_conversation_is_cut_and_goes_on_in_one_step(kept: Conversations) -> None:
    conversation = made(kept)
    kept.replace_from(ANN, conversation.id, 0, [QUESTION, ANSWER, Turn("user", "Why?")])
    kept.replace_from(ANN, conversation.id, 1, [Turn("assistant", "Nine."), Turn("user", "No.")])
    assert contents(kept, conversation) == [QUESTION.content, "Nine.", "No."]
    with pytest.raises(ValueError, match="expected 7 messages before these, found 3"):
        kept.replace_from(ANN, conversation.id, 7, [QUESTION])
    assert contents(kept, conversation) == [QUESTION.content, "Nine.", "No."]


def test_an_answer_that_was_cut_off_stays_so(kept: Conversations) -> None:
    conversation = made(kept)
    _, answer = kept.replace_from(ANN, conversation.id, 0, [QUESTION, ANSWER]) or ()
    assert kept.update(ANN, conversation.id, Turn("assistant", "Eight", "cancelled", id=answer.id))
    assert contents(kept, conversation)[1] == "Eight"
    assert kept.routing(ANN, answer.id) is None  # it belonged to the other text
    kept.replace_from(ANN, conversation.id, 0, [Turn("user", "Anew"), ANSWER])
    assert not kept.update(ANN, conversation.id, Turn("assistant", "late", id=answer.id))
    assert contents(kept, conversation) == ["Anew", ANSWER.content]


def test_deleting_takes_the_messages_along(kept: Conversations) -> None:
    conversation = made(kept)
    _, answer = kept.replace_from(ANN, conversation.id, 0, [QUESTION, ANSWER]) or ()
    assert kept.delete(ANN, conversation.id)
    assert not kept.delete(ANN, conversation.id)
    assert not kept.update(ANN, conversation.id, answer)
    with sqlite3.connect(kept.path) as database:
        assert database.execute("SELECT count(*) FROM messages").fetchone() == (0,)
    database.close()


@pytest.mark.parametrize("text", ["octet", "OCTET", "elegie", "Élégie", "strasse", "an octet", "100%", "a_b"])
def test_search_finds_titles_and_messages_whatever_their_case_and_accents(kept: Conversations, text: str) -> None:
    words = "What is an octet? ÉLÉGIE, Straße, 100% a_b"
    by_title, by_message, other = (made(kept, title=title) for title in (words, "one", "another"))
    kept.replace_from(ANN, by_message.id, 0, [Turn("user", words)])
    kept.replace_from(ANN, other.id, 0, [Turn("user", "100 times axb")])
    assert {found.id for found in kept.search(ANN, text)} == {by_title.id, by_message.id}


def test_an_empty_search_lists_all(kept: Conversations) -> None:
    made(kept)
    assert kept.search(ANN, "  ") == kept.list(ANN) != ()


def test_names_are_one_line_and_not_empty(kept: Conversations) -> None:
    conversation = made(kept, title="  two\nlines \x00 ")
    assert conversation.title == "two lines"
    kept.rename(ANN, conversation.id, "x" * 500)
    assert kept.list(ANN)[0].title == "x" * MAX_TITLE
    with pytest.raises(UiError, match="empty"):
        kept.rename(ANN, conversation.id, " \n ")


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("What is an octet?", "What is an octet?"),
        ("\n\n# A heading\nand more", "A heading"),
        ("```\n---\n", "…"),
        ("word " * 30, "word word word word word word word word word word word word…"),
        ("x" * 100, "x" * 59 + "…"),
        ("half \ud800 a character", "half a character"),
    ],
)
def test_a_conversation_is_named_after_its_first_message(text: str, title: str) -> None:
    assert title_of(text) == title


def test_sizes_are_limited(kept: Conversations) -> None:
    conversation = made(kept)
    with pytest.raises(UiError, match="message 1: expected at most 1,000,000 characters"):
        kept.replace_from(ANN, conversation.id, 0, [Turn("user", "x" * (MAX_CONTENT + 1))])
    with pytest.raises(UiError, match="begin a new one"):
        check_size(MAX_TURNS, [QUESTION])
    assert contents(kept, conversation) == []


def test_halves_of_characters_do_not_stop_an_answer_from_being_kept(kept: Conversations) -> None:
    conversation = made(kept)
    kept.replace_from(ANN, conversation.id, 0, [Turn("user", "a\ud800b")])
    assert contents(kept, conversation) == ["a?b"]


def test_many_threads_write_at_once(kept: Conversations) -> None:
    conversations = [made(kept, f"browser:{n}") for n in range(8)]

    def write(n: int) -> None:
        owner, conversation = f"browser:{n}", conversations[n]
        for position in range(20):
            kept.replace_from(owner, conversation.id, position, [Turn("user", f"{n}.{position}")])

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, conversation in enumerate(conversations):
        assert contents(kept, conversation, f"browser:{n}") == [f"{n}.{position}" for position in range(20)]


def test_the_file_is_the_users_alone_and_not_taken_for_accounts(tmp_path: Path) -> None:
    open_conversations(tmp_path / "home").close()
    path = tmp_path / "home" / FILE_NAME
    assert path.stat().st_mode & 0o777 == 0o600
    from octuor.accounts.database import connect

    with pytest.raises(AccountError, match="expected Octuor's accounts"):
        connect(path)


def test_a_damaged_file_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"not a database, though long enough to be looked at" * 100)
    with pytest.raises(AccountError, match=r"the conversations cannot be used.*begin anew, without them"):
        open_conversations(tmp_path)


def test_folding() -> None:
    assert folded("Straße É İ") == "strasse e i"
