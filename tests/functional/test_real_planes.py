"""Volumes and consoles of a real libvirtd, by tickets: curl, the image client, websockets."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from functools import partial
from pathlib import Path
from signal import SIGKILL
from typing import Any, ClassVar
from uuid import uuid4

from tests.functional.case import PYTEST_ONLY, GatewayCase, read_head
from tests.functional.commands import curl, imageio_client, qemu_img
from tests.functional.console_client import Console, Refused
from tests.functional.libvirt_daemon import Libvirtd, tiny
from tests.functional.peers import Gateway
from tests.functional.processes import (
    DEADLINE,
    HOST,
    MIB,
    START,
    best_of,
    free_port,
    short_directory,
    wait_for,
)
from tests.functional.test_real_client import DOWNLOAD, UPLOAD
from tests.functional.test_real_shared import WHOLE, Seat

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

SIZE = 64 * MIB
REVOKED = (4403, "Your access to this console was revoked")
PASSWORD = "sekret"
#: The firmware asks for a key on the serial line.
_MENU = "<bios useserial='yes'/>\n    <bootmenu enable='yes' timeout='60000'/>"


class PlanesCase(GatewayCase):
    """A gateway before one libvirtd, over its socket and over TLS."""

    daemon: ClassVar[Libvirtd]
    consoles: ClassVar[int]
    uuid: ClassVar[str]

    @classmethod
    def setUpClass(cls) -> None:
        cls.home = short_directory()
        cls.daemon = daemon = Libvirtd(cls.home)
        cls.addClassCleanup(daemon.stop)
        daemon.start()
        daemon.pool("p1")
        cls.uuid = str(uuid4())
        xml = tiny("tiny", cls.uuid).replace("<bios useserial='yes'/>", _MENU)
        daemon.define(xml.replace("listen='127.0.0.1'/>", f"listen='127.0.0.1' passwd='{PASSWORD}'/>"))
        daemon.virsh("start", "tiny")
        daemon.rest("tiny")
        cls.consoles = free_port()
        sections = {
            "consoles": {"listen": f"tcp:{cls.consoles}:interface={HOST}"},
            "target lab": {"uri": daemon.url("qemu")},
            "target far": {"uri": daemon.url("qemu", "tls")},
            "target eyes": {"uri": daemon.url("qemu"), "readonly": "yes"},
        }
        cls.gateway = Gateway(cls.home, {**sections, **cls.sections})
        cls.addClassCleanup(cls.gateway.stop)
        cls.gateway.start(cls.descriptors)

    def volume(
        self, name: str, size: int = SIZE, form: str = "raw", *, target: str = "lab", **more: Any
    ) -> str:
        """Make a volume; return the url of an image that is this volume."""
        self.daemon.virsh("vol-create-as", "p1", name, str(size), "--format", form)
        self.addCleanup(self.daemon.virsh, "vol-delete", name, "--pool", "p1")
        return self.image(name, target=target, **more)

    def image(self, name: str, *, target: str = "lab", **more: Any) -> str:
        return self.gateway.url(self.ticket(f"libvirt://{target}/p1/{name}", **more))

    def random(self, size: int = SIZE) -> Path:
        path = self.home / f"{uuid4()}.bin"
        path.write_bytes(os.urandom(size))
        self.addCleanup(path.unlink)
        return path

    def stored(self, name: str) -> bytes:
        return (self.daemon.home / "pool" / "p1" / name).read_bytes()

    def grant(self, what: str, *, target: str = "lab", uuid: str = "", **more: Any) -> str:
        """Install a ticket for a console of a machine."""
        url = f"libvirt://{target}/{uuid or self.uuid}/{what}"
        return self.ticket(url, **{"kind": "console", "ops": ["view", "control"], **more})

    def enter(self, ticket: str) -> Console:
        path = f"/console/{ticket}"
        console = Console(self.consoles, self.gateway.ca, path, "Sec-WebSocket-Protocol: binary")
        self.addCleanup(console.line.close)
        return console

    def get(self, url: str, rest: str = "") -> bytes:
        return curl("--cacert", self.gateway.ca, *rest.split(), url)

    def put(self, source: Path, url: str, *more: str) -> None:
        curl("--cacert", self.gateway.ca, *more, "-T", source, url)


class VolumeTests(PlanesCase):
    """Volumes."""

    def test_raw(self) -> None:
        """64 MiB up and down, over the socket and over TLS, are the same bytes everywhere."""
        for target in ("lab", "far"):
            source = self.random()
            url = self.volume(f"raw-{target}", target=target)
            self.put(source, url)
            self.assertEqual(self.stored(f"raw-{target}"), source.read_bytes())
            self.assertEqual(self.get(url), source.read_bytes())

    def test_qcow2(self) -> None:
        """A qcow2 is moved as it is, and libvirt knows it for what it is."""
        raw, source = self.random(8 * MIB), self.home / "up.qcow2"
        qemu_img("convert", "-O", "qcow2", raw, source)
        self.addCleanup(source.unlink)
        url = self.volume("disk.qcow2", 8 * MIB, "qcow2")
        self.put(source, url)
        self.assertEqual(self.get(url), source.read_bytes())
        back = self.home / "down.qcow2"
        back.write_bytes(self.get(url))
        self.addCleanup(back.unlink)
        self.assertIn(b"identical", qemu_img("compare", raw, back))
        self.assertIn("8.00 MiB", self.daemon.virsh("vol-info", "disk.qcow2", "--pool", "p1"))

    def test_client(self) -> None:
        """The image client uploads and downloads as it does with any host."""
        source, back = self.random(), self.home / "back.raw"
        url = self.volume("client")
        imageio_client(UPLOAD, source, url, self.gateway.ca, "")
        self.assertEqual(self.stored("client"), source.read_bytes())
        imageio_client(DOWNLOAD, url, back, self.gateway.ca, "raw", "")
        self.addCleanup(back.unlink)
        self.assertEqual(back.read_bytes(), source.read_bytes())

    def test_ranges(self) -> None:
        """Parts are read and written where they belong; sizes and checksums are those of the volume."""
        source = self.random(4 * MIB)
        url = self.volume("parts", 4 * MIB)
        self.put(source, url)
        data = bytearray(source.read_bytes())
        self.assertEqual(self.get(url, "-r 1000000-2999999"), data[1000000:3000000])
        self.assertEqual(self.get(url, "-r -7"), data[-7:])
        piece = self.random(12345)
        self.put(piece, url, "-H", "Content-Range: bytes 777-13121/*")
        data[777 : 777 + 12345] = piece.read_bytes()
        self.assertEqual(self.get(url), data)
        self.assertIn(b"Content-Length: 4194304".lower(), self.get(url, "-I").lower())
        self.assertIn(
            hashlib.sha256(hashlib.sha256(data).digest()).hexdigest().encode(),
            self.get(f"{url}/checksum?algorithm=sha256&block_size={4 * MIB}"),
        )
        self.assertRaises(AssertionError, self.get, url, f"-r {4 * MIB}-")

    def test_bounds(self) -> None:
        """Nobody writes beyond a raw volume, nor beyond the ticket.

        Through a readonly target nobody moves anything: libvirt takes even a download for a write.
        """
        source = self.random(MIB + 1)
        url = self.volume("small", MIB)
        before = self.stored("small")
        for refused in (url, self.image("small", size=MIB)):
            self.assertRaisesRegex(AssertionError, "416", self.put, source, refused)
        eyes = self.image("small", target="eyes")
        self.assertRaisesRegex(AssertionError, "403", self.put, self.random(10), eyes)
        self.assertRaisesRegex(AssertionError, "403", self.get, eyes)
        self.assertIn(b"1048576", self.get(eyes, "-I"))
        self.assertEqual(self.stored("small"), before)

    def test_absent(self) -> None:
        """What does not exist is not found, in our own words."""
        url = self.volume("there", MIB)
        for other in ("libvirt://lab/p1/x", "libvirt://lab/x/there", "libvirt://nowhere/p1/there"):
            answer = self.gateway.ask("GET", f"/images/{self.ticket(other)}")
            self.assertEqual(answer.status, 404, answer)
            self.assertNotIn(b"gw-", answer.body)
        self.assertEqual(len(self.get(url)), MIB)

    def test_cut_short(self) -> None:
        """An upload that ends early leaves no stream behind, and the volume can be written again."""
        url = self.volume("short")
        name = url.rpartition("/")[2]
        connection = self.begin(f"PUT /images/{name}")
        connection.sendall(b"content-length: %d\r\n\r\n" % SIZE + bytes(MIB))
        wait_for(self.gateway.sessions, "the upload")
        connection.close()
        wait_for(lambda: not self.gateway.sessions(), "its end")
        source = self.random()
        self.put(source, url)
        self.assertEqual(self.stored("short"), source.read_bytes())

    def test_revoked(self) -> None:
        """A revoked ticket ends an upload and a download at once."""
        url = self.volume("revoked")
        name = url.rpartition("/")[2]
        for request, more in (("PUT", b"content-length: %d\r\n\r\n" % SIZE), ("GET", b"\r\n")):
            name = self.ticket("libvirt://lab/p1/revoked")
            connection = self.begin(f"{request} /images/{name}")
            connection.sendall(more + (bytes(MIB) if request == "PUT" else b""))
            wait_for(self.gateway.sessions, "the transfer")
            begun = time.monotonic()
            self.gateway.delete(name)
            self.assertEqual(self.gateway.sessions(), [])
            connection.settimeout(DEADLINE)
            with connection:
                try:
                    while connection.recv(1 << 20):
                        pass
                except ConnectionError:
                    pass
            self.assertLess(time.monotonic() - begun, 10)

    def test_daemon_dies(self) -> None:
        """A download goes on where it was when libvirtd is killed and comes back."""
        source = self.random()
        url = self.volume("dies")
        self.put(source, url)
        connection = self.begin(f"GET /images/{url.rpartition('/')[2]}")
        connection.sendall(b"\r\n")
        _, data = read_head(connection)
        got = bytearray(data)
        while len(got) < 8 * MIB and (piece := connection.recv(MIB)):
            got += piece
        self.daemon.end(SIGKILL)
        died, began = time.monotonic(), len(got)
        again = threading.Timer(1.0, self.daemon.start)
        again.start()
        self.addCleanup(again.join)
        connection.settimeout(START)
        try:
            while len(got) < SIZE and (piece := connection.recv(MIB)):
                got += piece
        except TimeoutError:
            pass
        # Whoever sees this fail has nothing but this line.
        told = (
            f"{began} bytes before, {len(got)} in all, {time.monotonic() - died:.0f} s, {again.is_alive()=}"
        )
        self.assertEqual(len(got), SIZE, f"{told}: {self.gateway.log()[-600:]}")
        again.join()
        self.assertEqual(bytes(got), source.read_bytes())

    def test_slow(self) -> None:
        """A client that does not read stops its own stream, and nothing grows; others are not slower."""
        source = self.random()
        url = self.volume("slow")
        self.put(source, url)
        before = self.gateway.rss()
        lazy = [self.begin(f"GET /images/{url.rpartition('/')[2]}") for _ in range(6)]
        for connection in lazy:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(b"\r\n")
        wait_for(lambda: len(self.gateway.sessions()) == 6, "six downloads")
        other = self.volume("fast")
        begun = time.monotonic()
        self.put(source, other)
        self.assertEqual(self.get(other), source.read_bytes())
        self.assertLess(time.monotonic() - begun, 30)
        self.assertLess(self.gateway.rss() - before, 48 * MIB)
        for connection in lazy:
            connection.close()
        wait_for(lambda: not self.gateway.sessions(), "their end")


class ConsoleTests(PlanesCase):
    """Consoles of the machine."""

    def test_serial(self) -> None:
        """The firmware speaks on the serial line, and listens to it; by the socket and over TLS."""
        for target, what in (("lab", "console"), ("far", "console/serial0")):
            console = self.enter(self.grant(what, target=target))
            self.daemon.virsh("reset", "tiny")
            console.until(b"SeaBIOS")
            console.until(b"ESC for boot menu")
            time.sleep(0.2)
            console.send(b"\x1b")
            console.until(b"Select boot device")
            console.leave()
            wait_for(lambda: not self.gateway.sessions(), "the end")

    def test_taken(self) -> None:
        """A line that somebody has is refused, unless the ticket may take it over; that one loses it."""
        first = self.enter(self.grant("console"))
        with self.assertRaises(Refused) as raised:
            self.enter(self.grant("console"))
        self.assertEqual(raised.exception.status, 409)
        self.assertIn("Somebody else has this console", raised.exception.body)
        second = self.enter(self.grant("console", ops=["takeover"]))
        self.assertEqual(first.end()[0], 1000)
        self.daemon.virsh("reset", "tiny")
        second.until(b"SeaBIOS")

    def test_screen(self) -> None:
        """The screen is seen without its password, as those see it who know that; several may share it."""
        # Its cursor does not blink then.
        self.daemon.virsh("suspend", "tiny")
        self.addCleanup(self.daemon.virsh, "resume", "tiny")
        shared = self.grant("graphics/0", shared=True)
        seats = [Seat(self.enter(self.grant("graphics/0")), "bgrx", 0)]
        port = 5900 + int(self.daemon.virsh("vncdisplay", "tiny").strip().rpartition(":")[2])
        known = self.ticket(f"vnc://{HOST}:{port}", kind="console", ops=["view", "control"], secret=PASSWORD)
        seats += [Seat(self.enter(it), "bgrx", 0) for it in (known, shared, shared)]
        for seat in seats:
            # QEMU gives a second client what changes, unless it asks for all.
            seat.console.send(WHOLE)

        def same() -> bool:
            for seat in seats:
                while seat.look():
                    pass
            pictures = {bytes(seat.client.screen) for seat in seats}
            return len(pictures) == 1 and any(pictures.pop())

        wait_for(same, "the same picture for all")

    def test_revoked(self) -> None:
        """Line and screen end in the moment in which their tickets do."""

        def revoked(what: str) -> float:
            ticket = self.grant(what)
            console = self.enter(ticket)
            begun = time.monotonic()
            self.gateway.delete(ticket)
            self.assertEqual(console.end(), REVOKED)
            took = time.monotonic() - begun
            self.assertEqual(self.gateway.sessions(), [])
            return took

        for what in ("console", "graphics/0"):
            best_of(partial(revoked, what), 0.5)

    def test_lazy_viewer(self) -> None:
        """A viewer that asks and does not read stalls itself, and nobody else."""
        before = self.gateway.rss()
        lazy = self.enter(self.grant("graphics/0"))
        Seat(lazy, "bgrx", 0)
        lazy.line.settimeout(0.2)
        try:
            for _ in range(20000):
                lazy.send(WHOLE)
        except TimeoutError:
            pass
        seat = Seat(self.enter(self.grant("graphics/0")), "bgrx", 0)
        wait_for(lambda: seat.look() or seat.client.updates, "a picture for the other")
        console = self.enter(self.grant("console"))
        self.daemon.virsh("reset", "tiny")
        console.until(b"SeaBIOS")
        self.assertLess(self.gateway.rss() - before, 32 * MIB)

    def test_lazy_machine(self) -> None:
        """A machine that does not take what is typed stalls its own line; nothing is left of that."""
        uuid = self.daemon.tiny("lazy")
        self.addCleanup(self.daemon.virsh, "undefine", "lazy")
        self.addCleanup(self.daemon.virsh, "destroy", "lazy")
        self.daemon.virsh("suspend", "lazy")
        before, files = self.gateway.rss(), self.files()
        ticket = self.grant("console", uuid=uuid)
        console = self.enter(ticket)
        console.line.settimeout(1)
        with self.assertRaises(TimeoutError):
            for _ in range(64):
                console.send(bytes(MIB))
        Seat(self.enter(self.grant("graphics/0", uuid=uuid)), "bgrx", 0)
        other = self.enter(self.grant("console"))
        self.daemon.virsh("reset", "tiny")
        other.until(b"SeaBIOS")
        self.assertLess(self.gateway.rss() - before, 32 * MIB)
        self.gateway.delete(ticket)
        self.assertEqual(len(self.gateway.sessions()), 2)
        console.line.close()
        # The two that stay have two files each, and the target may keep connections.
        wait_for(lambda: self.files() <= files + 6, "the end of the line")

    def files(self) -> int:
        """How many files the gateway has open."""
        return len(os.listdir(f"/proc/{self.gateway.pid}/fd"))

    def test_machine_ends(self) -> None:
        """A machine that is destroyed ends its consoles, with a good-bye."""
        line, screen = self.enter(self.grant("console")), self.enter(self.grant("graphics/0"))
        self.daemon.virsh("destroy", "tiny")
        self.addCleanup(wait_for, lambda: "running" in self.daemon.virsh("domstate", "tiny"), "running")
        self.addCleanup(self.daemon.virsh, "start", "tiny")
        for console in (line, screen):
            self.assertEqual(console.end(), (1000, "The console has ended"))

    def test_absent(self) -> None:
        """No such line, no such screen, no way for a screen: refused, with a meaning."""
        for what, target, status in (
            ("console/serial9", "lab", 502),
            ("graphics/5", "lab", 502),
            ("graphics/0", "far", 501),
            ("console", "nowhere", 404),
            ("console", "eyes", 403),
        ):
            with self.assertRaises(Refused) as raised:
                self.enter(self.grant(what, target=target))
            self.assertEqual(raised.exception.status, status, (what, raised.exception.body))
