"""Where the ticket of a console stands in a request: in one place only.

======================================  ==========================================================
``/TOKEN``                              an engine's signed ticket is the whole path
``/console/ID``, ``/console/TOKEN``     the id of a ticket in the registry, or a token
``?token=ID``, ``?token=TOKEN``         with any path, as other front ends have it
``Sec-WebSocket-Protocol: ticket.X``    X is the ID or TOKEN in base64url, so that no URL holds it
``Cookie: __Host-gwc=ID``               set by a page of ours; then the page has to be named, too
======================================  ==========================================================

Everything of a URL may be percent-encoded, once. Who only asks about a console shows its ticket as a
``Bearer``, see :func:`bearer`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from urllib.parse import unquote_to_bytes

from attrs import field, frozen

from gateway import errors
from gateway.wire.http_head import RequestHead

#: Where consoles with the id of a ticket are.
PREFIXES = ("/console/",)
#: What an item of Sec-WebSocket-Protocol begins with that is a ticket, and is never answered.
ITEM = "ticket."
COOKIE = b"__Host-gwc"
#: How the base64 of a JSON object begins: an envelope as well as a JWT.
_TOKEN = "eyJ"  # noqa: S105 (no secret)
_FRONT_END = "/websockify"
#: The place of our own pages, which show no ticket in an address.
OWN = "/console/"

_ID = re.compile(r"[A-Za-z0-9._~-]{1,128}")
_ENCODED = re.compile(rb"(?:[\x21-\x24\x26-\x7e]|%[0-9A-Fa-f]{2})*")
_BEARER = re.compile(r"(?i:bearer) +([A-Za-z0-9._~+/-]+=*)")
_BASE64URL = re.compile(r"[A-Za-z0-9_-]{1,21846}")


@frozen
class Credential:
    """What a client shows.

    :ivar text: the id of a ticket, or a token.
    :ivar ambient: a cookie, which browsers send whatever page asks.
    """

    text: str = field(repr=False)
    ambient: bool = False

    @property
    def is_id(self) -> bool:
        """Whether it is an id; tokens are longer than ids may be."""
        return _ID.fullmatch(self.text) is not None


def is_console(target: bytes, prefixes: Sequence[str] = PREFIXES) -> bool:
    """Whether a request for *target* is for a console at all, whatever it shows."""
    path = target.partition(b"?")[0].decode("ascii", "replace")
    return (
        any(path.startswith(prefix) for prefix in prefixes)
        or path.startswith(f"/{_TOKEN}")
        or path.endswith(_FRONT_END)
        or path == OWN
        or (path == "/" and any(_of_query(target)))
    )


def find(head: RequestHead, prefixes: Sequence[str] = PREFIXES) -> Credential:
    """Return what *head* shows.

    :raises gateway.errors.NoTicket: nothing; reason ``missing``.
    :raises gateway.errors.BadRequest: two different things, or one that is not encoded well.
    """
    plain = {*_of_path(head.target, prefixes), *map(_decoded, _of_query(head.target)), *_of_protocols(head)}
    cookies = set(_of_cookies(head))
    if len(plain | cookies) > 1:
        raise errors.BadRequest("The request shows two different tickets", reason="ambiguous")
    for text in plain | cookies:
        return Credential(text, ambient=bool(cookies))
    raise errors.NoTicket(reason="missing")


def bearer(head: RequestHead) -> Credential:
    """Return what *head* shows in ``Authorization``. Source: RFC 6750, section 2.1.

    :raises gateway.errors.NoTicket: nothing; reason ``missing``.
    :raises gateway.errors.BadRequest: more than one thing, or something else.
    """
    if head.count(b"authorization") == 0:
        raise errors.NoTicket(reason="missing")
    match = _BEARER.fullmatch((head.get(b"authorization") or b"").decode("latin-1"))
    if head.count(b"authorization") > 1 or match is None:
        raise errors.BadRequest("The ticket has to be a bearer token", reason="malformed")
    return Credential(match[1])


def _decoded(raw: bytes) -> str:
    """Undo percent-encoding; a plus sign stands for itself."""
    if not _ENCODED.fullmatch(raw):
        raise errors.BadRequest("The address is not encoded well", reason="malformed")
    return unquote_to_bytes(raw).decode("latin-1")


def _of_path(target: bytes, prefixes: Sequence[str]) -> Iterator[str]:
    path = _decoded(target.partition(b"?")[0])
    for prefix in prefixes:
        if path.startswith(prefix):
            if path != prefix:
                yield path.removeprefix(prefix)
            return
    if path.startswith(f"/{_TOKEN}"):
        yield path[1:]


def _of_query(target: bytes) -> Iterator[bytes]:
    for pair in target.partition(b"?")[2].split(b"&"):
        name, _, value = pair.partition(b"=")
        if name == b"token" and value:
            yield value


def _of_protocols(head: RequestHead) -> Iterator[str]:
    for name, value in head.fields:
        if name == b"sec-websocket-protocol":
            for item in value.decode("latin-1").split(","):
                if item.strip(" \t").startswith(ITEM):
                    yield _base64url(item.strip(" \t").removeprefix(ITEM))


def _base64url(text: str) -> str:
    """Undo base64url in its one spelling, without padding."""
    try:
        if not _BASE64URL.fullmatch(text):
            raise ValueError("not base64url")
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        if base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=") != text:
            raise ValueError("another spelling")
        return raw.decode("ascii")
    except (ValueError, binascii.Error):
        raise errors.BadRequest("The ticket is not encoded well", reason="malformed") from None


def _of_cookies(head: RequestHead) -> Iterator[str]:
    for name, value in head.fields:
        if name == b"cookie":
            for pair in value.split(b";"):
                key, _, text = pair.strip(b" \t").partition(b"=")
                if key == COOKIE and text:
                    yield text.decode("latin-1")
