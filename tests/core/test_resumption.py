"""TLS sessions that are resumed, and those that must not be; Python's own ssl is the other side."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gateway.core import dev_pki, tls_client
from gateway.core.tls_client import SESSION_LIFE, SESSIONS, ClientSessions, Terms, strict_creator
from gateway.core.tls_server import ReloadableTLS, ServerContext

NOW = datetime.now(UTC)
NAME = "good.hosts.invalid"
VERSIONS = (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2)


@cache
def ca() -> dev_pki.Issued:
    return dev_pki.authority(NOW)


@cache
def good() -> dev_pki.Issued:
    return ca().issue("gateway", now=NOW, names=[NAME], addresses=["192.0.2.1"])


class Link:
    """One connection in memory between OpenSSL through Python and OpenSSL through us."""

    def __init__(self, theirs: ssl.SSLContext, ours: SSL.Connection, **options: Any) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.theirs = theirs.wrap_bio(self._in, self._out, **options)
        self.ours = ours

    def talk(self) -> None:
        """Both handshakes, and a byte each way.

        :raises SSL.Error: we did not want to.
        :raises ssl.SSLError: they did not want to.
        """
        done = False
        for _ in range(6):
            for step in (self.ours.do_handshake, self.theirs.do_handshake):
                try:
                    step()
                    done = done or step == self.theirs.do_handshake
                except (SSL.WantReadError, ssl.SSLWantReadError):
                    pass
                self._carry()
        assert done
        self.theirs.write(b"x")
        self._carry()
        assert self.ours.recv(10) == b"x"
        self.ours.send(b"y")
        self._carry()
        assert self.theirs.read(10) == b"y"

    def close(self) -> None:
        """End it as every connection ends in order, without which a session of TLS 1.2 is void."""
        self.ours.shutdown()
        self._carry()

    def _carry(self) -> None:
        try:
            while True:
                self._in.write(self.ours.bio_read(65536))
        except SSL.WantReadError:
            pass
        if data := self._out.read():
            self.ours.bio_write(data)


class TemporaryFiles(SynchronousTestCase):
    """Certificates in files."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.ca, _ = ca().write(self.directory, "ca")
        self.files = good().write(self.directory, "gateway")


class ServerTests(TemporaryFiles):
    """Clients that come again."""

    def context(self, **options: Any) -> ServerContext:
        return ServerContext(*self.files, now=NOW.timestamp(), **options)

    def client(
        self, version: ssl.TLSVersion = VERSIONS[0], issued: dev_pki.Issued | None = None
    ) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca))
        context.maximum_version = version
        if issued is not None:
            context.load_cert_chain(*issued.write(self.directory, "client"))
        return context

    def visit(
        self, client: ssl.SSLContext, server: ServerContext | ReloadableTLS, session: Any = None
    ) -> tuple[Any, bool]:
        """Connect; return the session, and whether it is *session* resumed."""
        tls = server if isinstance(server, ReloadableTLS) else ReloadableTLS(lambda: server)
        ours = tls.serverConnectionForTLS(None)  # type: ignore[arg-type]  # over no transport
        ours.set_accept_state()
        link = Link(client, ours, server_hostname=NAME, session=session)
        link.talk()
        link.close()
        return link.theirs.session, bool(link.theirs.session_reused)

    def test_resumes(self) -> None:
        """A client is spared the certificate when it comes again, and when it comes a third time."""
        for version in VERSIONS:
            client, server = self.client(version), self.context()
            session, resumed = self.visit(client, server)
            self.assertFalse(resumed)
            session, resumed = self.visit(client, server, session)
            self.assertTrue(resumed)
            self.assertTrue(self.visit(client, server, session)[1])

    def test_life(self) -> None:
        """A session may be resumed for an hour."""
        server = self.context()
        self.assertEqual(self.visit(self.client(), server)[0].ticket_lifetime_hint, 3600)
        self.assertEqual(server.context.get_timeout(), 3600)

    def test_other_listener(self) -> None:
        """A session of one listener is worth nothing at another one."""
        for version in VERSIONS:
            client, one, two = self.client(version), self.context(), self.context()
            session, _ = self.visit(client, one)
            self.assertFalse(self.visit(client, two, session)[1])
            self.assertTrue(self.visit(client, one, session)[1])

    def test_reload(self) -> None:
        """With a reload all sessions are forgotten."""
        for version in VERSIONS:
            tls, client = ReloadableTLS(self.context), self.client(version)
            session, _ = self.visit(client, tls)
            tls.reload()
            self.assertFalse(self.visit(client, tls, session)[1])

    def test_client_certificates(self) -> None:
        """Where certificates of clients are asked for, each connection has to show one."""
        for version in VERSIONS:
            for require in (True, False):
                server = self.context(client_ca=self.ca, require_client=require)
                issued = ca().issue("x", now=NOW, usages=[ExtendedKeyUsageOID.CLIENT_AUTH])
                client = self.client(version, issued)
                session, _ = self.visit(client, server)
                self.assertFalse(self.visit(client, server, session)[1])


class ClientTests(TemporaryFiles):
    """Hosts that we come back to."""

    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(tls_client._context.cache_clear)
        self.clock = Clock()
        self.sessions = ClientSessions(self.clock, lambda: NOW.timestamp() + self.clock.seconds())
        self.host = self.server()

    def server(
        self, issued: dev_pki.Issued | None = None, version: ssl.TLSVersion = VERSIONS[0]
    ) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.maximum_version = version
        context.load_cert_chain(*(issued or good()).write(self.directory, "host"))
        return context

    def visit(self, server: ssl.SSLContext, name: str = NAME, made: bool = True, **options: Any) -> bool:
        """Connect; whether an earlier session was resumed."""
        creator = strict_creator(name, [self.ca], sessions=self.sessions, **options)
        ours = creator.clientConnectionForTLS(None)  # type: ignore[arg-type]  # over no transport
        ours.set_connect_state()
        link = Link(server, ours, server_side=True)
        link.talk()
        if made:
            creator.made(ours)
        link.close()
        return bool(link.theirs.session_reused)

    def test_resumes(self) -> None:
        """The second connection resumes the first, the third the second."""
        for version in VERSIONS:
            host = self.server(version=version)
            self.sessions = ClientSessions(self.clock, NOW.timestamp)
            self.assertEqual([self.visit(host) for _ in range(4)], [False, True, True, True])

    def test_once(self) -> None:
        """No session is offered twice: who listens cannot tell that it is us again. RFC 8446, section C.4."""
        self.visit(self.host)
        self.assertTrue(self.visit(self.host, made=False))
        self.assertFalse(self.visit(self.host))

    def test_without(self) -> None:
        """Without a place for sessions there are none."""
        creators = [strict_creator(NAME, [self.ca]) for _ in range(2)]
        for creator in creators:
            ours = creator.clientConnectionForTLS(None)  # type: ignore[arg-type]  # over no transport
            ours.set_connect_state()
            link = Link(self.host, ours, server_side=True)
            link.talk()
            creator.made(ours)
            self.assertFalse(link.theirs.session_reused)

    def test_unverified(self) -> None:
        """A host that was refused leaves nothing to resume, though it would gladly."""
        impostor = self.server(dev_pki.authority(NOW).issue("x", now=NOW, names=[NAME]))
        for _ in range(3):
            self.assertRaises(SSL.Error, self.visit, impostor)
        other = self.server(ca().issue("x", now=NOW, names=["other.hosts.invalid"]))
        self.visit(other, "other.hosts.invalid")
        for _ in range(3):
            self.assertRaises(SSL.Error, self.visit, other)

    def test_changed_certificate(self) -> None:
        """A host that cannot resume shows its certificate, and the wrong one is refused."""
        self.visit(self.host)
        changed = self.server(ca().issue("x", now=NOW, names=["other.hosts.invalid"]))
        self.assertRaises(SSL.Error, self.visit, changed)
        self.assertFalse(self.visit(self.host))
        self.assertTrue(self.visit(self.host))

    def test_other_name(self) -> None:
        """Each name has sessions of its own, also when one server and one certificate have both."""
        wide = self.server(ca().issue("x", now=NOW, names=["*.hosts.invalid"], addresses=["192.0.2.1"]))
        for name in (NAME, "other.hosts.invalid", "192.0.2.1"):
            self.assertFalse(self.visit(wide, name), name)
        for name in (NAME, "other.hosts.invalid", "192.0.2.1"):
            self.assertTrue(self.visit(wide, name), name)
        narrow = self.server(ca().issue("x", now=NOW, names=[NAME]))
        self.visit(narrow)
        self.assertRaises(SSL.Error, self.visit, narrow, "new.hosts.invalid")

    def test_other_trust(self) -> None:
        """So has each set of CAs, each certificate of ours and each minimum of versions."""
        self.visit(self.host)
        self.assertFalse(self.visit(self.host, terms=Terms("1.3")))
        certificate, key = ca().issue("x", now=NOW).write(self.directory, "client")
        self.assertFalse(self.visit(self.host, client_certificate=certificate, client_key=key))
        ca().write(self.directory, "ca")
        self.assertFalse(self.visit(self.host))
        dev_pki.authority(NOW, "another CA").write(self.directory, "ca")
        self.assertRaises(SSL.Error, self.visit, self.host)

    def test_life(self) -> None:
        """However often it is resumed, after an hour the host shows its certificate again."""
        self.visit(self.host)
        for _ in range(3):
            self.clock.advance(SESSION_LIFE / 3 - 1)
            self.assertTrue(self.visit(self.host))
        self.clock.advance(3)
        self.assertFalse(self.visit(self.host))
        self.assertTrue(self.visit(self.host))

    def test_end_of_certificate(self) -> None:
        """A session is not older than the certificate that it began with."""
        host = self.server(ca().issue("x", now=NOW, names=[NAME], life=timedelta(seconds=3000)))
        self.visit(host)
        self.clock.advance(2998)
        self.assertTrue(self.visit(host))
        self.clock.advance(2)
        self.assertFalse(self.visit(host))

    def test_bounded(self) -> None:
        """Only the hosts used last are remembered."""
        wide = self.server(ca().issue("x", now=NOW, names=["*.hosts.invalid"]))
        for number in range(SESSIONS + 1):
            self.visit(wide, f"h{number}.hosts.invalid")
        self.assertTrue(self.visit(wide, f"h{SESSIONS}.hosts.invalid"))
        self.assertTrue(self.visit(wide, "h1.hosts.invalid"))
        self.assertFalse(self.visit(wide, "h0.hosts.invalid"))
