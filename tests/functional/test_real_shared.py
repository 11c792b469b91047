"""Shared consoles through a running gateway: one real virtual machine, many who look."""

from __future__ import annotations

import time
from collections.abc import Sequence
from struct import pack
from threading import Thread
from typing import Any

from tests.functional.case import PYTEST_ONLY
from tests.functional.console_case import VERSION, ConsoleCase
from tests.functional.console_client import Console
from tests.functional.hypervisor import PASSWORD, Qemu, Screen
from tests.functional.page_case import PageCase, close_browser
from tests.functional.processes import DEADLINE, HOST, MIB, best_of, wait_for
from tests.wire.rfb_peers import Client
from tests.wire.test_rfb_viewer import ORDERS, order, pixel_format

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)
tearDownModule = close_browser

RAW, TIGHT, ZRLE, SIZE, CURSOR = 0, 7, 16, -223, -239
ASK = pack(">BBHHHH", 3, 1, 0, 0, 65535, 65535)
WHOLE = pack(">BBHHHH", 3, 0, 0, 0, 65535, 65535)
VIEWERS = 20
REVOKED = (4403, "Your access to this console was revoked")


class Seat:
    """A browser that looks: the handshake is done, and its pictures are drawn."""

    def __init__(self, console: Console, form: str, encoding: int) -> None:
        self.console = console
        console.read(12)
        console.send(VERSION)
        assert console.read(2) == b"\1\1"
        console.send(b"\1")
        assert console.read(4) == bytes(4)
        console.send(b"\1")
        width, height, _, length = (int.from_bytes(console.read(size)) for size in (2, 2, 16, 4))
        console.read(length)
        self.client = Client(width, height, order(form), ORDERS[form][-1])
        console.send(pixel_format(form) + pack(">BxH3i", 2, 3, encoding, SIZE, CURSOR) + ASK)
        self._asked = 0

    def look(self, seconds: float = 0.02) -> bool:
        """Take what comes within *seconds*; return whether there was anything."""
        console = self.console
        console.line.settimeout(seconds)
        try:
            more = console._more()
        except TimeoutError:
            more = False
        if not more and console.closed is not None:
            raise AssertionError(f"it ended: {console.closed}")
        self.client.receive(bytes(console._heard))
        console._heard.clear()
        if self._asked < self.client.updates:
            self._asked = self.client.updates
            console.send(ASK)
        return more

    def sees(self, screen: Screen) -> bool:
        while self.look():
            pass
        client = self.client
        return (client.width, client.height) == (screen.width, screen.height) and client.screen == screen.rgb

    def type(self, letter: str) -> None:
        symbol = 0xFF1B if letter == "\x1b" else ord(letter)
        self.console.send(b"".join(pack(">BBxxI", 4, down, symbol) for down in (1, 0)))


class SharedTests(ConsoleCase):
    """One machine, many viewers."""

    def start(self, **options: Any) -> tuple[Qemu, str]:
        qemu = self.machine().vnc(**options)
        qemu.start()
        scheme = "vnc+tls" if options.get("tls") else "vnc"
        return qemu, f"{scheme}://{HOST}:{qemu.vnc_port}"

    def sit(self, ticket: str, form: str = "rgbx", encoding: int = TIGHT) -> Seat:
        console = self.path(f"/console/{ticket}", "Sec-WebSocket-Protocol: binary")
        return Seat(console, form, encoding)

    def assert_all_see(self, qemu: Qemu, seats: Sequence[Seat]) -> Screen:
        for number, seat in enumerate(seats):
            wait_for(
                lambda: seat.sees(qemu.wait_for_screen()),  # noqa: B023 (asked at once)
                f"the same picture for {number}",
            )
        return qemu.wait_for_screen()

    def changes(self, qemu: Qemu, before: Screen) -> None:
        wait_for(lambda: qemu.screen() != before, "what was typed")

    def ops(self) -> list[str]:
        return [session["op"] for session in self.gateway.sessions()]

    def test_twenty(self) -> None:
        """Twenty see the same to the pixel, from the machine's start on and late; it has one client."""
        qemu, url = self.start()
        ticket = self.grant(url, shared=True)
        forms, kinds = [*ORDERS], (RAW, ZRLE, TIGHT)
        # The screen is another before the guest runs.
        seats = [self.sit(ticket)]
        self.assert_all_see(qemu, seats)
        before = self.gateway.rss()
        for number in range(1, VIEWERS):
            seats.append(self.sit(ticket, forms[number % len(forms)], kinds[number % 3]))
        screen = self.assert_all_see(qemu, seats)
        cost = (self.gateway.rss() - before) / (VIEWERS - 1)
        self.assertEqual(len(qemu.vnc_clients()), 1)
        for seat in seats[1:]:
            seat.type("x")
        time.sleep(0.3)
        self.assertEqual(qemu.screen(), screen)
        seats[0].type("a")
        self.changes(qemu, screen)
        self.assert_all_see(qemu, seats)
        late = self.sit(ticket, "bgrx", ZRLE)
        self.assert_all_see(qemu, [late])
        self.assertEqual(len(qemu.vnc_clients()), 1)
        self.assertEqual(sorted(self.ops()), ["control"] + ["view"] * VIEWERS)
        # TLS included.
        self.assertLess(cost, 256 * 1024)

    def test_revoked(self) -> None:
        """All viewers of a ticket are closed within 50 ms; those of another one stay."""
        qemu, url = self.start()
        stays = self.sit(self.grant(url, shared=True))
        best_of(lambda: self.revoke(self.grant(url, shared=True)), 0.05, 10)
        self.assert_all_see(qemu, [stays])
        self.assertEqual((len(qemu.vnc_clients()), self.ops()), (1, ["control"]))

    def revoke(self, ticket: str) -> float:
        """Seconds until the last of twenty was closed."""
        seats = [self.sit(ticket) for _ in range(VIEWERS)]
        moments: list[float] = []

        def wait(seat: Seat) -> None:
            ended = seat.console.end()
            moments.append(time.monotonic())
            assert ended == REVOKED, ended

        threads = [Thread(target=wait, args=[seat]) for seat in seats]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        begin = time.monotonic()
        self.gateway.delete(ticket)
        for thread in threads:
            thread.join()
        self.assertEqual(len(moments), VIEWERS)
        return max(moments) - begin

    def test_last_revoked(self) -> None:
        """With its last viewer the connection to the machine ends."""
        qemu, url = self.start()
        ticket = self.grant(url, shared=True)
        self.revoke(ticket)
        wait_for(lambda: not qemu.vnc_clients() and not self.gateway.sessions(), "all is closed")

    def test_stalled(self) -> None:
        """Who asks for gigabytes and reads nothing costs little, and keeps nobody waiting."""
        qemu, url = self.start()
        ticket = self.grant(url, shared=True)
        seat = self.sit(ticket)
        self.assert_all_see(qemu, [seat])
        alone = min(self.echo(qemu, seat) for _ in range(5))
        before = self.gateway.rss()
        stalled = [self.sit(ticket, "rgbx", RAW) for _ in range(4)]
        for other in stalled:
            for _ in range(1000):
                # 1.2 MB each.
                other.console.send(WHOLE)
        crowded = min(self.echo(qemu, seat) for _ in range(5))
        grown = self.gateway.rss() - before
        # One update of a whole screen, and the buffers of its socket.
        self.assertLess(grown, 4 * 3 * MIB)
        self.assertLess(crowded, alone + 0.1)
        self.assert_all_see(qemu, [seat, *stalled[:1]])

    def echo(self, qemu: Qemu, seat: Seat) -> float:
        """Seconds from a key to another picture."""
        before, begin = bytes(seat.client.screen), time.monotonic()
        seat.type("a")
        while seat.client.screen == before:
            seat.look()
            if time.monotonic() - begin > DEADLINE:
                raise AssertionError("no echo")
        return time.monotonic() - begin

    def test_control(self) -> None:
        """One types: the first, then who takes over, then the first again; who may only look never does."""
        qemu, url = self.start()
        looks = self.sit(self.grant(url, shared=True, ops=["view"]))
        screen = self.assert_all_see(qemu, [looks])
        looks.type("x")
        first = self.sit(self.grant(url, shared=True))
        # To control is not to take over.
        later = self.sit(self.grant(url, shared=True))
        self.assertEqual(self.ops(), ["view", "control", "view"])
        later.console.leave()
        wait_for(lambda: len(self.ops()) == 2, "one has left")
        boss = self.sit(self.grant(url, shared=True, ops=["takeover"]))
        self.assertEqual(self.ops(), ["view", "view", "control"])
        for seat in (looks, first):
            seat.type("x")
        time.sleep(0.3)
        self.assert_all_see(qemu, [looks, first, boss])
        self.assertEqual(qemu.screen(), screen)
        boss.type("b")
        self.changes(qemu, screen)
        boss.console.leave()
        wait_for(lambda: self.ops() == ["view", "control"], "control goes on")
        screen = self.assert_all_see(qemu, [looks, first])
        first.type("a")
        self.changes(qemu, screen)
        first.console.leave()
        wait_for(lambda: self.ops() == ["view"], "nobody has control")
        screen = self.assert_all_see(qemu, [looks])
        looks.type("x")
        time.sleep(0.3)
        self.assertEqual(qemu.screen(), screen)

    def test_boot_menu(self) -> None:
        """Who only looks, and who is not in control, opens no menu of the firmware; who is, does."""
        qemu = self.machine().vnc()
        qemu.start("-boot", "menu=on,splash-time=60000", boot=False)
        url = f"vnc://{HOST}:{qemu.vnc_port}"
        looks = self.sit(self.grant(url, shared=True, ops=["view"]))
        first, second = (self.sit(self.grant(url, shared=True)) for _ in range(2))
        before = qemu.wait_for_offer().lit
        for seat in (looks, second):
            seat.type("\x1b")
        time.sleep(1)
        # A cursor blinks.
        self.assertLess(abs(qemu.screen().lit - before), 500)
        first.type("\x1b")
        wait_for(lambda: qemu.screen().lit > before + 500, "the menu")

    def test_password(self) -> None:
        """The machine's password and certificate are asked for once, by us; who shows another is refused."""
        qemu, url = self.start(password=PASSWORD, tls=True, verify_peer=True)
        ticket = self.grant(url, shared=True, secret=PASSWORD)
        self.assert_all_see(qemu, [self.sit(ticket), self.sit(ticket)])
        self.assertEqual(len(qemu.vnc_clients()), 1)
        for secret in ({"secret": "wrong"}, {}):
            self.refused(502, f"/console/{self.grant(url, shared=True, **secret)}")

    def test_vanishes(self) -> None:
        """When the machine dies all learn that the console has ended."""
        qemu, url = self.start()
        ticket = self.grant(url, shared=True)
        seats = [self.sit(ticket) for _ in range(3)]
        qemu.vanish()
        for seat in seats:
            self.assertEqual(seat.console.end(), (1000, "The console has ended"))
        self.refused(502, f"/console/{ticket}")


class PageTests(PageCase):
    """noVNC among those who look."""

    def test_shared(self) -> None:
        """The page shows what others see, types while it is in control, and looks on when it is not."""
        qemu = self.machine().vnc()
        qemu.start()
        url = f"vnc://{HOST}:{qemu.vnc_port}"
        ticket = self.grant(url, shared=True)
        self.show(ticket)
        self.browser.until("state", "Connected")
        # From the machine's start on: its screen changes its size on the way.
        self.assert_same(qemu)
        seat = Seat(self.path(f"/console/{ticket}", "Sec-WebSocket-Protocol: binary"), "bgrx", ZRLE)
        before = qemu.screen()
        self.press("a")
        wait_for(lambda: qemu.screen() != before, "what was typed")
        self.assert_same(qemu)
        wait_for(lambda: seat.sees(qemu.screen()), "the same picture beside it")
        boss = Seat(self.open(url, shared=True, ops=["takeover"]), "rgbx", TIGHT)
        before = qemu.screen()
        self.press("a")
        time.sleep(0.3)
        self.assertEqual(qemu.screen(), before)
        boss.type("b")
        wait_for(lambda: qemu.screen() != before, "what the other one typed")
        self.assert_same(qemu)
        self.assertEqual(len(qemu.vnc_clients()), 1)
        self.expected = ("WebSocket connection",)
        self.gateway.delete(ticket)
        wait_for(lambda: "revoked" in self.browser.driver.page_source, "the page says so")
