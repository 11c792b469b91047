"""Peers that mean harm: browsers that break the rules of websockets, and VNC and SPICE servers."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from struct import pack
from typing import Any

from gateway.wire.websocket_frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame
from tests.functional.attacks import at_once
from tests.functional.case import PYTEST_ONLY
from tests.functional.console_case import ConsoleCase
from tests.functional.console_client import Console, Refused
from tests.functional.console_servers import INIT, VERSION, Line, Play, Server, echo, floods, quiet, says, vnc
from tests.functional.processes import MIB, wait_for
from tests.wire import spice_server
from tests.wire.test_websocket_frames import client, head

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

#: Growth of the gateway that is no growth.
SOME = 4 * MIB
ENDLESS = 1 << 40


class _Case(ConsoleCase):
    """Consoles that the test plays."""

    def server(self, play: Play = echo) -> Server:
        server = Server(play)
        self.addCleanup(server.close)
        return server

    def grown(self, since: int) -> int:
        return self.gateway.rss() - since


class FrameTests(_Case):
    """W3: what RFC 6455 forbids, on the whole path."""

    MISTAKES: tuple[tuple[int, bytes], ...] = (
        (1002, frame(BINARY, b"never")),  # unmasked
        (1002, frame(PING, b"")),
        *((1002, head(0x80 | bit | BINARY, 5) + b"never") for bit in (0x10, 0x20, 0x40)),
        *((1002, client(opcode, b"never")) for opcode in (3, 7, 11, 15)),
        (1002, client(PING, b"x", final=False)),
        (1002, client(PING, b"x" * 126)),
        (1002, client(CLOSE, b"\x03\xe8" + b"x" * 124)),
        (1002, client(CONTINUATION, b"never")),
        (1002, client(BINARY, b"", final=False) + client(BINARY, b"never")),
        (1002, bytes((0x82, 254, 0, 5)) + b"keyynever"),  # a long form of a short length
        (1002, bytes((0x82, 255)) + (5).to_bytes(8, "big") + b"keyynever"),
        (1002, bytes((0x82, 255)) + (1 << 63).to_bytes(8, "big") + b"keyynever"),
        *((1002, client(CLOSE, code.to_bytes(2, "big"))) for code in (0, 999, 1004, 1005, 1006, 1015, 2999)),
        (1002, client(CLOSE, b"\x03")),
        (1003, client(TEXT, b"never")),
        (1003, client(TEXT, b"\xff")),
        (1007, client(CLOSE, b"\x03\xe8\xff\xfe")),
        (1007, client(CLOSE, b"\x03\xe8\xed\xa0\x80")),
        (1009, head(0x80 | BINARY, MIB + 1)),
        (1009, head(0x80 | BINARY, ENDLESS)),
    )
    OLD: tuple[tuple[int, bytes], ...] = (
        (1003, client(BINARY, b"never")),
        (1007, client(TEXT, b"\xff")),
        (1007, client(TEXT, b"\xc3")),
        (1007, client(TEXT, b"!!!!")),
        (1007, client(TEXT, b"YQ==YQ==")),
        (1009, head(0x80 | TEXT, MIB + 1)),
    )

    def test_table(self) -> None:
        """Each has its close code; nothing of it, or after it, reaches the console, which is let go."""
        server = self.server()
        path = f"/console/{self.grant(server.url('tcp'))}"
        for offer, table in (("binary", self.MISTAKES), ("base64", self.OLD)):
            good = client(TEXT, b"Z29vZA==") if offer == "base64" else client(BINARY, b"good")
            for code, mistake in table:
                console = self.path(path, f"Sec-WebSocket-Protocol: {offer}")
                wait_for(lambda: server.live == 1, "reached")
                console.line.sendall(good + mistake + client(BINARY, b"never") * 3)
                self.assertEqual(console.end()[0], code, mistake[:20])
                console.line.close()
                wait_for(lambda: server.live == 0 and not self.gateway.sessions(), "all is closed")
                self.assertEqual(server.lines.pop().heard, b"good", mistake[:20])

    def test_too_long(self) -> None:
        """A message of many fragments has a limit, too; what fits into it has passed."""
        server = self.server(quiet)
        console = self.open(server.url("tcp"))
        console.line.sendall(client(BINARY, bytes(MIB), final=False))
        for _ in range(3):
            console.line.sendall(client(CONTINUATION, bytes(MIB), final=False))
        console.line.sendall(client(CONTINUATION, b"x"))
        self.assertEqual(console.end()[0], 1009)
        wait_for(lambda: len(server.lines[0].heard) == 4 * MIB, "what was within it")

    def test_announced(self) -> None:
        """A hundred browsers that announce as much as they may, and send nothing of it, cost nothing."""
        server = self.server()
        path = f"/console/{self.grant(server.url('tcp'))}"
        consoles = [self.path(path) for _ in range(60)]
        before = self.gateway.rss()
        for console in consoles:
            console.line.sendall(head(0x80 | BINARY, MIB))
        time.sleep(0.5)
        self.assertLess(self.grown(before), SOME)
        self.gateway.control("DELETE", "/tickets/")
        for console in consoles:
            self.assertEqual(console.end()[0], 4403)

    def test_fragments(self) -> None:
        """A hundred thousand fragments of a byte or none, with pings between them, are the same stream."""
        server = self.server()
        console = self.open(server.url("tcp"))
        count = 30_000
        data = bytes(number % 251 for number in range(count))
        pieces = [client(BINARY, b"", final=False)]
        for number in range(count):
            pieces += [
                client(CONTINUATION, data[number : number + 1], final=False),
                client(0, b"", final=False),
            ]
            if number % 1000 == 0:
                pieces += [client(PING, b"%d" % number), client(PONG, b"unasked")]
        console.line.sendall(b"".join(pieces) + client(CONTINUATION, b""))
        self.assertEqual(console.read(count), data)
        self.assertIn(b"0", console.pongs)
        self.assertLessEqual(len(console.pongs), 30)

    def test_control_flood(self) -> None:
        """Pings by the hundred thousand, of who takes no pong: nothing piles up, others are served."""
        server = self.server()
        path = f"/console/{self.grant(server.url('tcp'))}"
        flooding, other = self.path(path), self.path(path)
        flood = client(PING, b"x" * 125) * 5000
        flooding.line.sendall(flood)
        before = self.gateway.rss()
        times = []
        flooding.line.settimeout(0.05)
        sent, taken = 5000, True
        for number in range(40):
            # It may be read no longer, which is right as well.
            with contextlib.suppress(OSError):
                if taken:
                    taken = False
                    flooding.line.sendall(flood)
                    sent, taken = sent + 5000, True
            begun = time.monotonic()
            other.send(b"%d." % number)
            other.until(b"%d." % number)
            times.append(time.monotonic() - begun)
        print(f"{sent} pings sent, others were served within {max(times) * 1000:.0f} ms")  # noqa: T201 (what was measured)
        self.assertLess(sorted(times)[len(times) // 2], 1.0)
        self.assertLess(self.grown(before), SOME)


class StockFrameTests(FrameTests):
    """With autobahn's frames."""

    @classmethod
    def setUpClass(cls) -> None:
        os.environ["GATEWAY_FAST"] = "off"
        try:
            super().setUpClass()
        finally:
            del os.environ["GATEWAY_FAST"]


def counted(count: int, size: int = 1) -> bytes:
    return count.to_bytes(size, "big")


def after_login(*pieces: bytes) -> Play:
    """A VNC server that misbehaves once its client was let in."""

    def play(line: Line) -> None:
        line.say(VERSION)
        line.read(12)
        line.say(b"\1\1")
        line.read(1)
        line.say(bytes(4))
        line.read(1)
        for piece in pieces:
            line.say(piece)
        line.listen()

    return play


class VncServerTests(_Case):
    """W4: VNC servers that mean harm to who speaks with them on a user's behalf."""

    #: What it says, and whether anybody is let in before that is noticed.
    NONSENSE: tuple[Play, ...] = (
        floods(),
        floods(piece=b"RFB 003.008\n" * 1000),
        floods(VERSION[:11]),
        floods(VERSION, b"\xff"),  # 255 security types, each of them 0
        floods(VERSION, b"\0\xff\xff\xff\xff"),  # a reason of 4 GiB
        floods(VERSION, b"\1\x13", b"\0\2\0\xff"),  # 255 kinds of TLS
        floods(b"RFB 003.003\n", b"\0\0\0\0\xff\xff\xff\xff"),
        says(b"SSH-2.0-OpenSSH\r\n"),
        says(b"RFB 003.002\n"),
        says(b"RFB 999.999\n", b"\0", counted(4, 4), b"no!!"),
        says(VERSION, b"\0", counted(4096, 4) + b"x" * 4096),
        says(VERSION, b"\1\x63"),
        says(VERSION, b"\1\x13", b"\0\2", b"\1"),
        says(VERSION, b"\1\x13", b"\0\2", b"\0\0"),
        lambda line: line.say(VERSION),
        lambda line: line.say(VERSION + b"\1"),
        lambda line: line.say(VERSION + b"\1\2" + bytes(15)),
        lambda line: line.say(b""),
    )

    def test_nonsense(self) -> None:
        """Endless, huge, old, wrong, cut short: refused with a word, at once, and not one byte is kept."""
        before = self.gateway.rss()
        for number, play in enumerate(self.NONSENSE):
            server = self.server(play)
            for scheme in ("vnc", "vnc+tls"):
                ticket = self.grant(server.url(scheme), secret="pass", ops=["view"])
                begun = time.monotonic()
                self.refused(502, f"/console/{ticket}")
                self.assertLess(time.monotonic() - begun, 8.0, number)
            wait_for(lambda: not server.live, "hung up")  # noqa: B023 (asked at once)
        self.assertLess(self.grown(before), SOME)
        wait_for(lambda: not self.gateway.sessions(), "no session")

    def test_desktop(self) -> None:
        """What comes after the login: a name of 4 GiB, no desktop, a desktop and the end."""
        for play in (
            after_login(INIT + b"\xff\xff\xff\xff" + b"x" * MIB),
            after_login(bytes(4) + INIT[4:20] + b"\xff\xff\xff\xff"),
        ):
            console = self.open(self.server(play).url("vnc"), ops=["view"])
            self.enter(console)
            self.assertEqual(console.end()[0], 4502)
            console.line.close()
        wait_for(lambda: not self.gateway.sessions(), "no session")

    def test_silent(self) -> None:
        """Silence anywhere in the handshake, and a byte a second: cut after ten seconds."""
        servers = [
            self.server(play)
            for play in (
                quiet,
                says(VERSION),
                says(VERSION, b"\1\2"),
                says(VERSION, b"\1\2", bytes(16)),
                says(VERSION, b"\1\2", bytes(16), counted(1, 4)),
                says(*(VERSION[i : i + 1] for i in range(12)), pause=1.5),
            )
        ]
        paths = [f"/console/{self.grant(it.url('vnc'), secret='pass', uses=1)}" for it in servers]
        good = self.grant(self.server(vnc(offers=b"\2")).url("vnc"), secret="pass")
        todo, got = list(paths), []

        def ask() -> tuple[int, float]:
            path, begun = todo.pop(), time.monotonic()
            try:
                Console(self.consoles, self.gateway.ca, path)
            except Refused as refused:
                return refused.status, time.monotonic() - begun
            return 101, 0.0

        begun = time.monotonic()
        self.path(f"/console/{good}")
        self.assertLess(time.monotonic() - begun, 5.0)
        got = at_once(len(paths), ask)
        self.assertEqual({status for status, _ in got}, {504})
        self.assertTrue(all(9.5 < took < 18 for _, took in got), got)
        wait_for(lambda: not any(it.live for it in servers[:5]), "hung up")
        wait_for(lambda: len(self.gateway.sessions()) == 1, "the good one stays")

    def test_pass_through(self) -> None:
        """Where nothing is parsed nothing is believed: hostile bytes reach the browser as they came."""
        data = bytes(range(256)) * 64
        console = self.open(self.server(says(data)).url("vnc"))
        self.assertEqual(console.read(len(data)), data)


class DowngradeTests(_Case):
    """W5: servers, or who is between, that offer less than was asked for."""

    def weak(self, most: bytes, scheme: str, *pieces: bytes, **more: Any) -> None:
        """A server that says *pieces* is refused, and hears no more than *most*."""
        server = self.server(says(*pieces))
        self.refused(502, f"/console/{self.grant(server.url(scheme), **more)}")
        wait_for(lambda: server.lines and not server.live, "it was called, and hung up on")
        # What comes in one piece is judged as a whole, before any of it is answered.
        heard = bytes(server.lines[0].heard)
        self.assertTrue(most.startswith(heard), (heard, pieces))

    def test_no_password(self) -> None:
        """With a password in the ticket None is not good enough, whatever stands beside it."""
        for offers in (b"\1\1", b"\3\1\5\x10", b"\2\1\x13", b"\1\x12", b"\0"):
            self.weak(VERSION, "vnc", VERSION, offers + bytes(300), secret="pass")
        self.weak(b"RFB 003.003\n", "vnc", b"RFB 003.003\n", counted(1, 4), secret="pass")

    def test_chosen(self) -> None:
        """Of several the one with a password is taken, and never None."""
        server = self.server(vnc(offers=b"\1\2\5"))
        self.path(f"/console/{self.grant(server.url('vnc'), secret='pass')}")
        self.assertEqual(server.lines[0].heard[12:13], b"\2")

    def test_no_tls(self) -> None:
        """Where TLS was asked for nothing in the clear will do, and no anonymous TLS."""
        for offers in (b"\1\1", b"\1\2", b"\2\1\2", b"\1\x12", b"\3\1\2\x12"):
            for more in ({"secret": "pass"}, {}):
                self.weak(VERSION, "vnc+tls", VERSION, offers, **more)
        for kinds in ((256,), (257,), (258,), (259,), (1,), (2,), (256, 257, 258, 259, 1, 2)):
            said = (VERSION, b"\1\x13", b"\0\2", b"\0", counted(len(kinds)) + pack(f">{len(kinds)}I", *kinds))
            for more in ({"secret": "pass"}, {}):
                self.weak(VERSION + b"\x13\0\2", "vnc+tls", *said, **more)
        # With a password X509None is not enough, nor is an old VeNCrypt.
        said = (VERSION, b"\1\x13", b"\0\2", b"\0", b"\1" + pack(">I", 260))
        self.weak(VERSION + b"\x13\0\2", "vnc+tls", *said, secret="pass")
        self.weak(VERSION + b"\x13", "vnc+tls", VERSION, b"\1\x13", b"\0\1", secret="pass")

    def test_injected(self) -> None:
        """What was said in the clear, where TLS begins, is not taken for something said inside."""
        said = (VERSION, b"\1\x13", b"\0\2", b"\0", b"\1" + pack(">I", 261), b"\1" + bytes(16))
        self.weak(VERSION + b"\x13\0\2" + pack(">I", 261), "vnc+tls", *said, secret="pass")


class SpiceServerTests(_Case):
    """W4: SPICE servers that mean harm."""

    def ends(self, *said: bytes, after_result: bool = False, **more: Any) -> tuple[int, str]:
        """How a console ends whose server says this after it was asked."""

        def play(line: Line) -> None:
            line.more()
            for piece in said:
                line.say(piece)
            line.listen()

        server = self.server(play)
        console = self.open(server.url("spice"), **more)
        console.send(spice_server.link())
        end = console.end()
        console.line.close()
        wait_for(lambda: not server.live and not self.gateway.sessions(), "hung up")
        return end

    def test_nonsense(self) -> None:
        """Endless, huge, old, another key: the browser is told, and not one byte is kept."""
        u32, before = spice_server.u32, self.gateway.rss()
        head_, words = b"REDQ" + u32(2, 2, 186, 0), u32(1, 1, 178, 15, 7)
        for said in (
            (bytes(MIB),),
            (b"RFB 003.008\n",),
            (b"REDQ" + u32(2, 2, 0xFFFFFFFF), bytes(MIB)),
            (b"REDQ" + u32(2, 2, 0),),
            (b"REDQ" + u32(1, 0, 186), bytes(186)),
            (head_ + bytes(162) + u32(0xFFFFFFFF, 1, 178, 15, 7),),
            (head_ + bytes(162) + u32(1, 1, 0xFFFFFFFF, 15, 7),),
            (head_ + bytes(162) + words, bytes(8)),  # lets us in before anybody has shown a password
        ):
            self.assertEqual(self.ends(*said)[0], 4502, said[0][:16])
        for key in (bytes(162), b"\x30\x82\xff\xff" + bytes(158)):
            console_end = self.ends(head_ + key + words, secret="pass")
            self.assertEqual(console_end[0], 4502)
        self.assertLess(self.grown(before), SOME)

    def test_silent(self) -> None:
        """One that says nothing holds up nobody else, and is let go of with its browser."""
        server = self.server(quiet)
        console = self.open(server.url("spice"))
        console.send(spice_server.link())
        wait_for(lambda: server.live, "reached")
        other = self.open(self.server().url("tcp"))
        other.send(b"served")
        other.until(b"served")
        console.line.shutdown(socket.SHUT_RDWR)
        wait_for(lambda: not server.live, "hung up")
