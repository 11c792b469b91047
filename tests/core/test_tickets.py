"""The ticket registry: who may, for how long, and that revoking works at once."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from ipaddress import ip_network
from random import Random
from typing import Any, TypeVar

from attrs import evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.core.ticket import MOST_URLS
from gateway.core.tickets import (
    AtExpiry,
    Grant,
    Hold,
    Kind,
    MemoryRegistry,
    State,
    Ticket,
    TicketRegistry,
    fingerprint,
)

T = TypeVar("T")
UUID = "11111111-1111-4111-8111-111111111111"
IMAGE = Grant(
    Kind.IMAGE,
    UUID,
    "file:///x",
    ("file:///x",),
    ("read", "write"),
    300,
    2**30,
    transfer_id="t",
    secret="sekret12",
)
CONSOLE = Grant(Kind.CONSOLE, UUID, "vnc://127.0.0.1:1", ("vnc://127.0.0.1:1",), ("control",), 30)
TUNNEL = Grant(Kind.TUNNEL, UUID, "tcp://127.0.0.1:1", ("tcp://127.0.0.1:1",), ("connect",), 120)
RPC = Grant(Kind.RPC, UUID, ops=("call",), timeout=300)


def ignore(_reason: str) -> None:
    """The end of a session nobody asks about."""


class RegistryContract:
    """What every registry promises; mix it into a test case that makes one."""

    clock: Clock
    wall: float
    registry: TicketRegistry
    # Of the test case:
    assertEqual: Callable[..., Any]
    assertIs: Callable[..., Any]
    assertIn: Callable[..., Any]
    assertNotIn: Callable[..., Any]
    assertTrue: Callable[..., Any]
    assertFalse: Callable[..., Any]
    successResultOf: Callable[..., Any]
    failureResultOf: Callable[..., Any]
    flushLoggedErrors: Callable[..., Any]

    def make(self, **options: Any) -> TicketRegistry:
        """Return a registry on ``self.clock``, and stop it after the test."""
        raise NotImplementedError

    def ok(self, answer: Coroutine[Deferred[Any], Any, T]) -> T:
        result: T = self.successResultOf(Deferred.fromCoroutine(answer))
        return result

    def refused(self, answer: Coroutine[Deferred[Any], Any, object], error: type[errors.GatewayError]) -> str:
        """Check that *answer* is this very error, and return its reason."""
        failure = self.failureResultOf(Deferred.fromCoroutine(answer), error)
        self.assertIs(failure.type, error)
        reason: str = failure.value.reason
        return reason

    def add(self, grant: Grant = IMAGE, **more: Any) -> Ticket:
        return self.ok(self.registry.add(grant, **more))

    def prove(self, grant: Grant = IMAGE, *, end: float, **more: Any) -> Ticket:
        return self.add(grant, proof_end=end, trusted=False, issuer="engine", **more)

    def hold(self, grant: Grant = IMAGE, told: list[str] | None = None, op: str = "") -> Hold:
        ended = ignore if told is None else told.append
        op = op or grant.ops[0]
        return self.ok(self.registry.hold(grant.uuid, op, kind=grant.kind, peer=None, ended=ended))

    def no_hold(self, grant: Grant = IMAGE, error: type[errors.GatewayError] = errors.NoTicket) -> str:
        op = grant.ops[0]
        return self.refused(
            self.registry.hold(grant.uuid, op, kind=grant.kind, peer=None, ended=ignore), error
        )

    def why_not(self, grant: Grant = IMAGE, op: str = "", peer: str | None = None) -> str:
        """The reason why *grant* may not be used now, or an empty text."""
        op = op or grant.ops[0]
        found: list[str] = []
        done = Deferred.fromCoroutine(self.registry.authorize(grant.uuid, op, kind=grant.kind, peer=peer))
        done.addCallbacks(lambda _: found.append(""), lambda failure: found.append(failure.value.reason))
        self.successResultOf(done)
        return found[0]

    def state(self, uuid: str = UUID) -> State | None:
        ticket = self.ok(self.registry.get(uuid))
        return None if ticket is None else ticket.state

    # Authorizing

    def test_operations(self) -> None:
        """Only what was granted may be done; writing implies reading, controlling implies viewing, and
        taking over both.
        """
        self.add(evolve(IMAGE, ops=("write",)))
        self.add(evolve(CONSOLE, uuid="c"))
        self.add(evolve(IMAGE, uuid="r", ops=("read",)))
        self.assertEqual(self.why_not(IMAGE, "read"), "")
        self.assertEqual(self.why_not(evolve(CONSOLE, uuid="c"), "view"), "")
        self.assertEqual(self.why_not(evolve(CONSOLE, uuid="c"), "takeover"), "forbidden")
        self.add(evolve(CONSOLE, uuid="t", ops=("takeover",)))
        for op in ("takeover", "control", "view"):
            self.assertEqual(self.why_not(evolve(CONSOLE, uuid="t"), op), "")
        self.assertEqual(
            self.refused(self.registry.authorize("r", "write", kind=Kind.IMAGE, peer=None), errors.Forbidden),
            "forbidden",
        )

    def test_refusals_look_the_same(self) -> None:
        """Unknown, expired, revoked, used-up and foreign tickets differ in the reason and in nothing else."""
        self.add(evolve(IMAGE, uuid="expired", timeout=1))
        self.add(evolve(IMAGE, uuid="revoked"))
        self.add(evolve(IMAGE, uuid="used", uses=1))
        self.add(evolve(IMAGE, uuid="peer", peer=ip_network("192.0.2.0/24")))
        self.add(evolve(CONSOLE, uuid="kind"))
        self.registry.release(self.hold(evolve(IMAGE, uuid="used")))
        self.ok(self.registry.revoke("revoked"))
        self.clock.advance(1)
        seen = set()
        for uuid in ("unknown", "expired", "revoked", "used", "peer", "kind"):
            failure = self.failureResultOf(
                Deferred.fromCoroutine(self.registry.authorize(uuid, "read", kind=Kind.IMAGE, peer=None)),
                errors.NoTicket,
            )
            self.assertEqual(failure.value.reason, uuid)
            seen.add((failure.value.text, failure.value.status, tuple(failure.value.headers)))
        self.assertEqual(len(seen), 1)

    def test_peer(self) -> None:
        """A bound ticket works from its network, however the address is written, and from nowhere else."""
        self.add(evolve(IMAGE, peer=ip_network("192.0.2.0/24")))
        for peer in ("192.0.2.7", "::ffff:192.0.2.7"):
            self.assertEqual(self.why_not(peer=peer), "")
        for stranger in ("192.0.3.7", "2001:db8::1", "", "host.invalid", None):
            self.assertEqual(self.why_not(peer=stranger), "peer")

    def test_id_is_not_kept(self) -> None:
        """Neither the id nor the secret of a ticket can be read from its record or its description."""
        ticket = self.add()
        self.assertNotIn(UUID, f"{ticket!r} {ticket.grant.uuid}")
        self.assertEqual(ticket.fingerprint, fingerprint(UUID))
        self.assertNotIn("sekret12", f"{ticket!r} {self.ok(self.registry.info(UUID))}")

    # Time

    def test_expires(self) -> None:
        """A ticket is gone at the very second its lifetime ends."""
        self.add()
        self.clock.advance(299.999)
        self.assertEqual(self.why_not(), "")
        self.clock.advance(0.001)
        self.assertEqual(self.why_not(), "expired")

    def test_expires_before_the_timer(self) -> None:
        """The deadline counts, not the moment at which the timer gets to it."""
        self.add()
        self.clock.rightNow += 300
        self.assertEqual(self.why_not(), "expired")

    def test_purged(self) -> None:
        """An expired ticket is forgotten a minute later, with all that was kept for it."""
        self.add()
        self.clock.pump([300, 59.9])
        self.assertEqual(self.state(), State.EXPIRED)
        self.clock.pump([1, 1])
        self.assertEqual((self.state(), dict(self.registry.gauges())), (None, {}))

    def test_renew(self) -> None:
        """The engine sets the end as it likes, also after expiry, and the re-arm interval stays."""
        self.add()
        self.clock.advance(240)
        self.ok(self.registry.renew(UUID, 10))
        self.clock.advance(10)
        self.assertEqual(self.why_not(), "expired")
        self.ok(self.registry.renew(UUID, 1000))
        self.clock.advance(999)
        self.registry.release(self.hold())
        self.clock.advance(299)
        self.assertEqual(self.why_not(), "")
        self.clock.advance(1)
        self.assertEqual(self.why_not(), "expired")

    def test_renew_to_nothing(self) -> None:
        """A timeout of zero ends a ticket at once."""
        self.add()
        self.ok(self.registry.renew(UUID, 0))
        self.assertEqual(self.why_not(), "expired")

    def test_renew_refused(self) -> None:
        """There is nothing to renew when a ticket is unknown, revoked, used up, or of a kind that ends."""
        renew = self.registry.renew
        self.assertEqual(self.refused(renew(UUID, 5), errors.NotFound), "unknown")
        self.add(evolve(CONSOLE, uuid="c", timeout=1))
        self.add(evolve(IMAGE, uses=1))
        self.registry.release(self.hold())
        self.clock.advance(1)
        self.assertEqual(self.refused(renew("c", 5), errors.NotFound), "expired")
        self.assertEqual(self.refused(renew(UUID, 5), errors.NotFound), "used")
        self.ok(self.registry.revoke(UUID))
        self.assertEqual(self.refused(renew(UUID, 5), errors.NotFound), "revoked")

    def test_more_urls(self) -> None:
        """A tunnel is renewed with a second host: it leads to both, and neither uses nor sessions change."""
        ticket, first, second = self.add(evolve(TUNNEL, uses=2)), "tcp://127.0.0.1:1", "tcp://127.0.0.2:1"
        hold, told = self.hold(TUNNEL), list[str]()
        self.hold(TUNNEL, told)
        for _ in range(2):
            self.ok(self.registry.renew(UUID, 5, [second]))
        self.assertEqual((ticket.grant.url, ticket.grant.urls), (first, (first, second)))
        self.assertEqual(self.ok(self.registry.info(UUID))["urls"], [first, second])
        self.assertEqual((ticket.uses, told), (0, []))
        self.ok(self.registry.undo(hold))
        self.assertEqual(ticket.uses, 1, "a use is given back all the same")
        many = [f"tcp://127.0.0.3:{port}" for port in range(1, MOST_URLS)]
        self.refused(self.registry.renew(UUID, 900, many), errors.BadRequest)
        self.assertEqual((len(ticket.grant.urls), ticket.deadline - self.clock.seconds()), (2, 5))
        self.add(evolve(CONSOLE, uuid="c"))
        self.refused(self.registry.renew("c", 5, [second]), errors.BadRequest)

    def test_activity(self) -> None:
        """The end of an operation, and mere activity, renew an image ticket for its own timeout."""
        ticket = self.add()
        self.clock.advance(200)
        self.registry.touch(ticket)
        self.clock.advance(200)
        self.registry.release(self.hold())
        self.clock.advance(299)
        self.assertEqual(self.why_not(), "")
        self.registry.release(self.hold(), touch=False)
        self.clock.advance(1)
        self.assertEqual(self.why_not(), "expired")

    def test_activity_of_others(self) -> None:
        """Sessions renew a tunnel ticket; those of consoles and rpc do not."""
        for grant, after in ((CONSOLE, "expired"), (RPC, "expired"), (TUNNEL, "")):
            grant = evolve(grant, uuid=grant.kind, timeout=100)
            self.add(grant)
            self.clock.advance(90)
            self.registry.release(self.hold(grant))
            self.clock.advance(10)
            self.assertEqual(self.why_not(grant), after, grant.kind)

    def test_long_operation(self) -> None:
        """An image operation outlives its ticket, nothing new begins, and its end revives the ticket."""
        for turns in ([400.0], [300.0, 100.0]):
            told: list[str] = []
            self.add()
            hold = self.hold(told=told)
            self.clock.pump(turns)
            self.assertEqual(self.why_not(), "expired")
            self.registry.release(hold)
            self.assertEqual((told, self.why_not()), ([], ""))

    def test_wall_clock_steps(self) -> None:
        """Setting the clock an hour back or forth neither prolongs nor shortens anything."""
        for jump in (3600, -3600):
            self.add()
            self.wall += jump
            self.clock.advance(299)
            self.assertEqual(self.why_not(), "")
            self.clock.advance(1)
            self.assertEqual(self.why_not(), "expired")
            self.wall -= jump

    def test_renewal_race(self) -> None:
        """Renewing in the very turn of expiry works out the same in whatever order things happen."""
        random = Random(11)
        for round_ in range(10_000):
            grant = evolve(IMAGE, uuid=f"race{round_}", timeout=10)
            self.add(grant)
            self.clock.advance(9)
            order = ["advance", "renew", "look", "touch"]
            random.shuffle(order)
            for what in order:
                if what == "advance":
                    self.clock.advance(1)
                elif what == "renew":
                    self.ok(self.registry.renew(grant.uuid, 7))
                    renewed = self.clock.seconds() + 7
                elif what == "look":
                    self.why_not(grant)
                else:
                    ticket = self.ok(self.registry.get(grant.uuid))
                    assert ticket is not None
                    self.registry.touch(ticket)
                    if order.index("touch") > order.index("renew"):
                        renewed = self.clock.seconds() + 10
            self.clock.advance(renewed - self.clock.seconds() - 0.5)
            self.assertEqual(self.why_not(grant), "", order)
            self.clock.advance(0.5)
            self.assertEqual(self.why_not(grant), "expired", order)

    def test_earlier_end(self) -> None:
        """An end that was moved forward is noticed by the timer, not only by whoever asks."""
        self.add()
        self.ok(self.registry.renew(UUID, 10))
        self.clock.advance(10)
        self.assertEqual(self.registry.gauges(), {(Kind.IMAGE, State.EXPIRED): 1})

    def test_late_activity(self) -> None:
        """A tunnel that ends after the deadline revives nothing, even if the timer is late."""
        self.add(TUNNEL)
        hold = self.hold(TUNNEL)
        self.clock.rightNow += 120
        self.registry.release(hold)
        self.assertEqual(self.why_not(TUNNEL), "expired")

    # Signed proofs

    def test_proof_ends(self) -> None:
        """What a signed proof opened ends with the proof, whatever is done to prolong it."""
        end = self.clock.seconds() + 50
        ticket = self.prove(end=end)
        self.ok(self.registry.renew(UUID, 1000))
        self.registry.touch(ticket)
        self.registry.release(self.hold())
        self.prove(end=end)
        self.clock.advance(49)
        self.assertEqual(self.why_not(), "")
        self.clock.advance(1)
        self.assertEqual(self.why_not(), "expired")
        self.assertEqual(self.refused(self.registry.renew(UUID, 10), errors.NotFound), "expired")
        late = self.registry.add(IMAGE, proof_end=end, trusted=False)
        self.assertEqual(self.refused(late, errors.NoTicket), "expired")

    def test_trusted_proof(self) -> None:
        """The engine may say less than the proof it passes on, and never more."""
        self.add(proof_end=self.clock.seconds() + 310)
        self.clock.advance(299)
        self.registry.release(self.hold())
        self.clock.advance(10)
        self.assertEqual(self.why_not(), "")
        self.clock.advance(1)
        self.assertEqual(self.why_not(), "expired")
        self.assertEqual(self.refused(self.registry.renew(UUID, 10), errors.NotFound), "expired")
        late = self.registry.add(evolve(IMAGE, uuid="x"), proof_end=self.clock.seconds(), trusted=False)
        self.assertEqual(self.refused(late, errors.NoTicket), "expired")

    def test_fresher_proof(self) -> None:
        """A fresher proof moves the end, also after expiry; an older one changes nothing."""
        now = self.clock.seconds()
        self.prove(end=now + 50)
        self.prove(evolve(IMAGE, url="file:///y"), end=now + 100)
        self.assertEqual(self.prove(end=now + 50).grant.url, "file:///y")
        self.clock.advance(99)
        self.assertEqual(self.why_not(), "")
        self.clock.advance(1)
        self.assertEqual(self.why_not(), "expired")
        self.prove(end=now + 200)
        self.assertEqual(self.why_not(), "")

    def test_proof_gives_no_use_back(self) -> None:
        """A one-time ticket stays one-time, however often and however fresh its proof is shown."""
        now = self.clock.seconds()
        once = evolve(CONSOLE, uses=1)
        self.prove(once, end=now + 50)
        hold = self.hold(once)
        self.prove(once, end=now + 60)
        self.prove(evolve(once, uses=None), end=now + 70)
        self.assertEqual(self.no_hold(once), "used")
        self.registry.release(hold)
        for wait in (0, 19, 50):
            self.clock.advance(wait)
            again = self.registry.add(once, proof_end=now + 75, trusted=False)
            self.assertEqual(self.refused(again, errors.NoTicket), "used")

    def test_proof_of_another(self) -> None:
        """A proof that names another principal or kind renews nothing."""
        self.prove(evolve(IMAGE, principal="alice"), end=self.clock.seconds() + 50)
        for grant in (evolve(IMAGE, principal="mallory"), evolve(CONSOLE, principal="alice")):
            stolen = self.registry.add(grant, proof_end=self.clock.seconds() + 500, trusted=False)
            self.assertEqual(self.refused(stolen, errors.NoTicket), "mismatch")

    def test_proof_leaves_the_engine_alone(self) -> None:
        """A proof of a ticket that the engine installed neither prolongs nor changes it."""
        self.add()
        self.assertEqual(
            self.prove(evolve(IMAGE, ops=("all",)), end=self.clock.seconds() + 5000).grant.ops, IMAGE.ops
        )
        self.clock.advance(300)
        self.assertEqual(self.why_not(), "expired")

    def test_tombstone(self) -> None:
        """A revoked id stays refused for as long as a proof of it may be shown; the engine may reuse it."""
        now = self.clock.seconds()
        self.prove(end=now + 500)
        self.assertTrue(self.ok(self.registry.revoke(UUID)))
        self.clock.pump([100, 300, 99])
        proof = self.registry.add(IMAGE, proof_end=now + 500, trusted=False)
        self.assertEqual(self.refused(proof, errors.NoTicket), "revoked")
        longer = self.registry.add(IMAGE, proof_end=now + 900, trusted=False)
        self.assertEqual(self.refused(longer, errors.NoTicket), "revoked")
        self.clock.pump([100, 299])
        longer = self.registry.add(IMAGE, proof_end=now + 900, trusted=False)
        self.assertEqual(self.refused(longer, errors.NoTicket), "revoked")
        self.add()
        self.assertEqual(self.why_not(), "")

    def test_revoked_before_it_came(self) -> None:
        """Revoking what is not known yet keeps it out, and says that it was not known."""
        self.assertFalse(self.ok(self.registry.revoke(UUID)))
        proof = self.registry.add(IMAGE, proof_end=self.clock.seconds() + 9, trusted=False)
        self.assertEqual(self.refused(proof, errors.NoTicket), "revoked")

    # Uses and sessions

    def test_one_time(self) -> None:
        """Of fifty that come with a one-time ticket, one gets in (T6)."""
        self.add(evolve(CONSOLE, uses=1))
        inside: list[Hold] = []
        reasons: list[str] = []
        for _ in range(50):
            answer = self.registry.hold(UUID, "view", kind=Kind.CONSOLE, peer=None, ended=ignore)
            done = Deferred.fromCoroutine(answer)
            done.addCallbacks(inside.append, lambda failure: reasons.append(failure.value.reason))
            self.successResultOf(done)
        self.assertEqual((len(inside), set(reasons)), (1, {"used"}))
        self.registry.release(inside[0])
        self.assertEqual((self.state(), self.no_hold(CONSOLE)), (State.USED_UP, "used"))

    def test_undo(self) -> None:
        """A use whose target was out of reach is given back, once for each."""
        self.add(evolve(CONSOLE, uses=1))
        hold = self.hold(CONSOLE)
        for _ in range(3):
            self.ok(self.registry.undo(hold))
        self.assertEqual(self.state(), State.ISSUED)
        hold = self.hold(CONSOLE)
        self.registry.release(hold)
        self.ok(self.registry.undo(hold))
        self.assertEqual(self.no_hold(CONSOLE), "used")

    def test_undo_after_replacement(self) -> None:
        """A use of the former grant is not given to the one that took its place."""
        self.add(evolve(TUNNEL, uses=1))
        hold = self.hold(TUNNEL)
        self.assertEqual(self.add(evolve(TUNNEL, uses=1)).uses, 1)
        self.ok(self.registry.undo(hold))
        self.assertEqual(hold.ticket.uses, 1)

    def join(self, other: Hold, grant: Grant = TUNNEL, told: list[str] | None = None) -> Hold:
        """A hold that shares the use of *other*."""
        ended = ignore if told is None else told.append
        op = grant.ops[0]
        return self.ok(
            self.registry.hold(grant.uuid, op, kind=grant.kind, peer=None, ended=ended, joins=other)
        )

    def no_join(self, other: Hold, grant: Grant = TUNNEL, **more: Any) -> str:
        """Why neither holding nor authorizing is possible that way."""
        wanted = {"kind": grant.kind, "peer": None, "joins": other, **more}
        reason = self.refused(self.registry.authorize(grant.uuid, grant.ops[0], **wanted), errors.NoTicket)
        held = self.registry.hold(grant.uuid, grant.ops[0], ended=ignore, **wanted)
        self.assertEqual(self.refused(held, errors.NoTicket), reason)
        return reason

    def test_join(self) -> None:
        """Any number share one use while one of them is open, and then it is used up."""
        self.add(evolve(TUNNEL, uses=1))
        first = self.hold(TUNNEL)
        self.assertEqual(self.no_hold(TUNNEL), "used")
        second = self.join(first)
        self.ok(self.registry.authorize(UUID, "connect", kind=Kind.TUNNEL, peer=None, joins=second))
        self.registry.release(first)
        third = self.join(second)
        self.assertEqual(self.no_join(first), "used")
        self.registry.release(second)
        self.registry.release(third)
        self.assertEqual((self.state(), self.no_join(third)), (State.USED_UP, "used"))

    def test_join_burns_nothing(self) -> None:
        """Of two uses one is left when ten have shared the other."""
        ticket = self.add(evolve(TUNNEL, uses=2))
        first = self.hold(TUNNEL)
        for _ in range(9):
            self.join(first)
        self.assertEqual(ticket.uses, 1)

    def test_join_is_no_way_around(self) -> None:
        """Only a use is shared: no life that is over, nor a kind, a peer, an operation or another ticket."""
        told: list[str] = []
        self.add(evolve(TUNNEL, uses=1, peer=ip_network("192.0.2.0/24")))
        first = self.ok(
            self.registry.hold(UUID, "connect", kind=Kind.TUNNEL, peer="192.0.2.1", ended=told.append)
        )
        self.assertEqual(self.no_join(first), "peer")
        self.assertEqual(self.no_join(first, kind=Kind.IMAGE, peer="192.0.2.1"), "kind")
        self.refused(
            self.registry.authorize(UUID, "read", kind=Kind.TUNNEL, peer="192.0.2.1", joins=first),
            errors.Forbidden,
        )
        self.add(evolve(TUNNEL, uuid="other", uses=1))
        self.registry.release(self.hold(evolve(TUNNEL, uuid="other")))
        self.assertEqual(self.no_join(first, evolve(TUNNEL, uuid="other")), "used")
        self.clock.advance(120)
        self.assertEqual(self.no_join(first, peer="192.0.2.1"), "expired")
        self.assertEqual(told, [])
        self.ok(self.registry.revoke(UUID))
        self.assertEqual(self.no_join(first, peer="192.0.2.1"), "revoked")
        self.assertEqual(told, ["revoked"])

    def test_join_revoked(self) -> None:
        """All who share a use are told when the ticket is revoked."""
        told: list[str] = []
        self.add(evolve(TUNNEL, uses=1))
        first = self.hold(TUNNEL, told)
        for _ in range(3):
            self.join(first, told=told)
        self.ok(self.registry.revoke(UUID))
        self.assertEqual(told, ["revoked"] * 4)

    def test_join_undone(self) -> None:
        """A use is given back by the last who shares it, and only if none of them was ever up."""
        ticket = self.add(evolve(TUNNEL, uses=1))
        first = self.hold(TUNNEL)
        second = self.join(first)
        third = self.join(second)
        self.ok(self.registry.undo(third))
        self.ok(self.registry.undo(first))
        self.assertEqual((ticket.uses, self.no_hold(TUNNEL)), (0, "used"))
        fourth = self.join(second)
        self.ok(self.registry.undo(second))
        self.assertEqual(ticket.uses, 0)
        self.registry.release(fourth)
        self.assertEqual((ticket.uses, self.state()), (0, State.USED_UP))
        ticket = self.add(evolve(TUNNEL, uses=1))
        first = self.hold(TUNNEL)
        second = self.join(first)
        self.ok(self.registry.undo(first))
        self.ok(self.registry.undo(second))
        self.assertEqual((ticket.uses, self.state()), (1, State.ISSUED))

    def test_join_replaced(self) -> None:
        """A grant that takes the place of another has uses of its own, which a join leaves alone."""
        self.add(evolve(TUNNEL, uses=1))
        first = self.hold(TUNNEL)
        more = (*TUNNEL.urls, "tcp://127.0.0.1:2")
        ticket = self.add(evolve(TUNNEL, uses=1, urls=more))
        second = self.join(first)
        self.assertEqual(ticket.uses, 1)
        self.registry.release(first)
        self.registry.release(second)
        self.assertEqual((ticket.uses, self.state()), (1, State.ISSUED))

    def test_session_limit(self) -> None:
        """A ticket has only so many sessions at a time, and readers and writers as told."""
        self.registry = self.make(sessions_per_ticket={Kind.IMAGE: 3})
        ticket = self.add()
        holds = [self.hold() for _ in range(3)]
        self.assertEqual(self.no_hold(error=errors.Unavailable), "limit")
        self.registry.release(holds.pop())
        self.registry.release(holds.pop())
        ticket.max_readers = 1
        self.assertEqual(self.no_hold(error=errors.Unavailable), "limit")
        self.hold(op="write")

    def test_release_once(self) -> None:
        """Releasing twice counts once."""
        self.add()
        first, _second = self.hold(), self.hold()
        self.registry.release(first)
        self.registry.release(first)
        self.assertEqual(self.state(), State.ACTIVE)

    # Revoking

    def test_revoke_cuts(self) -> None:
        """All sessions are told before revoke returns, one that fails included, and told once (T10)."""
        for grant in (IMAGE, TUNNEL, RPC):
            told: list[str] = []

            def fail(reason: str) -> None:
                raise ZeroDivisionError(reason)

            self.add(grant)
            self.hold(grant, told)
            self.ok(self.registry.hold(UUID, grant.ops[0], kind=grant.kind, peer=None, ended=fail))
            last = self.hold(grant, told)
            answer = self.registry.revoke(UUID, reason="stopped")
            self.assertEqual(told, [])
            self.assertTrue(self.ok(answer))
            self.assertEqual(told, ["stopped", "stopped"])
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
            self.ok(self.registry.revoke(UUID))
            self.registry.release(last)
            self.assertEqual((told, self.why_not(grant)), (["stopped", "stopped"], "revoked"))

    def test_revoke_after_replacement(self) -> None:
        """Sessions go on when the engine installs a ticket again, and a later revoke still ends them."""
        told: list[str] = []
        ticket = self.add()
        ticket.transferred.add(0, 100)
        hold = self.hold(told=told)
        self.clock.advance(100)
        again = self.add(evolve(IMAGE, timeout=500))
        self.assertEqual((again.transferred.total, again.state, told), (0, State.ACTIVE, []))
        self.assertIs(hold.ticket, again)
        self.ok(self.registry.revoke(UUID))
        self.assertEqual(told, ["revoked"])
        self.registry.release(hold)
        self.assertEqual(self.state(), State.REVOKED)

    def test_replaced_by_less(self) -> None:
        """A session whose operation a new ticket under its id does not grant ends; others go on."""
        view, control = evolve(CONSOLE, ops=("view",)), evolve(CONSOLE, ops=("view", "control"))
        told: dict[str, list[str]] = {"view": [], "control": []}
        self.add(control)
        for op, words in told.items():
            self.hold(control, words, op)
        self.add(control)
        self.assertEqual(told, {"view": [], "control": []})
        self.add(view)
        self.assertEqual(told, {"view": [], "control": ["revoked"]})
        self.add(evolve(TUNNEL, ops=("view",)))
        self.assertEqual(told, {"view": ["revoked"], "control": ["revoked"]})

    def test_revoke_after_expiry(self) -> None:
        """A session that outlived its ticket is still ended by a revoke."""
        for grant, proof in ((IMAGE, {}), (TUNNEL, {}), (CONSOLE, {"proof_end": 1e4})):
            told: list[str] = []
            self.add(grant, **proof)
            self.hold(grant, told)
            self.clock.pump([grant.timeout, 100])
            self.assertEqual((self.state(), told), (State.EXPIRED, []))
            self.ok(self.registry.revoke(UUID, tombstone=False))
            self.assertEqual((self.state(), told), (None, ["revoked"]))

    def test_cut_at_expiry(self) -> None:
        """Sessions of an rpc or console ticket end with it, and so do others where that is configured."""
        self.registry = self.make(at_expiry={Kind.IMAGE: AtExpiry.CUT})
        for grant in (RPC, CONSOLE, IMAGE):
            told: list[str] = []
            self.add(grant)
            for _ in range(2):
                self.hold(grant, told)
            self.clock.advance(grant.timeout - 1)
            self.assertEqual(told, [])
            self.clock.advance(1)
            self.assertEqual(told, ["expired", "expired"])

    def test_renewed_console(self) -> None:
        """A renewal or a new ticket under its id extends a console that runs; after the end nothing does."""
        told: list[str] = []
        self.add(CONSOLE)
        self.hold(CONSOLE, told)
        self.clock.advance(29)
        self.ok(self.registry.renew(UUID, 100))
        self.clock.advance(99)
        self.add(CONSOLE)
        self.clock.advance(29)
        self.assertEqual(told, [])
        self.ok(self.registry.renew(UUID, 5))
        self.clock.advance(5)
        self.assertEqual(told, ["expired"])
        self.assertEqual(self.refused(self.registry.renew(UUID, 100), errors.NotFound), "expired")
        self.assertEqual(self.no_hold(CONSOLE), "expired")

    def test_console_of_a_proof(self) -> None:
        """A signed proof is the time to begin in: its console runs on, whoever installed the proof.

        What the engine puts in its place afterwards ends as its tickets do.
        """
        now = self.clock.seconds()
        for name, trusted in (("engine's", True), ("shown", False)):
            told: list[str] = []
            grant = evolve(CONSOLE, uuid=name)
            self.add(grant, proof_end=now + 30, trusted=trusted)
            self.hold(grant, told)
            self.clock.pump([30, 300])
            self.assertEqual((self.no_hold(grant), told), ("expired", []))
            now = self.clock.seconds()
            self.add(grant)
            self.clock.advance(30)
            self.assertEqual(told, ["expired"])
            now = self.clock.seconds()

    def test_revoke_all(self) -> None:
        """All tickets of one principal, or all there are, end together."""
        self.add(evolve(IMAGE, uuid="a", principal="alice"))
        self.add(evolve(IMAGE, uuid="b", principal="bob"))
        self.assertEqual(self.ok(self.registry.revoke_all(principal="alice")), 1)
        self.assertEqual((self.state("a"), self.state("b")), (State.REVOKED, State.ISSUED))
        self.assertEqual(self.ok(self.registry.revoke_all(mark=fingerprint("a"))), 0)
        self.assertEqual(self.ok(self.registry.revoke_all(mark="")), 0)
        self.assertEqual(self.ok(self.registry.revoke_all(mark=fingerprint("b"), principal="alice")), 0)
        self.assertEqual(self.ok(self.registry.revoke_all()), 1)
        self.assertEqual(self.ok(self.registry.revoke_all()), 0)

    def test_engine_brings_back(self) -> None:
        """The engine may install an id again whatever became of it; its uses are new."""
        once = evolve(CONSOLE, uses=1)
        for end in (
            lambda: self.ok(self.registry.revoke(UUID)),
            lambda: self.clock.advance(30),
            lambda: self.registry.release(self.hold(once)),
        ):
            self.add(once)
            end()
            self.assertIn(self.state(), {State.REVOKED, State.EXPIRED, State.USED_UP})
        self.add(once)
        self.assertEqual(self.why_not(once), "")

    # Bounds, lists, news

    def test_full(self) -> None:
        """When the registry is full, new tickets are refused and old ones work (T13)."""
        self.registry = self.make(maximum=4, per_issuer=2)
        end = self.clock.seconds() + 100
        for name in "ab":
            self.prove(evolve(IMAGE, uuid=name), end=end)
        full = self.registry.add(evolve(IMAGE, uuid="x"), issuer="engine", proof_end=end, trusted=False)
        self.assertEqual(self.refused(full, errors.Unavailable), "full")
        for name in "cd":
            self.add(evolve(IMAGE, uuid=name))
        self.assertEqual(self.refused(self.registry.add(evolve(IMAGE, uuid="e")), errors.Unavailable), "full")
        self.assertFalse(self.ok(self.registry.revoke("never seen")))
        self.add(evolve(IMAGE, uuid="c"))
        for name in "abcd":
            self.assertEqual(self.why_not(evolve(IMAGE, uuid=name)), "")
        self.ok(self.registry.revoke("a", tombstone=False))
        self.prove(evolve(IMAGE, uuid="x"), end=end)

    def test_info(self) -> None:
        """The engine reads the members it knows from imageio, and ours beside them."""
        self.clock.advance(1000)
        self.add(evolve(IMAGE, ops=("read",), filename="f", uses=2))
        self.clock.advance(200)
        info = self.ok(self.registry.info(UUID))
        self.assertEqual(
            info,
            {
                "active": False, "canceled": False, "connections": 0, "expires": 1300, "idle_time": 200,
                "inactivity_timeout": 60, "ops": ["read"], "size": 2**30, "sparse": False, "dirty": False,
                "timeout": 300, "url": "file:///x", "uuid": UUID, "transfer_id": "t", "filename": "f",
                "transferred": 0, "kind": "image", "state": "issued", "principal": "", "peer": None,
                "uses": 2, "sessions": [], "created": "2026-01-01T00:00:00.000Z",
                "expires_at": "2026-01-01T00:01:40.000Z", "ticket": fingerprint(UUID),
            },
        )  # fmt: skip
        hold = self.hold()
        hold.session = "s1"
        hold.ticket.connect()
        hold.ticket.transferred.add(0, 10)
        info = self.ok(self.registry.info(UUID))
        self.assertEqual([info[key] for key in ("active", "connections", "idle_time")], [True, 1, 0])
        self.assertEqual([info[key] for key in ("transferred", "sessions", "uses")], [10, ["s1"], 1])
        self.registry.release(hold)
        self.assertEqual(self.ok(self.registry.info(UUID))["idle_time"], 0)
        self.add()
        self.assertNotIn("transferred", self.ok(self.registry.info(UUID)))
        self.ok(self.registry.revoke(UUID))
        self.refused(self.registry.info(UUID), errors.NotFound)

    def test_list(self) -> None:
        """Tickets are listed page by page in order of their fingerprints, and filtered."""
        for number in range(10):
            self.add(evolve(IMAGE if number % 2 else CONSOLE, uuid=f"t{number}", principal=f"p{number % 5}"))
        everything = [ticket.fingerprint for ticket in self.ok(self.registry.list())]
        self.assertEqual(everything, sorted(fingerprint(f"t{number}") for number in range(10)))
        pages: list[str] = []
        while page := self.ok(self.registry.list(after=pages[-1] if pages else "", limit=3)):
            pages += [ticket.fingerprint for ticket in page]
        self.assertEqual(pages, everything)
        self.assertEqual(len(self.ok(self.registry.list(kind=Kind.IMAGE))), 5)
        self.assertEqual(len(self.ok(self.registry.list(principal="p1", kind=Kind.IMAGE))), 1)
        self.assertEqual(len(self.ok(self.registry.list(state=State.ACTIVE))), 0)

    def test_watch(self) -> None:
        """Watchers hear of everything in order, and one that fails disturbs nobody."""
        heard: list[str] = []

        def fail(word: str, ticket: Ticket) -> None:
            raise ZeroDivisionError(word)

        stop_failing = self.registry.watch(fail)
        stop = self.registry.watch(lambda word, ticket: heard.append(word))
        self.add(evolve(CONSOLE, uses=1))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        stop_failing()
        self.ok(self.registry.renew(UUID, 20))
        hold = self.hold(CONSOLE)
        self.no_hold(CONSOLE)
        self.registry.release(hold)
        self.clock.advance(60)
        self.add()
        self.clock.advance(300)
        self.ok(self.registry.revoke(UUID))
        stop()
        self.add()
        self.assertEqual(
            " ".join(heard),
            "issued renewed redeemed refused released used_up purged issued expired revoked",
        )

    def test_model(self) -> None:
        """Whatever happens in whatever order, the invariants of a ticket's life hold."""
        case: Any = self

        class Life(RuleBasedStateMachine):
            """Random histories of three tickets, beside a model of who may and until when."""

            def __init__(self) -> None:
                super().__init__()
                self.registry = case.registry = case.make()
                self.ends: dict[str, float] = {}
                self.hard: dict[str, float] = {}
                self.uses: dict[str, int | None] = {}
                self.gone: set[str] = set()
                self.holds: list[tuple[str, Hold]] = []
                self.told: list[str] = []
                self.timeouts: dict[str, int] = {}

            @property
            def now(self) -> float:
                now: float = case.clock.seconds()
                return now

            names = st.sampled_from(["a", "b", "c"])

            def usable(self, name: str) -> bool:
                return name in self.ends and name not in self.gone and self.now < self.ends[name]

            @rule(name=names, timeout=st.integers(0, 40), uses=st.none() | st.integers(1, 3))
            def issue(self, name: str, timeout: int, uses: int | None) -> None:
                case.add(evolve(IMAGE, uuid=name, timeout=timeout, uses=uses))
                self.ends[name] = self.now + timeout
                self.uses[name] = uses
                self.hard.pop(name, None)
                self.gone.discard(name)
                self.timeouts[name] = timeout

            @rule(name=names, seconds=st.integers(1, 60))
            def show_proof(self, name: str, seconds: int) -> None:
                end = self.now + seconds
                known = case.ok(self.registry.get(name))
                try:
                    case.prove(evolve(IMAGE, uuid=name, timeout=5), end=end)
                except case.failureException:
                    assert known is not None
                    assert known.state is not State.ISSUED
                    return
                assert known is None or known.state not in (State.REVOKED, State.USED_UP)
                if known is None or (not known.trusted and end > self.hard[name]):
                    self.uses[name] = self.uses[name] if known else None
                    self.ends[name] = self.hard[name] = end
                    self.gone.discard(name)

            @rule(name=names, timeout=st.integers(0, 40))
            def renew(self, name: str, timeout: int) -> None:
                known = case.ok(self.registry.get(name))
                try:
                    case.ok(self.registry.renew(name, timeout))
                except case.failureException:
                    assert known is None or known.state not in (State.ISSUED, State.ACTIVE)
                else:
                    self.ends[name] = min(self.now + timeout, self.hard.get(name, self.now + timeout))

            @rule(name=names)
            def redeem(self, name: str) -> None:
                allowed = (
                    self.usable(name) and self.uses[name] != 0 and sum(n == name for n, _ in self.holds) < 8
                )
                try:
                    hold = case.hold(evolve(IMAGE, uuid=name), self.told)
                except case.failureException:
                    assert not allowed
                    return
                assert allowed
                self.holds.append((name, hold))
                uses = self.uses[name]
                self.uses[name] = None if uses is None else uses - 1

            @precondition(lambda self: self.holds)
            @rule(which=st.integers(0), touch=st.booleans())
            def release(self, which: int, touch: bool) -> None:
                name, hold = self.holds.pop(which % len(self.holds))
                ticket = case.ok(self.registry.get(name))
                current = ticket is not None and ticket is hold.ticket
                was_expired = hold.ticket.state is State.EXPIRED
                self.registry.release(hold, touch=touch)
                if (
                    not (touch and current and hold.ticket.trusted and self.timeouts[name])
                    or name in self.gone
                ):
                    return
                others = any(other.ticket is hold.ticket for _, other in self.holds)
                if not (was_expired and self.uses[name] == 0 and not others):
                    self.ends[name] = self.now + self.timeouts[name]

            @rule(name=names, tombstone=st.booleans())
            def revoke(self, name: str, tombstone: bool) -> None:
                before = len(self.told)
                fresh = sum(1 for n, hold in self.holds if n == name and not hold.told)
                case.ok(self.registry.revoke(name, tombstone=tombstone))
                assert len(self.told) - before == fresh
                self.gone.add(name)

            @rule(seconds=st.integers(0, 70))
            def wait(self, seconds: int) -> None:
                case.clock.advance(seconds)

            @rule(step=st.sampled_from([-3600, 3600]))
            def set_wall_clock(self, step: int) -> None:
                case.wall += step

            @invariant()
            def sound(self) -> None:
                tickets = case.ok(self.registry.list())
                assert sum(self.registry.gauges().values()) == len(tickets)
                for ticket in tickets:
                    if ticket.holds:
                        assert ticket.state is not State.ISSUED
                        assert ticket.state is not State.USED_UP
                    assert ticket.hard_end is None or ticket.deadline <= ticket.hard_end
                    assert ticket.uses is None or ticket.uses >= 0
                for name in ("a", "b", "c"):
                    ticket_ = case.ok(self.registry.get(name))
                    live = ticket_ is not None and ticket_.state in (State.ISSUED, State.ACTIVE)
                    used = ticket_ is not None and ticket_.state is State.USED_UP
                    assert live == (self.usable(name) and not used), (name, ticket_)

            def teardown(self) -> None:
                self.registry.stop()

        run_state_machine_as_test(
            Life, settings=settings(max_examples=100, stateful_step_count=30, deadline=None)
        )


class MemoryRegistryTests(RegistryContract, SynchronousTestCase):
    """The registry of one process."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.wall = 1767225600.0
        self.trail: list[tuple[str, dict[str, object]]] = []
        self.holds: list[Hold] = []
        self.registry = self.make()

    def make(self, **options: Any) -> MemoryRegistry:
        def audit(event: str, /, **fields: object) -> None:
            self.trail.append((event, fields))

        registry = MemoryRegistry(self.clock, lambda: self.wall, audit=audit, **options)
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))
        self.addCleanup(registry.stop)
        return registry

    def test_audit(self) -> None:
        """Every refusal and every change leaves a line with a fingerprint, and never an id."""
        self.why_not(peer="192.0.2.9")
        self.add(evolve(IMAGE, principal="alice"))
        self.ok(self.registry.revoke(UUID, reason="stopped"))
        self.assertEqual(
            self.trail,
            [
                ("ticket.refused", {"ticket": fingerprint(UUID), "reason": "unknown", "peer": "192.0.2.9"}),
                ("ticket.issued", self.line(reason=None)),
                ("ticket.revoked", self.line(reason="stopped")),
            ],
        )

    def line(self, **more: object) -> dict[str, object]:
        return {
            "kind": "image",
            "ticket": fingerprint(UUID),
            "principal": "alice",
            "issuer": "control",
            **more,
        }

    def test_revocations_timed(self) -> None:
        """A revocation lasts until the last session is released; one without sessions is not counted."""
        took: list[tuple[Kind, float]] = []
        self.registry = self.make(revoked=lambda kind, seconds: took.append((kind, seconds)))
        for grant in (IMAGE, evolve(TUNNEL, uuid="t"), evolve(RPC, uuid="idle")):
            self.add(grant)
        first, second, other = self.hold(), self.hold(), self.hold(evolve(TUNNEL, uuid="t"))
        self.registry.release(self.hold())
        self.ok(self.registry.revoke_all())
        self.ok(self.registry.revoke(UUID, tombstone=False))
        for seconds, hold in ((1, first), (2, other), (4, second)):
            self.clock.advance(seconds)
            self.registry.release(hold)
        self.registry.release(second)
        self.assertEqual(took, [(Kind.TUNNEL, 3), (Kind.IMAGE, 7)])
        self.add(IMAGE)
        self.registry.release(self.hold())
        self.assertEqual(len(took), 2)

    def test_all_revoked_by_one_order(self) -> None:
        """What ends last when all tickets are revoked took as long as all before it, too."""
        took: list[float] = []
        self.registry = self.make(revoked=lambda _, seconds: took.append(seconds))
        for uuid in ("a", "b"):
            grant = evolve(CONSOLE, uuid=uuid)
            self.add(grant)
            session = self.registry.hold(uuid, "view", kind=grant.kind, peer=None, ended=self.slow)
            self.holds.append(self.ok(session))
        self.ok(self.registry.revoke_all())
        self.assertEqual(took, [2, 4])

    def slow(self, _reason: str) -> None:
        self.clock.advance(2)
        self.registry.release(self.holds.pop(0))

    def test_one_timer(self) -> None:
        """A hundred thousand tickets need one timer, and go without a look at those that stay."""
        self.registry = MemoryRegistry(self.clock, lambda: self.wall)
        self.addCleanup(self.registry.stop)

        async def fill() -> None:
            for number in range(100_000):
                await self.registry.add(evolve(IMAGE, uuid=str(number), timeout=300 if number % 100 else 5))

        self.ok(fill())
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.advance(5)
        self.assertEqual(
            self.registry.gauges(), {(Kind.IMAGE, State.EXPIRED): 1000, (Kind.IMAGE, State.ISSUED): 99000}
        )
        self.clock.pump([295, 1, 1])
        self.assertEqual(self.registry.gauges(), {(Kind.IMAGE, State.EXPIRED): 99000})
        self.clock.pump([60, 1])
        self.assertEqual(self.registry.gauges(), {})
        self.assertEqual(self.clock.getDelayedCalls(), [])
