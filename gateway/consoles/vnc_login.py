"""How the gateway logs in to a VNC server: the handshake over a line, with TLS in the middle of it."""

from __future__ import annotations

from attrs import field, frozen

from gateway.consoles.line import Line, LineFactory
from gateway.consoles.targets import Reach, Target
from gateway.wire.rfb import Security, ServerInit
from gateway.wire.rfb_handshake import ServerSide

#: By whether there is TLS and a password: what is good enough.
_ALLOWED = {
    (False, False): {Security.NONE, Security.VNC},
    (False, True): {Security.VNC},
    (True, False): {Security.X509_NONE, Security.X509_VNC},
    (True, True): {Security.X509_VNC, Security.X509_PLAIN},
}
#: They need somebody who knows the password, or one of ours.
_ASK = {Security.VNC, Security.X509_VNC}


@frozen
class Desktop:
    """What a server shows once we are in.

    :ivar init: what it says of it.
    :ivar rest: what it said after that.
    :ivar user: whose name was shown to it; None when none was.
    """

    init: ServerInit
    rest: bytes
    user: str | None = field(repr=False)


class VncLogin:
    """One attempt.

    :param line: connected, and read by nobody else until we are in.
    :param secret: the password.
    :param user: whose password it is, for servers that ask.
    :param asks: without a secret somebody else can answer a challenge.
    :ivar server: how far we are.
    """

    def __init__(
        self, reach: Reach, target: Target, line: Line, *, secret: str | None, user: str, asks: bool = True
    ) -> None:
        self._reach = reach
        self._target = target
        self._line = line
        self._user = user
        allowed = _ALLOWED[target.tls, secret is not None]
        self.server = ServerSide(
            allowed if asks or secret is not None else allowed - _ASK,
            password=None if secret is None else secret.encode("utf-8"),
            user=user.encode("utf-8"),
        )

    async def log_in(self) -> None:
        """Go on until we are in, or the server wants to hear from somebody who knows the password.

        :raises gateway.errors.GatewayError: it refuses us, is too weak, or spoke nonsense.
        """
        while not self.server.authenticated and not self.server.challenge:
            await self._step()

    async def answer(self, response: bytes) -> None:
        """Say what somebody has answered to the challenge, and go on."""
        self._line.transport.write(self.server.answer(response))
        await self.log_in()

    async def desktop(self, *, shared: bool = True) -> Desktop:
        """Ask for the desktop.

        :param shared: others who look at it stay.
        """
        server = self.server
        self._line.transport.write(server.initialize(shared=shared))
        while (init := server.init) is None or not server.done:
            await self._step()
        named = server.security is Security.X509_PLAIN
        return Desktop(init, server.rest, self._user if named else None)

    async def _step(self) -> None:
        """Hear what the server says next, and answer."""
        line, server = self._line, self.server
        if server.tls_wanted:
            line.transport.resumeProducing()
            await self._reach.dialer.secure(
                line.transport, LineFactory(line), self._reach.trust(self._target)
            )
            said = server.secured()
        else:
            data = await line.inbox.read()
            if not data:
                raise server.lost()
            said = server.receive(data)
        line.transport.write(said)
