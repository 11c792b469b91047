"""Clients in one process that come and go: short requests by the thousand, or transfers that are broken off.

The one argument is a JSON object: what to do (``short`` or ``broken``), how often, with which seed; the port,
the CA file, ids of tickets, all of which lead to images of the same content; the file with a piece of that
content, which repeats itself. A line of JSON tells what came of it. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import socket
import ssl
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
#: Seconds that anything may take.
DEADLINE = 30.0
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_NO_LINGER = struct.pack("ii", 1, 0)


@dataclass
class Request:
    """A request and what has to come back; *body* None is any."""

    head: bytes
    status: int
    payload: bytes = b""
    body: bytes | None = None
    closes: bool = False


class Place:
    """Where to go, and what is there."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.port: int = order["port"]
        self.tickets: list[str] = order["tickets"]
        #: Bytes of each image.
        self.size: int = order["size"]
        self._pattern = Path(order["pattern"]).read_bytes()
        self._twice = 2 * self._pattern
        self.context = ssl.create_default_context(cafile=order["ca"])
        self._session: ssl.SSLSession | None = None

    def content(self, first: int, size: int) -> bytes:
        """So many bytes of every image."""
        begin = first % len(self._pattern)
        if begin + size <= len(self._twice):
            return self._twice[begin : begin + size]
        return (self._pattern * (size // len(self._pattern) + 2))[begin : begin + size]

    def reach(self, room: int = 0) -> socket.socket:
        """A TCP connection; *room* is for bytes that we do not read, 0 for the usual."""
        raw = socket.socket()
        raw.settimeout(DEADLINE)
        if room:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        raw.connect((HOST, self.port))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return raw

    def greet(self, raw: socket.socket, *, resume: bool = False) -> ssl.SSLSocket:
        return self.context.wrap_socket(
            raw, server_hostname="localhost", session=self._session if resume else None
        )

    def remember(self, connection: ssl.SSLSocket) -> None:
        """Resume this TLS session some time."""
        self._session = connection.session

    def get(self, ticket: str, first: int, size: int) -> Request:
        fields = f"range: bytes={first}-{first + size - 1}\r\n"
        return Request(_head("GET", f"/images/{ticket}", fields), 206, body=self.content(first, size))

    def put(self, ticket: str, first: int, size: int) -> Request:
        fields = f"content-range: bytes {first}-{first + size - 1}/*\r\ncontent-length: {size}\r\n"
        head = _head("PUT", f"/images/{ticket}?flush=n", fields)
        return Request(head, 200, self.content(first, size), b"")


def _head(method: str, path: str, fields: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nhost: localhost\r\n{fields}\r\n".encode("ascii")


class Answers:
    """Reads what comes back on a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""

    def _more(self) -> None:
        piece = self._connection.recv(1 << 17)
        if not piece:
            raise ConnectionError("closed in an answer")
        self._buffer += piece

    def check(self, request: Request) -> None:
        """Read the answer to *request*.

        :raises ValueError: it is another one than it should be.
        """
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            self._more()
        head = self._buffer[:end]
        length = _LENGTH.search(head)
        stop = end + 4 + (int(length[1]) if length is not None else 0)
        while len(self._buffer) < stop:
            self._more()
        body, self._buffer = self._buffer[end + 4 : stop], self._buffer[stop:]
        if int(head[9:12]) != request.status or request.body not in (None, body):
            raise ValueError(f"{request.head[:60]!r}: {head!r} {body[:60]!r}")


# -- short requests ----------------------------------------------------------------------------

#: Connections at once, and requests under way on each.
_CONNECTIONS, _DEPTH = 8, 4


def _kinds(place: Place, chance: random.Random) -> Iterator[tuple[int, Callable[[], Request]]]:
    """What is asked: how often of a hundred, and what makes one."""

    def ticket() -> str:
        return chance.choice(place.tickets)

    def where(size: int) -> tuple[int, int]:
        return chance.randrange(0, place.size - size, 512), size

    images, star, beyond = "/images/{}", _head("OPTIONS", "/images/*"), f"range: bytes={place.size}-\r\n"
    yield 20, lambda: place.get(ticket(), *where(4096))
    yield 6, lambda: place.put(ticket(), *where(chance.randint(1, 4096)))
    yield 4, lambda: place.get(ticket(), chance.randrange(place.size - 1), 1)
    yield 15, lambda: Request(_head("OPTIONS", images.format(ticket())), 200)
    yield 25, lambda: Request(star, 200)
    yield 9, lambda: Request(_head("GET", images.format(ticket()), beyond), 416)
    yield 18, lambda: Request(_head("GET", "/elsewhere"), 404)
    yield 2, lambda: Request(_head("GET", "/images/unknown"), 403, closes=True)
    yield 1, lambda: Request(_head("OPTIONS", f"/images/{ticket()}?close=y"), 200, closes=True)


class Visitor:
    """One keep-alive connection after another."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._connection: ssl.SSLSocket | None = None
        self._asked: list[Request] = []
        self.made = 0

    def ask(self, requests: list[Request]) -> None:
        if self._connection is None:
            self._connection = self._place.greet(self._place.reach(), resume=self.made % 2 == 0)
            self._answers = Answers(self._connection)
            self.made += 1
        self._asked = requests
        self._connection.sendall(b"".join(request.head + request.payload for request in requests))

    def listen(self) -> None:
        assert self._connection is not None
        for request in self._asked:
            self._answers.check(request)
        if self._asked[-1].closes:
            if self._connection.recv(1):
                raise ValueError("more than was asked for")
            self._place.remember(self._connection)
            self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def short(place: Place, order: dict[str, Any]) -> dict[str, Any]:
    """So many requests, on several connections in turn."""
    chance = random.Random(order["seed"])
    weights, makers = zip(*_kinds(place, chance), strict=True)
    stock = [maker() for maker in chance.choices(makers, weights, k=2000)]
    visitors = [Visitor(place) for _ in range(_CONNECTIONS)]
    left = order["count"]
    statuses: Counter[int] = Counter()
    while left > 0:
        busy = []
        for visitor in visitors:
            requests = []
            for request in chance.choices(stock, k=min(_DEPTH, left)):
                requests.append(request)
                if request.closes:
                    break
            if requests:
                left -= len(requests)
                statuses.update(request.status for request in requests)
                visitor.ask(requests)
                busy.append(visitor)
        for visitor in busy:
            visitor.listen()
    for visitor in visitors:
        visitor.close()
    return {"statuses": statuses, "connections": sum(visitor.made for visitor in visitors)}


# -- broken transfers --------------------------------------------------------------------------

_THREADS = 6
#: Where a client stops: how often of a hundred.
_POINTS = {"greeting": 4, "head": 10, "download": 34, "downloaded": 8, "upload": 34, "uploaded": 10}
#: How it goes: with a reset, with a FIN, with a FIN of its side only, with TLS's own farewell.
_WAYS = ("reset", "fin", "half", "farewell")


class Breaker:
    """Begins transfers and breaks them off."""

    def __init__(self, place: Place, seed: str) -> None:
        self._place = place
        self._chance = random.Random(seed)
        self.seen: Counter[str] = Counter()
        self.wrong: list[str] = []

    def work(self, count: int) -> None:
        points, weights = list(_POINTS), list(_POINTS.values())
        for number in range(count):
            point, way = self._chance.choices(points, weights)[0], self._chance.choice(_WAYS)
            try:
                self._break(point, way)
                self.seen[f"{point} {way}"] += 1
            except (ssl.SSLError, ConnectionError):
                # The gateway may be the first to go, as when its own host has gone.
                self.seen["gone"] += 1
            except (OSError, ValueError) as error:
                self.wrong.append(f"{number} {point} {way}: {error!r}")

    def _break(self, point: str, way: str) -> None:
        chance, place = self._chance, self._place
        # Who has little room and does not read, stops the gateway in the middle of a piece.
        connection = place.reach(chance.choice((0, 0, 4096)))
        try:
            if point == "greeting":
                connection.sendall(self._greeting())
            else:
                connection = tls = place.greet(connection)
                self._transfer(tls, point)
            self._go(connection, way)
        finally:
            connection.close()

    def _greeting(self) -> bytes:
        """The beginning of a handshake."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        with contextlib.suppress(ssl.SSLWantReadError):
            self._place.context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
        whole = outgoing.read()
        return whole[: self._chance.randint(0, len(whole))]

    def _size(self) -> int:
        chance = self._chance
        if chance.random() < 0.35:
            return chance.randint(256 << 10, 3 << 20)
        return int(2 ** chance.uniform(0, 18))

    def _transfer(self, connection: ssl.SSLSocket, point: str) -> None:
        chance, place = self._chance, self._place
        size = self._size()
        first = chance.randrange(place.size - size)
        upload = point.startswith("upload") or (point == "head" and chance.random() < 0.5)
        request = (place.put if upload else place.get)(chance.choice(place.tickets), first, size)
        if point == "head":
            connection.sendall(request.head[: chance.randrange(len(request.head))])
        elif point == "uploaded":
            connection.sendall(request.head + request.payload)
        elif point == "upload":
            connection.sendall(request.head)
            self._pieces(request.payload[: chance.randrange(size)], connection)
        else:
            connection.sendall(request.head)
            assert request.body is not None
            wanted = request.body if point == "downloaded" else request.body[: chance.randrange(size)]
            self._read(connection, request, wanted)
        if chance.random() < 0.1:
            time.sleep(chance.uniform(0, 0.01))

    def _pieces(self, data: bytes, connection: ssl.SSLSocket) -> None:
        """Send *data* in one piece or in several."""
        step = self._chance.choice((len(data), 1 << 17, 50_000)) or 1
        for begin in range(0, len(data), step):
            connection.sendall(data[begin : begin + step])

    def _read(self, connection: ssl.SSLSocket, request: Request, wanted: bytes) -> None:
        """Read so much of the answer, and compare."""
        got = b""
        while b"\r\n\r\n" not in got:
            if not (piece := connection.recv(65536)):
                raise ConnectionError("closed in the head")
            got += piece
        head, _, body = got.partition(b"\r\n\r\n")
        if int(head[9:12]) == 502:
            raise ConnectionError("no host")
        if int(head[9:12]) != request.status:
            raise ValueError(f"{head!r}")
        pieces = [body]
        left = len(wanted) - len(body)
        while left > 0:
            if not (piece := connection.recv(min(left, 1 << 17))):
                raise ConnectionError("closed in the body")
            pieces.append(piece)
            left -= len(piece)
        if b"".join(pieces)[: len(wanted)] != wanted[: sum(map(len, pieces))]:
            raise ValueError("other bytes than those of the image")

    def _go(self, connection: socket.socket, way: str) -> None:
        if way == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        elif way == "farewell" and isinstance(connection, ssl.SSLSocket):
            connection.settimeout(0)
            with contextlib.suppress(OSError):
                connection.unwrap()
        elif way == "half":
            try:
                connection.shutdown(socket.SHUT_WR)
                # What comes now is not decrypted any more.
                while connection.recv(1 << 17):
                    pass
            except TimeoutError:
                raise ValueError("the gateway does not go") from None
            except OSError:
                # It is gone already.
                pass


def broken(place: Place, order: dict[str, Any]) -> dict[str, Any]:
    """So many transfers, by several clients at once."""
    breakers = [Breaker(place, f"{order['seed']} {number}") for number in range(_THREADS)]
    threads = [threading.Thread(target=it.work, args=(order["count"] // _THREADS,)) for it in breakers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen: Counter[str] = sum((it.seen for it in breakers), Counter())
    return {"seen": seen, "wrong": [text for it in breakers for text in it.wrong]}


def main(order: dict[str, Any]) -> None:
    """Do what the module says."""
    begin = time.monotonic()
    said = {"short": short, "broken": broken}[order["what"]](Place(order), order)
    print(json.dumps({**said, "seconds": time.monotonic() - begin}), flush=True)  # noqa: T201 (this is what the test reads)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
