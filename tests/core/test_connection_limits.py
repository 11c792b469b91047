"""Connections counted at accept, plain and over TLS."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import Any

from OpenSSL import SSL
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IOpenSSLServerConnectionCreator,
    IProtocol,
    IProtocolFactory,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from gateway.core import connection_limits, dev_pki
from gateway.core.config_model import Limits
from gateway.core.connection_limits import KNOWN, ConnectionLimits
from gateway.core.exchange import Exchange
from gateway.core.metrics import Metrics
from gateway.core.penalties import Penalties, within
from gateway.core.tls import basic_context, present, tls_factory
from gateway.core.web import GatewaySite
from gateway.errors import NoTicket
from tests.support import ReactorTestCase

ME = "192.0.2.1"
GET = b"GET /%s HTTP/1.1\r\nhost: gateway.invalid\r\n\r\n"


@cache
def context() -> SSL.Context:
    now = datetime.now(UTC)
    issued = dev_pki.authority(now).issue("gateway", now=now, names=["gateway.invalid"])
    made = basic_context(SSL.TLS_SERVER_METHOD)
    present(made, [issued.certificate], issued.key)
    return made


@implementer(IOpenSSLServerConnectionCreator)
class Creator:
    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        return SSL.Connection(context(), None)


def address(peer: str) -> IAddress:
    if peer == "local":
        return UNIXAddress(None)
    return IPv6Address("TCP", peer, 5000) if ":" in peer else IPv4Address("TCP", peer, 5000)


def strangers(number: int) -> list[str]:
    return [f"198.51.{100 + i // 250}.{1 + i % 250}" for i in range(number)]


async def guarded(exchange: Exchange) -> None:
    """Authorizes whoever asks for ``/good``."""
    await exchange.body.read(1024)
    if exchange.head.target != b"/good":
        raise NoTicket(reason="unknown")
    exchange.allow_idle(3600)
    exchange.respond(200, body=b"good")


class Client:
    """One connection, and our TLS when there is some."""

    def __init__(self, clock: Clock, protocol: IProtocol, peer: str) -> None:
        self.clock = clock
        self.protocol: Any = protocol
        self.wire = StringTransport(peerAddress=address(peer))
        self.tls: SSL.Connection | None = None
        protocol.makeConnection(self.wire)

    def shake(self) -> None:
        self.tls = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
        self.tls.set_connect_state()
        for _ in range(4):
            try:
                self.tls.do_handshake()
            except SSL.WantReadError:
                pass
            self.exchange()

    def exchange(self) -> None:
        assert self.tls is not None
        try:
            self.protocol.dataReceived(self.tls.bio_read(65536))
        except SSL.WantReadError:
            pass
        self.clock.advance(0)
        if self.wire.value():
            self.tls.bio_write(self.wire.value())
            self.wire.clear()

    def ask(self, path: bytes = b"good") -> bytes:
        """The status line of the answer."""
        self.wire.clear()
        if self.tls is None:
            self.protocol.dataReceived(GET % path)
            answer: bytes = self.wire.value()
        else:
            self.tls.send(GET % path)
            self.exchange()
            answer = self.tls.recv(65536)
        return answer.partition(b"\r\n")[0]

    def leave(self) -> None:
        self.protocol.connectionLost(Failure(connectionDone.value))


class LimitsCase(SynchronousTestCase):
    """Small caps, so that a few connections reach them."""

    def make(self, **keys: Any) -> None:
        self.clock = Clock()
        self.audited: list[dict[str, object]] = []
        self.metrics = Metrics(0.0)
        self.limits = ConnectionLimits(self.clock, Limits(**keys), self.metrics, self.audit, None)
        self.site = GatewaySite(self.clock, proven=self.limits.proven)
        self.site.routes.append(lambda exchange: guarded)
        self.plain = self.limits.wrap(self.site, "images")
        self.tls = self.limits.wrap(tls_factory(Creator(), self.site, self.clock), "consoles")

    def audit(self, event: str, /, **fields: object) -> None:
        self.audited.append({"event": event, **fields})

    def connect(self, peer: str = ME, factory: IProtocolFactory | None = None) -> Client | None:
        protocol = (factory or self.plain).buildProtocol(address(peer))
        return None if protocol is None else Client(self.clock, protocol, peer)

    def connected(self, peer: str = ME, factory: IProtocolFactory | None = None) -> Client:
        client = self.connect(peer, factory)
        assert client is not None, f"{peer} was refused by {self.audited[-1]}"
        return client

    def refused(self, peer: str = ME, factory: IProtocolFactory | None = None) -> object:
        """The limit by which a connection is refused."""
        before = len(self.audited)
        self.assertIsNone(self.connect(peer, factory))
        (record,) = self.audited[before:]
        self.assertEqual((record["event"], record["result"], record["peer"]), ("limit", "refused", peer))
        return record["reason"]

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"gateway_{name}", labels)


class Caps(LimitsCase):
    """One more than each cap is refused, and one that leaves makes room."""

    def test_total(self) -> None:
        """Connections in all, whoever has them: proven, exempt and unix sockets, too."""
        self.make(connections=4)
        first = self.connected()
        first.ask()
        for peer in ("127.0.0.1", "local", "198.51.100.1"):
            self.connected(peer)
        for peer in (ME, "127.0.0.1", "::1", "local", "198.51.100.2"):
            self.assertEqual(self.refused(peer), "connections")
        self.assertEqual(self.limits.fraction, 1.0)
        first.leave()
        self.connected("local")
        self.assertEqual(self.sample("limit_hits_total", limit="connections"), 5)
        self.assertEqual(self.sample("connections", listener="images"), 4)
        self.assertEqual(self.sample("connections_total", listener="images", result="accepted"), 5)
        self.assertEqual(self.sample("connections_total", listener="images", result="refused"), 5)

    def test_descriptors(self) -> None:
        """Where few files may be open there are fewer connections: half of them, less a reserve."""
        self.make(connections=4096)
        for files, total in ((None, 4096), (20_000, 4096), (1024, 256), (572, 30), (100, 16)):
            self.limits.descriptors = files
            self.assertEqual(self.limits.total, total)
        for peer in strangers(16):
            self.connected(peer)
        self.assertEqual(self.refused(), "connections")

    def test_per_address(self) -> None:
        """Connections of one address, proven ones; other addresses do not suffer."""
        self.make(connections_per_address=3)
        clients = [self.connected() for _ in range(3)]
        for client in clients:
            self.assertEqual(client.ask(), b"HTTP/1.1 200 OK")
        self.assertEqual(self.refused(), "connections_per_address")
        self.connected("192.0.2.2")
        clients[1].leave()
        self.connected()

    def test_unauthenticated(self) -> None:
        """Connections that have proven nothing, of all addresses; a bad credential proves nothing."""
        self.make(unauthenticated=3)
        clients = [self.connected(peer) for peer in strangers(3)]
        self.assertEqual(clients[0].ask(b"bad"), b"HTTP/1.1 403 Forbidden")
        self.assertEqual(self.refused(), "unauthenticated")
        self.assertEqual(clients[0].ask(), b"HTTP/1.1 200 OK")
        self.connected()
        self.assertEqual(self.refused("192.0.2.2"), "unauthenticated")
        clients[1].leave()
        self.connected("192.0.2.2")

    def test_unauthenticated_per_address(self) -> None:
        """The same of one address, even when it has others that are proven."""
        self.make(unauthenticated_per_address=2)
        first = self.connected()
        self.connected()
        self.assertEqual(self.refused(), "unauthenticated_per_address")
        first.ask()
        first.ask()
        self.connected()
        self.assertEqual(self.refused(), "unauthenticated_per_address")
        self.connected("192.0.2.2")

    def test_handshakes(self) -> None:
        """TLS handshakes in progress; one that is complete, or given up, makes room. Plain ones are none."""
        self.make(handshakes=2, unauthenticated=100)
        clients = [self.connected(peer, self.tls) for peer in strangers(2)]
        self.assertEqual(self.refused(ME, self.tls), "handshakes")
        self.connected()
        clients[0].shake()
        third = self.connected(ME, self.tls)
        self.assertEqual(self.refused("192.0.2.2", self.tls), "handshakes")
        third.leave()
        self.connected("192.0.2.2", self.tls)

    def test_accept_rate(self) -> None:
        """New connections a second, of all addresses; one that ended at once counted all the same."""
        self.make(accept_rate=10)
        for peer in strangers(10):
            self.connected(peer).leave()
        self.assertEqual(self.refused(), "accept_rate")
        self.clock.advance(0.1)
        self.connected()
        self.assertEqual(self.refused("192.0.2.2"), "accept_rate")
        self.clock.advance(3600)
        for peer in strangers(10):
            self.connected(peer).leave()
        self.assertEqual(self.refused(), "accept_rate")

    def test_accept_rate_per_address(self) -> None:
        """The same of one address, which cannot use up the rate of all by it."""
        self.make(accept_rate=10, accept_rate_per_address=5)
        for _ in range(5):
            self.connected().leave()
        for _ in range(100):
            self.assertEqual(self.refused(), "accept_rate_per_address")
        for peer in strangers(5):
            self.connected(peer)
        self.clock.advance(0.2)
        self.connected()

    def test_pace(self) -> None:
        """Both rates can be halved."""
        self.make(accept_rate=10, accept_rate_per_address=8)
        self.limits.pace = 0.5
        for peer in strangers(5):
            self.connected(peer)
        self.assertEqual(self.refused(), "accept_rate")
        self.clock.advance(1)
        for _ in range(4):
            self.connected()
        self.assertEqual(self.refused(), "accept_rate_per_address")

    def test_reload(self) -> None:
        """New limits hold for connections to come; open ones stay, and are counted."""
        self.make(connections_per_address=3)
        clients = [self.connected() for _ in range(3)]
        self.limits.reload(Limits(connections_per_address=2))
        self.assertEqual(clients[0].ask(), b"HTTP/1.1 200 OK")
        clients[0].leave()
        self.assertEqual(self.refused(), "connections_per_address")
        clients[1].leave()
        self.connected()
        self.limits.reload(Limits(connections_per_address=1, exempt=(f"{ME}/32",)))
        self.connected()


class Addresses(LimitsCase):
    """Whom a connection counts for."""

    def test_ipv6(self) -> None:
        """All of a /64 is one address; an IPv4 address in IPv6 form is the IPv4 address."""
        self.make(connections_per_address=2)
        self.connected("2001:db8:0:1::1")
        self.connected("2001:db8:0:1:ffff::2")
        self.assertEqual(self.refused("2001:db8:0:1::3"), "connections_per_address")
        self.connected("2001:db8:0:2::1")
        self.connected(ME)
        self.connected(f"::ffff:{ME}")
        self.assertEqual(self.refused(ME), "connections_per_address")

    def test_exempt(self) -> None:
        """Loopback, unix sockets and other exempt networks count in all only."""
        self.make(
            connections_per_address=1,
            unauthenticated=1,
            unauthenticated_per_address=1,
            accept_rate=1,
            accept_rate_per_address=1,
            handshakes=1,
            exempt=("127.0.0.0/8", "::1/128", "203.0.113.0/24"),
        )
        for peer in ("127.0.0.1", "::1", "::ffff:127.0.0.1", "203.0.113.9", "local"):
            for _ in range(5):
                self.connected(peer)
                self.connected(peer, self.tls)
        self.connected()
        self.assertEqual(self.refused(), "accept_rate_per_address")
        self.assertEqual(self.limits.fraction, 51 / 4096)

    def test_bounded(self) -> None:
        """Addresses without a connection are remembered up to a number, those with one for sure."""
        self.patch(connection_limits, "ADDRESSES", 10)
        self.make(connections_per_address=1)
        self.connected()
        for peer in strangers(200):
            client = self.connected(peer)
            client.ask()
            client.leave()
        self.assertEqual(self.refused(), "connections_per_address")
        self.assertEqual((len(self.limits._buckets), len(self.limits._known)), (10, 10))
        self.assertEqual(list(self.limits._shares), [ME])

    def test_within(self) -> None:
        """Networks are told apart by their masks, in both families."""
        contains = within(["192.0.2.0/25", "2001:db8::/32"])
        for peer, expected in (
            ("192.0.2.127", True),
            ("192.0.2.128", False),
            ("::ffff:192.0.2.1", True),
            ("2001:db8:ffff::1", True),
            ("2001:db9::1", False),
            ("local", True),
        ):
            self.assertEqual(contains(peer), expected, peer)


class Strangers(LimitsCase):
    """Silent peers, and whoever has proven something."""

    def test_silent(self) -> None:
        """Silent peers at every cap of theirs lock out no address with a proven connection."""
        self.make(unauthenticated=20, handshakes=10, accept_rate=50)
        mine = self.connected(ME, self.tls)
        mine.shake()
        self.assertEqual(mine.ask(), b"HTTP/1.1 200 OK")
        self.clock.advance(KNOWN + 1)
        for number, peer in enumerate(strangers(200)):
            self.connect(peer, self.tls if number % 2 else self.plain)
        self.assertEqual(self.limits._unproven, 20)
        for factory in (self.plain, self.tls):
            self.connected(ME, factory)
        self.assertEqual(mine.ask(), b"HTTP/1.1 200 OK")

    def test_known(self) -> None:
        """An address stays known for a while after its last proven connection."""
        self.make(unauthenticated=5)
        for proves in (True, False):
            mine = self.connected(ME)
            mine.ask(b"good" if proves else b"bad")
            mine.leave()
            flood = [self.connected(peer) for peer in strangers(5)]
            if proves:
                self.clock.advance(KNOWN - 1)
                self.connected(ME).leave()
                self.clock.advance(1)
            self.assertEqual(self.refused(ME), "unauthenticated")
            for client in flood:
                client.leave()

    def test_proven_over_tls(self) -> None:
        """What TLS carries proves the connection that was counted, once however often it is asked."""
        self.make(unauthenticated=2)
        mine = self.connected(ME, self.tls)
        mine.shake()
        self.connected("192.0.2.2")
        self.assertEqual(self.refused("192.0.2.3"), "unauthenticated")
        for _ in range(3):
            self.assertEqual(mine.ask(), b"HTTP/1.1 200 OK")
            self.limits.proven(mine.protocol)
        self.connected("192.0.2.3")
        self.assertEqual(self.refused("192.0.2.4"), "unauthenticated")

    def test_given_back(self) -> None:
        """Nothing stays counted, however a connection ends, and however often it does."""
        self.make()
        for peer in (ME, "local", "2001:db8::1"):
            silent, bad, good = (self.connected(peer) for _ in range(3))
            bad.ask(b"bad")
            good.ask()
            shaking, shaken = self.connected(peer, self.tls), self.connected(peer, self.tls)
            shaken.shake()
            shaken.ask()
            for client in (silent, bad, good, shaking, shaken):
                client.leave()
            self.limits.closed(shaken.protocol)
        limits = self.limits
        self.assertEqual((limits.fraction, limits._unproven, limits._shaking, limits._shares), (0, 0, 0, {}))
        self.assertEqual(self.sample("connections", listener="images"), 0)
        self.assertEqual(self.sample("connections", listener="consoles"), 0)

    def test_no_hop(self) -> None:
        """What a wrapped factory builds is what the factory built, with its own ``dataReceived``."""
        self.make()
        channel = self.connected().protocol
        self.assertEqual(vars(channel).keys() & {"dataReceived", "write"}, set())
        self.assertIs(channel.factory, self.site)

    def test_refusing_factory(self) -> None:
        """A factory that builds nothing leaves nothing counted."""
        self.make()

        class Refusing(Factory):
            def buildProtocol(self, addr: IAddress | None) -> None:
                return None

        self.assertIsNone(self.limits.wrap(Refusing(), "images").buildProtocol(address(ME)))
        self.assertEqual(self.limits.fraction, 0)


class PenaltiesOnSite(LimitsCase):
    """Penalties as a listener uses them."""

    def test_429(self) -> None:
        """After too many bad credentials the answer is 429 before anything is looked at, then as before."""
        self.make()
        penalties = Penalties(self.clock, 20, 60.0, 900.0, self.limits.exempt, self.limits.hit)
        self.site.admit = lambda exchange: penalties.check(exchange.peer)
        self.site.refused = penalties.refused
        client = self.connected()
        for _ in range(21):
            self.assertEqual(client.ask(b"bad"), b"HTTP/1.1 403 Forbidden")
        self.assertEqual(client.ask(b"good"), b"HTTP/1.1 429 Too Many Requests")
        self.assertIn(b"\r\nretry-after: 60\r\n", client.wire.value())
        self.assertEqual(self.audited[-1]["reason"], "auth_failures")
        self.assertEqual(self.sample("limit_hits_total", limit="auth_failures"), 1)
        self.assertEqual(self.connected("192.0.2.2").ask(), b"HTTP/1.1 200 OK")
        self.clock.advance(59)
        self.assertEqual(self.connected().ask(), b"HTTP/1.1 429 Too Many Requests")
        self.clock.advance(1)
        self.assertEqual(self.connected().ask(), b"HTTP/1.1 200 OK")


class Sockets(ReactorTestCase):
    """Over loopback."""

    async def test_one_too_many(self) -> None:
        """The connections above a cap are closed at once, and only they."""
        from twisted.internet import reactor as installed

        reactor: Any = installed
        limits = ConnectionLimits(
            reactor,
            Limits(unauthenticated_per_address=3, exempt=()),
            Metrics(0.0),
            lambda event, /, **_: None,
        )
        site = GatewaySite(reactor, proven=limits.proven)
        site.routes.append(lambda exchange: guarded)
        port = reactor.listenTCP(0, limits.wrap(site, "images"), interface="127.0.0.1")
        ended: list[int] = []

        class Silent(Protocol):
            def __init__(self, number: int) -> None:
                self.number = number
                self.lost: Deferred[None] = Deferred()

            def connectionLost(self, reason: Failure = connectionDone) -> None:
                ended.append(self.number)
                self.lost.callback(None)

        silent = []
        try:
            from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol

            endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
            for number in range(5):
                silent.append(await connectProtocol(endpoint, Silent(number)))
            await silent[3].lost
            await silent[4].lost
            self.assertEqual(sorted(ended), [3, 4])
            self.assertEqual(limits._unproven, 3)
        finally:
            for client in silent:
                if not client.lost.called:
                    client.transport.loseConnection()
                    await client.lost
            await port.stopListening()
            site.close()
        for _ in range(1000):
            if not limits.fraction:
                break
            await deferLater(reactor, 0.01, lambda: None)
        self.assertEqual(limits.fraction, 0)
