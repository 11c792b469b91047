"""Images that qemu-nbd opens, served by the gateway itself: raw and qcow2, by unix socket and TCP."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

from tests.functional.case import PYTEST_ONLY, GatewayCase, read_head
from tests.functional.commands import curl, imageio_client, need, qemu_img, run
from tests.functional.peers import Daemon, Nbd
from tests.functional.processes import DEADLINE, MIB, free_port, short_directory, wait_for
from tests.functional.test_real_client import DOWNLOAD, PIECES, SIZE, UPLOAD, sparse_file

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

#: Too much for the buffers of sockets.
LARGE = 96 * MIB


class _Case(GatewayCase):
    """qemu-nbd beside the gateway.

    :cvar tcp: it listens on a port.
    """

    tcp: ClassVar[bool] = False

    def setUp(self) -> None:
        self.files = short_directory()
        self.addCleanup(shutil.rmtree, self.files)
        self.nbd = Nbd(self.files, free_port() if self.tcp else 0)
        self.addCleanup(self.nbd.stop)

    def make(self, image_format: str, source: Path | None = None) -> None:
        """Make an image, empty or like *source*."""
        self.image = self.files / f"image.{image_format}"
        if source is None:
            qemu_img("create", "-q", "-f", image_format, self.image, str(SIZE))
        else:
            qemu_img("convert", "-f", "raw", "-O", image_format, source, self.image)

    def serve(self, image_format: str, source: Path | None = None) -> str:
        """Start qemu-nbd on an image; return its url."""
        self.make(image_format, source)
        return self.nbd.start(self.image, image_format)

    def assert_image(self, raw: Path, image_format: str) -> None:
        """The image holds what *raw* does; qemu-nbd must have ended."""
        self.nbd.stop()
        qemu_img("compare", "-f", "raw", "-F", image_format, raw, self.image)

    def assert_same(self, left: Path, right: Path) -> None:
        self.assertTrue(left.read_bytes() == right.read_bytes(), f"{left.name} and {right.name} differ")


class TransferTests(_Case):
    """The clients people use."""

    def test_curl(self) -> None:
        """What curl puts is in the image, raw or qcow2, and what it gets is what was put."""
        for image_format in ("raw", "qcow2"):
            source, target = sparse_file(self.files / "source"), self.files / "target"
            url = self.gateway.url(self.ticket(self.serve(image_format), size=SIZE))
            ca = ("--cacert", self.gateway.ca)
            curl(*ca, "-T", source, url)
            curl(*ca, "-o", target, url)
            self.assert_same(source, target)
            with source.open("rb") as stdin:
                curl(*ca, "-H", "Content-Range: bytes 0-*/*", "-T", "-", url, stdin=stdin)
            target.write_bytes(source.read_bytes()[: 5 * MIB + 17])
            curl(*ca, "-C", "-", "-o", target, url)
            self.assert_same(source, target)
            self.assert_image(source, image_format)

    def test_library(self) -> None:
        """The client library uploads and downloads with several workers, in both formats."""
        for image_format in ("raw", "qcow2"):
            source = sparse_file(self.files / "source")
            url = self.gateway.url(self.ticket(self.serve(image_format), size=SIZE, sparse=True))
            imageio_client(UPLOAD, source, url, self.gateway.ca, "")
            for target_format in ("raw", "qcow2"):
                target = self.files / f"target.{target_format}"
                imageio_client(DOWNLOAD, url, target, self.gateway.ca, target_format, "")
                qemu_img("compare", "-f", "raw", "-F", target_format, source, target)
            self.assert_image(source, image_format)

    def test_pieces(self) -> None:
        """Read, write, zero, flush, size and extents, one by one, by the library."""
        source = self.files / "source"
        source.write_bytes(b"x" * SIZE)
        url = self.gateway.url(self.ticket(self.serve("qcow2", source=source), size=SIZE, sparse=True))
        answer = json.loads(imageio_client(PIECES, url, self.gateway.ca))
        self.assertTrue(answer["same"])
        self.assertEqual((answer["size"], answer["readers"], answer["writers"]), (SIZE, 8, 8))
        source.write_bytes(b"a" * 4096 + b"\0" * 4096 + b"x" * (SIZE - 12288) + b"z" * 4096)
        self.assert_image(source, "qcow2")

    def test_several(self) -> None:
        """Eight connections write and read parts of one image at once, and no byte is at a wrong place."""
        name = self.ticket(self.serve("qcow2"), size=SIZE)
        data, part = os.urandom(SIZE), SIZE // 8
        failures: list[object] = []

        def work(number: int) -> None:
            start, path = number * part, f"/images/{name}"
            place = {"content-range": f"bytes {start}-*/*"}
            answer = self.gateway.ask("PUT", path, data[start : start + part], place)
            other = (number + 1) % 8 * part
            wanted = {"range": f"bytes={other}-{other + part - 1}"}
            again = self.gateway.ask("GET", path, headers=wanted)
            if (answer.status, again.status, len(again.body)) != (200, 206, part):
                failures.append((answer, again.status))

        threads = [threading.Thread(target=work, args=(it,)) for it in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        self.assertEqual(failures, [])
        self.assertTrue(self.gateway.ask("GET", f"/images/{name}").body == data)


class TcpTransferTests(TransferTests):
    """The same over TCP, where the policy decides."""

    tcp = True


class DescriptionTests(_Case):
    """Extents, bitmaps and checksums are those of the image daemon on the same server."""

    daemon: ClassVar[Daemon]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.daemon = Daemon(cls.home)
        cls.addClassCleanup(cls.daemon.stop)
        cls.daemon.start()

    def both(self, url: str, path: str) -> Any:
        """What the daemon and the gateway both answer, which must be the same."""
        name = str(uuid4())
        ticket = {"uuid": name, "size": SIZE, "timeout": 300, "ops": ["read"], "url": url, "dirty": True}
        self.daemon.put(ticket)
        behind = self.ticket(self.daemon.url(name), size=SIZE, dirty=True)
        self.gateway.put(ticket)
        theirs, ours = (self.gateway.ask("GET", f"/images/{it}{path}") for it in (behind, name))
        self.assertEqual((ours.status, ours.json()), (theirs.status, theirs.json()))
        return ours.json()

    def test_extents(self) -> None:
        """Real extents, raw and qcow2; with allocation depth a hole is what the whole chain has not."""
        source = sparse_file(self.files / "source")
        for image_format in ("raw", "qcow2"):
            extents = self.both(self.serve(image_format, source=source), "/extents")
            self.assertEqual([it["zero"] for it in extents], [False, True, False])
            self.nbd.stop()
        url = self.nbd.start(self.image, "qcow2", "--allocation-depth")
        self.assertEqual([it["hole"] for it in self.both(url, "/extents")], [False, True, False])

    def test_dirty(self) -> None:
        """What was written since a bitmap was made."""
        self.make("qcow2", sparse_file(self.files / "source"))
        qemu_img("bitmap", "--add", self.image, "b0")
        changes = ("write -P 7 1m 128k", f"write -P 8 {SIZE // 2} 64k", f"write -z {SIZE - MIB} 64k")
        commands = [it for change in changes for it in ("-c", change)]
        run([need("qemu-io", "apt install qemu-utils"), "-f", "qcow2", *commands, str(self.image)])
        url = self.nbd.start(self.image, "qcow2", "--bitmap=b0")
        extents = self.both(url, "/extents?context=dirty")
        dirty = [(it["start"], it["length"], it["zero"]) for it in extents if it["dirty"]]
        wanted = [(MIB, 128 * 1024, False), (SIZE // 2, 65536, False), (SIZE - MIB, 65536, True)]
        self.assertEqual(dirty, wanted)
        self.both(url, "/extents?context=zero")

    def test_checksum(self) -> None:
        """The checksum is the daemon's, and follows the definition."""
        source = sparse_file(self.files / "source")
        url = self.serve("qcow2", source=source)
        self.both(url, "/checksum")
        answer = self.both(url, f"/checksum?algorithm=sha1&block_size={MIB}")
        data = source.read_bytes()
        blocks = (hashlib.sha1(data[at : at + MIB]).digest() for at in range(0, SIZE, MIB))
        self.assertEqual(answer["checksum"], hashlib.sha1(b"".join(blocks)).hexdigest())

    def test_zero(self) -> None:
        """Zeroing gives space back when the ticket is sparse, and keeps it otherwise."""
        source = self.files / "source"
        source.write_bytes(b"x" * SIZE)
        for sparse in (True, False):
            name = self.ticket(self.serve("raw", source=source), size=SIZE, sparse=sparse)
            patch = {"op": "zero", "offset": MIB, "size": SIZE - 2 * MIB, "flush": True}
            self.assertEqual(self.gateway.ask("PATCH", f"/images/{name}", patch).status, 200)
            body = self.gateway.ask("GET", f"/images/{name}").body
            self.assertTrue(body == b"x" * MIB + bytes(SIZE - 2 * MIB) + b"x" * MIB)
            self.nbd.stop()
            self.assertEqual(self.image.stat().st_blocks * 512 < 4 * MIB, sparse)


class HazardTests(_Case):
    """Servers that die, tickets that are revoked, clients that stop reading."""

    def reading(self, name: str) -> tuple[Any, bytes]:
        """A download of which the head was read, and that then is left alone."""
        connection = self.begin(f"GET /images/{name}")
        connection.sendall(b"\r\n")
        head, rest = read_head(connection)
        self.assertIn(b" 200 ", head.partition(b"\r\n")[0] + b" ")
        return connection, rest

    def rest(self, connection: Any, got: bytes) -> bytes:
        body = bytearray(got)
        try:
            while piece := connection.recv(MIB):
                body += piece
                if len(body) == LARGE:
                    break
        except OSError:
            pass
        return bytes(body)

    def large(self) -> tuple[Path, str]:
        source = self.files / "source"
        source.write_bytes(os.urandom(MIB) * (LARGE // MIB))
        return source, self.serve("raw", source=source)

    def test_killed(self) -> None:
        """A server killed in the middle of a download and started again: the client notices a pause."""
        source, url = self.large()
        connection, got = self.reading(self.ticket(url, size=LARGE))
        time.sleep(0.3)
        self.nbd.kill()
        again = threading.Timer(1.5, self.nbd.start, (self.image, "raw"))
        again.start()
        self.addCleanup(again.join)
        self.assertTrue(self.rest(connection, got) == source.read_bytes())

    def test_memory(self) -> None:
        """A client that does not read costs next to nothing."""
        _, url = self.large()
        name = self.ticket(url, size=LARGE)
        self.gateway.ask("GET", f"/images/{name}", headers={"range": f"bytes=0-{8 * MIB}"})
        before = self.gateway.rss()
        kept = [self.reading(name) for _ in range(4)]
        time.sleep(1)
        self.assertLess(self.gateway.rss() - before, 16 * MIB)
        self.assertEqual(len(kept), 4)

    def test_revoked(self) -> None:
        """Revocation ends a download and an upload at once, and no connection to the server is left."""
        _, url = self.large()
        name = self.ticket(url, size=LARGE)
        reading, got = self.reading(name)
        writing = self.begin(f"PUT /images/{name}?flush=n")
        writing.sendall(b"content-length: %d\r\n\r\n" % LARGE + bytes(3 * MIB))
        wait_for(lambda: len(self.gateway.sessions()) == 2, "both are alive")
        self.assertEqual(self.gateway.delete(name).status, 204)
        self.assertEqual(self.gateway.sessions(), [])
        self.assertLess(len(self.rest(reading, got)), LARGE)
        self.assertIn(b" 403 ", read_head(writing)[0])
        wait_for(lambda: self.connections() == 0, "no connection is left")

    def test_aborted(self) -> None:
        """Clients that leave in the middle leave nothing behind: no connection, no descriptor, no session."""
        _, url = self.large()
        name = self.ticket(url, size=LARGE)
        before = self.descriptors_in_use()
        for _ in range(20):
            reading, _ = self.reading(name)
            writing = self.begin(f"PUT /images/{name}?flush=n")
            writing.sendall(b"content-length: %d\r\n\r\n" % LARGE + bytes(MIB))
            reading.close()
            writing.close()
        wait_for(lambda: self.gateway.sessions() == [], "no session is left")
        wait_for(lambda: self.connections() == 0, "no connection is left")
        wait_for(lambda: self.descriptors_in_use() <= before, "no descriptor is left")

    def descriptors_in_use(self) -> int:
        return len(list(Path(f"/proc/{self.gateway.pid}/fd").iterdir()))

    def connections(self) -> int:
        """Connections of the gateway to qemu-nbd, by the kernel's list of unix sockets."""
        lines = Path("/proc/net/unix").read_text().splitlines()
        # The last but one column but the path is the state; the listening socket has another one.
        return sum(it.endswith(str(self.files / "nbd.sock")) and it.split()[5] == "03" for it in lines)

    def test_no_path(self) -> None:
        """A server that is not there is told without its path."""
        answer = self.gateway.ask("GET", f"/images/{self.ticket(f'nbd:unix:{self.files}/none', size=1)}")
        self.assertEqual(answer.status, 502)
        self.assertNotIn(str(self.files).encode(), answer.body)
