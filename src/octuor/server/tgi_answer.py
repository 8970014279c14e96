"""The engine's events as TGI tells them: tokens with texts of their own, stop sequences kept, the best of several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from octuor.engine.request import Finish, Step, TokenInfo
from octuor.server.schemas.tgi import (
    BestOfSequence,
    Details,
    FinishReason,
    GenerateResponse,
    PrefillToken,
    StreamResponse,
    Token,
)
from octuor.server.token_text import finite
from octuor.tokenizer import Detokenizer, Tokenizer
from octuor.tokenizer.raw import RawDetokenizer, control_names


class TgiAnswer:
    """One choice as it comes.

    seed    with which alone it can be drawn again; None: greedy, or not the first choice
    before  text that stands before the answer's own: the prompt, where it was asked for
    n_top   likeliest tokens to tell with each
    """

    def __init__(self, tokenizer: Tokenizer, *, seed: int | None = None, before: str = "", n_top: int = 0) -> None:
        self.seed = seed
        self.tokens: list[Token] = []
        self.top_tokens: list[list[Token]] = []
        self._tokenizer = tokenizer
        self._names = control_names(tokenizer)
        self._detokenizer = Detokenizer(tokenizer, strip_leading_space=False)
        self._before = before
        self._n_top = n_top
        self._parts: list[str] = []  # the engine's text: what may begin a stop string comes late
        self._n_told = 0  # characters in the texts of tokens
        self._finish: Finish | None = None

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended; None while it runs."""
        if self._finish is None:
            return None
        if self._finish.stop is not None:
            return "stop_sequence"
        return "eos_token" if self._finish.reason == "stop" else "length"

    @property
    def text(self) -> str:
        """The text so far, the stop sequence that ended it included."""
        return self._before + self._own_text()

    @property
    def logprob(self) -> float:
        """Of the whole answer: the sum over its tokens."""
        return sum(token["logprob"] for token in self.tokens)

    def take(self, step: Step) -> None:
        """One more token. Their texts, control tokens' left out, read as the text."""
        self._parts.append(step.text)
        self._finish = step.finish
        if step.token is None:
            return
        self.tokens.append(self._told(step.token))
        if self._n_top:
            self.top_tokens.append([self._alone(*likely) for likely in step.token.top])

    def event(self) -> StreamResponse:
        """The event of the last token."""
        event: StreamResponse = {
            "index": len(self.tokens),
            "token": self.tokens[-1],
            "generated_text": None,
            "details": None,
        }
        if self._n_top:
            event["top_tokens"] = self.top_tokens[-1]
        return event

    def last_event(self, n_prompt: int, *, with_details: bool) -> StreamResponse:
        """The event that ends a stream; n_prompt: tokens of the prompt."""
        event = self.event()
        event["generated_text"] = self.text
        if with_details:
            event["details"] = {
                "finish_reason": self._reason(),
                "generated_tokens": len(self.tokens),
                "seed": self.seed,
                "input_length": n_prompt,
            }
        return event

    def details(self, prefill: list[PrefillToken]) -> Details:
        """What a whole answer says of itself."""
        found: Details = {
            "finish_reason": self._reason(),
            "generated_tokens": len(self.tokens),
            "seed": self.seed,
            "prefill": prefill,
            "tokens": self.tokens,
        }
        if self._n_top:
            found["top_tokens"] = self.top_tokens
        return found

    def _reason(self) -> FinishReason:
        assert self.finish_reason is not None
        return self.finish_reason

    def _own_text(self) -> str:
        stop = None if self._finish is None else self._finish.stop
        return "".join(self._parts) + (stop or "")

    def _told(self, token: TokenInfo) -> Token:
        name = self._names.get(token.id)
        text = self._detokenizer.push(token.id)
        if name is not None:
            return {"id": token.id, "text": name, "logprob": finite(token.logprob), "special": True}
        if self._finish is not None:  # cut after a stop sequence, or with what is left of a character
            text = self._own_text()[self._n_told :]
        self._n_told += len(text)
        return {"id": token.id, "text": text, "logprob": finite(token.logprob), "special": False}

    def _alone(self, token_id: int, logprob: float) -> Token:
        """A likely token: its text has no neighbours. An id in the padding of the vocabulary has none."""
        name = self._names.get(token_id)
        text = name or ""
        if name is None and token_id < self._tokenizer.n_words:
            text = self._tokenizer.piece_bytes(token_id).decode("utf-8", "replace")
        return {"id": token_id, "text": text, "logprob": finite(logprob), "special": name is not None}


def whole_answer(answers: Sequence[TgiAnswer], *, with_details: bool, prefill: list[PrefillToken]) -> GenerateResponse:
    """The likeliest of the answers; the others, best first, in its details."""
    best, *others = sorted(answers, key=lambda answer: -answer.logprob)
    response: GenerateResponse = {"generated_text": best.text}
    if with_details:
        response["details"] = best.details(prefill)
        if others:
            response["details"]["best_of_sequences"] = [_beaten(answer, prefill) for answer in others]
    return response


def prefill_tokens(tokenizer: Tokenizer, prompt: Iterable[TokenInfo]) -> list[PrefillToken]:
    """The prompt's tokens; their texts, joined, read as the prompt."""
    texts = RawDetokenizer(tokenizer)
    return [
        {
            "id": token.id,
            "text": texts.push(token.id),
            "logprob": None if token.logprob is None else finite(token.logprob),
        }
        for token in prompt
    ]


def _beaten(answer: TgiAnswer, prefill: list[PrefillToken]) -> BestOfSequence:
    details = answer.details(prefill)
    found: BestOfSequence = {
        "generated_text": answer.text,
        "finish_reason": details["finish_reason"],
        "generated_tokens": details["generated_tokens"],
        "seed": details["seed"],
        "prefill": prefill,
        "tokens": details["tokens"],
    }
    if "top_tokens" in details:
        found["top_tokens"] = details["top_tokens"]
    return found
