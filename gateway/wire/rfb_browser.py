"""The handshake with a browser, to which the gateway is a VNC server without a password of its own.

Source: RFC 6143, sections 7.1 to 7.3.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

from gateway.wire.rfb import CHALLENGE, NUMBER, PAUSE, Script, Security, Talk, bad, in_turn

GREETING: Final = b"RFB 003.008\n"
_MINORS: Final = {
    b"RFB 003.003\n": 3,
    b"RFB 003.007\n": 7,
    b"RFB 003.008\n": 8,
    # Numbers that are around and mean the first. Source: RFC 6143, section 7.1.1.
    b"RFB 003.004\n": 3,
    b"RFB 003.005\n": 3,
    b"RFB 003.006\n": 3,
}
_REFUSED: Final = NUMBER.pack(1)
_OK: Final = NUMBER.pack(0)


class BrowserSide(Talk):
    """Our half of it, from the version to the browser's wish for a desktop.

    The browser waits where it is until it is decided whether it gets a console, by :meth:`admit` or
    :meth:`refuse`. One that has a password of its own is asked for it by :meth:`ask` before that.

    :ivar greeting: what is to be sent first.
    :ivar response: what answers the challenge given to :meth:`ask`; empty until it is there.
    :ivar shared: the browser lets others stay.
    :ivar refused: it was told why it gets nothing, or cannot be told: close now. It is never ``done`` then.
    """

    def __init__(self) -> None:
        super().__init__(self._talk(), bad)
        self.greeting = GREETING
        self.response = b""
        self.shared = True
        self.refused = False
        self._challenge = b""
        self._verdict: bytes | None = None
        self._waits = False
        self._let_in = False
        self._begin()

    def admit(self) -> bytes:
        """It gets the console; return what is to be sent now."""
        return self._decide(b"")

    def refuse(self, text: str) -> bytes:
        """It gets none, because of *text*; return what is to be sent now, and see :attr:`refused`."""
        reason = text.encode("utf-8", "replace")[:512] or b"?"
        return self._decide(NUMBER.pack(len(reason)) + reason)

    def ask(self, challenge: bytes) -> bytes:
        """Have it answer the *challenge* of 16 bytes; return what is to be sent now."""
        in_turn(len(challenge) == CHALLENGE and not self._challenge and self._verdict is None)
        self._challenge = challenge
        return self._go_on()

    def _decide(self, verdict: bytes) -> bytes:
        """The first verdict counts, and one of admission may be taken back until it is used."""
        if self._failure is not None or self.done or (self._verdict is not None and not verdict):
            return b""
        self._verdict = verdict
        if verdict and self._let_in:
            self.refused = True
        return self._go_on()

    def _go_on(self) -> bytes:
        return self._resume() if self._waits else b""

    def _pause(self) -> Script:
        self._waits = True
        yield PAUSE
        self._waits = False

    def _talk(self) -> Script:
        version = yield len(GREETING)
        minor = _MINORS.get(version)
        if minor is None:
            raise bad("this is no VNC client")
        while self._verdict is None and not self._challenge:
            yield from self._pause()
        if self._verdict:
            # No type at all, and the reason.
            self._out += (NUMBER.pack(0) if minor == 3 else b"\0") + self._verdict
            yield from self._end()
        security = Security.VNC if self._challenge else Security.NONE
        yield from self._choice(minor, security)
        if security is Security.VNC:
            self._out += self._challenge
            self.response = yield CHALLENGE
            while self._verdict is None:
                yield from self._pause()
        yield from self._result(minor, security)
        self.shared = (yield 1) != b"\0"
        if self.refused:
            yield from self._end()

    def _end(self) -> Script:
        """Nothing follows a refusal, whatever the browser says."""
        self.refused = True
        while True:
            yield PAUSE

    def _choice(self, minor: int, security: Security) -> Generator[int, bytes, None]:
        if minor == 3:
            self._out += NUMBER.pack(security)
            return
        self._out += bytes([1, security])
        if (yield 1) != bytes([security]):
            raise bad("it chooses a security type that was not offered")

    def _result(self, minor: int, security: Security) -> Script:
        verdict = self._verdict or b""
        # Only the newest version has a result where nothing was asked, and a reason.
        told = minor >= 8 or security is not Security.NONE
        if verdict:
            self._out += (_REFUSED if told else b"") + (verdict if minor >= 8 else b"")
            yield from self._end()
        if told:
            self._out += _OK
        self._let_in = True
