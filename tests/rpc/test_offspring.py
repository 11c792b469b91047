"""Tickets that were given out under a ticket: they end with it."""

from __future__ import annotations

from gateway import errors
from gateway.core.tickets import Grant, Kind, State
from gateway.rpc.login import Caller
from gateway.rpc.offspring import LIFE, Offspring
from tests.rpc.desk_case import DeskCase

CONSOLE = Grant(Kind.CONSOLE, "", url="libvirt://lab/x/console", ops=("view", "control"))


class OffspringTests(DeskCase):
    def setUp(self) -> None:
        super().setUp()
        self.over: list[bytes] = []
        self.renewed: list[float] = []
        self.offspring = Offspring(
            self.registry, self.clock, self.over.append, lambda ticket, left: self.renewed.append(left)
        )
        self.offspring.watch()

    def give(self, caller: Caller, life: float | None = None) -> str:
        uuid, _ = self.ok(self.offspring.add(caller, CONSOLE, life))
        return uuid

    def state(self, uuid: str) -> State | None:
        ticket = self.ok(self.registry.get(uuid))
        return None if ticket is None else ticket.state

    def test_add(self) -> None:
        """What is given out is for who asked, for a while, and no longer than its own ticket is good."""
        caller = self.caller()
        uuid, seconds = self.ok(self.offspring.add(caller, CONSOLE, None))
        ticket = self.ok(self.registry.get(uuid))
        assert ticket is not None
        self.assertGreaterEqual(len(uuid), 32)
        self.assertEqual((ticket.grant.principal, ticket.kind, ticket.issuer), ("alice", Kind.CONSOLE, "rpc"))
        self.assertEqual((seconds, ticket.deadline), (LIFE, LIFE))
        self.assertEqual(self.ok(self.offspring.add(caller, CONSOLE, 20))[1], 20)
        self.turn(200)
        self.assertEqual(self.ok(self.offspring.add(caller, CONSOLE, 5000))[1], 100)

    def test_revoked(self) -> None:
        """When a ticket is revoked all that came from it is, too, in the same moment, and nothing else."""
        one, other = self.caller(), self.caller(self.ticket("b" * 24))
        given, others = [self.give(one) for _ in range(3)], self.give(other)
        self.ok(self.registry.revoke("t" * 24))
        self.assertEqual([self.state(uuid) for uuid in given], [None] * 3)
        self.assertEqual(self.state(others), State.ISSUED)
        self.assertEqual(self.over[0], one.ticket_hash)

    def test_expired(self) -> None:
        """So it is when a ticket expires."""
        caller = self.caller(self.ticket())
        self.ok(self.registry.renew("t" * 24, 30))
        given = self.give(caller, 25)
        self.ok(self.registry.renew(given, 300))
        self.turn(31)
        self.assertEqual((self.state(given), self.ends), (None, ["expired"]))

    def test_renewed(self) -> None:
        """A ticket that is renewed leaves what came from it alone; others are told of its new end."""
        given = self.give(self.caller())
        self.ok(self.registry.renew("t" * 24, 900))
        self.assertEqual((self.renewed, self.over, self.state(given)), ([900.0], [], State.ISSUED))

    def test_forgotten(self) -> None:
        """What has ended by itself is not kept in mind, and its parent lives on."""
        caller = self.caller()
        for _ in range(20):
            self.ok(self.registry.revoke(self.give(caller), tombstone=False))
            self.give(caller, 1)
        self.assertEqual(len(self.offspring._parents), 20 + 20)
        self.turn(299)
        self.turn(10_000)
        self.assertEqual((self.offspring._parents, self.offspring._children), ({}, {}))

    def test_too_late(self) -> None:
        """Who has left is given nothing."""
        caller = self.caller()
        self.ok(self.registry.revoke("t" * 24))
        self.fails(errors.Expired, self.offspring.add(caller, CONSOLE, None))
        self.assertEqual([it.kind for it in self.ok(self.registry.list())], [Kind.RPC])

    def test_operator(self) -> None:
        """Whoever came with a certificate gives out what ends by itself."""
        caller = self.logins.certificate("CN=op-anna", None, self.ends.append)
        self.assertEqual(self.state(self.give(caller)), State.ISSUED)
        caller.session.close("left")
