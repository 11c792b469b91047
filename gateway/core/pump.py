"""The short way of a body: from socket to socket, past protocols, with no copy for each of them.

Once heads are exchanged and the body's length is known, a :class:`Pump` stands where the transport
reads: it takes what arrives, decrypts it into one buffer that all share, and the sink encrypts and
sends it from there. Everything else stays with the transports and protocols: they pause and resume
reading as they always do, count, keep time, and learn of errors and ends in their own way. The last
byte of a body is theirs again: with it they see the end, and what must not follow it.

More is read only when the last is sent. Large portions cost least, for whoever waits at the other end has to
be woken up for each; but a small request beside uploads waits for all of theirs. So all bodies together take
four :attr:`Pump.turn` in a turn of the reactor, and half of one when protocols were given anything lately.
Those count that had a turn since one's own last: pumps stand idle in thousands, where they stand for
consoles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from attrs import define, frozen
from twisted.internet.abstract import FileDescriptor
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST

from gateway.core import fasttls
from gateway.core.fasttls import CHUNK, READ, ROOM, TRAFFIC, FastTLS

#: Bytes; a shorter body is not worth the hand-over.
WORTH = 2 * READ

#: Turns of pumps without anything for a protocol, after which there is nobody to wait for them.
_CALM = 64

_shared = memoryview(bytearray(ROOM))


@frozen
class Tap:
    """Where a body can be taken from below its protocol.

    :ivar wire: the connection.
    :ivar left: how many bytes have not arrived yet.
    :ivar took: to be told how many were taken.
    :ivar flowing: whether more is wanted now.
    :ivar most: bytes to be taken in one turn; 0 for a fair share.
    """

    wire: Any
    left: Callable[[], int]
    took: Callable[[int], None]
    flowing: Callable[[], bool]
    most: int = 0


class Vessel(Protocol):
    """What takes a body without a copy."""

    def room(self) -> memoryview:
        """Where the next bytes go: more than :data:`~gateway.core.fasttls.SLACK` of them."""

    def filled(self, size: int) -> None:
        """Take the first *size* bytes of the room; pause the producer when that was enough for now."""

    def took(self, size: int) -> None:
        """Account for *size* bytes, once a turn."""


def able(wire: Any) -> bool:
    """Whether *wire* is a connection whose bytes can go the short way."""
    if fasttls.TRANSPORT is not FastTLS:
        return False
    if isinstance(wire, FastTLS):
        return wire.direct
    return isinstance(wire, FileDescriptor) and hasattr(wire, "socket")


class Outlet:
    """The vessel that is a connection.

    :param took: see :meth:`Vessel.took`.
    """

    def __init__(self, wire: Any, took: Callable[[int], None]) -> None:
        self.took = took
        self._wire = wire
        self._lowest: Any = wire.lowest if isinstance(wire, FastTLS) else wire

    def room(self) -> memoryview:
        return _shared

    def filled(self, size: int) -> None:
        lowest = self._lowest
        if lowest is self._wire:
            through = fasttls.send(lowest, _shared[:size])
        else:
            self._wire.write(_shared[:size])
            through = not fasttls.queued(lowest)
        if not through:
            # The transport itself would let twice as much wait.
            self._hold()

    def _hold(self) -> None:
        """Pause the producer, until the transport has nothing left to send."""
        if self._lowest.producer is not None:
            self._lowest.producerPaused = True
            self._lowest.producer.pauseProducing()


@define
class Turns:
    """The turns of all pumps.

    :ivar count: how many there were.
    """

    count: int = 0
    _heard: int = 0
    _calm: int = 0

    def next(self) -> int:
        """Begin one; return its number."""
        self.count += 1
        if self._heard != TRAFFIC.deliveries:
            self._heard = TRAFFIC.deliveries
            self._calm = self.count + _CALM
        return self.count

    @property
    def calm(self) -> bool:
        """Whether there is nobody else."""
        return self.count > self._calm


TURNS = Turns()


class Pump:
    """Reads a body but its last byte from its connection, in place of the transport, until :meth:`close`.

    :param tap: where it comes from; the transport must deliver nothing else before it.
    :param vessel: where it goes.
    :param moved: told once a turn how many bytes were moved.
    :cvar turn: bytes that one of them moves in a turn of the reactor at most.
    """

    turn = CHUNK

    def __init__(self, tap: Tap, vessel: Vessel, moved: Callable[[int], None]) -> None:
        self._last = TURNS.count
        self._tap = tap
        self._vessel = vessel
        self._moved = moved
        self._tls = tap.wire if isinstance(tap.wire, FastTLS) else None
        self._lowest: Any = tap.wire if self._tls is None else self._tls.lowest
        # As Twisted itself does when it aborts a connection: then it is not ours to read any more.
        vars(self._lowest).setdefault("doRead", self._turn)

    @property
    def _open(self) -> bool:
        return bool(vars(self._lowest).get("doRead") == self._turn)

    def close(self) -> None:
        """Let the transport read for itself again."""
        if self._open:
            del self._lowest.doRead

    def _turn(self) -> BaseException | None:
        """One turn of reading, as the reactor asks a transport for it."""
        # Asked anew: the protocol may have had some since.
        left, total = self._tap.left() - 1, 0
        share = self._tap.most or self._share()
        ended: BaseException | None = None
        # To read again for a few bytes does not pay.
        while total < left and total <= share - READ and self._tap.flowing():
            try:
                size = self._receive(left - total, share - total)
            except OSError:
                ended = CONNECTION_LOST
                break
            except EOFError:
                ended = CONNECTION_DONE
                break
            if size is None:
                break
            if self._tls is not None and size < share // 2:
                # Who encrypts is slower than we are, and has more for us by the next turn.
                share = 0
            if size:
                self._vessel.filled(size)
                total += size
            if not self._open:
                break
        if total:
            self._moved(total)
            self._vessel.took(total)
            self._tap.took(total)
        if total >= left:
            self.close()
        if self._tls is not None:
            self._tls.settle()
        return ended

    def _share(self) -> int:
        """How many bytes are ours: in one turn of the reactor every pump that has work has one turn."""
        turn = TURNS.next()
        working, self._last = turn - self._last, turn
        together = 4 * self.turn if TURNS.calm else self.turn // 2
        return max(min(together // working, self.turn), READ)

    def _receive(self, left: int, most: int) -> int | None:
        """Fill the vessel's room from one read of *most* bytes."""
        room = self._vessel.room()
        if self._tls is not None:
            return self._tls.receive_into(room, left, most)
        try:
            size: int = self._lowest.socket.recv_into(room, min(most, left, len(room)))
        except BlockingIOError:
            return None
        if not size:
            raise EOFError
        # A short read is no reason to stop: there is more by the time that this has been sent.
        return size
