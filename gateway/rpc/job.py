"""A call on its way through a pool, and those who wait for its answer."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, ClassVar

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from gateway.rpc.cache import weight
from gateway.rpc.connection import LibvirtConnection
from gateway.wire.libvirt_schema import Procedure

#: Values in a result that takes milliseconds to work with.
_MUCH = 2000


class Waiter(Deferred[Any]):
    """One who waits for an answer, and is given it.

    :ivar due: until when, seconds of the clock; None when he does not any more.
    """

    job: Job
    due: float | None


@define(eq=False)
class Job:
    """One call, whoever wants its answer.

    :ivar payload: its arguments, packed.
    :ivar read: it may be sent again, and shared.
    :ivar descriptor: its answer is a descriptor.
    :ivar key: what it asks, in the cache.
    :ivar principals: in whose queues it waits.
    :ivar payer: whose turn it took.
    :ivar line: where it was sent, until it is answered.
    :ivar sent: when, seconds of the clock.
    :ivar retried: it was sent twice.
    :ivar overdue: somebody has waited too long for it.
    :ivar due: when its connection is given up, because nobody waits for it any more.
    :ivar late: told what it gave when nobody waited for that any more: its results, or an error.
    """

    procedure: Procedure
    payload: bytes
    read: bool
    descriptor: bool = False
    key: Hashable = None
    waiters: list[Waiter] = field(factory=list)
    principals: list[str] = field(factory=list)
    payer: str = ""
    line: Line | None = None
    sent: float = 0.0
    retried: bool = False
    overdue: bool = False
    due: float | None = None
    late: Callable[[Any], object] = lambda outcome: None
    _done: Callable[[Any, Job], None] = field(init=False, repr=False)
    _failed: Callable[[Failure, Job], None] = field(init=False, repr=False)

    #: Its connection has to tell what came of it, whoever waits.
    called: ClassVar[bool] = False

    def send(
        self, line: Line, done: Callable[[Any, Job], None], failed: Callable[[Failure, Job], None]
    ) -> None:
        """Send it on *line*; one of the two others is called then."""
        self._done, self._failed = done, failed
        line.connection.post(self.procedure, self.payload, self, descriptor=self.descriptor)

    def callback(self, result: Any) -> None:
        self._done(result, self)

    def errback(self, failure: Failure) -> None:
        self._failed(failure, self)

    def answered(self, values: Any, clock: IReactorTime) -> None:
        """Give *values* to all who wait, who share what is in them; much of it to one in each turn."""
        waiters, self.waiters = self.waiters, []
        if len(waiters) == 1:
            waiter = waiters[0]
            waiter.due = None
            if not waiter.called:
                waiter.callback(values)
            return
        for waiter in waiters:
            waiter.due = None
        turns = len(waiters) > 1 and weight(values, _MUCH) > _MUCH

        def give() -> None:
            while waiters:
                waiter = waiters.pop(0)
                if waiter.called:
                    continue  # it was given up meanwhile
                waiter.callback(dict(values) if waiters else values)
                if turns:
                    break
            if waiters:
                clock.callLater(0, give)

        if not waiters:
            self.late(values)
        give()

    def failed(self, error: BaseException | None) -> None:
        """Tell all who wait."""
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            waiter.due = None
            waiter.errback(Failure(error))
        if not waiters:
            self.late(error)


@define(eq=False)
class Line:
    """One connection of a pool, and the calls on it.

    :ivar due: when it is closed, because nobody uses it.
    :ivar condemned: it gets no more calls: one of them is never answered.
    :ivar closing: we closed it.
    """

    connection: LibvirtConnection
    jobs: set[Job] = field(factory=set)
    due: float | None = None
    condemned: bool = False
    closing: bool = False

    @property
    def usable(self) -> bool:
        """It may get calls."""
        return self.connection.alive and not self.condemned

    @property
    def writes(self) -> bool:
        """Somebody waits for a call on it that could not be sent again."""
        return any(job.waiters and not job.read for job in self.jobs)
