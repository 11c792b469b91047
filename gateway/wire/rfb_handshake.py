"""The handshake with a hypervisor's VNC server, on the user's behalf.

The gateway is the client here. It takes the strongest security type that both the server offers and
the configuration allows, and never a weaker one; the password stays with it.

Source: RFC 6143, sections 7.1 to 7.3; rfbproto, section "VeNCrypt". One thing is missing there: a byte
of 1 from the server stands between the choice of a VeNCrypt subtype and TLS.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Generator
from typing import Final

from gateway import errors
from gateway.wire.rfb import (
    CHALLENGE,
    NUMBER,
    PAUSE,
    Script,
    Security,
    ServerInit,
    Talk,
    failed,
    in_turn,
    read_server_init,
    vnc_response,
)

_VERSION: Final = re.compile(rb"RFB ([0-9]{3})\.([0-9]{3})\n")
_VENCRYPT: Final = 19
_VENCRYPT_VERSION: Final = b"\x00\x02"
_ACCEPTED: Final = b"\x01"
_OK, _REFUSED, _TOO_MANY = 0, 1, 2
#: Bytes of a server's reason.
_MAX_REASON: Final = 4096

#: From the strongest: the types, of which VeNCrypt comes before all, and its subtypes, which mean nothing
#: outside of it.
_OUTER: Final = (Security.VNC, Security.NONE)
_INNER: Final = (Security.X509_PLAIN, Security.X509_VNC, Security.X509_NONE)
_NEEDS_PASSWORD: Final = {Security.X509_PLAIN, Security.X509_VNC, Security.VNC}


class ServerSide(Talk):
    """Our half of it, from the version to the server's description of its desktop.

    It pauses three times: :attr:`tls_wanted`, then :meth:`secured`; :attr:`challenge` when it has no
    password, then :meth:`answer`; and :attr:`init_wanted`, then :meth:`initialize`.

    :param allowed: the security types that are good enough.
    :param password: of the console; None lets whoever has it answer the challenge. A password is
        never sent where the server's certificate was not checked.
    :param user: whom X509_PLAIN names.
    :ivar security: what was agreed on.
    :ivar tls_wanted: TLS has to start now, with the server's certificate verified.
    :ivar challenge: what :meth:`answer` needs a response to; empty otherwise.
    :ivar authenticated: the server has let us in.
    :ivar init_wanted: it waits for :meth:`initialize`.
    :ivar init: what it says of its desktop.
    :ivar said: its own words about a failure: for logs, never for users.
    """

    def __init__(
        self,
        allowed: Collection[Security],
        *,
        password: bytes | None = None,
        user: bytes = b"",
    ) -> None:
        super().__init__(self._talk(), failed)
        self.security: Security | None = None
        self.tls_wanted = False
        self.challenge = b""
        self.authenticated = False
        self.init_wanted = False
        self.init: ServerInit | None = None
        self.said = ""
        self._allowed = frozenset(allowed)
        self._password = password
        self._user = user
        self._response = b""
        self._shared = True
        self._stage = "it closed the connection before it said anything"
        self._begin()

    def receive(self, data: bytes) -> bytes:
        """Consume *data*, in pieces of any size; return what is to be sent.

        :raises gateway.errors.UpstreamFailed: the server refuses us, is too weak, or spoke nonsense.
        """
        out = super().receive(data)
        if self.tls_wanted and self._held:
            # It would be taken for something said inside of TLS.
            self._fail(failed("it spoke in the clear where TLS begins", "tls"))
        return out

    def secured(self) -> bytes:
        """TLS is up and the server is who it should be; return what is to be sent through it."""
        in_turn(self.tls_wanted)
        self.tls_wanted = False
        return self._resume()

    def answer(self, response: bytes) -> bytes:
        """Answer :attr:`challenge` with 16 bytes from whoever knows the password."""
        in_turn(self.challenge != b"" and len(response) == CHALLENGE)
        self.challenge, self._response = b"", response
        return self._resume()

    def initialize(self, *, shared: bool = True) -> bytes:
        """Ask for the desktop, once :attr:`authenticated`.

        :param shared: others who look at it stay; servers throw them out otherwise.
        """
        in_turn(self.init_wanted)
        self.init_wanted = False
        self._shared = shared
        return self._resume()

    def lost(self) -> errors.UpstreamFailed:
        """What it means that the server closes the connection now."""
        return failed(self._stage, "closed")

    def _talk(self) -> Script:
        minor = yield from self._version()
        self._stage = "it closed the connection instead of offering a security type"
        security = yield from self._security(minor)
        self.security = security
        # Servers that speak VeNCrypt always send a result.
        if minor >= 8 or security is not Security.NONE:
            yield from self._result(minor)
        self.authenticated = self.init_wanted = True
        self._stage = "it closed the connection after it let us in"
        yield PAUSE
        self._out += bytes([self._shared])
        self.init = yield from read_server_init()

    def _version(self) -> Generator[int, bytes, int]:
        """Agree on a version; return its minor number: 3, 7 or 8."""
        greeting = yield 12
        found = _VERSION.fullmatch(greeting)
        if found is None:
            raise failed("this is no VNC server")
        version = int(found[1]), int(found[2])
        if version < (3, 3):
            raise failed("it speaks an old dialect")
        # Versions that nobody has published are those before them. Source: RFC 6143, section 7.1.1.
        minor = 8 if version >= (3, 8) else 7 if version == (3, 7) else 3
        self._out += b"RFB 003.%03d\n" % minor
        return minor

    def _security(self, minor: int) -> Generator[int, bytes, Security]:
        if minor == 3:
            (kind,) = NUMBER.unpack((yield 4))
            if kind == 0:
                yield from self._reason()
                raise failed("it refuses connections", "refused")
            security = self._choose([kind], _OUTER)
        else:
            (count,) = yield 1
            if count == 0:
                yield from self._reason()
                raise failed("it refuses connections", "refused")
            offered = yield count
            if _VENCRYPT in offered and any(it.encrypted for it in self._allowed):
                self._out.append(_VENCRYPT)
                return (yield from self._vencrypt())
            security = self._choose([*offered], _OUTER)
            self._out.append(security)
        if security is Security.VNC:
            yield from self._challenge()
        return security

    def _choose(self, offered: Collection[int], known: Collection[Security]) -> Security:
        """The best of those *known* that is offered and allowed, never anything else."""
        for security in known:
            if security in self._allowed and security in offered:
                if security is Security.X509_PLAIN and self._password is None:
                    continue
                return security
        if any(it in offered for it in self._allowed.intersection(known)):
            raise failed("it wants a user's name and password, and there are none", "security")
        raise failed("it offers no security type that is allowed here", "security")

    def _vencrypt(self) -> Generator[int, bytes, Security]:
        self._stage = "it closed the connection while TLS was agreed on"
        version = yield 2
        if version < _VENCRYPT_VERSION:
            raise failed("it speaks an old dialect of VeNCrypt", "security")
        self._out += _VENCRYPT_VERSION
        if (yield 1) != b"\0":
            raise failed("it does not speak VeNCrypt 0.2", "security")
        (count,) = yield 1
        if count == 0:
            raise failed("it offers no kind of TLS", "security")
        listed = yield count * NUMBER.size
        security = self._choose([it for (it,) in NUMBER.iter_unpack(listed)], _INNER)
        self._out += NUMBER.pack(security)
        if (yield 1) != _ACCEPTED:
            raise failed("it refuses the kind of TLS that it offered", "security")
        self.tls_wanted = True
        # One that wants a certificate of ours, and does not like it, says nothing else.
        self._stage = "it closed the connection when TLS began: it may want another certificate of ours"
        yield PAUSE
        if security is Security.X509_VNC:
            yield from self._challenge()
        elif security is Security.X509_PLAIN:
            password = self._password or b""
            self._out += NUMBER.pack(len(self._user)) + NUMBER.pack(len(password)) + self._user + password
        return security

    def _challenge(self) -> Script:
        challenge = yield CHALLENGE
        if self._password is not None:
            self._response = vnc_response(self._password, challenge)
        else:
            self.challenge = challenge
            yield PAUSE
        self._out += self._response

    def _result(self, minor: int) -> Script:
        self._stage = "it closed the connection instead of letting us in"
        (result,) = NUMBER.unpack((yield 4))
        if result == _OK:
            return
        if result not in (_REFUSED, _TOO_MANY):
            raise failed("it gives an unknown result")
        with_password = self.security in _NEEDS_PASSWORD
        text = "it refuses the password" if with_password else "it refuses to let us in"
        if result == _TOO_MANY:
            text = "it has seen too many attempts"
        if minor >= 8 and result == _REFUSED:
            self._stage = text
            yield from self._reason()
        raise failed(text, "refused")

    def _reason(self) -> Script:
        (length,) = NUMBER.unpack((yield 4))
        if 0 < length <= _MAX_REASON:
            self.said = (yield length).decode("utf-8", "replace").rstrip("\0")
