"""What tests of one hypervisor share: a target, and a daemon in memory."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gateway.rpc.pool import Limits
from gateway.rpc.target import Target
from tests.rpc.fake_libvirt import URL, FakeLibvirtd


class TargetCase(SynchronousTestCase):
    """A target before a daemon that answers when the test says so."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.daemon = FakeLibvirtd(self.clock)
        self.target = self.make()
        self.waiting: list[Deferred[Any]] = []

    def tearDown(self) -> None:
        """Nothing is left when a target is stopped: no connection, no timer, no caller."""
        stopped = self.target.stop()
        self.clock.advance(0)
        self.successResultOf(stopped)
        for waiting in self.waiting:
            waiting.addErrback(lambda _: None)
            self.assertTrue(waiting.called, "somebody waits for ever")
        self.assertEqual(self.daemon.live, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def make(self, limits: Limits = Limits(), **options: Any) -> Target:  # noqa: B008 (frozen)
        options = {"chance": lambda: 0.5, **options}
        return Target("hv1", URL, dial=self.daemon.dial, clock=self.clock, limits=limits, **options)

    def call(self, name: str, arguments: Any = None, **options: Any) -> Deferred[Any]:
        """Begin a call."""
        called = Deferred.fromCoroutine(self.target.call(name, arguments or {}, **options))
        self.waiting.append(called)
        return called

    def turn(self, seconds: float = 0.0) -> None:
        """Let time pass, in steps as a reactor would make them."""
        while seconds > 0.25:
            self.clock.advance(0.25)
            seconds -= 0.25
        self.clock.advance(seconds)
        for _ in range(3):
            self.clock.advance(0)
