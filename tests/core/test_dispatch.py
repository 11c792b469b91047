"""What a reactor does for each event."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.python import context, log
from twisted.trial.unittest import SynchronousTestCase

from gateway.core.dispatch import without_context


class _Reader:
    """One end of a connection, which notes what it reads, and the log context that it finds."""

    def __init__(self, end: socket.socket, problem: BaseException | None = None) -> None:
        self.read: list[bytes] = []
        self.found: list[Any] = []
        self.lost: list[str] = []
        self._end = end
        self._problem = problem

    def fileno(self) -> int:
        return self._end.fileno()

    def logPrefix(self) -> str:
        return "reader"

    def doRead(self) -> None:
        self.read.append(self._end.recv(100))
        self.found.append(context.get(log.ILogContext))
        if self._problem is not None:
            raise self._problem

    def connectionLost(self, reason: Any) -> None:
        self.lost.append(reason.getErrorMessage())


class DispatchTests(SynchronousTestCase):
    """A reactor of our own, turned by hand."""

    def setUp(self) -> None:
        # Whoever sets it, this puts it back.
        self.patch(log, "callWithLogger", log.callWithLogger)
        without_context()
        self.reactor: Any = EPollReactor()
        self.ends: list[socket.socket] = []
        self.addCleanup(self.close)

    def close(self) -> None:
        self.reactor.removeAll()
        self.reactor.waker.connectionLost(None)
        self.reactor._poller.close()
        for end in self.ends:
            end.close()

    def reader(self, problem: BaseException | None = None) -> _Reader:
        """A reader with a byte to be read."""
        here, there = socket.socketpair()
        self.ends += here, there
        there.sendall(b"x")
        reader = _Reader(here, problem)
        self.reactor.addReader(reader)
        return reader

    def test_read(self) -> None:
        """Who has something to read is called, in the context that was there before."""
        reader = self.reader()
        before = context.get(log.ILogContext)
        self.reactor.doIteration(0)
        self.assertEqual(reader.read, [b"x"])
        self.assertIs(reader.found[0], before)

    def test_error(self) -> None:
        """Who fails is logged and cut off, and others are served."""
        good, bad = self.reader(), self.reader(ValueError("it is broken"))
        self.reactor.doIteration(0)
        self.assertEqual([len(it) for it in (good.read, good.lost, bad.lost)], [1, 0, 1])
        [failure] = self.flushLoggedErrors(ValueError)
        self.assertEqual(failure.getErrorMessage(), "it is broken")

    def test_outside(self) -> None:
        """What fails past all that is logged as well, and ends nothing."""

        def fail(problem: BaseException) -> None:
            raise problem

        reader = self.reader()
        log.callWithLogger(reader, fail, SystemError("nobody knows"))
        self.assertEqual(len(self.flushLoggedErrors(SystemError)), 1)
        with self.assertRaises(KeyboardInterrupt):
            log.callWithLogger(reader, fail, KeyboardInterrupt())
