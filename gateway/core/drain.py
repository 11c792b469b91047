"""Going away in good order: no new work, time for what runs, and an end to waiting."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from gateway.core.sessions import SessionTable

#: Seconds between two looks at what still runs, and between two lines about it.
_LOOK = 0.1
_TELL = 10.0


class Drain:
    """Drains once; asked again while it runs, it gives the same answer.

    :ivar begun: no new work is taken.
    """

    _log = Logger()

    def __init__(
        self, clock: IReactorTime, sessions: SessionTable, timeout: float, begin: Callable[[], None]
    ) -> None:
        self.begun = False
        self._clock = clock
        self._sessions = sessions
        self._timeout = timeout
        self._begin = begin
        self._waiting: list[Deferred[None]] = []
        self._timer: IDelayedCall | None = None
        self._until = 0.0
        self._told = 0.0

    def start(self) -> int:
        """Take no more work; return the number of live sessions."""
        if not self.begun:
            self.begun = True
            self._log.info("draining, {count} sessions live", count=len(self._sessions))
            self._begin()
        return len(self._sessions)

    def finish(self) -> Deferred[None]:
        """Drain, and fire when nothing is left; what is left after the timeout is cut."""
        self.start()
        done: Deferred[None] = Deferred()
        self._waiting.append(done)
        if self._timer is None:
            self._until = self._clock.seconds() + self._timeout
            self._told = self._clock.seconds()
            self._look()
        return done

    def cut(self) -> None:
        """Wait no longer."""
        self._until = 0.0
        if self._timer is not None:
            self._timer.reset(0)

    def _look(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        if self._sessions and now >= self._until:
            self._log.warn("cutting {count} sessions", count=len(self._sessions))
            for session in self._sessions.list():
                session.end("drained")
        if not self._sessions:
            waiting, self._waiting = self._waiting, []
            for done in waiting:
                done.callback(None)
            return
        if now - self._told >= _TELL:
            self._told = now
            self._log.info("draining, {count} sessions left", count=len(self._sessions))
        self._timer = self._clock.callLater(_LOOK, self._look)
