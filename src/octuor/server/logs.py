"""The server's log: one line an event, JSON for programs or words for people, on stderr; a line for each request.

Fields go beside the message: `logger.info("ready", extra=fields(models=2))`. Headers, queries and bodies are never
logged; what looks like a key is cut out of whatever else a line holds, tracebacks among it.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

from octuor.errors import ConfigError
from octuor.server.record import RequestRecord

FORMATS = ("auto", "json", "text")
LEVELS = ("debug", "info", "warning", "error")
FIELDS = "octuor_fields"  # the attribute of a log record that carries them
QUIET_PATHS = ("/health", "/metrics")  # asked every few seconds: logged at level debug

# The request that a line is about, for lines from deep inside of it.
request_id: ContextVar[str] = ContextVar("request_id", default="")

# A key keeps its public part (accounts/keys.py), so that a line still says whose it was.
_KEYS = re.compile(r"\b(sk-[A-Za-z0-9]{8})[\w-]+")
_BEARER = re.compile(r"(?i)\b(bearer|basic)(\s+|%20)[^\s\"'\\,;}\])]+")

_requests = logging.getLogger("octuor.server.request")


def fields(**values: object) -> dict[str, Any]:
    """The `extra` of a log call; None and "" are left out."""
    return {FIELDS: {name: value for name, value in values.items() if value is not None and value != ""}}


def redact(text: str) -> str:
    """The text without what could be used to make a request."""
    return _BEARER.sub(r"\1 …", _KEYS.sub(r"\1…", text))


class JsonFormatter(logging.Formatter):
    """One JSON object a line, ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a log record."""
        line: dict[str, object] = {
            "time": _utc(record).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= _fields(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return redact(json.dumps(line, default=str))


class TextFormatter(logging.Formatter):
    """Time, level, message, then fields as name=value; a traceback below."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a log record, more with a traceback."""
        parts = [f"{_utc(record):%H:%M:%S}", f"{record.levelname:<7}", _printable(record.getMessage())]
        parts += [f"{name}={_word(value)}" for name, value in _fields(record).items()]
        text = " ".join(parts)
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        return redact(text)


def configure(form: str = "auto", level: str = "info", stream: TextIO | None = None) -> None:
    """Send all logs of this process to a stream (default: stderr), in place of wherever they went.

    form   one of FORMATS; "auto": text on a terminal, else JSON
    level  one of LEVELS, of our own lines; those of libraries from "warning" on

    Raises ConfigError.
    """
    if form not in FORMATS:
        raise ConfigError(f"log format: expected {', '.join(FORMATS)}, found {form!r}")
    if level not in LEVELS:
        raise ConfigError(f"log level: expected {', '.join(LEVELS)}, found {level!r}")
    stream = stream or sys.stderr
    is_json = form == "json" or (form == "auto" and not stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if is_json else TextFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("octuor").setLevel(level.upper())
    server = logging.getLogger("uvicorn.error")
    server.setLevel(logging.WARNING)
    server.addFilter(is_news)


def is_news(record: logging.LogRecord) -> bool:
    """Whether a line of uvicorn says what ours do not: a stream that broke off has its line already."""
    return not record.getMessage().startswith("ASGI callable returned without")


def log_request(record: RequestRecord) -> None:
    """The line of a request that is over."""
    level = logging.ERROR if record.status == 500 else logging.INFO
    if record.path.startswith(QUIET_PATHS) and record.status < 500:
        level = logging.DEBUG
    if _requests.isEnabledFor(level):
        _requests.log(level, "%s %s %d", record.method, record.path, record.status, extra=fields(**_summary(record)))


def _summary(record: RequestRecord) -> dict[str, object]:
    error = record.error
    summary: dict[str, object] = {
        "request_id": record.request_id,
        "method": record.method,
        "path": record.path,
        "status": record.status,
        "client": record.client,
        "key": record.key,
        "model": record.model,
        "asked": record.asked if record.asked != record.model else "",
        "stream": record.is_stream or None,
    }
    if record.jobs:
        queue_s, first_s = record.queue_s, record.first_token_s
        summary |= {
            "prompt_tokens": record.prompt_tokens,
            "cached_tokens": record.cached_tokens,
            "completion_tokens": record.completion_tokens,
            "queue_s": None if queue_s is None else round(queue_s, 4),
            "first_token_s": None if first_s is None else round(first_s, 4),
        }
    return summary | {
        "total_s": round(record.ended_at - record.began_at, 4),
        "finish_reason": ",".join(dict.fromkeys(record.finished)),
        "client_gone": record.is_client_gone or None,
        "cut_off": record.cut_off,
        "error": None if error is None else error.code or error.type,
        "param": None if error is None else error.param,  # its message may repeat what the client sent
        "trace_id": record.trace.trace_id if record.trace else None,
    }


def _fields(record: logging.LogRecord) -> dict[str, object]:
    found: dict[str, object] = getattr(record, FIELDS, {})
    current = request_id.get()
    return {"request_id": current, **found} if current and "request_id" not in found else found


def _utc(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _printable(text: str) -> str:
    """A line stays one line, whatever a client put into a path."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def _word(value: object) -> str:
    text = _printable(str(value))
    return json.dumps(text, ensure_ascii=False) if not text or " " in text or '"' in text else text
