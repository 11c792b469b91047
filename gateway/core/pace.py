"""What one HTTP connection may cost, and how to tell that its peer takes nothing."""

from __future__ import annotations

import fcntl
import struct
import termios
from typing import Any

from attrs import frozen
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

#: Pipelined bytes kept while a request is in work, and what is read away of a body that nobody wants;
#: a peer that leaves is noticed up to here.
READ_AHEAD = 16 * 1024


@frozen
class HttpLimits:
    """What one connection may cost: bytes, counts and seconds."""

    max_request_line: int = 8 * 1024
    max_head: int = 16 * 1024
    max_fields: int = 100
    max_body_control: int = 64 * 1024
    header_timeout: float = 10.0
    keepalive_timeout: float = 60.0
    body_idle_timeout: float = 60.0
    body_rate: int = 256
    write_idle_timeout: float = 60.0
    discard_bytes: int = 16 * 1024 * 1024
    discard_time: float = 5.0


@implementer(IPushProducer)
class Gate:
    """Stands between the transport and the producer of an answer, and knows who waits."""

    def __init__(self, producer: IPushProducer, streaming: bool) -> None:
        self._producer = producer
        self._streaming = streaming
        # A pull producer is asked as soon as there is room: it always waits.
        self.blocked = not streaming

    def pauseProducing(self) -> None:
        self.blocked = True
        self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        self.blocked = not self._streaming
        self._producer.resumeProducing()

    def stopProducing(self) -> None:
        self._producer.stopProducing()


def unsent(wire: Any) -> int:
    """Bytes the kernel holds that the peer has not acknowledged; 0 when it cannot be told."""
    lowest = wire
    while getattr(lowest, "transport", None) is not None:
        lowest = lowest.transport
    if not hasattr(lowest, "fileno") or lowest.fileno() < 0:
        return 0
    # Linux: TIOCOUTQ on a socket is SIOCOUTQ, see tcp(7).
    raw = fcntl.ioctl(lowest.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    return int(struct.unpack("i", raw)[0])
