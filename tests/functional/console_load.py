"""Many consoles in one process: browsers, or what is behind the gateway. Standard library only.

``echo``: a server that gives back what it gets; the first line it writes is its port.

``browse ORDER``: ORDER is a JSON object with the port, the CA file, the paths, how many sessions, in turns on
these paths, and how many bytes each sends in messages of all sizes, and wants back unchanged; no two say the
same. Lines of JSON are written when all are open, when all bytes are back, and when all sessions of each
of the first paths were closed from the other side; in between a line on standard input is waited for.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import ssl
import sys
import time
from collections.abc import Mapping
from typing import Any

HOST = "127.0.0.1"
#: Connections in the making at a time.
_AT_ONCE = 32
#: Bytes on their way of one session.
_WINDOW = 64 * 1024
#: Bytes after which what a session says repeats itself, a prime number.
_PERIOD = 8209
#: Paths whose end is awaited.
_ENDED = 10
_BINARY, _CLOSE, _PING = 2, 8, 9


class Echo(asyncio.Protocol):
    """Gives everything back, and reads only as fast as that is taken."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


class Session(asyncio.Protocol):
    """One browser, as far as it matters.

    :ivar wrong: what was not as it should be, empty so far.
    :ivar closed: when the close frame came, and its code.
    """

    transport: asyncio.Transport

    def __init__(self, number: int, path: str, size: int) -> None:
        self.path = path
        self.wrong = ""
        self.closed: tuple[float, int] | None = None
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._random = random.Random(number)
        self._twice = self._random.randbytes(_PERIOD) * 3
        self._size, self._sent, self._back = size, 0, 0
        self._pending = b""
        self._head = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        fields = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        fields += "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: binary\r\n"
        transport.write(f"GET {self.path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n".encode("ascii"))

    def data_received(self, data: bytes) -> None:
        data = self._pending + data
        if not self._head:
            head, mark, rest = data.partition(b"\r\n\r\n")
            if not mark:
                self._pending = data
                return
            if b" 101 " not in head:
                self._fail(head.decode("latin-1"))
                return
            self._head, data = True, rest
            self.opened.set_result(None)
        self._pending = data[self._frames(data) :]

    def connection_lost(self, exc: Exception | None) -> None:
        if self.closed is None:
            self._fail("the connection ended")

    def go(self) -> None:
        """Send as much as the window lets."""
        while self._sent < self._size and self._sent - self._back < _WINDOW:
            size = min(self._random.choice((1, 7, 125, 126, 900, 4000, 8000)), self._size - self._sent)
            at = self._sent % _PERIOD
            self.transport.write(self._masked(self._twice[at : at + size]))
            self._sent += size

    def _masked(self, data: bytes) -> bytes:
        key, size = self._random.randbytes(4), len(data)
        mask = int.from_bytes((key * (size // 4 + 1))[:size])
        header = bytes((0x82, 0x80 | size)) if size < 126 else bytes((0x82, 254)) + size.to_bytes(2)
        return header + key + (int.from_bytes(data) ^ mask).to_bytes(size)

    def _frames(self, data: bytes) -> int:
        """Take the whole frames at the beginning of *data*; return how long they are."""
        start = 0
        while len(data) - start >= 2:
            size, begin = data[start + 1], start + 2
            if size >= 126:
                begin += 2 if size == 126 else 8
                if len(data) < begin:
                    return start
                size = int.from_bytes(data[start + 2 : begin])
            if len(data) < begin + size:
                return start
            self._frame(data[start] & 15, data[begin : begin + size])
            start = begin + size
        return start

    def _frame(self, opcode: int, payload: bytes) -> None:
        if opcode == _CLOSE:
            self.closed = time.monotonic(), int.from_bytes(payload[:2])
            self.transport.write(bytes((0x88, 0x82, 0, 0, 0, 0)) + payload[:2])
            self.ended.set_result(None)
        elif opcode == _PING:
            self.transport.write(bytes((0x8A, 0x80 | len(payload), 0, 0, 0, 0)) + payload)
        elif opcode == _BINARY:
            self._check(payload)
        else:
            self._fail(f"a frame of kind {opcode}")

    def _check(self, payload: bytes) -> None:
        for first in range(0, len(payload), _PERIOD):
            part, at = payload[first : first + _PERIOD], (self._back + first) % _PERIOD
            if part != self._twice[at : at + len(part)]:
                self._fail(f"other bytes after {self._back + first}")
        self._back += len(payload)
        if self._back < self._size:
            self.go()
        elif self._back > self._size:
            self._fail("too many bytes")
        elif not self.done.done():
            self.done.set_result(None)

    def _fail(self, what: str) -> None:
        self.wrong = self.wrong or what
        for future in (self.opened, self.done, self.ended):
            if not future.done():
                future.set_result(None)


def _say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)  # noqa: T201 (this is what the test reads)


async def _go_ahead() -> None:
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


async def _browse(order: Mapping[str, Any]) -> None:
    loop, context = asyncio.get_running_loop(), ssl.create_default_context(cafile=order["ca"])
    paths, sessions = order["paths"], []
    gate = asyncio.Semaphore(_AT_ONCE)

    async def open_one(number: int) -> None:
        session = Session(number, paths[number % len(paths)], order["bytes"])
        sessions.append(session)
        async with gate:
            await loop.create_connection(
                lambda: session, HOST, order["port"], ssl=context, server_hostname="localhost"
            )
            await session.opened

    begin = time.monotonic()
    await asyncio.gather(*map(open_one, range(order["sessions"])))
    _say(wrong=[it.wrong for it in sessions if it.wrong], seconds=time.monotonic() - begin)
    await _go_ahead()
    begin = time.monotonic()
    for session in sessions:
        session.go()
    await asyncio.gather(*(it.done for it in sessions))
    _say(wrong=[it.wrong for it in sessions if it.wrong], seconds=time.monotonic() - begin)
    for path in paths[:_ENDED]:
        await _go_ahead()
        these = [it for it in sessions if it.path == path]
        await asyncio.gather(*(it.ended for it in these))
        _say(
            closed=[it.closed for it in these],
            others=sum(it.closed is None and not it.wrong for it in sessions),
            wrong=[it.wrong for it in sessions if it.wrong],
        )
    await _go_ahead()
    # Without a good-bye from a thousand.
    os._exit(0)


async def _echo() -> None:
    server = await asyncio.get_running_loop().create_server(Echo, HOST, 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 (this is what the test reads)
    await server.serve_forever()


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(_echo() if sys.argv[1] == "echo" else _browse(json.loads(sys.argv[2])))
