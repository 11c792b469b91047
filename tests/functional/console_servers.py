"""Consoles that the test plays: a TCP server with a thread for each connection, good and hostile ones."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from tests.functional.listening import Listening
from tests.functional.processes import DEADLINE, HOST
from tests.wire import spice_server

VERSION = b"RFB 003.008\n"
#: ServerInit of a desktop of 4 * 4 pixels, up to its name.
INIT = bytes((0, 4, 0, 4, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 0, 8, 16, 0, 0, 0))


class Line:
    """One connection to a console.

    :ivar heard: all that came, as far as it was read.
    :ivar over: it is closed.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.heard = bytearray()
        self.over = False

    def read(self, size: int) -> bytes:
        """Exactly *size* bytes.

        :raises OSError: it ended before.
        """
        found = bytearray()
        while len(found) < size:
            piece = self.more(size - len(found))
            if not piece:
                raise ConnectionResetError("closed")
            found += piece
        return bytes(found)

    def more(self, size: int = 65536) -> bytes:
        """What comes next, nothing at the end."""
        piece = self.connection.recv(size)
        self.heard += piece
        return piece

    def say(self, data: bytes) -> None:
        self.connection.sendall(data)

    def listen(self) -> None:
        """Read until the end."""
        while self.more():
            pass


Play = Callable[[Line], Any]


def quiet(line: Line) -> None:
    """Say nothing."""
    line.listen()


def echo(line: Line) -> None:
    """Send back whatever comes."""
    while piece := line.more():
        line.say(piece)


def says(*pieces: bytes, pause: float = 0.0) -> Play:
    """Say this and no more."""

    def play(line: Line) -> None:
        for piece in pieces:
            line.say(piece)
            time.sleep(pause)
        line.listen()

    return play


def floods(*pieces: bytes, piece: bytes = bytes(65536)) -> Play:
    """Say this, and *piece* for ever."""

    def play(line: Line) -> None:
        for one in pieces:
            line.say(one)
        while True:
            line.say(piece)

    return play


def vnc(*, offers: bytes = b"\1", name: bytes = b"fake") -> Play:
    """A VNC server that lets everybody in, and echoes."""

    def play(line: Line) -> None:
        line.say(VERSION)
        line.read(12)
        line.say(bytes([len(offers)]) + offers)
        if line.read(1) == b"\2":
            line.say(bytes(16))
            line.read(16)
        line.say(bytes(4))
        line.read(1)
        line.say(INIT + len(name).to_bytes(4, "big") + name)
        echo(line)

    return play


def spice(password: str = "", *, after: bytes = b"") -> Play:
    """A SPICE server; on each channel it says *after* once it is linked."""

    def play(line: Line) -> None:
        server = spice_server.Server(password)
        while piece := line.more():
            line.say(server.receive(piece))
            if server.password is not None and after:
                line.say(after)

    return play


class Server(Listening):
    """A console.

    :param play: what it does with a connection.
    """

    def __init__(self, play: Play = quiet, address: str = HOST) -> None:
        self.play = play
        self._lines: list[Line] = []
        self._markers: dict[object, threading.Event] = {}
        super().__init__(socket.create_server((address, 0), backlog=1024))
        self.host = address

    def url(self, scheme: str) -> str:
        return f"{scheme}://{self.host}:{self.port}"

    @property
    def lines(self) -> list[Line]:
        """The connections that came: all of those that were made before this was asked."""
        with contextlib.suppress(ConnectionRefusedError), socket.socket() as marker:
            # They are accepted in their order, and this one is the last.
            marker.bind((self.host, 0))
            self._markers[marker.getsockname()] = arrived = threading.Event()
            marker.connect((self.host, self.port))
            assert arrived.wait(DEADLINE), "the test's server does not accept"
        return self._lines

    @property
    def live(self) -> int:
        """How many connections are up."""
        return sum(not line.over for line in self._lines)

    def came(self, connection: socket.socket, peer: object) -> None:
        if marker := self._markers.pop(peer, None):
            marker.set()
            connection.close()
        else:
            self._lines.append(line := Line(connection))
            self.begin(partial(self._play, line), connection)

    def _play(self, line: Line, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            self.play(line)
        line.over = True
