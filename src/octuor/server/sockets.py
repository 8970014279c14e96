"""The listening sockets: taken before anything is loaded, so that a port in use is known at once."""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Any

from octuor.errors import ConfigError

BACKLOG = 2048


def bind(host: str, port: int) -> list[socket.socket]:
    """Sockets bound to all addresses that a host name stands for; port 0: any free one, the same for all.

    Raises ConfigError.
    """
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(f"host: expected an address or name of this machine, found {host!r}: {error}") from error
    bound: list[socket.socket] = []
    for family, kind, protocol, _, address in dict.fromkeys(found):
        if bound and port == 0:
            port = bound[0].getsockname()[1]
            address = (address[0], port, *address[2:])
        listener = socket.socket(family, kind, protocol)
        try:
            _bind(listener, address)
        except OSError as error:
            listener.close()
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) and len(found) > 1:
                continue  # a name such as localhost may stand for ::1 on a machine without IPv6
            for other in bound:
                other.close()
            raise ConfigError(f"{host}:{port}: {_why(error)}") from error
        bound.append(listener)
    if not bound:
        raise ConfigError(f"{host}:{port}: no address of this machine")
    return bound


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # another name may be anything
        return False


def shown(listener: socket.socket) -> str:
    """The address as a URL."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _bind(listener: socket.socket, address: Any) -> None:  # its shape is the family's
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if listener.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind(address)
    listener.listen(BACKLOG)  # now, or two servers could both have it
    listener.setblocking(False)


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "expected a free port, found one that another program listens on; choose another with --port"
    if error.errno == errno.EACCES:
        return "expected a port that this user may listen on; take one above 1023, with a proxy before it"
    return str(error)
