"""The way of an upload to a host: it can be taken up again on another connection, and held up."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IConsumer, IPushProducer
from zope.interface import implementer

from gateway.core.http_client import Call
from gateway.core.pump import Vessel

#: Bytes of an upload kept until the host answers, so that a stale connection costs nothing.
_IN_HAND = 256 * 1024


@implementer(IPushProducer)
class _Noting:
    """Passes on to a producer what the host's connection tells it, and knows whether it is held up."""

    def __init__(self, producer: Any) -> None:
        self.held = False
        self.stopProducing = producer.stopProducing
        self._producer = producer

    def pauseProducing(self) -> None:
        self.held = True
        self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        self.held = False
        self._producer.resumeProducing()


@implementer(IConsumer)
class Uplink:
    """The sink of an upload: the current call, and a copy of what may have to be sent again.

    :ivar moved: bytes that went by.
    """

    def __init__(self, call: Call) -> None:
        self.call = call
        self.moved = 0
        self._copy: list[bytes] | None = None if call.fresh else []
        self._size = 0
        self._producer: _Noting | None = None

    def write(self, data: bytes) -> None:
        self.moved += len(data)
        if self._copy is not None:
            self._size += len(data)
            self._copy.append(data)
            if self._size > _IN_HAND:
                self._copy = None
        self.call.write(data)

    def vessel(self) -> Vessel | None:
        """What takes the body past the protocol, once it need not be kept."""

        def took(size: int) -> None:
            self.moved += size

        return self.call.vessel(took) if self._copy is None else None

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._producer = _Noting(producer)
        self.call.registerProducer(self._producer, streaming)

    def unregisterProducer(self) -> None:
        self._producer = None
        self.call.unregisterProducer()

    @property
    def held(self) -> bool:
        """Whether the host takes nothing just now."""
        return self._producer is not None and self._producer.held

    @property
    def progress(self) -> tuple[int, int]:
        """What differs from before when the host took something, be it from the kernel's buffers."""
        return self.moved, self.call.unsent

    @property
    def in_hand(self) -> bool:
        """Whether all that was sent could be sent again."""
        return self._copy is not None

    def replace(self, call: Call) -> None:
        """Go on with another call, from the beginning."""
        self.call = call
        if self._producer is not None:
            call.registerProducer(self._producer, True)
        for piece in self._copy or ():
            call.write(piece)
        if self._producer is not None:
            self._producer.resumeProducing()
