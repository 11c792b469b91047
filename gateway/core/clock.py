"""Time: monotonic for everything that lasts, the wall clock only for what was signed or is shown."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

#: Seconds between two looks, and what a clock may drift in between without being called a step.
_INTERVAL = 1.0
_STEP = 1.0


def wall() -> float:
    """Seconds since the epoch; may jump."""
    return time.time()


def use_monotonic(reactor: Any) -> None:
    """Let the timers of *reactor* follow elapsed time; to be called before the first ``callLater``."""
    reactor.seconds = time.monotonic


class StepWatch(Service):
    """Notices when the wall clock is set, which moves the ends of signed tokens.

    :param stepped: told by how many seconds.
    """

    _log = Logger()

    def __init__(
        self, clock: IReactorTime, wall: Callable[[], float], stepped: Callable[[float], None]
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._stepped = stepped
        self._offset = 0.0
        self._timer: IDelayedCall | None = None

    def startService(self) -> None:
        super().startService()
        self._offset = self._wall() - self._clock.seconds()
        self._timer = self._clock.callLater(_INTERVAL, self._look)

    def stopService(self) -> None:
        super().stopService()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        offset = self._wall() - self._clock.seconds()
        if abs(offset - self._offset) > _STEP:
            self._log.warn("the wall clock was set by {step:.1f} s", step=offset - self._offset)
            self._stepped(offset - self._offset)
        self._offset = offset
        self._timer = self._clock.callLater(_INTERVAL, self._look)
