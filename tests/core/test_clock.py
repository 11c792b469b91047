"""Time: steps of the wall clock are noticed, and change no deadline."""

from __future__ import annotations

import time
from types import SimpleNamespace

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gateway.core.clock import StepWatch, use_monotonic, wall


class StepTests(SynchronousTestCase):
    """T14: the watch on the wall clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.offset = 1_800_000_000.0
        self.steps: list[float] = []
        self.watch = StepWatch(self.clock, lambda: self.clock.seconds() + self.offset, self.steps.append)
        self.watch.startService()

    def test_steady(self) -> None:
        """A clock that runs, or drifts a little all the time, makes no step."""
        for _ in range(1000):
            self.offset += 0.5
            self.clock.advance(1)
        self.assertEqual(self.steps, [])

    def test_steps(self) -> None:
        """Being set forth or back is told once, with its size, soon after."""
        for step in (3600.0, -3600.0, 1.5):
            self.steps.clear()
            self.offset += step
            self.clock.advance(1)
            self.clock.pump([1] * 10)
            self.assertEqual([round(it, 3) for it in self.steps], [step])

    def test_stops(self) -> None:
        """A stopped watch leaves no timer; it can be started again, and forgets what it missed."""
        self.watch.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.offset += 3600
        self.watch.startService()
        self.clock.pump([1] * 3)
        self.assertEqual(self.steps, [])
        self.watch.stopService()
        self.watch.stopService()


class SourceTests(SynchronousTestCase):
    """Where time comes from."""

    def test_monotonic(self) -> None:
        """The reactor's timers follow elapsed time."""
        reactor = SimpleNamespace(seconds=None)
        use_monotonic(reactor)
        self.assertIs(reactor.seconds, time.monotonic)

    def test_wall(self) -> None:
        """The wall clock is that of the system."""
        self.assertLess(abs(wall() - time.time()), 5)
