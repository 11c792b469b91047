"""VNC consoles: who shows the password, where TLS begins, and what may pass.

Without ``secret``, TLS or a limit the whole of RFB passes unread. Otherwise the gateway is a client
towards the console and a server towards the browser, to which it offers no security at all: the websocket
has that. A console whose password nobody told us asks the user through us. Who may only look always gets
a console in this form, for only then it is known where messages begin.
"""

from __future__ import annotations

from gateway import errors
from gateway.consoles.bridge import Bridge
from gateway.consoles.line import LineFactory
from gateway.wire.rfb import Security
from gateway.wire.rfb_browser import BrowserSide
from gateway.wire.rfb_handshake import ServerSide
from gateway.wire.rfb_messages import ClientFilter

#: By whether there is TLS and a password: what is good enough.
_ALLOWED = {
    (False, False): {Security.NONE, Security.VNC},
    (False, True): {Security.VNC},
    (True, False): {Security.X509_NONE, Security.X509_VNC},
    (True, True): {Security.X509_VNC, Security.X509_PLAIN},
}


class VncBridge(Bridge):
    """One VNC console."""

    _server: ServerSide | None = None
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
            secret = self.admission.secret
            self._server = server = ServerSide(
                _ALLOWED[self.target.tls, secret is not None],
                password=None if secret is None else secret.encode("utf-8"),
                user=self.admission.principal.encode("utf-8"),
            )
            while not server.authenticated and not server.challenge:
                await self._step(server)

    async def _step(self, server: ServerSide) -> None:
        """Hear what the console says next, and answer."""
        line = self.line
        if server.tls_wanted:
            reach = self.consoles.reach
            line.transport.resumeProducing()
            await reach.dialer.secure(line.transport, LineFactory(line), reach.trust(self.target))
            said = server.secured()
        else:
            data = await line.inbox.read()
            if not data:
                raise server.lost()
            said = server.receive(data)
        line.transport.write(said)

    async def _begin(self) -> None:
        server = self._server
        if server is None:
            self.join()
            return
        browser, line = BrowserSide(), self.line
        self.socket.write(browser.greeting)
        if server.challenge:
            self.socket.write(browser.ask(server.challenge))
            while not browser.response:
                await self._hear(browser)
            line.transport.write(server.answer(browser.response))
            try:
                while not server.authenticated:
                    await self._step(server)
            except errors.UpstreamFailed as error:
                self.socket.write(browser.refuse(error.text))
                raise
        self.socket.write(browser.admit())
        while not browser.done:
            await self._hear(browser)
        line.transport.write(server.initialize(shared=browser.shared))
        while not server.done:
            await self._step(server)
        if server.init is not None:
            self.outward(server.init.encode() + server.rest)
        self._filter = ClientFilter(self.admission.op != "control")
        if browser.rest:
            self.inward(browser.rest)
        self.join()

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
