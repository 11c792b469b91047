"""``idle``: memory of a TLS connection that is kept after one small request."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from contextlib import ExitStack

from bench import kernel
from bench.cases import Case, Metric
from bench.light import Way
from bench.peers.base import Relay
from bench.stage import Options, Stage, take_turns, way_of
from tests.functional.peers import HOST

_METRICS = (Metric("kib_each", "KiB each", 1),)
#: Connections, unless somebody says otherwise, and those that fill the pools before.
_COUNT = 1000
_WARM = 50


def measure(stage: Stage, options: Options) -> list[Case]:
    """Growth of resident memory divided by the number of connections."""
    count = options.connections or _COUNT
    context = ssl.create_default_context(cafile=str(stage.client.ca))

    def job(relay: Relay) -> Mapping[str, float]:
        way = way_of(relay, "tls")
        with ExitStack() as kept:
            for _ in range(_WARM):
                kept.enter_context(_connection(way, context))
            before = kernel.memory(relay.pid)
            for _ in range(count):
                kept.enter_context(_connection(way, context))
            return {"kib_each": (kernel.memory(relay.pid) - before) / count / 1024}

    # Memory that was used once is used again: the first time is the one that counts.
    title = f"{count} TLS connections after one request of one byte"
    note = "ovirt-imageio allows eight connections for a ticket, so it has no part in this."
    jobs = [(Case("idle/tls", title, _METRICS, note=note), job)]
    return take_turns(stage.relays, jobs, options, once=True)


def _connection(way: Way, context: ssl.SSLContext) -> ssl.SSLSocket:
    raw = socket.create_connection((HOST, way.port), 30)
    connection = context.wrap_socket(raw, server_hostname="localhost")
    request = f"GET {way.path} HTTP/1.1\r\nHost: localhost\r\nRange: bytes=0-0\r\n\r\n"
    connection.sendall(request.encode("ascii"))
    answer = b""
    while len(answer.partition(b"\r\n\r\n")[2]) < 1:
        piece = connection.recv(4096)
        assert piece, f"closed after {answer!r}"
        answer += piece
    assert b" 206 " in answer, answer
    return connection
