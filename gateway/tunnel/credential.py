"""Where a CONNECT may show its ticket.

============================================  ==================================================
``Proxy-Authorization: Basic user:TICKET``    the id of a ticket or a token; the user is for the log
``CONNECT word:TICKET:word:PORT``             the id, in lower case, as files of Proxmox have it
============================================  ==================================================

Stock clients send the first with every CONNECT when the URL of their proxy holds user and password. They
lose what follows a colon or an at sign in it.
Source: RFC 7617; spice-gtk 0.42; Proxmox VE spiceproxy.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error

from attrs import field, frozen

from gateway import errors
from gateway.wire.authority import Authority
from gateway.wire.http_head import RequestHead

#: Characters of an id that is found among other words.
SHORTEST = 20

_ID = re.compile(r"[A-Za-z0-9._~-]{1,128}")
_BASIC = re.compile(rb"[Bb][Aa][Ss][Ii][Cc] +([A-Za-z0-9+/]+={0,2})")


@frozen
class Credential:
    """What a client shows.

    :ivar text: the id of a ticket, or a token.
    :ivar of_host: it was found in the target, not sent as a credential.
    """

    text: str = field(repr=False)
    of_host: bool = False

    @property
    def is_id(self) -> bool:
        """Whether it is an id; tokens are longer than ids may be."""
        return _ID.fullmatch(self.text) is not None


def find(head: RequestHead, authority: Authority) -> Credential | None:
    """Return what a request shows, if anything.

    :raises gateway.errors.BadRequest: it shows two things, or one that is not encoded well.
    :raises gateway.errors.Forbidden: a host of words holds no ticket.
    """
    values = [value for name, value in head.fields if name == b"proxy-authorization"]
    if len(values) > 1 or (values and authority.words):
        raise errors.BadRequest("The request shows two credentials", reason="ambiguous")
    if authority.words:
        tickets = [word for word in authority.words if len(word) >= SHORTEST and _ID.fullmatch(word)]
        if len(tickets) != 1:
            raise errors.Forbidden("The target holds no ticket", reason="authority")
        return Credential(tickets[0], of_host=True)
    return _basic(values[0]) if values else None


def _basic(value: bytes) -> Credential | None:
    """The password; None for another scheme, or without one."""
    match = _BASIC.fullmatch(value)
    if match is None:
        return None
    try:
        _, _, password = b64decode(match[1], validate=True).decode("utf-8").partition(":")
    except (Error, UnicodeDecodeError):
        raise errors.BadRequest("The credential is not encoded well", reason="malformed") from None
    return Credential(password) if password else None
