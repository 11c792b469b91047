"""Where users reach our pages."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from gateway.core.addresses import console_url, proxy_urls
from gateway.core.config_model import Config, Gateway, Web
from gateway.core.config_services import Consoles, Tunnel


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


class ProxyUrlsTests(SynchronousTestCase):
    """What clients of the tunnel call us."""

    def urls(self, public: str | None, **keys: object) -> list[str]:
        tunnel = Tunnel.model_validate(keys)
        return proxy_urls(Config(file=Path("x"), files=(), gateway=Gateway(public_url=public), tunnel=tunnel))

    def test_both(self) -> None:
        """The public host with the ports of tunnels; what is off, or of somebody else's, is left out."""
        self.assertEqual(
            self.urls("https://gw.invalid:54323/x"), ["http://gw.invalid:3128", "https://gw.invalid:3129"]
        )
        self.assertEqual(
            self.urls("https://[2001:db8::1]", tls="yes", tls_listen="off"), ["https://[2001:db8::1]:3128"]
        )
        self.assertEqual(
            self.urls("https://gw.invalid", listen="systemd:domain=INET:name=t"), ["https://gw.invalid:3129"]
        )
        self.assertEqual(self.urls(None), [])

    def test_this_machine(self) -> None:
        """Instead of localhost, whose first address may be another one, stands that which is listened on."""
        for interface, shown in (
            ("", "127.0.0.1"), (":interface=127.0.0.1", "127.0.0.1"), (":interface=127.0.0.7", "127.0.0.7"),
            (":interface=0.0.0.0", "127.0.0.1"), (r":interface=\:\:1", "[::1]"),
            (r":interface=\:\:", "[::1]"),
        ):  # fmt: skip
            found = self.urls("https://localhost:54323", listen=f"tcp:7{interface}", tls_listen="off")
            self.assertEqual(found, [f"http://{shown}:7"], interface)
