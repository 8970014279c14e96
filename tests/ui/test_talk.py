"""From a question to the answer that is kept: as it goes well, is stopped, left, or fails."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from octuor.errors import UiError
from octuor.ui import talk
from octuor.ui.backend import Ask, ChatSettings, Delta, Done, Message, ModelCard, Status, User
from octuor.ui.conversations import FILE_NAME, Conversation, Conversations, Turn
from octuor.ui.talk import Pace, Plan, Shown, Talk, messages_of

USER = User("ann")
PAGE = "page 1"
DONE = Done("stop", 7, 3, 0.5, 0.1, routing=b"routes")


@dataclass
class Script:
    """A backend that says what it is told to. A number is a pause of so many seconds, an error is raised."""

    parts: list[str | float | Done | Exception]
    asked: list[Ask] = field(default_factory=list)
    is_closed: bool = False

    async def models(self, user: User) -> Sequence[ModelCard]:
        assert user.owner
        return ()

    async def status(self, user: User) -> Status | None:
        assert user.owner
        return None

    async def route(self, user: User, model: str, text: str) -> bytes:
        raise UiError(f"{user.owner}, {model}, {text}: not in this script")

    async def chat(self, user: User, ask: Ask) -> AsyncGenerator[Delta | Done, None]:
        assert user.owner
        self.asked.append(ask)
        try:
            for part in self.parts:
                if isinstance(part, Exception):
                    raise part
                if isinstance(part, float):
                    await asyncio.sleep(part)
                else:
                    yield Delta(part) if isinstance(part, str) else part
        finally:
            self.is_closed = True


@dataclass
class Chat:
    """One conversation over a script."""

    kept: Conversations
    conversation: Conversation

    def turns(self) -> tuple[Turn, ...]:
        return self.kept.turns(USER.owner, self.conversation.id)

    def contents(self) -> list[str]:
        return [turn.content for turn in self.turns()]

    async def ask(
        self,
        script: Script,
        plan: Callable[[Sequence[Turn]], Plan],
        during: Callable[[Talk, Shown], None] = lambda *_: None,
    ) -> list[Shown]:
        talking = Talk(script, self.kept)
        shown: list[Shown] = []
        answer = talking.answer(PAGE, USER, self.conversation, "mixtral", ChatSettings(seed=1), plan)
        async for state in answer:
            shown.append(state)
            during(talking, state)
        assert not talking.is_running(PAGE)
        return shown

    def run(
        self, parts: list[str | float | Done | Exception], plan: Callable[[Sequence[Turn]], Plan]
    ) -> tuple[Script, list[Shown]]:
        script = Script(parts)
        return script, asyncio.run(self.ask(script, plan))


@pytest.fixture
def chat(tmp_path: Path) -> Iterator[Chat]:
    kept = Conversations(tmp_path / FILE_NAME)
    yield Chat(kept, kept.create(USER.owner, "a talk", "mixtral", ChatSettings()))
    kept.close()


async def all_of(answer: AsyncGenerator[Shown, None]) -> list[Shown]:
    return [state async for state in answer]


def said(text: str) -> Callable[[Sequence[Turn]], Plan]:
    return lambda turns: talk.send(turns, text)


def test_an_answer_streams_and_is_kept_with_what_is_known_of_it(chat: Chat) -> None:
    script, shown = chat.run(["One", " two", 0.12, " three", DONE], said("Count"))
    assert script.asked == [Ask("mixtral", (Message("user", "Count"),), ChatSettings(seed=1), continues=False)]
    assert [turn.content for turn in shown[0].turns] == ["Count", ""]
    texts = [state.turns[-1].content for state in shown]
    assert texts == sorted(texts, key=len)
    assert "One two" in texts
    assert [state.live is None for state in shown] == [False] * (len(shown) - 1) + [True]
    assert shown[-1].turns == chat.turns()
    question, answer = chat.turns()
    assert (question.role, question.finish) == ("user", None)
    assert (answer.content, answer.finish, answer.model) == ("One two three", "stop", "mixtral")
    assert (answer.prompt_tokens, answer.completion_tokens, answer.tokens_per_s) == (7, 3, 4.0)
    assert chat.kept.routing(USER.owner, answer.id) == b"routes"
    found = chat.kept.find(USER.owner, chat.conversation.id)
    assert found is not None
    assert found.settings == ChatSettings(seed=1)  # those of the last question


def test_the_next_question_comes_with_everything_before_it(chat: Chat) -> None:
    chat.run(["Hi.", DONE], said("Hello"))
    script, _ = chat.run(["Fine.", DONE], said("How are you?"))
    assert [message.content for message in script.asked[0].messages] == ["Hello", "Hi.", "How are you?"]
    assert chat.contents() == ["Hello", "Hi.", "How are you?", "Fine."]


def test_stopping_keeps_what_there_is_and_ends_the_work(chat: Chat) -> None:
    def stop(talking: Talk, state: Shown) -> None:
        if state.turns[-1].content:
            talking.stop(PAGE)

    script = Script(["One", " two", 60.0, " three", DONE])
    shown = asyncio.run(chat.ask(script, said("Count"), stop))
    assert script.is_closed
    assert shown[-1].turns[-1].finish == "cancelled"
    assert shown[-1].turns == chat.turns()
    assert chat.contents() == ["Count", "One two"]
    assert chat.turns()[1].completion_tokens == 2


def test_a_stopped_answer_waits_for_no_backend_that_is_slow_to_end(chat: Chat) -> None:
    class Slow(Script):
        async def chat(self, user: User, ask: Ask) -> AsyncGenerator[Delta | Done, None]:
            try:
                yield Delta(ask.messages[0].content.upper())
                await asyncio.sleep(60)
            finally:
                await ending.wait()
                self.is_closed = bool(user.owner)

    def stop(talking: Talk, state: Shown) -> None:
        if state.turns[-1].content:
            talking.stop(PAGE)

    async def go() -> None:
        shown = await chat.ask(script, said("Count"), stop)
        assert shown[-1].live is None
        assert not script.is_closed
        ending.set()
        await asyncio.sleep(0.01)
        assert script.is_closed

    ending, script = asyncio.Event(), Slow([])
    asyncio.run(go())


def test_stopping_before_the_first_word_leaves_the_question_alone(chat: Chat) -> None:
    script = Script([60.0, "One", DONE])
    shown = asyncio.run(chat.ask(script, said("Count"), lambda talking, _: talking.stop(PAGE)))
    assert shown[-1].turns == chat.turns()
    assert chat.contents() == ["Count"]


def test_a_page_that_goes_leaves_what_was_said(chat: Chat) -> None:
    async def go() -> None:
        talking = Talk(script, chat.kept)
        async with aclosing(
            talking.answer(PAGE, USER, chat.conversation, "mixtral", ChatSettings(), said("Count"))
        ) as answer:
            async for state in answer:
                if state.turns[-1].content:
                    break
        assert not talking.is_running(PAGE)

    script = Script(["One", " two", 60.0, " three", DONE])
    asyncio.run(go())
    assert script.is_closed
    assert chat.contents() == ["Count", "One two"]
    assert chat.turns()[1].finish == "cancelled"


def test_a_page_that_shows_another_conversation_is_told_no_more(chat: Chat) -> None:
    def leave(talking: Talk, state: Shown) -> None:
        if state.turns[-1].content:
            talking.leave(PAGE)
            assert not talking.is_running(PAGE)  # another question may be asked at once

    script = Script(["One", " two", 60.0, " three", DONE])
    shown = asyncio.run(chat.ask(script, said("Count"), leave))
    assert script.is_closed
    assert shown[-1].live is not None
    assert chat.contents() == ["Count", "One two"]


def test_what_was_said_is_kept_while_it_is_said(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talk, "KEPT_EVERY_S", 0.0)
    seen = []

    def look(_: Talk, state: Shown) -> None:
        seen.append((chat.contents()[-1], state.turns[-1].content))

    asyncio.run(chat.ask(Script(["One", 0.2, " two", 0.2, " three", 0.2, DONE]), said("Count"), look))
    assert ("One", "One two") in seen or ("One two", "One two three") in seen


def test_a_failure_before_the_first_word_is_one_line_and_loses_nothing(chat: Chat) -> None:
    _, shown = chat.run([UiError("the server is full; try again in 3 s")], said("Count"))
    assert shown[-1].error == "the server is full; try again in 3 s"
    assert shown[-1].turns == chat.turns()
    assert chat.contents() == ["Count"]
    chat.run(["One", DONE], talk.retry)
    assert chat.contents() == ["Count", "One"]


def test_a_failure_in_the_middle_keeps_what_was_said(chat: Chat) -> None:
    _, shown = chat.run(["One", UiError("the connection broke")], said("Count"))
    assert shown[-1].error == "the connection broke"
    assert chat.contents() == ["Count", "One"]
    assert chat.turns()[1].finish == "failed"


def test_a_second_try_that_fails_leaves_the_first_answer(chat: Chat) -> None:
    chat.run(["One", DONE], said("Count"))
    before = chat.turns()
    _, shown = chat.run([UiError("no")], talk.retry)
    assert shown[-1].turns == chat.turns() == before
    assert chat.kept.routing(USER.owner, before[1].id) == b"routes"


def test_a_bug_of_the_backend_is_not_hidden(chat: Chat) -> None:
    with pytest.raises(ZeroDivisionError):
        chat.run(["One", ZeroDivisionError()], said("Count"))
    assert chat.contents() == ["Count", "One"]


def test_a_second_try_takes_the_first_ones_place(chat: Chat) -> None:
    chat.run(["One", DONE], said("Count"))
    script, _ = chat.run(["Uno", Done("length", 7, 1, 0.0, 0.1)], talk.retry)
    assert [message.content for message in script.asked[0].messages] == ["Count"]
    assert chat.contents() == ["Count", "Uno"]
    assert chat.turns()[1].finish == "length"
    assert not chat.turns()[1].has_routing


def test_an_answer_is_gone_on_with(chat: Chat) -> None:
    chat.run(["One", Done("length", 7, 1, 0.0, 0.1)], said("Count"))
    script, shown = chat.run([" two", " three", Done("stop", 8, 2, 0.5, 0.1)], talk.go_on)
    assert script.asked[0].continues
    assert script.asked[0].messages[-1] == Message("assistant", "One")
    assert all(state.turns[-1].content.startswith("One") for state in shown)
    answer = chat.turns()[1]
    assert (answer.content, answer.finish) == ("One two three", "stop")
    assert (answer.prompt_tokens, answer.completion_tokens) == (7, 3)


def test_stopping_before_more_is_said_leaves_the_answer_as_it_was(chat: Chat) -> None:
    chat.run(["One", Done("length", 7, 1, 0.0, 0.1)], said("Count"))
    before = chat.turns()
    asyncio.run(chat.ask(Script([60.0]), talk.go_on, lambda talking, _: talking.stop(PAGE)))
    assert chat.turns() == before


def test_an_edited_question_is_answered_anew_and_what_came_after_it_goes(chat: Chat) -> None:
    chat.run(["Hi.", DONE], said("Hello"))
    chat.run(["Fine.", DONE], said("How are you?"))
    script, _ = chat.run(["Salut.", DONE], lambda turns: talk.edit(turns, 0, "Bonjour"))
    assert [message.content for message in script.asked[0].messages] == ["Bonjour"]
    assert chat.contents() == ["Bonjour", "Salut."]


@pytest.mark.parametrize(
    "plan",
    [
        said(" \n"),
        talk.retry,
        talk.go_on,
        lambda turns: talk.edit(turns, 0, "x"),
        lambda turns: talk.edit(turns, -1, "x"),
    ],
)
def test_what_cannot_be_asked_is_refused_and_nothing_changes(
    chat: Chat, plan: Callable[[Sequence[Turn]], Plan]
) -> None:
    with pytest.raises(UiError):
        chat.run(["One", DONE], plan)
    assert chat.turns() == ()


def test_a_conversation_that_was_deleted_cannot_be_asked(chat: Chat) -> None:
    chat.kept.delete(USER.owner, chat.conversation.id)
    with pytest.raises(UiError, match="deleted meanwhile"):
        chat.run(["One", DONE], said("Count"))


def test_a_page_has_one_answer_at_a_time_and_pages_do_not_wait_for_each_other(chat: Chat) -> None:
    async def ask() -> None:
        talking = Talk(Script(["One", 0.2, DONE]), chat.kept)
        settings = ChatSettings()
        first = talking.answer(PAGE, USER, chat.conversation, "mixtral", settings, said("Count"))
        await anext(first)
        with pytest.raises(UiError, match="under way"):
            await anext(talking.answer(PAGE, USER, chat.conversation, "mixtral", settings, said("Again")))
        other = await talking.begin(User("bob"), "Hello\nthere", "mixtral", settings)
        assert other.title == "Hello"
        states = [s async for s in talking.answer("page 2", User("bob"), other, "mixtral", settings, said("Hello"))]
        assert states[-1].turns[-1].content == "One"
        await first.aclose()

    asyncio.run(ask())


def test_two_pages_of_one_conversation_do_not_mix_their_answers(chat: Chat) -> None:
    async def ask() -> None:
        talking = Talk(Script(["One", 0.3, " two", DONE]), chat.kept)
        first = talking.answer(PAGE, USER, chat.conversation, "mixtral", ChatSettings(), said("Count"))
        while not (await anext(first)).turns[-1].content:
            pass
        edited = talking.answer(
            "page 2", USER, chat.conversation, "mixtral", ChatSettings(), lambda turns: talk.edit(turns, 0, "Anew")
        )
        _, states = await asyncio.gather(all_of(first), all_of(edited))
        assert states[-1].turns == chat.turns()

    asyncio.run(ask())
    assert chat.contents() == ["Anew", "One two"]


def test_messages_alternate_whatever_was_left_unanswered() -> None:
    turns = [
        Turn("user", "a"),
        Turn("user", "b"),
        Turn("assistant", ""),
        Turn("user", "c"),
        Turn("assistant", "d"),
        Turn("assistant", "e"),
        Turn("user", "f"),
    ]
    assert messages_of(turns) == (
        Message("user", "a\n\nb\n\nc"),
        Message("assistant", "d\n\ne"),
        Message("user", "f"),
    )


def test_undo_takes_back_the_last_question() -> None:
    question, answer = Turn("user", "a"), Turn("assistant", "b")
    assert talk.undo([question, answer, Turn("user", "c"), answer]) == (2, "c")
    assert talk.undo([question]) == (0, "a")
    assert talk.undo([answer]) == talk.undo([]) == (0, "")


def test_a_page_is_told_at_most_20_times_a_second_and_of_much_more_seldom() -> None:
    now = 100.0
    pace = Pace(lambda: now)
    pace.told(0)
    assert pace.wait_s(1, 20) <= 0  # the first word comes at once
    pace.told(1)
    assert pace.wait_s(100, 1) == pytest.approx(0.05, abs=0.001)
    assert pace.wait_s(8000, 4) == pytest.approx(0.1)
    assert pace.wait_s(10**6, 1) == pytest.approx(0.25)
    assert pace.wait_s(0, 20) == pytest.approx(0.25)
    now += 0.06
    assert pace.wait_s(0, 1) <= 0 < pace.wait_s(8000, 1)
