"""A model that grades answers, at any OpenAI-compatible address; and how its grade is read."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from octuor.errors import RequestError

RATING = re.compile(r"\[\[\s*(\d+(?:\.\d+)?)\s*\]\]")
LEAST, MOST = 1.0, 10.0
MAX_TOKENS = 2048
TIMEOUT_S = 600.0
WAITS_S = (1.0, 5.0, 20.0)  # before a call is tried again
BUSY = (408, 429, 500, 502, 503, 504)


def read_rating(text: str) -> float | None:
    """The grade between double brackets, as in [[7]]; None where there is none, several, or one off 1 to 10."""
    found = {float(number) for number in RATING.findall(text)}
    if len(found) != 1:
        return None
    rating = found.pop()
    return rating if LEAST <= rating <= MOST else None


@dataclass(frozen=True)
class Judge:
    """A server and the model there that is asked. Safe to use from several threads.

    url    as in http://127.0.0.1:8000, with or without /v1
    model  its name; None until `named` has asked the server for one
    waits  seconds before each further try of a call that failed for now
    """

    url: str
    model: str | None = None
    key: str | None = None
    waits: tuple[float, ...] = WAITS_S

    def named(self) -> Judge:
        """This judge with the model's name: the server's first where none was given. Raises RequestError."""
        if self.model is not None:
            return self
        found = self._call("GET", "/v1/models")
        try:
            return Judge(self.url, str(found["data"][0]["id"]), self.key, self.waits)
        except (KeyError, IndexError, TypeError) as error:
            raise RequestError(
                f"{self.url}: expected a list of models, found {str(found)[:80]}; see --judge-model"
            ) from error

    def ask(self, messages: Sequence[Mapping[str, str]]) -> str:
        """What it says, at temperature 0. Raises RequestError where it cannot be asked."""
        body = {"model": self.model, "messages": list(messages), "temperature": 0.0, "max_tokens": MAX_TOKENS}
        found = self._call("POST", "/v1/chat/completions", body)
        try:
            return str(found["choices"][0]["message"]["content"])
        except (KeyError, IndexError, TypeError) as error:
            raise RequestError(f"{self.url}: expected a chat completion, found {str(found)[:80]}") from error

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        root = self.url.rstrip("/").removesuffix("/v1")
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        data = None if body is None else json.dumps(body).encode()
        for wait in (*self.waits, None):
            try:
                request = urllib.request.Request(root + path, data, headers, method=method)
                with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                    return json.loads(response.read())
            except urllib.error.HTTPError as error:
                said = f"{error.code}: {error.read()[:200].decode('utf-8', 'replace')}"
                error.close()
                is_final = error.code not in BUSY
            except (OSError, ValueError) as error:
                said, is_final = str(error), not isinstance(error, OSError)
            if is_final or wait is None:
                raise RequestError(f"{root}: expected an OpenAI-compatible server, found {said}; see --judge")
            time.sleep(wait)
        raise AssertionError
