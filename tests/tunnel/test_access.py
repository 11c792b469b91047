"""Who may go where."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.core.penalties import within
from gateway.core.proofs import Proofs
from gateway.core.sessions import Session, SessionTable
from gateway.core.signers import load_signers
from gateway.core.tickets import Kind, MemoryRegistry
from gateway.core.tokens import TokenVerifier
from gateway.tunnel.access import Access, Admission, places, targets_of
from gateway.tunnel.console import Consoles
from gateway.wire.http_head import parse_request
from gateway.wire.ticket_json import grant_from

T = TypeVar("T")
ID = "11111111-2222-4333-8444-555555555555"
PEER = "192.0.2.9"
SPICE = "spice://vm.invalid:5900?tls-port=5901"


def wall() -> float:
    return 1_800_000_000.0


class AccessTests(SynchronousTestCase):
    """:class:`Access`."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.registry = MemoryRegistry(self.clock, wall)
        self.addCleanup(self.registry.stop)
        self.sessions = SessionTable(self.clock, wall, self.registry)
        self.consoles = Consoles(self.clock, idle_timeout=None)
        tokens = TokenVerifier(load_signers(), wall=wall, started=wall())
        proofs = Proofs(self.registry, tokens, self.clock, wall)
        self.access = Access(self.registry, proofs, self.consoles)

    def ok(self, answer: Coroutine[Deferred[Any], Any, T]) -> T:
        result: T = self.successResultOf(Deferred.fromCoroutine(answer))
        return result

    def add(self, *urls: str, uuid: str = ID, **more: object) -> None:
        members: dict[str, object] = {"uuid": uuid, "kind": "tunnel", "timeout": 300, "ops": ["connect"]}
        self.ok(self.registry.add(grant_from({**members, "urls": list(urls or (SPICE,)), **more})))

    def ask(
        self, target: str, ticket: str | None = ID, peer: str = PEER, subject: str | None = None
    ) -> Coroutine[Any, Any, Admission]:
        shown = ""
        if ticket is not None:
            shown = f"Proxy-Authorization: Basic {b64encode(f'gw:{ticket}'.encode()).decode()}\r\n"
        head = parse_request(f"CONNECT {target} HTTP/1.0\r\n{shown}\r\n".encode())
        return self.access.admit(head, peer, subject)

    def admit(self, target: str, ticket: str | None = ID, peer: str = PEER) -> Admission:
        return self.ok(self.ask(target, ticket, peer))

    def refused(self, status: int, target: str, ticket: str | None = ID, peer: str = PEER) -> str:
        answer = Deferred.fromCoroutine(self.ask(target, ticket, peer))
        error = self.failureResultOf(answer, errors.GatewayError).value
        self.assertEqual(error.status, status, (target, error.reason))
        reason: str = error.reason
        return reason

    def session(self, peer: str = PEER) -> Session:
        """A tunnel that is up."""
        admission = self.admit("vm.invalid:5900", peer=peer)
        console = self.consoles.place(admission.key)
        session = self.ok(
            self.sessions.open(
                ID,
                "connect",
                kind=Kind.TUNNEL,
                peer=peer,
                target="t",
                ended=lambda word: console.leave(session),
            )
        )
        console.enter(session)
        self.consoles.given(admission.key, console)
        return session

    def test_both_ports(self) -> None:
        """A SPICE server is both of its ports, and neither the one beside nor another host."""
        self.add()
        for target in ("vm.invalid:5900", "VM.Invalid:5901"):
            self.assertEqual(self.admit(target).name, f"spice://{target.lower()}")
        for target in (
            "vm.invalid:5902", "vm.invalid:22", "other.invalid:5900", "192.0.2.1:5900", "vm.invalid.:5900",
            "vm:5900", "xvm.invalid:5900", "vm.invalid.invalid:5900",
        ):  # fmt: skip
            self.assertEqual(self.refused(403, target), "target")

    def test_addresses(self) -> None:
        """However an IPv6 address is written, it is the one in the ticket."""
        self.add("spice://[2001:DB8::0:1]:5900")
        for target in ("[2001:db8::1]:5900", "2001:db8::1:5900", "2001:0db8:0:0:0:0:0:1:5900"):
            self.assertEqual(self.admit(target).target.host, "2001:db8::1")
        self.assertEqual(self.refused(403, "[2001:db8::2]:5900"), "target")

    def test_more_urls(self) -> None:
        """A ticket that is put anew with a second host leads to both, with the same credential."""
        self.add()
        self.assertEqual(self.refused(403, "vm2.invalid:5900"), "target")
        self.add(SPICE, "spice://vm2.invalid:5900")
        for target in ("vm.invalid:5900", "vm2.invalid:5900"):
            self.admit(target)
        self.add("spice://vm2.invalid:5900")
        self.refused(403, "vm.invalid:5900")

    def test_no_port(self) -> None:
        """A port that there is not, and a unix socket, lead nowhere."""
        self.add("spice://vm.invalid:5900?tls-port=-1", "spice://b.invalid:5900?tls-port=x&tls-port=0",
                 "tcp://c.invalid:5900?tls-port=99999")  # fmt: skip
        ticket = self.ok(self.registry.get(ID))
        assert ticket is not None
        found = [(scheme, str(target)) for scheme, target in targets_of(ticket.grant)]
        self.assertEqual(
            found,
            [
                ("spice", "vm.invalid:5900"),
                ("spice", "b.invalid:5900"),
                ("tcp", "c.invalid:5900"),
            ],
        )
        self.add("spice://[2001:DB8::1]:5900?tls-port=5901", "tcp://c.invalid:1")
        ticket = self.ok(self.registry.get(ID))
        assert ticket is not None
        secure = ("spice", "2001:db8::1", 5901)
        self.assertEqual(list(places(ticket.grant)), [(*secure[:2], 5900), secure, ("tcp", "c.invalid", 1)])

    def test_no_ticket(self) -> None:
        """Who shows none is asked for one; who shows a bad one learns no more than that."""
        self.assertEqual(self.refused(407, "vm.invalid:5900", None), "missing")
        self.add(uses=1)
        self.add(uuid="b" * 36, kind="console", url="vnc://vm.invalid:5900", urls=["vnc://vm.invalid:5900"],
                 ops=["view"])  # fmt: skip
        self.add(uuid="p" * 36, peer="198.51.100.0/24")
        self.session().end("left")
        texts = set()
        for ticket, reason in ((ID, "used"), ("c" * 36, "unknown"), ("b" * 36, "kind"), ("p" * 36, "peer")):
            answer = Deferred.fromCoroutine(self.ask("vm.invalid:5900", ticket))
            error = self.failureResultOf(answer, errors.ProxyUnauthorized).value
            self.assertEqual(error.reason, reason)
            texts.add((error.text, tuple(error.headers)))
        self.assertEqual(len(texts), 1)
        self.clock.advance(300)
        self.assertEqual(self.refused(407, "vm.invalid:5900", "p" * 36), "expired")

    def test_token(self) -> None:
        """What is no id is judged as a token; one that nobody signed is no ticket."""
        for text in ("x" * 200, "eyJhbGciOiJub25lIn0.e30.", "a+b/c="):
            self.refused(407, "vm.invalid:5900", text)

    def test_used_by_itself(self) -> None:
        """One use is a whole console: while it is up its own client may open channels, and nobody else."""
        self.add(uses=1)
        session = self.session()
        self.admit("vm.invalid:5901")
        self.assertEqual(self.refused(407, "vm.invalid:5900", peer="192.0.2.10"), "used")
        session.end("killed")
        self.assertEqual(self.refused(407, "vm.invalid:5900"), "used")

    def test_first_is_gone(self) -> None:
        """A channel that was ended, or ends just now, takes nothing from the others."""
        self.add(uses=2)
        first, _second = self.session(), self.session()
        first.close("killed")
        self.admit("vm.invalid:5900")

    def test_operation(self) -> None:
        """A ticket for something else opens no tunnel."""
        self.add(uuid="i" * 36, ops=[])
        self.assertEqual(self.refused(403, "vm.invalid:5900", "i" * 36), "forbidden")

    def test_words(self) -> None:
        """A ticket in the place of the host leads to its own host; a bad one is 403: no dialog would help."""
        self.add()
        admission = self.admit(f"pve:{ID.upper()}:1:node::5901", None)
        self.assertEqual(str(admission.target), "vm.invalid:5901")
        self.assertEqual(self.refused(403, f"pve:{ID}:22", None), "target")
        self.assertEqual(self.refused(403, f"pve:{'0' * 36}:5900", None), "unknown")
        self.assertEqual(self.refused(403, "pve:x:5900", None), "authority")

    def test_ports(self) -> None:
        """The ports that the site allows hold for tickets, too."""
        self.access.ports = frozenset({5901})
        self.add()
        self.admit("vm.invalid:5901")
        self.assertEqual(self.refused(403, "vm.invalid:5900"), "target")
        self.refused(403, f"pve:{ID}:5900", None)

    def test_free(self) -> None:
        """Addresses that may do without a ticket reach the ports of consoles; a bad ticket stays bad."""
        self.access.free = within(["192.0.2.0/28"])
        admission = self.admit("vm.invalid:5900", None)
        self.assertEqual((admission.ticket_id, admission.scheme), (None, "spice"))
        for port in (22, 443, 5899, 6924, 61000):
            self.assertEqual(self.refused(403, f"vm.invalid:{port}", None), "port")
        self.assertEqual(self.refused(407, "vm.invalid:5900", None, peer="192.0.2.77"), "missing")
        self.assertEqual(self.refused(407, "vm.invalid:5900", "d" * 36), "unknown")
        self.access.ports = frozenset({61000})
        self.admit("vm.invalid:61000", None)
        self.refused(403, "vm.invalid:5900", None)

    def test_certificate(self) -> None:
        """Who shows a certificate of a subject that is listed needs no ticket, and is known by it."""
        admission = self.ok(self.ask("vm.invalid:5900", None, subject="CN=a,O=b"))
        self.assertEqual((admission.ticket_id, admission.principal), (None, "CN=a,O=b"))
        self.access.subjects = ("CN=other",)
        for subject in ("CN=a,O=b", None):
            asked = Deferred.fromCoroutine(self.ask("vm.invalid:5900", None, subject=subject))
            self.failureResultOf(asked, errors.ProxyUnauthorized)
        other = self.ok(self.ask("vm.invalid:5900", None, subject="CN=other"))
        self.assertNotEqual(other.key, admission.key)
        far = Deferred.fromCoroutine(self.ask("vm.invalid:22", None, subject="CN=other"))
        self.assertEqual(self.failureResultOf(far, errors.Forbidden).value.reason, "port")

    def test_free_words(self) -> None:
        """No address rule makes a host out of words."""
        self.access.free = within(["0.0.0.0/0"])
        self.assertEqual(self.refused(403, "a:b:5900", None), "authority")

    def test_malformed(self) -> None:
        """Bad targets are bad requests before anybody looks at a ticket."""
        self.add()
        for target in (
            "vm.invalid",
            "vm.invalid:0",
            "u@vm.invalid:5900",
            "vm.invalid%2e:5900",
            "fe80::1%25e:5900",
        ):
            self.assertEqual(self.refused(400, target), "authority")

    def test_secrets(self) -> None:
        """No description of an admission shows the ticket."""
        self.add()
        self.assertNotIn(ID, repr(self.admit("vm.invalid:5900")))
