"""Files to and from an image relay that is a small site over TLS."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

from twisted.internet import tcp
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from gateway.core import dev_pki
from gateway.core.tls import tls_factory
from gateway.ctl.rpc_bytes import fetch, send
from gateway.ctl.shell import Failed, Shell
from tests.rpc.small_endpoint import CA, NOW, server_tls
from tests.support import ReactorTestCase


class _Relay(Resource):
    """``whole`` is good, ``short`` breaks off, ``slow`` never ends, ``no`` is refused."""

    isLeaf = True
    got = b""

    def render(self, request: Any) -> Any:
        name = request.path.rpartition(b"/")[2]
        if name == b"no":
            request.setResponseCode(403)
            return b"You may not\nat all"
        if request.method == b"PUT":
            self.got = request.content.read()
            return NOT_DONE_YET if name == b"slow" else b""
        request.setHeader(b"content-length", b"100000")
        request.write(b"x" * 50_000)
        if name == b"short":
            request.channel.callLater(0.1, request.transport.abortConnection)
        if name == b"whole":
            request.write(b"y" * 50_000)
            request.finish()
        return NOT_DONE_YET


class MovingTests(ReactorTestCase):
    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.ca, _ = CA.write(self.directory, "ca")
        self.relay = _Relay()
        self.site = Site(self.relay)
        factory: Any = tls_factory(server_tls(self.directory), self.site, self.reactor)
        port: Any = self.reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.port = port
        self.base = f"https://127.0.0.1:{port.getHost().port}/images"
        self.addCleanup(lambda: Deferred.fromCoroutine(self.stop()))
        self.err = StringIO()
        self.shell = Shell(
            self.reactor, StringIO(), self.err, StringIO(), {}, self.reactor.seconds, pause=0.02
        )
        self.file = self.directory / "file"

    async def stop(self) -> None:
        await self.port.stopListening()
        await self.until(
            lambda: not any(isinstance(it, tcp.Connection) for it in self.reactor.getReaders()),
            "the end of all connections",
        )

    async def failed(self, work: Any) -> str:
        try:
            await work
        except Failed as error:
            return str(error)
        raise AssertionError("nothing failed")

    async def cancelled(self, work: Any) -> None:
        doing: Deferred[None] = Deferred.fromCoroutine(work)
        await deferLater(self.reactor, 0.3)
        doing.cancel()
        try:
            await doing
        except CancelledError:
            return
        raise AssertionError("it was not given up")

    async def test_fetch(self) -> None:
        """A file arrives whole, and its progress is shown."""
        await fetch(self.shell, self.ca, f"{self.base}/whole", str(self.file))
        self.assertEqual(self.file.read_bytes(), b"x" * 50_000 + b"y" * 50_000)
        self.assertIn("100%", self.err.getvalue())

    async def test_send(self) -> None:
        """A file is sent whole, also an empty one."""
        for data in (b"z" * 300_000, b""):
            self.file.write_bytes(data)
            await send(self.shell, self.ca, f"{self.base}/whole", str(self.file))
            self.assertEqual(self.relay.got, data)

    async def test_refused(self) -> None:
        """A refusal is told in its first line, and leaves no file."""
        url = f"{self.base}/no"
        self.assertEqual(
            await self.failed(fetch(self.shell, self.ca, url, str(self.file))), "refused: You may not"
        )
        self.assertEqual([*self.directory.glob("file*")], [])
        self.file.write_bytes(b"z")
        self.assertEqual(
            await self.failed(send(self.shell, self.ca, url, str(self.file))), "refused: You may not"
        )

    async def test_broken_off(self) -> None:
        """What is incomplete is said to be, and removed; a former file stays."""
        self.file.write_bytes(b"former")
        said = await self.failed(fetch(self.shell, self.ca, f"{self.base}/short", str(self.file)))
        self.assertIn("broke off", said)
        self.assertEqual([*self.directory.glob("file*")], [self.file])
        self.assertEqual(self.file.read_bytes(), b"former")

    async def test_given_up(self) -> None:
        """Whoever gives up has no file that looks like one."""
        url = f"{self.base}/slow"
        await self.cancelled(fetch(self.shell, self.ca, url, str(self.file)))
        self.assertEqual([*self.directory.glob("file*")], [])
        self.file.write_bytes(b"z" * 1000)
        await self.cancelled(send(self.shell, self.ca, url, str(self.file)))
        self.assertTrue(self.file.exists())

    async def test_somebody_else(self) -> None:
        """Nothing goes to a relay of another authority, nor to one that is not there."""
        other, _ = dev_pki.authority(NOW, "another").write(self.directory, "other")
        self.file.write_bytes(b"secret")
        for ca, base in ((other, self.base), (self.ca, "https://127.0.0.1:1/images")):
            said = await self.failed(send(self.shell, ca, f"{base}/whole", str(self.file)))
            self.assertIn(base.rpartition("/")[0], said)
            self.assertNotIn("whole", said)
        self.assertEqual(self.relay.got, b"")

    async def test_files(self) -> None:
        """A file that cannot be read or written is named, before anything is asked."""
        self.assertIn(
            "No such file", await self.failed(send(self.shell, self.ca, f"{self.base}/whole", "/nonexistent"))
        )
        self.assertIn(
            "/nonexistent/x",
            await self.failed(fetch(self.shell, self.ca, f"{self.base}/slow", "/nonexistent/x")),
        )
