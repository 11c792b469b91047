"""How long the side where an image is may take: to come back, and to take what it is given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater

from gateway import errors
from gateway.images.target import Reading

#: Seconds in which a broken download is taken up again, and the shortest and longest wait in between.
_RESUME_TIME = 30.0
_RESUME_SOON = 0.1
_RESUME_WAIT = 2.0


async def until_back(
    again: Callable[[], Awaitable[Reading]],
    clock: IReactorTime,
    passing: tuple[type[errors.GatewayError], ...] = (errors.UpstreamFailed, errors.UpstreamTimeout),
) -> Reading:
    """Ask *again* until there is an answer; give up after half a minute.

    :param passing: failures that pass by themselves.
    """
    give_up = clock.seconds() + _RESUME_TIME
    wait = _RESUME_SOON
    while True:
        try:
            return await again()
        except passing:
            if clock.seconds() + wait > give_up:
                raise
        await deferLater(clock, wait, lambda: None)
        wait = min(wait * 2, _RESUME_WAIT)


class Watched(Protocol):
    """Where an upload goes."""

    @property
    def held(self) -> bool:
        """Whether it is the other side's turn."""

    @property
    def progress(self) -> object:
        """How far it is."""


@contextmanager
def watched(moving: Deferred[None], sink: Watched, clock: IReactorTime, timeout: float) -> Iterator[None]:
    """Within this, *moving* is cancelled when *sink* makes no progress although it is the other side's turn.

    :param moving: a body on its way to *sink*.
    :param timeout: seconds.
    :raises gateway.errors.UpstreamTimeout: that was why.
    """
    mark: object = None
    stalled = False

    def look() -> None:
        nonlocal mark, stalled
        if sink.held and sink.progress == mark:
            stalled = True
            moving.cancel()
        mark = sink.progress

    watch = LoopingCall(look)
    watch.clock = clock
    if not moving.called:
        watch.start(timeout)
    try:
        yield
    except CancelledError:
        if stalled:
            raise errors.UpstreamTimeout(reason="stalled") from None
        raise
    finally:
        if watch.running:
            watch.stop()
