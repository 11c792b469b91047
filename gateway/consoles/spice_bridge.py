"""SPICE consoles: a websocket for each channel, which says first what it wants.

So the browser is accepted before anything is reached: its link message tells whether it begins a console,
which uses the ticket, or belongs to one that is up.
"""

from __future__ import annotations

from typing import Any

from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred, DeferredList

from gateway import errors
from gateway.consoles.access import Admission
from gateway.consoles.bridge import Bridge, Consoles
from gateway.consoles.line import Inbox
from gateway.consoles.spice_console import SpiceChannel
from gateway.consoles.targets import Protocol, Target, choose
from gateway.consoles.vnc_bridge import VncBridge
from gateway.consoles.websocket import ConsoleSocket, Ending
from gateway.core.sessions import Session
from gateway.wire.spice_link import SpiceLink
from gateway.wire.spice_view import SpiceView


class SpiceBridge(Bridge):
    """One channel of a SPICE console.

    :param opened: a session that was opened before it was known that this is SPICE.
    :ivar channel: what this is, once that is known.
    """

    def __init__(
        self, consoles: Consoles, admission: Admission, target: Target, opened: Session | None = None
    ) -> None:
        super().__init__(consoles, admission, target)
        self.session = self._opened = opened
        self.channel: SpiceChannel | None = None
        self._link = SpiceLink(admission.secret)
        self._shown = 0
        self._view: SpiceView | None = None

    async def reach(self) -> None:
        """Nothing is reached before the browser has spoken."""

    def adopt(self, socket: ConsoleSocket, first: bytes) -> None:
        """Take over a websocket whose browser said *first*."""
        self._socket = socket
        self.browser.unread(first)

    async def _begin(self) -> None:
        await self.begin()

    async def begin(self) -> None:
        """Find out which channel this is, reach its server and join the two."""
        access, link, message = self.consoles.access, self._link, b""
        while link.message is None:
            data = await self.browser.read()
            if not data:
                raise errors.BadRequest("The browser has left", reason="left")
            message = link.receive_client(data)
        name = self.target.name
        self.channel = channel = await access.channel(
            self.admission, link.message, target=name, ended=self.ended, session=self._opened
        )
        self.session = channel.session
        try:
            await self._in_time(self.consoles.login_timeout)
        except errors.GatewayError as error:
            await access.unreached(channel, error.reason)
            raise
        self.line.transport.write(message)
        self.join()

    async def _in_time(self, seconds: float) -> None:
        connecting: Deferred[Any] = Deferred.fromCoroutine(self.connect())
        try:
            await connecting.addTimeout(seconds, self.consoles.clock)
        except defer.TimeoutError:
            raise errors.UpstreamTimeout(reason="connect") from None

    def _watch(self) -> None:
        # One clock for all channels of a console.
        if self.channel is not None and self.channel.console.main is self.channel:
            super()._watch()

    def inward(self, data: bytes) -> None:
        data = self._link.receive_client(data)
        if self.admission.op != "control":
            shown = data[: max(0, self._link.credential - self._shown)]
            self._shown += len(shown)
            data = shown + self._looked(data[len(shown) :])
        super().inward(data)

    def _looked(self, data: bytes) -> bytes:
        """What of *data* who may only look may send."""
        link = self._link
        if not data or link.message is None:
            return b""
        if self._view is None:
            self._view = SpiceView(link.message.channel_type, mini=link.mini)
        return self._view.receive(data)

    def outward(self, data: bytes) -> None:
        link = self._link
        try:
            data = link.receive_server(data)
        except errors.GatewayError as error:
            self.end(error)
            return
        if link.session_id is not None and self.channel is not None:
            self.channel.bind(link.session_id)
        super().outward(data)

    # -- the end ---------------------------------------------------------------------------

    def hang_up(self) -> None:
        if not self._lingers():
            super().hang_up()

    def settle(self) -> None:
        if not self._lingers():
            super().settle()

    def _lingers(self) -> bool:
        """Stay with a server that could not bear to be left now."""
        link, line, transport = self._link, self.line, self.line.transport
        if transport is None or line.inbox.over or link.settled:
            return False
        self._part()
        self.line.cut_later(self.consoles.clock)

        def hear(data: bytes) -> None:
            try:
                link.receive_server(data)
            except errors.GatewayError:
                transport.abortConnection()
                return
            if link.settled:
                transport.loseConnection()

        line.dataReceived = line.inbox.take = hear  # type: ignore[method-assign]  # the channel hears it now
        transport.write(link.farewell())
        transport.resumeProducing()
        return True

    def close(self, word: str) -> None:
        if self.channel is not None:
            self.channel.leave(word)
        else:
            super().close(word)


class EitherBridge(VncBridge):
    """A console of which an engine does not say whether it is VNC or SPICE: who speaks first, tells.

    VNC servers do, and SPICE clients.
    """

    _spice: SpiceBridge | None = None

    async def _arrive(self) -> None:
        await self.connect()

    async def _begin(self) -> None:
        speaker, said = await _first(self.line.inbox, self.browser)
        if not said:
            if speaker is self.line.inbox:
                self.over()
            return
        targets = self.admission.targets
        if speaker is self.browser and (target := choose(targets, said)).kind is Protocol.SPICE:
            self.hang_up()
            self._spice = spice = SpiceBridge(self.consoles, self.admission, target, self.session)
            spice.adopt(self.socket, said)
            self.browser.divert(spice.browser.put)
            await spice.begin()
            return
        speaker.unread(said)
        await self._log_in()
        await super()._begin()

    def ended(self, reason: str) -> None:
        if self._spice is not None and self._spice.channel is not None:
            self._spice.channel.console.end(reason)
        else:
            super().ended(reason)

    def end(self, error: errors.GatewayError) -> None:
        if self._spice is not None:
            self._spice.end(error)
        super().end(error)

    def settle(self) -> None:
        if self._spice is None:
            super().settle()

    def close(self, word: str) -> None:
        if self._spice is None:
            super().close(word)

    def _left(self, how: Ending) -> None:
        if self._spice is not None:
            self._spice._left(how)
        super()._left(how)


async def _first(*boxes: Inbox) -> tuple[Inbox, bytes]:
    """Which of *boxes* has something first, and what."""
    reading: list[Deferred[bytes]] = [Deferred.fromCoroutine(box.read()) for box in boxes]
    try:
        said, number = await DeferredList(reading, fireOnOneCallback=True, fireOnOneErrback=True)
    finally:
        for one, box in zip(reading, boxes, strict=True):
            one.addCallbacks(box.unread, lambda failure: failure.trap(CancelledError))
            one.cancel()
    return boxes[number], said
