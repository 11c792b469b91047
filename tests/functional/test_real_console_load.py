"""What consoles cost: a thousand at once, and memory beside a side that does not take its bytes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bench import kernel
from tests.functional.case import PYTEST_ONLY
from tests.functional.console_case import ConsoleCase
from tests.functional.console_client import Console
from tests.functional.console_servers import VERSION, Line, Play, Server, floods
from tests.functional.peers import Script, Sections
from tests.functional.processes import HOST, MIB, best_of, wait_for
from tests.wire.test_websocket_frames import client as frame

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

#: A quarter of a million numbers in turn: no piece of it is like another.
COUNTED = b"".join(number.to_bytes(4, "big") for number in range(1 << 18))


def counts(line: Line) -> None:
    """Flood with :data:`COUNTED`, again and again."""
    while True:
        line.say(COUNTED)


class CrowdTests(ConsoleCase):
    """A thousand consoles through one gateway."""

    SESSIONS, TICKETS, BYTES = 1000, 25, 100_000
    descriptors: ClassVar[int] = 8192
    sections: ClassVar[Sections] = {
        "limits": {
            "connections": "8192",
            "connections_per_address": "8192",
            "unauthenticated": "8192",
            "unauthenticated_per_address": "8192",
            "accept_rate": "10000",
            "accept_rate_per_address": "10000",
            "handshakes": "1024",
        }
    }

    @pytest.mark.timeout(300)
    def test_crowd(self) -> None:
        """No byte is lost either way, an idle one costs little, those of one ticket end within 50 ms."""
        server = Script(self.home, "console_load")
        self.addCleanup(server.kill)
        server.start("echo")
        url = f"tcp://{HOST}:{server.port}"
        tickets = [self.grant(url) for _ in range(self.TICKETS)]
        self.path(f"/console/{tickets[0]}").leave()
        before = self.gateway.rss()
        order = {
            "port": self.consoles,
            "ca": str(self.gateway.ca),
            "paths": [f"/console/{ticket}" for ticket in tickets],
            "sessions": self.SESSIONS,
            "bytes": self.BYTES,
        }
        script = Path(__file__).with_name("console_load.py")
        command = [sys.executable, str(script), "browse", json.dumps(order)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as browsers:
            try:
                opened = self._said(browsers)
                self.assertEqual(opened["wrong"], [])
                self.assertEqual(len(self.gateway.sessions()), self.SESSIONS)
                each = (self.gateway.rss() - before) / self.SESSIONS
                self._go(browsers)
                moved = self._said(browsers)
                self.assertEqual(moved["wrong"], [])
                sessions = self.gateway.sessions()
                self.assertEqual({(it["bytes_in"], it["bytes_out"]) for it in sessions}, {(self.BYTES,) * 2})
                numbers = count()
                took = best_of(lambda: self._ended(browsers, tickets, next(numbers)), 0.05)
            finally:
                browsers.kill()
        print(  # noqa: T201 (what was measured)
            f"{self.SESSIONS} consoles: opened in {opened['seconds']:.1f} s, {each / 1024:.1f} KiB each, "
            f"{self.SESSIONS * self.BYTES / MIB / moved['seconds']:.0f} MiB/s there and back; "
            f"{self.SESSIONS // self.TICKETS} of one ticket closed within {took * 1000:.0f} ms"
        )
        self.assertLess(each, 160 * 1024)
        wait_for(lambda: not self.gateway.sessions(), "all are gone")

    def _ended(self, browsers: subprocess.Popen[bytes], tickets: Sequence[str], number: int) -> float:
        """Revoke one ticket; return how many seconds later the last of its browsers was told."""
        self._go(browsers)
        begun = time.monotonic()
        self.assertEqual(self.gateway.delete(tickets[number]).status, 204)
        ended = self._said(browsers)
        self.assertEqual(ended["wrong"], [])
        self.assertEqual(ended["others"], self.SESSIONS - (number + 1) * (self.SESSIONS // self.TICKETS))
        self.assertEqual({code for _, code in ended["closed"]}, {4403})
        return float(max(when for when, _ in ended["closed"]) - begun)

    def _go(self, browsers: subprocess.Popen[bytes]) -> None:
        assert browsers.stdin is not None
        browsers.stdin.write(b"\n")
        browsers.stdin.flush()

    def _said(self, browsers: subprocess.Popen[bytes]) -> dict[str, Any]:
        assert browsers.stdout is not None
        line = browsers.stdout.readline()
        self.assertTrue(line, "the browsers' process ended")
        said: dict[str, Any] = json.loads(line)
        return said


class StalledTests(ConsoleCase):
    """Back-pressure holds, in every form of a console."""

    GROWTH, SECONDS = 4 * MIB, 1.5

    def server(self, play: Play) -> Server:
        server = Server(play)
        self.addCleanup(server.close)
        return server

    def peak(self, what: str) -> None:
        """The gateway's memory does not grow while nobody takes anything."""
        time.sleep(0.3)
        kernel.forget_peak(self.gateway.pid)
        before = kernel.memory(self.gateway.pid)
        time.sleep(self.SECONDS)
        growth = kernel.memory(self.gateway.pid, "VmHWM") - before
        print(f"{what}: grew by {growth / MIB:.2f} MiB")  # noqa: T201 (what was measured)
        self.assertLess(growth, self.GROWTH, what)

    def stalled(self, what: str, console: Console, start: int, text: bool = False) -> None:
        """A browser that takes nothing for a while, and then goes on: not a byte is lost."""
        self.assertLess(self.gateway.rss() - start, self.GROWTH, what)

        def stands() -> bool:
            [session] = self.gateway.sessions()
            self.peak(what)
            [later] = self.gateway.sessions()
            return bool(session["bytes_out"] == later["bytes_out"])

        # Both ends are slow to fill what lies between them, where others need the processor.
        wait_for(stands, "it stands still")
        if text:
            while len(console.texts) < 4 * len(COUNTED):
                self.assertTrue(console._more())
            heard = b"".join(b64decode(it + "=" * (-len(it) % 4)) for it in console.texts.split("=") if it)
            self.assertEqual(heard[: 2 * len(COUNTED)], 2 * COUNTED)
        else:
            for _ in range(8):
                self.assertEqual(console.read(len(COUNTED)), COUNTED)
        console.line.close()
        wait_for(lambda: not self.gateway.sessions(), "no session")

    def test_browser(self) -> None:
        """A browser takes nothing, and its console floods: VNC, read or not, serial, bytes, base64."""

        def desktop(line: Line) -> None:
            line.say(VERSION)
            line.read(12)
            line.say(b"\1\1")
            line.read(1)
            line.say(bytes(4))
            line.read(1)
            line.say(bytes((0, 4, 0, 4, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 0, 8, 16, 0, 0, 0)) + bytes(4))
            counts(line)

        for what, scheme, play, more in (
            ("VNC unread", "vnc", counts, {}),
            ("serial", "serial", counts, {}),
            ("bytes", "tcp", counts, {}),
            ("VNC, looking only", "vnc", desktop, {"ops": ["view"]}),
        ):
            start = self.gateway.rss()
            console = self.open(self.server(play).url(scheme), **more)
            if more:
                self.enter(console)
                console.read(24)
            time.sleep(0.5)
            self.stalled(what, console, start)
        ticket = self.grant(self.server(counts).url("tcp"))
        start = self.gateway.rss()
        console = self.path(f"/console/{ticket}", "Sec-WebSocket-Protocol: base64")
        time.sleep(0.5)
        self.stalled("base64", console, start, text=True)

    def test_console(self) -> None:
        """A console takes nothing, and its browser floods."""

        def stands(line: Line) -> None:
            time.sleep(30)

        for scheme, play in (("tcp", stands), ("vnc", stands), ("serial", stands)):
            start = self.gateway.rss()
            console = self.open(self.server(play).url(scheme))
            console.line.settimeout(0.5)
            sent = 0
            with self.assertRaises((TimeoutError, OSError)):
                while sent < 256 * MIB:
                    console.line.sendall(frame(2, COUNTED[: 64 * 1024]))
                    sent += 64 * 1024
            self.assertLess(sent, 64 * MIB, scheme)
            self.peak(f"{scheme}, a console that takes nothing, {sent / MIB:.1f} MiB sent")
            self.assertLess(self.gateway.rss() - start, self.GROWTH, scheme)
            self.gateway.control("DELETE", "/tickets/")
            console.line.close()
            wait_for(lambda: not self.gateway.sessions(), "no session")

    def test_many(self) -> None:
        """Sixty stalled browsers at once hold what sixty sockets hold."""
        start = self.gateway.rss()
        url = self.server(floods()).url("tcp")
        tickets = [self.grant(url)]
        consoles = [self.path(f"/console/{tickets[0]}") for _ in range(60)]
        time.sleep(2)
        each = (self.gateway.rss() - start) / len(consoles)
        print(f"{each / 1024:.0f} KiB for each stalled browser")  # noqa: T201 (what was measured)
        self.assertLess(each, 1.5 * MIB)
        self.peak("sixty stalled browsers")

        def revoked() -> float:
            if not tickets:
                tickets.append(self.grant(url))
                consoles.extend(self.path(f"/console/{tickets[0]}") for _ in range(60))
            begun = time.monotonic()
            self.gateway.delete(tickets.pop())
            took = time.monotonic() - begun
            wait_for(lambda: not self.gateway.sessions(), "no session")
            return took

        best_of(revoked, 1.0)
