"""The clients people use, through our gateway to the real image daemon: every byte arrives."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from quopri import encodestring
from typing import Any, ClassVar
from urllib.parse import quote
from uuid import uuid4

from tests.functional.case import PYTEST_ONLY, GatewayCase
from tests.functional.commands import curl, imageio_client, qemu_img
from tests.functional.peers import Daemon, Nbd, Sections
from tests.functional.processes import HOST, MIB, free_port, short_directory, wait_for

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

SIZE = 24 * MIB

UPLOAD = """
import sys
from ovirt_imageio import client
source, url, ca, proxy = sys.argv[1:5]
client.upload(source, url, ca, proxy_url=proxy or None)
"""

DOWNLOAD = """
import sys
from ovirt_imageio import client
url, target, ca, fmt, proxy = sys.argv[1:6]
client.download(url, target, ca, fmt=fmt, proxy_url=proxy or None)
"""

PIECES = """
import json, sys
from ovirt_imageio import client
url, ca = sys.argv[1:3]
with client.ImageioClient(url, cafile=ca) as c:
    size = c.size()
    c.write(0, b"a" * 8192)
    c.write(size - 4096, b"z" * 4096)
    c.zero(4096, 4096)
    c.flush()
    piece = bytearray(12288)
    c.read(0, piece)
    last = bytearray(4096)
    c.read(size - 4096, last)
    extents = [[e.start, e.length, e.zero] for e in c.extents()]
    answer = dict(size=size, readers=c.max_readers, writers=c.max_writers, extents=extents)
    answer["same"] = bytes(piece) == b"a" * 4096 + b"\\0" * 4096 + b"x" * 4096 and bytes(last) == b"z" * 4096
    print(json.dumps(answer))
"""


def sparse_file(path: Path, size: int = SIZE) -> Path:
    """Data with holes: random, empty, random."""
    with path.open("wb") as file:
        file.write(os.urandom(3 * MIB + 4096))
        file.seek(size - 2 * MIB)
        file.write(os.urandom(2 * MIB))
    return path


class _Case(GatewayCase):
    """A daemon beside the gateway, and tickets at both."""

    local: ClassVar[bool] = False
    daemon: ClassVar[Daemon]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        pki = (cls.gateway.ca, cls.gateway.certificate, cls.gateway.key)
        cls.daemon = Daemon(cls.home, pki, local=cls.local)
        cls.addClassCleanup(cls.daemon.stop)
        cls.daemon.start()

    def setUp(self) -> None:
        self.files = short_directory()
        self.addCleanup(shutil.rmtree, self.files)

    def image(self, size: int = SIZE, data: bytes | None = None) -> Path:
        """An image for the daemon to serve."""
        path = self.files / "image"
        with path.open("wb") as file:
            file.truncate(size)
            file.write(data or b"")
        return path

    def served(
        self,
        image: Path | str,
        size: int = SIZE,
        ops: Sequence[str] = ("read", "write"),
        upstream: str = "",
        **more: Any,
    ) -> str:
        """Install a ticket for *image* at the daemon, and one at the gateway; return the id of both."""
        name = str(uuid4())
        url = image if isinstance(image, str) else f"file://{image}"
        ticket = {"uuid": name, "size": size, "timeout": 300, "ops": list(ops), "sparse": True, **more}
        self.daemon.put({**ticket, "url": url})
        self.gateway.put(
            {**ticket, "url": f"{upstream}/images/{name}" if upstream else self.daemon.url(name)}
        )
        return name

    def upload(self, source: Path, url: str, proxy: str = "") -> None:
        imageio_client(UPLOAD, source, url, self.gateway.ca, proxy)

    def download(self, url: str, target: Path, image_format: str = "raw", proxy: str = "") -> None:
        imageio_client(DOWNLOAD, url, target, self.gateway.ca, image_format, proxy)

    def assert_same(self, left: Path, right: Path) -> None:
        self.assertTrue(left.read_bytes() == right.read_bytes(), f"{left.name} and {right.name} differ")

    def assert_same_image(self, left: Path, left_format: str, right: Path, right_format: str) -> None:
        qemu_img("compare", "-f", left_format, "-F", right_format, left, right)


class LibraryTests(_Case):
    """The client library that SDK scripts, Ansible and virt-v2v's kin use."""

    def test_raw(self) -> None:
        """A raw image comes back as it went out."""
        source, image, target = sparse_file(self.files / "source"), self.image(), self.files / "target"
        url = self.gateway.url(self.served(image))
        self.upload(source, url)
        self.assert_same(source, image)
        self.download(url, target)
        self.assert_same(source, target)

    def test_qcow2(self) -> None:
        """A qcow2 image arrives as raw data, and a download can be qcow2 again."""
        raw, source, target = sparse_file(self.files / "raw"), self.files / "source", self.files / "target"
        qemu_img("convert", "-f", "raw", "-O", "qcow2", raw, source)
        image = self.image()
        url = self.gateway.url(self.served(image))
        self.upload(source, url)
        self.assert_same(raw, image)
        self.download(url, target, "qcow2")
        self.assert_same_image(raw, "raw", target, "qcow2")

    def test_nbd(self) -> None:
        """Behind an NBD ticket, extents are real and several workers write at once."""
        source, image = sparse_file(self.files / "source"), self.files / "image.qcow2"
        qemu_img("create", "-f", "qcow2", image, str(SIZE))
        nbd = Nbd(self.files)
        self.addCleanup(nbd.stop)
        name = self.served(nbd.start(image, "qcow2"))
        self.upload(source, self.gateway.url(name))
        extents = self.gateway.ask("GET", f"/images/{name}/extents").json()
        self.assertTrue(any(extent["zero"] for extent in extents), extents)
        self.assertEqual(sum(extent["length"] for extent in extents), SIZE)
        for image_format in ("raw", "qcow2"):
            target = self.files / f"target.{image_format}"
            self.download(self.gateway.url(name), target, image_format)
            self.assert_same_image(source, "raw", target, image_format)

    def test_fallback(self) -> None:
        """With the host out of reach the client turns to ``proxy_url``, which is us."""
        source, image, target = sparse_file(self.files / "source"), self.image(), self.files / "target"
        name = self.served(image)
        refused = f"https://localhost:{free_port()}/images/{name}"
        self.upload(source, refused, self.gateway.url(name))
        self.assert_same(source, image)
        self.download(refused, target, "raw", self.gateway.url(name))
        self.assert_same(source, target)

    def test_pieces(self) -> None:
        """Read, write, zero, flush, size and extents, one by one."""
        image = self.image(data=b"x" * SIZE)
        answer = json.loads(imageio_client(PIECES, self.gateway.url(self.served(image)), self.gateway.ca))
        self.assertTrue(answer["same"])
        self.assertEqual(answer["size"], SIZE)
        self.assertEqual(sum(length for _, length, _ in answer["extents"]), SIZE)
        self.assertEqual((answer["readers"], answer["writers"]), (8, 1))
        wanted = b"a" * 4096 + b"\0" * 4096 + b"x" * (SIZE - 12288) + b"z" * 4096
        self.assertTrue(image.read_bytes() == wanted)

    def test_accounts(self) -> None:
        """What the engine polls is true: every byte of a download is counted, and nothing lives on."""
        image = sparse_file(self.files / "image")
        name = self.served(image, ops=["read"])
        self.download(self.gateway.url(name), self.files / "target")
        wait_for(lambda: not self.gateway.get(name).json()["active"], "the end of the last request")
        self.assertEqual(self.gateway.get(name).json()["transferred"], SIZE)
        wait_for(lambda: not self.gateway.sessions(), "no session")


class UnixTests(LibraryTests):
    """The same, and the gateway reaches the daemon by its unix socket: ``http+unix`` in the ticket."""

    local: ClassVar[bool] = True

    def served(
        self,
        image: Path | str,
        size: int = SIZE,
        ops: Sequence[str] = ("read", "write"),
        upstream: str = "",
        **more: Any,
    ) -> str:
        upstream = upstream or f"http+unix://{quote(str(self.daemon.local_socket), safe='')}"
        return super().served(image, size, ops, upstream, **more)


class LocalSocketTests(_Case):
    """A daemon on our own machine that offers its socket in OPTIONS."""

    local: ClassVar[bool] = True

    def moved(self) -> int:
        """Move an image, and see that nothing is said of the socket; how often the daemon was asked on it."""
        source, image = sparse_file(self.files / "source"), self.image()
        name = self.served(image)
        self.upload(source, self.gateway.url(name))
        self.assert_same(source, image)
        self.assertNotIn("unix_socket", self.gateway.ask("OPTIONS", f"/images/{name}").json())
        return self.daemon.log().count("[images] [local]")

    def test_used(self) -> None:
        """The bytes take the socket, and the client is not told of it."""
        self.assertGreater(self.moved(), 0, self.daemon.log()[-2000:])


class LocalSocketOffTests(LocalSocketTests):
    """The same with ``local_socket = no``."""

    sections: ClassVar[Sections] = {"images": {"local_socket": "no"}}

    def test_used(self) -> None:
        """The socket stays unused, and the client is not told of it either."""
        self.assertEqual(self.moved(), 0, self.daemon.log()[-2000:])


class CurlTests(_Case):
    """curl, as people paste it."""

    def setUp(self) -> None:
        super().setUp()
        # Otherwise it waits for a second to be told that it may go on, and then does so by itself.
        self.ca = ("--cacert", self.gateway.ca, "--expect100-timeout", "40")

    def test_upload(self) -> None:
        """``-T`` waits for ``100 Continue``, or does not; both arrive."""
        for expect in ("Expect: 100-continue", "Expect:"):
            source, image = sparse_file(self.files / "source"), self.image()
            url = self.gateway.url(self.served(image))
            trace = curl(*self.ca, "-v", "--stderr", "-", "-H", expect, "-T", source, url)
            self.assertEqual(b"100 Continue" in trace, expect != "Expect:", trace)
            self.assert_same(source, image)

    def test_refused_upload(self) -> None:
        """A refused upload is refused before its body is sent."""
        source = sparse_file(self.files / "source")
        name = self.served(self.image(), ops=["read"])
        trace = curl(
            *self.ca, "-v", "--stderr", "-", "-H", "Expect: 100-continue", "-T", source,
            "--no-fail-with-body", "-w", "%{http_code} %{size_upload}", self.gateway.url(name),
        )  # fmt: skip
        self.assertTrue(trace.endswith(b"403 0"), trace)

    def test_chunked(self) -> None:
        """``-T -`` has no length: the pieces arrive all the same."""
        source, image = sparse_file(self.files / "source"), self.image()
        url = self.gateway.url(self.served(image))
        with source.open("rb") as stdin:
            curl(*self.ca, "-T", "-", url, stdin=stdin)
        self.assert_same(source, image)

    def test_resume(self) -> None:
        """``-C -`` fetches the rest of a broken download."""
        image, target = sparse_file(self.files / "image"), self.files / "target"
        url = self.gateway.url(self.served(image, ops=["read"]))
        target.write_bytes(image.read_bytes()[: 5 * MIB + 17])
        curl(*self.ca, "-C", "-", "-o", target, url)
        self.assert_same(image, target)

    def test_filename(self) -> None:
        """The name of the download is the ticket's, whatever is in it, and no header of its own."""
        awkward = 'my "disk"; x\r\nset-cookie: a=b ü.raw'
        name = self.served(self.image(), ops=["read"], filename=awkward)
        answer = self.gateway.ask("GET", f"/images/{name}", headers={"range": "bytes=0-0"})
        self.assertEqual(answer.status, 206)
        self.assertNotIn("set-cookie", answer.headers, encodestring(awkward.encode()))
        self.assertTrue(answer.headers["content-disposition"].startswith("attachment"))

    def test_host_by_address(self) -> None:
        """The gateway is itself by name and by address."""
        image, target = sparse_file(self.files / "image"), self.files / "target"
        name = self.served(image, ops=["read"])
        for host in ("localhost", HOST):
            curl(*self.ca, "-o", target, self.gateway.url(name, host))
            self.assert_same(image, target)
