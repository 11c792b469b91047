from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Coroutine
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL, crypto
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Factory
from twisted.internet.protocol import Protocol as Wire
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from gateway import errors
from gateway.consoles.targets import Protocol, Reach, Target, choose, places, target_of, targets_of
from gateway.core import dev_pki
from gateway.core.dial import Dialer
from gateway.core.policy import Policy, parse_rule
from gateway.core.tls import basic_context, present, tls_factory
from gateway.wire.hypervisor_url import ConsolePlace
from gateway.wire.ticket_json import Grant, Kind, grant_from
from gateway.wire.ticket_url import check_url
from tests.consoles.stage import ID, Stage
from tests.support import ReactorTestCase

VNC, SPICE, SERIAL, RAW = Protocol.VNC, Protocol.SPICE, Protocol.SERIAL, Protocol.RAW
URLS = {
    "vnc://192.0.2.1:5900": Target(VNC, "192.0.2.1", 5900, tls_name="192.0.2.1"),
    "vnc+tls://Host.invalid:5900": Target(VNC, "host.invalid", 5900, tls=True, tls_name="host.invalid"),
    "vnc+tls://192.0.2.1:5900?tls-name=h.invalid": Target(VNC, "192.0.2.1", 5900, True, tls_name="h.invalid"),
    "spice://[2001:db8::1]:5900": Target(SPICE, "2001:db8::1", 5900, tls_name="2001:db8::1"),
    "spice+tls://h:5901": Target(SPICE, "h", 5901, tls=True, tls_name="h"),
    "spice://h:5900?tls-port=5901": Target(SPICE, "h", 5901, tls=True, tls_name="h"),
    "spice://h?tls-port=5901": Target(SPICE, "h", 5901, tls=True, tls_name="h"),
    "serial://h:4000": Target(SERIAL, "h", 4000, tls_name="h"),
    "serial+tls://h:4000": Target(SERIAL, "h", 4000, tls=True, tls_name="h"),
    "tcp://h:1": Target(RAW, "h", 1, tls_name="h"),
    "tls://h:65535": Target(RAW, "h", 65535, tls=True, tls_name="h"),
    "vnc+unix:/run/x.sock": Target(VNC, path="/run/x.sock"),
    "spice+unix:///run/x.sock": Target(SPICE, path="/run/x.sock"),
    "serial+unix:///run/a%20b": Target(SERIAL, path="/run/a b"),
    "unix:/run/x": Target(RAW, path="/run/x"),
    f"libvirt://lab/{ID}/console": Target(SERIAL, place=ConsolePlace("lab", ID)),
    f"libvirt://lab/{ID}/console/serial1": Target(SERIAL, place=ConsolePlace("lab", ID, "serial1")),
    f"libvirt://lab/{ID}/graphics/1": Target(VNC, place=ConsolePlace("lab", ID, None, 1)),
}
SCHEMES = {url.partition(":")[0] for url in URLS}


class UrlTests(SynchronousTestCase):
    """What the url of a ticket means."""

    def test_forms(self) -> None:
        """Every form that a ticket may hold."""
        for url, expected in URLS.items():
            check_url(url, SCHEMES, console=True)
            self.assertEqual(target_of(url), expected, url)

    def test_name(self) -> None:
        """What people see has the address, and no path."""
        names = {target_of(url).name for url in URLS}
        self.assertIn("spice://[2001:db8::1]:5900", names)
        self.assertIn("tls://h:65535", names)
        self.assertIn("serial+unix", names)
        self.assertIn(f"libvirt://lab/{ID}", names)
        self.assertNotIn("/run", "".join(names))
        self.assertNotIn("/run", repr(target_of("unix:/run/x")))

    def test_wrapped(self) -> None:
        """TLS comes first with all but VNC, where it begins in the middle of the handshake."""
        wrapped = [url for url in URLS if target_of(url).wrapped]
        self.assertEqual(len(wrapped), 5)
        self.assertEqual([url for url in wrapped if url.startswith("vnc")], [])

    def test_query(self) -> None:
        """A port that is none, a name that is none, and what is said twice are refused."""
        for query in (
            "tls-port=",
            "tls-port=0",
            "tls-port=65536",
            "tls-port=5901x",
            "tls-port=1&tls-port=2",
            "tls-name=a%20b",
            "tls-name=h.",
            "tls-name=*",
            "tls-name=a&tls-name=b",
        ):
            error = self.assertRaises(errors.BadRequest, target_of, f"spice://h:5900?{query}")
            self.assertEqual(error.reason, "target")
        for url in ("spice://h?xtls-port=5900", "vnc://h?tls-port=5900"):
            self.assertRaises(errors.BadRequest, target_of, url)

    def test_places(self) -> None:
        """The policy is asked about what is dialed, by the names that it has for it."""
        urls = ("vnc+tls://h:1?tls-name=x", "spice://h:2?tls-port=3", "tls://[2001:db8::1]:4", "unix:/run/x")
        grant = Grant(Kind.CONSOLE, "x", urls=(*urls, f"libvirt://lab/{ID}/console"))
        wanted = [("vnc", "h", 1), ("spice", "h", 3), ("tls", "2001:db8::1", 4)]
        self.assertEqual(list(places(grant)), wanted)

    def test_choose(self) -> None:
        """A client that begins as SPICE clients do means SPICE; one that waits means the other."""
        both = (target_of("vnc://h:1"), target_of("spice://h:1"))
        for first, kind in ((b"", VNC), (b"R", SPICE), (b"REDQ\2\0", SPICE), (b"RFB 003", VNC), (b"x", VNC)):
            self.assertEqual(choose(both, first).kind, kind)
            self.assertEqual(choose(both[::-1], first).kind, kind)
        for only in both:
            self.assertEqual({choose((only,), first) for first in (b"", b"REDQ", b"x")}, {only})

    @settings(max_examples=200, deadline=None)
    @given(st.sampled_from(sorted(SCHEMES)), st.from_regex(r"(//)?[!-~]{0,40}", fullmatch=True))
    def test_fuzz(self, scheme: str, rest: str) -> None:
        """Whatever passes as the url of a ticket is a target, or is refused with a meaning."""
        url = f"{scheme}:{rest}"
        try:
            check_url(url, SCHEMES, console=True)
            found = target_of(url)
        except (ValueError, errors.BadRequest):
            return
        self.assertEqual(found.local, not 0 < found.port <= 65535)
        self.assertTrue(found.tls or "tls" not in scheme)


class TicketTests(Stage):
    """What a ticket may open."""

    def test_targets(self) -> None:
        """All urls of a ticket, the first first."""
        self.put(urls=["spice://h:5901", "vnc://192.0.2.50:5901"])
        self.assertEqual([target.kind for target in self.admit().targets], [VNC, SPICE])

    def test_not_for_tokens(self) -> None:
        """A socket of this machine, or a hypervisor, is opened on the engine's own word only."""
        for number, url in enumerate(("serial+unix:///run/x.sock", f"libvirt://lab/{ID}/graphics/0")):
            self.put(url=url)
            self.assertEqual(self.admit().targets, (target_of(url),))
            ticket = {"uuid": f"{ID}{number}", "kind": "console", "ops": [], "timeout": 9}
            grant = grant_from(ticket | {"urls": ["vnc://h:1", url]})
            signed = self.done(self.registry.add(grant, trusted=False))
            self.assertRaises(errors.Forbidden, targets_of, signed)


@cache
def ca() -> dev_pki.Issued:
    return dev_pki.authority(datetime.now(UTC))


@implementer(IOpenSSLServerConnectionCreator)
class _Serve:
    """Shows a certificate, and wants one of the same authority when asked to."""

    def __init__(self, issued: dev_pki.Issued, *, wants: bool) -> None:
        self.context = basic_context(SSL.TLS_SERVER_METHOD)
        present(self.context, [issued.certificate], issued.key)
        if wants:
            store = self.context.get_cert_store()
            assert store is not None
            store.add_cert(crypto.X509.from_cryptography(ca().certificate))
            must = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
            self.context.set_verify(must, lambda *args: bool(args[4]))

    def serverConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        return SSL.Connection(self.context, None)


class _Talker(Wire):
    """Says hello; remembers what it hears."""

    greeting = b""

    def __init__(self) -> None:
        self.heard: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        assert self.transport is not None
        if self.greeting:
            self.transport.write(self.greeting)

    def dataReceived(self, data: bytes) -> None:
        if not self.heard.called:
            self.heard.callback(data)

    def connectionLost(self, reason: object = None) -> None:
        if not self.heard.called:
            self.heard.callback(b"")


class _Console(_Talker):
    greeting = b"hello"


class ReachTests(ReactorTestCase):
    """:class:`Reach`, on loopback."""

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.ca, _ = ca().write(self.folder, "ca")
        self.other, _ = dev_pki.authority(datetime.now(UTC)).write(self.folder, "other")
        self.accepted = 0

    def reach(self, *rules: str, **more: Any) -> Reach:
        allow = rules or ("*://127.0.0.0/8:*",)
        dialer = Dialer(self.reactor, Policy(map(parse_rule, allow)), connect_timeout=3.0)
        return evolve(Reach(dialer, self.ca, self.ca), **more)

    def console(self, tls: dev_pki.Issued | None = None, *, wants: bool = False) -> int:
        def accept() -> _Console:
            self.accepted += 1
            return _Console()

        factory: Any = Factory.forProtocol(accept)
        if tls is not None:
            factory = tls_factory(_Serve(tls, wants=wants), factory, self.reactor)
        port = self.reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return int(port.getHost().port)

    def issue(self, **more: Any) -> dev_pki.Issued:
        return ca().issue("console", now=datetime.now(UTC), **more)

    async def says(self, reach: Reach, url: str) -> bytes:
        made: Any = await reach.connect(target_of(url), Factory.forProtocol(_Talker))
        heard: bytes = await made.heard
        made.transport.abortConnection()
        return heard

    def run_all(self, work: Coroutine[Any, Any, Any]) -> Deferred[Any]:
        return Deferred.fromCoroutine(work)

    async def refused(self, kind: type[errors.GatewayError], reason: str, reach: Reach, url: str) -> None:
        try:
            await self.says(reach, url)
        except errors.GatewayError as error:
            self.assertEqual((type(error), error.reason), (kind, reason), url)
        else:
            self.fail(f"{url} was reached")

    def test_plain(self) -> Deferred[Any]:
        """Consoles of every kind without TLS; VeNCrypt begins as plain TCP."""

        async def run() -> None:
            port = self.console()
            for scheme in ("vnc", "vnc+tls", "spice", "serial", "tcp"):
                self.assertEqual(await self.says(self.reach(), f"{scheme}://127.0.0.1:{port}"), b"hello")

        return self.run_all(run())

    def test_tls(self) -> Deferred[Any]:
        """With TLS the server has the certificate of that address, or of the name that the url says."""

        async def run() -> None:
            port = self.console(self.issue(addresses=["127.0.0.1"]))
            for url in ("spice+tls://{}", "spice://127.0.0.1:1?tls-port={}", "serial+tls://{}", "tls://{}"):
                place = str(port) if "?" in url else f"127.0.0.1:{port}"
                self.assertEqual(await self.says(self.reach(), url.format(place)), b"hello", url)
            named = self.console(self.issue(names=["host.invalid"]))
            url = f"spice+tls://127.0.0.1:{named}"
            self.assertEqual(await self.says(self.reach(), f"{url}?tls-name=host.invalid"), b"hello")
            await self.refused(errors.UpstreamFailed, "tls", self.reach(), url)
            await self.refused(errors.UpstreamFailed, "tls", self.reach(), f"{url}?tls-name=other.invalid")

        return self.run_all(run())

    def test_authorities(self) -> Deferred[Any]:
        """SPICE has an authority of its own; with another one, or none, nobody is believed."""

        async def run() -> None:
            port = self.console(self.issue(addresses=["127.0.0.1"]))
            spice, serial = f"spice+tls://127.0.0.1:{port}", f"serial+tls://127.0.0.1:{port}"
            for reach, good, bad in (
                (self.reach(vnc_ca=self.other), spice, serial),
                (self.reach(spice_ca=self.other), serial, spice),
            ):
                self.assertEqual(await self.says(reach, good), b"hello")
                await self.refused(errors.UpstreamFailed, "tls", reach, bad)
            nobody = Reach(self.reach().dialer)
            accepted = self.accepted
            for url in (spice, serial, f"tls://127.0.0.1:{port}"):
                await self.refused(errors.UpstreamFailed, "tls", nobody, url)
            missing = self.reach(spice_ca=self.folder / "missing.pem")
            await self.refused(errors.UpstreamFailed, "tls", missing, spice)
            self.assertEqual(self.accepted, accepted)

        return self.run_all(run())

    def test_no_plain_instead(self) -> Deferred[Any]:
        """Where TLS was asked for a server without it is not used."""

        async def run() -> None:
            port = self.console()
            for scheme in ("spice+tls", "serial+tls", "tls"):
                await self.refused(errors.UpstreamFailed, "tls", self.reach(), f"{scheme}://127.0.0.1:{port}")

        return self.run_all(run())

    def test_our_certificate(self) -> Deferred[Any]:
        """Who wants a certificate gets ours; without it such a console says nothing."""

        async def run() -> None:
            port = self.console(self.issue(addresses=["127.0.0.1"]), wants=True)
            certificate, key = self.issue().write(self.folder, "ours")
            url = f"spice+tls://127.0.0.1:{port}"
            ours = self.reach(certificate=certificate, key=key)
            self.assertEqual(await self.says(ours, url), b"hello")
            try:
                self.assertEqual(await self.says(self.reach(), url), b"")
            except errors.UpstreamFailed as error:
                self.assertEqual(error.reason, "tls")

        return self.run_all(run())

    def test_trust(self) -> None:
        """What VeNCrypt needs holds the server to the name in the url."""
        strict = self.reach().trust(target_of("vnc+tls://192.0.2.1:5900?tls-name=host.invalid"))
        self.assertEqual(strict.server_name, b"host.invalid")
        self.assertIsNone(self.reach().trust(target_of("vnc+tls://192.0.2.1:5900")).server_name)
        self.assertRaises(errors.UpstreamFailed, Reach(self.reach().dialer).trust, target_of("vnc+tls://h:1"))

    def test_policy(self) -> Deferred[Any]:
        """The policy knows consoles by what they speak; what it forbids is not touched."""

        async def run() -> None:
            port = self.console()
            reach = self.reach("vnc://127.0.0.0/8:*")
            for scheme in ("vnc", "vnc+tls"):
                self.assertEqual(await self.says(reach, f"{scheme}://127.0.0.1:{port}"), b"hello")
            accepted = self.accepted
            for scheme in ("spice", "serial", "tcp", "spice+tls", "tls"):
                await self.refused(errors.Forbidden, "target", reach, f"{scheme}://127.0.0.1:{port}")
            for host in ("169.254.169.254", "[::ffff:127.0.0.1]", "[::1]", "0.0.0.0"):
                await self.refused(errors.Forbidden, "target", reach, f"vnc://{host}:{port}")
            self.assertEqual(self.accepted, accepted)

        return self.run_all(run())

    def test_unix(self) -> Deferred[Any]:
        """A socket of this machine."""

        async def run() -> None:
            # The path of a socket is short.
            folder = tempfile.mkdtemp()
            self.addCleanup(shutil.rmtree, folder)
            path = f"{folder}/s"
            listening = self.reactor.listenUNIX(path, Factory.forProtocol(_Console))
            self.addCleanup(listening.stopListening)
            for scheme in ("vnc", "spice", "serial"):
                self.assertEqual(await self.says(self.reach(), f"{scheme}+unix://{path}"), b"hello")
            self.assertEqual(await self.says(self.reach(), f"unix:{path}"), b"hello")
            for missing in ("/nowhere/x", "/" + "x" * 120, "/a%00b"):
                await self.refused(errors.UpstreamFailed, "unreachable", self.reach(), f"unix:{missing}")

        return self.run_all(run())

    def test_out_of_reach(self) -> Deferred[Any]:
        """A port on which nobody listens is the upstream's failure."""

        async def run() -> None:
            with socket.socket() as it:
                it.bind(("127.0.0.1", 0))
                port = it.getsockname()[1]
                await self.refused(errors.UpstreamFailed, "refused", self.reach(), f"vnc://127.0.0.1:{port}")

        return self.run_all(run())
