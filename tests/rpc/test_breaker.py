"""When a hypervisor that is out of reach is tried again."""

from __future__ import annotations

from math import inf

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.rpc.breaker import FAILURES, LONGEST, Breaker


class BreakerTest(SynchronousTestCase):
    """Back-off, opening, probes."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.chance = 0.5
        self.breaker = Breaker(self.clock, lambda: self.chance)

    def fails(self, reason: str = "refused") -> float:
        """Let an attempt fail as soon as it is allowed; return the wait after it."""
        self.clock.advance(self.breaker.wait())
        self.breaker.failed(self.breaker.begin(), reason)
        return self.breaker.wait()

    def test_at_once(self) -> None:
        """As long as nothing failed nobody waits."""
        self.assertEqual(self.breaker.wait(), 0)
        self.breaker.begin()
        self.assertEqual(self.breaker.wait(), 0)
        self.breaker.check()

    def test_backs_off(self) -> None:
        """The waits grow from 0.2 s to 30 s, and open after five failures; not before 4 s went by."""
        waits = [self.fails() for _ in range(4)]
        self.assertEqual([round(wait, 3) for wait in waits], [0.2, 0.5, 1.25, 3.125])
        self.assertFalse(self.breaker.open)
        self.breaker.check()
        self.fails()
        self.assertTrue(self.breaker.open)
        self.assertGreater(self.clock.seconds(), 4)
        self.assertEqual([self.fails() for _ in range(3)][-1], LONGEST)

    def test_jitter(self) -> None:
        """A wait is drawn from a quarter around what it should be."""
        for self.chance, expected in ((0.0, 0.15), (1.0, 0.25)):
            breaker = Breaker(self.clock, lambda: self.chance)
            breaker.failed(breaker.begin(), "refused")
            self.assertAlmostEqual(breaker.wait(), expected)

    def test_open(self) -> None:
        """When it is open, the wait is told to who would have to wait, and why."""
        for _ in range(FAILURES):
            self.fails("dns")
        refusal = self.assertRaises(errors.TargetDown, self.breaker.check)
        self.assertEqual(refusal.retry_after, self.breaker.wait())
        self.assertEqual(refusal.reason, "dns")

    def test_probe(self) -> None:
        """After the wait one attempt is made, and while it runs no other; success forgets all failures."""
        for _ in range(FAILURES):
            self.fails()
        self.clock.advance(LONGEST)
        self.breaker.check()
        self.assertEqual(self.breaker.wait(), 0)
        self.breaker.begin()
        self.assertEqual(self.breaker.wait(), inf)
        self.breaker.check()
        self.breaker.succeeded()
        self.assertEqual((self.breaker.failures, self.breaker.wait(), self.breaker.open), (0, 0, False))

    def test_probe_fails(self) -> None:
        """A probe that fails opens it again, for longer."""
        for _ in range(FAILURES):
            last = self.fails()
        self.assertGreater(self.fails(), last)
        self.assertRaises(errors.TargetDown, self.breaker.check)

    def test_together(self) -> None:
        """Attempts that run at the same time count once when they fail."""
        tries = [self.breaker.begin() for _ in range(FAILURES)]
        for begun in tries:
            self.breaker.failed(begun, "refused")
        self.assertEqual(self.breaker.failures, 1)

    def test_dropped(self) -> None:
        """An attempt that nobody wanted to the end does not count, and lets others begin."""
        self.fails()
        self.clock.advance(1)
        self.breaker.begin()
        self.breaker.dropped()
        self.assertEqual((self.breaker.failures, self.breaker.wait()), (1, 0))

    def test_told(self) -> None:
        """After each attempt those who wait are told."""
        told: list[int] = []
        self.breaker.changed = lambda: told.append(self.breaker.failures)
        self.fails()
        self.clock.advance(1)
        self.breaker.begin()
        self.breaker.succeeded()
        self.assertEqual(told, [1, 0])
