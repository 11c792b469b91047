"""What the gateway stops doing when it has too much to do, and when it takes it up again.

==========  ===========================================================================================
step        what changes
==========  ===========================================================================================
normal      nothing
busy        answers to strangers close their connections
shedding    requests of strangers are refused with 503, renewals and releases excepted; not ready
==========  ===========================================================================================

What lives is never dropped to make room: a connection on which a request was authorised goes on.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Mapping
from enum import IntEnum
from pathlib import Path
from random import SystemRandom

from attrs import define
from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from gateway import errors
from gateway.core.exchange import Exchange
from gateway.core.metrics import Metrics
from gateway.core.ticket_news import Trail
from gateway.wire.http_head import RequestHead

#: Seconds a signal must be bad, or good again, before lag counts and before a step is left.
_LATE = 2.0
_CALM = 10.0
#: Descriptors kept for control, metrics and files.
_RESERVED = 64
_RANDOM = SystemRandom()

Signal = Callable[[], float]


class Step(IntEnum):
    """How much there is to do; the number is the gauge's."""

    NORMAL = 0
    BUSY = 1
    SHEDDING = 2


@define
class _Latch:
    """Whether a step is in force: quick to enter, slow to leave.

    :ivar enter: the use (0 to 1) above which it is entered at once.
    :ivar leave: the use below which everything must stay to leave it.
    :ivar lag: seconds that timers must be late for a while to enter it; ``leave`` is a part of that, too.
    """

    enter: float
    leave: float
    lag: float
    on: bool = False
    _late: float | None = None
    _calm: float | None = None

    def look(self, now: float, use: float, lag: float) -> None:
        """Take note of the highest use, and of the lag, at *now*."""
        self._late = None if lag <= self.lag else now if self._late is None else self._late
        if use > self.enter or (self._late is not None and now - self._late >= _LATE):
            self.on, self._calm = True, None
        elif use >= self.leave or lag >= self.lag * self.leave:
            self._calm = None
        elif self._calm is None:
            self._calm = now
        elif now - self._calm >= _CALM:
            self.on = False


def renews(head: RequestHead) -> bool:
    """Whether *head* prolongs or gives back what there is: that is never shed."""
    path = head.target.partition(b"?")[0]
    if path.startswith(b"/tickets/"):
        return head.method in (b"PUT", b"DELETE")
    if path.startswith(b"/sessions/"):
        named = head.get(b"session-id") or head.get(b"x-session-id")
        return head.method == b"DELETE" or (head.method == b"POST" and named is not None)
    return False


class Overload(Service):
    """Looks at its signals each second, and tells requests what the step means for them.

    :ivar step: the one in force.
    :ivar signals: each what is used of something, 0 to 1, by name.
    :ivar lag: how late timers fire, seconds.
    :ivar changed: told each new step.
    """

    interval = 1.0
    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        signals: Mapping[str, Signal],
        lag: Callable[[], float],
        metrics: Metrics,
        audit: Trail,
        changed: Callable[[Step], object] = lambda step: None,
        uniform: Callable[[float, float], float] = _RANDOM.uniform,
    ) -> None:
        self.step = Step.NORMAL
        self.signals = signals
        self.lag = lag
        self.changed = changed
        self._clock = clock
        self._metrics = metrics
        self._audit = audit
        self._uniform = uniform
        self._latches = {Step.BUSY: _Latch(0.80, 0.70, 0.1), Step.SHEDDING: _Latch(0.95, 0.85, 1.0)}
        self._timer = LoopingCall(self.look)
        self._timer.clock = clock

    def startService(self) -> None:
        super().startService()
        self._timer.start(self.interval)

    def stopService(self) -> None:
        if self._timer.running:
            self._timer.stop()
        super().stopService()

    def look(self) -> None:
        """Read the signals; a new step is logged and audited once."""
        now, lag = self._clock.seconds(), self.lag()
        used = {name: signal() for name, signal in self.signals.items()}
        worst = max(used, key=lambda name: used[name], default="lag")
        use = used.get(worst, 0.0)
        for latch in self._latches.values():
            latch.look(now, use, lag)
        before, self.step = (
            self.step,
            max([s for s, latch in self._latches.items() if latch.on], default=Step.NORMAL),
        )
        if self.step is before:
            return
        self._metrics.overload_state.set(self.step)
        cause = worst if use > 0.80 else "lag"
        word = self.step.name.lower()
        self.log.warn(
            "overload: {step} after {before} for {cause}; {worst} at {use} of 1, lag {lag} s",
            step=word,
            before=before.name.lower(),
            cause=cause,
            worst=worst,
            use=round(use, 3),
            lag=round(lag, 3),
        )
        self._audit("overload", result=word, reason=cause if self.step > before else None)
        self.changed(self.step)

    def admit(self, listener: str, exchange: Exchange) -> None:
        """Let *exchange* pass, perhaps as the last one of its connection.

        :raises gateway.errors.Unavailable: it is new, and we are shedding.
        """
        if self.step is Step.NORMAL or exchange.proven:
            return
        exchange.keep_alive = False
        if self.step is Step.SHEDDING and not renews(exchange.head):
            self._metrics.shed.labels(listener).inc()
            raise errors.Unavailable(reason="overload", retry_after=self._uniform(5, 15))

    def check(self) -> tuple[bool, str]:
        """For readiness: whether new sessions are let in."""
        return self.step < Step.SHEDDING, "" if self.step is Step.NORMAL else self.step.name.lower()


def open_files(limit: int | None) -> Signal | None:
    """Descriptors in use, with what is reserved, as a part of *limit*; None when there is no limit."""
    if limit is None:
        return None

    def used() -> float:
        try:
            return (len(os.listdir("/proc/self/fd")) + _RESERVED) / limit
        except OSError:
            return 1.0  # not even one is left to look with

    return used


def memory(root: Path = Path("/")) -> Signal | None:
    """Resident memory as a part of the cgroup's ``memory.high``; None when that cannot be told.

    Source: Linux, admin-guide/cgroup-v2; proc(5) on statm.

    :param root: where ``proc`` and ``sys`` are.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
        (group,) = [line[3:] for line in groups if line.startswith("0::")]
        limit = int((root / "sys/fs/cgroup" / group.lstrip("/") / "memory.high").read_text())
    except (OSError, ValueError):
        return None  # no such file, or "max"
    page = resource.getpagesize()
    statm = root / "proc/self/statm"

    def used() -> float:
        try:
            return int(statm.read_text().split()[1]) * page / limit
        except OSError:
            return 0.0  # without a descriptor; that is another signal

    return used if limit > 0 else None
