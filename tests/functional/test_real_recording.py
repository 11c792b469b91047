"""Recordings of real consoles: the picture, the text, and what happens when there is no room for them."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from struct import pack, unpack
from typing import ClassVar

from gateway.wire.asciicast import AsciicastReader, Event
from gateway.wire.fbs import Block, FbsReader
from tests.functional.case import PYTEST_ONLY
from tests.functional.commands import need
from tests.functional.console_case import VERSION, ConsoleCase
from tests.functional.console_client import Console
from tests.functional.hypervisor import PASSWORD, Screen
from tests.functional.page_case import PageCase, close_browser, digest
from tests.functional.processes import DEADLINE, HOST, free_port, wait_for
from tests.wire.rfb_peers import Client

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)
tearDownModule = close_browser

ESCAPE = 0xFF1B
#: More bytes than a recording has before its first picture.
BEGINNING = 400


def press(console: Console, *symbols: int) -> None:
    for symbol in symbols:
        console.send(b"".join(pack(">BBxxI", 4, down, symbol) for down in (1, 0)))


def text_of(file: Path) -> str:
    return "".join(event.text for event in AsciicastReader().receive(file.read_bytes()))


class Film:
    """A recording of VNC, played by a viewer that knows nothing of ours.

    :ivar sizes: of the screen, one after the other.
    :ivar picture: the last.
    :ivar pictures: all that were whole for a while.
    """

    def __init__(self, data: bytes) -> None:
        reader = FbsReader()
        self.blocks: list[Block] = reader.receive(data)
        self.whole = reader.whole
        stream = b"".join(block.data for block in self.blocks)
        assert stream.startswith(VERSION + b"\x01\x01" + bytes(4)), stream[:20]
        width, height, pixels, length = unpack(">HH16sI", stream[18:42])
        assert pixels[:4] == bytes([32, 24, 0, 1])
        viewer = Client(width, height)
        self.sizes = [(width, height)]
        self.pictures: list[bytes] = []
        skip = 42 + length
        for block in self.blocks:
            data, skip = block.data[skip:], max(0, skip - len(block.data))
            viewer.receive(data)
            if (now := (viewer.width, viewer.height)) != self.sizes[-1]:
                self.sizes.append(now)
            self.pictures.append(bytes(viewer.screen))
        self.picture = Screen(viewer.width, viewer.height, bytes(viewer.screen))


class _Case(ConsoleCase):
    """A gateway with pages and a directory for recordings."""

    kept: ClassVar[Path]
    more: ClassVar[dict[str, str]] = {"recordings": "recordings"}

    @classmethod
    def setUpClass(cls) -> None:
        port = free_port()
        listen = {"listen": f"tcp:{port}:interface={HOST}"}
        public = {"public_url": f"https://localhost:{port}"}
        cls.sections = {"images": listen, "web": listen, "gateway": public}
        super().setUpClass()
        cls.gateway.port = port
        cls.kept = cls.home / "recordings"

    def setUp(self) -> None:
        # First of all those of the test before have to be over, for theirs get their last names then.
        super().setUp()
        for file in self.kept.iterdir():
            file.unlink()

    def wait_for_picture(self, picture: Screen) -> None:
        """Wait until the one console that is being recorded was seen like this."""
        [part] = self.kept.iterdir()

        def recorded() -> bool:
            data = part.read_bytes()
            # Before that it does not say yet how large it is.
            return len(data) > BEGINNING and Film(data).picture == picture

        wait_for(recorded, "it is recorded")

    def recording(self, suffix: str) -> Path:
        """The one recording there is, when it is complete."""
        wait_for(lambda: list(self.kept.glob(f"*.{suffix}")), "a recording")
        [file] = self.kept.iterdir()
        return file

    def ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [need("gatewayctl", "pip install -e ."), "-c", str(self.gateway.control_socket), *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    def link(self, file: Path) -> str:
        ran = self.ctl("link", "recording", file.name)
        self.assertEqual(ran.returncode, 0, ran.stderr)
        return ran.stdout.strip()


class VncTests(_Case):
    """VNC."""

    def test_replayed(self) -> None:
        """The recording shows what happened when a key was pressed, and ends with what was shown last."""
        qemu = self.machine().vnc(password=PASSWORD)
        qemu.start("-boot", "menu=on,splash-time=60000")
        opened = time.monotonic()
        console = self.open(f"vnc://{HOST}:{qemu.vnc_port}", secret=PASSWORD, record=True)
        self.assert_screen(console)
        begun = time.monotonic()
        qemu.wait_for_offer()
        press(console, ESCAPE)
        wait_for(lambda: qemu.screen().is_written(8), "the boot menu")
        [part] = self.kept.iterdir()
        self.assertTrue(part.name.endswith(".fbs.part"))

        def menu() -> bytes:
            return qemu.screen().rgb[: 720 * 16 * 9 * 3]

        wait_for(lambda: Film(part.read_bytes()).picture.rgb.startswith(menu()), "the menu is recorded")
        shown = menu()
        press(console, ord("1"))
        empty = qemu.wait_for_screen()
        typed = time.monotonic()
        press(console, *b"typed")
        wait_for(lambda: qemu.screen() != empty, "what was typed")
        wait_for(lambda: Film(part.read_bytes()).picture == qemu.wait_for_screen(), "it is recorded")
        last = qemu.wait_for_screen()
        console.leave()
        left = time.monotonic()
        file = self.recording("fbs")
        film = Film(file.read_bytes())
        self.assertTrue(film.whole)
        self.assertEqual(film.picture.rgb, last.rgb)
        self.assertEqual((film.picture.width, film.picture.height), (last.width, last.height))
        self.assertGreater(len(film.sizes), 1)
        self.assertTrue(any(picture.startswith(shown) for picture in film.pictures))
        times = [block.milliseconds for block in film.blocks]
        self.assertEqual(times, sorted(times))
        self.assertGreater(len(set(times)), 3)
        self.assertTrue(typed - begun < times[-1] / 1000 < left - opened, times[-1])
        self.assertEqual(file.stat().st_mode & 0o7777, 0o600)
        self.assertEqual(self.kept.stat().st_mode & 0o7777, 0o700)
        # Not even the keys of the password were seen by anybody, for nobody typed it.
        self.assertNotIn(PASSWORD.encode(), file.read_bytes())

    def test_shared(self) -> None:
        """Of several viewers each whose ticket demands it is recorded; the others are not."""
        qemu = self.machine().vnc()
        qemu.start()
        url = f"vnc://{HOST}:{qemu.vnc_port}"
        plain = self.open(url, shared=True)
        self.assert_screen(plain)
        late = qemu.wait_for_screen()
        recorded = self.open(url, shared=True, record=True, ops=["view"])
        self.assert_screen(recorded)
        self.assertEqual(len(qemu.vnc_clients()), 1)
        self.wait_for_picture(late)
        recorded.leave()
        film = Film(self.recording("fbs").read_bytes())
        self.assertEqual(film.picture.rgb, late.rgb)
        press(plain, ord("x"))
        wait_for(lambda: qemu.screen() != late, "what was typed")
        plain.leave()

    def test_vanishes(self) -> None:
        """When the machine dies its recording ends with what it showed last."""
        qemu = self.machine().vnc()
        qemu.start()
        console = self.open(f"vnc://{HOST}:{qemu.vnc_port}", record=True)
        self.assert_screen(console)
        last = qemu.wait_for_screen()
        self.wait_for_picture(last)
        qemu.vanish()
        self.assertEqual(console.end(), (1000, "The console has ended"))
        console.leave()
        self.assertEqual(Film(self.recording("fbs").read_bytes()).picture, last)

    def test_fails(self) -> None:
        """A console that is out of reach is refused as ever, and leaves no recording."""
        self.refused(502, f"/console/{self.grant(f'vnc://{HOST}:{free_port()}', record=True)}")
        wait_for(lambda: not list(self.kept.iterdir()), "nothing is left")


class SerialTests(_Case):
    """Serial lines, and what operators do with recordings."""

    def record(self, text: bytes = b"hello \xe2\x82\xac\r\n") -> tuple[bytes, Path]:
        """Record a line that echoes *text*; return what was seen, and the file."""
        qemu = self.machine().serial_unix()
        qemu.start()
        qemu.wait_for_screen()
        console = self.open(f"serial+unix://{qemu.serial}", record=True)
        console.send(text)
        seen = console.until(text[-2:])
        console.leave()
        return seen, self.recording("cast")

    def test_seen(self) -> None:
        """The recording is what was seen, as any player of asciicast reads it."""
        seen, file = self.record()
        lines = file.read_text("utf-8").splitlines()
        header = json.loads(lines[0])
        self.assertEqual((header["version"], header["width"], header["height"]), (2, 80, 24))
        self.assertLess(abs(header["timestamp"] - time.time()), 60)
        events = [json.loads(line) for line in lines[1:]]
        self.assertEqual("".join(event[2] for event in events), seen.decode())
        self.assertEqual({event[1] for event in events}, {"o"})
        times = [event[0] for event in events]
        self.assertEqual(times, sorted(times))
        ours: list[Event] = AsciicastReader().receive(file.read_bytes())
        self.assertEqual([[it.seconds, it.code, it.text] for it in ours], events)
        self.assertIn("€", seen.decode())

    def test_operator(self) -> None:
        """The list names it; a link leads to it, byte for byte, and nobody can change it by any ticket."""
        _, file = self.record()
        data = file.read_bytes()
        listed = json.loads(self.ctl("recording", "list", "--json").stdout)["recordings"]
        self.assertEqual([item["name"] for item in listed], [file.name])
        item = listed[0]
        self.assertEqual((item["size"], item["complete"], item["kind"]), (len(data), True, "cast"))
        self.assertIn(item["session"], file.name)
        link, _, ticket = self.link(file).partition("#")
        self.assertEqual(link, f"https://localhost:{self.gateway.port}/ui/replay")
        self.assertEqual(self.gateway.ask("GET", f"/images/{ticket}").body, data)
        for method, body in (("PUT", b"x" * 8), ("PATCH", json.dumps({"op": "flush"}).encode())):
            self.assertEqual(self.gateway.ask(method, f"/images/{ticket}", body).status, 403)
        writes = self.ticket(f"file://{file}", ops=["write"], size=len(data))
        for method in ("GET", "PUT"):
            self.assertEqual(self.gateway.ask(method, f"/images/{writes}", b"x" * 8).status, 403)
        self.assertEqual(file.read_bytes(), data)

    def test_replaced(self) -> None:
        """A ticket that could read a recording cannot write it after it was replaced."""
        _, file = self.record()
        data = file.read_bytes()
        ticket = self.ticket(f"file://{file}", ops=["read"], size=len(data))
        self.assertEqual(self.gateway.ask("GET", f"/images/{ticket}").status, 200)
        more = {"uuid": ticket, "url": f"file://{file}", "size": len(data), "timeout": 300}
        self.gateway.put({**more, "ops": ["read", "write"]})
        self.assertEqual(self.gateway.ask("PUT", f"/images/{ticket}", b"x" * 8).status, 403)
        self.assertEqual(file.read_bytes(), data)

    def test_stopped(self) -> None:
        """When the gateway stops in order its consoles end, and their recordings are complete."""
        qemu = self.machine().serial_unix()
        qemu.start()
        qemu.wait_for_screen()
        console = self.open(f"serial+unix://{qemu.serial}", record=True)
        console.send(b"last\r\n")
        console.until(b"last\r\n")
        before = len(self.gateway.log())
        self.gateway.stop()
        self.assertEqual(console.end()[0], 4503)
        [file] = self.kept.iterdir()
        self.assertEqual(file.suffix, ".cast")
        self.assertIn("last", text_of(file))
        log = self.gateway.log()[before:]
        self.assertIn('"event": "recording.end"', log)
        self.assertNotIn(text_of(file).strip(), log)
        self.gateway.start()

    def test_killed(self) -> None:
        """What a gateway left behind that was killed is complete after the next start, up to the end."""
        qemu = self.machine().serial_unix()
        qemu.start()
        qemu.wait_for_screen()
        console = self.open(f"serial+unix://{qemu.serial}", record=True)
        console.send(b"kept\r\n")
        console.until(b"kept\r\n")
        [part] = self.kept.iterdir()
        wait_for(lambda: "kept" in text_of(part), "it is written")
        self.gateway.kill()
        self.gateway.start()
        file = self.recording("cast")
        self.assertEqual(part.name, f"{file.name}.part")
        wait_for(lambda: "was broken off" in self.gateway.log(), "it is told")
        self.assertIn("kept", text_of(file))


class FullTests(_Case):
    """What must be recorded never runs unrecorded."""

    more: ClassVar[dict[str, str]] = {"recordings": "recordings", "recording_size": "256K"}

    def full(self, begin: Callable[[], object]) -> tuple[tuple[int, str], bytes]:
        """Say much more than there is room for; return how the console ended, and the recording."""
        listener = socket.create_server((HOST, 0))
        self.addCleanup(listener.close)
        console = self.open(f"serial://{HOST}:{listener.getsockname()[1]}", record=True)
        line, _ = listener.accept()
        self.addCleanup(line.close)
        begin()
        line.settimeout(DEADLINE)
        for _ in range(100):
            try:
                line.sendall(b"0123456789" * 400)
            except OSError:
                break
            time.sleep(0.02)
        ended = console.end()
        wait_for(lambda: not self.gateway.sessions(), "no session")
        return ended, self.recording("cast").read_bytes()

    def test_limit(self) -> None:
        """At the largest size the console ends and says why; the recording is whole."""
        (code, reason), data = self.full(lambda: None)
        self.assertEqual(code, 4503)
        self.assertIn("as long as it may be", reason)
        self.assertLessEqual(len(data), 256 << 10)
        self.assertGreater(len(data), 250 << 10)
        reader = AsciicastReader()
        reader.receive(data)
        self.assertTrue(reader.whole)

    def test_disk_full(self) -> None:
        """Likewise when the disk takes no more."""
        limit = resource.RLIMIT_FSIZE
        before = resource.prlimit(self.gateway.pid, limit)
        # The log has to have room, too.
        room = len(self.gateway.log()) + 50000
        self.addCleanup(resource.prlimit, self.gateway.pid, limit, before)
        (code, reason), data = self.full(lambda: resource.prlimit(self.gateway.pid, limit, (room, before[1])))
        self.assertEqual(code, 4503)
        self.assertIn("no room", reason)
        reader = AsciicastReader()
        reader.receive(data)
        self.assertTrue(reader.whole)
        wait_for(lambda: "File too large" in self.gateway.log(), "it is told")

    def test_gone(self) -> None:
        """Without the directory no such console begins, and its target is never called."""
        aside = self.home / "aside"
        os.rename(self.kept, aside)
        self.addCleanup(os.rename, aside, self.kept)
        listener, url = self.trap()
        self.assertIn("recorded", self.refused(503, f"/console/{self.grant(url, record=True)}"))
        self.assert_untouched(listener)


class NoneTests(ConsoleCase):
    """A gateway that records nothing."""

    def test_refused(self) -> None:
        """A console that must be recorded is refused, and its target is never called."""
        listener, url = self.trap()
        self.assertIn("recorded", self.refused(503, f"/console/{self.grant(url, record=True)}"))
        self.assert_untouched(listener)


class PageTests(_Case, PageCase):
    """The page that plays them, in a real Chromium."""

    def test_vnc(self) -> None:
        """What was recorded is played, by the link that the operator got; it ends with the same pixels."""
        qemu = self.machine().vnc()
        qemu.start()
        ticket = self.grant(f"vnc://{HOST}:{qemu.vnc_port}", record=True)
        self.show(ticket)
        self.browser.until("state", "Connected")
        self.assertTrue(self.browser.find("recorded").is_displayed())
        self.assert_same(qemu)
        for key in "abc":
            before = qemu.wait_for_screen()
            self.press(key)
            wait_for(lambda: qemu.screen() != before, "what was typed")  # noqa: B023 (asked at once)
        self.assert_same(qemu)
        last = digest(qemu.wait_for_screen())
        self.gateway.delete(ticket)
        file = self.recording("fbs")
        self.browser.open(self.link(file))
        self.browser.until("state", "At its end")
        wait_for(lambda: self.seen() == last, "the last picture")

    def test_serial(self) -> None:
        """So it is with a serial line."""
        qemu = self.machine().serial_unix()
        qemu.start()
        qemu.wait_for_screen()
        console = self.open(f"serial+unix://{qemu.serial}", record=True)
        console.send(b"recorded\r\n")
        console.until(b"recorded\r\n")
        console.leave()
        self.browser.open(self.link(self.recording("cast")))
        self.browser.until("state", "At its end")
        # The terminal shows what it was told a moment later.
        rows = "document.querySelector('.xterm-rows').innerText"
        wait_for(lambda: "recorded" in self.browser.read(rows), "what was recorded")
