"""remote-viewer on a screen in memory: its window shows the machine, and the gateway knows what it does."""

from __future__ import annotations

import shutil
import stat
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

from tests.functional.case import PYTEST_ONLY
from tests.functional.commands import run
from tests.functional.desktop import Desktop, Viewer, console_file
from tests.functional.hypervisor import Qemu
from tests.functional.processes import HOST, free_port, short_directory, wait_for
from tests.functional.tunnel_case import TunnelCase, machine, trusting

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

PASSWORD = "sekret12"
CHANNELS = ("main", "display", "inputs", "cursor")


class _Case(TunnelCase):
    """A machine, a desktop, and a viewer for each test."""

    qemu: ClassVar[Qemu]
    desktop: ClassVar[Desktop]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.qemu = machine(cls, PASSWORD, tls=True)
        directory = short_directory()
        cls.addClassCleanup(shutil.rmtree, directory)
        cls.desktop = Desktop(directory)
        cls.addClassCleanup(cls.desktop.stop)
        cls.desktop.start()

    def setUp(self) -> None:
        wait_for(lambda: not (self.gateway.sessions() or self.qemu.spice_channels()), "nobody is there")
        self.directory = short_directory()
        self.addCleanup(shutil.rmtree, self.directory)
        self.viewer = Viewer(self.directory)
        self.addCleanup(self.viewer.kill)

    def url(self, *, tls: bool = False) -> str:
        return (
            f"spice://localhost?tls-port={self.qemu.spice_tls_port}"
            if tls
            else f"spice://{HOST}:{self.qemu.spice_port}"
        )

    def view(self, ticket: str = "", **more: object) -> None:
        """Start the viewer with a file that names this ticket."""
        file = self.directory / "console.vv"
        keys = {"host": HOST, "port": self.qemu.spice_port, "password": PASSWORD, "proxy": self.proxy(ticket)}
        self.viewer.start(self.desktop, console_file(file, **{**keys, "title": "t", **more}))

    def assert_shows(self) -> None:
        """Its window has the machine's screen, pixel for pixel."""
        self.viewer.opened()
        shot = self.directory / "shot.png"
        wait_for(
            lambda: self.desktop.shows(self.qemu.screen(), shot), f"the screen\n{self.viewer.log()[-2000:]}"
        )

    def assert_channels(self, *names: str) -> None:
        """The tunnels of the viewer are these, by what each has said that it is."""
        wait_for(lambda: self.channels() == set(names), f"{names} are open")

    def channels(self) -> set[str]:
        return {it["target"].partition(" ")[2] for it in self.gateway.sessions()}

    def ctl(self, *words: str) -> str:
        """What gatewayctl prints."""
        where = ["--control", str(self.gateway.control_socket)]
        return run([sys.executable, "-m", "gateway.ctl", *words, *where]).decode()


class ViewerTests(_Case):
    """A console as users have it."""

    def test_picture(self) -> None:
        """The window shows the machine; each channel is a session by its name; revocation closes them all."""
        ticket = self.grant(self.url(), uses=1, principal="alice")
        self.view(ticket)
        self.assert_shows()
        self.assert_channels(*CHANNELS)
        listed = self.ctl("session", "list")
        for name in CHANNELS:
            self.assertIn(f":{self.qemu.spice_port} {name}", listed)
        self.assertIn("alice", listed)
        (main,) = [it for it in self.gateway.sessions() if it["target"].endswith(" main")]
        self.assertEqual([it["console"] for it in self.gateway.sessions()], [main["id"]] * 4)
        self.assertNotIn(ticket, listed)
        self.gateway.delete(ticket)
        wait_for(
            lambda: "main channel: closed" in self.viewer.log() or "failed" in self.viewer.log(), "an end"
        )
        wait_for(lambda: not self.gateway.sessions(), "no session")

    def test_dialog(self) -> None:
        """Without a ticket a dialog asks for one, and what is typed there opens the console."""
        ticket = self.grant(self.url())
        self.view()
        wait_for(lambda: self.desktop.windows("Authentication required"), "the dialog")
        (window,) = self.desktop.windows("Authentication required")
        self.assertEqual(self.gateway.sessions(), [])
        self.desktop.focus(window)
        for words in (("type", "anybody"), ("key", "Tab"), ("type", ticket), ("key", "Return")):
            self.desktop.keys(*words)
        self.assert_shows()

    def test_wrong_ticket(self) -> None:
        """A wrong ticket is refused, and no channel ever reaches the machine."""
        self.view("0" * 36)
        wait_for(lambda: "proxy authentication failed" in self.viewer.log().lower(), "a refusal")
        self.assertEqual((self.gateway.sessions(), list(self.qemu.spice_channels())), ([], []))


class LinkTests(_Case):
    """``gatewayctl link viewer``: the viewer opens what it writes."""

    def link(self, *words: str) -> Path:
        """The file of a new link."""
        file, secret = self.directory / "link.vv", self.directory / "secret"
        secret.write_text(PASSWORD + "\n")
        self.ctl("link", "viewer", "-o", str(file), "-S", str(secret), *words)
        self.assertEqual(stat.S_IMODE(file.stat().st_mode), 0o600)
        return file

    def test_plain(self) -> None:
        """A file for one use; the viewer removes it, and the console is there."""
        file = self.link(self.url(), "--title", "my = [VM]", "-1")
        self.viewer.start(self.desktop, file)
        self.assert_shows()
        self.assertFalse(file.exists())
        wait_for(lambda: self.desktop.windows("my = .VM."), "its title")

    def test_tls(self) -> None:
        """TLS to the gateway and TLS to the machine, whose authority is in the file."""
        ca = str(self.qemu.credentials.ca)
        file = self.link(self.url(tls=True), "--tls", "--ca", ca, "--keep")
        wrapped = trusting(self.directory, self.gateway.ca, [])
        self.viewer.start(self.desktop, file, *wrapped)
        self.assert_shows()
        self.assertTrue(file.exists())
        self.assert_channels("tls")


class IdleTests(_Case):
    """A console is one thing: silent channels live as long as any is busy."""

    more: ClassVar[dict[str, str]] = {"idle_timeout": "6s"}

    def test_busy(self) -> None:
        """Who types keeps the console; who does nothing any more loses all of it."""
        self.view(self.grant(self.url()))
        self.assert_shows()
        self.assert_channels(*CHANNELS)
        # The machine pings the main channel now and then; this one has nothing to say.
        cursor, since = self._silent("cursor"), time.monotonic()
        # Twice as long as a channel of its own could be silent.
        while time.monotonic() < since + 12:
            self.desktop.keys("mousemove", "300", "300", "key", "a")
            time.sleep(0.5)
            if (now := self._silent("cursor")) != cursor:  # it is still being greeted
                cursor, since = now, time.monotonic()
        self.assertEqual(self.channels(), set(CHANNELS))
        wait_for(lambda: not self.gateway.sessions(), "the end of a console that nobody uses")
        self.assertEqual({it["reason"] for it in self.trail()}, {"idle"})

    def _silent(self, name: str) -> Any:
        (found,) = [it for it in self.gateway.sessions() if it["target"].endswith(f" {name}")]
        return found["id"], found["bytes_in"]


class MigrationTests(_Case):
    """A machine moves to another host, and its console comes along."""

    def test_moves(self) -> None:
        """The viewer goes to the second host with the ticket it has, which was renewed with that host."""
        first, second = machine(type(self)), self._waiting()
        url = f"spice://{HOST}:{first.spice_port}"
        ticket = self.grant(url, uses=1)
        self.view(ticket, port=first.spice_port)
        self.viewer.opened()
        wait_for(lambda: len(self.channels()) == 4, "all channels")
        self.ctl("ticket", "renew", ticket, "--url", f"spice://{HOST}:{second.spice_port}")
        first.qmp("client_migrate_info", protocol="spice", hostname=HOST, port=second.spice_port)
        # Its console is told to be there before the machine is.
        there = {f"spice://{HOST}:{second.spice_port} {name}" for name in CHANNELS}
        wait_for(lambda: there <= {it["target"] for it in self.gateway.sessions()}, "both consoles")
        first.qmp("migrate", uri=f"tcp:{HOST}:{self.incoming}")
        wait_for(lambda: first.qmp("query-migrate").get("status") == "completed", "the migration")
        wait_for(
            lambda: {it["target"] for it in self.gateway.sessions()} == there,
            f"the console is at the second host\n{self.viewer.log()[-2000:]}",
        )
        shot = self.directory / "shot.png"
        wait_for(lambda: self.desktop.shows(second.screen(), shot), "the screen")

    def _waiting(self) -> Qemu:
        """A machine that waits for the other one's state."""
        self.incoming = free_port()
        directory = short_directory()
        self.addCleanup(shutil.rmtree, directory)
        qemu = Qemu(directory).spice()
        self.addCleanup(qemu.stop)
        qemu.start("-incoming", f"tcp:{HOST}:{self.incoming}")
        return qemu
