from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.core.dial import Dialer
from gateway.core.http_client import Call, HttpConnection, UpstreamPool
from gateway.core.policy import Policy, parse_rule
from gateway.core.upstreams import Upstream, Upstreams
from tests.core.test_channel import Wire
from tests.support import ReactorTestCase

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
HOST = Upstream("http", "a.invalid", 80)


class Dial:
    """Connects to nowhere, and keeps the wires."""

    def __init__(self) -> None:
        self.wires: list[Wire] = []
        self.dialed: list[tuple[object, ...]] = []
        self.waiting: Deferred[None] | None = None

    async def connect(
        self, scheme: str, host: str, port: int, factory: Factory, *, tls: object = None
    ) -> Any:
        self.dialed.append((scheme, host, port, tls))
        return await self._made(factory)

    async def connect_unix(self, path: str, factory: Factory) -> Any:
        self.dialed.append((path,))
        return await self._made(factory)

    async def _made(self, factory: Factory) -> Any:
        if self.waiting is not None:
            await self.waiting
        protocol = factory.buildProtocol(None)
        assert protocol is not None
        self.wires.append(Wire(cast(Protocol, protocol)))
        return protocol


class UpstreamsTests(SynchronousTestCase):
    """Requests over pooled connections."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.dial = Dial()
        self.pool = UpstreamPool(self.clock)

        def trust(host: str) -> Any:
            return "trust", host

        self.upstreams = Upstreams(cast(Dialer, self.dial), self.pool, trust, self.clock, timeout=120)
        self.addCleanup(self.check_clean)

    def check_clean(self) -> None:
        self.pool.close()
        for wire in self.dial.wires:
            wire.end()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def ask(self, method: bytes = b"GET", upstream: Upstream = HOST, **how: Any) -> Deferred[Call]:
        return Deferred.fromCoroutine(self.upstreams.ask(upstream, method, b"/x", **how))

    def finish(self, asked: Deferred[Call]) -> bytes:
        call = self.successResultOf(asked)
        reading = Deferred.fromCoroutine(call.read(100))
        for wire in self.dial.wires:
            wire.receive(b"")
        call.release()
        return self.successResultOf(reading)

    def test_ask(self) -> None:
        """A request carries its host and its length, and the answer comes back."""
        asked = self.ask(b"PATCH", body=b"{}", fields=[(b"x", b"y")])
        wire = self.dial.wires[0]
        head, _, body = wire.taken().partition(b"\r\n\r\n")
        self.assertEqual(
            head.split(b"\r\n"),
            [b"PATCH /x HTTP/1.1", b"host: a.invalid:80", b"x: y", b"content-length: 2"],
        )
        self.assertEqual(body, b"{}")
        wire.receive(OK)
        self.assertEqual(self.finish(asked), b"ok")

    def test_where(self) -> None:
        """TLS goes with the trust for that name, a unix socket by its path; each has its own connections."""
        for upstream in (
            Upstream("https", "a.invalid", 443),
            Upstream("http", "a.invalid", 80),
            Upstream("http", "2001:db8::1", 80),
            Upstream("http", "localhost", 0, "/run/sock"),
        ):
            asked = self.ask(upstream=upstream)
            self.dial.wires[-1].receive(OK)
            self.finish(asked)
        self.assertEqual(
            self.dial.dialed,
            [
                ("https", "a.invalid", 443, ("trust", "a.invalid")),
                ("http", "a.invalid", 80, None),
                ("http", "2001:db8::1", 80, None),
                ("/run/sock",),
            ],
        )
        hosts = [bytes(wire.sent).split(b"\r\n")[1] for wire in self.dial.wires]
        expected = [b"a.invalid:443", b"a.invalid:80", b"[2001:db8::1]:80", b"localhost"]
        self.assertEqual(hosts, [b"host: " + host for host in expected])

    def test_reuse(self) -> None:
        """A finished request leaves its connection to the next; an unfinished one does not."""
        for _ in range(3):
            asked = self.ask()
            self.dial.wires[0].receive(OK)
            self.assertEqual(self.finish(asked), b"ok")
        first, second = self.ask(), self.ask()
        self.assertEqual(len(self.dial.wires), 2)
        for wire, asked in zip(self.dial.wires, (first, second), strict=True):
            wire.receive(OK)
            self.finish(asked)

    def test_stale(self) -> None:
        """A pooled connection that turns out dead is replaced, once, and the request made again."""
        asked = self.ask(b"PATCH", body=b"{}")
        self.dial.wires[0].receive(OK)
        self.finish(asked)
        asked = self.ask(b"PATCH", body=b"{}")
        self.dial.wires[0].taken()
        self.dial.wires[0].end()
        self.assertNoResult(asked)
        self.assertTrue(self.dial.wires[1].sent.endswith(b"content-length: 2\r\n\r\n{}"))
        self.dial.wires[1].receive(OK)
        self.assertEqual(self.finish(asked), b"ok")

    def test_stale_all(self) -> None:
        """The second attempt is made on a new connection: where one was stale, others are."""
        first, second = self.ask(), self.ask()
        for wire, asked in zip(self.dial.wires, (first, second), strict=True):
            wire.receive(OK)
            self.finish(asked)
        asked = self.ask()
        self.dial.wires[1].end()
        self.assertEqual(len(self.dial.wires), 3)
        self.dial.wires[2].receive(OK)
        self.assertEqual(self.finish(asked), b"ok")

    def test_stale_once(self) -> None:
        """There is no third attempt."""
        asked = self.ask()
        self.dial.wires[0].receive(OK)
        self.finish(asked)
        asked = self.ask()
        self.dial.wires[0].end()
        self.dial.wires[1].end()
        self.failureResultOf(asked, errors.UpstreamFailed)
        self.assertEqual(len(self.dial.wires), 2)

    def test_not_stale(self) -> None:
        """Once anything of an answer came, nothing is repeated."""
        for data in (b"H", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 99 X\r\n\r\n"):
            asked = self.ask()
            self.dial.wires[-1].receive(OK)
            self.finish(asked)
            before = len(self.dial.wires)
            asked = self.ask()
            self.dial.wires[-1].receive(data)
            self.dial.wires[-1].end()
            self.failureResultOf(asked, errors.UpstreamFailed)
            self.assertEqual(len(self.dial.wires), before)

    def test_fresh_is_not_stale(self) -> None:
        """A new connection that is closed at once is a failure, not a reason to insist."""
        asked = self.ask()
        self.dial.wires[0].end()
        self.failureResultOf(asked, errors.UpstreamFailed)
        self.assertEqual(len(self.dial.wires), 1)

    def test_timeout(self) -> None:
        """An upstream that says nothing in time is given up, unless there is no limit."""
        asked = self.ask()
        self.clock.advance(119)
        self.assertNoResult(asked)
        self.clock.advance(1)
        self.assertEqual(self.failureResultOf(asked, errors.UpstreamTimeout).value.reason, "silent")
        self.assertTrue(self.dial.wires[0].aborted)
        short = self.ask(timeout=1)
        self.clock.advance(1)
        self.failureResultOf(short, errors.UpstreamTimeout)
        patient = self.ask(timeout=None)
        self.clock.advance(100000)
        self.dial.wires[-1].receive(OK)
        self.finish(patient)

    def test_informational_does_not_help(self) -> None:
        """Informational answers do not move the time limit."""
        asked = self.ask()
        for _ in range(4):
            self.clock.advance(30)
            self.dial.wires[0].receive(b"HTTP/1.1 102 Processing\r\n\r\n")
        self.failureResultOf(asked, errors.UpstreamTimeout)

    def test_cancelled(self) -> None:
        """Cancelling, while connecting or waiting, leaves nothing."""
        asked = self.ask()
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.assertTrue(self.dial.wires[0].aborted)
        self.dial.waiting = Deferred()
        asked = self.ask()
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.assertEqual(len(self.dial.wires), 1)

    def test_no_body_where_none_belongs(self) -> None:
        """GET, HEAD, OPTIONS and DELETE go without a body: daemons take one for the next request."""
        for method in (b"GET", b"HEAD", b"OPTIONS", b"DELETE"):
            self.failureResultOf(self.ask(method, body=b"GET /admin"), ValueError)
            self.assertEqual(self.dial.wires[-1].sent, b"")
            self.assertTrue(self.dial.wires[-1].aborted)


class Daemon(Protocol):
    """An upstream that notes what it hears, and answers each line that ends a head."""

    heard = b""

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        type(self).heard += data
        for _ in range(data.count(b"\r\n\r\n")):
            self.transport.write(OK)


class LoopbackTests(ReactorTestCase):
    """The same over sockets."""

    async def test_exact(self) -> None:
        """The upstream hears exactly the requests that were made, over one connection."""
        from twisted.internet import reactor

        Daemon.heard = b""
        port = cast(Any, reactor).listenTCP(0, Factory.forProtocol(Daemon), interface="127.0.0.1")
        pool = UpstreamPool(cast(Any, reactor))
        dialer = Dialer(cast(Any, reactor), Policy([parse_rule("*://127.0.0.0/8:*")]))
        trust: Any = None
        upstreams = Upstreams(dialer, pool, trust, cast(Any, reactor))
        upstream = Upstream("http", "127.0.0.1", port.getHost().port)
        for number in range(3):
            call = await upstreams.ask(upstream, b"GET", b"/%d" % number)
            self.assertEqual(await call.read(10), b"ok")
            call.release()
        connection = pool.take(upstream)
        assert isinstance(connection, HttpConnection)
        self.assertEqual(connection.uses, 3)
        connection.abort()
        await port.stopListening()
        host = b"host: " + upstream.authority
        requests = [b"GET /%d HTTP/1.1\r\n%s\r\n\r\n" % (number, host) for number in range(3)]
        self.assertEqual(Daemon.heard, b"".join(requests))
