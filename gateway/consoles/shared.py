"""VNC consoles that several look at, through one connection: the hub of each, and all hubs.

:meth:`Hubs.at` finds the hub of a console or makes one, which connects and logs in once, however many wait
for it. The hub is the only client of the VNC server. What the server draws is kept in one framebuffer, from
which each :class:`~gateway.consoles.viewer.Viewer` is served at its own pace. The server is asked for more
only while somebody wants more.

One viewer is in control, and only what that one types goes up. :mod:`~gateway.consoles.shared_bridge` makes a
viewer of a browser; :meth:`Hub.watch` is for whoever wants the bytes themselves.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Any

from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway import errors
from gateway.consoles.line import Line
from gateway.consoles.viewer import Gone, Take, Viewer, Watching
from gateway.consoles.vnc_login import Desktop
from gateway.wire.rfb import ServerInit
from gateway.wire.rfb_encodings import Shelf
from gateway.wire.rfb_input import Hands
from gateway.wire.rfb_server import CutText, ServerMessages, Updated
from gateway.wire.rfb_viewer import ViewerEncoder, bell, cut_text

#: Seconds of one turn in which viewers are served, or a little more.
TURN = 0.004
#: Connects a line and logs in.
LogIn = Callable[[Line], Awaitable[Desktop]]


@implementer(IPushProducer)
class Hub:
    """One console, and all who look at it.

    :param seconds: that it may take to log in.
    :param closed: called when nobody can enter any more.
    :ivar over: so it is.
    :ivar full: the console does not take what is typed as fast as it comes.
    :ivar user: whose name was shown to the console; None when none was.
    :ivar holder: who is in control.
    """

    def __init__(
        self, clock: IReactorTime, seconds: float, log_in: LogIn, closed: Callable[[], object]
    ) -> None:
        self.line = Line()
        self.over = False
        self.full = False
        self.user: str | None = None
        self.holder: Viewer | None = None
        self._clock = clock
        self._closed = closed
        self._server: ServerMessages | None = None
        self._hands: Hands | None = None
        self._shelf = Shelf()
        # Whoever waits or looks, and those who only watch; the longest present first.
        self._viewers: dict[Viewer, None] = {}
        self._watching: dict[Viewer, None] = {}
        self._due: dict[Viewer, None] = {}
        self._turn: IDelayedCall | None = None
        self._seconds = seconds
        self._log_in = log_in
        self._opening: Deferred[Any] | None = None

    # -- who is there ----------------------------------------------------------------------

    def enter(self, viewer: Viewer) -> None:
        """Let *viewer* in, or let it wait."""
        self._viewers[viewer] = None
        if self._server is not None:
            viewer.ready.callback(None)
        elif self._opening is None:
            self._opening = opening = Deferred.fromCoroutine(self._open())
            opening.addTimeout(self._seconds, self._clock)
            opening.addCallbacks(self._opened, self._refused)

    def watch(self, take: Take, gone: Gone = lambda error: None) -> Watching:
        """Have everything shown to *take*, from the next turn of the reactor on.

        :param gone: called when the console has ended, or nobody looks at it any more.
        :raises RuntimeError: the console is not there yet, or not any more.
        """
        watching = Watching(self, take, gone)
        watching.start()
        self._watching[watching] = None
        return watching

    def begin(self, viewer: Viewer, takeover: bool) -> ServerInit:
        """Show *viewer* everything from now on; see :meth:`Viewer.begin`."""
        if self._server is None or self.over:
            raise RuntimeError("there is no console")
        viewer.encoder = ViewerEncoder(self._server, self._shelf)
        if viewer in self._viewers:
            # Present is who looks, not who might.
            del self._viewers[viewer]
            self._viewers[viewer] = None
            if viewer.controls and (takeover or self.holder is None):
                self._give(viewer)
        return self._server.describe()

    def leave(self, viewer: Viewer, cut: bool) -> None:
        """Let *viewer* go; see :meth:`Viewer.leave`."""
        self._watching.pop(viewer, None)
        self._due.pop(viewer, None)
        if viewer.encoder is not None:
            viewer.encoder.leave()
            viewer.encoder = None
        if self.over or viewer not in self._viewers:
            return
        del self._viewers[viewer]
        if self.holder is viewer:
            following = (it for it in self._viewers if it.controls and it.encoder is not None)
            self._give(next(following, None))
        if not self._viewers:
            self._end(None, cut)

    def _give(self, viewer: Viewer | None) -> None:
        """Put *viewer* in control."""
        before, self.holder = self.holder, viewer
        if before is viewer:
            return
        if self._hands is not None:
            self._say(self._hands.let_go())
        if before is not None:
            before.in_control(False)
            before.flow(True)
        if viewer is not None:
            viewer.in_control(True)
            viewer.flow(not self.full)

    # -- what they see ---------------------------------------------------------------------

    def look(self, viewer: Viewer) -> None:
        """See in the next turn what *viewer* wants."""
        if viewer.encoder is not None:
            self._due[viewer] = None
            if self._turn is None:
                self._turn = self._clock.callLater(0, self._serve)

    def _serve(self) -> None:
        """Show each something, one after the other, until the time is up; then the reactor has its turn."""
        self._turn = None
        seconds = self._clock.seconds
        end, hungry = seconds() + TURN, False
        while self._due:
            viewer = next(iter(self._due))
            del self._due[viewer]
            if viewer.show():
                self._due[viewer] = None
            elif viewer.wants:
                hungry = True
            if seconds() >= end:
                break
        if self._due and self._turn is None:
            self._turn = self._clock.callLater(0, self._serve)
        if hungry and self._server is not None:
            self._say(self._server.request())

    def _say(self, data: bytes) -> None:
        if data and not self.over:
            self.line.write(data)

    def _heard(self, data: bytes) -> None:
        """Take what the console says."""
        if self._server is None or self.over:
            return
        try:
            events = self._server.receive(data)
        except errors.GatewayError as error:
            self._end(error, True)
            return
        for event in events:
            if isinstance(event, Updated):
                for viewer in (*self._viewers, *self._watching):
                    if viewer.encoder is not None:
                        viewer.encoder.follow()
                    if viewer.wants:
                        self.look(viewer)
            else:
                text = isinstance(event, CutText)
                said = cut_text(event) if isinstance(event, CutText) else bell()
                for viewer in (*self._viewers, *self._watching):
                    if viewer.encoder is not None:
                        viewer.tell(said, keep=text)

    # -- what one of them types ------------------------------------------------------------

    def act(self, viewer: Viewer, data: bytes) -> None:
        """Pass on *data* of *viewer*, if that one is in control."""
        if viewer is self.holder and self._hands is not None:
            self._say(self._hands.act(data))

    def pauseProducing(self) -> None:
        self._flows(False)

    def resumeProducing(self) -> None:
        self._flows(True)

    def stopProducing(self) -> None:
        """The end of the connection is told in another way."""

    def _flows(self, flows: bool) -> None:
        self.full = not flows
        if self.holder is not None:
            self.holder.flow(flows)

    # -- the beginning and the end ---------------------------------------------------------

    async def _open(self) -> ServerMessages:
        desktop = await self._log_in(self.line)
        self.user = desktop.user
        self.line.inbox.unread(desktop.rest)
        return ServerMessages(desktop.init)

    def _opened(self, server: ServerMessages) -> None:
        line, self._server, self._hands = self.line, server, Hands(server)
        self._opening = None
        line.ended = self._hung_up
        line.transport.registerProducer(self, True)
        line.transport.write(server.start())
        line.divert(self._heard)
        if line.inbox.over:
            self._hung_up()
        for viewer in [*self._viewers]:
            if not self.over:
                viewer.ready.callback(None)

    def _refused(self, failure: Failure) -> None:
        """Nobody gets in."""
        self._opening = None
        if failure.check(defer.TimeoutError):
            self._end(errors.UpstreamTimeout(reason="login"), True)
        elif isinstance(failure.value, errors.GatewayError):
            self._end(failure.value, True)
        elif not failure.check(CancelledError):
            self._end(errors.UpstreamFailed(), True)
            failure.raiseException()

    def _hung_up(self) -> None:
        self._end(None, True)

    def _end(self, error: errors.GatewayError | None, cut: bool) -> None:
        """Close the line, and tell all who are there."""
        if self.over:
            return
        self.over = True
        self._closed()
        self._due.clear()
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        if self._opening is not None:
            self._opening.cancel()
        self._hang_up(cut)
        viewers, watching = [*self._viewers], [*self._watching]
        for viewer in viewers:
            if viewer.encoder is None and not viewer.ready.called:
                viewer.ready.errback(error or errors.UpstreamFailed(reason="closed"))
            else:
                viewer.gone(error)
        for viewer in watching:
            viewer.gone(error)

    def _hang_up(self, cut: bool) -> None:
        line = self.line
        if line.transport is None or line.inbox.over:
            return
        line.transport.unregisterProducer()
        line.ended = lambda: None
        # What else it says is not heard.
        line.dataReceived = line.inbox.take = lambda data: None  # type: ignore[method-assign]
        if cut:
            line.transport.abortConnection()
        else:
            line.part(self._clock)


class Hubs:
    """The hubs of all consoles that are shared."""

    def __init__(self) -> None:
        self._hubs: dict[Hashable, Hub] = {}

    def __len__(self) -> int:
        return len(self._hubs)

    def at(self, key: Hashable, make: Callable[[Callable[[], object]], Hub]) -> Hub:
        """The hub of *key*; if there is none, *make* one that calls what it is given when it closes."""
        hub = self._hubs.get(key)
        if hub is None:
            hub = self._hubs[key] = make(lambda: self._hubs.pop(key))
        return hub
