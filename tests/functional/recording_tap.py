"""A unix socket before another one, that notes what goes by."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

from attrs import define, field

from tests.functional.processes import DEADLINE


@define(eq=False)
class Recorded:
    """One connection: what the client said, and what the server did."""

    said: bytearray = field(factory=bytearray)
    heard: bytearray = field(factory=bytearray)


class Tap:
    """Listens at *path*, and passes all on to *server*, until :meth:`stop`.

    :ivar connections: what went by, in the order of their beginning.
    """

    def __init__(self, path: Path, server: Path) -> None:
        self.path = path
        self.connections: list[Recorded] = []
        self._server = server
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def stop(self) -> None:
        """End it, and wait for what still goes by."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(DEADLINE)
        for each in (self._listener, *self._sockets):
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self._server))
            self._sockets += (client, server)
            record = Recorded()
            self.connections.append(record)
            for source, sink, into in ((client, server, record.said), (server, client, record.heard)):
                thread = threading.Thread(target=self._copy, args=(source, sink, into))
                thread.start()
                self._threads.append(thread)

    def _copy(self, source: socket.socket, sink: socket.socket, into: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 18):
                into += data
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
