"""Where users reach our pages."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from gateway.core.addresses import console_url
from gateway.core.config_model import Config, Consoles, Gateway, Web


class ConsoleUrlTests(SynchronousTestCase):
    """The address of the console page."""

    def url(
        self, public: str | None, listen: str = "tcp:6100", web: str | None = "tcp:54323", **more: object
    ) -> str | None:
        consoles = Consoles.model_validate({"listen": listen, **more})
        config = Config(
            file=Path("x"),
            files=(),
            gateway=Gateway(public_url=public),
            consoles=consoles,
            web=None if web is None else Web(listen=web),
        )
        return console_url(config)

    def test_port(self) -> None:
        """It is the host of the public address, with the port of consoles."""
        self.assertEqual(self.url("https://gw.invalid:54323/"), "https://gw.invalid:6100")
        self.assertEqual(self.url("https://[2001:db8::1]"), "https://[2001:db8::1]:6100")
        self.assertEqual(self.url("https://gw.invalid", "tcp:7:interface=192.0.2.1"), "https://gw.invalid:7")
        self.assertEqual(self.url("https://gw.invalid", tls="no"), "http://gw.invalid:6100")

    def test_shared_port(self) -> None:
        """Where the pages listen on the same port, their address is good for consoles, too."""
        self.assertEqual(self.url("https://gw.invalid/", "tcp:1", "tcp:1"), "https://gw.invalid")

    def test_said(self) -> None:
        """What the section says counts."""
        said = {"public_url": "https://consoles.invalid/"}
        self.assertEqual(self.url("https://gw.invalid", **said), "https://consoles.invalid")
        self.assertEqual(self.url(None, **said), "https://consoles.invalid")

    def test_nobody_knows(self) -> None:
        """Without pages, without a public address, or with a socket of somebody else there is none."""
        self.assertIsNone(self.url("https://gw.invalid", web=None))
        self.assertIsNone(self.url(None))
        self.assertIsNone(self.url("https://gw.invalid", "systemd:domain=INET:name=consoles"))
