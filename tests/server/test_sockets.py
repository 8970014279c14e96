"""Ports."""

from __future__ import annotations

import socket

import pytest

from octuor.errors import ConfigError
from octuor.server.sockets import bind, shown


def close(sockets: list[socket.socket]) -> None:
    for listener in sockets:
        listener.close()


def test_a_free_port_is_found_and_given_back() -> None:
    found = bind("127.0.0.1", 0)
    port = found[0].getsockname()[1]
    assert shown(found[0]) == f"http://127.0.0.1:{port}"
    close(found)
    close(bind("127.0.0.1", port))


def test_a_port_in_use_is_known_at_once() -> None:
    found = bind("127.0.0.1", 0)
    try:
        with pytest.raises(ConfigError, match="another program listens on; choose another with --port"):
            bind("127.0.0.1", found[0].getsockname()[1])
    finally:
        close(found)


def test_all_addresses_of_a_name_get_the_same_port() -> None:
    found = bind("localhost", 0)
    try:
        assert len({listener.getsockname()[1] for listener in found}) == 1
    finally:
        close(found)


def test_addresses_of_others_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1"):
        bind("192.0.2.1", 0)


def test_names_that_stand_for_nothing_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ConfigError, match="expected an address or name of this machine, found 'nowhere'"):
        bind("nowhere", 0)


def test_ipv6_is_shown_in_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        monkeypatch.setattr(socket.socket, "getsockname", lambda _: ("::1", 8000, 0, 0))
        assert shown(listener) == "http://[::1]:8000"
