"""What is attempted on the port of tunnels: other targets, methods, bytes and people's tickets."""

from __future__ import annotations

import contextlib
import http.client
import os
import selectors
import shutil
import socket
import ssl
import threading
import time
from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import uuid4

from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway.core import dev_pki
from tests.functional.case import PYTEST_ONLY
from tests.functional.console_servers import Line, Server, echo, quiet
from tests.functional.peers import Sections
from tests.functional.processes import DEADLINE, HOST, best_of, free_port, short_directory, wait_for
from tests.functional.tunnel_case import ESTABLISHED, HELLO, Client, TunnelCase, basic
from tests.wire import spice_server

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

MIB = 1 << 20


class _Case(TunnelCase):
    """Targets that the test plays, and that remember who came."""

    def server(self, play: Any = echo, address: str = HOST) -> Server:
        server = Server(play, address)
        self.addCleanup(server.close)
        return server

    def at(self, server: Server) -> str:
        return f"{server.host}:{server.port}"

    def get(self, line: str, port: int) -> tuple[int, bytes]:
        """Status and all of the answer to a request line."""
        client = Client(port)
        self.addCleanup(client.line.close)
        client.send(f"{line}\r\nHost: {HOST}\r\nConnection: close\r\n\r\n")
        status = client.answer()
        return status, client.head + client.read(65536)


class TargetTests(_Case):
    """C1: what nobody has any business with."""

    sections: ClassVar[Sections] = {
        "policy": {"allow": "*://127.0.0.1/32:*, *://*:5900-6923", "deny": "*://10.0.0.0/8:*"}
    }

    def test_inside(self) -> None:
        """Metadata, link-local, loopback, own ports and the like are 403 even by a ticket that names them."""
        hosts = (
            "169.254.169.254", "169.254.1.1", "127.0.0.2", "0.0.0.0", "100.64.0.1", "224.0.0.1", "240.0.0.1",
            "[::]", "255.255.255.255", "[::1]", "[fe80::1]", "[ff02::1]", "[fd00:ec2::254]",
            "[::ffff:169.254.169.254]", "[::ffff:127.0.0.2]", "[64:ff9b::a9fe:a9fe]", "[2002:a9fe:a9fe::]",
            "[::169.254.169.254]", "10.1.2.3", "100.100.100.200", "168.63.129.16",
        )  # fmt: skip
        for host in hosts:
            ticket = self.grant(f"spice://{host}:5900")
            began = time.monotonic()
            self.assertEqual(self.status(f"{host}:5900", basic(ticket)), 403, host)
            self.assertLess(time.monotonic() - began, 4, host)

    def test_own_ports(self) -> None:
        """The control port and the tunnel itself are out of reach, although their address is allowed."""
        own = self.gateway.control_port, self.gateway.metrics_port, self.plain, self.secure, self.gateway.port
        for port in own:
            ticket = self.grant(f"tcp://{HOST}:{port}")
            self.assertEqual(self.status(f"{HOST}:{port}", basic(ticket)), 403, port)
        for port in own:
            ticket = self.grant(f"spice://localhost:{port}")
            self.assertEqual(
                self.status(f"localhost:{port}", basic(ticket)), 403, "::1 is one of its addresses"
            )


class OwnPortTests(_Case):
    """C1: own listeners, where only networks elsewhere are allowed."""

    sections: ClassVar[Sections] = {"policy": {"allow": "*://*:*"}}

    def test_own(self) -> None:
        """A rule for everything is none for loopback, or for what listens here."""
        for port in (self.gateway.control_port, self.plain, free_port()):
            for host in (HOST, "localhost", "[::1]", "[::ffff:127.0.0.1]"):
                ticket = self.grant(f"tcp://{host}:{port}")
                self.assertEqual(self.status(f"{host}:{port}", basic(ticket)), 403, (host, port))


class EverywhereTests(_Case):
    """C1: own listeners that are reached by any address of this machine."""

    @classmethod
    def setUpClass(cls) -> None:
        port = free_port()
        cls.more = {"listen": f"tcp:{port}"}
        cls.everywhere = port
        super().setUpClass()
        cls.plain = port

    everywhere: ClassVar[int]

    def test_own(self) -> None:
        """An allowed network is no way back to ourselves, whichever address of it is named."""
        for host in (HOST, "127.0.0.5", "[::ffff:127.0.0.5]", "localhost"):
            ticket = self.grant(f"tcp://{host}:{self.everywhere}")
            self.assertEqual(self.status(f"{host}:{self.everywhere}", basic(ticket)), 403, host)
        server = self.server(address="127.0.0.5")
        self.assertEqual(self.status(self.at(server), basic(self.grant(f"tcp://{self.at(server)}"))), 200)


class NameTests(_Case):
    """C2: tricks with names."""

    def test_table(self) -> None:
        """Each is 400 or leads nowhere, whatever the ticket; line ends make no second request."""
        server = self.server()
        ticket = self.grant(f"tcp://{self.at(server)}")
        port = server.port
        for target, statuses in (
            (f"{HOST}", (400,)), (f"{HOST}:", (400,)), (f"{HOST}:0", (400,)), (f"{HOST}:65536", (400,)),
            (f"{HOST}:{port}0", (400, 403)), (f"user@{HOST}:{port}", (400,)),
            (f"user:x@{HOST}:{port}", (400,)),
            (f"{HOST}%00:{port}", (400,)), (f"[{HOST}]:{port}", (400,)), (f"[::1%lo]:{port}", (400,)),
            (f"{HOST}.:{port}", (403,)), (f"127.1:{port}", (403,)), (f"2130706433:{port}", (403,)),
            (f"0x7f000001:{port}", (403,)), (f"localhost:{port}", (403,)),
            (f"[::ffff:7f00:1]:{port}", (403,)),
            (f"http://{HOST}:{port}", (400, 403)), (f"/{HOST}:{port}", (400,)), (f"{HOST}:{port}/", (400,)),
            (f"{HOST}:{port}#x", (400,)), (f"{HOST}:{port}?x", (400,)), (f"{'a' * 300}:{port}", (400,)),
            (f"{'a.' * 2000}:{port}", (400,)), (f"{'a' * 9000}:{port}", (414,)), (f"\xe9:{port}", (400,)),
            (f"{HOST}\0:{port}", (400,)), (f"{HOST}\t:{port}", (400,)), (f"{HOST} {HOST}:{port}", (400,)),
            (f"{HOST}:{port}\r\nX-Y: z", (400,)), (f"{HOST}\r\nHost: x:{port}", (400,)),
            (f"{HOST}\n:{port}", (400,)),
            (f"{HOST}\r:{port}", (400,)), ("*", (400,)), (f"*:{port}", (400,)), ("", (400,)),
        ):  # fmt: skip
            client = self.client()
            client.send(f"CONNECT {target} HTTP/1.0\r\n{basic(ticket)}\r\n\r\n")
            self.assertIn(client.answer(), statuses, target[:60])
        self.assertEqual(server.lines, [])
        self.assertEqual(self.status(self.at(server), basic(ticket)), 200)

    def test_field_smuggling(self) -> None:
        """Two credentials, two hosts and bodies are refused."""
        server = self.server()
        ticket = self.grant(f"tcp://{self.at(server)}")
        for fields in (
            (basic(ticket), basic(ticket)), (basic(ticket), "Host: x"), (basic(ticket), "Content-Length: 5"),
            (basic(ticket), "Transfer-Encoding: chunked"), (basic(ticket).replace(": ", ":\r\n "),),
            (basic(ticket).replace("Authorization", "Authorization "),), (basic(ticket).replace("-", "_"),),
        ):  # fmt: skip
            self.assertIn(self.status(self.at(server), *fields, version="1.1"), (400, 407), fields)
        self.assertEqual(self.status(self.at(server), basic(ticket), "X: " + "y" * 20000), 431)
        self.assertEqual(server.lines, [])


class ProxyTests(_Case):
    """C3: no open proxy."""

    def test_no_ticket(self) -> None:
        """Without a good ticket nobody gets anywhere, and all are told the same."""
        server = self.server()
        url = f"tcp://{self.at(server)}"
        used, expired, revoked = self.grant(url, uses=1), self.grant(url), self.grant(url)
        self.open(self.at(server), used).reset()
        wait_for(lambda: not self.gateway.sessions() and len(server.lines) == 1, "the use is over")
        self.gateway.renew(expired, 0)
        self.gateway.delete(revoked)
        heads = set()
        for ticket in (str(uuid4()), used, expired, revoked, self.grant(url, peer="192.0.2.0/24")):
            client = self.client()
            self.assertEqual(client.connect(self.at(server), basic(ticket)), 407)
            self.assertIn(b'\r\nproxy-authenticate: basic realm="', client.head.lower())
            heads.add(client.head)
        self.assertEqual(len({len(it) for it in heads}), 1)
        for field in (
            (),
            ("Proxy-Authorization: Bearer x",),
            ("Authorization: " + basic(used).partition(": ")[2],),
        ):
            self.assertEqual(self.status(self.at(server), *field), 407)
        self.assertEqual(self.status(f"pve:{revoked}:x:{server.port}"), 403)
        self.assertEqual(len(server.lines), 1)
        token = "eyJhbGciOiJub25lIn0.e30." + "x" * 150
        self.assertEqual(self.status(self.at(server), basic(token)), 407)
        self.assertIn('"event": "token.refused"', self.written())
        self.assertIn(f"CONNECT {self.at(server)} 407", self.written())
        text = self.gateway._plain(self.gateway.metrics_port, "GET", "/metrics").body.decode()
        for reason in ("unknown", "used", "expired", "revoked", "missing", "peer"):
            counted = f'gateway_auth_failures_total\\{{listener="tunnel",reason="{reason}"\\}} [1-9]'
            self.assertRegex(text, counted)

    def test_other_tickets(self) -> None:
        """Tickets of other services open no tunnel, and those of tunnels open nothing else."""
        server = self.server()
        console = str(uuid4())
        target = f"spice://{self.at(server)}"
        self.gateway.put(
            {"uuid": console, "kind": "console", "url": target, "timeout": 300, "ops": ["control"]}
        )
        image = self.ticket(f"http://{self.at(server)}/images/x")
        for ticket in (console, image):
            self.assertEqual(self.status(self.at(server), basic(ticket)), 407)
        tunnel = self.grant(target)
        self.assertEqual(self.gateway.ask("GET", f"/images/{tunnel}").status, 403)
        self.assertEqual(server.lines, [])

    def test_methods(self) -> None:
        """Any other method is 405, with and without a whole URL, on both ports; nobody is asked anything."""
        server = self.server(quiet)
        for line in ("GET {}", "HEAD {}", "POST {}", "PUT {}", "DELETE {}", "PATCH {}", "OPTIONS {}"):
            for url in (
                f"http://{self.at(server)}/",
                f"https://{self.at(server)}/",
                "/",
                f"{self.at(server)}",
                "*",
            ):
                if url == "*" and not line.startswith("OPTIONS"):
                    continue
                status, answer = self.get(f"{line.format(url)} HTTP/1.1", self.plain)
                self.assertEqual(status, 405, (line, url))
                self.assertIn(b"\r\nallow: connect\r\n", answer.lower())
        context = ssl.create_default_context(cafile=str(self.gateway.ca))
        connection = http.client.HTTPSConnection(HOST, self.secure, context=context, timeout=DEADLINE)
        connection.request("GET", f"http://{self.at(server)}/")
        self.assertEqual(connection.getresponse().status, 405)
        connection.close()
        self.assertEqual(server.lines, [])

    def test_not_on_other_ports(self) -> None:
        """Images and control know no CONNECT."""
        server = self.server()
        ticket = self.grant(f"tcp://{self.at(server)}")
        with self.gateway.connect() as line:
            line.sendall(f"CONNECT {self.at(server)} HTTP/1.1\r\nHost: x\r\n{basic(ticket)}\r\n\r\n".encode())
            self.assertIn(int(line.recv(4096).split()[1]), (400, 404, 405, 501))
        self.assertEqual(server.lines, [])

    def test_one_use_is_not_shared(self) -> None:
        """A stolen ticket for one use is of no use beside its owner, nor after him."""
        server = self.server()
        ticket = self.grant(f"tcp://{self.at(server)}", uses=1)
        owner = self.open(self.at(server), ticket)
        thief = Client(self.plain, source="127.0.0.5")
        self.addCleanup(thief.line.close)
        self.assertEqual(thief.connect(self.at(server), basic(ticket)), 407)
        self.open(self.at(server), ticket)
        owner.line.sendall(b"still")
        self.assertEqual(owner.read(5), b"still")


class CertificateTests(_Case):
    """Who shows a certificate of our clients' authority needs no ticket."""

    issuer: ClassVar[dev_pki.Issued]

    @classmethod
    def setUpClass(cls) -> None:
        directory = short_directory()
        cls.addClassCleanup(shutil.rmtree, directory)
        cls.issuer = dev_pki.authority(datetime.now(UTC), "clients")
        ca, _ = cls.issuer.write(directory, "clients")
        cls.more = {"client_ca": str(ca), "allowed_dn": "CN=viewer", "ports": "1024-65535"}
        super().setUpClass()

    def asked(self, issuer: dev_pki.Issued | None, subject: str, target: str) -> int:
        """The status for who shows such a certificate; 0 when TLS fails."""
        context = ssl.create_default_context(cafile=str(self.gateway.ca))
        if issuer is not None:
            usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
            made = issuer.issue(subject, now=datetime.now(UTC), usages=usages)
            context.load_cert_chain(*made.write(self.home, "client"))
        with (
            contextlib.suppress(OSError),
            socket.create_connection((HOST, self.secure), DEADLINE) as plain,
            context.wrap_socket(plain, server_hostname=HOST) as line,
        ):
            line.sendall(f"CONNECT {target} HTTP/1.0\r\n\r\n".encode())
            head = line.recv(4096)
            return int(head.split()[1]) if head else 0
        return 0

    def test_shown(self) -> None:
        """Its subject counts, and who issued it; without one it is as ever, and policy holds for all."""
        server = self.server(quiet)
        stranger = dev_pki.authority(datetime.now(UTC), "strangers")
        self.assertEqual(self.asked(stranger, "viewer", self.at(server)), 0)
        self.assertEqual(self.asked(self.issuer, "somebody", self.at(server)), 407)
        self.assertEqual(self.asked(None, "", self.at(server)), 407)
        self.assertEqual(self.asked(self.issuer, "viewer", "169.254.169.254:5900"), 403)
        self.assertEqual(server.lines, [])
        self.assertEqual(self.asked(self.issuer, "viewer", self.at(server)), 200)
        wait_for(self.trail, "the end of the tunnel")
        self.assertEqual(self.trail()[-1]["principal"], "CN=viewer")


class GuessTests(_Case):
    """C3: ids are guessed."""

    sections: ClassVar[Sections] = {"limits": {"auth_failures": "5", "exempt": "192.0.2.1/32"}}

    def test_guessing(self) -> None:
        """Who guesses has to wait; who has a good ticket and another address does not."""
        server = self.server()
        seen = set()
        for _ in range(9):
            client = Client(self.plain, source="127.0.0.66")
            seen.add(client.connect(self.at(server), basic(str(uuid4()))))
            client.line.close()
        self.assertEqual(seen, {407, 429})
        self.open(self.at(server), self.grant(f"tcp://{self.at(server)}"))


class BytesTests(_Case):
    """C4 and C5: bytes that come early, and such as are no SPICE."""

    def test_early(self) -> None:
        """A ClientHello and a mebibyte that do not wait come through whole; the answer comes first."""
        server = self.server()
        spice = self.grant(f"spice://{self.at(server)}")
        for early in (HELLO, HELLO + os.urandom(MIB)):
            client = self.client()
            thread = threading.Thread(
                target=client.connect, args=(self.at(server), basic(spice)), kwargs={"early": early}
            )
            thread.start()
            thread.join(DEADLINE)
            self.assertEqual(client.head, ESTABLISHED)
            self.assertEqual(client.read(len(early)), early)

    def test_early_for_nobody(self) -> None:
        """Early bytes of a tunnel that is refused reach nobody, however many."""
        server = self.server()
        for fields in ((), (basic(self.grant("tcp://127.0.0.1:1")),)):
            client = self.client()
            with contextlib.suppress(ConnectionError):
                head = [f"CONNECT {self.at(server)} HTTP/1.0", *fields, "", ""]
                client.send("\r\n".join(head), HELLO + bytes(MIB))
            with contextlib.suppress(ConnectionError):
                self.assertIn(client.answer(), (403, 407))
        self.assertEqual(server.lines, [])

    def test_guard(self) -> None:
        """Anything but SPICE and TLS through a tunnel for SPICE is cut before the target hears a byte."""
        server = self.server()
        ticket = self.grant(f"spice://{self.at(server)}")
        for said in (
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"SSH-2.0-x\r\n",
            b"\0\0\0\1",
            b"REDX",
            b"\x16\x02",
        ):
            client = self.open(self.at(server), ticket)
            client.line.sendall(said)
            self.assertTrue(client.over(), said)
        wait_for(lambda: [line.over for line in server.lines] == [True] * 5, "all are closed")
        self.assertEqual([bytes(line.heard) for line in server.lines], [b""] * 5)
        wait_for(lambda: not self.gateway.sessions(), "all is told")
        found = [it for it in self.trail() if it["target"].endswith(self.at(server))]
        self.assertEqual([it["reason"] for it in found], ["guard"] * 5)
        client = self.open(self.at(server), ticket)
        client.line.sendall(spice_server.link())
        self.assertEqual(client.read(len(spice_server.link())), spice_server.link())

    def test_half_closed(self) -> None:
        """Who has said everything still gets the rest."""

        def count(line: Line) -> None:
            total = 0
            while piece := line.more():
                total += len(piece)
            line.say(str(total).encode())

        server = self.server(count)
        client = self.open(self.at(server), self.grant(f"tcp://{self.at(server)}"))
        client.line.sendall(bytes(3 * MIB))
        client.line.shutdown(socket.SHUT_WR)
        self.assertEqual(client.read(100), str(3 * MIB).encode())


class SlowTests(_Case):
    """What takes too long."""

    sections: ClassVar[Sections] = {
        "limits": {"header_timeout": "1s"},
        "policy": {"allow": "*://127.0.0.0/8:*, *://192.0.2.0/24:*"},
    }

    def test_slow_head(self) -> None:
        """A CONNECT that does not end is 408, however it trickles."""
        client = self.client()
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for byte in b"CONNECT " + b"a" * 50:
                client.line.sendall(bytes([byte]))
                time.sleep(0.1)
                if time.monotonic() > began + 2:
                    break
        self.assertEqual(client.answer(), 408)

    def test_refused_and_unknown(self) -> None:
        """A target that refuses, or that nobody knows, is 502."""
        port = free_port()
        self.assertEqual(self.status(f"{HOST}:{port}", basic(self.grant(f"spice://{HOST}:{port}"))), 502)
        self.assertEqual(self.status("no.invalid:5900", basic(self.grant("spice://no.invalid:5900"))), 502)

    def test_full_backlog(self) -> None:
        """A target that does not answer is 504 after five seconds; the client would give up after ten."""
        listener = socket.create_server((HOST, 0), backlog=0)
        self.addCleanup(listener.close)
        port = listener.getsockname()[1]
        for _ in range(4):
            filler = socket.socket()
            self.addCleanup(filler.close)
            filler.setblocking(False)
            filler.connect_ex((HOST, port))
        began = time.monotonic()
        self.assertEqual(self.status(f"{HOST}:{port}", basic(self.grant(f"spice://{HOST}:{port}"))), 504)
        self.assertTrue(4 < time.monotonic() - began < 10)
        wait_for(lambda: not self.gateway.sessions(), "no session")


class PlainTests(_Case):
    """C6: tickets on a line that anybody may read."""

    more: ClassVar[dict[str, str]] = {"tls": "yes", "tls_listen": "off"}

    def test_tls_only(self) -> None:
        """Where both ports have TLS nothing is taken without it, and no ticket is asked for."""
        server = self.server()
        ticket = self.grant(f"tcp://{self.at(server)}")
        client = self.client()
        with contextlib.suppress(ConnectionError):
            client.send(f"CONNECT {self.at(server)} HTTP/1.0\r\n{basic(ticket)}\r\n\r\n")
            self.assertNotIn(b"HTTP/", client.read(100))
        self.assertEqual(server.lines, [])
        client = self.client(ca=self.gateway.ca)
        self.assertEqual(client.connect(self.at(server), basic(ticket)), 200)


class LifeTests(_Case):
    """A console is one thing, to its end."""

    more: ClassVar[dict[str, str]] = {"idle_timeout": "6s", "channels_per_ticket": "8"}

    def test_idle(self) -> None:
        """One busy channel keeps seven silent ones; when it is silent, too, all end."""
        server = self.server()
        ticket = self.grant(f"tcp://{self.at(server)}")
        clients = [self.open(self.at(server), ticket) for _ in range(8)]
        self.assertEqual(self.status(self.at(server), basic(ticket)), 503)
        for _ in range(14):
            time.sleep(0.5)
            clients[0].line.sendall(b"key")
            self.assertEqual(clients[0].read(3), b"key")
        self.assertEqual(len(self.gateway.sessions()), 8)
        clients[7].line.sendall(b"here")
        self.assertEqual(clients[7].read(4), b"here")
        began = time.monotonic()
        wait_for(lambda: not self.gateway.sessions(), "all ended")
        self.assertLess(time.monotonic() - began, 14)
        self.assertTrue(all(client.over() for client in clients))

    def test_revoked(self) -> None:
        """Revocation ends all channels within 100 ms, busy ones and silent ones, on both sides."""

        def flood(line: Line) -> None:
            while True:
                line.say(bytes(65536))

        loud, silent = self.server(flood), self.server(quiet)
        other = self.open(self.at(silent), self.grant(f"tcp://{self.at(silent)}"))

        def revoked() -> float:
            other.line.sendall(b"x")
            ticket = self.grant(f"tcp://{self.at(loud)}", f"tcp://{self.at(silent)}")
            clients = [self.open(self.at(it), ticket) for it in (loud, silent) * 4]
            time.sleep(0.3)
            self.assertEqual(self.gateway.delete(ticket).status, 204)
            answered = time.monotonic()
            for client in clients:
                with contextlib.suppress(ConnectionError):
                    while client.line.recv(MIB):
                        pass
            took = time.monotonic() - answered
            wait_for(lambda: loud.live == 0 and silent.live == 1, "the targets hear of it")
            self.assertEqual(self.status(self.at(silent), basic(ticket)), 407)
            return took

        best_of(revoked, 0.1)
        other.line.sendall(b"x")
        [session] = self.gateway.sessions()
        self.gateway.control("DELETE", f"/sessions/{session['id']}")
        self.assertTrue(other.over())

    def test_expiry(self) -> None:
        """A ticket is renewed in time; an expired one opens nothing, what is up stays; put again it opens."""
        server = self.server()
        ticket = self.grant(f"tcp://{self.at(server)}", timeout=8)
        client = self.open(self.at(server), ticket)
        self.gateway.renew(ticket, 300)
        for _ in range(17):
            time.sleep(0.5)
            client.line.sendall(b"here")
            self.assertEqual(client.read(4), b"here")
        self.open(self.at(server), ticket)
        self.gateway.renew(ticket, 0)
        self.assertEqual(self.status(self.at(server), basic(ticket)), 407)
        client.line.sendall(b"here")
        self.assertEqual(client.read(4), b"here")
        again = {"kind": "tunnel", "urls": [f"tcp://{self.at(server)}"], "timeout": 300, "ops": ["connect"]}
        self.gateway.put({"uuid": ticket, **again})
        self.open(self.at(server), ticket)

    def test_migration(self) -> None:
        """The ticket is put again with a second host, which the same credential opens; the console stays."""
        first, second = self.server(), self.server(address="127.0.0.2")
        ticket = self.grant(f"spice://{self.at(first)}", uses=1)
        client = self.open(self.at(first), ticket)
        client.line.sendall(spice_server.link())
        self.assertEqual(self.status(self.at(second), basic(ticket)), 403)
        urls = [f"spice://{self.at(first)}", f"spice://{self.at(second)}"]
        self.gateway.put(
            {"uuid": ticket, "kind": "tunnel", "urls": urls, "timeout": 300, "ops": ["connect"], "uses": 1}
        )
        moved = self.open(self.at(second), ticket)
        for line in (client, moved):
            line.line.sendall(spice_server.link())
            self.assertEqual(line.read(42), spice_server.link())
        self.assertEqual(len(self.gateway.sessions()), 2)


class AlwaysTests(_Case):
    """``enforce_expiry = always``."""

    more: ClassVar[dict[str, str]] = {"enforce_expiry": "always"}

    def test_cut(self) -> None:
        """A console ends with its ticket, all channels at once; one that is renewed in time goes on."""
        server = self.server()
        kept, ended = (self.grant(f"tcp://{self.at(server)}") for _ in range(2))
        tunnels = [self.open(self.at(server), ended) for _ in range(3)]
        other = self.open(self.at(server), kept)
        began = time.monotonic()
        for ticket in (kept, ended):
            self.gateway.renew(ticket, 6)
        self.gateway.renew(kept, 60)
        self.assertTrue(all(client.over() for client in tunnels))
        self.assertTrue(5 < time.monotonic() - began < 15)
        other.line.sendall(b"here")
        self.assertEqual(other.read(4), b"here")
        self.assertEqual(self.status(self.at(server), basic(ended)), 407)
        self.assertEqual({it["reason"] for it in self.trail()}, {"expired"})


class CrowdTests(_Case):
    """A thousand at once."""

    descriptors = 8192
    more: ClassVar[dict[str, str]] = {"channels_per_ticket": "1000"}
    sections: ClassVar[Sections] = {"limits": {"connections": "3000", "connections_per_address": "3000"}}
    COUNT = 1000

    def test_none_lost(self) -> None:
        """A thousand tunnels with traffic on each: not a byte is lost, none ends, within half a minute."""
        server = _Echo()
        self.addCleanup(server.close)
        ticket = self.grant(f"spice://{HOST}:{server.port}")
        began = time.monotonic()
        clients = [self.open(f"{HOST}:{server.port}", ticket) for _ in range(self.COUNT)]
        for number, client in enumerate(clients):
            client.line.sendall(HELLO + number.to_bytes(4, "big") * 512)
        for _ in range(2):
            for number, client in enumerate(clients):
                size = len(HELLO) + 2048 if _ == 0 else 2048
                self.assertEqual(client.read(size)[-2048:], number.to_bytes(4, "big") * 512)
                if _ == 0:
                    client.line.sendall(number.to_bytes(4, "big") * 512)
        self.assertEqual(len(self.gateway.sessions()), self.COUNT)
        self.assertLess(time.monotonic() - began, 30)
        self.gateway.delete(ticket)
        wait_for(lambda: not self.gateway.sessions(), "all ended")


class _Echo:
    """An echo server in one thread for any number of connections."""

    def __init__(self) -> None:
        self._listener = socket.create_server((HOST, 0), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._over = False
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._over = True

    def _serve(self) -> None:
        while not self._over:
            for key, _ in self._selector.select(0.2):
                line: Any = key.fileobj
                with contextlib.suppress(BlockingIOError):
                    if line is self._listener:
                        self._selector.register(line.accept()[0], selectors.EVENT_READ)
                        continue
                    try:
                        data = line.recv(65536)
                        line.sendall(data)
                    except ConnectionError:
                        data = b""
                    if not data:
                        self._selector.unregister(line)
                        line.close()
        for known in list(self._selector.get_map().values()):
            known.fileobj.close()  # type: ignore[union-attr]  # a socket
        self._selector.close()


class CanaryTests(_Case):
    """No ticket is ever written."""

    def test_nothing_leaks(self) -> None:
        """Neither in the log at its most talkative, nor in the trail, the metrics or any list."""
        server = self.server()
        url = f"spice://{self.at(server)}"
        tickets = [self.grant(url, secret="Canary-secret") for _ in range(5)]
        client = self.open(self.at(server), tickets[0])
        client.line.sendall(b"GET / HTTP/1.1\r\n\r\n")
        self.assertTrue(client.over())
        self.status(f"pve:{tickets[1]}:x:{server.port}")
        self.status(f"pve:{tickets[1]}:x:1")
        self.status(f"{HOST}:1", basic(tickets[2]))
        self.status(f"{tickets[3]}:{server.port}", basic(tickets[3]))
        self.status(f"bad target {tickets[3]}", basic(tickets[3]))
        self.get(f"GET http://ticket:{tickets[4]}@{self.at(server)}/{tickets[4]} HTTP/1.1", self.plain)
        guess, token = str(uuid4()), "Canary" + "x" * 200
        for shown in (guess, token):
            self.status(self.at(server), basic(shown))
        live = self.open(self.at(server), tickets[0])
        live.line.sendall(HELLO)
        encoded = [basic(it).rpartition(" ")[2] for it in (*tickets, guess, token)]
        places = {
            "log and trail": self.written(),
            "sessions": self.gateway.control("GET", "/sessions/").body.decode(),
            "tickets": self.gateway.control("GET", "/tickets/").body.decode(),
            "status": self.gateway.control("GET", "/status").body.decode(),
            "metrics": self.gateway._plain(self.gateway.metrics_port, "GET", "/metrics").body.decode(),
        }
        for place, text in places.items():
            for secret in (*tickets, guess, token, *encoded, "Canary-secret"):
                self.assertNotIn(secret, text, place)
        self.assertIn("guard", places["log and trail"])
