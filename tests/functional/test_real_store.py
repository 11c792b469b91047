"""The embedded store with real clients: sparse images both ways, and what goes wrong on the way."""

from __future__ import annotations

import http.client
import json
import os
import resource
import shutil
import time
from pathlib import Path
from typing import Any

from tests.functional.case import PYTEST_ONLY, GatewayCase, read_head
from tests.functional.commands import curl, imageio_client, qemu_img
from tests.functional.processes import MIB, short_directory, wait_for
from tests.functional.test_real_client import DOWNLOAD, UPLOAD, sparse_file

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

SIZE = 64 * MIB

#: Downloads a layer onto a backing file, as an incremental backup does.
LAYER = """
import sys
from ovirt_imageio import client
url, target, ca, backing = sys.argv[1:5]
client.download(url, target, ca, fmt="qcow2", backing_file=backing, backing_format="raw")
"""

CHECK = """
import json, sys
from ovirt_imageio import client
url, ca, source = sys.argv[1:4]
with client.ImageioClient(url, cafile=ca) as c:
    extents = [[e.start, e.length, e.zero] for e in c.extents()]
    answer = dict(size=c.size(), readers=c.max_readers, writers=c.max_writers, extents=extents)
answer["checksum"] = client.checksum(source, block_size=1 << 20)["checksum"]
print(json.dumps(answer))
"""


class StoreCase(GatewayCase):
    """Images below the gateway's own root."""

    def setUp(self) -> None:
        self.files = short_directory()
        self.addCleanup(shutil.rmtree, self.files)
        self.image = self.gateway.directory / "images" / "disk"
        self.image.write_bytes(b"")

    def served(self, **more: Any) -> str:
        """Install a ticket for the image; return its id."""
        return self.ticket(self.image.as_uri(), **{"size": SIZE, "sparse": True, **more})

    def path(self, **more: Any) -> str:
        return f"/images/{self.served(**more)}"

    def open_files(self) -> list[str]:
        """The files that the gateway has open below its root."""
        found = []
        for it in Path(f"/proc/{self.gateway.pid}/fd").iterdir():
            try:
                found.append(os.readlink(it))
            except FileNotFoundError:
                continue
        return [name for name in found if name.startswith(str(self.gateway.directory / "images"))]

    def assert_idle(self) -> None:
        """No file is open any more, and every thread is free for the next."""
        wait_for(lambda: not self.open_files(), "all files are closed")
        wait_for(lambda: not self.gateway.sessions(), "all sessions are over")
        self.image.write_bytes(b"x" * MIB)
        answer = self.gateway.ask("GET", self.path(size=MIB))
        self.assertEqual((answer.status, len(answer.body)), (200, MIB))


class ClientTests(StoreCase):
    """The real client of ovirt-imageio, and curl."""

    def test_sparse_both_ways(self) -> None:
        """A sparse image is sparse on arrival, in each direction and format, and the same in every byte."""
        source = sparse_file(self.files / "source", SIZE)
        self.image.write_bytes(b"old" * MIB)
        os.truncate(self.image, SIZE)
        url = self.gateway.url(self.served())
        imageio_client(UPLOAD, source, url, self.gateway.ca, "")
        self.assertTrue(self.image.read_bytes() == source.read_bytes())
        self.assertLess(self.image.stat().st_blocks * 512, 8 * MIB)
        for image_format in ("raw", "qcow2"):
            target = self.files / image_format
            imageio_client(DOWNLOAD, url, target, self.gateway.ca, image_format, "")
            self.assertLess(target.stat().st_blocks * 512, 8 * MIB)
            qemu_img("compare", "-f", "raw", "-F", image_format, source, target)

    def test_layer(self) -> None:
        """Zeroes of an image hide what a backing file has in their place."""
        sparse_file(self.image, SIZE)
        backing = self.files / "backing"
        backing.write_bytes(b"b" * SIZE)
        target = self.files / "layer.qcow2"
        imageio_client(LAYER, self.gateway.url(self.served()), target, self.gateway.ca, backing)
        qemu_img("compare", "-f", "raw", "-F", "qcow2", self.image, target)

    def test_described(self) -> None:
        """Extents are as the file system knows them; the checksum is as the client computes it."""
        sparse_file(self.image, SIZE)
        url = self.gateway.url(self.served())
        answer = json.loads(imageio_client(CHECK, url, self.gateway.ca, self.image))
        first, last = 3 * MIB + 4096, SIZE - 2 * MIB
        self.assertEqual(
            answer["extents"], [[0, first, False], [first, last - first, True], [last, 2 * MIB, False]]
        )
        self.assertEqual((answer["size"], answer["readers"], answer["writers"]), (SIZE, 8, 1))
        path = self.path() + f"/checksum?algorithm=blake2b&block_size={MIB}"
        self.assertEqual(self.gateway.ask("GET", path).json()["checksum"], answer["checksum"])

    def test_curl(self) -> None:
        """A download that broke off is taken up where it ended; an upload needs no length."""
        source = self.files / "source"
        source.write_bytes(os.urandom(20 * MIB + 7))
        url = self.gateway.url(self.served())
        with source.open("rb") as stdin:
            curl("--cacert", self.gateway.ca, "-T", "-", url, stdin=stdin)
        part = self.files / "part"
        part.write_bytes(source.read_bytes()[: 5 * MIB + 1])
        curl("--cacert", self.gateway.ca, "-C", "-", "-o", part, url)
        self.assertTrue(part.read_bytes() == source.read_bytes())


class HazardTests(StoreCase):
    """Clients that leave, files that shrink, disks that are full."""

    def test_clients_leave(self) -> None:
        """Downloads and uploads cut anywhere leave no file open and no thread stuck."""
        self.image.write_bytes(os.urandom(SIZE))
        path = self.path()
        for number in range(30):
            if number % 2:
                connection = self.begin(f"GET {path}")
                connection.sendall(b"\r\n")
                read_head(connection)
                for _ in range(number % 7):
                    connection.recv(65536)
            else:
                connection = self.begin(f"PUT {path}")
                connection.sendall(b"content-length: %d\r\n\r\n" % SIZE + bytes(number * 111_111))
            connection.close()
        self.assert_idle()

    def test_revoked(self) -> None:
        """When DELETE of a ticket is answered its transfers are over and the file is closed."""
        self.image.write_bytes(os.urandom(SIZE))
        name = self.served()
        reader, writer = self.begin(f"GET /images/{name}"), self.begin(f"PUT /images/{name}")
        reader.sendall(b"\r\n")
        read_head(reader)
        writer.sendall(b"content-length: %d\r\n\r\n" % SIZE + bytes(5 * MIB))
        wait_for(lambda: len(self.open_files()) == 2, "both run")
        self.assertEqual(self.gateway.delete(name).status, 204)
        self.assertEqual(self.open_files(), [])
        self.assert_idle()

    def test_hesitant_reader(self) -> None:
        """Bytes that had to wait for the client are not overwritten by those read meanwhile."""
        data = os.urandom(SIZE)
        self.image.write_bytes(data)
        connection = self.begin(f"GET {self.path()}")
        connection.sendall(b"\r\n")
        got = bytearray(read_head(connection)[1])
        while len(got) < SIZE:
            got += connection.recv(1 << 20)
            if len(got) % 7 == 0:
                time.sleep(0.002)
        connection.close()
        self.assertTrue(got == data)
        self.assert_idle()

    def test_slow_reader(self) -> None:
        """Readers who take nothing hold little memory and no thread: all others are served."""
        self.image.write_bytes(os.urandom(SIZE))
        path = self.path()
        before = self.gateway.rss()
        slow = [self.begin(f"GET {path}") for _ in range(8)]
        for connection in slow:
            connection.sendall(b"\r\n")
            read_head(connection)
        time.sleep(0.5)
        self.assertLess(self.gateway.rss() - before, 8 * 4 * MIB)
        other = self.path()
        self.assertEqual(self.gateway.ask("GET", other, headers={"range": "bytes=0-9"}).status, 206)
        for connection in slow:
            connection.close()
        self.assert_idle()

    def test_shrinks(self) -> None:
        """A file that becomes shorter while it is read cuts the download, never ends it well."""
        self.image.write_bytes(os.urandom(SIZE))
        connection = self.begin(f"GET {self.path()}")
        connection.sendall(b"\r\n")
        head, rest = read_head(connection)
        self.assertIn(b"content-length: %d" % SIZE, head)
        os.truncate(self.image, MIB)
        got = len(rest)
        try:
            while piece := connection.recv(1 << 20):
                got += len(piece)
        except OSError:
            pass
        self.assertLess(got, SIZE)
        self.assert_idle()

    def test_full(self) -> None:
        """A file that cannot grow ends the upload with one sentence, and without a path in it."""
        path = self.path()
        resource.prlimit(self.gateway.pid, resource.RLIMIT_FSIZE, (8 * MIB, resource.RLIM_INFINITY))
        try:
            client = self.gateway.client()
            self.addCleanup(client.close)
            client.request("PUT", path, bytes(12 * MIB))
            answer = client.getresponse()
            text = answer.read().decode()
            self.assertEqual(answer.status, 502)
            self.assertEqual(text, "The image cannot be used: File too large\n")
            patch = json.dumps({"op": "zero", "offset": 0, "size": SIZE}).encode()
            self.assertEqual(self.gateway.ask("PATCH", path, patch).status, 502)
        finally:
            unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            resource.prlimit(self.gateway.pid, resource.RLIMIT_FSIZE, unlimited)
        self.assertEqual(self.gateway.ask("PUT", path, bytes(12 * MIB)).status, 200)
        self.assert_idle()

    def test_swapped(self) -> None:
        """A directory that becomes a link after the ticket was used leads nowhere."""
        inside, outside = self.gateway.directory / "images" / "sub", self.files / "outside"
        for directory in (inside, outside):
            directory.mkdir()
            (directory / "disk").write_bytes(directory.name.encode())
        name = self.ticket((inside / "disk").as_uri())
        self.assertEqual(self.gateway.ask("GET", f"/images/{name}").body, b"sub")
        shutil.rmtree(inside)
        inside.symlink_to(outside)
        self.addCleanup(inside.unlink)
        answer = self.gateway.ask("GET", f"/images/{name}")
        self.assertEqual(answer.status, 502)
        self.assertNotIn(b"outside", answer.body)

    def test_kept_alive(self) -> None:
        """Reads, writes, zeroes and flushes follow each other on one connection."""
        path = self.path()
        client = self.gateway.client()
        self.addCleanup(client.close)

        def ask(method: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
            fields = {name.replace("_", "-"): value for name, value in headers.items()}
            client.request(method, path, body, fields)
            answer: http.client.HTTPResponse = client.getresponse()
            return answer.status, answer.read()

        for number in range(4):
            data = os.urandom(3 * MIB + number)
            self.assertEqual(ask("PUT", data, content_range=f"bytes {number}-*/*")[0], 200)
            patch = json.dumps({"op": "zero", "offset": MIB, "size": MIB, "flush": True})
            self.assertEqual(ask("PATCH", patch.encode())[0], 200)
            expected = data[: MIB - number] + bytes(MIB) + data[2 * MIB - number :]
            last = number + len(data) - 1
            self.assertEqual(ask("GET", range=f"bytes={number}-{last}"), (206, expected))
        self.assertEqual(ask("PATCH", b'{"op": "flush"}')[0], 200)
