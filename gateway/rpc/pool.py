"""The connections of one kind to a hypervisor, and the calls that wait for them.

The daemon stops reading a connection on which too many calls are in work, so each has a small window. One
connection stays; more are opened while calls wait, and closed when nobody needs them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from functools import partial
from math import inf
from typing import Any

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway import errors
from gateway.rpc.breaker import Breaker
from gateway.rpc.connection import LibvirtConnection
from gateway.rpc.fair_queue import FairQueue
from gateway.rpc.job import Job, Line, Waiter
from gateway.rpc.patience import Patience

#: Weight of the last answer in the mean.
_NEWEST = 0.2
#: Seconds that a connection has to say good-bye.
_FAREWELL = 2.0


@frozen
class Limits:
    """How much one pool does.

    :ivar window: calls in work on one connection. Source: libvirtd.conf, max_client_requests is 5, and pings
        count.
    :ivar connections: so that all calls in work have one of the daemon's 20 workers; it has others for what
        cannot wait.
    :ivar each: calls of one principal that may wait; *total* of all.
    :ivar idle: seconds until a connection that nobody needs is closed.
    :ivar grace: seconds after which a connection is given up, when an answer is still not there that nobody
        waits for any more.
    """

    window: int = 4
    connections: int = 5
    each: int = 256
    total: int = 4096
    idle: float = 60.0
    grace: float = 60.0

    @property
    def share(self) -> int:
        """Calls of one principal in work, so that who comes later finds a place."""
        spare = self.window if self.connections > 1 else 1
        return max(1, self.window * self.connections - spare)


class Pool:
    """Sends calls, each when it is its turn.

    :param connect: makes one more connection.
    :ivar began: told each call when it is sent.
    :ivar ended: told each call that is over, with its result or None; before those who wait for it.
    :ivar broke: told why, when a connection is lost that we did not close.
    :ivar latency: seconds from a read to its answer, the mean of the last ones; 0 before the first.
    """

    log = Logger()

    def __init__(
        self,
        connect: Callable[[], Coroutine[Deferred[Any], Any, LibvirtConnection]],
        breaker: Breaker,
        clock: IReactorTime,
        limits: Limits,
    ) -> None:
        self.began: Callable[[Job], object] = lambda job: None
        self.ended: Callable[[Job, Any], object] = lambda job, result: None
        self.broke: Callable[[str], object] = lambda reason: None
        self.latency = 0.0
        self._connect = connect
        self._breaker = breaker
        self._clock = clock
        self._limits = limits
        self._queue: FairQueue[Job] = FairQueue(share=limits.share, each=limits.each, total=limits.total)
        self._lines: list[Line] = []
        self._opening: Deferred[LibvirtConnection] | None = None
        self._again: IDelayedCall | None = None
        self._patience = Patience(clock, self._late)
        self._pumping = False
        self._stopped: Deferred[None] | None = None

    @property
    def queued(self) -> int:
        """Calls that wait for their turn."""
        return len(self._queue)

    @property
    def in_flight(self) -> int:
        """Calls that were sent and not answered."""
        return sum(len(line.jobs) for line in self._lines)

    @property
    def connections(self) -> int:
        """Connections that can be used."""
        return sum(line.connection.alive for line in self._lines)

    def submit(self, job: Job, principal: str, due: float) -> Deferred[Any]:
        """Wait for the answer to *job*, and send it if it was not; fire with what the call gives.

        It is not sent any more when all who wait have left before its turn.

        :param due: until when, seconds of the clock; the Deferred then fails with
            :class:`gateway.errors.DeadlinePassed`; with :class:`gateway.errors.TargetDown` when there is
            nothing to send it to, and will not be for a while.
        :raises gateway.errors.Busy: too many calls wait.
        """
        if self._stopped is not None:
            raise errors.TargetDown(reason="stopped")
        line = None
        if job.line is None and principal not in job.principals:
            line = None if self._pumping else self._free_line()
            if line is None or not self._queue.pass_by(principal):
                line = None
                try:
                    self._queue.put(principal, job)
                except errors.Busy:
                    raise errors.Busy(retry_after=self._estimate()) from None
                job.principals.append(principal)
        waiter = Waiter(self._leave)  # type: ignore[arg-type]  # it is told what it is of
        waiter.job, waiter.due = job, due
        job.waiters.append(waiter)
        if job.due is not None:
            job.due = None
            self._patience.forget(job)
        self._patience.expect(waiter, due)
        if line is not None:
            self._pumping = True
            try:
                self._send(line, principal, job)
            finally:
                self._pumping = False
        if self._queue.waiting:
            self.pump()
        return waiter

    def stop(self) -> Deferred[None]:
        """Give everything up; fire when all connections are closed."""
        if self._stopped is None:
            self._stopped = Deferred()
            if self._again is not None:
                self._again.cancel()
                self._again = None
            if self._opening is not None:
                self._opening.cancel()
            self._refuse(errors.TargetDown(reason="stopped"))
            for line in [*self._lines]:
                self._close(line, "stopped")
            self._patience.stop()
            if self._lines:
                self._again = self._clock.callLater(_FAREWELL, self._cut)
            elif not self._stopped.called:
                self._stopped.callback(None)
        return self._stopped

    def _cut(self) -> None:
        self._again = None
        for line in [*self._lines]:
            line.connection.abort("stopped")

    # -- sending ---------------------------------------------------------------------------

    def pump(self) -> None:
        """Send what can be sent; see to it that the rest can be."""
        if self._pumping or self._stopped is not None:
            return
        self._pumping = True
        try:
            while self._queue.ready and self._step():
                pass
        finally:
            self._pumping = False

    def _step(self) -> bool:
        """Do one thing for those who wait; return whether there may be more to do now."""
        line = self._free_line()
        if line is not None:
            taken = self._queue.take()
            if taken is not None:
                self._send(line, *taken)
            return taken is not None
        if not self.connections:
            try:
                self._breaker.check()
            except errors.TargetDown as down:
                self._refuse(down)
                return False
        return self._grow()

    def _free_line(self) -> Line | None:
        """A connection that takes one more call, the oldest first."""
        window = self._limits.window
        for line in self._lines:
            if len(line.jobs) < window and line.connection.alive and not line.condemned:
                return line
        return None

    def _send(self, line: Line, principal: str, job: Job) -> None:
        if job.principals:
            for other in job.principals:
                if other != principal:
                    self._queue.discard(other, job)
            job.principals.clear()
        job.payer, job.line, job.sent = principal, line, self._clock.seconds()
        line.jobs.add(job)
        self.began(job)
        job.send(line, self._answered, self._failed)

    def _grow(self) -> bool:
        """Open one more connection, if that is allowed; return whether it is there, or failed, already."""
        usable = sum(line.usable for line in self._lines)
        most = self._limits.connections
        if self._opening is not None or usable >= most or len(self._lines) >= 2 * most:
            return False
        wait = self._breaker.wait()
        if wait:
            if wait < inf and self._again is None:
                self._again = self._clock.callLater(wait, self._try_again)
            return False
        opening = self._opening = Deferred.fromCoroutine(self._connect())
        opening.addCallbacks(self._made, self._unmade).addErrback(self._bug)
        return self._opening is None

    def _try_again(self) -> None:
        self._again = None
        self.pump()

    def _made(self, connection: LibvirtConnection) -> None:
        self._opening = None
        line = Line(connection)
        connection.lost = partial(self._lost, line)
        self._lines.append(line)
        self._rest(line)
        self.pump()

    def _unmade(self, failure: Failure) -> None:
        self._opening = None
        if not failure.check(errors.GatewayError, CancelledError):
            self.log.failure("a connection could not be made", failure)
        self.pump()

    def _bug(self, failure: Failure) -> None:
        self.log.failure("a call went wrong", failure)

    # -- answers ---------------------------------------------------------------------------

    def _answered(self, values: Any, job: Job) -> None:
        if job.read:
            seconds, mean = self._clock.seconds() - job.sent, self.latency
            self.latency = mean + (seconds - mean) * _NEWEST if mean else seconds
        self._free(job)
        self._queue.done(job.payer)
        if job.descriptor and not job.waiters:
            os.close(values)
        self._over(job, values)
        job.answered(values, self._clock)
        if self._queue.waiting:
            self.pump()

    def _failed(self, failure: Failure, job: Job) -> None:
        self._free(job)
        error: BaseException | None = failure.value
        lost = isinstance(error, errors.Interrupted)
        if lost and job.read and not job.retried and job.waiters and self._stopped is None:
            job.retried = True
            self._queue.put_back(job.payer, job)
            job.principals.append(job.payer)
            self.pump()
            return
        self._queue.done(job.payer)
        self._over(job, None)
        if lost:
            error = errors.Interrupted(maybe_executed=not job.read)
        elif not isinstance(error, errors.GatewayError):
            self.log.failure("a call went wrong", failure)
        job.failed(error)
        self.pump()

    def _free(self, job: Job) -> None:
        """*job* has its place no more."""
        line, job.line = job.line, None
        if job.due is not None:
            job.due = None
            self._patience.forget(job)
        if line is not None:
            line.jobs.discard(job)
            if line.condemned:
                self._retire(line)
            if not line.jobs:
                self._rest(line)

    def _refuse(self, error: errors.GatewayError) -> None:
        """Nothing that waits is sent."""
        for job in self._queue.drain():
            if job.principals:
                job.principals.clear()
                self._over(job, None)
                job.failed(error)

    def _over(self, job: Job, result: Any) -> None:
        """*job* is not sent any more; those who wait are told next."""
        for waiter in job.waiters:
            self._patience.leave(waiter)
        self.ended(job, result)

    # -- those who do not wait any more ----------------------------------------------------

    def _leave(self, waiter: Waiter) -> None:
        """*waiter* does not want the answer any more."""
        waiter.due = None
        self._patience.leave(waiter)
        job = waiter.job
        if waiter in job.waiters:
            job.waiters.remove(waiter)
        if job.waiters:
            return
        if job.line is not None:
            job.due = self._clock.seconds() + self._limits.grace
            self._patience.arm(job)
            self._retire(job.line)
        elif job.principals:
            for principal in job.principals:
                self._queue.discard(principal, job)
            job.principals.clear()
            self.ended(job, None)
            job.late(errors.Interrupted(maybe_executed=False))

    def _late(self, item: Waiter | Job | Line) -> None:
        """The time of *item* is up."""
        item.due = None
        if isinstance(item, Waiter):
            sent = item.job.line is not None
            item.job.overdue = True
            self._leave(item)
            item.errback(errors.DeadlinePassed(maybe_executed=sent and not item.job.read))
        elif isinstance(item, Line):
            older = self._lines[: self._lines.index(item)]
            if not item.jobs and any(line.usable for line in older):
                self._close(item, "idle")
        elif item.line is not None:
            item.line.condemned = True
            self._retire(item.line)
            self.pump()

    # -- connections -----------------------------------------------------------------------

    def _rest(self, line: Line) -> None:
        """Close *line* after a while if it is not used until then, and not the only one."""
        if not line.jobs and line.usable:
            unknown = line.due is None
            line.due = self._clock.seconds() + self._limits.idle
            if unknown:
                self._patience.arm(line)

    def _retire(self, line: Line) -> None:
        """Cut *line* if it is condemned, and nobody waits on it for what cannot be repeated."""
        if line.condemned and not line.writes:
            self._close(line, "stuck")

    def _close(self, line: Line, reason: str) -> None:
        if not line.closing:
            line.closing = True
            if line.jobs:
                line.connection.abort(reason)
            else:
                line.connection.close()

    def _lost(self, line: Line, reason: str) -> None:
        self._patience.forget(line)
        self._lines.remove(line)
        if self._stopped is not None:
            if not self._lines and not self._stopped.called:
                if self._again is not None:
                    self._again.cancel()
                    self._again = None
                self._stopped.callback(None)
            return
        if not line.closing:
            self.broke(reason)
        self.pump()

    def _estimate(self) -> float:
        """Seconds until there may be room."""
        slots = self._limits.window * self._limits.connections
        return min(30.0, max(1.0, len(self._queue) * self.latency / slots))
