"""Where there are keys, nothing of the page without one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from octuor.accounts import Accounts, open_accounts, open_store
from octuor.ui.keys import TEXTS, language_of
from octuor.ui.visitors import SESSION_COOKIE
from ui.front import Fronted

FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.fixture
def accounts(tmp_path: Path) -> Iterator[Accounts]:
    with open_accounts(tmp_path / "home") as found:
        yield found


@pytest.fixture
def secret(tmp_path: Path, accounts: Accounts) -> str:
    with open_store(tmp_path / "home") as store:
        made: str = store.create_key("ada")[0]
    accounts._poll()
    return made


def give(front: Fronted, text: str, **headers: str) -> httpx.Response:
    return front.request("POST", "/ui/key", content=f"key={text}".encode(), headers=FORM | headers)


def session_of(answer: httpx.Response) -> dict[str, str]:
    cookies = [value for name, value in answer.headers.multi_items() if name == "set-cookie"]
    [found] = [value.partition(";")[0] for value in cookies if value.startswith(SESSION_COOKIE)]
    return {"cookie": f"octuor_browser={'b' * 43}; {found}"}


def test_without_a_key_there_is_a_field_and_nothing_else(tmp_path: Path, accounts: Accounts, secret: str) -> None:  # noqa: ARG001
    front = Fronted(tmp_path, accounts)
    answer = front.get("/")
    assert answer.status_code == 401
    assert '<input id="key" name="key" type="password"' in answer.text
    assert "<script" not in answer.text
    for method, path in (("GET", "/config"), ("GET", "/assets/a.js"), ("POST", "/gradio_api/queue/join")):
        assert front.request(method, path).status_code == 401, path
    assert front.asked == []


def test_a_key_opens_the_page_for_one_browser(tmp_path: Path, accounts: Accounts, secret: str) -> None:
    front = Fronted(tmp_path, accounts)
    answer = give(front, secret)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    headers = session_of(answer)
    assert secret not in str(answer.headers)  # nor a part of it
    assert secret[11:] not in str(answer.headers)
    found = front.get("/config", headers=headers).json()
    assert found["key"] == secret
    assert found["owner"] == f"key:{secret[:11]}"
    assert front.get("/config").status_code == 401


def test_the_session_ends_with_the_browsers(tmp_path: Path, accounts: Accounts, secret: str) -> None:
    answer = give(Fronted(tmp_path, accounts), secret)
    [session] = [text for text in answer.headers.get_list("set-cookie") if text.startswith(SESSION_COOKIE)]
    assert set(session.split("; ")[1:]) == {"HttpOnly", "SameSite=Lax", "Path=/"}


@pytest.mark.parametrize("text", ["", "sk-wrong", "%00", "%ff%fe", "sk-" + "x" * 40])
def test_a_wrong_key_is_asked_for_again(tmp_path: Path, accounts: Accounts, secret: str, text: str) -> None:  # noqa: ARG001
    answer = give(Fronted(tmp_path, accounts), text)
    assert answer.status_code == 401
    assert 'role="alert"' in answer.text
    assert SESSION_COOKIE not in str(answer.headers)


def test_a_form_that_is_no_form(tmp_path: Path, accounts: Accounts, secret: str) -> None:  # noqa: ARG001
    assert give(Fronted(tmp_path, accounts), "x" * 5000).status_code == 413


def test_a_revoked_key_closes_it_again(tmp_path: Path, accounts: Accounts, secret: str) -> None:
    front = Fronted(tmp_path, accounts)
    headers = session_of(give(front, secret))
    with open_store(tmp_path / "home") as store:
        store.revoke("ada")
    accounts._poll()
    assert front.get("/config", headers=headers).status_code == 401
    assert front.get("/", headers=headers).status_code == 401


def test_a_key_can_be_forgotten(tmp_path: Path, accounts: Accounts, secret: str) -> None:
    front = Fronted(tmp_path, accounts)
    headers = session_of(give(front, secret))
    answer = front.request("POST", "/ui/forget", headers=headers)
    assert answer.status_code == 303
    assert "Max-Age=0" in answer.headers["set-cookie"]
    assert front.get("/config", headers=headers).status_code == 401


def test_other_sites_cannot_give_keys(tmp_path: Path, accounts: Accounts, secret: str) -> None:
    assert give(Fronted(tmp_path, accounts), secret, origin="https://example.org").status_code == 403


def test_without_keys_nothing_is_asked_for(tmp_path: Path, accounts: Accounts) -> None:
    front = Fronted(tmp_path, accounts)
    assert front.get("/").status_code == 200
    answer = give(front, "sk-any")
    assert answer.status_code == 303
    assert SESSION_COOKIE not in str(answer.headers)


def test_the_form_stays_below_the_proxys_path(tmp_path: Path, accounts: Accounts, secret: str) -> None:
    front = Fronted(tmp_path, accounts)
    prefix = {"x-forwarded-prefix": "/chat"}
    assert 'action="/chat/ui/key"' in front.get("/", headers=prefix).text
    answer = give(front, secret, **prefix)
    assert answer.headers["location"] == "/chat/"
    assert "Path=/chat" in answer.headers["set-cookie"]


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("de-CH,de;q=0.9,en;q=0.8", "de"),
        ("pl, it;q=0.5", "it"),
        ("", "en"),
        ("*", "en"),
        ("FR", "fr"),
        ("es-419", "es"),
    ],
)
def test_the_field_is_in_the_browsers_language(
    tmp_path: Path, accounts: Accounts, secret: str, accepted: str, language: str  # noqa: ARG001
) -> None:  # fmt: skip
    assert language_of(accepted) == language
    text = Fronted(tmp_path, accounts).get("/", headers={"accept-language": accepted}).text
    assert f'<html lang="{language}">' in text
    assert TEXTS[language][0] in text


def test_every_language_has_every_text() -> None:
    assert set(TEXTS) == {"en", "fr", "de", "it", "es"}
    assert all(all(texts) for texts in TEXTS.values())
