"""What is attempted against a gateway, on the process itself over TLS: silence, floods, guesses, detours."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gateway.core import dev_pki
from tests.functional import attacks
from tests.functional.case import PYTEST_ONLY, GatewayCase
from tests.functional.peers import Gateway, Sections
from tests.functional.processes import DEADLINE, HOST, ask, free_port, short_directory

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

GIB = 1 << 30


class _FileCase(GatewayCase):
    """Images of the gateway's own store."""

    def image_ticket(self, data: bytes = b"image\n", **more: Any) -> str:
        """Write an image and install a ticket for it; return its id."""
        path = self.home / "images" / "image.raw"
        path.write_bytes(data)
        return self.ticket(path.as_uri(), size=len(data), **more)


class CrowdTests(_FileCase):
    """Hundreds who say nothing, or not enough."""

    #: How many of each sort.
    EACH = 200
    sections: ClassVar[Sections] = {"limits": {"handshake_timeout": "20s", "header_timeout": "20s"}}

    def crowd(self, sources: list[str]) -> list[socket.socket]:
        """Silent peers, peers in the middle of a handshake, peers in the middle of a head."""
        peers: list[socket.socket] = []
        for number in range(self.EACH):
            source = sources[number % len(sources)]
            peers.append(attacks.silent(self.gateway, source))
            with contextlib.suppress(OSError):  # who is one too many is hung up on
                peers.append(attacks.half_greeted(self.gateway, source))
        for connection in peers:
            self.addCleanup(connection.close)
        return peers

    def slow_heads(self) -> None:
        for _ in range(50):
            self.begin("GET /images/x")

    def test_served(self) -> None:
        """Whoever asks for something gets it at once, and the crowd is hung up on in time."""
        name = self.image_ticket()
        begin = time.monotonic()
        self.slow_heads()
        peers = self.crowd([HOST])
        self.assertEqual(len(peers), 2 * self.EACH)
        asked = time.monotonic()
        answer = self.gateway.ask("GET", f"/images/{name}")
        took = time.monotonic() - asked
        self.assertEqual((answer.status, answer.body), (200, b"image\n"))
        self.assertLess(took, 4.0)
        self.assertLess(asked - begin, 20.0, "some of the crowd were gone already")
        print(f"served in {took * 1000:.0f} ms beside {len(peers) + 50} silent peers")  # noqa: T201 (what was measured)
        for connection in peers:
            connection.settimeout(DEADLINE)
            with contextlib.suppress(ConnectionResetError):
                while connection.recv(65536):
                    pass
        self.assertLess(time.monotonic() - asked, 35.0)


class StrangerCrowdTests(CrowdTests):
    """The same where local addresses have no privilege, so that the limits of strangers hold."""

    sections: ClassVar[Sections] = {
        "limits": {
            "handshake_timeout": "8s",
            "exempt": "192.0.2.1/32",
            "unauthenticated": "100",
            "handshakes": "100",
        }
    }

    def test_served(self) -> None:
        """A crowd of 400 from one address takes nothing from another address."""
        name = self.image_ticket()
        self.crowd(["127.0.0.2"])
        asked = time.monotonic()
        answer = attacks.ask_from(HOST, self.gateway, "GET", f"/images/{name}")
        self.assertEqual((answer.status, answer.body), (200, b"image\n"))
        self.assertLess(time.monotonic() - asked, 4.0)


class RefusedUploadTests(GatewayCase):
    """A gigabyte without a ticket: the client reads why, whatever it does."""

    def check(self, answer: bytes) -> None:
        self.assertTrue(answer.startswith(b"HTTP/1.1 403 "), answer[:200])
        self.assertNotIn(b"HTTP/1.1 100", answer)
        self.assertIn(b"No such ticket", answer)

    def test_waits(self) -> None:
        """Who waits for ``100 Continue`` gets the refusal instead."""
        self.check(attacks.refused_first(self.gateway, GIB))

    def test_sends(self) -> None:
        """Who sends it all before reading a byte, and never waits, finds the refusal as well."""
        for expect in (False, True):
            begin = time.monotonic()
            self.check(attacks.refused_upload(self.gateway, GIB, expect=expect))
            self.assertLess(time.monotonic() - begin, 30)

    def test_repeatedly(self) -> None:
        """It is no matter of luck."""
        for _ in range(20):
            self.check(attacks.refused_upload(self.gateway, 64 << 20, expect=False))

    def test_library(self) -> None:
        """So does Python's own client, which does not read while it sends."""
        connection = self.gateway.client()
        self.addCleanup(connection.close)
        connection.putrequest("PUT", "/images/99999999-9999-4999-8999-999999999999")
        connection.putheader("content-length", str(GIB))
        connection.endheaders()
        with contextlib.suppress(OSError):
            for _ in range(GIB >> 20):
                connection.send(bytes(1 << 20))
        self.assertEqual(connection.getresponse().status, 403)


class RaceTests(_FileCase):
    """One-time tickets."""

    def test_once(self) -> None:
        """Of fifty that come in the same moment one is served, and nobody afterwards."""
        name = self.image_ticket(uses=1, ops=["read"])
        got = attacks.at_once(50, lambda: self.gateway.ask("GET", f"/images/{name}"))
        statuses = [answer.status for answer in got]
        self.assertEqual(sorted(statuses), [200] + 49 * [403])
        self.assertEqual(self.gateway.ask("GET", f"/images/{name}").status, 403)


class GuessTests(_FileCase):
    """Ids are guessed."""

    sections: ClassVar[Sections] = {"limits": {"auth_failures": "5", "exempt": "192.0.2.1/32"}}

    def test_429(self) -> None:
        """Who guesses too often waits, even with a good ticket in hand; his neighbors do not."""
        name = self.image_ticket()
        guess = partial(attacks.ask_from, "127.0.0.3", self.gateway, "GET", "/images/guess")
        self.assertEqual([guess().status for _ in range(6)], 6 * [403])
        answer = guess()
        self.assertEqual(answer.status, 429)
        self.assertGreater(int(answer.headers["retry-after"]), 30)
        good = attacks.ask_from("127.0.0.3", self.gateway, "GET", f"/images/{name}")
        self.assertEqual(good.status, 429)
        self.assertEqual(attacks.ask_from("127.0.0.4", self.gateway, "GET", f"/images/{name}").status, 200)
        self.assertEqual(self.gateway.get(name).status, 200, "the engine is never kept waiting")

    def test_empty_list(self) -> None:
        """``exempt =`` with nothing behind it takes the privilege of local addresses back, too."""
        home = short_directory()
        gateway = Gateway(home, {"limits": {"auth_failures": "2", "exempt": ""}})
        self.addCleanup(gateway.stop)
        gateway.start()
        self.assertEqual([gateway.ask("GET", "/images/guess").status for _ in range(4)], [403, 403, 403, 429])


class CertificateTests(GatewayCase):
    """Image hosts that are not who they should be."""

    def host(self, make: Callable[[dev_pki.Issued, dev_pki.Issued], dev_pki.Issued]) -> attacks.TlsHost:
        """A host whose certificate *make* issues by our CA, or by the other one."""
        key = load_pem_private_key(self.gateway.ca.with_suffix(".key").read_bytes(), None)
        assert isinstance(key, dev_pki.Key)
        ours = dev_pki.Issued(x509.load_pem_x509_certificate(self.gateway.ca.read_bytes()), key)
        issued = make(ours, dev_pki.authority(datetime.now(UTC), "another CA"))
        host = attacks.TlsHost(*issued.write(self.home, f"host-{id(issued)}"))
        self.addCleanup(host.close)
        return host

    def refused(self, make: Callable[[dev_pki.Issued, dev_pki.Issued], dev_pki.Issued]) -> None:
        host = self.host(make)
        name = self.ticket(f"https://{HOST}:{host.port}/images/secret-place")
        for method, body in (("GET", None), ("PUT", b"payload")):
            answer = self.gateway.ask(method, f"/images/{name}", body)
            self.assertEqual(answer.status, 502)
            for leak in (str(host.port), HOST, "secret-place", "another CA", "elsewhere", "ertificate"):
                self.assertNotIn(leak, answer.body.decode() + str(answer.headers))
        self.assertGreater(host.connections, 0)
        self.assertEqual(host.heard, b"", "something was sent to a stranger")

    def test_good(self) -> None:
        """The test has a right certificate to compare with."""
        now = datetime.now(UTC)
        host = self.host(lambda ours, _: ours.issue("host", now=now, addresses=[HOST]))
        name = self.ticket(f"https://{HOST}:{host.port}/images/x", ops=["read"])
        self.gateway.ask("GET", f"/images/{name}")
        self.assertIn(b"/images/x", host.heard)

    def test_wrong_name(self) -> None:
        """Our CA vouches for another name: 502, and not a byte goes to the host."""
        now = datetime.now(UTC)
        self.refused(lambda ours, _: ours.issue("host", now=now, names=["elsewhere.invalid"]))

    def test_wrong_authority(self) -> None:
        """Another CA vouches for the right address: the same."""
        now = datetime.now(UTC)
        self.refused(lambda _, other: other.issue("host", now=now, addresses=[HOST]))

    def test_no_name(self) -> None:
        """Only a common name: the same."""
        self.refused(lambda ours, _: ours.issue(HOST, now=datetime.now(UTC)))


class DetourTests(GatewayCase):
    """Tickets that name what no ticket may reach."""

    #: All of the world is allowed, and one port of loopback: what is inner must still be named.
    sections: ClassVar[Sections] = {"policy": {"allow": "*://*:*, http://127.0.0.0/8:1-9"}}

    def refused(self, url: str) -> None:
        name = self.ticket(url)
        begin = time.monotonic()
        answer = self.gateway.ask("GET", f"/images/{name}")
        self.assertEqual((answer.status, url), (403, url))
        self.assertLess(time.monotonic() - begin, 5.0)
        self.assertNotIn(b"169.254", answer.body)

    def test_metadata(self) -> None:
        """The metadata service and what else is inner are a 403 at once, in every disguise."""
        for host in (
            "169.254.169.254",
            "[::ffff:169.254.169.254]",
            "[64:ff9b::a9fe:a9fe]",
            "[2002:a9fe:a9fe::1]",
            "[fd00:ec2::254]",
            "100.100.100.200",
            "0.0.0.0",
            "[::]",
        ):
            self.refused(f"http://{host}/latest/meta-data")

    def test_own_ports(self) -> None:
        """So are our own ports."""
        for port in (self.gateway.port, self.gateway.control_port, self.gateway.metrics_port):
            for host in (HOST, "localhost"):
                self.refused(f"http://{host}:{port}/tickets/")

    def test_nobody_called(self) -> None:
        """Nobody is called who was not allowed, however loopback is written."""
        server = socket.create_server((HOST, 0))
        self.addCleanup(server.close)
        server.settimeout(0.2)
        port = server.getsockname()[1]
        for host in (HOST, "localhost", "127.0.0.2", "[::ffff:127.0.0.1]", "LOCALHOST"):
            self.refused(f"http://{host}:{port}/x")
        self.assertRaises(TimeoutError, server.accept)

    def test_half_addresses(self) -> None:
        """Addresses that only some read as addresses open nothing: the ticket or its use is refused."""
        for host in ("2130706433", "0x7f000001", "127.1", "0177.0.0.1", "169.254.43518"):
            body = {"uuid": f"odd-{host}-0123456789abcdef", "size": 1, "timeout": 300, "ops": ["read"]}
            answer = self.gateway.control(
                "PUT",
                f"/tickets/{body['uuid']}",
                {**body, "url": f"http://{host}:{self.gateway.control_port}/"},
            )
            if answer.status == 200:
                answer = self.gateway.ask("GET", f"/images/{body['uuid']}")
            self.assertIn(answer.status, (400, 403), host)


class OwnPortTests(GatewayCase):
    """Where all of loopback is allowed, our own ports are not part of it."""

    def test_own(self) -> None:
        """A wide rule does not open the gateway to itself."""
        for port in (self.gateway.port, self.gateway.control_port, self.gateway.metrics_port):
            name = self.ticket(f"http://{HOST}:{port}/tickets/")
            self.assertEqual(self.gateway.ask("GET", f"/images/{name}").status, 403)
        name = self.ticket(f"http://{HOST}:{free_port()}/x")
        self.assertEqual(self.gateway.ask("GET", f"/images/{name}").status, 502, "another port is")


class BrowserTests(GatewayCase):
    """A page in a browser on the gateway's own host."""

    def test_no_orders(self) -> None:
        """It gives no orders, neither across sites nor under a name that is made to resolve to loopback."""
        for fields, status in (({"Origin": "https://evil.invalid"}, 403), ({"Host": "evil.invalid"}, 421)):
            for method, path in (
                ("POST", "/drain"),
                ("POST", "/reload"),
                ("GET", "/tickets/"),
                ("DELETE", "/tickets/"),
            ):
                connection = http.client.HTTPConnection(HOST, self.gateway.control_port, timeout=DEADLINE)
                self.assertEqual(ask(connection, method, path, headers=fields).status, status)
        self.assertFalse(self.gateway.control("GET", "/status").json()["draining"])

    def test_secrets_stay_here(self) -> None:
        """H9: no answer under a ticket is kept by anybody, and no refusal tells its address to others."""
        image = self.home / "images" / "image.raw"
        image.write_bytes(b"image")
        name, none = (self.ticket(it.as_uri(), size=5) for it in (image, image.with_name("none")))
        for method, path, status in (
            ("GET", f"/images/{name}", 200),
            ("PUT", f"/images/{name}", 200),
            ("GET", f"/images/{none}", 502),
            ("GET", "/images/unknown", 403),
            ("GET", "/sessions/", 405),
        ):
            answer = self.gateway.ask(method, path)
            self.assertEqual(answer.status, status)
            self.assertIn("no-store", answer.headers.get("cache-control", ""), path)
            if status >= 400:
                self.assertEqual(answer.headers.get("referrer-policy"), "no-referrer", path)

    def test_bomb(self) -> None:
        """H11: what a host has compressed is passed on as it came, and never made larger here."""
        packed = gzip.compress(bytes(1 << 20))
        answer = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(packed)
        host = attacks.PlainHost(answer + packed)
        self.addCleanup(host.close)
        name = self.ticket(f"http://{HOST}:{host.port}/images/x", size=len(packed))
        got = self.gateway.ask("GET", f"/images/{name}")
        self.assertIn((got.status, got.body == packed), ((200, True), (502, False)))

    def test_no_redirects(self) -> None:
        """H6: no listener sends anybody to a place that the request named."""
        for path in (
            "//evil.invalid/%2f..",
            "/?redirect=https://evil.invalid",
            "/ui//evil.invalid",
            "/images//evil.invalid",
        ):
            for fields in ({}, {"Host": "evil.invalid"}, {"X-Forwarded-Host": "evil.invalid"}):
                answer = self.gateway.ask("GET", path, headers=fields)
                self.assertNotIn("evil", str(answer.headers) + answer.body.decode("utf-8"), path)
