"""What an oVirt engine signs for one console: the payload in :mod:`its envelope <gateway.wire.ovirt_ticket>`.

It is JSON, percent-encoded. A plus sign stands for itself, for tokens hold such; a program that
encodes forms would have written a blank so, but engines write none.
Source: oVirt engine ticket format, console tickets of engine 3.3 and later.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import unquote_to_bytes

from attrs import field, frozen

from gateway.wire import strict_json
from gateway.wire.ovirt_ticket import LIMIT, BadTicket

_ENCODED = re.compile(r"(?:[\x20-\x24\x26-\x7e]|%[0-9A-Fa-f]{2})*")
_MEMBERS = frozenset({"host", "port", "ssl_target", "path", "token"})
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_PATH = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@/%?-]{0,1023}")
_TOKEN = re.compile(r"[\x21-\x7e]{1,8192}")


@frozen
class ConsolePayload:
    """Where one console is. It does not say whether that is VNC or SPICE.

    :ivar host: name or address; IPv6 without brackets.
    :ivar ssl_target: SPICE is wrapped in TLS there, VNC speaks VeNCrypt.
    :ivar path: where the console is a websocket: its path. Else None.
    :ivar token: what that websocket wants to see, if anything.
    """

    host: str
    port: int
    ssl_target: bool
    path: str | None = None
    token: str | None = field(default=None, repr=False)

    @property
    def authority(self) -> str:
        """``host:port``, as a URL has it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def console_payload(data: str) -> ConsolePayload:
    """Read *data* of an envelope as the grant of a console.

    :raises BadTicket: for anything else (``purpose``), or an unusable address (``target``).
    """
    if len(data) > LIMIT or not _ENCODED.fullmatch(data):
        raise BadTicket("purpose", "the payload is not percent-encoded")
    try:
        members = strict_json.load_object(unquote_to_bytes(data), limit=LIMIT, depth=1)
    except ValueError as error:
        raise BadTicket("purpose", str(error)) from None
    if not {"host", "port", "ssl_target"} <= members.keys() <= _MEMBERS:
        raise BadTicket("purpose", "the payload has other members than that of a console")
    host, port, secure = members["host"], members["port"], members["ssl_target"]
    path, token = (_text(members, name, grammar) for name, grammar in (("path", _PATH), ("token", _TOKEN)))
    if not isinstance(host, str) or not isinstance(secure, bool):
        raise BadTicket("purpose", "a member has another type")
    if token is not None and path is None:
        raise BadTicket("purpose", "a token without a path")
    return ConsolePayload(_host(host), _port(port), secure, path, token)


def _text(members: dict[str, object], name: str, grammar: re.Pattern[str]) -> str | None:
    value = members.get(name)
    if value is not None and not (isinstance(value, str) and grammar.fullmatch(value)):
        raise BadTicket("purpose", f"the {name} is none")
    return value


def _port(value: object) -> int:
    """A number, or its digits: engines write these."""
    if isinstance(value, str) and _PORT.fullmatch(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadTicket("purpose", "the port is not a number")
    if not 0 < value <= 65535:
        raise BadTicket("target", "a port is 1 to 65535")
    return value


def _host(text: str) -> str:
    """A name, or an address in its one spelling; shorthand that only a resolver knows is refused."""
    bracketed = text.startswith("[") and text.endswith("]")
    try:
        if "%" in text:
            raise ValueError("a zone is no part of it")
        address = ip_address(text[1:-1] if bracketed else text)
    except ValueError:
        labels = text.split(".")
        if len(text) > 253 or _NUMBER.fullmatch(labels[-1]) or not all(map(_LABEL.fullmatch, labels)):
            raise BadTicket("target", "the host has no proper name") from None
        return text
    if bracketed and address.version == 4:
        raise BadTicket("target", "brackets are for IPv6 addresses")
    return str(address)
