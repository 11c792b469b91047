"""Transports, on loopback: whom they trust, and what the policy says about each of them."""

from __future__ import annotations

import shutil
from collections.abc import Coroutine, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import LogLevel, globalLogPublisher

from gateway.core import dev_pki
from gateway.core.clock import wall
from gateway.core.dial import Dialer
from gateway.core.policy import Policy, parse_rule
from gateway.core.tls import tls_factory
from gateway.errors import Forbidden, GatewayError, UpstreamFailed
from gateway.rpc.tls_files import find_files
from gateway.rpc.transports import Transports
from gateway.wire.libvirt_url import LibvirtUrl, parse_url
from tests.core.test_dial import NOW, Greeter, Names, Serve
from tests.functional.processes import short_directory
from tests.support import ReactorTestCase

NAME = "host.invalid"
RULES = ("libvirt://127.0.0.0/8:*",)


class TransportsCase(ReactorTestCase):
    """Servers of our own, and transports that get there."""

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.directory = short_directory()
        self.addCleanup(shutil.rmtree, self.directory)
        self.ca = dev_pki.authority(NOW)
        self.pki = self.directory / "pki"
        self.pki.mkdir()
        (self.pki / "cacert.pem").write_bytes(self.ca.pem)
        self.servers: list[Any] = []
        self.events: list[Any] = []
        observer: Any = self.events.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def transports(self, *answers: Sequence[str], rules: Sequence[str] = RULES, uid: int = 0) -> Transports:
        dialer = Dialer(self.reactor, Policy(map(parse_rule, rules)), Names(*answers))  # type: ignore[arg-type]  # a double
        environment = {"PATH": "/usr/bin:/bin"}
        # The reactor's clock is no calendar.
        return Transports(self.reactor, dialer, wall, environment=environment, uid=uid, patience=5)

    def listen(self, issued: dev_pki.Issued | None = None, maximum: str | None = None) -> int:
        servers = self.servers

        class Accept(Factory):
            def buildProtocol(self, address: object) -> Greeter:
                servers.append(Greeter())
                return servers[-1]  # type: ignore[no-any-return]  # a Greeter

        factory: Any = Accept()
        if issued is not None:
            factory = tls_factory(Serve(issued, maximum), factory, self.reactor)
        port = self.reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return int(port.getHost().port)

    def issue(self, *names: str, addresses: Sequence[str] = (), **more: Any) -> dev_pki.Issued:
        return self.ca.issue("x", now=NOW, names=names, addresses=addresses, **more)

    async def fails(
        self, kind: type[GatewayError], reason: str, work: Coroutine[Any, Any, None]
    ) -> GatewayError:
        failed: Any = self.assertFailure(Deferred.fromCoroutine(work), kind)
        failure: GatewayError = await failed
        self.assertEqual(failure.reason, reason)
        return failure

    async def opens(self, transports: Transports, url: LibvirtUrl) -> Any:
        """Both sides hear each other; the transport, closed."""
        client = Greeter()
        await transports.connect(url, client)
        for _ in range(3000):
            if client.heard == b"hello" and self.servers[-1].heard == b"hello":
                break
            await deferLater(self.reactor, 0.01)
        self.assertEqual((client.heard, self.servers[-1].heard), (b"hello", b"hello"))
        transport: Any = client.transport
        transport.loseConnection()
        await client.lost
        await self.closed()
        return transport

    async def closed(self) -> None:
        for server in self.servers:
            if not server.lost.called:
                await server.lost

    def warnings(self) -> list[str]:
        return [
            str(it.get("host"))
            for it in self.events
            if it.get("log_level") in (LogLevel.warn, LogLevel.error)
        ]


class TlsTest(TransportsCase):
    """TLS: the chain, the name, the list of the revoked, and the address."""

    def url(self, port: int, host: str = NAME, **variables: str) -> LibvirtUrl:
        query = "&".join(f"{name}={value}" for name, value in {"pkipath": self.pki, **variables}.items())
        return parse_url(f"test+tls://{host}:{port}/default?{query}")

    async def test_name(self) -> None:
        """The certificate is of our CA and carries exactly the name of the URL."""
        await self.opens(self.transports(["127.0.0.1"]), self.url(self.listen(self.issue(NAME))))
        for issued in (
            self.issue("other.invalid"),
            self.ca.issue(NAME, now=NOW),
            self.issue(NAME, life=timedelta(minutes=-1)),
            dev_pki.authority(NOW).issue("x", now=NOW, names=[NAME]),
        ):
            work = self.transports(["127.0.0.1"]).connect(self.url(self.listen(issued)), Greeter())
            await self.fails(UpstreamFailed, "tls", work)
        self.assertEqual(len(self.servers), 1)
        self.assertEqual(self.warnings(), [])

    async def test_careless(self) -> None:
        """With no_verify anybody will do, and each time the log says so."""
        stranger = dev_pki.authority(NOW).issue("x", now=NOW, names=["other.invalid"])
        url = self.url(self.listen(stranger), no_verify="1")
        for _ in range(2):
            await self.opens(self.transports(["127.0.0.1"]), url)
        self.assertEqual(self.warnings(), [NAME, NAME])

    async def test_revoked(self) -> None:
        """A revocation list counts: who is on it is refused, and everybody once it is old."""
        good, bad = self.issue(NAME), self.issue(NAME)
        crl = self.pki / "cacrl.pem"
        crl.write_bytes(self.ca.revoke([bad.certificate], now=NOW))
        work = self.transports(["127.0.0.1"]).connect(self.url(self.listen(bad)), Greeter())
        await self.fails(UpstreamFailed, "tls", work)
        await self.opens(self.transports(["127.0.0.1"]), self.url(self.listen(good)))
        crl.write_bytes(self.ca.revoke([], now=NOW, life=timedelta(minutes=-1)))
        work = self.transports(["127.0.0.1"]).connect(self.url(self.listen(good)), Greeter())
        await self.fails(UpstreamFailed, "tls", work)
        crl.write_bytes(b"no list")
        work = self.transports(["127.0.0.1"]).connect(self.url(self.listen(good)), Greeter())
        self.assertNotIn(str(self.pki), (await self.fails(UpstreamFailed, "tls", work)).text)

    async def test_address(self) -> None:
        """With verify_address, the address that was dialed stands in the certificate."""
        for issued, answers, good in (
            (self.issue(NAME, addresses=["127.0.0.1"]), [["127.0.0.1"]], True),
            (self.issue(NAME), [["127.0.0.1"], ["127.0.0.1"]], True),
            (self.issue(NAME, addresses=["192.0.2.1"]), [["127.0.0.1"]], False),
            (self.issue(NAME), [["127.0.0.1"], ["192.0.2.1"]], False),
        ):
            url = self.url(self.listen(issued), verify_address="1")
            transports, client = self.transports(*answers), Greeter()
            if good:
                await self.opens(transports, url)
            else:
                await self.fails(UpstreamFailed, "tls", transports.connect(url, client))
                self.assertIsNone(client.transport)
                await self.closed()
        self.assertEqual(self.warnings(), [NAME, NAME])

    async def test_priority(self) -> None:
        """A priority string chooses version and strength."""
        port = self.listen(self.issue(NAME))
        for text, version, bits in [
            ("NORMAL:-VERS-TLS1.3", "TLSv1.2", 128),
            ("SECURE256:-VERS-TLS1.3", "TLSv1.2", 256),
            ("SECURE256", "TLSv1.3", 256),
        ]:
            url, client = self.url(port, tls_priority=text), Greeter()
            await self.transports(["127.0.0.1"]).connect(url, client)
            handle: Any = client.transport.getHandle()
            self.assertEqual(
                (handle.get_protocol_version_name(), handle.get_cipher_bits()), (version, bits), text
            )
            client.transport.abortConnection()
            await client.lost
            await self.closed()
        work = self.transports(["127.0.0.1"]).connect(
            self.url(self.listen(self.issue(NAME), "1.2"), tls_priority="NORMAL:-VERS-TLS1.2"), Greeter()
        )
        await self.fails(UpstreamFailed, "tls", work)

    async def test_files(self) -> None:
        """A missing authority is told to the operator, with its path, and to nobody else."""
        (self.pki / "cacert.pem").unlink()
        work = self.transports(["127.0.0.1"]).connect(self.url(self.listen(self.issue(NAME))), Greeter())
        failure = await self.fails(UpstreamFailed, "tls", work)
        self.assertNotIn(str(self.pki), failure.text)
        (event,) = [it for it in self.events if it.get("log_level") == LogLevel.error]
        self.assertIn(str(self.pki / "cacert.pem"), event["problem"])
        self.assertEqual(self.servers, [])

    def test_places(self) -> None:
        """The files are where libvirt has them: each by itself, but a certificate only with its key."""
        home = self.directory / "home/.pki/libvirt"
        home.mkdir(parents=True)
        where = {"HOME": str(self.directory / "home")}
        url = parse_url("test://h/")
        self.assertEqual(find_files(url, uid=7, environment=where).ca, Path("/etc/pki/CA/cacert.pem"))
        for name in ("cacert.pem", "cacrl.pem", "clientcert.pem"):
            (home / name).touch()
        files = find_files(url, uid=7, environment=where)
        self.assertEqual((files.ca, files.crl), (home / "cacert.pem", home / "cacrl.pem"))
        self.assertNotEqual(files.certificate, home / "clientcert.pem")
        (home / "clientkey.pem").touch()
        files = find_files(url, uid=7, environment=where)
        self.assertEqual((files.certificate, files.key), (home / "clientcert.pem", home / "clientkey.pem"))
        self.assertEqual(find_files(url, uid=0, environment=where).ca, Path("/etc/pki/CA/cacert.pem"))


class PolicyTest(TransportsCase):
    """No transport gets past the policy."""

    async def test_refused(self) -> None:
        """Every address is judged under the scheme libvirt, before anything is dialed or run."""
        port = self.listen()
        ran = self.directory / "ran"
        program = self.directory / "ssh"
        program.write_text(f"#!/bin/sh\ntouch {ran}\n")
        program.chmod(0o755)
        for transport in ("tcp", "tls", "ssh"):
            url = parse_url(f"test+{transport}://{NAME}:{port}/default?command={program}&pkipath={self.pki}")
            for answers, rules in [
                (["127.0.0.1"], ["https://127.0.0.0/8:*"]),
                (["127.0.0.1"], []),
                (["127.0.0.1", "192.0.2.1"], RULES),
                (["192.0.2.1"], RULES),
            ]:
                work = self.transports(answers, rules=rules).connect(url, Greeter())
                await self.fails(Forbidden, "target", work)
        await deferLater(self.reactor, 0.1)
        self.assertEqual(self.servers, [])
        self.assertFalse(ran.exists())

    async def test_several_addresses(self) -> None:
        """ssh is told the address of several where somebody answers, and the first when nobody does."""

        async def told(port: int) -> str:
            program = self.directory / "ssh"
            program.write_text('#!/bin/sh\nprintf "%s|" "$@"\nexec cat\n')
            program.chmod(0o755)
            client, answers = Greeter(), ["127.0.0.9", "127.0.0.1"]
            url = parse_url(f"test+ssh://{NAME}:{port}/default?command={program}")
            await self.transports(answers, answers).connect(url, client)
            while b"hello" not in client.heard:
                await deferLater(self.reactor, 0.01)
            transport: Any = client.transport
            transport.loseConnection()
            await client.lost
            while any("_Helper" in repr(it.func) for it in self.reactor.getDelayedCalls()):
                await deferLater(self.reactor, 0.01)
            return next(it for it in client.heard.decode().split("|") if it.startswith("HostName="))

        self.assertEqual(await told(self.listen()), "HostName=127.0.0.1")
        port = self.reactor.listenTCP(0, Factory(), interface="127.0.0.1")
        number = port.getHost().port
        await port.stopListening()
        self.assertEqual(await told(number), "HostName=127.0.0.9")
        await deferLater(self.reactor, 0.05)

    async def test_pinned(self) -> None:
        """ssh is told the address that was judged, and keeps the name for the key."""
        program = self.directory / "ssh"
        program.write_text('#!/bin/sh\nprintf "%s|" "$@"\nexec cat\n')
        program.chmod(0o755)
        client = Greeter()
        url = parse_url(f"test+ssh://{NAME}:2222/default?command={program}&no_verify=1")
        await self.transports(["127.0.0.1"]).connect(url, client)
        while b"hello" not in client.heard:
            await deferLater(self.reactor, 0.01)
        said = client.heard.decode().split("|")
        self.assertIn("HostName=127.0.0.1", said)
        self.assertIn(f"HostKeyAlias=[{NAME}]:2222", said)
        self.assertEqual(said[said.index("--") + 1], NAME)
        self.assertEqual(self.warnings(), [NAME])
        transport: Any = client.transport
        transport.loseConnection()
        await client.lost
        while any("_Helper" in repr(it.func) for it in self.reactor.getDelayedCalls()):
            await deferLater(self.reactor, 0.01)
