"""Many clients in one process: idle connections, then transfers at once; the test reads JSON from us.

Arguments: port, CA file, number of idle connections, number of transfers, and the ids of the tickets, all of
which lead to images of zeroes. Lines of JSON are written when the idle connections stand, and at the end;
in between a line on standard input is waited for. Standard library only.
"""

from __future__ import annotations

import json
import resource
import socket
import ssl
import sys
import threading
import time
from collections.abc import Sequence

PIECE = 4 << 20
HOST = "127.0.0.1"


class _Client:
    """One keep-alive connection."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        raw = socket.create_connection((HOST, port), 120)
        self.socket = context.wrap_socket(raw, server_hostname="localhost")

    def ask(self, method: str, ticket: str, fields: str = "") -> tuple[int, int]:
        """One request.

        :return: the status, and how many bytes of zeroes came as its body.
        """
        request = f"{method} /images/{ticket} HTTP/1.1\r\nhost: localhost\r\n{fields}\r\n"
        self.socket.sendall(request.encode("ascii"))
        answer = b""
        while b"\r\n\r\n" not in answer:
            piece = self.socket.recv(16384)
            if not piece:
                raise ConnectionError("closed in the head")
            answer += piece
        head, _, body = answer.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        zeroes, count = body.count(0), len(body)
        while count < length:
            piece = self.socket.recv(min(65536, length - count))
            if not piece:
                raise ConnectionError("closed in the body")
            count += len(piece)
            zeroes += piece.count(0)
        return int(lines[0].split()[1]), zeroes


def _transfers(port: int, context: ssl.SSLContext, number: int, tickets: Sequence[str]) -> list[str]:
    """Fetch a piece of an image *number* times at once; return what went wrong."""
    wrong: list[str] = []
    together = threading.Barrier(number)

    def fetch(index: int) -> None:
        try:
            client = _Client(port, context)
            together.wait(120)
            first = index * PIECE
            got = client.ask(
                "GET", tickets[index % len(tickets)], f"range: bytes={first}-{first + PIECE - 1}\r\n"
            )
            if got != (206, PIECE):
                wrong.append(f"{index}: {got}")
        except (OSError, threading.BrokenBarrierError) as error:
            wrong.append(f"{index}: {error!r}")

    threads = [threading.Thread(target=fetch, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


def _say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)  # noqa: T201 (this is what the test reads)


def main(arguments: Sequence[str]) -> None:
    """Do what the module says."""
    port, ca, idle, transfers, *tickets = arguments
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    context = ssl.create_default_context(cafile=ca)
    begin = time.monotonic()
    clients, wrong = [], []
    for index in range(int(idle)):
        client = _Client(int(port), context)
        status, _ = client.ask("OPTIONS", tickets[index % len(tickets)])
        if status != 200:
            wrong.append(f"{index}: {status}")
        clients.append(client)
    _say(connected=len(clients), wrong=wrong, seconds=time.monotonic() - begin)
    sys.stdin.readline()
    begin = time.monotonic()
    wrong = _transfers(int(port), context, int(transfers), tickets)
    seconds = time.monotonic() - begin
    # The idle ones were not dropped meanwhile.
    for index, client in enumerate(clients):
        try:
            if client.ask("OPTIONS", tickets[index % len(tickets)])[0] != 200:
                wrong.append(f"idle {index}")
        except OSError as error:
            wrong.append(f"idle {index}: {error!r}")
    _say(wrong=wrong, seconds=seconds)


if __name__ == "__main__":
    main(sys.argv[1:])
