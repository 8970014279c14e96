"""A model of ours for lm-evaluation-harness: its three questions, asked of a Subject.

Texts become ids exactly as the harness's own Hugging Face backend makes them (BOS before a text that has none, a
context and its continuation encoded as one text), so that results can be compared document by document. A chat is not a
text first: `apply_chat_template` writes the messages down between marks, and `tok_encode` reads them back and encodes
them message by message, as the model was trained.

Source: lm-evaluation-harness 0.4.13, lm_eval/api/model.py and lm_eval/models/huggingface.py (MIT).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from octuor.errors import RequestError
from octuor.evaluate.likelihood import Continuation
from octuor.evaluate.subject import Subject, Wish
from octuor.sampling import SamplingParams
from octuor.tokenizer import encode_chat

BEGIN, END = "\ufdd0", "\ufdd1"  # around a chat's messages; no text has these characters
MAX_TOKENS = 256  # of an answer, where a task does not say: as the harness's other models
BOS_TEXT, EOS_TEXT = "<s>", "</s>"
SAMPLING = {  # the harness's words -> ours
    "top_p": "top_p", "top_k": "top_k", "min_p": "min_p", "typical_p": "typical_p",
    "repetition_penalty": "repetition_penalty",
}  # fmt: skip
IGNORED = {"do_sample", "temperature", "until", "max_gen_toks", "use_cache", "num_beams", "pad_token_id"}
Tell = Callable[[str, int, int], None]  # what is at work, done, in all


class HarnessModel(TemplateLM):
    """What `lm_eval.simple_evaluate(model=...)` takes.

    seed  of answers with a temperature; each question's own is drawn from it
    tell  called as answers come
    """

    def __init__(self, subject: Subject, *, seed: int = 0, tell: Tell | None = None) -> None:
        super().__init__()
        self._subject = subject
        self._seed = seed
        self._tell = tell
        self.tokenizer = None  # ours is not one of transformers

    @property
    def eot_token_id(self) -> int:
        """EOS."""
        return self._subject.tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        """BOS."""
        return self._subject.tokenizer.bos_id

    @property
    def max_length(self) -> int:
        """Tokens of context and continuation together."""
        return self._subject.n_context

    @property
    def tokenizer_name(self) -> str:
        """For the harness's own caches."""
        return f"octuor-{self._subject.tokenizer.n_words}"

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The name of the format, where chats are wanted; it is code, not a template."""
        return "mistral-instruct" if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The messages between marks; a last one of the assistant is continued where no answer is asked for."""
        messages: list[dict[str, Any]] = [dict(message) for message in chat_history]
        if not add_generation_prompt and messages and messages[-1]["role"] == "assistant":
            messages[-1]["prefix"] = True
        return BEGIN + json.dumps(messages) + END

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids of a text, after BOS unless add_special_tokens is False or the text begins with its name."""
        tokenizer = self._subject.tokenizer
        if string.startswith(BEGIN):
            return self._encode_chat(string)
        if add_special_tokens is None and string.startswith(BOS_TEXT):
            return [tokenizer.bos_id, *tokenizer.encode(string[len(BOS_TEXT) :])]
        ids = tokenizer.encode(string)
        return ids if add_special_tokens is False else [tokenizer.bos_id, *ids]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:  # noqa: ARG002
        """Each continuation's log-likelihood after its context, and whether it is the likeliest one."""
        return list(super().loglikelihood(requests, disable_tqdm=True))

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:  # noqa: ARG002
        """Each text's log-likelihood, in windows of the whole context that foretell each token once."""
        windows: list[Continuation] = []
        ends = [0]
        for request in requests:
            tokens = self.tok_encode(request.args[0])
            pairs = get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, context_len=1)
            windows += [Continuation(tuple(before), tuple(after)) for before, after in map(make_disjoint_window, pairs)]
            ends.append(len(windows))
        scores = self._subject.score(windows, self._progress("texts"))
        found = [sum(score.logprob for score in scores[start:end]) for start, end in pairwise(ends)]
        for request, logprob in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, logprob)
        return found

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:  # noqa: ARG002
        """An answer to each context, up to the first of its `until` strings or EOS."""
        wishes = [self._wish(request.args[0], request.args[1], n) for n, request in enumerate(requests)]
        replies = self._subject.answer(wishes, self._progress("answers"))
        for request, reply in zip(requests, replies, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, reply.text)
        return [reply.text for reply in replies]

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        **options: Any,  # noqa: ARG002
    ) -> list[tuple[float, bool]]:
        items = [Continuation(tuple(context), tuple(continuation)) for _, context, continuation in requests]
        scores = self._subject.score(items, self._progress("continuations"))
        for (texts, *_), score in zip(requests, scores, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, (score.logprob, score.is_greedy))
        return [(score.logprob, score.is_greedy) for score in scores]

    def _wish(self, context: str, given: dict[str, Any], n: int) -> Wish:
        kwargs = dict(normalize_gen_kwargs(given, MAX_TOKENS))
        unknown = sorted(set(kwargs) - IGNORED - set(SAMPLING))
        if unknown or kwargs.get("num_beams", 1) != 1:
            raise RequestError(f"generation_kwargs: expected settings that Octuor has, found {unknown or 'num_beams'}")
        until: Sequence[str] = kwargs["until"]
        params = SamplingParams(
            temperature=float(kwargs.get("temperature") or 0.0),
            max_tokens=int(kwargs["max_gen_toks"]),
            seed=(self._seed << 32) + n if kwargs["do_sample"] else None,
            stop=tuple(dict.fromkeys([text for text in until if text] + [EOS_TEXT])),
            **{SAMPLING[name]: value for name, value in kwargs.items() if name in SAMPLING and kwargs["do_sample"]},
        )
        return Wish(tuple(self.tok_encode(context)), params, is_chat=True)

    def _encode_chat(self, string: str) -> list[int]:
        """Ids of messages, and of what follows them: the answer's beginning, or what is scored."""
        written, _, rest = string[len(BEGIN) :].partition(END)
        messages = json.loads(written)
        if not rest:
            return encode_chat(self._subject.tokenizer, messages)
        if messages[-1].get("prefix"):
            messages[-1]["content"] += rest
        else:  # the blank that joins a question and its answer is in the encoding already
            messages.append({"role": "assistant", "content": rest.removeprefix(" "), "prefix": True})
        return encode_chat(self._subject.tokenizer, messages)

    def _progress(self, what: str) -> Callable[[int, int], None] | None:
        tell = self._tell
        return None if tell is None else lambda done, total: tell(what, done, total)
