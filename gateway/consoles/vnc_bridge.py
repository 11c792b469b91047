"""VNC consoles: who shows the password, where TLS begins, and what may pass.

Without ``secret``, TLS or a limit the whole of RFB passes unread. Otherwise the gateway is a client
towards the console and a server towards the browser, to which it offers no security at all: the websocket
has that. A console whose password nobody told us asks the user through us. Who may only look always gets
a console in this form, for only then it is known where messages begin.
"""

from __future__ import annotations

from gateway import errors
from gateway.consoles.bridge import Bridge
from gateway.consoles.vnc_login import VncLogin
from gateway.wire.rfb_browser import BrowserSide
from gateway.wire.rfb_messages import ClientFilter


class VncBridge(Bridge):
    """One VNC console."""

    _login: VncLogin | None = None
    _filter: ClientFilter | None = None

    @property
    def _terminates(self) -> bool:
        admission = self.admission
        return self.target.tls or admission.secret is not None or admission.op != "control"

    async def _arrive(self) -> None:
        await self.connect()
        await self._log_in()

    async def _log_in(self) -> None:
        if self._terminates:
            admission, reach = self.admission, self.consoles.reach
            self._login = VncLogin(
                reach, self.target, self.line, secret=admission.secret, user=admission.user
            )
            await self._login.log_in()

    async def _begin(self) -> None:
        login = self._login
        if login is None:
            self.join()
            return
        browser, challenge = BrowserSide(), login.server.challenge
        self.socket.write(browser.greeting)
        if challenge:
            self.socket.write(browser.ask(challenge))
            while not browser.response:
                await self._hear(browser)
            try:
                await login.answer(browser.response)
            except errors.UpstreamFailed as error:
                self.socket.write(browser.refuse(error.text))
                raise
        await self._welcome(browser)
        desktop = await login.desktop(shared=browser.shared)
        self.outward(desktop.init.encode() + desktop.rest)
        self._filter = ClientFilter(self.admission.op != "control")
        if browser.rest:
            self.inward(browser.rest)
        self.join()

    async def _welcome(self, browser: BrowserSide) -> None:
        """Let the browser in, up to where it waits for a desktop."""
        self.socket.write(browser.admit())
        while not browser.done:
            await self._hear(browser)

    async def _hear(self, browser: BrowserSide) -> None:
        """Hear what the browser says next, and answer."""
        data = await self.browser.read()
        if not data:
            raise errors.BadRequest("The browser has left", reason="left")
        self.socket.write(browser.receive(data))

    def inward(self, data: bytes) -> None:
        if self._filter is not None:
            data, _ = self._filter.receive(data)
        super().inward(data)
