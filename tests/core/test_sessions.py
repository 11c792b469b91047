"""Sessions: listed while they live, ended with their ticket, accounted for once."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.core.sessions import Session, SessionTable
from gateway.core.tickets import Grant, Kind, MemoryRegistry, State, fingerprint

T = TypeVar("T")
UUID = "22222222-2222-4222-8222-222222222222"
CONSOLE = Grant(Kind.CONSOLE, UUID, ops=("control",), timeout=30, principal="alice", secret="sekret12")


class SessionTests(SynchronousTestCase):
    """The table of what is alive."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.trail: list[tuple[str, dict[str, object]]] = []
        self.registry = MemoryRegistry(self.clock, lambda: 1767225600.0)
        self.table = SessionTable(self.clock, lambda: 1767225600.0, self.registry, self.audit)
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))
        self.addCleanup(self.registry.stop)
        self.told: list[str] = []
        self.ok(self.registry.add(CONSOLE))

    def audit(self, event: str, /, **fields: object) -> None:
        self.trail.append((event, fields))

    def ok(self, answer: Coroutine[Deferred[Any], Any, T]) -> T:
        result: T = self.successResultOf(Deferred.fromCoroutine(answer))
        return result

    def open(
        self, ended: Callable[[str], None] | None = None, uuid: str = UUID, joins: Session | None = None
    ) -> Session:
        return self.ok(
            self.table.open(
                uuid,
                "view",
                kind=Kind.CONSOLE,
                peer="192.0.2.1",
                target="vnc://192.0.2.2:5900",
                ended=ended or self.told.append,
                listener="consoles",
                joins=joins,
            )
        )

    def state(self) -> State | None:
        ticket = self.ok(self.registry.get(UUID))
        return None if ticket is None else ticket.state

    def test_life(self) -> None:
        """A session is counted by its ticket and listed from its opening to its end, and audited at both."""
        session = self.open()
        self.assertRegex(session.id, "^[0-9a-f]{12}$")
        self.assertEqual((self.state(), self.table.list(), len(self.table)), (State.ACTIVE, (session,), 1))
        self.assertEqual(self.ok(self.registry.info(UUID))["sessions"], [session.id])
        session.bytes_in += 3
        session.bytes_out += 4
        self.clock.advance(1.5)
        session.close("left")
        session.close("again")
        self.assertEqual((self.state(), self.table.list(), self.told), (State.ISSUED, (), []))
        line: dict[str, object] = {
            "kind": "console",
            "session": session.id,
            "ticket": fingerprint(UUID),
            "principal": "alice",
            "peer": "192.0.2.1",
            "listener": "consoles",
            "console": None,
            "target": "vnc://192.0.2.2:5900",
        }
        ending = {"reason": "left", "bytes_in": 3, "bytes_out": 4, "duration_ms": 1500}
        self.assertEqual(self.trail, [("session.open", line), ("session.close", line | ending)])

    def test_become(self) -> None:
        """What a session does may change; the trail says so, once, and nothing after its end."""
        session = self.open()
        for op in ("control", "control", "view"):
            session.become(op)
        session.close("left")
        session.become("control")
        changes = [fields["op"] for event, fields in self.trail if event == "session.op"]
        self.assertEqual((changes, session.op), (["control", "view"], "view"))

    def test_as_dict(self) -> None:
        """What an operator sees has neither the id nor the secret of the ticket in it."""
        session = self.open()
        self.assertEqual(
            session.as_dict(),
            {
                "id": session.id,
                "kind": "console",
                "ticket": fingerprint(UUID),
                "op": "view",
                "principal": "alice",
                "peer": "192.0.2.1",
                "target": "vnc://192.0.2.2:5900",
                "readonly": False,
                "console": "",
                "listener": "consoles",
                "bytes_in": 0,
                "bytes_out": 0,
                "since": "2026-01-01T00:00:00.000Z",
                "rate": 0,
            },
        )
        for hidden in (UUID, "sekret12"):
            self.assertNotIn(hidden, repr(session))

    def test_rate(self) -> None:
        """The rate is that of the time since somebody asked last, never of less than a second."""
        session = self.open()
        session.bytes_in = 1000
        self.clock.advance(0.5)
        self.assertEqual(session.rate, 0)
        self.clock.advance(1.5)
        self.assertEqual(session.rate, 500)
        session.bytes_out = 300
        self.clock.advance(0.5)
        self.assertEqual(session.rate, 500)
        self.clock.advance(2.5)
        self.assertEqual(session.rate, 100)

    def test_refused(self) -> None:
        """Without a good ticket there is no session, and no trace of one in the table."""
        answer = self.table.open("x", "view", kind=Kind.CONSOLE, peer=None, target="", ended=self.told.append)
        self.failureResultOf(Deferred.fromCoroutine(answer), errors.NoTicket)
        self.assertEqual((self.table.list(), self.trail), ((), []))

    def test_revoked(self) -> None:
        """When the ticket is revoked the owner is told, and the session closed even if the owner fails."""

        def fail(reason: str) -> None:
            raise ZeroDivisionError(reason)

        def close(reason: str) -> None:
            self.told.append(reason)
            own.close("closed by its owner")

        own, _failing, _idle = self.open(close), self.open(fail), self.open()
        self.trail.clear()
        self.ok(self.registry.revoke(UUID, reason="stopped"))
        self.assertEqual((self.told, self.table.list()), (["stopped", "stopped"], ()))
        self.assertEqual(
            [fields["reason"] for _, fields in self.trail], ["closed by its owner", "stopped", "stopped"]
        )
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.ok(self.registry.get(UUID)).holds, {})  # type: ignore[union-attr]  # it is known

    def test_kill(self) -> None:
        """An operator ends one session; its ticket and its neighbors go on."""
        first, second = self.open(), self.open()
        self.assertTrue(self.table.kill(first.id))
        self.assertFalse(self.table.kill(first.id))
        self.assertFalse(self.table.kill("none"))
        self.assertEqual((self.told, self.table.list(), self.state()), (["killed"], (second,), State.ACTIVE))
        self.assertIs(self.table.get(second.id), second)
        self.assertIs(self.table.get(first.id), None)

    def test_list(self) -> None:
        """Sessions are found by ticket, kind and principal."""
        self.ok(self.registry.add(evolve(CONSOLE, uuid="other", principal="bob")))
        first, second = self.open(), self.open(uuid="other")
        free = self.table.open_free(
            "portal", "GET", peer=None, target="", ended=self.told.append, principal="bob"
        )
        self.assertEqual(self.table.list(ticket=fingerprint(UUID)), (first,))
        self.assertEqual(self.table.list(kind="console"), (first, second))
        self.assertEqual(self.table.list(principal="bob"), (second, free))
        self.assertEqual(self.table.list(principal="bob", kind="portal"), (free,))

    def test_without_ticket(self) -> None:
        """A session without a ticket is listed, killed and audited like any other."""
        free = self.table.open_free("portal", "GET", peer=None, target="", ended=self.told.append)
        self.assertTrue(self.table.kill(free.id, "drain"))
        self.assertEqual(
            (self.told, [event for event, _ in self.trail]), (["drain"], ["session.open", "session.close"])
        )

    def test_undo(self) -> None:
        """When the target was out of reach, a one-time ticket works once more."""
        self.ok(self.registry.add(evolve(CONSOLE, uses=1)))
        session = self.open()
        self.ok(self.table.undo(session, "upstream"))
        self.assertEqual((self.state(), self.table.list()), (State.ISSUED, ()))
        self.ok(self.table.undo(session, "upstream"))
        self.open().close("left")
        self.assertEqual(self.state(), State.USED_UP)

    def test_joins(self) -> None:
        """Sessions that belong together share one use; when the last is gone, so is the use."""
        self.ok(self.registry.add(evolve(CONSOLE, uses=1)))
        first = self.open()
        second = self.open(joins=first)
        first.close("left")
        third = self.open(joins=second)
        for joins in (None, first):
            answer = Deferred.fromCoroutine(
                self.table.open(
                    UUID, "view", kind=Kind.CONSOLE, peer=None, target="", ended=self.told.append, joins=joins
                )
            )
            self.assertEqual(self.failureResultOf(answer, errors.NoTicket).value.reason, "used")
        self.ok(self.registry.revoke(UUID))
        self.assertEqual((self.told, second.closed, third.closed), (["revoked"] * 2, True, True))

    def test_late_answer(self) -> None:
        """A ticket revoked while a shared registry's answer was on its way opens nothing."""

        class Slow(MemoryRegistry):
            """Revokes between the hold and its answer, as another gateway may."""

            async def hold(self, uuid: str, op: str, **more: Any) -> Any:
                hold = await super().hold(uuid, op, **more)
                await self.revoke(uuid)
                return hold

        registry = Slow(self.clock, lambda: 0.0)
        self.addCleanup(registry.stop)
        table = SessionTable(self.clock, lambda: 0.0, registry)
        self.ok(registry.add(CONSOLE))
        answer = table.open(UUID, "view", kind=Kind.CONSOLE, peer=None, target="", ended=self.told.append)
        failure = self.failureResultOf(Deferred.fromCoroutine(answer), errors.NoTicket)
        self.assertEqual((failure.value.reason, table.list(), self.told), ("revoked", (), ["revoked"]))
        self.assertEqual(self.ok(registry.get(UUID)).holds, {})  # type: ignore[union-attr]  # it is known
