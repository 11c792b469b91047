"""An image host that costs nothing: every image is 4 GiB of zeroes, and uploads go nowhere.

Run as a script; it prints its port and speaks plain HTTP on loopback. Standard library only.
"""

from __future__ import annotations

import re
import socket
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SIZE = 4 << 30
_PIECE = 1 << 20


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _head(self, status: int, length: int, *fields: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (("content-length", str(length)), *fields):
            self.send_header(name, value)
        self.end_headers()

    def do_OPTIONS(self) -> None:
        body = b'{"features": ["extents", "zero", "flush"], "max_readers": 8, "max_writers": 8}\n'
        self._head(200, len(body), ("content-type", "application/json"))
        self.wfile.write(body)

    def do_GET(self) -> None:
        wanted = re.fullmatch(r"bytes=([0-9]+)-([0-9]*)", self.headers.get("range", ""))
        if wanted is None:
            first, last = 0, SIZE - 1
            self._head(200, SIZE)
        else:
            first, last = int(wanted[1]), int(wanted[2] or SIZE - 1)
            self._head(206, last - first + 1, ("content-range", f"bytes {first}-{last}/{SIZE}"))
        self.wfile.flush()
        self.connection.sendfile(_zeroes, first, last - first + 1)

    def do_PUT(self) -> None:
        left = int(self.headers["content-length"])
        buffer = memoryview(bytearray(_PIECE))
        while left:
            count = self.rfile.readinto(buffer[: min(left, _PIECE)])
            if not count:
                return
            left -= count
        self._head(200, 0)

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True


_zeroes = tempfile.TemporaryFile(dir="/var/tmp")  # noqa: SIM115 (lives as long as the process)
_zeroes.truncate(SIZE)

if __name__ == "__main__":
    server = _Server(("127.0.0.1", 0), _Handler)
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    threading.Thread(target=server.serve_forever).start()
