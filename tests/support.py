"""What tests share: the bridge between trial's asynchronous cases and pytest, and small doubles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from zope.interface import implementer

#: Set by ``conftest.py`` under pytest: waits for a Deferred on pytest-twisted's reactor.
settle: Callable[[Deferred[Any]], Any] | None = None


class ReactorTestCase(TestCase):
    """An asynchronous test case that runs under trial and under pytest with pytest-twisted."""

    timeout = 60.0

    def _wait(self, d: Deferred[Any], *rest: Any) -> Any:
        return settle(d) if settle is not None else super()._wait(d, *rest)

    async def until(self, true: Callable[[], object], what: str = "it", deadline: float = 40.0) -> None:
        """Let the reactor turn until *true* says so.

        :param deadline: seconds after which the test has failed.
        """
        from twisted.internet import reactor

        clock: Any = reactor
        end = clock.seconds() + deadline
        while not true():
            if clock.seconds() > end:
                self.fail(f"not within {deadline} s: {what}")
            await deferLater(clock, 0.005)


@implementer(IPushProducer)
class Producer:
    """Somebody who writes much, and does as told.

    :ivar told: in what words, in order.
    """

    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")
