"""What the hazard tests do to a gateway, and hosts that a careful relay refuses."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from tests.functional.listening import Listening
from tests.functional.peers import Gateway
from tests.functional.processes import DEADLINE, HOST, Answer, ask

T = TypeVar("T")


def ask_from(
    source: str, gateway: Gateway, method: str, path: str, headers: Mapping[str, str] | None = None
) -> Answer:
    """One request to the image port that comes from the loopback address *source*."""
    connection = http.client.HTTPSConnection(
        HOST, gateway.port, context=gateway.context(), timeout=DEADLINE, source_address=(source, 0)
    )
    return ask(connection, method, path, headers=headers)


def silent(gateway: Gateway, source: str = HOST) -> socket.socket:
    """A TCP connection to the image port on which nothing is said."""
    return socket.create_connection((HOST, gateway.port), DEADLINE, source_address=(source, 0))


def half_greeted(gateway: Gateway, source: str = HOST) -> socket.socket:
    """A connection that has begun a TLS handshake and does not go on with it."""
    connection = silent(gateway, source)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = gateway.context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    connection.sendall(outgoing.read())
    return connection


def refused_upload(gateway: Gateway, size: int, *, expect: bool) -> bytes:
    """Send the head and the body of an upload without a ticket, and only then read.

    Nothing is read before all is sent or sending fails.

    :param expect: say ``Expect: 100-continue``, and do not wait for it.
    :return: all that the gateway answers.
    """
    head = (
        "PUT /images/99999999-9999-4999-8999-999999999999 HTTP/1.1\r\nhost: localhost\r\n"
        f"content-length: {size}\r\n" + ("expect: 100-continue\r\n" if expect else "") + "\r\n"
    )
    with gateway.connect() as connection:
        connection.sendall(head.encode("ascii"))
        piece, left = bytes(1 << 18), size
        with contextlib.suppress(OSError):
            while left > 0:
                connection.sendall(piece[:left])
                left -= len(piece)
        answer = b""
        with contextlib.suppress(OSError):
            while data := connection.recv(65536):
                answer += data
        return answer


def refused_first(gateway: Gateway, size: int) -> bytes:
    """Wait for the word to go on with an upload that has no ticket; return all that came instead."""
    with gateway.connect() as connection:
        connection.sendall(
            b"PUT /images/99999999-9999-4999-8999-999999999999 HTTP/1.1\r\nhost: localhost\r\n"
            b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % size
        )
        answer = b""
        while data := connection.recv(65536):
            answer += data
        return answer


class TlsHost(Listening):
    """A TLS server that counts who connects, and keeps the bytes it is sent.

    :ivar connections: how many have come.
    :ivar heard: what was said inside TLS.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self.connections = 0
        self.heard = b""
        super().__init__()

    def came(self, connection: socket.socket, peer: object) -> None:
        self.connections += 1
        super().came(connection, peer)

    def serve(self, connection: socket.socket) -> None:
        connection.settimeout(DEADLINE)
        with self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as tls:
            tls.do_handshake()
            while data := tls.recv(65536):
                self.heard += data
                if b"\r\n\r\n" in self.heard:
                    tls.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nleak")


class PlainHost(Listening):
    """An HTTP server that has one answer to everything, and hangs up after it."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        connection.settimeout(DEADLINE)
        connection.recv(65536)
        connection.sendall(self._answer)


def at_once(count: int, do: Callable[[], T]) -> list[T]:
    """Call *do* in so many threads in the same moment; return what each returned."""
    results: list[T] = []
    start = threading.Barrier(count)

    def one() -> None:
        start.wait(DEADLINE)
        results.append(do())

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    return results
