"""The listener of stock libvirt clients on wires in memory, with a scripted hypervisor behind it.

Three domains run there: ``alice-1``, ``bob-1`` and ``carol-1``. Everything between the two is genuine.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.core.config_services import Target as Section
from gateway.core.proofs import Proofs
from gateway.core.sessions import SessionTable
from gateway.core.tickets import MemoryRegistry
from gateway.rpc.connection import LibvirtConnection
from gateway.rpc.desk import Desk
from gateway.rpc.libvirt_door import LibvirtDoor, Port
from gateway.rpc.libvirt_server import LibvirtServer
from gateway.rpc.login import Logins
from gateway.rpc.sites import Sites
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_message import KEEPALIVE, Message, MessageReader, Status, Type, read_error
from gateway.wire.libvirt_schema import PROCEDURES, procedure, record
from gateway.wire.ticket_json import grant_from
from tests.rpc.fake_libvirt import FakeLibvirtd, FakePeer
from tests.rpc.wire_case import Wire

ALICE: dict[str, Any] = {"name": "alice-1", "uuid": "11111111-1111-4111-8111-111111111111", "id": 1}
BOB: dict[str, Any] = {"name": "bob-1", "uuid": "22222222-2222-4222-8222-222222222222", "id": 2}
CAROL: dict[str, Any] = {"name": "carol-1", "uuid": "33333333-3333-4333-8333-333333333333", "id": 3}
#: Under the hand of a test: the domains of the hypervisor.
DOMS = (ALICE, BOB, CAROL)
TOKEN = "44444444444444444444"
OTHER = "55555555555555555555"
_URI = "test+unix:///default?socket=/run/fake"


def plain(password: str, user: str = "alice", other: str = "") -> dict[str, Any]:
    """The arguments of a login."""
    return {"mech": "PLAIN", "nil": 0, "data": f"{other}\0{user}\0{password}".encode()}


class Client:
    """A client whose every message the test says.

    :ivar heard: what it got and did not look at yet.
    """

    def __init__(self, stage: LibvirtStage, server: LibvirtServer, *, tls: bool) -> None:
        self.server = server
        self.wire = Wire()
        self.heard: list[Message] = []
        self.lost = False
        self._stage = stage
        self._serials = count()
        self._reader = MessageReader()
        self._unconfirmed = tls
        server.makeConnection(self.wire)

    def say(self, *messages: Message) -> None:
        """Have all of them arrive in one read."""
        self.feed(b"".join(message.pack() for message in messages))

    def feed(self, data: bytes) -> None:
        """Have bytes arrive."""
        if not self.lost:
            self.server.dataReceived(data)

    def message(self, name: str, serial: int | None = None, /, **arguments: Any) -> Message:
        """A call."""
        known = procedure(name)
        number = next(self._serials) if serial is None else serial
        payload = known.arguments.pack(arguments)
        return Message(known.program, 1, known.number, Type.CALL, number, Status.OK, payload)

    def listen(self) -> list[Message]:
        """All that came, in order."""
        self._stage.turn()
        data = self.wire.value()
        self.wire.clear()
        if self._unconfirmed and data:
            assert data.startswith(b"\1")
            self._unconfirmed, data = False, data[1:]
        self.heard += self._reader.feed(data)
        if (self.wire.aborted or self.wire.disconnecting) and not self.lost:
            self.leave(ConnectionLost)
        return self.heard

    def leave(self, reason: type[Exception] = ConnectionDone) -> None:
        """The connection is lost."""
        if not self.lost:
            self.lost = True
            self.server.connectionLost(Failure(reason()))
            self._stage.turn()

    def answer(self, call: Message) -> Any:
        """What *call* is answered with: its results, or the code of an error; None for nothing yet."""
        for message in self.listen():
            if message.type == Type.REPLY and message.serial == call.serial:
                self.heard.remove(message)
                if message.status == Status.ERROR:
                    return read_error(message.payload).code
                return PROCEDURES[call.program, call.procedure].results.unpack(message.payload)
        return None

    def error(self, call: Message) -> LibvirtError:
        """The error that *call* is answered with."""
        for message in self.listen():
            if (
                message.type == Type.REPLY
                and message.serial == call.serial
                and message.status == Status.ERROR
            ):
                self.heard.remove(message)
                return read_error(message.payload)
        raise AssertionError(f"no error: {self.heard}")

    def call(self, name: str, /, **arguments: Any) -> Any:
        """Call, and return what :meth:`answer` does."""
        call = self.message(name, **arguments)
        self.say(call)
        return self.answer(call)

    def events(self) -> list[tuple[str, dict[str, Any]]]:
        """The events that came."""
        found = [it for it in self.listen() if it.type == Type.EVENT and it.program != KEEPALIVE]
        self.heard = [it for it in self.heard if it not in found]
        known = [(PROCEDURES[it.program, it.procedure], it.payload) for it in found]
        return [(each.name, each.arguments.unpack(payload)) for each, payload in known]

    def streamed(self, call: Message) -> list[tuple[int, int, bytes]]:
        """Type, status and payload of what came on the stream that *call* has opened."""
        found = [
            it for it in self.listen() if it.type in (Type.STREAM, Type.HOLE) and it.serial == call.serial
        ]
        self.heard = [it for it in self.heard if it not in found]
        return [(it.type, it.status, it.payload) for it in found]

    @property
    def paused(self) -> bool:
        """Nobody reads what it says."""
        return self.wire.producerState == "paused"


class LibvirtStage(SynchronousTestCase):
    """See the module.

    :ivar daemon: the hypervisor, of two targets: ``lab``, and ``ro`` where nothing may be changed.
    :ivar doms: its domains.
    :ivar trail: what was written down; *refused* the logins that failed.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.clients: list[Client] = []
        self.doms = [dict(dom) for dom in DOMS]
        self.trail: list[dict[str, Any]] = []
        self.refused: list[str] = []
        self.judged: list[object] = []
        self.daemon = FakeLibvirtd(self.clock)
        self.daemon.answers |= self._answers()
        self.registry = MemoryRegistry(self.clock, self.wall)
        self.sessions = SessionTable(self.clock, self.wall, self.registry)
        self.sites = Sites(cast(Any, self), self.clock, self.wall)
        self.sites.adopt(self.sections())
        nothing = cast(Any, None)
        desk = Desk(self.sites, nothing, nothing, nothing, self.clock, self.wall, self._note, self._seen)
        tokens: Any = self
        logins = Logins(
            self.registry,
            Proofs(self.registry, tokens, self.clock, self.wall),
            self.sessions,
            "libvirt",
            "libvirt",
        )
        self.door = LibvirtDoor(
            self.clock, logins, lambda peer, error: self.refused.append(error.reason), self._judge
        )
        self.door.desk = desk
        self.port = Port(self.door)
        self.grant()

    def tearDown(self) -> None:
        """Nothing is left when everybody is gone: no connection, no session, no timer."""
        for client in self.clients:
            client.leave()
        self.assertEqual(self.sessions.list(), ())
        self.turn(11)
        for site in self.sites:
            site.hub.stop()
        stopped = Deferred.fromCoroutine(self.sites.stop())
        self.turn()
        self.successResultOf(stopped)
        self.assertEqual([peer.opened for peer in self.daemon.live], [])
        self.registry.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def sections(self, **more: Any) -> dict[str, Section]:
        """What the configuration says of targets."""
        lab = Section.model_validate({"uri": _URI, **more})
        return {"lab": lab, "ro": Section.model_validate({"uri": _URI, "readonly": True})}

    # -- what the parts ask for ------------------------------------------------------------

    def wall(self) -> float:
        return 1e9 + self.clock.seconds()

    def verify(self, text: str, kind: object) -> Any:
        """There are no signed tokens here."""
        raise errors.Unauthorized(reason="signature")

    async def connect(self, url: object, connection: LibvirtConnection, *, readonly: bool = False) -> None:
        """Be the way to the hypervisor."""
        turn: Deferred[None] = Deferred(lambda _: call.cancel())
        call = self.clock.callLater(0, turn.callback, None)
        await turn
        if self.daemon.failure is not None:
            raise self.daemon.failure
        self.daemon.take(connection, readonly)

    async def _judge(self, transport: object) -> None:
        self.judged.append(transport)

    def _note(self, event: str, /, **fields: Any) -> None:
        self.trail.append({"event": event, **fields})

    def _seen(self, name: str, end: str, seconds: float) -> None:
        pass

    def _answers(self) -> dict[str, Any]:
        def lookup(of: str) -> Any:
            def found(arguments: dict[str, Any]) -> Mapping[str, object]:
                for dom in self.doms:
                    if dom[of] == arguments[of]:
                        return {"dom": dom}
                raise LibvirtError(42, 12, f"Domain not found: no domain {arguments[of]} here")

            return found

        def stats(arguments: dict[str, Any]) -> Mapping[str, object]:
            wanted = [dom["uuid"] for dom in arguments["doms"] or self.doms]
            state = [
                {"field": f"state.{name}", "type": "int", "value": 1 if name == "state" else 0}
                for name in ("state", "reason")
            ]
            return {"retStats": [{"dom": it, "params": state} for it in self.doms if it["uuid"] in wanted]}

        def listed(arguments: dict[str, Any]) -> Mapping[str, object]:
            doms = self.doms if arguments["need_results"] else []
            return {"domains": doms, "ret": len(self.doms)}

        numbers = count(1)
        return {
            "CONNECT_GET_ALL_DOMAIN_STATS": stats,
            "CONNECT_LIST_ALL_DOMAINS": listed,
            "DOMAIN_LOOKUP_BY_NAME": lookup("name"),
            "DOMAIN_LOOKUP_BY_UUID": lookup("uuid"),
            "DOMAIN_LOOKUP_BY_ID": lookup("id"),
            "CONNECT_GET_LIB_VERSION": {"lib_ver": 9_000_000},
            **{
                name: lambda _: {"callbackID": next(numbers)}
                for name in (
                    "CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY",
                    "CONNECT_NETWORK_EVENT_REGISTER_ANY",
                    "CONNECT_STORAGE_POOL_EVENT_REGISTER_ANY",
                )
            },
        }

    # -- what tests say --------------------------------------------------------------------

    def grant(
        self,
        allow: tuple[str, ...] = ("*",),
        domains: tuple[str, ...] = ("*",),
        *,
        token: str = TOKEN,
        targets: tuple[str, ...] = ("*",),
        **more: Any,
    ) -> None:
        """Install a ticket, or another one in its place."""
        rights = {"allow": list(allow), "domains": list(domains)}
        ticket = {"uuid": token, "kind": "rpc", "principal": "alice", "timeout": 300, "ops": ["call"]}
        members = {**ticket, "targets": list(targets), "rights": rights, **more}
        self.successResultOf(Deferred.fromCoroutine(self.registry.add(grant_from(members))))

    def revoke(self, token: str = TOKEN) -> None:
        """End a ticket."""
        self.successResultOf(Deferred.fromCoroutine(self.registry.revoke(token)))

    def turn(self, seconds: float = 0.0) -> None:
        """Let time pass, as a reactor would."""
        while seconds > 0.25:
            self.clock.advance(0.25)
            seconds -= 0.25
        self.clock.advance(seconds)
        for _ in range(12):
            self.clock.advance(0)

    def client(self, port: Port | None = None) -> Client:
        """Somebody who has connected."""
        port = port or self.port
        made = Client(self, port.buildProtocol(None), tls=port.tls)
        self.clients.append(made)
        return made

    def logged_in(self, token: str = TOKEN, user: str = "alice", port: Port | None = None) -> Client:
        """Somebody who has logged in with a token."""
        client = self.client(port)
        self.assertEqual(client.call("AUTH_LIST"), {"types": [1, 2]})
        self.assertEqual(client.call("AUTH_SASL_INIT"), {"mechlist": "PLAIN"})
        done = {"complete": 1, "nil": 1, "data": b""}
        self.assertEqual(client.call("AUTH_SASL_START", **plain(token, user)), done)
        return client

    def opened(self, token: str = TOKEN, target: str = "lab", flags: int = 0) -> Client:
        """Somebody who has a hypervisor open."""
        client = self.logged_in(token)
        self.assertEqual(
            client.call("CONNECT_OPEN", name=f"test:///default?target={target}", flags=flags), {}
        )
        self.daemon.arrived.clear()
        return client

    @property
    def upstream(self) -> FakePeer:
        """The connection of the one who has opened last."""
        return self.daemon.live[-1]

    def hole(self, length: int) -> bytes:
        """The payload of a hole."""
        return record("{hole}").pack({"length": length, "flags": 0})
