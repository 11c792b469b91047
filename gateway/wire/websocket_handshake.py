"""The opening handshake of a websocket, judged before anything is done for it.

Source: RFC 6455, sections 4.1 and 4.2; RFC 9110, section 7.8.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from attrs import field, frozen

from gateway import errors
from gateway.wire.http_head import RequestHead, serialize_request

VERSION = b"13"

_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@frozen
class Handshake:
    """What a client asks for; extensions are not ours, so they are left out.

    :ivar protocols: the subprotocols offered, in the client's order. One of them may be a ticket.
    :ivar origin: as sent; None when there is none, as no browser does it.
    """

    key: bytes = field(repr=False)
    protocols: Sequence[str] = field(repr=False)
    origin: str | None

    def request(self, protocol: str | None) -> bytes:
        """Return a request for the same websocket that holds no path, no ticket and no cookie.

        :param protocol: the only subprotocol it offers.
        """
        fields = [
            (b"host", b"localhost"),
            (b"upgrade", b"websocket"),
            (b"connection", b"upgrade"),
            (b"sec-websocket-version", VERSION),
            (b"sec-websocket-key", self.key),
        ]
        if protocol is not None:
            fields.append((b"sec-websocket-protocol", protocol.encode("ascii")))
        return serialize_request(b"GET", b"/", fields)


def read_handshake(head: RequestHead) -> Handshake:
    """Judge the head of a request for a websocket.

    :raises gateway.errors.UpgradeRequired: it is for no websocket, or for one of another version.
    :raises gateway.errors.GatewayError: the handshake is malformed.
    """
    if head.method != b"GET":
        raise errors.MethodNotAllowed(["GET"])
    if "websocket" not in _list(head, b"upgrade") or "upgrade" not in _list(head, b"connection"):
        raise errors.UpgradeRequired
    if head.get(b"sec-websocket-version") != VERSION or head.version != b"1.1":
        raise errors.UpgradeRequired
    once = (b"sec-websocket-key", b"sec-websocket-version")
    if any(head.count(name) != 1 for name in once) or head.count(b"origin") > 1:
        raise errors.BadRequest("A field of the websocket handshake is missing or repeated")
    if head.length or head.chunked:
        raise errors.BadRequest("A websocket handshake has no body")
    key = head.get(b"sec-websocket-key") or b""
    if not _KEY.fullmatch(key):
        raise errors.BadRequest("Sec-WebSocket-Key is malformed")
    protocols = _list(head, b"sec-websocket-protocol", fold=False)
    if len(set(protocols)) != len(protocols) or not all(_TOKEN.fullmatch(name) for name in protocols):
        raise errors.BadRequest("Sec-WebSocket-Protocol is malformed")
    origin = head.get(b"origin")
    return Handshake(key, protocols, None if origin is None else origin.decode("latin-1"))


def _list(head: RequestHead, name: bytes, *, fold: bool = True) -> list[str]:
    """The members of a list field, of all its lines."""
    lines = [value.decode("latin-1") for key, value in head.fields if key == name]
    members = [member.strip() for line in lines for member in line.split(",")]
    return [member.lower() for member in members] if fold else members
