"""One console between a browser and its target: how it begins, what passes, and how it ends.

1. :meth:`Bridge.reach` uses the ticket and reaches the target. Should that fail, the use is given back,
   and the request is refused like any other.
2. :meth:`Bridge.serve` accepts the websocket and joins the two, each of which can pause the other.
3. Whoever ends first decides how the other one does: see :meth:`Bridge.end`.

Serial lines and bytes of any kind need no more than this; :mod:`~gateway.consoles.vnc_bridge` and
:mod:`~gateway.consoles.spice_bridge` begin otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from gateway import errors
from gateway.consoles.access import Access, Admission
from gateway.consoles.line import Inbox, Line, LineFactory, Valve
from gateway.consoles.recorder import Recorder, refusal
from gateway.consoles.recording import Recordings
from gateway.consoles.recording_file import Writer
from gateway.consoles.shared import Hubs
from gateway.consoles.targets import Reach, Target
from gateway.consoles.websocket import ConsoleSocket, Ending, SocketFactory
from gateway.core.exchange import Exchange
from gateway.core.sessions import Session
from gateway.wire.asciicast import AsciicastWriter
from gateway.wire.websocket_handshake import Handshake

#: Seconds for what is said after the browser was accepted: a user may be asked for a password.
ASKED = 120.0
_OVER = "The console has ended"
#: Words for the end of a console that nobody wanted to end.
DONE, LEFT, LOST = "done", "left", "lost"
_BY_ITSELF = {DONE, LEFT, LOST}
_ENDED: dict[str, errors.GatewayError] = {
    "revoked": errors.NoTicket("Your access to this console was revoked"),
    "expired": errors.Unauthorized("Your access to this console has expired", reason="expired"),
    "killed": errors.Forbidden("An administrator has ended this console"),
    "idle": errors.RequestTimeout("Nothing happened on this console for too long"),
    "drained": errors.Unavailable("The gateway is being restarted"),
}


def ending(reason: str) -> errors.GatewayError:
    """What the browser gets to know about a console that ends by *reason*."""
    return _ENDED.get(reason) or errors.NoTicket(reason=reason)


@define(eq=False)
class Consoles:
    """What all consoles have in common.

    :ivar login_timeout: seconds that a console may take to let us in.
    :ivar idle_timeout: seconds without a byte either way, None for any time.
    :ivar hubs: of the consoles that several look at.
    """

    access: Access = field(repr=False)
    reach: Reach
    sockets: SocketFactory = field(repr=False)
    clock: IReactorTime = field(repr=False)
    recordings: Recordings = field(repr=False)
    login_timeout: float = 10.0
    idle_timeout: float | None = None
    hubs: Hubs = field(factory=Hubs, repr=False)


class Bridge:
    """One console.

    :ivar session: None until the ticket was used.
    :ivar line: the connection to the console.
    :ivar browser: what the browser says.
    :ivar recorder: what keeps what the console shows, if the ticket asks for that.
    """

    recorder: Recorder | None = None

    def __init__(self, consoles: Consoles, admission: Admission, target: Target) -> None:
        self.consoles = consoles
        self.admission = admission
        self.target = target
        self.session: Session | None = None
        self.line = Line()
        self.browser = Inbox(self._flow)
        self._socket: ConsoleSocket | None = None
        self._running: Deferred[Any] | None = None
        self._error: errors.GatewayError | None = None
        self._idle: IDelayedCall | None = None
        self._gone: Deferred[None] = Deferred()

    # -- the beginning ---------------------------------------------------------------------

    async def reach(self) -> None:
        """Use the ticket and reach the target.

        :raises gateway.errors.GatewayError: the ticket is no good any more, or the target is out of reach.
        """
        access, name = self.consoles.access, self.target.name
        self.session = session = await access.open(self.admission, target=name, ended=self.ended)
        reached = False
        try:
            await self._within(self.consoles.login_timeout, self._arrive())
            if self.admission.record and self.recorder is None:
                raise refusal("Consoles of this kind cannot be recorded")
            reached = True
        except errors.GatewayError as error:
            if error is not self._error:
                await access.sessions.undo(session, error.reason)
            raise
        finally:
            if not reached:
                if self.recorder is not None:
                    self.recorder.discard()
                self.hang_up()
                session.close(LEFT, touch=False)

    async def _arrive(self) -> None:
        """Get to where the browser may be let in."""
        await self.connect()

    async def record(self, writer: Callable[[float], Writer]) -> None:
        """Begin to record, if the ticket demands that; *writer* gets the seconds since the epoch.

        :raises gateway.errors.Unavailable: that cannot be.
        """
        if self.admission.record and self.session is not None:
            self.recorder = await self.consoles.recordings.begin(self.session, writer, self.end, self.writes)

    def writes(self, flows: bool) -> None:
        """The disk does not keep up with what is recorded, or does again."""

    async def connect(self) -> None:
        """Connect :attr:`line`."""
        reach, admission = self.consoles.reach, self.admission
        who, takeover = admission.principal, admission.takeover
        await reach.connect(self.target, LineFactory(self.line), principal=who, takeover=takeover)

    async def serve(self, exchange: Exchange, handshake: Handshake) -> None:
        """Accept the browser, and stay until it is gone."""
        self._socket = socket = self.consoles.sockets.accept(exchange, handshake, self.browser.put)
        # What it sent early waits until somebody reads it.
        socket.closed.addCallback(self._left)
        try:
            await self._within(ASKED, self._begin())
        except CancelledError:
            pass
        except errors.GatewayError as error:
            self.end(error)
        await self._gone

    async def _begin(self) -> None:
        """Say whatever comes first, and join the two sides."""
        self.join()

    async def _within(self, seconds: float, work: Any) -> None:
        """Have something done in time; :meth:`ended` can end it."""
        self._running = running = Deferred.fromCoroutine(work)
        try:
            await running.addTimeout(seconds, self.consoles.clock)
        except defer.TimeoutError:
            raise errors.UpstreamTimeout(reason="login") from None
        except CancelledError:
            if self._error is not None and self._socket is None:
                raise self._error from None
            raise
        finally:
            self._running = None

    # -- both ways -------------------------------------------------------------------------

    @property
    def socket(self) -> ConsoleSocket:
        """The websocket, once it is accepted."""
        if self._socket is None:
            raise RuntimeError("the browser was not accepted yet")
        return self._socket

    def join(self) -> None:
        """Let bytes pass both ways, and each side pause the other."""
        line, socket = self.line, self.socket
        if self.browser.over:
            return
        line.ended = self.over
        if line.inbox.over:
            self.line.divert(self.outward)
            self.over()
            return
        line.transport.registerProducer(socket, True)
        socket.registerProducer(self.producer(), True)
        self._watch()
        line.divert(self.outward)
        self.browser.divert(self.inward)

    def producer(self) -> Any:
        """What the browser stops when it does not keep up."""
        return self.line.transport

    def inward(self, data: bytes) -> None:
        """Pass on what the browser sends; what it raises ends the websocket."""
        if self.session is not None:
            self.session.bytes_in += len(data)
        self.line.write(data)

    def outward(self, data: bytes) -> None:
        """Pass on what the console sends."""
        if self.session is not None:
            self.session.bytes_out += len(data)
        self.socket.write(data)

    def _flow(self, flows: bool) -> None:
        if self._socket is not None:
            if flows:
                self._socket.resumeProducing()
            else:
                self._socket.pauseProducing()

    def _watch(self) -> None:
        """Begin to look whether anything happens, if that matters."""
        seconds, session = self.consoles.idle_timeout, self.session
        if seconds is None or session is None:
            return
        clock, limit = self.consoles.clock, seconds
        seen, since = -1, clock.seconds()

        def look() -> None:
            nonlocal seen, since
            moved = session.bytes_in + session.bytes_out
            if moved != seen:
                seen, since = moved, clock.seconds()
            if clock.seconds() - since >= limit:
                session.end("idle")
            else:
                self._idle = clock.callLater(limit / 8, look)

        look()

    # -- the end ---------------------------------------------------------------------------

    def ended(self, reason: str) -> None:
        """The session must end now: the ticket does, or somebody wants it to."""
        if reason in _BY_ITSELF:
            self.hang_up()
            self.over()
        else:
            self.end(ending(reason))

    def end(self, error: errors.GatewayError) -> None:
        """End both sides at once; the browser learns why."""
        if self._error is None:
            self._error = error
        self.hang_up()
        if self._socket is not None:
            self._socket.end(error)
        if self._running is not None:
            self._running.cancel()

    def over(self) -> None:
        """The console has hung up: the browser gets the rest, and a good-bye."""
        if self._socket is not None:
            self._socket.finish(_OVER)

    def hang_up(self) -> None:
        """Cut the line."""
        transport = self.line.transport
        if transport is not None and not self.line.inbox.over:
            self._part()
            transport.abortConnection()

    def settle(self) -> None:
        """The browser is gone: the console gets what was typed last, and a good-bye."""
        transport = self.line.transport
        if transport is None or self.line.inbox.over:
            return
        self._part()
        self.line.part(self.consoles.clock)

    def _part(self) -> None:
        """Neither side hears of the other any more."""
        line, self.line.ended = self.line, lambda: None
        # What else it says is not heard.
        line.dataReceived = line.inbox.take = lambda data: None  # type: ignore[method-assign]
        if self._socket is not None:
            self._socket.unregisterProducer()
        line.transport.unregisterProducer()

    def _left(self, how: Ending) -> None:
        """The websocket is closed, whoever did that."""
        self.browser.end()
        if self.recorder is not None:
            self.recorder.end()
        if self._idle is not None and self._idle.active():
            self._idle.cancel()
        if self._running is not None:
            self._running.cancel()
        if self._error is None:
            self.settle()
        self.close(DONE if how.code == 1000 and self._error is None else self._word(how))
        self._gone.callback(None)

    def _word(self, how: Ending) -> str:
        if self._error is not None:
            return self._error.reason
        return LEFT if how.clean else LOST

    def close(self, word: str) -> None:
        """Close the session."""
        if self.session is not None:
            self.session.close(word)


class PlainBridge(Bridge):
    """A serial line, or bytes of any kind; who may only look has nothing to say on it."""

    _valve: Valve | None = None

    async def _arrive(self) -> None:
        await self.record(lambda now: AsciicastWriter(int(now)))
        await super()._arrive()

    def producer(self) -> Any:
        if self.recorder is None:
            return super().producer()
        self._valve = Valve(self.line.transport)
        return self._valve

    def outward(self, data: bytes) -> None:
        if self.recorder is not None:
            self.recorder.put(data)
        super().outward(data)

    def writes(self, flows: bool) -> None:
        if self._valve is not None:
            self._valve.flow(flows)

    def _part(self) -> None:
        self._valve = None
        super()._part()

    def inward(self, data: bytes) -> None:
        if self.admission.op == "control":
            super().inward(data)
