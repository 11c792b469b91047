"""What is written to a hypervisor: over TLS at most one message in a record.

libvirtd decodes one message of a record, and looks for the others only when more bytes arrive.
Source: observed on libvirtd 9.0 with GnuTLS.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IPushProducer, IReactorTime
from zope.interface import implementer

from gateway.core import fasttls
from gateway.core.batch import BATCH
from gateway.core.pump import able

#: Bytes of a message that is worth a copy to leave together with others.
_SMALL = 16 * 1024


@implementer(IPushProducer)
class Outbox:
    """Writes messages to a transport, in order.

    :param single: write no two of them in one turn of the reactor, for what TLS gets in a turn may become one
        record.
    :ivar send: write one message.
    """

    def __init__(self, transport: Any, clock: IReactorTime, *, single: bool) -> None:
        self._transport = transport
        self._clock = clock
        # Fast TLS makes records of each write by itself.
        single = single and not isinstance(transport, fasttls.FastTLS)
        self._single = single
        self._waiting: deque[bytes] = deque()
        self._resting = False
        self._full = False
        self._held = False
        self._producer: IPushProducer | None = None
        self._gathered: list[bytes] = []
        self._encrypted = False
        self.send: Callable[[bytes], object] = transport.write
        self._registered = single
        if single:
            self.send = self._queue
            transport.registerProducer(self, True)
        elif isinstance(transport, fasttls.FastTLS):
            self._tls = transport
            self.send = self._encrypt
        elif able(transport):
            # To the socket at once, as fast TLS does by itself, but for what can go together.
            self.send = self._gather

    def _gather(self, data: bytes) -> None:
        if BATCH.open and len(data) < _SMALL:
            if not self._gathered:
                BATCH.later(self._scatter)
            self._gathered.append(data)
        else:
            self._scatter()
            fasttls.send(self._transport, data)

    def _encrypt(self, data: bytes) -> None:
        """A record for each message, and records that can go together do."""
        if BATCH.open and len(data) < _SMALL:
            if not self._encrypted:
                self._encrypted = True
                BATCH.later(self._scatter)
            self._tls.gather(data)
        else:
            BATCH.settle()
            self._tls.write(data)

    def _scatter(self) -> None:
        BATCH.settle()
        if self._encrypted:
            self._encrypted = False
            self._tls.flush()
        gathered, self._gathered = self._gathered, []
        if gathered:
            fasttls.send(self._transport, b"".join(gathered))

    def _queue(self, data: bytes) -> None:
        self._waiting.append(data)
        self._next()
        self._tell()

    def _next(self) -> None:
        if self._waiting and not self._resting and not self._full:
            self._resting = True
            self._transport.write(self._waiting.popleft())
            # Twisted's TLS keeps what it got until the next turn, and who comes first in that is not said.
            self._clock.callLater(0, self._clock.callLater, 0, self._rested)

    def _rested(self) -> None:
        self._resting = False
        self._next()
        self._tell()

    def _tell(self) -> None:
        """Let the producer of what we write know whether there is room."""
        held = self._full or bool(self._waiting)
        if self._producer is not None and held != self._held:
            self._held = held
            if held:
                self._producer.pauseProducing()
            else:
                self._producer.resumeProducing()

    def close(self) -> None:
        """Nothing more is written; what still waits for its turn is dropped."""
        self._scatter()
        self._waiting.clear()
        self._unregister()

    def finish(self) -> None:
        """Write what waits, for it is the last."""
        while self._waiting:
            self._transport.write(self._waiting.popleft())
        self._unregister()

    def _unregister(self) -> None:
        if self._registered:
            self._registered = False
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
        # Lost; whose connection this is hears so next.
        self._waiting.clear()
        self._registered = False

    # -- of whoever writes much ------------------------------------------------------------

    def registerProducer(self, producer: IPushProducer) -> None:
        """*producer* is paused while what it wrote cannot be sent, and stopped when that is in vain."""
        self._producer, self._held = producer, False
        if not self._single:
            self._full, self._registered = False, True
            self._transport.registerProducer(self, True)
        self._tell()

    def unregisterProducer(self) -> None:
        """It writes nothing more."""
        self._producer = None
        if not self._single:
            self._unregister()

    def release(self) -> None:
        """Stop whoever writes much: nobody wants it."""
        producer = self._producer
        self.unregisterProducer()
        if producer is not None:
            producer.stopProducing()
