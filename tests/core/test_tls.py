"""TLS both ways: contexts, the strict host-name check, deadlines, reload."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SynchronousTestCase

from gateway.core import dev_pki, tls_client
from gateway.core.tls import basic_context, present, tls_factory
from gateway.core.tls_client import Terms, strict_creator
from gateway.core.tls_server import ReloadableTLS, ServerContext
from gateway.errors import ConfigError, UpstreamFailed
from tests.support import ReactorTestCase

NOW = datetime.now(UTC)
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
NAME = "good.hosts.invalid"


@cache
def ca() -> dev_pki.Issued:
    return dev_pki.authority(NOW)


@cache
def other_ca() -> dev_pki.Issued:
    return dev_pki.authority(NOW, "another CA")


@cache
def good() -> dev_pki.Issued:
    return ca().issue("gateway", now=NOW, names=[NAME, "localhost"], addresses=["127.0.0.1"], usages=[SERVER])


class _Renegotiates(ProcessProtocol):
    """``openssl s_client``, told to renegotiate once it is connected.

    :ivar ended: all that it has said, when it is over.
    """

    def __init__(self) -> None:
        self.ended: Deferred[bytes] = Deferred()
        self._said = b""
        self._told = False

    def outReceived(self, data: bytes) -> None:
        self._said += data
        # Which is the last that it says of the handshake.
        if not self._told and b"Verify return code" in self._said:
            self._told = True
            assert self.transport is not None
            self.transport.write(b"R\n")

    errReceived = outReceived

    def processEnded(self, reason: object) -> None:
        self.ended.callback(self._said)


def raw_server(issued: dev_pki.Issued) -> SSL.Context:
    """A server that has no scruples about its certificate."""
    context = basic_context(SSL.TLS_SERVER_METHOD)
    present(context, [issued.certificate], issued.key)
    return context


def handshake(client: SSL.Connection, server: SSL.Connection) -> None:
    """Both handshakes and one byte each way.

    :raises SSL.Error: one side did not want to.
    """
    client.set_connect_state()
    server.set_accept_state()
    sides = [(client, server), (server, client)]
    done: set[SSL.Connection] = set()
    for _ in range(10):
        for side, other in sides:
            try:
                side.do_handshake()
                done.add(side)
            except SSL.WantReadError:
                pass
            try:
                while True:
                    other.bio_write(side.bio_read(65536))
            except SSL.WantReadError:
                pass
    assert len(done) == 2, done
    for side, other in sides:
        side.send(b"x")
        other.bio_write(side.bio_read(65536))
        assert other.recv(10) == b"x"


def client_to(
    host: str, trust: Sequence[x509.Certificate | Path] | None = None, **options: Any
) -> SSL.Connection:
    """A connection of :func:`strict_creator`'s, over no transport."""
    creator: Any = strict_creator(host, trust or [ca().certificate], **options)
    client: SSL.Connection = creator.clientConnectionForTLS(None)
    return client


def accepted(client: SSL.Connection, server: SSL.Connection) -> bool:
    try:
        handshake(client, server)
    except SSL.Error:
        return False
    return True


class ContextTests(SynchronousTestCase):
    def test_no_idle_buffers(self) -> None:
        """A connection that waits holds no buffers: they are most of what a console costs."""
        for method in (SSL.TLS_SERVER_METHOD, SSL.TLS_CLIENT_METHOD):
            self.assertTrue(basic_context(method).set_mode(0) & SSL.MODE_RELEASE_BUFFERS)


class StrictCreator(SynchronousTestCase):
    """:func:`strict_creator`."""

    def verifies(
        self, host: str, issued: dev_pki.Issued, trust: Sequence[x509.Certificate | Path] | None = None
    ) -> bool:
        return accepted(client_to(host, trust), SSL.Connection(raw_server(issued), None))

    def test_good(self) -> None:
        """The right name, address or wildcard of one label is accepted; no EKU is fine."""
        for host, names, addresses in (
            (NAME, [NAME], []),
            (NAME.upper(), [NAME], []),
            (NAME, ["*.hosts.invalid"], []),
            (NAME, ["x.invalid", NAME], ["192.0.2.1"]),
            ("192.0.2.1", [], ["192.0.2.1"]),
            ("2001:db8::1", [], ["2001:db8::1"]),
            ("2001:DB8:0::1", [NAME], ["2001:db8::1"]),
        ):
            for usages in ([], [SERVER], [SERVER, CLIENT]):
                issued = ca().issue("x", now=NOW, names=names, addresses=addresses, usages=usages)
                self.assertTrue(self.verifies(host, issued), (host, names, addresses))

    def test_wrong_name(self) -> None:
        """Any other name, address, number of labels or too-wide wildcard is refused."""
        for host, names, addresses in (
            (NAME, ["bad.hosts.invalid"], []),
            (NAME, ["hosts.invalid"], []),
            (NAME, [f"x.{NAME}"], []),
            (NAME, [], ["192.0.2.1"]),
            (NAME, ["*.invalid"], []),
            ("good.invalid", ["*.invalid"], []),
            ("good.example", ["*.example"], []),
            ("good.com", ["*.com"], []),
            ("a.b.example", ["*.*.example"], []),
            ("a.b.example", ["a.*.example"], []),
            ("a.b.example", ["*"], []),
            ("a.b.example", ["*a.b.example"], []),
            ("a.b.example", ["*..example"], []),
            ("hosts.invalid", ["*.hosts.invalid"], []),
            ("a.good.hosts.invalid", ["*.hosts.invalid"], []),
            (NAME, [NAME, "*.invalid"], []),
            ("192.0.2.1", [], ["192.0.2.2"]),
            ("192.0.2.1", ["x192.0.2.1"], []),
            ("192.0.2.1", ["*.0.2.1"], []),
            ("192.0.2.1", [], ["::ffff:192.0.2.1"]),
            ("2001:db8::1", [], ["2001:db8::2"]),
        ):
            issued = ca().issue(host, now=NOW, names=names, addresses=addresses, usages=[SERVER])
            self.assertFalse(self.verifies(host, issued), (host, names, addresses))

    def test_no_alternative_name(self) -> None:
        """A common name proves nothing, for names and addresses."""
        for host in (NAME, "192.0.2.1"):
            self.assertFalse(self.verifies(host, ca().issue(host, now=NOW, usages=[SERVER])))

    def test_dates_and_purpose(self) -> None:
        """Expired, not yet valid, and meant for clients only: refused."""
        day = timedelta(days=1)
        for options in (
            {"start": -2 * day, "life": -day},
            {"start": day, "life": 2 * day},
            {"usages": [CLIENT]},
        ):
            issued = ca().issue("x", now=NOW, names=[NAME], **options)
            self.assertFalse(self.verifies(NAME, issued), options)

    def test_wrong_ca(self) -> None:
        """Another CA, no CA, and a leaf that plays CA: refused."""
        self.assertFalse(self.verifies(NAME, other_ca().issue("x", now=NOW, names=[NAME])))
        self.assertFalse(self.verifies(NAME, dev_pki.authority(NOW)))
        self.assertFalse(self.verifies(NAME, good(), [other_ca().certificate]))
        forged = good().issue("x", now=NOW, names=[NAME])
        context = raw_server(forged)
        present(context, [forged.certificate, good().certificate], forged.key)
        self.assertFalse(accepted(client_to(NAME), SSL.Connection(context, None)))

    def test_intermediate(self) -> None:
        """A chain through an intermediate CA is accepted; the strict check is for the leaf only."""
        middle = ca().issue("middle", now=NOW, ca=True)
        leaf = middle.issue("x", now=NOW, names=[NAME], usages=[SERVER])
        context = raw_server(leaf)
        present(context, [leaf.certificate, middle.certificate], leaf.key)
        self.assertTrue(accepted(client_to(NAME), SSL.Connection(context, None)))

    def test_server_name(self) -> None:
        """SNI carries names and never addresses."""
        for host, sent in ((NAME, NAME.encode()), ("127.0.0.1", None)):
            server = SSL.Connection(raw_server(good()), None)
            handshake(client_to(host), server)
            self.assertEqual(server.get_servername(), sent)

    def test_versions(self) -> None:
        """Nothing below the minimum is spoken."""
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        present(context, [good().certificate], good().key)
        context.set_cipher_list(b"ALL:@SECLEVEL=0")
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        for minimum, result in (("1.2", True), ("1.3", False)):
            client = client_to(NAME, terms=Terms(minimum=minimum))
            self.assertEqual(accepted(client, SSL.Connection(context, None)), result)

    def test_context_is_shared(self) -> None:
        """Connections share a context until a file changes; verification stays with each."""
        directory = Path(self.mktemp())
        directory.mkdir()
        path, _ = ca().write(directory, "ca")
        creators: list[Any] = [strict_creator(host, [path]) for host in (NAME, "bad.hosts.invalid", NAME)]
        self.assertIs(creators[0].context, creators[1].context)
        results = [
            accepted(it.clientConnectionForTLS(None), SSL.Connection(raw_server(good()), None))
            for it in creators
        ]
        self.assertEqual(results, [True, False, True])
        other_ca().write(directory, "ca")
        self.assertFalse(self.verifies(NAME, good(), [path]))

    def test_bare_context(self) -> None:
        """The shared context trusts nobody by itself."""
        creator: Any = strict_creator(NAME, [ca().certificate])
        client = SSL.Connection(creator.context, None)
        self.assertFalse(accepted(client, SSL.Connection(raw_server(good()), None)))

    def test_bad_arguments(self) -> None:
        """No CA, half a client certificate, missing and broken files are problems of configuration."""
        broken = Path(self.mktemp())
        broken.write_bytes(b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
        cases: list[tuple[list[Any], dict[str, Any]]] = [
            ([], {}),
            ([Path("/nonexistent")], {}),
            ([broken], {}),
            ([ca().certificate], {"client_certificate": broken}),
            ([ca().certificate], {"client_certificate": broken, "client_key": broken}),
            ([ca().certificate], {"terms": Terms(minimum="1.1")}),
        ]
        for trust, options in cases:
            self.assertRaises(ConfigError, strict_creator, NAME, trust, **options)
        for host in ("", "2130706433", "a b", "*.invalid"):
            with self.assertRaises(UpstreamFailed) as caught:
                strict_creator(host, [ca().certificate])
            self.assertEqual(caught.exception.reason, "tls")

    def tearDown(self) -> None:
        tls_client._context.cache_clear()


class Server(SynchronousTestCase):
    """:class:`ServerContext` and :class:`ReloadableTLS`."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.files = good().write(self.directory, "gateway")
        self.ca, _ = ca().write(self.directory, "ca")

    def make(self, **options: Any) -> ServerContext:
        return ServerContext(*self.files, now=NOW.timestamp(), **options)

    def client(self, issued: dev_pki.Issued | None = None) -> SSL.Connection:
        options: dict[str, Any] = {}
        if issued is not None:
            certificate, key = issued.write(self.directory, "client")
            options = {"client_certificate": certificate, "client_key": key}
        return client_to(NAME, [self.ca], **options)

    def lets_in(self, context: ServerContext, issued: dev_pki.Issued | None) -> bool:
        return accepted(self.client(issued), SSL.Connection(context.context, None))

    def problems(self, **options: Any) -> str:
        with self.assertRaises(ConfigError) as caught:
            self.make(**options)
        return "\n".join(caught.exception.problems)

    def test_good(self) -> None:
        """Good files are served, and the end of the certificate is known."""
        context = self.make()
        self.assertTrue(self.lets_in(context, None))
        self.assertEqual(context.not_after, good().certificate.not_valid_after_utc.timestamp())

    def test_unfit(self) -> None:
        """Whatever is wrong with the certificate is said, and all of it at once."""
        day = timedelta(days=1)

        def issue(**options: Any) -> dev_pki.Issued:
            return ca().issue("x", now=NOW, **{"names": [NAME], **options})

        for issued, word in (
            (issue(start=-2 * day, life=-day), "expired"),
            (issue(start=day, life=2 * day), "not valid before"),
            (issue(key=dev_pki.rsa_key(1024)), "1024 bits"),
            (issue(key=ec.generate_private_key(ec.SECP256K1())), "P-256"),
            (issue(names=[]), "subjectAltName"),
        ):
            self.files = issued.write(self.directory, "unfit")
            self.assertIn(word, self.problems())
        self.files = issue(names=[], life=-day, start=-2 * day).write(self.directory, "unfit")
        self.assertRegex(self.problems(), "(?s)expired.*subjectAltName")
        for curve in (ec.SECP256R1(), ec.SECP384R1()):
            self.files = issue(key=ec.generate_private_key(curve)).write(self.directory, "fit")
            self.make()

    def test_files(self) -> None:
        """Missing, empty and mismatched files are told apart."""
        certificate, key = self.files
        self.files = certificate, ca().write(self.directory, "ca")[1]
        self.assertIn("does not belong", self.problems())
        self.files = certificate, self.directory / "none"
        self.assertIn("No such file", self.problems())
        self.files = certificate, certificate
        self.assertIn("no private key", self.problems())
        self.files = key, key
        self.assertIn("no certificates", self.problems())

    def test_options(self) -> None:
        """Unknown versions and suites, and clients without a CA, are refused."""
        self.assertIn("TLS 1.1", self.problems(minimum="1.1"))
        self.assertIn("above", self.problems(minimum="1.3", maximum="1.2"))
        self.assertIn("cipher", self.problems(ciphers="NONSENSE"))
        self.assertIn("client_ca", self.problems(require_client=True))

    def test_chain(self) -> None:
        """The chain is sent, from its own file or after the certificate, and must be in order."""
        middle = ca().issue("middle", now=NOW, ca=True)
        leaf = middle.issue("x", now=NOW, names=[NAME])
        self.files = leaf.write(self.directory, "leaf")
        chain, _ = middle.write(self.directory, "middle")
        self.assertFalse(self.lets_in(self.make(), None))
        self.assertTrue(self.lets_in(self.make(chain=chain), None))
        self.files[0].write_bytes(leaf.pem + middle.pem)
        self.assertTrue(self.lets_in(self.make(), None))
        chain, _ = other_ca().write(self.directory, "other")
        self.assertIn("order", self.problems(chain=chain))

    def test_client_certificates(self) -> None:
        """Of our CA, meant for clients or for anything, and in time: all others stay out."""
        day = timedelta(days=1)
        required = self.make(client_ca=self.ca, require_client=True)
        optional = self.make(client_ca=self.ca)
        leaf = ca().issue("x", now=NOW, usages=[CLIENT])
        self.assertFalse(self.lets_in(required, None))
        self.assertTrue(self.lets_in(optional, None))
        for issued, result in (
            (leaf, True),
            (ca().issue("x", now=NOW), True),
            (ca().issue("x", now=NOW, usages=[SERVER, CLIENT]), True),
            (ca().issue("x", now=NOW, usages=[SERVER]), False),
            (other_ca().issue("x", now=NOW, usages=[CLIENT]), False),
            (leaf.issue("x", now=NOW, usages=[CLIENT]), False),
            (ca().issue("x", now=NOW, usages=[CLIENT], start=-2 * day, life=-day), False),
            (ca().issue("x", now=NOW, usages=[CLIENT], start=day, life=2 * day), False),
        ):
            for context in (required, optional):
                self.assertEqual(self.lets_in(context, issued), result, issued.certificate)

    def test_revoked(self) -> None:
        """With a revocation list the revoked stay out, and only they."""
        one, two = (ca().issue("x", now=NOW, usages=[CLIENT]) for _ in range(2))
        crl = self.directory / "crl.pem"
        crl.write_bytes(ca().revoke([one.certificate], now=NOW))
        context = self.make(client_ca=self.ca, require_client=True, crl=crl)
        self.assertFalse(self.lets_in(context, one))
        self.assertTrue(self.lets_in(context, two))
        assert context.crl_expires is not None
        self.assertEqual(context.crl_expires, int((NOW + timedelta(days=7)).timestamp()))

    def test_bad_crl(self) -> None:
        """A list that is foreign, old or broken is refused when it is loaded, not when it is used."""
        crl = self.directory / "crl.pem"
        for data, word in (
            (other_ca().revoke([], now=NOW), "not a revocation list of"),
            (ca().revoke([], now=NOW, life=timedelta(hours=-1)), "not current"),
            (b"x", "PEM"),
        ):
            crl.write_bytes(data)
            self.assertIn(word, self.problems(client_ca=self.ca, crl=crl))

    def test_alpn(self) -> None:
        """http/1.1 is chosen, no offer is fine, and any other offer is refused."""
        context = self.make()
        for offer, result in (([], b""), ([b"h2", b"http/1.1"], b"http/1.1"), ([b"h2"], None)):
            client, server = self.client(), SSL.Connection(context.context, None)
            if offer:
                client.set_alpn_protos(offer)
            self.assertEqual(accepted(client, server), result is not None)
            if result is not None:
                self.assertEqual(client.get_alpn_proto_negotiated(), result)

    def served(self, tls: ReloadableTLS) -> int:
        client = self.client()
        handshake(client, tls.serverConnectionForTLS(None))  # type: ignore[arg-type]  # over no transport
        peer = client.get_peer_certificate()
        assert peer is not None
        return int(peer.get_serial_number())

    def test_reload(self) -> None:
        """The next connection sees the new certificate, open ones keep theirs; broken files do nothing."""
        tls = ReloadableTLS(self.make)
        first = good().certificate.serial_number
        renewed = ca().issue("gateway", now=NOW, names=[NAME], life=timedelta(days=100))
        renewed.write(self.directory, "renewed")
        certificate, key = self.files
        open_client, open_server = self.client(), tls.serverConnectionForTLS(None)  # type: ignore[arg-type]  # over no transport
        handshake(open_client, open_server)
        for path in (certificate, key):
            before = path.read_bytes()
            for broken in (b"", b"broken", before[:100], renewed.pem, renewed.key_pem):
                path.write_bytes(broken)
                self.assertRaises(ConfigError, tls.reload)
                self.assertEqual(self.served(tls), first)
            path.unlink()
            self.assertRaises(ConfigError, tls.reload)
            self.assertEqual(self.served(tls), first)
            path.write_bytes(before)
        certificate.write_bytes(renewed.pem)
        key.write_bytes(renewed.key_pem)
        tls.reload()
        self.assertEqual(self.served(tls), renewed.certificate.serial_number)
        self.assertEqual(tls.not_after, renewed.certificate.not_valid_after_utc.timestamp())
        open_client.send(b"still here")
        open_server.bio_write(open_client.bio_read(1000))
        self.assertEqual(open_server.recv(100), b"still here")


class Recorder(Protocol):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def connectionMade(self) -> None:
        self.events.append("made")

    def dataReceived(self, data: bytes) -> None:
        self.events.append(data)
        assert self.transport is not None
        self.transport.write(data)

    def connectionLost(self, reason: object = None) -> None:
        self.events.append("lost")


class Deadline(SynchronousTestCase):
    """The handshake deadline of :func:`tls_factory`."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.observed: list[tuple[str, float]] = []
        self.built: list[Recorder] = []
        directory = Path(self.mktemp())
        directory.mkdir()
        files = good().write(directory, "gateway")
        tls = ReloadableTLS(lambda: ServerContext(*files, now=NOW.timestamp()))
        self.factory: IProtocolFactory = tls_factory(
            tls, self.recorders(), self.clock, 10.0, lambda *it: self.observed.append(it)
        )

    def recorders(self) -> Factory[Recorder]:
        def build() -> Recorder:
            self.built.append(Recorder())
            return self.built[-1]

        return Factory.forProtocol(build)

    def connect(self) -> tuple[Any, StringTransport]:
        protocol: Any = self.factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        transport = StringTransport()
        protocol.makeConnection(transport)
        return protocol, transport

    def lose(self, protocol: Any) -> None:
        from twisted.internet.error import ConnectionDone
        from twisted.python.failure import Failure

        protocol.connectionLost(Failure(ConnectionDone()))

    def test_silent(self) -> None:
        """A peer that sends nothing is cut at the tenth second, and nothing was built for it."""
        protocol, transport = self.connect()
        self.clock.advance(9.9)
        self.assertFalse(transport.disconnecting or transport.disconnected)
        self.clock.advance(0.1)
        self.assertTrue(transport.disconnected)
        self.lose(protocol)
        self.assertEqual([it[0] for it in self.observed], ["timeout"])
        self.assertEqual((self.built, self.clock.getDelayedCalls()), ([], []))

    def test_trickle(self) -> None:
        """Bytes now and then do not move the deadline."""
        protocol, transport = self.connect()
        for byte in b"\x16\x03\x01\x02\x00\x01\x00\x01":
            self.clock.advance(1.25)
            if not transport.disconnected:
                protocol.dataReceived(bytes([byte]))
        self.assertTrue(transport.disconnected)
        self.lose(protocol)

    def test_plain_http(self) -> None:
        """A peer that speaks plain HTTP is closed on, without a word in the log."""
        protocol, transport = self.connect()
        protocol.dataReceived(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertTrue(transport.disconnecting)
        self.lose(protocol)
        self.assertEqual(self.observed, [("failed", 0.0)])
        self.assertEqual((self.built, self.clock.getDelayedCalls(), self.flushLoggedErrors()), ([], [], []))

    def talk(self, client: SSL.Connection, protocol: Any, transport: StringTransport) -> None:
        for _ in range(4):
            try:
                client.do_handshake()
            except SSL.WantReadError:
                pass
            try:
                protocol.dataReceived(client.bio_read(65536))
            except SSL.WantReadError:
                pass
            self.clock.advance(0)
            if transport.value():
                client.bio_write(transport.value())
                transport.clear()

    def client(self) -> SSL.Connection:
        client = client_to(NAME)
        client.set_connect_state()
        return client

    def test_complete(self) -> None:
        """After the handshake the protocol is connected, and no deadline is left."""
        protocol, transport = self.connect()
        client = self.client()
        self.clock.advance(3)
        self.assertEqual(self.built, [])
        self.talk(client, protocol, transport)
        self.assertEqual(self.observed, [("ok", 3.0)])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        client.send(b"hello")
        self.talk(client, protocol, transport)
        self.assertEqual(client.recv(100), b"hello")
        self.lose(protocol)
        self.assertEqual(self.built[0].events, ["made", b"hello", "lost"])
        self.assertEqual(len(self.observed), 1)

    def test_refused_by_factory(self) -> None:
        """A factory that builds nothing ends the connection."""
        self.factory.wrappedFactory.buildProtocol = lambda _: None  # type: ignore[attr-defined]  # it wraps one
        protocol, transport = self.connect()
        self.talk(self.client(), protocol, transport)
        self.assertTrue(transport.disconnected)
        self.lose(protocol)
        self.assertEqual(self.observed, [("ok", 0.0)])

    def test_bad_alpn(self) -> None:
        """A client that we have no protocol for is closed on, without a word in the log."""
        protocol, transport = self.connect()
        client = self.client()
        client.set_alpn_protos([b"h2"])
        with self.assertRaises(SSL.Error) as caught:
            self.talk(client, protocol, transport)
        self.assertIn("alert no application protocol", str(caught.exception))
        self.assertTrue(transport.disconnecting)
        self.lose(protocol)
        self.assertEqual([it[0] for it in self.observed], ["failed"])
        self.assertEqual(self.flushLoggedErrors(), [])


class Sockets(ReactorTestCase):
    """A real listener and an independent client."""

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.observed: list[tuple[str, float]] = []

    def listen(self, timeout: float = 10.0, **options: Any) -> int:
        files = good().write(self.directory, "gateway")
        ca().write(self.directory, "ca")
        tls = ReloadableTLS(lambda: ServerContext(*files, now=NOW.timestamp(), **options))
        factory = tls_factory(
            tls, Factory.forProtocol(Recorder), self.reactor, timeout, lambda *it: self.observed.append(it)
        )
        port = self.reactor.listenTCP(0, factory, 256, "127.0.0.1")
        self.addCleanup(port.stopListening)
        return int(port.getHost().port)

    async def wait(self, condition: Callable[[], bool]) -> None:
        for _ in range(4000):
            if condition():
                return
            await deferLater(self.reactor, 0.01)
        self.fail("it never happened")

    async def s_client(self, port: int, *options: str) -> tuple[int, str]:
        out, errors, code = await getProcessOutputAndValue(
            "/usr/bin/openssl",
            [
                *("s_client", "-connect", f"127.0.0.1:{port}", "-servername", NAME, "-verify_hostname", NAME),
                *("-verify_return_error", "-CAfile", str(self.directory / "ca.pem"), *options),
            ],
            reactor=self.reactor,
            stdinBytes=b"Q\n",
        )
        return code, (out + errors).decode("utf-8", "replace")

    async def test_openssl(self) -> None:
        """Old versions, CBC and CCM suites and h2 alone are refused; GCM and ChaCha20 are served."""
        port = self.listen()
        low = "@SECLEVEL=0"
        for options, cipher in (
            (["-tls1_1", "-cipher", f"ALL:{low}"], None),
            (["-tls1", "-cipher", f"ALL:{low}"], None),
            (["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256"], None),
            (["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-SHA"], None),
            (["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-CCM"], None),
            (["-alpn", "h2"], None),
            (["-tls1_2"], "GCM"),
            (["-tls1_3"], "TLS_AES_256_GCM_SHA384"),
            (["-alpn", "h2,http/1.1"], "http/1.1"),
            # The client's order is respected.
            (
                ["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-GCM-SHA256"],
                "CHACHA20",
            ),
            (
                ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305"],
                "AES128-GCM",
            ),
        ):
            code, output = await self.s_client(port, *options)
            self.assertEqual(code == 0, cipher is not None, (options, output))
            if cipher is not None:
                self.assertIn(cipher, output)
                self.assertIn("Verify return code: 0 (ok)", output)
        code, output = await self.s_client(port, "-tls1_2")
        self.assertNotIn("TLS session ticket:", output)
        self.assertIn("Compression: NONE", output)
        self.assertEqual(self.flushLoggedErrors(), [])

    async def test_capped(self) -> None:
        """A listener may stay at TLS 1.2, or insist on 1.3."""
        port = self.listen(maximum="1.2")
        self.assertNotEqual((await self.s_client(port, "-tls1_3"))[0], 0)
        self.assertEqual((await self.s_client(port))[0], 0)
        port = self.listen(minimum="1.3")
        self.assertNotEqual((await self.s_client(port, "-tls1_2"))[0], 0)
        self.assertEqual((await self.s_client(port))[0], 0)

    async def test_renegotiation(self) -> None:
        """A client that asks to renegotiate gets nothing but an alert."""
        port = self.listen()
        client = _Renegotiates()
        words = ["openssl", "s_client", "-tls1_2", "-connect", f"127.0.0.1:{port}"]
        self.reactor.spawnProcess(client, "/usr/bin/openssl", words)
        self.assertIn(b"no renegotiation", await client.ended)

    async def test_silent_peers(self) -> None:
        """50 silent peers delay nobody, and are cut in time."""
        port = self.listen(timeout=6.0)
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
        for it in silent:
            self.addCleanup(it.close)
            it.setblocking(False)
        code, output = await self.s_client(port)
        self.assertEqual(code, 0, output)
        self.assertEqual([it[0] for it in self.observed], ["ok"])
        self.assertLess(self.observed[0][1], 5.0)
        await self.wait(lambda: len(self.observed) == 51)
        self.assertEqual({it[0] for it in self.observed[1:]}, {"timeout"})
        for _, seconds in self.observed[1:]:
            self.assertGreaterEqual(seconds, 5.99)
        for it in silent:
            self.assertRaises(ConnectionResetError, it.recv, 1)
