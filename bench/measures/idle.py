"""``idle``: memory of a TLS connection that is kept after one small request; and of a console."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from bench import kernel
from bench.cases import Case, Metric
from bench.light import Way
from bench.peers.base import Relay
from bench.stage import Options, Stage, take_turns, way_of
from bench.targets import TARGETS
from tests.functional.peers import HOST

_METRICS = (Metric("kib_each", "KiB each", 1),)
#: Connections, unless somebody says otherwise, and those that fill the pools before.
_COUNT = 1000
_WARM = 50
#: The key is the example of RFC 6455, section 1.3.
_UPGRADE = """\
Upgrade: websocket\r
Connection: Upgrade\r
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r
Sec-WebSocket-Version: 13\r
Sec-WebSocket-Protocol: binary\r
"""


def measure(stage: Stage, options: Options) -> list[Case]:
    """Growth of resident memory divided by the number of connections."""
    count = options.connections or _COUNT
    context = ssl.create_default_context(cafile=str(stage.client.ca))

    def connection(relay: Relay, number: int) -> ssl.SSLSocket:
        return _ask(way_of(relay, "tls"), context, "Range: bytes=0-0\r\n", " 206 ", 1)

    title = f"{count} TLS connections after one request of one byte"
    note = "ovirt-imageio allows eight connections for a ticket, so it has no part in this."
    return _growth(stage, options, Case("idle/tls", title, _METRICS, note=note), connection, count)


def consoles(stage: Stage, options: Options) -> list[Case]:
    """The same of consoles, with the connection to what is behind them, and each with its ticket."""
    count = options.connections or _COUNT
    context = ssl.create_default_context(cafile=str(stage.client.ca))

    def connection(relay: Relay, number: int) -> ssl.SSLSocket:
        return _ask(way_of(relay, "echo", number), context, _UPGRADE, " 101 ")

    case = Case(
        "consoles/idle", f"{count} consoles on which nothing happens", _METRICS, TARGETS["consoles/idle"]
    )
    return _growth(stage, options, case, connection, count)


def _growth(
    stage: Stage, options: Options, case: Case, connection: Callable[[Relay, int], ssl.SSLSocket], count: int
) -> list[Case]:
    def job(relay: Relay) -> Mapping[str, float]:
        with ExitStack() as kept:
            for number in range(_WARM):
                kept.enter_context(connection(relay, number))
            before = kernel.share(relay.pid)
            idle = [kept.enter_context(connection(relay, it)) for it in range(_WARM, _WARM + count)]
            grown = kernel.share(relay.pid) - before
            assert all(map(_alive, idle)), "somebody hung up"
            return {"kib_each": grown / count / 1024}

    # Memory that was used once is used again: the first time is the one that counts.
    return take_turns(stage.relays, [(case, job)], options, once=True)


def _alive(connection: ssl.SSLSocket) -> bool:
    connection.setblocking(False)
    try:
        return bool(connection.recv(1))
    except ssl.SSLWantReadError:
        return True
    except OSError:
        return False


def _ask(way: Way, context: ssl.SSLContext, fields: str, status: str, length: int = 0) -> ssl.SSLSocket:
    """A connection after a request with these *fields*.

    :param status: what the answer's is, in blanks.
    :param length: bytes that follow its head.
    :raises AssertionError: it is not so.
    """
    try:
        raw = socket.create_connection((HOST, way.port), 30)
        connection = context.wrap_socket(raw, server_hostname="localhost")
        connection.sendall(f"GET {way.path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n".encode("ascii"))
        answer = b""
        while b"\r\n\r\n" not in answer or len(answer.partition(b"\r\n\r\n")[2]) < length:
            piece = connection.recv(4096)
            assert piece, f"closed after {answer!r}"
            answer += piece
    except OSError as error:
        raise AssertionError(f"no connection: {error}") from error
    assert status.encode("ascii") in answer, answer
    return connection
