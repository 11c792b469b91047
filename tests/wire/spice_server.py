"""A SPICE server and a client in memory: only how a channel begins, written apart from our codec."""

from __future__ import annotations

from functools import cache

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

OAEP = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
#: AUTH_SELECTION, AUTH_SPICE, AUTH_SASL, MINI_HEADER.
ALL = 0b1111


@cache
def server_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 1024)


def u32(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, "little") for number in numbers)


def take(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def link(
    connection: int = 0, kind: int = 1, number: int = 0, common: int = ALL, channel: tuple[int, ...] = (9,)
) -> bytes:
    """What a client sends first."""
    body = u32(connection) + bytes((kind, number)) + u32(1, len(channel), 18, common, *channel)
    return b"REDQ" + u32(2, 2, len(body)) + body


def mini(kind: int, body: bytes = b"") -> bytes:
    return kind.to_bytes(2, "little") + u32(len(body)) + body


def full(kind: int, body: bytes = b"", serial: int = 1, more: int = 0) -> bytes:
    return serial.to_bytes(8, "little") + kind.to_bytes(2, "little") + u32(len(body), more) + body


class Server:
    """Answers one channel; takes bytes in pieces of any size.

    :ivar heard: messages after the link.
    :ivar password: what the client showed.
    """

    def __init__(
        self, password: str = "", *, common: int = ALL, error: int = 0, session_id: int = 0x11223344
    ) -> None:
        self.common = common
        self.error = error
        self.session_id = session_id
        self.wanted = password
        self.password: str | None = None
        self.link = b""
        self.mechanism: int | None = None
        self.heard = b""
        self._buffer = b""
        self._linked = False
        self.closed = False

    def receive(self, data: bytes) -> bytes:
        self._buffer += data
        out = b""
        while not self.closed and (answer := self._step()) is not None:
            out += answer
        return out

    def _step(self) -> bytes | None:
        if not self.link:
            if len(self._buffer) < 16 or len(self._buffer) < 16 + take(self._buffer, 12):
                return None
            end = 16 + take(self._buffer, 12)
            self.link, self._buffer = self._buffer[:end], self._buffer[end:]
            key = server_key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            self.closed = self.error != 0
            if self.closed:
                return b"REDQ" + u32(2, 2, 178, self.error) + bytes(162) + u32(0, 0, 178)
            return b"REDQ" + u32(2, 2, 186, 0) + key + u32(1, 1, 178, self.common, 7)
        if not self._linked:
            selects = self.common & self.client_common & 1
            if len(self._buffer) < 128 + 4 * selects:
                return None
            if selects:
                self.mechanism = take(self._buffer, 0)
                self._buffer = self._buffer[4:]
            secret = server_key().decrypt(self._buffer[:128], OAEP)
            self._buffer = self._buffer[128:]
            assert secret.endswith(b"\0")
            self.password = secret[:-1].decode()
            self._linked = True
            if self.password != self.wanted:
                self.closed = True
                return u32(7)
            if self.link[20] != 1:
                return u32(0)
            return u32(0) + self.message(103, u32(self.session_id) + bytes(28))
        self.heard += self._buffer
        self._buffer = b""
        return None

    @property
    def client_common(self) -> int:
        return take(self.link, 34)

    def message(self, kind: int, body: bytes) -> bytes:
        return (mini if self.common & self.client_common & 8 else full)(kind, body)


class Client:
    """Opens one channel.

    :ivar result: of the link.
    :ivar heard: messages after it.
    :ivar key: what the other side says is its key.
    """

    def __init__(self, password: str = "", *, hello: bytes = link(), mechanism: int = 1) -> None:
        self.hello = hello
        self.typed = password
        self.mechanism = mechanism
        self.key = b""
        self.common = 0
        self.error: int | None = None
        self.result: int | None = None
        self.heard = b""
        self._buffer = b""

    def receive(self, data: bytes) -> bytes:
        self._buffer += data
        out = b""
        if self.error is None and len(self._buffer) >= 16 + 178:
            end = 16 + take(self._buffer, 12)
            if len(self._buffer) < end:
                return b""
            reply, self._buffer = self._buffer[:end], self._buffer[end:]
            self.error, self.key = take(reply, 16), reply[20:182]
            if self.error:
                return b""
            self.common = take(reply, 16 + 178)
            key = load_der_public_key(self.key)
            assert isinstance(key, rsa.RSAPublicKey)
            if self.common & take(self.hello, 34) & 1:
                out += u32(self.mechanism)
            out += key.encrypt(self.typed.encode() + b"\0", OAEP)
        if self.error == 0 and self.result is None and len(self._buffer) >= 4:
            self.result, self._buffer = take(self._buffer, 0), self._buffer[4:]
        if self.result is not None:
            self.heard, self._buffer = self.heard + self._buffer, b""
        return out
