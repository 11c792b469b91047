"""The two ways of a volume's bytes as the image relay wants them: exact, and what fails in our words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway import errors
from gateway.wire.libvirt_error import LibvirtError

_log = Logger()
#: What a user may know of what libvirt says, whose own texts hold paths, by HTTP status.
_WORDS: dict[int, tuple[Callable[..., errors.GatewayError], str]] = {
    403: (errors.Forbidden, "The hypervisor does not permit this"),
    404: (errors.NotFound, "The hypervisor has no such machine, pool or volume"),
    409: (errors.Conflict, "The hypervisor cannot do this now"),
    501: (errors.NotImplementedHere, "The hypervisor cannot do this"),
    504: (errors.UpstreamTimeout, "The hypervisor did not answer in time"),
}


def in_words(error: errors.GatewayError, conflict: str = "") -> errors.GatewayError:
    """What the holder of a ticket is told of *error*; libvirt's own words are for the log.

    :param conflict: what it means that something is in a state that forbids this.
    """
    if isinstance(error, LibvirtError):
        _log.info("a hypervisor refused: {problem} ({code})", problem=error.text, code=error.code)
        kind, text = _WORDS.get(error.status, (errors.UpstreamFailed, "The hypervisor refused"))
        return kind(conflict if error.status == 409 and conflict else text, reason=error.reason)
    if isinstance(error, errors.Interrupted):
        return errors.UpstreamFailed(reason="interrupted")
    if isinstance(error, errors.DeadlinePassed):
        return errors.UpstreamTimeout(reason="deadline")
    return error


@contextmanager
def wording(conflict: str = "") -> Iterator[None]:
    """Have calls fail :func:`in_words`."""
    try:
        yield
    except errors.GatewayError as error:
        raise in_words(error, conflict) from error


class Stream(Protocol):
    """What is used of :class:`gateway.rpc.stream.Stream`."""

    def deliver(self, sink: Callable[[bytes], object]) -> Deferred[None]: ...
    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...
    def write(self, data: bytes) -> None: ...
    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None: ...
    def unregisterProducer(self) -> None: ...
    def finish(self) -> Deferred[None]: ...
    def when_over(self, watcher: Callable[[str], object]) -> None: ...
    def close(self) -> None: ...


def _told(work: Deferred[None], stream: Stream) -> Deferred[None]:
    """*work* on *stream*, which fails in words, and closes the stream when it is cancelled."""

    def give_up(told: Deferred[None]) -> None:
        told.errback(CancelledError())
        stream.close()

    def over(result: Any) -> None:
        if told.called:
            return
        if isinstance(result, Failure):
            error = result.value
            told.errback(Failure(in_words(error)) if isinstance(error, errors.GatewayError) else result)
        else:
            told.callback(None)

    told: Deferred[None] = Deferred(give_up)
    work.addBoth(over)
    return told


class VolumeDownload:
    """A source of exactly *length* bytes."""

    def __init__(self, stream: Stream, length: int) -> None:
        self._stream = stream
        self._left = length
        self.pauseProducing = stream.pauseProducing
        self.resumeProducing = stream.resumeProducing
        self.stopProducing = stream.close

    def deliver(self, sink: Callable[[bytes], object]) -> Deferred[None]:
        def take(data: bytes) -> None:
            self._left -= len(data)
            if self._left < 0:
                self._stream.close()
            else:
                sink(data)

        return _told(self._stream.deliver(take), self._stream).addBoth(self._over)

    def _over(self, result: Any) -> Any:
        self._stream.close()
        if self._left < 0 or (self._left and not isinstance(result, Failure)):
            raise errors.UpstreamFailed("The hypervisor sent another amount", reason="malformed")
        return result


class VolumeUpload:
    """A sink whose end is confirmed."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.write = stream.write
        self.registerProducer = stream.registerProducer
        self.unregisterProducer = stream.unregisterProducer
        self.when_over = stream.when_over
        self.close = stream.close

    def finish(self) -> Deferred[None]:
        """Say that this was all; fire when the hypervisor has it stored."""
        return _told(self._stream.finish(), self._stream)
