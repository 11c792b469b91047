"""What tests of the endpoint share: a desk with hypervisors in memory, tickets, and those who hold them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from gateway import errors
from gateway.core.config_services import Target as Section
from gateway.core.proofs import Proofs
from gateway.core.sessions import SessionTable
from gateway.core.signers import load_signers
from gateway.core.tickets import Grant, Kind, MemoryRegistry, Rights
from gateway.core.tokens import TokenVerifier
from gateway.rpc.answers_events import Told
from gateway.rpc.command import Command
from gateway.rpc.connection import LibvirtConnection
from gateway.rpc.cookies import Cookies
from gateway.rpc.desk import Desk
from gateway.rpc.handles import Handles
from gateway.rpc.journal import Journal
from gateway.rpc.login import Caller, Logins
from gateway.rpc.seat import Seat
from gateway.rpc.sites import Sites
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_url import LibvirtUrl
from gateway.wire.libvirt_words import EVENT_KINDS
from tests.rpc.fake_libvirt import FakeLibvirtd, FakePeer
from tests.rpc.keeping import NOW, KeepingCase

URI = "test+unix:///default?socket=/run/fake"
EVERYTHING = Rights(("*",), ("*",))


def domain(number: int, name: str = "") -> dict[str, Any]:
    """The reference to a domain, numbered from 1."""
    return {"name": name or f"vm-{number}", "uuid": str(UUID(int=number)), "id": number}


@define(eq=False)
class FakeTransports:
    """Hypervisors by their sockets; each is there once somebody connects to it."""

    clock: Clock
    doms: list[dict[str, Any]] = field(factory=list)
    daemons: dict[str, FakeLibvirtd] = field(factory=dict)

    async def connect(self, url: LibvirtUrl, protocol: LibvirtConnection, *, readonly: bool = False) -> None:
        daemon = self.daemon(str(url))
        if daemon.failure is not None:
            raise daemon.failure
        peer = FakePeer(daemon, protocol, readonly)
        daemon.peers.append(peer)
        protocol.makeConnection(peer)

    def daemon(self, url: str) -> FakeLibvirtd:
        """The one at *url*, which answers what everybody asks first."""
        if url not in self.daemons:
            daemon = self.daemons[url] = FakeLibvirtd(self.clock)
            daemon.answers |= {kind.registration: {"callbackID": 1} for kind in EVENT_KINDS}
            daemon.answers["CONNECT_GET_URI"] = {"uri": "test:///default"}
            daemon.answers["CONNECT_GET_ALL_DOMAIN_STATS"] = lambda asked: {
                "retStats": [{"dom": dom, "params": _STATE} for dom in self.doms]
            }
            daemon.answers["CONNECT_LIST_ALL_DOMAINS"] = lambda asked: {
                "domains": self.doms,
                "ret": len(self.doms),
            }
        return self.daemons[url]


_STATE = [{"field": f"state.{it}", "type": "int", "value": 1} for it in ("state", "reason")]


class FakeLink:
    """A connection that takes so many events.

    :ivar told: what was sent.
    :ivar ended: why it was hung up.
    """

    def __init__(self, free: int = 1_000_000) -> None:
        self.free = free
        self.told: list[dict[str, Any]] = []
        self.ended: list[errors.GatewayError] = []
        self._waiting: list[Deferred[None]] = []

    def send(self, command: type[Command], **arguments: Any) -> None:
        self.free -= 1
        self.told.append(arguments)

    def room(self) -> bool:
        return self.free > 0

    def drained(self) -> Deferred[None]:
        self._waiting.append(Deferred())
        return self._waiting[-1]

    def more(self, free: int) -> None:
        self.free += free
        waiting, self._waiting = self._waiting, []
        for it in waiting:
            it.callback(None)

    def end(self, error: errors.GatewayError) -> None:
        self.ended.append(error)


class DeskCase(KeepingCase):
    """A desk before the target ``lab``, whose daemon answers when the test says so."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.transports = FakeTransports(self.clock, [domain(1), domain(2)])
        self.sites = Sites(self.transports, self.clock, self.wall)  # type: ignore[arg-type]  # a double
        self.sites.adopt({"lab": self.section()})
        self.trail: list[dict[str, Any]] = []
        self.seen: list[tuple[str, str]] = []
        self.registry = MemoryRegistry(self.clock, self.wall)
        self.sessions = SessionTable(self.clock, self.wall, self.registry)
        self.desk = Desk(
            self.sites,
            Handles(self.store(), self.wall),
            Cookies(bytes(32)),
            Journal(self.stores[0], self.wall),
            self.clock,
            self.wall,
            lambda event, /, **fields: self.trail.append(fields),
            lambda name, end, seconds: self.seen.append((name, end)),
        )
        proofs = Proofs(
            self.registry,
            TokenVerifier(load_signers(None, None, None, None), wall=self.wall, started=NOW),
            self.clock,
            self.wall,
        )
        self.logins = Logins(self.registry, proofs, self.sessions, "amp", "rpc", ("CN=op-*",))
        self.links: list[FakeLink] = []
        self.ends: list[str] = []

    def tearDown(self) -> None:
        """Nothing is left once everything is stopped: no timer, and no connection."""
        for seat in list(self.desk.seats):
            seat.caller.session.close("left")
        stopping = Deferred.fromCoroutine(self.sites.stop())
        self.turn()
        self.successResultOf(stopping)
        self.registry.stop()
        self.assertEqual([it for each in self.transports.daemons.values() for it in each.live], [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def section(self, uri: str = URI, **more: Any) -> Section:
        return Section.model_validate({"uri": uri, **more})

    @property
    def daemon(self) -> FakeLibvirtd:
        """The hypervisor ``lab``."""
        return self.transports.daemon(str(self.sites._sites["lab"].url))

    def turn(self, seconds: float = 0.0) -> None:
        """Let time pass, and what comes of it happen."""
        self.now += seconds
        self.clock.advance(seconds)
        for _ in range(10):
            self.clock.advance(0)

    # Who comes.

    def ticket(self, uuid: str = "t" * 24, **more: Any) -> str:
        """Install a ticket; return its id."""
        given: dict[str, Any] = {"ops": ("call",), "targets": ("lab",), "principal": "alice"}
        given |= {"rights": EVERYTHING, **more}
        self.ok(self.registry.add(Grant(Kind.RPC, uuid, timeout=300, **given)))
        return uuid

    def caller(self, uuid: str = "", **more: Any) -> Caller:
        """Somebody who has logged in with a ticket."""
        return self.ok(self.logins.token(uuid or self.ticket(**more), "192.0.2.1", self.ends.append))

    def seat(self, caller: Caller | None = None, link: FakeLink | None = None) -> Seat:
        """Somebody's connection."""
        self.links.append(link or FakeLink())
        seat = Seat(self.desk, caller or self.caller(), Told(self.links[-1]), self._soon)
        self.desk.seats.add(seat)
        return seat

    def _soon(self, act: Any) -> None:
        self.clock.callLater(0, act)

    # What is asked.

    def begin(self, work: Any) -> Deferred[Any]:
        """Begin something that waits for the hypervisor."""
        begun = Deferred.fromCoroutine(work)
        self.turn()
        return begun

    def do(self, work: Any) -> Any:
        """What something gives at once."""
        return self.successResultOf(self.begin(work))

    def fails(self, kind: type[BaseException], work: Any) -> Any:
        """What something fails with at once."""
        return self.failureResultOf(self.begin(work), kind).value

    def answer(self, name: str, **values: Any) -> dict[str, Any]:
        """The hypervisor answers the only call there is of this name; its arguments."""
        (asked,) = [it for it in self.daemon.asked if it.name == name]
        asked.answer(**values)
        self.turn()
        return asked.arguments

    def absent(self, error: LibvirtError) -> None:
        """There is no such domain."""
        self.assertEqual(error.code, 42)
