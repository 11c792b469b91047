"""What is read from a hypervisor: so much in one turn of the reactor that others have theirs.

Events come as they like, and one reply may have hundreds of thousands of values. While some of it waits for
its turn, no more is read from the network.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from twisted.internet.interfaces import IReactorTime

from gateway.core.batch import BATCH
from gateway.wire.libvirt_message import Message, MessageReader, ProtocolError, Type
from gateway.wire.xdr import XdrError

#: Events that are dealt with in one turn, and steps of longer work.
TURN, STEPS = 128, 16
_EVENT = int(Type.EVENT)
_DONE = object()


class Inbox:
    """Cuts what arrives into messages, in order.

    :param take: takes each message; returns the work that is to be done before the next, if that takes long.
        May raise what :attr:`failed` is told then.
    :param failed: told why this is no message, or not one for us; nothing is taken after it.
    :param rested: told when all is dealt with that has arrived.
    """

    def __init__(
        self,
        clock: IReactorTime,
        take: Callable[[Message], Iterator[None] | None],
        failed: Callable[[str], object],
        rested: Callable[[], object],
    ) -> None:
        self._clock = clock
        self._take = take
        self._failed = failed
        self._rested = rested
        self._reader = MessageReader()
        self._transport: Any = None
        self._arrived: deque[bytes] = deque()
        self._messages: Iterator[Message] | None = None
        self._work: Iterator[None] | None = None
        self._held = self._busy = self._over = False
        self._wanted = True

    def connected(self, transport: Any) -> None:
        """It comes from *transport*."""
        self._transport = transport

    @property
    def part(self) -> int:
        """Bytes of a message that is not whole."""
        return self._reader.held

    def read(self, on: bool) -> None:
        """Read from the network, or do not."""
        self._wanted = on
        if not self._held:
            self._flow(on)

    def stop(self) -> None:
        """Take nothing more."""
        self._over = True

    def feed(self, data: bytes) -> None:
        """Take *data*, now or when it is its turn."""
        self._arrived.append(data)
        if not (self._held or self._busy):
            self._go()

    def _go(self) -> None:
        if self._over:
            return
        self._busy = True
        try:
            with BATCH:
                done = self._deal()
        except (ProtocolError, XdrError) as failure:
            self.stop()
            self._failed(str(failure))
            return
        finally:
            self._busy = False
        if done is None:
            return
        if not done:
            self._clock.callLater(0, self._go)
        if self._held is done:
            self._held = not done
            if self._wanted:
                self._flow(done)
        if done:
            self._rested()

    def _deal(self) -> bool | None:
        """Do what may be done in one turn; return whether that was all, or None when it was the end."""
        left = TURN
        if self._work is not None:
            for _ in range(STEPS):
                if next(self._work, _DONE) is _DONE:
                    self._work = None
                    break
            else:
                return False
        while not self._is_over():
            if self._messages is None:
                if not self._arrived:
                    return True
                self._messages = self._reader.feed(self._arrived.popleft())
            for message in self._messages:
                self._work = self._take(message)
                if message.type == _EVENT:
                    left -= 1
                if self._is_over():
                    return None
                if self._work is not None or left <= 0:
                    return False
            self._messages = None
        return None

    def _is_over(self) -> bool:
        return self._over

    def _flow(self, on: bool) -> None:
        if on:
            self._transport.resumeProducing()
        else:
            self._transport.pauseProducing()
