"""octuor chat: talk to a model, in a terminal or line by line from a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from octuor.cli import options

if TYPE_CHECKING:
    from octuor.api import Model
    from octuor.cli.progress import PromptBar
    from octuor.sampling import SamplingParams
    from octuor.tokenizer import Message

HELP = """\
/reset          forget the conversation
/system TEXT    set what the model is told first, and begin anew; no text: nothing
/save FILE      write the conversation as JSON
/help           this list
/exit           end (so does Ctrl-D); Ctrl-C stops an answer"""


def main(
    model: options.ModelArgument = None,
    system: str = typer.Option("", help="What the model is told first."),
    temperature: options.Temperature = 0.7,
    top_p: options.TopP = 0.95,
    top_k: options.TopK = 0,
    min_p: options.MinP = 0.0,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    seed: options.Seed = None,
    max_tokens: options.MaxTokens = None,
    context: options.Context = None,
    threads: options.Threads = None,
    resident: options.Resident = False,
    memory: options.Memory = None,
    adapter: options.Adapter = None,
) -> None:
    """Talk to a model. Lines from a pipe are answered in turn."""
    from octuor.api import load
    from octuor.cli.progress import PromptBar
    from octuor.errors import RequestError, TokenizerError
    from octuor.sampling import SamplingParams

    params = SamplingParams(
        temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, seed=seed, max_tokens=max_tokens,
        repetition_penalty=repetition_penalty,
    )  # fmt: skip
    bar = PromptBar()
    with bar:
        loaded = load(
            model, threads=threads, context=context, resident=resident, memory=memory, adapter=adapter,
            on_load=bar.loading,
        )  # fmt: skip
    talk = Talk(loaded, params, system, bar)
    is_typed = sys.stdin.isatty()
    for line in _typed_lines(talk.name) if is_typed else _piped_lines():
        if not line.strip():
            continue
        if line.startswith("/"):
            if not talk.command(line.strip()):
                return
            continue
        try:
            talk.answer(line, lambda text: print(text, end="", flush=True))
        except (RequestError, TokenizerError) as error:  # of this message: too long, or no text
            if not is_typed:
                raise
            _note(str(error))
        print(flush=True)


class Talk:
    """A conversation with one model: its messages, its commands, and room kept for the next answer."""

    def __init__(self, model: Model, params: SamplingParams, system: str, bar: PromptBar) -> None:
        self._model = model
        self._tokenizer = model.tokenizer  # a model without one cannot talk: said at once
        self._params = params
        self._system = system
        self._bar = bar
        self.messages: list[Message] = []
        self.name = "pocket" if model.checkpoint.source.stem == "pocket" else model.checkpoint.source.name

    def answer(self, text: str, show: Callable[[str], None]) -> None:
        """Answer one message, showing text as it comes; Ctrl-C keeps what there is of the answer.

        Raises RequestError or TokenizerError, and forgets the message, if it cannot be answered.
        """
        from octuor.errors import RequestError, TokenizerError
        from octuor.tokenizer import Message

        self.messages.append(Message("user", text))
        try:
            self._forget_oldest()
            generation = self._model.chat([*self._first(), *self.messages], self._params, on_prefill=self._bar)
        except (RequestError, TokenizerError):
            self.messages.pop()
            raise
        try:
            with self._bar:
                for token in generation:
                    show(token.text)
        except KeyboardInterrupt:
            generation.close()
        self.messages.append(Message("assistant", generation.text))

    def command(self, line: str) -> bool:
        """Do what a /line says; False: the talk is over."""
        name, _, rest = line.partition(" ")
        if name in ("/exit", "/quit", "/bye"):
            return False
        if name == "/reset":
            self.messages.clear()
            _note("forgotten")
        elif name == "/system":
            self._system = rest.strip()
            self.messages.clear()
            _note("begun anew")
        elif name == "/save":
            self._save(rest.strip())
        else:
            _note(HELP if name == "/help" else f"unknown command {name}\n{HELP}")
        return True

    def _save(self, target: str) -> None:
        if not target:
            _note("/save: expected a file name, as in /save talk.json")
            return
        content = [{"role": message.role, "content": message.content} for message in (*self._first(), *self.messages)]
        try:
            text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
            Path(target).expanduser().write_text(text, encoding="utf-8")
        except OSError as error:
            _note(f"/save: {target} cannot be written ({error.strerror}); name another file")
            return
        _note(f"saved {target}")

    def _first(self) -> list[Message]:
        from octuor.tokenizer import Message

        return [Message("system", self._system)] if self._system else []

    def _forget_oldest(self) -> None:
        """Drop the oldest turns once they leave less than a quarter of the context for the answer."""
        from octuor.tokenizer import encode_chat

        room = self._model.context * 3 // 4
        while len(self.messages) > 2:
            if len(encode_chat(self._tokenizer, [*self._first(), *self.messages])) <= room:
                return
            del self.messages[:2]


def _typed_lines(name: str) -> Iterator[str]:
    """What a person types, until Ctrl-D."""
    import readline  # noqa: F401 - gives input() editing and history

    _note(f"octuor · {name} · /help lists the commands")
    while True:
        try:
            yield input("\n> ")
        except KeyboardInterrupt:
            _note("\n(Ctrl-D or /exit ends)")
        except EOFError:
            print(file=sys.stderr)
            return


def _piped_lines() -> Iterator[str]:
    for line in sys.stdin:
        yield line.rstrip("\n")


def _note(text: str) -> None:
    print(text, file=sys.stderr)
