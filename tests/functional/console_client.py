"""A websocket of a console over TLS, blocking and by hand; nothing of ours reads its frames."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from pathlib import Path

from wsproto.frame_protocol import FrameProtocol, Opcode

from tests.functional.processes import DEADLINE, HOST

_KEY = "dGhlIHNhbXBsZSBub25jZQ=="


class Refused(Exception):
    """The gateway did not accept the websocket.

    :ivar status: of the answer, and its ``body``.
    """

    def __init__(self, status: int, body: str) -> None:
        super().__init__(status, body)
        self.status, self.body = status, body


class Console:
    """One websocket.

    :param source: the address to come from.
    :param host: whom the request says to address.
    :ivar closed: code and reason of the close frame that came.
    :ivar texts: what came in frames of text, joined.
    :ivar pongs: payloads of the pongs that came.
    """

    def __init__(
        self,
        port: int,
        ca: Path,
        path: str,
        *fields: str,
        upgrade: bool = True,
        source: str = HOST,
        host: str = "localhost",
    ) -> None:
        raw = socket.create_connection((HOST, port), DEADLINE, source_address=(source, 0))
        context = ssl.create_default_context(cafile=str(ca))
        self.line = context.wrap_socket(raw, server_hostname="localhost")
        self.closed: tuple[int, str] | None = None
        self.texts = ""
        self.pongs: list[bytes] = []
        self._frames = FrameProtocol(client=True, extensions=[])
        self._heard = bytearray()
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {host}",
            *(["Connection: Upgrade", "Upgrade: websocket"] if upgrade else []),
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {_KEY}",
            *fields,
        ]
        try:
            self._open("\r\n".join([*lines, "", ""]).encode("ascii"))
        except BaseException:  # raised again: nobody else could close it
            self.line.close()
            raise

    def _open(self, request: bytes) -> None:
        self.line.sendall(request)
        head = b""
        while b"\r\n\r\n" not in head:
            piece = self.line.recv(65536)
            if not piece:
                raise ConnectionResetError(f"closed in the head: {head!r}")
            head += piece
        self.head, _, rest = head.partition(b"\r\n\r\n")
        status = int(self.head.split()[1])
        if status != 101:
            raise Refused(status, rest.decode("utf-8"))
        self._frames.receive_bytes(rest)
        self._take()

    def send(self, data: bytes) -> None:
        self.line.sendall(self._frames.send_data(data, True))

    def read(self, size: int) -> bytes:
        """Exactly *size* bytes."""
        while len(self._heard) < size:
            if not self._more():
                raise AssertionError(f"it ended: {self.closed}, after {bytes(self._heard)!r}")
        found = bytes(self._heard[:size])
        del self._heard[:size]
        return found

    def until(self, wanted: bytes) -> bytes:
        """All bytes to the end of *wanted*."""
        while wanted not in self._heard:
            if not self._more():
                raise AssertionError(f"it ended: {self.closed}, after {bytes(self._heard)!r}")
        return self.read(self._heard.index(wanted) + len(wanted))

    def end(self, timeout: float = DEADLINE) -> tuple[int, str]:
        """Wait for the close frame; return its code and reason."""
        self.line.settimeout(timeout)
        while self.closed is None and self._more():
            pass
        if self.closed is None:
            raise AssertionError("it ended without a close frame")
        return self.closed

    def leave(self) -> None:
        """Say good-bye, and wait for the end."""
        self.line.sendall(self._frames.close(1000, ""))
        end = time.monotonic() + DEADLINE
        while self._more() and time.monotonic() < end:
            pass
        self.line.close()

    def _more(self) -> bool:
        if self.closed is not None:
            return False
        try:
            data = self.line.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            return False
        self._frames.receive_bytes(data)
        self._take()
        return True

    def _take(self) -> None:
        for part in self._frames.received_frames():
            payload: object = part.payload
            if part.opcode is Opcode.CLOSE and isinstance(payload, tuple):
                self.closed = (int(payload[0]), str(payload[1] or ""))
            elif part.opcode is Opcode.BINARY and isinstance(payload, bytes | bytearray):
                self._heard += payload
            elif part.opcode is Opcode.TEXT:
                self.texts += str(payload)
            elif part.opcode is Opcode.PONG and isinstance(payload, bytes | bytearray):
                self.pongs.append(bytes(payload))
            elif part.opcode is Opcode.PING and isinstance(payload, bytes | bytearray):
                with contextlib.suppress(OSError):
                    self.line.sendall(self._frames.pong(bytes(payload)))
