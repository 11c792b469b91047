"""Tests for gateway.consoles.line: what its user types goes to a console over loopback."""

from __future__ import annotations

import random
import socket

from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.task import deferLater

from gateway.consoles.line import Line
from gateway.core.pump import able
from tests.support import ReactorTestCase

HOST = "127.0.0.1"
#: More than the buffers of both sockets hold.
MUCH = 16 << 20


class WriteTests(ReactorTestCase):
    async def connect(self) -> tuple[Line, socket.socket]:
        """A line, and the console at its other end."""
        from twisted.internet import reactor

        with socket.create_server((HOST, 0)) as listener:
            endpoint = TCP4ClientEndpoint(reactor, HOST, listener.getsockname()[1])
            line = await connectProtocol(endpoint, Line())
            console, _ = listener.accept()
        console.setblocking(False)
        self.addCleanup(console.close)
        self.addCleanup(line.transport.abortConnection)
        return line, console

    async def test_at_once(self) -> None:
        """A keystroke does not wait for the reactor's next turn, where the fast way is there."""
        line, console = await self.connect()
        line.write(b"a")
        if able(line.transport):
            self.assertEqual(console.recv(10), b"a")

    async def test_order(self) -> None:
        """What the socket does not take at once waits, and later bytes wait behind it."""
        from twisted.internet import reactor

        line, console = await self.connect()
        sent, got = random.Random(1).randbytes(MUCH), bytearray()
        for start in range(0, MUCH, 1 << 16):
            line.write(sent[start : start + (1 << 16)])
        while len(got) < MUCH:
            try:
                got += console.recv(1 << 20)
            except BlockingIOError:
                await deferLater(reactor, 0)
        self.assertEqual(got, sent)
