"""How we log in at a server that wants a name and a password: SCRAM, which shows it neither, and PLAIN.

Sources: RFC 4616 (PLAIN); RFC 5802 and RFC 7677 (SCRAM, without channel binding).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b64decode, b64encode
from binascii import Error
from typing import Protocol
from unicodedata import normalize

from attrs import define, field, frozen

#: By their names, the best first: how SCRAM digests.
DIGESTS = {"SCRAM-SHA-512": "sha512", "SCRAM-SHA-256": "sha256", "SCRAM-SHA-1": "sha1"}
#: Rounds that a server may ask of us; each hundred thousand takes some 50 ms.
ROUNDS = 200_000
_FIRST = re.compile(r"r=([\x21-\x2b\x2d-\x7e]+),s=([A-Za-z0-9+/=]+),i=([1-9][0-9]{0,6})(?:,.*)?")
_HEADER = "n,,"


class SaslError(ValueError):
    """The server says what it may not, or is not the one that knows our password."""


@frozen
class Credentials:
    """Who we are.

    :ivar user: the name to log in by.
    """

    user: str
    password: str = field(repr=False)


class Mechanism(Protocol):
    """One login.

    :ivar done: the server has proven what it had to.
    """

    @property
    def done(self) -> bool: ...

    def first(self) -> bytes:
        """What we say first."""

    def answer(self, data: bytes) -> bytes:
        """What we say to *data*.

        :raises SaslError: it should not be said.
        """


@define
class Plain:
    """The password as it is: for connections that nobody else reads."""

    who: Credentials
    done: bool = field(default=True, init=False)

    def first(self) -> bytes:
        return f"\0{self.who.user}\0{self.who.password}".encode()

    def answer(self, data: bytes) -> bytes:
        raise SaslError("PLAIN has no second step")


@define
class Scram:
    """A proof that we know the password, and one that the server does.

    :param digest: a name of hashlib.
    :param nonce: printable ASCII without commas, new for each login.
    """

    who: Credentials = field(repr=False)
    digest: str
    nonce: str = field(repr=False)
    done: bool = field(default=False, init=False)
    _proof: bytes = field(default=b"", init=False, repr=False)

    def first(self) -> bytes:
        return (_HEADER + self._bare).encode()

    @property
    def _bare(self) -> str:
        user = normalize("NFKC", self.who.user).replace("=", "=3D").replace(",", "=2C")
        return f"n={user},r={self.nonce}"

    def answer(self, data: bytes) -> bytes:
        if self._proof:
            self._check(data)
            return b""
        try:
            text = data.decode("ascii")
            match = _FIRST.fullmatch(text)
            if match is None:
                raise SaslError("the first message of SCRAM has no sense")
            nonce, salt, rounds = match[1], b64decode(match[2], validate=True), int(match[3])
        except (UnicodeDecodeError, Error):
            raise SaslError("the first message of SCRAM has no sense") from None
        if not nonce.startswith(self.nonce) or len(nonce) == len(self.nonce):
            raise SaslError("this is an answer to somebody else")
        if rounds > ROUNDS:
            raise SaslError(f"more than {ROUNDS} rounds are asked for")
        password = normalize("NFKC", self.who.password).encode()
        salted = hashlib.pbkdf2_hmac(self.digest, password, salt, rounds)
        final = f"c={b64encode(_HEADER.encode()).decode()},r={nonce}"
        said = f"{self._bare},{text},{final}".encode()
        key = self._hmac(salted, b"Client Key")
        signature = self._hmac(hashlib.new(self.digest, key).digest(), said)
        proof = bytes(one ^ other for one, other in zip(key, signature, strict=True))
        self._proof = self._hmac(self._hmac(salted, b"Server Key"), said)
        return f"{final},p={b64encode(proof).decode()}".encode()

    def _check(self, data: bytes) -> None:
        wanted = b"v=" + b64encode(self._proof)
        if not hmac.compare_digest(data.partition(b",")[0], wanted):
            raise SaslError("the server does not know our password")
        self.done = True

    def _hmac(self, key: bytes, data: bytes) -> bytes:
        return hmac.digest(key, data, self.digest)


def choose(offered: list[str], who: Credentials, nonce: str, only: str = "") -> tuple[str, Mechanism]:
    """The best of what a server offers, by its name.

    :param only: the mechanism to take, if any.
    :raises SaslError: we know none of them.
    """
    names = [name for name in (*DIGESTS, "PLAIN") if name in offered and only in ("", name)]
    if not names:
        raise SaslError("no mechanism in common")
    best = names[0]
    return best, Plain(who) if best == "PLAIN" else Scram(who, DIGESTS[best], nonce)
