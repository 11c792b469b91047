"""The beginning of one SPICE channel, between a client and the server behind the gateway.

====================================  =============================================
client                                server
====================================  =============================================
``REDQ``, version, link message
.                                     ``REDQ``, version, reply with its public key
mechanism, if both sides select one
password, encrypted with that key
.                                     result
messages                              messages; the first of a main channel is
.                                     ``MAIN_INIT``, with the id of the session
====================================  =============================================

:class:`SpiceLink` reads both sides, so that the gateway knows what channel this is, of which session,
and when it is up. With a password it ends the link on both sides on the user's behalf: the browser
gets a key of ours, whose private half nobody has, and whatever it encrypts with it is replaced.
SASL is taken from the capabilities, for its exchange has another form; all else passes unchanged.

Servers there are (spice-server 0.15 in QEMU 7.2) that crash, and the machine with them, when a display
is closed before they have sent something on it. So who leaves too early is represented until then, see
:meth:`SpiceLink.farewell`.

Source: SPICE protocol, "Link messages" and "Main channel"; spice-common ``protocol.h``. All integers are
little-endian.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import cache
from struct import Struct

from attrs import frozen
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from gateway.errors import BadRequest, GatewayError, UpstreamFailed

MAGIC = b"REDQ"
#: Channel types.
MAIN, DISPLAY, INPUTS, CURSOR, PLAYBACK = 1, 2, 3, 4, 5
#: Bytes of a link message without its header, as the server has it, too.
LIMIT = 4096
#: Bytes of a password at most.
LONGEST_PASSWORD = 60

_HEADER = Struct("<4sIII")  # magic, major, minor, size
_MESSAGE = Struct("<IBBIII")  # connection id, channel type and id, common and channel words, their offset
_REPLY = Struct("<I162sIII")  # error, key, common and channel words, their offset
_WORD = Struct("<I")
_MINI = Struct("<HI")  # type, size
_FULL = Struct("<QHII")  # serial, type, size, sub-messages
_MAJOR = 2
_MAIN_INIT = 103
_MAIN_INIT_SIZE = 32
_DISPLAY_INIT = 101
_DISPLAY_INIT_SIZE = 14
#: Bits of the first word of common capabilities.
_SELECTION, _SPICE, _SASL, _MINI_HEADER = 1, 2, 4, 8
#: Bytes of an RSA-1024 ciphertext.
_TICKET = 128
_BITS = 1024


_Bad = Callable[[str], GatewayError]


class _Phase(Enum):
    LINK = "link message or reply"
    AUTH = "mechanism and password, or the result"
    INIT = "the first messages"
    OPEN = "messages"
    REFUSED = "refused"


@frozen
class LinkMessage:
    """Which channel a client asks for.

    :ivar connection_id: 0 for a new session, else that of a session which is up.
    """

    connection_id: int
    channel_type: int
    channel_id: int

    @property
    def begins_session(self) -> bool:
        """Whether a new session is asked for, rather than another channel of one."""
        return self.channel_type == MAIN and self.connection_id == 0


@cache
def decoy_key() -> bytes:
    """A public key in the form of a reply, to which nobody has the private half."""
    key = rsa.generate_private_key(65537, _BITS).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


class SpiceLink:
    """Both sides of one link; what they return is to be passed on to the other side.

    :param password: what the gateway shows to the server; None leaves that to the client.
    :raises UpstreamFailed: this is longer than a SPICE password may be.
    :ivar message: what the client asks for, once that is in. :meth:`receive_client` has returned nothing
        before, so that nothing reached the server.
    :ivar code: why the server refused, 0 while it did not. Nothing more passes then.
    :ivar linked: the server accepted; messages follow.
    :ivar mini: messages have the short header.
    :ivar session_id: of the session, told on its main channel.
    """

    def __init__(self, password: str | None = None) -> None:
        self.message: LinkMessage | None = None
        self.code = 0
        self.mini = False
        self.session_id: int | None = None
        self._password = None if password is None else password.encode("utf-8") + b"\0"
        if self._password is not None and len(self._password) > LONGEST_PASSWORD + 1:
            raise UpstreamFailed("The password is too long for SPICE", reason="spice")
        self._client = _Phase.LINK
        self._server = _Phase.LINK
        self._from_client = bytearray()
        self._from_server = bytearray()
        self._offered = 0
        self._selects = False
        self._key: rsa.RSAPublicKey | None = None

    @property
    def linked(self) -> bool:
        return self._server in (_Phase.INIT, _Phase.OPEN)

    @property
    def done(self) -> bool:
        """Nothing is left to be read here: from now on both sides may bypass this."""
        return self._server is _Phase.OPEN and self._client is _Phase.OPEN

    @property
    def settled(self) -> bool:
        """The connection to the server may be closed without harm to it."""
        display = self.message is not None and self.message.channel_type == DISPLAY
        begun = self._client in (_Phase.INIT, _Phase.OPEN)
        return not (display and begun and self._server in (_Phase.LINK, _Phase.AUTH, _Phase.INIT))

    @property
    def credential(self) -> int:
        """Bytes that the client shows before its first message, once the server's reply is in."""
        return _TICKET + (_WORD.size if self._selects else 0)

    def farewell(self) -> bytes:
        """What the server has to get when the client has left; then wait until this is :attr:`settled`.

        Meanwhile :meth:`receive_server` is to be called, for that; what it returns is for nobody.
        """
        if self.settled or self._client is _Phase.OPEN:
            return b""
        self._client = _Phase.OPEN
        header = (_DISPLAY_INIT, _DISPLAY_INIT_SIZE)
        return (_MINI.pack(*header) if self.mini else _FULL.pack(1, *header, 0)) + bytes(_DISPLAY_INIT_SIZE)

    # -- the client ------------------------------------------------------------------------

    def receive_client(self, data: bytes) -> bytes:
        """Take bytes of the client; return what goes to the server.

        :raises BadRequest: the client does not speak SPICE, or speaks out of turn.
        """
        if self._client is _Phase.OPEN:
            return data
        if self._client is _Phase.REFUSED:
            return b""
        self._from_client += data
        if self._client is _Phase.LINK:
            message = self._link_message()
            if message and self._from_client:
                raise _bad_client("answers before it was asked")
            return message
        steps = {_Phase.AUTH: self._authentication, _Phase.INIT: self._first_messages}
        passed = b""
        while (step := steps.get(phase := self._client)) is not None:
            passed += step()
            if self._client is phase:
                return passed
        rest = bytes(self._from_client)
        self._from_client.clear()
        return passed + rest

    def _link_message(self) -> bytes:
        pending = self._from_client
        size = _size(pending, _MESSAGE.size, _bad_client)
        if size is None or len(pending) < size:
            return b""
        message = bytearray(pending[:size])
        del pending[:size]
        connection, kind, number, common, channel, offset = _MESSAGE.unpack_from(message, _HEADER.size)
        self._offered = _common(message, _MESSAGE.size, common, channel, offset, _bad_client)
        self.message = LinkMessage(connection, kind, number)
        self._client = _Phase.AUTH
        return bytes(message)

    def _authentication(self) -> bytes:
        if self._server is _Phase.LINK:
            raise _bad_client("answers before it was asked")
        pending, start = self._from_client, 4 if self._selects else 0
        if start and len(pending) >= start and _WORD.unpack_from(pending)[0] != 1:
            raise _bad_client("asks for another authentication than by password")
        if len(pending) < start + _TICKET:
            return b""
        if self._password is not None and self._key is not None:
            oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303 (theirs)
            pending[start : start + _TICKET] = self._key.encrypt(self._password, oaep)
            self._password = None
        display = self.message is not None and self.message.channel_type == DISPLAY
        self._client = _Phase.INIT if display else _Phase.OPEN
        passed = bytes(pending[: start + _TICKET])
        del pending[: start + _TICKET]
        return passed

    def _first_messages(self) -> bytes:
        """Let whole messages pass, until the one is through that a display begins with."""
        pending, passed = self._from_client, b""
        while self._client is _Phase.INIT and (header := self._header(pending)) is not None:
            kind, size = header
            if size > LIMIT:
                raise _bad_client("begins a display with something else")
            if len(pending) < size:
                break
            passed += pending[:size]
            del pending[:size]
            if kind == _DISPLAY_INIT:
                self._client = _Phase.OPEN
        return passed

    def _header(self, pending: bytearray) -> tuple[int, int] | None:
        """Type and size, header included, of the message that *pending* begins with."""
        header = _MINI if self.mini else _FULL
        if len(pending) < header.size:
            return None
        kind, size = header.unpack_from(pending)[:2] if self.mini else header.unpack_from(pending)[1:3]
        return int(kind), header.size + int(size)

    # -- the server ------------------------------------------------------------------------

    def receive_server(self, data: bytes) -> bytes:
        """Take bytes of the server; return what goes to the client.

        :raises UpstreamFailed: the server does not speak SPICE, or not as it has to.
        """
        if self._server is _Phase.OPEN:
            return data
        steps = {_Phase.LINK: self._reply, _Phase.AUTH: self._result, _Phase.INIT: self._first_message}
        self._from_server += data
        passed = b""
        while (step := steps.get(phase := self._server)) is not None:
            passed += step()
            if self._server is phase:
                return passed
        rest = b"" if self.code else bytes(self._from_server)
        self._from_server.clear()
        return passed + rest

    def _reply(self) -> bytes:
        if self.message is None:
            raise _bad_server("speaks before it was asked")
        pending = self._from_server
        size = _size(pending, _REPLY.size, _bad_server)
        if size is None or len(pending) < size:
            return b""
        reply = bytearray(pending[:size])
        del pending[:size]
        self.code, key, common, channel, offset = _REPLY.unpack_from(reply, _HEADER.size)
        if self.code:
            return self._refuse(reply)
        has = _common(reply, _REPLY.size, common, channel, offset, _bad_server)
        self._selects = bool(has & self._offered & _SELECTION)
        self.mini = bool(has & self._offered & _MINI_HEADER)
        if self._selects and not has & _SPICE:
            raise _bad_server("takes no password")
        if self._password is not None:
            self._key = _public_key(key)
            reply[_HEADER.size + 4 : _HEADER.size + 4 + len(key)] = decoy_key()
        self._server = _Phase.AUTH
        return bytes(reply)

    def _result(self) -> bytes:
        if len(self._from_server) < _WORD.size:
            return b""
        if self._client not in (_Phase.INIT, _Phase.OPEN):
            raise _bad_server("answers before it was asked")
        word = bytes(self._from_server[: _WORD.size])
        del self._from_server[: _WORD.size]
        (self.code,) = _WORD.unpack(word)
        if self.code:
            return self._refuse(word)
        kind = self.message.channel_type if self.message is not None else 0
        self._server = _Phase.INIT if kind in (MAIN, DISPLAY) else _Phase.OPEN
        return word

    def _first_message(self) -> bytes:
        """Hold the first message of a main channel until the id in it is known."""
        pending = self._from_server
        if self.message is not None and self.message.channel_type == MAIN:
            header = self._header(pending)
            if header is None:
                return b""
            start = (_MINI if self.mini else _FULL).size
            if header[0] == _MAIN_INIT and header[1] >= start + _MAIN_INIT_SIZE:
                if len(pending) < start + _WORD.size:
                    return b""
                (self.session_id,) = _WORD.unpack_from(pending, start)
            # A server that begins otherwise has one channel: no other can name its session.
        if pending:
            self._server = _Phase.OPEN
        return b""

    def _refuse(self, last: bytes | bytearray) -> bytes:
        self._server = self._client = _Phase.REFUSED
        return bytes(last)


def _bad_client(what: str) -> BadRequest:
    return BadRequest(f"The client {what}", reason="spice")


def _bad_server(what: str) -> UpstreamFailed:
    return UpstreamFailed(f"The SPICE server {what}", reason="spice")


def _size(pending: bytearray, least: int, bad: _Bad) -> int | None:
    """Bytes of the message that *pending* begins with, its header included; None while that is unknown."""
    if not MAGIC.startswith(pending[: len(MAGIC)]):
        raise bad("does not speak SPICE")
    if len(pending) < _HEADER.size:
        return None
    _, major, _, size = _HEADER.unpack_from(pending)
    if major != _MAJOR:
        raise bad("speaks another version of SPICE")
    if not least <= size <= LIMIT:
        raise bad("sends a link message of no good size")
    return _HEADER.size + int(size)


def _common(message: bytearray, least: int, common: int, channel: int, offset: int, bad: _Bad) -> int:
    """Take SASL from the capabilities in *message*; return the first word of the common ones."""
    begin = _HEADER.size + offset
    if offset < least or begin + _WORD.size * (common + channel) > len(message):
        raise bad("sends capabilities outside of its message")
    if not common:
        return 0
    word = int(_WORD.unpack_from(message, begin)[0]) & ~_SASL
    _WORD.pack_into(message, begin, word)
    return word


def _public_key(der: bytes) -> rsa.RSAPublicKey:
    try:
        key = load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm):
        raise _bad_server("sends a key that is none") from None
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size != _BITS:
        raise _bad_server("sends a key of another kind")
    return key
