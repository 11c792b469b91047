"""Everything that can happen to a target, in any order."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.rpc.pool import Limits
from gateway.rpc.target import Target
from gateway.wire.libvirt_error import LibvirtError
from tests.rpc.fake_libvirt import DOM, URL, FakeLibvirtd

#: Twice what is to come more often.
_WHAT = [
    *("read", "read", "write", "write", "urgent", "cancel", "answer", "answer", "refuse"),
    *("lose", "die", "away", "back", "freeze", "thaw", "wait", "long", "event"),
]
_STEPS = st.lists(
    st.tuples(
        st.sampled_from(_WHAT),
        st.integers(0, 1000),
    ),
    max_size=60,
)
#: What a caller may be told; anything else is a mistake of ours.
_TOLD = (
    LibvirtError,
    errors.DeadlinePassed,
    errors.Interrupted,
    errors.TargetDown,
    errors.Busy,
    CancelledError,
)


class Storm:
    """One target, one daemon, and a book of what was called.

    :ivar writes: by the number of a write, the outcome once it is known.
    """

    def __init__(self, case: SynchronousTestCase) -> None:
        self.case = case
        self.clock = Clock()
        self.daemon = FakeLibvirtd(self.clock)
        limits = Limits(connections=2, each=6, total=10, idle=20, grace=10)
        self.target = Target(
            "hv1", URL, dial=self.daemon.dial, clock=self.clock, limits=limits, chance=lambda: 0.5, window=2
        )
        self.calls: list[Deferred[Any]] = []
        self.writes: dict[int, object] = {}
        self.target.watch(lambda *_: None, lambda _: None, lambda _: None)

    def call(self, name: str, number: int, deadline: float) -> Deferred[Any]:
        arguments: dict[str, object] = {"dom": {**DOM, "id": number}}
        if name == "DOMAIN_GET_STATE":
            arguments["flags"] = 0
        principal = str(number % 3)
        called = Deferred.fromCoroutine(
            self.target.call(name, arguments, principal=principal, deadline=deadline)
        )
        self.calls.append(called)
        return called

    def write(self, name: str, deadline: float) -> None:
        number = 10_000 + len(self.writes)
        self.writes[number] = None
        called = self.call(name, number, deadline)
        called.addBoth(lambda outcome: self.writes.__setitem__(number, outcome))

    def step(self, what: str, number: int) -> None:
        """Do one thing."""
        asked = self.daemon.asked
        chosen = asked[number % len(asked)] if asked else None
        if what == "read":
            self.call("DOMAIN_GET_STATE", number % 5, 1 + number % 40)
        elif what == "write":
            self.write("DOMAIN_RESUME", 1 + number % 40)
        elif what == "urgent":
            self.write("DOMAIN_DESTROY", 1 + number % 40)
        elif what == "cancel" and self.calls:
            self.calls[number % len(self.calls)].cancel()
        elif what == "answer" and chosen is not None:
            values: dict[str, Any] = {"DOMAIN_GET_STATE": {"state": 1, "reason": 1}, **self.daemon.answers}
            chosen.answer(**values.get(chosen.name, {}))
        elif what == "refuse" and chosen is not None:
            chosen.refuse(38)
        elif what == "lose" and self.daemon.live:
            self.daemon.live[number % len(self.daemon.live)].lose()
        elif what == "die":
            self.daemon.die()
        elif what in ("away", "back"):
            self.daemon.failure = errors.UpstreamFailed(reason="refused") if what == "away" else None
        elif what in ("freeze", "thaw"):
            self.daemon.frozen = what == "freeze"
        elif what == "event" and self.daemon.live:
            peer = self.daemon.live[number % len(self.daemon.live)]
            peer.tell("DOMAIN_EVENT_CALLBACK_REBOOT", callbackID=1, dom=DOM)
        self.turn({"wait": number % 10, "long": number % 200}.get(what, 0))
        self.check()

    def turn(self, seconds: float) -> None:
        for _ in range(int(seconds * 2)):
            self.clock.advance(0.5)
        for _ in range(4):
            self.clock.advance(0)

    def check(self) -> None:
        """What is always true."""
        for peer in self.daemon.live:
            self.case.assertLessEqual(len(peer.asked), 2 if peer.opened else 1)
        sent = [asked.arguments["dom"]["id"] for asked in self.daemon.arrived if "dom" in asked.arguments]
        written = [number for number in sent if number >= 10_000]
        self.case.assertEqual(len(written), len({*written}), "a write was sent twice")
        for number, outcome in self.writes.items():
            if isinstance(outcome, Failure):
                error = outcome.value
                done = getattr(error, "maybe_executed", None)
                if done is not None:
                    self.case.assertEqual(done, number in written)
                elif isinstance(error, errors.TargetDown | errors.Busy):
                    self.case.assertNotIn(number, written)

    def end(self) -> None:
        """Stop; nobody may be left waiting, and nothing left over."""
        stopped = self.target.stop()
        self.turn(3)
        self.case.successResultOf(stopped)
        for called in self.calls:
            self.case.assertTrue(called.called, "somebody waits for ever")
            called.addErrback(lambda failure: failure.trap(*_TOLD))
            self.case.successResultOf(called)
        self.case.assertEqual(self.daemon.live, [])
        self.case.assertEqual(self.clock.getDelayedCalls(), [])


class StormTest(SynchronousTestCase):
    """Any order of events."""

    @settings(max_examples=120, deadline=None)
    @given(_STEPS)
    def test_any_order(self, steps: list[tuple[str, int]]) -> None:
        """No write is sent twice, what is said of it is true, windows hold, all are told, nothing is left."""
        storm = Storm(self)
        for what, number in steps:
            storm.step(what, number)
        storm.end()

    @settings(max_examples=40, deadline=None)
    @given(_STEPS)
    def test_recovers(self, steps: list[tuple[str, int]]) -> None:
        """Whatever happened, when the daemon is well again calls are answered within the longest wait."""
        storm = Storm(self)
        for what, number in steps:
            storm.step(what, number)
        storm.daemon.failure, storm.daemon.frozen = None, False
        storm.daemon.answers["DOMAIN_GET_STATE"] = {"state": 1, "reason": 1}
        storm.daemon.answers["DOMAIN_RESUME"] = storm.daemon.answers["DOMAIN_DESTROY"] = {}
        storm.turn(80)
        for name, number in (("DOMAIN_GET_STATE", 77), ("DOMAIN_RESUME", 20_000)):
            called = storm.call(name, number, 10)
            storm.turn(5)
            self.successResultOf(called)
        storm.end()
