"""How a stock libvirt client says who it is.

By a certificate, as a local user, by a token that came with a websocket, or by SASL PLAIN with a token as the
password; by a ticket in the name to open on a port without TLS, where no password may be asked for, and from
programs that cannot tell one. These choose what libvirt calls polkit, which asks for nothing.
Source: libvirt 9.0.0, remote_daemon_dispatch.c; RFC 4616.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from gateway import errors
from gateway.rpc.libvirt_errors import refusal
from gateway.rpc.libvirt_server import LibvirtServer
from gateway.rpc.login import Caller
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.sasl_plain import parse_plain

if TYPE_CHECKING:
    from gateway.rpc.libvirt_door import LibvirtDoor

#: Kinds of authentication.
_NONE, _SASL, _POLKIT = 0, 1, 2
#: Bad logins on one connection.
_TRIES = 3


class LibvirtLogin:
    """Who one client is.

    :param ended: told with a word when the ticket of the client ends.
    :ivar calls: what answers the calls of the login.
    :ivar known: other calls may come.
    :ivar caller: who it is; nobody before :meth:`show` where a ticket is to come with the name to open.
    :ivar user: the name that it gave.
    """

    def __init__(self, door: LibvirtDoor, server: LibvirtServer, ended: Callable[[str], None]) -> None:
        self.known = False
        self.caller: Caller | None = None
        self.user = ""
        self._door = door
        self._server = server
        self._ended = ended
        self._tries = 0
        self._gone = ""
        self.calls: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
            "AUTH_LIST": self._list,
            "AUTH_SASL_INIT": self._init,
            "AUTH_SASL_START": self._start,
            "AUTH_SASL_STEP": self._step,
            "AUTH_POLKIT": self._polkit,
        }

    @property
    def failed(self) -> bool:
        """It has tried often enough."""
        return self._tries >= _TRIES

    async def show(self, ticket: str) -> None:
        """Log in with a ticket out of the name to open, if that was not done yet.

        :raises LibvirtError: it is no good.
        """
        if self.caller is None:
            await self._try(ticket)

    def leave(self, reason: str) -> None:
        """The client is gone."""
        self._gone = reason
        if self.caller is not None:
            self.caller.session.close(reason)

    # -- calls -----------------------------------------------------------------------------

    async def _list(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        if not self.known:
            try:
                caller = await self._door.known(self._server, self._ended)
            except (errors.Unauthenticated, errors.TooManyRequests) as error:
                raise self._failure(error) from None
            if caller is not None:
                self._enter(caller)
            elif self._door.is_plain(self._server):
                self.known = True  # the name to open holds a ticket, for nothing else can be shown there
        # Clients take the first, unless they are told otherwise.
        return {"types": [_NONE] if self.known else [_SASL, _POLKIT]}

    async def _init(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        self._strangers_only()
        return {"mechlist": "PLAIN"}

    async def _start(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        self._strangers_only()
        try:
            if arguments["mech"] != "PLAIN" or arguments["nil"]:
                raise ValueError
            shown = parse_plain(arguments["data"])
        except ValueError:
            raise self._failure(errors.Unauthenticated(reason="shape")) from None
        self.user = shown.user
        await self._try(shown.password)
        return {"complete": 1, "nil": 1, "data": b""}

    async def _step(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        raise refusal(45, "authentication failed: there is no further step")

    async def _polkit(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        self._strangers_only()
        self.known = True  # the name to open holds a ticket
        return {"complete": 1}

    # -- inside ----------------------------------------------------------------------------

    def _strangers_only(self) -> None:
        if self.known:
            raise refusal(45, "authentication failed: already authenticated")

    async def _try(self, token: str) -> None:
        try:
            self._enter(await self._door.logins.token(token, self._server.peer, self._ended))
        except (errors.Unauthenticated, errors.TooManyRequests) as error:
            raise self._failure(error) from None

    def _failure(self, error: errors.Unauthenticated | errors.TooManyRequests) -> LibvirtError:
        self._door.refused(self._server.peer, error)
        self._tries += 1
        return refusal(45, "authentication failed: authentication failed")

    def _enter(self, caller: Caller) -> None:
        if self._gone:
            caller.session.close(self._gone)
            raise errors.Expired(reason=self._gone)
        self.caller = caller
        self.known = True
        self._server.logged_in()
