"""Whose page it is: cookies and sessions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from octuor.ui import visitors
from octuor.ui.backend import User
from octuor.ui.visitors import BROWSER_COOKIE, SESSION_S, Sessions
from ui.front import Fronted

WHO = "/config"


def test_a_new_browser_gets_an_id_of_its_own(tmp_path: Path) -> None:
    front = Fronted(tmp_path)
    first, second = front.get("/"), front.get("/")
    ids = [re.match(rf"{BROWSER_COOKIE}=([\w-]{{43}}); ", answer.headers["set-cookie"]) for answer in (first, second)]
    assert ids[0] is not None
    assert ids[1] is not None
    assert ids[0][1] != ids[1][1]
    attributes = set(first.headers["set-cookie"].split("; ")[1:])
    assert attributes == {"HttpOnly", "SameSite=Lax", "Path=/", f"Max-Age={visitors.KEPT_S}"}


def test_the_cookie_stays_secret_over_https(tmp_path: Path) -> None:
    assert "; Secure" in Fronted(tmp_path).get("/", base="https://localhost").headers["set-cookie"]


def test_a_known_browser_keeps_its_id(tmp_path: Path) -> None:
    browser = "b" * 43
    answer = Fronted(tmp_path).get(WHO, headers={"cookie": f"{BROWSER_COOKIE}={browser}"})
    assert "set-cookie" not in answer.headers
    assert answer.json() == {"owner": f"browser:{browser}", "key": None, "client": "127.0.0.1", "n": 0}


@pytest.mark.parametrize("browser", ["", "short", "b" * 44, "ä" * 43, "../" + "b" * 40, "b" * 42 + "'"])
def test_an_id_that_we_did_not_make_is_replaced(tmp_path: Path, browser: str) -> None:
    cookie = f"{BROWSER_COOKIE}={browser}".encode()
    answer = Fronted(tmp_path).request("POST", "/gradio_api/queue/join", headers={"cookie": cookie})
    [given] = re.findall(rf"{BROWSER_COOKIE}=([\w-]{{43}});", answer.headers["set-cookie"])
    assert answer.json()["owner"] == f"browser:{given}"


def test_an_owner_is_the_key_or_the_browser() -> None:
    assert User("b").owner == "browser:b"
    assert User("b", "sk-abcdefghXYZ", "sk-abcdefgh").owner == "key:sk-abcdefgh"
    assert "XYZ" not in repr(User("b", "sk-abcdefghXYZ", "sk-abcdefgh"))


def test_files_bring_no_cookies(tmp_path: Path) -> None:
    """A new browser asks for many at once, and would get as many ids."""
    assert "set-cookie" not in Fronted(tmp_path).get("/assets/a.js").headers


class Watch:
    """A clock that stands."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_sessions_end_when_they_are_not_used() -> None:
    watch = Watch()
    sessions = Sessions(watch)
    token, other = sessions.open("sk-1"), sessions.open("sk-2")
    watch.now += SESSION_S
    assert sessions.secret(token) == "sk-1"
    watch.now += 1
    assert sessions.secret(token) == "sk-1"
    assert sessions.secret(other) is None
    sessions.close(token)
    sessions.close(token)
    assert sessions.secret(token) is None
    assert sessions.secret("") is None


def test_there_are_only_so_many_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visitors, "MAX_SESSIONS", 2)
    sessions = Sessions()
    tokens = [sessions.open(f"sk-{n}") for n in range(2)]
    sessions.secret(tokens[0])  # the last one used stays
    last = sessions.open("sk-3")
    assert [sessions.secret(token) for token in (*tokens, last)] == ["sk-0", None, "sk-3"]
