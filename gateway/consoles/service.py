"""The port of consoles: which requests are for one, and how they are refused.

A refusal is an ordinary answer of HTTP as long as no websocket was accepted. But the pages of a browser
never see those. So who offers its ticket as a subprotocol, as our own pages do, is accepted and told by a
close frame, 4000 + status and the reason; unless its page may not ask at all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from attrs import define, field

from gateway import errors
from gateway.consoles.about import answer as about
from gateway.consoles.about import is_about
from gateway.consoles.access import Admission
from gateway.consoles.bridge import Bridge, Consoles, PlainBridge
from gateway.consoles.credential import ITEM, is_console
from gateway.consoles.shared_bridge import SharedBridge
from gateway.consoles.spice_bridge import EitherBridge, SpiceBridge
from gateway.consoles.targets import Protocol, choose
from gateway.consoles.vnc_bridge import VncBridge
from gateway.core.exchange import Exchange
from gateway.core.web import Application
from gateway.wire.websocket_handshake import Handshake, read_handshake


@define(eq=False)
class ConsoleService:
    """Answers every request for a console.

    :ivar refused: told of the address and the error of each refusal that is not an answer of HTTP.
    """

    consoles: Consoles
    refused: Callable[[str, errors.GatewayError], object] = field(
        default=lambda peer, error: None, repr=False
    )

    def route(self, exchange: Exchange) -> Application | None:
        """Name what answers *exchange*, if it is ours; see :class:`gateway.core.web.GatewaySite`."""
        if is_about(exchange.head):
            return partial(about, self.consoles.access)
        ours = is_console(exchange.head.target, self.consoles.access.prefixes)
        return self._answer if ours else None

    async def _answer(self, exchange: Exchange) -> None:
        handshake = read_handshake(exchange.head)
        try:
            admission = await self.consoles.access.admit(exchange.head, exchange.peer)
            exchange.prove()
            bridge = self.bridge(admission)
            await bridge.reach()
        except errors.GatewayError as error:
            exchange.keep_alive = False
            if error.reason == "origin" or not any(it.startswith(ITEM) for it in handshake.protocols):
                raise
            await self._tell(exchange, handshake, error)
        else:
            await bridge.serve(exchange, handshake)

    def bridge(self, admission: Admission) -> Bridge:
        """What leads to the console that was granted.

        :raises gateway.errors.GatewayError: it must be recorded, and cannot be.
        """
        consoles, targets = self.consoles, admission.targets
        kinds = {target.kind for target in targets}
        if admission.record:
            consoles.recordings.check()
            if Protocol.SPICE in kinds:
                raise errors.Forbidden(
                    "Consoles of SPICE cannot be recorded, as this ticket demands", reason="recording"
                )
        if Protocol.SPICE in kinds and (len(kinds) == 1 or admission.joins):
            spice = next(target for target in targets if target.kind is Protocol.SPICE)
            return SpiceBridge(consoles, admission, spice)
        target = choose(targets, b"")
        if Protocol.SPICE in kinds:
            return EitherBridge(consoles, admission, target)
        if target.kind is not Protocol.VNC:
            return PlainBridge(consoles, admission, target)
        kind = SharedBridge if admission.shared or admission.record else VncBridge
        return kind(consoles, admission, target)

    async def _tell(self, exchange: Exchange, handshake: Handshake, error: errors.GatewayError) -> None:
        """Refuse a page in the only way that it can see."""
        self.refused(exchange.peer, error)
        socket = self.consoles.sockets.accept(exchange, handshake, lambda data: None)
        socket.end(error)
        await socket.closed
