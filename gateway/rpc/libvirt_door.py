"""The listener that stock libvirt clients use."""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable, Collection
from pwd import getpwuid
from secrets import token_hex
from typing import Any

from attrs import define, field
from twisted.internet.interfaces import IAddress, IReactorTime, ISSLTransport
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway import errors
from gateway.rpc.desk import Desk
from gateway.rpc.libvirt_server import LibvirtServer
from gateway.rpc.libvirt_session import LibvirtSession
from gateway.rpc.login import Caller, Logins, subject_of
from gateway.rpc.sites import Site
from gateway.wire.libvirt_schema import names

_NAMES = frozenset(names())


@define(eq=False)
class LibvirtDoor:
    """What all listeners for libvirt clients share.

    :ivar users: names of local users that need no ticket, on a unix socket.
    :ivar judge: raises when the address of a connection does not stand in its certificate, where it has to.
    :ivar refused: told of each login that failed: the peer and the error.
    """

    clock: IReactorTime
    logins: Logins
    refused: Callable[[str, errors.GatewayError], object]
    judge: Callable[[Any], Awaitable[None]]
    users: Collection[str] = ()
    desk: Desk = field(init=False)
    draining: bool = field(default=False, init=False)
    _servers: dict[LibvirtServer, Port] = field(factory=dict, init=False)
    _sessions: dict[LibvirtServer, LibvirtSession] = field(factory=dict, init=False)
    log = Logger()

    def server(self, port: Port) -> LibvirtServer:
        """A client that has connected to *port*."""

        def begin(server: LibvirtServer) -> LibvirtSession:
            self._servers[server] = port
            session = self._sessions[server] = LibvirtSession(self, server)
            return session

        return LibvirtServer(self.clock, begin, tls=port.tls)

    def left(self, server: LibvirtServer) -> None:
        """A client is gone."""
        self._servers.pop(server, None)
        self._sessions.pop(server, None)

    def leave(self, site: Site) -> None:
        """Hang up on those who have *site* open: it is gone, or another one by now."""
        for server, session in list(self._sessions.items()):
            if session.site is site:
                server.close("target")

    def target_of(self, server: LibvirtServer) -> str:
        """The target that the port of a client is for; empty for any."""
        return self._servers[server].target

    def is_secure(self, server: LibvirtServer) -> bool:
        """Whether nobody can listen to a client."""
        port = self._servers[server]
        return port.tls or port.local or bool(port.token)

    def is_plain(self, server: LibvirtServer) -> bool:
        """Whether a client came by a port where it cannot log in."""
        return not self.is_secure(server)

    async def known(self, server: LibvirtServer, ended: Callable[[str], None]) -> Caller | None:
        """Who a client is without a login: the holder of a certificate, or a local user; None if neither.

        :raises gateway.errors.Unavailable: nobody is let in any more.
        """
        if self.draining:
            raise errors.Unavailable("The gateway is going away")
        transport: Any = server.transport
        port = self._servers[server]
        if port.token:
            return await self.logins.token(port.token, server.peer, ended)
        if port.local:
            name = local_user(transport)
            return self.logins.local(name, ended) if name in self.users else None
        if not ISSLTransport.providedBy(transport):
            return None
        subject = subject_of(transport)
        if subject is None:
            return None
        try:
            await self.judge(transport)
            return self.logins.certificate(subject, server.peer, ended)
        except errors.Unauthenticated as error:
            self.refused(server.peer, error)
            return None

    def shown(self, token: str) -> LibvirtServer:
        """A client that has shown a token, and whose connection nobody can listen to."""
        return self.server(Port(self, tls=False, token=token))

    def note(
        self,
        caller: Caller | None,
        target: str,
        name: str,
        uuid: str | None,
        end: str,
        seconds: float,
    ) -> None:
        """Write down one call.

        :param target: of the hypervisor, empty before one is open.
        :param name: of the procedure, or its numbers.
        """
        self.desk.seen(name if name in _NAMES else "unknown", end, seconds)
        if caller is not None:
            self.desk.audit(
                "libvirt.call",
                kind=name,
                session=caller.session.id,
                ticket=caller.session.fingerprint or None,
                principal=caller.principal or None,
                peer=caller.session.peer,
                target=target or None,
                vm=uuid,
                result="ok" if end == "ok" else "failed",
                reason=None if end == "ok" else end,
                duration_ms=round(seconds * 1000),
            )

    def incident(self, failure: Failure) -> str:
        """Write down a bug; return its number."""
        number = token_hex(4)
        self.log.failure("incident {incident}: a call failed", failure, incident=number)
        return number

    def drain(self) -> None:
        """Let nobody in any more."""
        self.draining = True

    def close(self) -> None:
        """Cut every connection."""
        for server in list(self._servers):
            server.abort("drained")


@define(eq=False)
class Port(Factory):
    """One listener for libvirt clients.

    :ivar tls: it encrypts; *local*: it is a unix socket.
    :ivar target: the target that its clients get, or empty.
    :ivar token: what its one client has shown already, or empty.
    """

    door: LibvirtDoor
    tls: bool = True
    local: bool = False
    target: str = ""
    token: str = field(default="", repr=False)
    noisy = False

    def logPrefix(self) -> str:
        """What the log calls it."""
        return "libvirt"

    def buildProtocol(self, addr: IAddress | None) -> LibvirtServer:
        """A client that has connected."""
        return self.door.server(self)

    def drain(self) -> None:
        """Let nobody in any more."""
        self.door.drain()

    def close(self) -> None:
        """Cut every connection, of the others too."""
        self.door.close()


def local_user(transport: Any) -> str:
    """The name of the user at the other end of a unix socket; ``uid:NUMBER`` when it has none."""
    data = transport.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("iII", data)
    try:
        return getpwuid(uid).pw_name
    except KeyError:
        return f"uid:{uid}"  # no name has a colon
