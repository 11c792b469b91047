"""Consoles that ask for a user's name and password (VeNCrypt X509Plain): TigerVNC behind a gateway."""

from __future__ import annotations

import shutil
from typing import Any

from tests.functional.case import PYTEST_ONLY
from tests.functional.console_case import ConsoleCase
from tests.functional.console_client import Console
from tests.functional.processes import HOST, short_directory, wait_for
from tests.functional.x_server import USER, USER_PASSWORD, XServer

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)


class PlainTests(ConsoleCase):
    """The gateway shows the secret of a ticket in the name of its principal."""

    def server(self, security: str = "X509Plain") -> XServer:
        directory = short_directory()
        self.addCleanup(shutil.rmtree, directory, ignore_errors=True)
        server = XServer(directory, self.credentials, security)
        self.addCleanup(server.stop)
        server.start()
        return server

    def url(self, server: XServer, query: str = "") -> str:
        return f"vnc+tls://{HOST}:{server.port}{query}"

    def assert_desktop(self, console: Console) -> None:
        """The browser is asked for nothing, and is in."""
        self.enter(console)
        self.assertEqual(console.read(4), b"\x02\x80\x01\xe0")

    def assert_refused(self, text: str, url: str, **more: Any) -> None:
        self.assertIn(text, self.refused(502, f"/console/{self.grant(url, **more)}"))

    def test_login(self) -> None:
        """The right password of the right user opens the desktop: alone, to look at, and shared."""
        server = self.server()
        url, who = self.url(server), {"principal": USER, "secret": USER_PASSWORD}
        for more in ({}, {"ops": ["view"]}, {"shared": True}):
            console = self.open(url, **who, **more)
            self.assert_desktop(console)
            console.leave()
            wait_for(lambda: not self.gateway.sessions(), "it was left")
        self.assertEqual(server.asked(), [USER] * 3)
        for secret in (USER_PASSWORD, "wrong"):
            self.assertNotIn(secret, self.gateway.log())

    def test_another_user(self) -> None:
        """The console may know somebody by another name than we do; nobody else is told that name."""
        server = self.server()
        who = {"principal": "carol", "user": USER, "secret": USER_PASSWORD}
        before = len(self.gateway.log())
        for more in ({}, {"ops": ["view"]}):
            console = self.open(self.url(server), **who, **more)
            self.assert_desktop(console)
            [session] = self.gateway.sessions()
            self.assertEqual(session["principal"], "carol")
            console.leave()
            wait_for(lambda: not self.gateway.sessions(), "it was left")
        ticket = self.grant(self.url(server), **who)
        shown = self.gateway.get(ticket).body + self.gateway.control("GET", "/tickets/").body
        self.assertNotIn(USER.encode(), shown)
        who = {"principal": "carol", "user": "bob", "secret": USER_PASSWORD}
        self.assert_refused("refuses the password", self.url(server), **who)
        self.assertEqual(server.asked(), [USER] * 2)
        for name in (USER, "bob"):
            self.assertNotIn(name, self.gateway.log()[before:])

    def test_shared_by_user(self) -> None:
        """A shared console is one for all who come as the same user, and another for anybody else."""
        server = self.server()
        url, who = self.url(server), {"secret": USER_PASSWORD, "shared": True}
        self.assert_desktop(self.open(url, principal="carol", user=USER, **who))
        self.assert_desktop(self.open(url, principal=USER, **who))
        self.assertEqual(server.asked(), [USER])
        self.assert_refused("refuses the password", url, principal="carol", user="bob", **who)
        self.assertEqual(server.asked(), [USER])
        wait_for(lambda: len(self.gateway.sessions()) == 2, "the two sessions")

    def test_refused(self) -> None:
        """Another password or user is refused as such; without either nobody is asked."""
        server = self.server()
        url = self.url(server)
        self.assert_refused("refuses the password", url, principal=USER, secret="wrong")
        self.assert_refused("refuses the password", url, principal=USER, secret=USER_PASSWORD[:8])
        self.assert_refused("refuses the password", url, principal="bob", secret=USER_PASSWORD)
        asked = server.asked()
        self.assert_refused("no security type", url, principal=USER)
        self.assertEqual(server.asked(), asked)

    def test_not_the_session_of_another(self) -> None:
        """To a shared console each comes by a login of his own: the password of one lets in nobody else."""
        server = self.server()
        url = self.url(server)
        console = self.open(url, principal=USER, secret=USER_PASSWORD, shared=True)
        self.assert_desktop(console)
        self.assert_refused("refuses the password", url, principal="bob", secret=USER_PASSWORD, shared=True)
        wait_for(lambda: len(self.gateway.sessions()) == 1, "the one session")

    def test_to_nobody_else(self) -> None:
        """Who has another name, or shows no certificate, never hears the password."""
        server = self.server()
        who = {"principal": USER, "secret": USER_PASSWORD}
        self.assert_refused("", self.url(server, "?tls-name=other.invalid"), **who)
        self.assertEqual(server.asked(), [])
        anonymous = self.server("TLSPlain,Plain,TLSNone,None")
        self.assert_refused("no security type", self.url(anonymous), **who)
        self.assert_refused("no security type", f"vnc://{HOST}:{anonymous.port}", **who)
        self.assertEqual(anonymous.asked(), [])
