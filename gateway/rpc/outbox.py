"""What is written to a hypervisor: over TLS at most one message in a record.

libvirtd decodes one message of a record, and looks for the others only when more bytes arrive.
Source: observed on libvirtd 9.0 with GnuTLS.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from twisted.internet.interfaces import IPushProducer, IReactorTime
from zope.interface import implementer


@implementer(IPushProducer)
class Outbox:
    """Writes messages to a transport, in order.

    :param single: write no two of them in one turn of the reactor, for what TLS gets in a turn may become one
        record.
    """

    def __init__(self, transport: Any, clock: IReactorTime, *, single: bool) -> None:
        self._transport = transport
        self._clock = clock
        self._single = single
        self._waiting: deque[bytes] = deque()
        self._said = False
        self._full = False
        self._producer: IPushProducer | None = None
        self._held = False
        if single:
            transport.registerProducer(self, True)

    def send(self, data: bytes) -> None:
        """Write one message."""
        if not self._single:
            self._transport.write(data)
            return
        self._waiting.append(data)
        self._next()
        self._tell()

    def _next(self) -> None:
        if self._said or self._full or not self._waiting:
            return
        self._said = True
        self._clock.callLater(0, self._turn)
        self._transport.write(self._waiting.popleft())

    def _turn(self) -> None:
        self._said = False
        self._next()
        self._tell()

    def _tell(self) -> None:
        """Let the producer of what we write know whether there is room."""
        held = bool(self._waiting) or self._full
        if self._producer is not None and held != self._held:
            self._held = held
            if held:
                self._producer.pauseProducing()
            else:
                self._producer.resumeProducing()

    def close(self) -> None:
        """Nothing more is written; what waits goes out first."""
        if self._single:
            while self._waiting:
                self._transport.write(self._waiting.popleft())
            self._transport.unregisterProducer()

    # -- of the transport's producer -------------------------------------------------------

    def pauseProducing(self) -> None:
        self._full = True
        self._tell()

    def resumeProducing(self) -> None:
        self._full = False
        self._next()
        self._tell()

    def stopProducing(self) -> None:
        self._full = True
        self._waiting.clear()

    # -- of whoever writes much ------------------------------------------------------------

    def registerProducer(self, producer: IPushProducer) -> None:
        """*producer* is paused while what it wrote cannot be sent."""
        if self._single:
            self._producer, self._held = producer, False
            self._tell()
        else:
            self._transport.registerProducer(producer, True)

    def unregisterProducer(self) -> None:
        """It writes nothing more."""
        if self._single:
            self._producer = None
        else:
            self._transport.unregisterProducer()
