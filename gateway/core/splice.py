"""Bulk between two plain connections: the kernel moves it through a pipe, and nobody copies it.

A direction begins as any body does (:mod:`gateway.core.pump`), for most carry little, and few bytes cost as
much one way as the other. From :data:`WORTH` on they are spliced. What the destination does not take stays in
the pipe, and its source is held until the pipe is empty: then writing is the transport's own again. So an end
is never seen before all that came before it went on, and whoever closes a splice finds the rest in the
transport's own queue.

A direction has a pipe while bytes are in it, and not a turn longer; so few are open, however many tunnels
there are. Where there are none left the pump serves.

Source: splice(2), pipe(7).
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from attrs import define, field, frozen
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST

from gateway.core import pump
from gateway.core.fasttls import READ, FastTLS, clear, send
from gateway.core.pump import TURNS, Outlet, Pump, Tap

#: Bytes after which a direction is spliced.
WORTH = 1 << 20
#: Bytes that a pipe holds. With a quarter of it the kernel has half as much to do again.
#: Source: pipe(7), /proc/sys/fs/pipe-max-size.
PIECE = 1 << 20
#: Pipes at once, and how many of them wait for use. Without privileges all pipes of one user have 64 MiB.
MOST, KEPT = 32, 4


def _works() -> bool:
    """Whether this system lets us; some sandboxes do not."""
    if not hasattr(os, "splice"):
        return False
    here, there = socket.socketpair()
    reader, writer = os.pipe()
    try:
        there.send(b"?")
        return os.splice(here.fileno(), writer, 1) == os.splice(reader, here.fileno(), 1)
    except OSError:
        return False
    finally:
        here.close()
        there.close()
        os.close(reader)
        os.close(writer)


WORKS = _works()


def able(wire: Any) -> bool:
    """Whether *wire* is a connection between whose socket and another one bytes can be spliced."""
    return WORKS and pump.able(wire) and not isinstance(wire, FastTLS)


@frozen
class Pipe:
    """Descriptors of its two ends."""

    reader: int
    writer: int

    @classmethod
    def open(cls) -> Pipe:
        """:raises OSError: there are too many descriptors."""
        pipe = cls(*os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
        with suppress(OSError):
            # It goes on with less.
            fcntl.fcntl(pipe.writer, fcntl.F_SETPIPE_SZ, PIECE)
        return pipe

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


@define
class Pipes:
    """All pipes of the process.

    :ivar opened: how many there are.
    :ivar free: those that are empty, and nobody has.
    """

    opened: int = 0
    free: list[Pipe] = field(factory=list)

    def take(self) -> Pipe | None:
        """A pipe to be given back; None where there is none to be had."""
        if self.free:
            return self.free.pop()
        if self.opened >= MOST:
            return None
        try:
            pipe = Pipe.open()
        except OSError:
            return None
        self.opened += 1
        return pipe

    def give(self, pipe: Pipe) -> None:
        """Take back an empty one."""
        if len(self.free) < KEPT:
            self.free.append(pipe)
        else:
            self.opened -= 1
            pipe.close()


PIPES = Pipes()


class Splice(Pump):
    """A pump without an end, which turns to splicing; see the module.

    :param tap: where it comes from.
    :param target: the transport it goes to; its producer must be what holds the source.
    :param moved: as of :class:`Pump`.
    """

    turn = 4 * PIECE

    def __init__(self, tap: Tap, target: Any, moved: Callable[[int], None]) -> None:
        self._duct = Duct(target)
        super().__init__(tap, self._duct, moved)

    def close(self) -> None:
        super().close()
        self._duct.close()

    def _turn(self) -> BaseException | None:
        if self._duct.before <= 0 or not self._tap.flowing():
            return super()._turn()
        # What a pump does, in one breath: a key that is typed shall not wait for a dozen calls.
        TURNS.next()
        room = self._duct.room()
        try:
            size = self._lowest.socket.recv_into(room, 2 * READ)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if not size:
            return CONNECTION_DONE
        self._duct.filled(size)
        self._moved(size)
        return None

    def _receive(self, left: int, most: int) -> int | None:
        duct = self._duct
        if duct.held:
            return None
        pipe = duct.open()
        if pipe is None:
            return super()._receive(left, most)
        size, self._more = 0, False
        try:
            flags = os.SPLICE_F_NONBLOCK
            size = os.splice(self._lowest.fileno(), pipe.writer, min(PIECE, left), flags=flags)
        except BlockingIOError:
            return None
        finally:
            if not size:
                duct.free()
        if not size:
            raise EOFError
        return size


class Duct(Outlet):
    """The vessel of a :class:`Splice`.

    :ivar held: bytes in the pipe.
    :ivar before: bytes that are still pumped, before any are spliced.
    """

    def __init__(self, wire: Any) -> None:
        super().__init__(wire, _ignore)
        self.held = 0
        self._pipe: Pipe | None = None
        self.before = WORTH

    def open(self) -> Pipe | None:
        """What the next bytes go into; None where they are better pumped."""
        if self.before <= 0 and clear(self._lowest):
            self._pipe = PIPES.take()
        return self._pipe

    def filled(self, size: int) -> None:
        if self._pipe is None:
            self.before -= size
            if not send(self._lowest, self.room()[:size]):
                self._hold()
            return
        self.held = size
        with suppress(OSError):
            self._push()
        if not self.held:
            self.free()
        elif vars(self._lowest).setdefault("doWrite", self._drain) == self._drain:
            # What is wrong with it, if anything, is found there, in the transport's own way.
            self._lowest.startWriting()
            self._hold()

    def _push(self) -> None:
        """Send what the pipe holds, as far as it goes."""
        if self._pipe is not None:
            with suppress(BlockingIOError):
                flags = os.SPLICE_F_NONBLOCK
                self.held -= os.splice(self._pipe.reader, self._lowest.fileno(), self.held, flags=flags)

    def _drain(self) -> BaseException | None:
        """One turn of writing, as the reactor asks a transport for it."""
        try:
            self._push()
        except OSError:
            return CONNECTION_LOST
        if self.held:
            return None
        self.free()
        # It stops to write, or goes on with what it has itself, and wakes its producer.
        ended: BaseException | None = self._lowest.doWrite()
        return ended

    def free(self) -> None:
        """Give back the empty pipe, and let the transport write for itself."""
        if self._pipe is not None:
            PIPES.give(self._pipe)
            self._pipe = None
        if vars(self._lowest).get("doWrite") == self._drain:
            del self._lowest.doWrite

    def close(self) -> None:
        """Leave what the pipe holds to the transport."""
        rest = bytearray()
        while self._pipe is not None and len(rest) < self.held:
            rest += os.read(self._pipe.reader, self.held - len(rest))
        self.held = 0
        self.free()
        if rest:
            self._lowest.write(bytes(rest))


def _ignore(size: int) -> None:
    pass
