"""One browser that looks at a VNC console through a hub, to which others may look as well.

The browser talks RFB with the gateway alone: its pixel format, its encodings and its wishes for updates are
about its own picture and go no further. What it types goes up while it is in control.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from twisted.logger import Logger

from gateway import errors
from gateway.consoles.line import Line, LineFactory
from gateway.consoles.shared import Hub
from gateway.consoles.viewer import Viewer, Watching
from gateway.consoles.vnc_bridge import VncBridge
from gateway.consoles.vnc_login import Desktop, VncLogin
from gateway.wire.fbs import FbsWriter, greeting
from gateway.wire.rfb_browser import BrowserSide
from gateway.wire.rfb_messages import ClientFilter


class SharedBridge(VncBridge):
    """One viewer.

    :ivar viewer: its place in the hub; None as long as it has none.
    """

    viewer: Viewer | None = None
    _watching: Watching | None = None
    _log = Logger()

    async def _arrive(self) -> None:
        if self.session is not None:
            # It takes more than a ticket to be in control.
            self.session.op = "view"
        await self.record(lambda now: FbsWriter())
        # What is not shared is nobody else's, whoever has the same key.
        key: Hashable = (self.target, self.admission.secret, None if self.admission.shared else self)
        viewer = await self._enter(key)
        if viewer.hub.user not in (None, self.admission.user):
            # The console knows the other one by name, and this one may be somebody else to it.
            viewer.leave()
            viewer = await self._enter((key, self.admission.user))
        address = viewer.hub.line.transport.getPeer()
        self.consoles.reach.judge(self.target, getattr(address, "host", ""))
        if self.recorder is not None:
            self._watching = watching = viewer.hub.watch(self.recorder.put)
            self.recorder.put(greeting(watching.init))

    async def _enter(self, key: Hashable) -> Viewer:
        """Enter the hub of *key*, and wait until it has a console."""
        hub = self.consoles.hubs.at(key, self._hub)
        control = self.admission.op == "control"
        self.viewer = viewer = Viewer(hub, self.outward, self._console_over, controls=control)
        viewer.in_control, viewer.flow = self._in_control, self._flow
        hub.enter(viewer)
        await viewer.ready
        return viewer

    def _hub(self, closed: Callable[[], object]) -> Hub:
        consoles, target, admission = self.consoles, self.target, self.admission
        reach = consoles.reach

        async def log_in(line: Line) -> Desktop:
            await reach.connect(target, LineFactory(line), principal=admission.principal)
            secret, user = admission.secret, admission.user
            login = VncLogin(reach, target, line, secret=secret, user=user, asks=False)
            await login.log_in()
            return await login.desktop()

        return Hub(consoles.clock, consoles.login_timeout, log_in, closed)

    async def _begin(self) -> None:
        viewer, browser = self.viewer, BrowserSide()
        if viewer is None or viewer.hub.over:
            self.over()
            return
        self.socket.write(browser.greeting)
        await self._welcome(browser)
        init = viewer.begin(takeover=self.admission.takeover)
        self._filter = ClientFilter(self.admission.op != "control", local=viewer.receive)
        self.outward(init.encode())
        self.socket.registerProducer(viewer, True)
        self._watch()
        if browser.rest:
            self.inward(browser.rest)
        self.browser.divert(self.inward)
        if viewer.hub.holder is viewer and viewer.hub.full:
            self._flow(False)

    def inward(self, data: bytes) -> None:
        if self.session is not None:
            self.session.bytes_in += len(data)
        if self._filter is not None and self.viewer is not None:
            typed, _ = self._filter.receive(data)
            if typed:
                self.viewer.act(typed)

    def _in_control(self, true: bool) -> None:
        session = self.session
        if session is not None:
            session.become("control" if true else "view")
            self._log.info(
                "console {session}: {op} of {target}",
                session=session.id,
                op=session.op,
                target=session.target,
            )

    def writes(self, flows: bool) -> None:
        # What is not seen meanwhile is part of a later picture.
        if self._watching is None:
            return
        if flows:
            self._watching.resumeProducing()
        else:
            self._watching.pauseProducing()

    def _console_over(self, error: errors.GatewayError | None) -> None:
        """The console has ended for all."""
        if error is None:
            self.over()
        else:
            self.end(error)

    def hang_up(self) -> None:
        self._quit(cut=True)

    def settle(self) -> None:
        self._quit(cut=False)

    def _quit(self, *, cut: bool) -> None:
        """See and say nothing more."""
        if self._socket is not None:
            self._socket.unregisterProducer()
        if self._watching is not None:
            self._watching.stop()
        if self.viewer is not None:
            # What it loses by leaving is no news.
            self.viewer.in_control = lambda true: None
            self.viewer.leave(cut=cut)
