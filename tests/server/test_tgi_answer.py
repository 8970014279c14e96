"""Answers in TGI's words, without a server."""

from __future__ import annotations

from octuor.engine.request import Finish, Step, TokenInfo
from octuor.server.tgi_answer import TgiAnswer, prefill_tokens, whole_answer
from tokenizer_file import mixtral_tokenizer

TOKENIZER = mixtral_tokenizer()
HI, THERE, EOS, PADDING = 15359, 736, 2, 32001


def said(*steps: tuple[int, str, float], finish: Finish | None = None, seed: int | None = None) -> TgiAnswer:
    """An answer that has taken some steps: id, the engine's text, logprob."""
    answer = TgiAnswer(TOKENIZER, seed=seed)
    for place, (token_id, text, logprob) in enumerate(steps, start=1):
        answer.take(Step(0, TokenInfo(token_id, logprob), text, finish if place == len(steps) else None))
    return answer


def test_texts_of_tokens_come_at_once_though_the_engine_holds_them_back() -> None:
    answer = said((HI, "", -1.0), (THERE, " Hi there", -2.0))
    assert [token["text"] for token in answer.tokens] == [" Hi", " there"]
    assert (answer.finish_reason, answer.logprob) == (None, -3.0)
    assert answer.event()["generated_text"] is None


def test_the_last_token_ends_where_the_text_does() -> None:
    answer = said((HI, "", -1.0), (THERE, " H", -2.0), finish=Finish("stop", "i th"))
    assert answer.text == " Hi th"
    assert [token["text"] for token in answer.tokens] == [" Hi", " th"]
    assert answer.last_event(5, with_details=True) == {
        "index": 2,
        "token": {"id": THERE, "text": " th", "logprob": -2.0, "special": False},
        "generated_text": " Hi th",
        "details": {"finish_reason": "stop_sequence", "generated_tokens": 2, "seed": None, "input_length": 5},
    }


def test_the_others_stand_in_the_order_of_their_likelihood() -> None:
    end = Finish("stop")
    answers = [
        said((HI, " Hi", -2.0), (EOS, "", -2.0), finish=end, seed=7),
        said((THERE, " there", -1.0), (EOS, "", -1.0), finish=end),
        said((HI, " Hi", -1.5), (THERE, " there", -1.0), (EOS, "", -1.0), finish=end),
    ]
    found = whole_answer(answers, with_details=True, prefill=[])
    assert found["generated_text"] == " there"
    others = found["details"]["best_of_sequences"]
    assert [(other["generated_text"], other["seed"]) for other in others] == [(" Hi there", None), (" Hi", 7)]
    assert [other["finish_reason"] for other in others] == ["eos_token", "eos_token"]


def test_numbers_that_json_cannot_say_are_said_otherwise() -> None:
    answer = TgiAnswer(TOKENIZER, n_top=1)
    answer.take(Step(0, TokenInfo(HI, -1.0, ((PADDING, float("-inf")),)), " Hi"))
    assert answer.top_tokens == [[{"id": PADDING, "text": "", "logprob": -9999.0, "special": False}]]
    prefill = prefill_tokens(TOKENIZER, [TokenInfo(1), TokenInfo(HI, float("-inf")), TokenInfo(EOS, -1.0)])
    assert prefill == [
        {"id": 1, "text": "<s>", "logprob": None},
        {"id": HI, "text": "Hi", "logprob": -9999.0},
        {"id": EOS, "text": "</s>", "logprob": -1.0},
    ]
