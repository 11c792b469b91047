"""The one SASL mechanism that is offered, inside of TLS: a name and a password in one message.

Source: RFC 4616; RFC 4422, section 3.
"""

from __future__ import annotations

from attrs import field, frozen

#: Bytes of the message.
LIMIT = 65_536


@frozen
class Plain:
    """What a client says.

    :ivar user: who it wants to be called.
    """

    user: str
    password: str = field(repr=False)


def parse_plain(data: bytes) -> Plain:
    """Read the message of a client; the authorization identity in it must be empty, or the user.

    :raises ValueError: it makes no sense.
    """
    parts = data.split(b"\0")
    if len(data) > LIMIT or len(parts) != 3:
        raise ValueError("a name and a password are expected")
    other, user, password = (part.decode("utf-8") for part in parts)
    if not password or other not in ("", user):
        raise ValueError("a name and a password are expected")
    return Plain(user, password)
