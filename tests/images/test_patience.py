"""How long the side where an image is may take."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.images.patience import until_back, watched
from gateway.images.target import Held, Reading

READING = Reading(Held(b"x"), 0, 1, False)


class BackTests(SynchronousTestCase):
    """A download that is taken up again."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.asked: list[float] = []
        self.back = float("inf")
        self.error: errors.GatewayError = errors.UpstreamFailed()

    def begin(self) -> Deferred[Reading]:
        async def again() -> Reading:
            self.asked.append(self.clock.seconds())
            if self.clock.seconds() < self.back:
                raise self.error
            return READING

        return Deferred.fromCoroutine(until_back(again, self.clock))

    def test_back(self) -> None:
        """It is asked for more and more seldom, and goes on as soon as there is an answer."""
        self.back = 5.0
        resuming = self.begin()
        self.clock.pump([0.01] * 600)
        self.assertIs(self.successResultOf(resuming), READING)
        waits = [round(late - early, 1) for early, late in zip(self.asked, self.asked[1:], strict=False)]
        self.assertEqual(waits, [0.1, 0.2, 0.4, 0.8, 1.6, 2.0])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_given_up(self) -> None:
        """After half a minute the failure is the answer."""
        resuming = self.begin()
        self.clock.pump([0.1] * 310)
        self.assertIs(self.failureResultOf(resuming).value, self.error)
        self.assertLess(self.asked[-1], 30.1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_does_not_pass(self) -> None:
        """What does not pass by itself is the answer at once."""
        self.error = errors.NotFound()
        self.assertIs(self.failureResultOf(self.begin()).value, self.error)
        self.assertEqual(len(self.asked), 1)


class Sink:
    """Progress that the test makes."""

    held = True
    progress = 0


class WatchedTests(SynchronousTestCase):
    """An upload that may stall."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.sink = Sink()
        self.moving: Deferred[None] = Deferred()

        async def run() -> None:
            with watched(self.moving, self.sink, self.clock, 60):
                await self.moving

        self.running = Deferred.fromCoroutine(run())

    def tearDown(self) -> None:
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stalled(self) -> None:
        """Who takes nothing for as long as that, although it is his turn, is given up, and that is said."""
        self.clock.advance(59)
        self.assertNoResult(self.running)
        self.clock.advance(1)
        error = self.failureResultOf(self.running, errors.UpstreamTimeout).value
        self.assertEqual(error.reason, "stalled")

    def test_slow(self) -> None:
        """Whoever takes something is waited for, and so is a client that sends nothing."""
        for _ in range(10):
            self.sink.progress += 1
            self.clock.advance(60)
        self.sink.held = False
        self.clock.pump([60] * 10)
        self.assertNoResult(self.running)
        self.moving.callback(None)
        self.successResultOf(self.running)

    def test_cancelled(self) -> None:
        """Whoever else ends it is not called a timeout."""
        self.moving.cancel()
        self.failureResultOf(self.running, CancelledError)
