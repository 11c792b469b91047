"""The service of tunnels between real sockets, each turn and second in the test's hand.

Classes named ``Stock`` say the same of Twisted's own way.
"""

from __future__ import annotations

import socket
from base64 import b64encode
from functools import partial
from typing import Any, cast

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from gateway import errors
from gateway.core import tls
from gateway.core.dial import Dialer
from gateway.core.http_client import UpstreamPool
from gateway.core.penalties import within
from gateway.core.policy import Policy, parse_rule
from gateway.core.proofs import Proofs
from gateway.core.sessions import SessionTable
from gateway.core.signers import load_signers
from gateway.core.tickets import SESSIONS, Kind, MemoryRegistry
from gateway.core.tokens import TokenVerifier
from gateway.core.web import GatewaySite
from gateway.tunnel.access import Access
from gateway.tunnel.console import Consoles
from gateway.tunnel.service import DIAL, TunnelService
from gateway.tunnel.tunnel import ESTABLISHED
from gateway.wire.ticket_json import grant_from
from tests.core.test_dial import Names
from tests.core.wires import ID, Encrypts, Peer, WireCase, server_context
from tests.wire import spice_server

HELLO = b"\x16\x03\x01\x00\x05hello"
HOST = "127.0.0.1"


class TunnelCase(WireCase):
    """A service of tunnels, clients and one server.

    :cvar rules: what the policy allows.
    """

    client_tls = False
    host_tls = False
    rules = "*://127.0.0.0/8:*"

    def _listen_as_host(self) -> None:
        self.host_listener = socket.create_server((HOST, 0))
        self.host_listener.setblocking(False)
        self.target = self.host_listener.getsockname()[1]

    def _compose(self) -> None:
        self.registry = MemoryRegistry(
            self.clock, self.wall, sessions_per_ticket=SESSIONS | {Kind.TUNNEL: None}, audit=self._audit
        )
        self.sessions = SessionTable(self.clock, self.wall, self.registry, self._audit)
        self.pool = UpstreamPool(self.clock)
        self.names = Names()
        # All real connections are local: what takes longer is the test's own clock.
        self.dialer = Dialer(self.reactor, Policy([parse_rule(self.rules)]), resolver=cast(Any, self.names))
        tokens = TokenVerifier(load_signers(), wall=self.wall, started=self.wall())
        self.consoles = Consoles(self.clock)
        access = Access(self.registry, Proofs(self.registry, tokens, self.clock, self.wall), self.consoles)
        self.opened: list[str] = []
        self.dialed: list[tuple[str, float]] = []
        self.service = TunnelService(
            access, self.consoles, self.sessions, self.dialer, self.clock, opened=self.opened.append,
            dialed=lambda *told: self.dialed.append(told),
        )  # fmt: skip
        self.refused: list[errors.GatewayError] = []
        self.site = GatewaySite(
            self.clock,
            limits=self.limits,
            observe=self._observe,
            refused=lambda peer, error: self.refused.append(error),
        )
        self.service.serve(self.site)
        factory: Any = self.site
        if self.client_tls:
            factory = tls.tls_factory(Encrypts(server_context()), self.site, self.reactor)
        self.port = self.reactor.listenTCP(0, factory, interface=HOST)

    def connect(self, context: Any = None) -> Peer:
        if self.client_tls:
            return super().connect(context)
        handle = socket.create_connection((HOST, self.port.getHost().port))
        handle.setblocking(False)
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = Peer(handle)
        self.peers.append(peer)
        return peer

    def grant(self, *urls: str, ticket_id: str = ID, **members: object) -> None:
        """Install a ticket; for the server, unless it names something else."""
        ticket = {
            "uuid": ticket_id,
            "kind": "tunnel",
            "urls": list(urls or (f"spice://{HOST}:{self.target}",)),
            "ops": ["connect"],
            "timeout": 1000,
            **members,
        }
        added: Deferred[Any] = Deferred.fromCoroutine(self.registry.add(grant_from(ticket)))
        self.successResultOf(added)

    def ask(
        self, target: str = "", ticket: str | None = ID, early: bytes = b"", line: str = "CONNECT {} HTTP/1.0"
    ) -> Peer:
        """A client that asks for a tunnel."""
        target = target or f"{HOST}:{self.target}"
        shown = "" if ticket is None else b64encode(f"gw:{ticket}".encode()).decode()
        fields = f"Host: {target}\r\n" + (f"Proxy-Authorization: Basic {shown}\r\n" if shown else "")
        peer = self.connect()
        peer.out += f"{line.format(target)}\r\n{fields}\r\n".encode("latin-1") + early
        return peer

    def until_sent(self, peer: Peer) -> None:
        self.until(lambda: not peer.out)

    def until_ended(self, peer: Peer) -> None:
        self.until(lambda: peer.ended)

    def status(self, peer: Peer) -> int:
        return self.taken(peer).status

    def open(self, *hello: bytes, **more: Any) -> tuple[Peer, Peer]:
        """Both ends of a tunnel that is up; what the client begins with has come through."""
        number = len(self.hosts)
        peer = self.ask(**more)
        self.assertEqual(self.status(peer), 200)
        self.until(lambda: len(self.hosts) > number)
        said = b"".join(hello)
        peer.out += said
        host = self.hosts[number]
        self.until(lambda: bytes(host.got) == said)
        host.got.clear()
        return peer, host


class OpenTests(TunnelCase):
    """From the CONNECT to the answer."""

    def test_answer(self) -> None:
        """The answer is a line and no more, whatever version asks; then bytes pass."""
        self.grant()
        for version in ("1.0", "1.1"):
            peer = self.ask(line="CONNECT {} HTTP/" + version)
            self.until(partial(peer.got.endswith, b"\r\n\r\n"))
            self.assertEqual(bytes(peer.got), ESTABLISHED)
        self.assertEqual([status for status, *_ in self.log], [200, 200])

    def test_statuses(self) -> None:
        """Each cause has its own number, and a bad target is told before a bad ticket."""
        self.grant()
        deaf = socket.socket()
        self.addCleanup(deaf.close)
        deaf.bind((HOST, 0))
        closed = deaf.getsockname()[1]
        self.grant(
            f"spice://{HOST}:{closed}", "spice://10.9.9.9:5900", "spice://nobody.invalid:5900",
            f"spice://127.0.0.0:{closed}", ticket_id="a" * 36,
        )  # fmt: skip
        self.names.answers = [[]]
        for target, ticket, status, reason in (
            ("x", ID, 400, "authority"), ("x:0", None, 400, "authority"), ("", None, 407, "missing"),
            ("", "b" * 36, 407, "unknown"), (f"{HOST}:1", ID, 403, "target"),
            (f"pve:{'b' * 36}:{self.target}", None, 403, "unknown"),
            (f"{HOST}:{closed}", "a" * 36, 502, "refused"), ("10.9.9.9:5900", "a" * 36, 403, "target"),
            ("nobody.invalid:5900", "a" * 36, 502, "dns"), ("x" * 254 + ":80", ID, 400, "authority"),
            ("x" * 9000 + ":80", ID, 414, "uri_too_long"),
        ):  # fmt: skip
            message = self.taken(self.ask(target, ticket))
            self.assertEqual((message.status, self.refused[-1].reason), (status, reason), target[:40])
            self.assertEqual("proxy-authenticate" in message.fields, status == 407)
        self.assertEqual(self.hosts, [])
        self.assertEqual((len(self.consoles), self.sessions.list()), (0, ()))
        self.assertEqual([result for result, _ in self.dialed], ["refused", "target", "dns"])

    def test_asks_for_a_password(self) -> None:
        """407 names Basic, and closes; the client comes again with a password."""
        self.grant()
        peer = self.ask(ticket=None)
        message = self.taken(peer)
        self.assertEqual(message.fields["proxy-authenticate"][:5], "basic")
        self.until(lambda: peer.ended)
        self.open(HELLO)

    def test_methods(self) -> None:
        """Everything but CONNECT is 405, whatever it names; none of it is fetched."""
        self.grant()
        url = f"http://{HOST}:{self.target}/"
        for line in (
            "GET /", "GET " + url, "POST " + url, f"GET {HOST}:{self.target}", "PUT /images/x",
            "DELETE /", "PATCH /x", "TRACE /", "PRI *", "connect {}", "GET https://169.254.169.254/latest/meta-data/",
        ):  # fmt: skip
            message = self.taken(self.ask(line=line + " HTTP/1.1"))
            self.assertIn(message.status, (400, 405), line)
            if not line.startswith(("PRI", "TRACE", "connect")):
                self.assertEqual((message.status, message.fields.get("allow")), (405, "connect"), line)
        self.rest()
        self.assertEqual(self.hosts, [])

    def test_no_body(self) -> None:
        """A CONNECT that declares a body is refused: it is unclear where the tunnel would begin."""
        self.grant()
        for field in ("Content-Length: 5", "Transfer-Encoding: chunked"):
            peer = self.ask(line="CONNECT {} HTTP/1.1\r\n" + field, early=b"5\r\nhello")
            self.assertEqual(self.status(peer), 400)
        self.open(HELLO, line="CONNECT {} HTTP/1.1\r\nContent-Length: 0")

    def test_slow(self) -> None:
        """A head that does not end in time is 408."""
        self.grant()
        peer = self.connect()
        peer.out += b"CONNECT "
        self.rest()
        self.clock.advance(self.limits.header_timeout - 0.1)
        self.rest()
        self.assertEqual(bytes(peer.got), b"")
        self.clock.advance(0.1)
        self.assertEqual(self.status(peer), 408)

    def test_no_answer(self) -> None:
        """A target that does not answer is 504 before the client gives up, and the use is given back."""
        self.grant("spice://silent.invalid:5900", uses=1)
        peer = self.ask("silent.invalid:5900")
        self.until(lambda: self.names.asked)
        self.clock.advance(DIAL - 0.1)
        self.rest()
        self.assertEqual((bytes(peer.got), len(self.sessions.list())), (b"", 1))
        self.clock.advance(0.1)
        self.assertEqual(self.status(peer), 504)
        self.names.late.pop()()
        self.assertEqual((len(self.consoles), self.sessions.list()), (0, ()))
        self.assertEqual(self.dialed, [("connect", DIAL)])
        self.grant(uses=1)
        self.open(HELLO)
        self.assertEqual(self.dialed[1][0], "ok")

    def test_client_leaves(self) -> None:
        """A client that leaves while the target is dialed leaves nothing behind, and its use."""
        self.grant("spice://silent.invalid:5900", f"spice://{HOST}:{self.target}", uses=1)
        peer = self.ask("silent.invalid:5900")
        self.until(lambda: self.names.asked)
        peer.cut()
        self.until(lambda: not self.sessions.list())
        self.names.late.pop()()
        self.assertEqual((len(self.consoles), [result for result, _ in self.dialed]), (0, ["left"]))
        self.open(HELLO)

    def test_revoked_while_dialing(self) -> None:
        """A ticket that is revoked meanwhile is no good, and leaves nothing behind."""
        self.grant("spice://silent.invalid:5900")
        peer = self.ask("silent.invalid:5900")
        self.until(lambda: self.names.asked)
        self.successResultOf(Deferred.fromCoroutine(self.registry.revoke(ID)))
        self.assertEqual(self.status(peer), 407)
        self.names.late.pop()()
        self.assertEqual((len(self.consoles), self.sessions.list()), (0, ()))
        self.assertEqual([word for word, *_ in self.closings()], ["revoked"])

    def test_rebinding(self) -> None:
        """A name is resolved once, every address is judged, and what was judged is dialed."""
        self.grant(f"spice://vm.invalid:{self.target}", uses=9)
        self.names.answers = [
            [HOST],
            ["169.254.169.254"],
            [HOST, "10.0.0.1"],
            ["::ffff:169.254.169.254"],
            ["0.0.0.0"],
        ]
        self.open(HELLO, target=f"vm.invalid:{self.target}")
        self.assertEqual(len(self.names.asked), 1)
        for _ in range(4):
            self.assertEqual(self.status(self.ask(f"vm.invalid:{self.target}")), 403)
        self.assertEqual((len(self.hosts), len(self.names.asked)), (1, 5))

    def test_channels(self) -> None:
        """A console has only so many channels, and 503 says so; it is counted per ticket."""
        self.consoles.channels = 2
        self.grant()
        self.grant(ticket_id="a" * 36)
        ends = [self.open(HELLO) for _ in range(2)]
        self.assertEqual((self.status(self.ask()), self.refused[-1].reason), (503, "limit"))
        self.open(HELLO, ticket="a" * 36)
        ends[0][0].cut()
        self.until(lambda: len(self.sessions.list()) == 2)
        self.open(HELLO)

    def test_one_use(self) -> None:
        """One use opens all channels of one console, and nothing after it."""
        self.grant(uses=1)
        main, _ = self.open(HELLO)
        others = [self.open(HELLO)[0] for _ in range(3)]
        main.cut()
        self.until(lambda: len(self.sessions.list()) == 3)
        others.append(self.open(HELLO)[0])
        for peer in others:
            peer.cut()
        self.until(lambda: not self.sessions.list())
        self.assertEqual((self.status(self.ask()), self.refused[-1].reason), (407, "used"))

    def test_no_use_regained(self) -> None:
        """A channel that fails gives no use back that others live on."""
        self.grant("spice://silent.invalid:5900", f"spice://{HOST}:{self.target}", uses=1)
        silent = self.ask("silent.invalid:5900")
        self.until(lambda: self.names.asked)
        peer, _ = self.open(HELLO)
        silent.cut()
        self.until(lambda: len(self.sessions.list()) == 1)
        self.names.late.pop()()
        peer.cut()
        self.until(lambda: not self.sessions.list())
        self.assertEqual((self.status(self.ask()), self.refused[-1].reason), (407, "used"))

    def test_without_ticket(self) -> None:
        """Addresses that are let in without one are listed and counted as any other."""
        self.service.access.free = within(["127.0.0.0/8"])
        self.service.access.ports = frozenset({self.target})
        self.open(spice_server.link(), ticket=None)
        session = self.session()
        self.assertEqual((session.target, session.kind), (f"spice://{HOST}:{self.target} main", "tunnel"))
        self.assertEqual(self.status(self.ask("10.0.0.1:5900", None)), 403)


class BytesTests(TunnelCase):
    """What passes."""

    def test_early(self) -> None:
        """A ClientHello that does not wait for the answer comes after it, whole."""
        self.grant()
        peer = self.ask(early=HELLO)
        self.until(lambda: self.hosts and bytes(self.hosts[0].got) == HELLO)
        self.until(lambda: bytes(peer.got) == ESTABLISHED)

    def test_early_is_held(self) -> None:
        """Whatever comes early reaches nobody when there is no tunnel, and little of it is taken."""
        self.grant("spice://silent.invalid:5900")
        peer = self.ask("silent.invalid:5900", early=HELLO + bytes(16 << 20))
        self.until(lambda: self.names.asked)
        self.rest()
        (channel,) = self.site._channels
        self.assertLessEqual(len(channel._pipelined), 128 << 10)
        self.assertGreater(len(peer.out), 1 << 20)
        self.clock.advance(DIAL)
        self.assertEqual(self.status(peer), 504)
        self.names.late.pop()()
        self.assertEqual(self.hosts, [])

    def test_early_megabyte(self) -> None:
        """A mebibyte that comes early passes as any other."""
        self.grant()
        data = HELLO + bytes(range(256)) * 4096
        self.ask(early=data)
        self.until(lambda: self.hosts and self.hosts[0].received >= len(data))
        self.assertEqual(bytes(self.hosts[0].got), data)

    def test_guard(self) -> None:
        """HTTP through a tunnel for SPICE is cut; the server hears nothing; the log says why."""
        self.grant()
        peer = self.ask(early=b"GET / HTTP/1.1\r\n\r\n")
        self.until(lambda: peer.ended and self.hosts and self.hosts[0].ended)
        self.assertEqual(bytes(self.hosts[0].got), b"")
        self.until(lambda: self.closings())
        self.assertEqual(self.closings(), [("guard", 0, 0)])

    def test_other_schemes(self) -> None:
        """The guard is for SPICE: what the ticket calls tcp or vnc carries anything; unless it is off."""
        self.grant(f"tcp://{HOST}:{self.target}")
        self.open(b"GET / HTTP/1.1\r\n\r\n")
        self.grant(ticket_id="a" * 36)
        self.service.guarded = False
        self.open(b"GET / HTTP/1.1\r\n\r\n", ticket="a" * 36)
        self.assertEqual(self.opened, [])

    def test_listed(self) -> None:
        """Sessions say which channel they are and how much went through, and never the ticket."""
        self.grant(principal="alice")
        peer, host = self.open(spice_server.link(kind=2))
        host.out += spice_server.Server().receive(spice_server.link())
        size = len(host.out)
        self.until(lambda: len(peer.got) == size)
        (session,) = self.sessions.list()
        shown = session.as_dict()
        self.assertEqual(shown["target"], f"spice://{HOST}:{self.target} display")
        self.assertEqual((shown["principal"], shown["bytes_in"], shown["bytes_out"]),
                         ("alice", len(spice_server.link(kind=2)), size))  # fmt: skip
        self.assertEqual(self.opened, ["display"])
        self.assertNotIn(ID, f"{self.trail} {shown}")

    def test_two_viewers(self) -> None:
        """Two viewers with one ticket are two consoles in the list, as far as what they say can be read."""
        self.grant()
        for number in (71, 72):
            peer, host = self.open()
            client, server = (
                spice_server.Client(hello=spice_server.link()),
                spice_server.Server(session_id=number),
            )
            peer.out += client.hello
            while not client.heard:
                self.step()
                host.out += server.receive(bytes(host.got))
                host.got.clear()
                peer.out += client.receive(bytes(peer.got))
                peer.got.clear()
        self.open(spice_server.link(72, kind=2))
        self.open(spice_server.link(71, kind=3))
        self.open(HELLO)
        one, two, third, fourth, fifth = self.sessions.list()
        self.assertEqual(
            [it.console for it in (one, two, third, fourth, fifth)], [one.id, two.id, two.id, one.id, ""]
        )
        self.successResultOf(Deferred.fromCoroutine(self.registry.revoke(ID)))
        shown = [it["console"] for event, it in self.trail if event == "session.close"]
        self.assertEqual(shown, [one.id, two.id, two.id, one.id, None])

    def test_last_bytes(self) -> None:
        """What was sent before the end arrives before it."""
        self.grant()
        peer, host = self.open(HELLO)
        host.out += b"z" * 1_000_000
        self.until(lambda: not host.out)
        host.half_close()
        self.until(lambda: peer.ended)
        self.assertIn(peer.ended, ("eof", "close_notify"))
        self.assertEqual(len(peer.got), 1_000_000)

    def test_back_pressure(self) -> None:
        """A client that does not read stops its server, and costs little; then all of it comes."""
        self.grant()
        peer, host = self.open(HELLO)
        peer.reading = False
        host.out += bytes(64 << 20)
        self.rest()
        self.assertGreater(len(host.out), 32 << 20)
        peer.reading = True
        self.until(lambda: len(peer.got) == 64 << 20)

    def test_idle(self) -> None:
        """One busy channel keeps the silent ones; when all are silent all end."""
        self.consoles.idle_timeout = 2.0
        self.grant()
        main, _ = self.open(spice_server.link(kind=1))
        inputs, server = self.open(spice_server.link(5, kind=3))
        for _ in range(6):
            self.clock.advance(1.5)
            inputs.out += b"key"
            self.rest()
        self.assertEqual((main.ended, len(server.got)), ("", 18))
        self.clock.advance(1.9)
        self.rest()
        self.assertEqual(len(self.sessions.list()), 2)
        self.clock.advance(0.2)
        self.until(lambda: main.ended and inputs.ended)
        self.assertEqual([word for word, *_ in self.closings()], ["idle", "idle"])

    def test_revoked(self) -> None:
        """Revocation cuts every channel of a ticket, in this turn, and no other ticket's."""
        self.grant()
        self.grant(ticket_id="a" * 36)
        ends = [self.open(HELLO) for _ in range(4)]
        other, _ = self.open(HELLO, ticket="a" * 36)
        self.successResultOf(Deferred.fromCoroutine(self.registry.revoke(ID)))
        self.assertEqual(len(self.sessions.list()), 1)
        self.until(lambda: all(peer.ended and host.ended for peer, host in ends))
        self.assertEqual([word for word, *_ in self.closings()], ["revoked"] * 4)
        self.assertEqual(other.ended, "")

    def test_migration(self) -> None:
        """A ticket that is put again, or renewed, with another host leads there, too; the first goes on."""
        self.grant()
        peer, host = self.open(HELLO)
        self.assertEqual(self.status(self.ask(f"127.0.0.2:{self.target}")), 403)
        self.grant(f"spice://{HOST}:{self.target}", f"spice://127.0.0.2:{self.target}")
        self.assertEqual(self.status(self.ask(f"127.0.0.2:{self.target}")), 502)
        peer.out += b"more"
        self.until(lambda: bytes(host.got) == b"more")
        third = f"spice://127.0.0.3:{self.target}"
        self.assertEqual(self.status(self.ask(f"127.0.0.3:{self.target}")), 403)
        self.successResultOf(Deferred.fromCoroutine(self.registry.renew(ID, 60, [third])))
        for host_name in ("127.0.0.3", "127.0.0.2"):
            self.assertEqual(self.status(self.ask(f"{host_name}:{self.target}")), 502)
        self.open(HELLO)

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    @given(
        st.lists(st.tuples(st.booleans(), st.integers(1, 90_000), st.integers(1, 70_000)), max_size=6),
        st.sampled_from([HELLO, spice_server.link(kind=2), spice_server.link(common=0)]),
    )
    def test_never_altered(self, steps: list[tuple[bool, int, int]], hello: bytes) -> None:
        """Any bytes pass both ways as they are, in pieces of any size."""
        self.grant()
        peer, host = self.open(hello)
        # The server is heard only after the client in what is read as SPICE.
        sent: dict[int, bytearray] = {id(peer): bytearray(), id(host): bytearray()}
        for number, (ours, size, piece) in enumerate(steps):
            here = peer if ours else host
            here.piece = piece
            data = bytes((number * 7 + at) % 251 for at in range(size))
            sent[id(here)] += data
            here.out += data
            self.step()
        self.until(lambda: len(host.got) >= len(sent[id(peer)]) and len(peer.got) >= len(sent[id(host)]))
        self.rest()
        self.assertEqual((bytes(host.got), bytes(peer.got)), (bytes(sent[id(peer)]), bytes(sent[id(host)])))
        peer.cut()
        host.cut()
        self.until(lambda: not self.sessions.list())
        for ends in (self.peers, self.hosts):
            ends.clear()


class HalfTests(TunnelCase):
    """Connections that end in one direction, which TLS has no word for."""

    def test_half_closed(self) -> None:
        """Who has said everything still gets the answer, to its last byte."""
        self.grant(f"tcp://{HOST}:{self.target}")
        for ours in (True, False):
            peer, host = self.open(b"begin")
            here, there = (peer, host) if ours else (host, peer)
            there.got.clear()
            here.out += b"x" * 300_000
            self.until_sent(here)
            here.half_close()
            self.until_ended(there)
            self.assertEqual(len(there.got), 300_000)
            there.out += b"y" * 300_000
            self.until_sent(there)
            there.half_close()
            self.until_ended(here)
            self.assertEqual((here.ended, len(here.got) % 300_000), ("eof", 0))
        self.until(lambda: not self.sessions.list())
        self.assertEqual([word for word, *_ in self.closings()], ["client", "server"])


class StockHalfTests(HalfTests):
    fast = False


class StockOpenTests(OpenTests):
    fast = False


class StockBytesTests(BytesTests):
    fast = False


class TlsBytesTests(BytesTests):
    client_tls = True


class StockTlsBytesTests(TlsBytesTests):
    fast = False
