"""The dialer, on loopback sockets."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Hashable, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from zope.interface import implementer

from gateway.core import dev_pki
from gateway.core.dial import Dialer
from gateway.core.policy import Policy, parse_rule
from gateway.core.tls import basic_context, present, tls_factory
from gateway.core.tls_client import ClientSessions, strict_creator
from gateway.errors import Forbidden, GatewayError, UpstreamFailed, UpstreamTimeout
from tests.support import ReactorTestCase

NOW = datetime.now(UTC)
NAME = "host.invalid"
LOOPBACK = ["*://127.0.0.0/8:*", "*://[::1]:*"]


@cache
def ca() -> dev_pki.Issued:
    return dev_pki.authority(NOW)


@implementer(IOpenSSLServerConnectionCreator)
class Serve:
    """A server that shows whatever certificate it was given."""

    def __init__(self, issued: dev_pki.Issued, maximum: str | None = None) -> None:
        self.context = basic_context(SSL.TLS_SERVER_METHOD, maximum=maximum)
        present(self.context, [issued.certificate], issued.key)

    def serverConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        return SSL.Connection(self.context, None)


class Greeter(Protocol):
    """Says hello and remembers what it hears."""

    transport: Any

    def __init__(self) -> None:
        self.heard = b""
        self.lost: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"hello")

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def connectionLost(self, reason: object = None) -> None:
        self.lost.callback(None)


class Names:
    """A resolver that gives one answer after another, or none."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.late: list[Callable[[], None]] = []

    def resolveHostName(self, receiver: Any, name: str, *rest: object, **more: object) -> None:
        self.asked.append(name)
        receiver.resolutionBegan(None)
        if not self.answers:
            self.late.append(receiver.resolutionComplete)
            return
        for it in self.answers.pop(0):
            kind = IPv6Address if ":" in it else IPv4Address
            receiver.addressResolved(kind("TCP", it, 0))
        receiver.resolutionComplete()


class DialerTests(ReactorTestCase):
    """:class:`Dialer`."""

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.servers: list[Greeter] = []

    def built(self) -> Greeter:
        self.servers.append(Greeter())
        return self.servers[-1]

    def listen(
        self,
        tls: dev_pki.Issued | None = None,
        address: str = "127.0.0.1",
        port: int = 0,
        maximum: str | None = None,
    ) -> int:
        factory: Any = Factory.forProtocol(self.built)
        if tls is not None:
            factory = tls_factory(Serve(tls, maximum), factory, self.reactor)
        listening = self.reactor.listenTCP(port, factory, interface=address)
        self.addCleanup(listening.stopListening)
        return int(listening.getHost().port)

    def dead_port(self, address: str = "127.0.0.1") -> int:
        """A port on which nobody listens."""
        it = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        self.addCleanup(it.close)
        it.bind((address, 0))
        return int(it.getsockname()[1])

    def deaf_port(self, address: str = "127.0.0.1") -> int:
        """A port where connecting never ends: its backlog is full."""
        deaf = socket.socket()
        self.addCleanup(deaf.close)
        deaf.bind((address, 0))
        deaf.listen(0)
        port = int(deaf.getsockname()[1])
        for _ in range(3):
            it = socket.socket()
            it.setblocking(False)
            self.addCleanup(it.close)
            it.connect_ex((address, port))
        return port

    def dialer(self, *answers: Sequence[str], rules: Sequence[str] = LOOPBACK, **options: Any) -> Dialer:
        self.names = Names(*answers)
        policy = Policy([parse_rule(it) for it in rules])
        return Dialer(self.reactor, policy, self.names, **options)  # type: ignore[arg-type]  # a double

    def client(self) -> Factory[Greeter]:
        return Factory.forProtocol(Greeter)

    async def fails(self, kind: type[GatewayError], reason: str, work: Awaitable[Any]) -> None:
        try:
            await work
        except kind as error:
            self.assertEqual(error.reason, reason)
        else:
            self.fail("it was connected")

    def held(self) -> list[object]:
        """Everything that the reactor holds."""
        return [*self.reactor.getReaders(), *self.reactor.getWriters(), *self.reactor.getDelayedCalls()]

    async def close(self, protocol: Any) -> None:
        protocol.transport.loseConnection()
        await protocol.lost
        await self.until(lambda: all(it.lost.called for it in self.servers))

    async def exchange(self, protocol: Any) -> None:
        """Both sides hear each other, and then are closed."""
        await self.until(lambda: protocol.heard == b"hello" and self.servers[-1].heard == b"hello")
        await self.close(protocol)

    async def test_tcp(self) -> None:
        """A name is resolved once, dialed by address, and the socket has its options."""
        port = self.listen()
        protocol: Any = await self.dialer(["127.0.0.1"]).connect("tcp", "Host.invalid", port, self.client())
        self.assertEqual(self.names.asked, ["host.invalid"])
        handle = protocol.transport.getHandle()
        self.assertTrue(protocol.transport.getTcpNoDelay())
        self.assertTrue(protocol.transport.getTcpKeepAlive())
        self.assertEqual(handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), 30)
        self.assertIs(protocol.transport.protocol, protocol)
        await self.exchange(protocol)

    async def test_literal(self) -> None:
        """An address needs no resolver."""
        dialer = self.dialer()
        for address in ("127.0.0.1", "::1"):
            await self.exchange(
                await dialer.connect("tcp", address, self.listen(address=address), self.client())
            )
        self.assertEqual(self.names.asked, [])

    async def test_source(self) -> None:
        """Connections come from the local address that is configured."""
        dialer = self.dialer(source=["127.0.0.9"])
        protocol: Any = await dialer.connect("tcp", "127.0.0.1", self.listen(), self.client())
        self.assertEqual(protocol.transport.getHost().host, "127.0.0.9")
        await self.exchange(protocol)

    async def test_every_address_is_judged(self) -> None:
        """One bad address among good ones refuses the name, and nobody is dialed."""
        port = self.listen()
        for bad in ("169.254.169.254", "::ffff:169.254.169.254", "192.0.2.1", "fe80::1"):
            for answer in (["127.0.0.1", bad], [bad, "127.0.0.1"]):
                work = self.dialer(answer).connect("tcp", NAME, port, self.client())
                await self.fails(Forbidden, "target", work)
        await deferLater(self.reactor, 0.05)
        self.assertEqual(self.servers, [])

    async def test_rebinding(self) -> None:
        """Only what was judged is dialed, whatever the resolver says when asked again."""
        port = self.listen()
        self.listen(address="127.0.0.2", port=port)
        dialer = self.dialer(["127.0.0.1"], ["127.0.0.2"], rules=["*://127.0.0.1:*"])
        protocol: Any = await dialer.connect("tcp", NAME, port, self.client())
        self.assertEqual(protocol.transport.getPeer().host, "127.0.0.1")
        self.assertEqual(len(self.names.asked), 1)
        await self.exchange(protocol)
        await self.fails(Forbidden, "target", dialer.connect("tcp", NAME, port, self.client()))
        self.assertEqual(len(self.servers), 1)

    async def test_half_addresses(self) -> None:
        """With the real resolver, odd ways to write loopback are refused; and so are odd hosts."""
        dialer = Dialer(self.reactor, Policy([parse_rule("*://*:*")]))
        for host in (
            "127.1",
            "0x7f000001",
            "2130706433",
            "localhost",
            "0",
            "::ffff:127.0.0.1",
            "h.",
            "::1%lo",
        ):
            await self.fails(Forbidden, "target", dialer.connect("tcp", host, 80, self.client()))

    async def test_dns(self) -> None:
        """No address, and no answer in time, are failures of DNS."""
        dialer = self.dialer([], dns_timeout=0.05)
        await self.fails(UpstreamFailed, "dns", dialer.connect("tcp", NAME, 80, self.client()))
        await self.fails(UpstreamFailed, "dns", dialer.connect("tcp", NAME, 80, self.client()))
        self.names.late.pop()()

    async def test_dns_is_bounded(self) -> None:
        """A hanging resolver is asked no more than so often at once, until it answers."""
        dialer = self.dialer(dns_timeout=0.1, lookups=2)
        dials = [Deferred.fromCoroutine(dialer.connect("tcp", NAME, 1, self.client())) for _ in range(5)]
        for it in dials:
            await self.fails(UpstreamFailed, "dns", it)
        self.assertEqual(len(self.names.asked), 2)
        for done in self.names.late:
            done()
        # Whoever waited has gone; nobody is asked on their behalf.
        self.assertEqual(len(self.names.asked), 2)
        self.names.answers.append([])
        await self.fails(UpstreamFailed, "dns", dialer.connect("tcp", NAME, 1, self.client()))
        self.assertEqual(len(self.names.asked), 3)

    async def test_refused(self) -> None:
        """A closed port refuses, and where no connection can go is unreachable."""
        port = self.dead_port()
        work = self.dialer().connect("tcp", "127.0.0.1", port, self.client())
        await self.fails(UpstreamFailed, "refused", work)
        # No route leads to all hosts at once; the kernel says so without sending anything.
        dialer = self.dialer(rules=["*://255.255.255.255:*"])
        work = dialer.connect("tcp", "255.255.255.255", port, self.client())
        await self.fails(UpstreamFailed, "unreachable", work)

    async def test_next_address(self) -> None:
        """When one address refuses or keeps silent the next one is tried."""
        port = self.dead_port()
        self.listen(address="127.0.0.2", port=port)
        dialer = self.dialer(["127.0.0.1", "127.0.0.2"])
        await self.exchange(await dialer.connect("tcp", NAME, port, self.client()))
        port = self.deaf_port()
        self.listen(address="127.0.0.2", port=port)
        dialer = self.dialer(["127.0.0.1", "127.0.0.2"])
        await self.exchange(await dialer.connect("tcp", NAME, port, self.client()))

    async def test_timeout(self) -> None:
        """The deadline covers TCP, and TLS with a server that says nothing."""
        dialer = self.dialer(["127.0.0.1", "127.0.0.1"], connect_timeout=0.1)
        work = dialer.connect("tcp", "127.0.0.1", self.deaf_port(), self.client())
        await self.fails(UpstreamTimeout, "connect", work)
        creator = strict_creator(NAME, [ca().certificate])
        silent = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(silent.close)
        port = silent.getsockname()[1]
        work = dialer.connect("tcp", "127.0.0.1", port, self.client(), tls=creator)
        await self.fails(UpstreamTimeout, "connect", work)
        peer, _ = silent.accept()
        self.addCleanup(peer.close)
        await deferLater(self.reactor, 0.01)
        peer.settimeout(20)
        self.assertRaises(ConnectionResetError, lambda: [peer.recv(4096) for _ in range(9)])

    async def test_tls(self) -> None:
        """The given name is verified, not the address; the protocol comes after the handshake."""
        port = self.listen(ca().issue("x", now=NOW, names=[NAME]))
        creator = strict_creator(NAME, [ca().certificate])
        dialer = self.dialer(["127.0.0.1"])
        protocol: Any = await dialer.connect("https", NAME, port, self.client(), tls=creator)
        self.assertIsNotNone(protocol.transport.getPeerCertificate())
        self.assertTrue(protocol.transport.getTcpNoDelay())
        await self.exchange(protocol)
        port = self.listen(ca().issue("x", now=NOW, addresses=["127.0.0.1"]))
        creator = strict_creator("127.0.0.1", [ca().certificate])
        await self.exchange(await dialer.connect("https", "127.0.0.1", port, self.client(), tls=creator))

    async def test_tls_refused(self) -> None:
        """A peer that is not who it should be, or no TLS at all: no protocol is built, nothing logged."""
        built: list[object] = []
        factory = Factory.forProtocol(lambda: built.append(1))  # type: ignore[type-var]  # it builds nothing
        client = [ExtendedKeyUsageOID.CLIENT_AUTH]
        for issued in (
            ca().issue("x", now=NOW, names=["other.invalid"]),
            ca().issue(NAME, now=NOW),
            ca().issue("x", now=NOW, names=["*.invalid"]),
            ca().issue("x", now=NOW, names=[NAME], usages=client),
            dev_pki.authority(NOW).issue("x", now=NOW, names=[NAME]),
            None,
        ):
            port = self.listen(issued)
            creator = strict_creator(NAME, [ca().certificate])
            work = self.dialer(["127.0.0.1"]).connect("https", NAME, port, factory, tls=creator)
            await self.fails(UpstreamFailed, "tls", work)
        self.assertEqual(built, [])
        await self.until(lambda: all(it.lost.called for it in self.servers))
        self.assertEqual(self.flushLoggedErrors(), [])

    async def test_resumes(self) -> None:
        """The session of a connection is resumed by the next one, unless the peer was the wrong one."""
        kept: list[SSL.Connection] = []

        class Sessions(ClientSessions):
            def keep(self, key: Hashable, connection: SSL.Connection) -> None:
                kept.append(connection)
                super().keep(key, connection)

        sessions = Sessions(self.reactor, NOW.timestamp)

        async def visit(port: int) -> bytes | None:
            creator = strict_creator(NAME, [ca().certificate], sessions=sessions)
            protocol: Any = await self.dialer(["127.0.0.1"]).connect(
                "https", NAME, port, self.client(), tls=creator
            )
            # That of TLS 1.2 lasts as long as the session.
            secret: bytes | None = protocol.transport.getHandle().master_key()
            await self.exchange(protocol)
            return secret

        port = self.listen(ca().issue("x", now=NOW, names=[NAME]), maximum="1.2")
        self.assertEqual(await visit(port), await visit(port))
        self.assertEqual(len(kept), 2)
        other = self.listen(ca().issue("x", now=NOW, names=["other.invalid"]), maximum="1.2")
        await self.fails(UpstreamFailed, "tls", visit(other))
        await self.fails(UpstreamFailed, "tls", visit(other))
        self.assertEqual(len(kept), 2)

    async def test_cancel(self) -> None:
        """Cancelling at any stage leaves nothing in the reactor."""
        silent = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(silent.close)
        creator = strict_creator(NAME, [ca().certificate])
        await deferLater(self.reactor, 0)  # the reactor opens some of its own as it starts
        before = self.held()
        for dialer, host, port, tls in (
            (self.dialer(), NAME, 1, None),
            (self.dialer(["127.0.0.1", "127.0.0.2"]), NAME, self.deaf_port(), None),
            (self.dialer(), "127.0.0.1", silent.getsockname()[1], creator),
        ):
            d = Deferred.fromCoroutine(dialer.connect("tcp", host, port, self.client(), tls=tls))
            await deferLater(self.reactor, 0.05)
            d.cancel()
            try:
                await d
            except CancelledError:
                pass
            await deferLater(self.reactor, 0.01)
            self.assertCountEqual(self.held(), before)

    async def test_unix(self) -> None:
        """A socket in the file system or an abstract one; the missing and the impossible fail."""
        path = Path(self.mktemp())
        path.parent.mkdir(parents=True, exist_ok=True)
        name = "\0gateway-test-" + path.name
        dialer = self.dialer()
        for it in (str(path), name):
            listening = self.reactor.listenUNIX(it, Factory.forProtocol(self.built))
            self.addCleanup(listening.stopListening)
            await self.exchange(await dialer.connect_unix(it, self.client()))
        for it in (str(path) + "x", name + "x", "/" + "x" * 107, "/x\0y", ""):
            try:
                await dialer.connect_unix(it, self.client())
            except UpstreamFailed as error:
                self.assertIn(error.reason, ("unreachable", "refused"))
            else:
                self.fail(it)
