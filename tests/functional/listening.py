"""Servers that the test plays: a thread for each connection, in the process of the test."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

from tests.functional.processes import HOST


class Listening:
    """A socket to which others connect; what is done with a connection is a subclass's matter.

    It accepts from the beginning on: what :meth:`serve` needs is set before.

    :ivar port: where, unless it is a unix socket.
    """

    def __init__(self, listener: socket.socket | None = None) -> None:
        """:param listener: by default a port of loopback."""
        self._listener = listener or socket.create_server((HOST, 0), backlog=256)
        self._connections: list[socket.socket] = []
        if self._listener.family == socket.AF_INET:
            self.port: int = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def came(self, connection: socket.socket, peer: object) -> None:
        """Take a connection, in the thread that accepts them, in their order."""
        self.begin(self.serve, connection)

    def serve(self, connection: socket.socket) -> object:
        """Do what is to be done with *connection*, in a thread of its own; it is closed afterwards."""
        raise NotImplementedError

    def begin(self, serve: Callable[[socket.socket], object], connection: socket.socket) -> None:
        """Have a connection served."""
        self._connections.append(connection)
        threading.Thread(target=self._serve, args=(serve, connection), daemon=True).start()

    def close(self) -> None:
        """Accept nobody any more, and cut all connections."""
        # Closing alone does not wake the thread.
        for each in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.came(*self._listener.accept())

    def _serve(self, serve: Callable[[socket.socket], object], connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            serve(connection)
