"""How a grade is read, and how a judge is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from fake_openai import Asked, FakeServer, serving_thread, whole
from octuor.errors import RequestError
from octuor.evaluate.judge import Judge, read_rating


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("Good.\n[[7]]", 7.0), ("[[ 8.5 ]]", 8.5), ("First [[3]], as I said: [[3]]", 3.0), ("[[10]]", 10.0),
        ("7", None), ("[7]", None), ("[[0]]", None), ("[[11]]", None), ("[[7]] or [[8]]", None), ("[[grade]]", None),
        ("[[-3]]", None), ("", None),
    ],
)  # fmt: skip
def test_a_grade_is_read_strictly(text: str, rating: float | None) -> None:
    assert read_rating(text) == rating


def test_a_judge_is_asked_for_its_name_and_its_words() -> None:
    async def answer(asked: Asked) -> AsyncIterator[bytes]:  # noqa: ARG001
        yield whole({"choices": [{"message": {"content": "[[4]]"}}]})

    with serving_thread(FakeServer(answer)) as server:
        judge = Judge(server.url + "/v1", key="sk-1").named()
        assert judge.model == "fake-1"
        assert judge.ask([{"role": "user", "content": "?"}]) == "[[4]]"
    assert server.asked[0].headers["authorization"] == "Bearer sk-1"
    assert server.asked[0].body["temperature"] == 0.0


def test_a_busy_server_is_asked_again_and_a_wrong_request_is_not() -> None:
    statuses = [503, 429, 200, 400]

    async def answer(asked: Asked) -> AsyncIterator[bytes]:  # noqa: ARG001
        status = statuses.pop(0)
        yield whole({"choices": [{"message": {"content": "yes"}}]}, status)

    with serving_thread(FakeServer(answer)) as server:
        judge = Judge(server.url, "m", waits=(0.0, 0.0))
        assert judge.ask([]) == "yes"
        with pytest.raises(RequestError, match="found 400"):
            judge.ask([])


def test_no_server() -> None:
    with pytest.raises(RequestError, match="expected an OpenAI-compatible server"):
        Judge("http://127.0.0.1:9", waits=()).named()
