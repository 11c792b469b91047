"""Calls in bursts, in a process of its own: ``python -m tests.functional.libvirt_burst URL DEPTH ROUNDS``.

Which TLS it speaks is for ``GATEWAY_FAST`` in the environment to say. It prints how many calls were answered.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react

from gateway.core.clock import wall
from gateway.core.dial import Dialer
from gateway.core.policy import Policy, parse_rule
from gateway.rpc.connection import LibvirtConnection
from gateway.rpc.transports import Transports
from gateway.wire.libvirt_schema import procedure
from gateway.wire.libvirt_url import parse_url

#: Seconds that a burst may take before it counts as stalled.
PATIENCE = 40.0


async def connect(reactor: Any, text: str) -> LibvirtConnection:
    """A connection to a daemon on loopback, on which the hypervisor is open."""
    url = parse_url(text)
    connection = LibvirtConnection(reactor, tls=url.transport == "tls")
    policy = Policy([parse_rule("libvirt://127.0.0.0/8:*"), parse_rule("libvirt://[::1]:*")])
    await Transports(reactor, Dialer(reactor, policy), wall).connect(url, connection)
    await connection.open(url.name)
    return connection


async def bursts(reactor: Any, text: str, depth: int, rounds: int) -> int:
    """Make *rounds* bursts of *depth* calls in one turn of the reactor; return how many were answered."""
    connection = await connect(reactor, text)
    lost: Deferred[str] = Deferred()
    connection.lost = lost.callback
    answered = 0
    for _ in range(rounds):
        calls = [connection.call(procedure("CONNECT_GET_TYPE")) for _ in range(depth)]
        answers = await gatherResults(calls, consumeErrors=True).addTimeout(PATIENCE, reactor)
        answered += sum(answer["type"].upper() == "TEST" for answer in answers)
    connection.close()
    await lost
    return answered


async def _main(reactor: Any, text: str, depth: str, rounds: str) -> None:
    sys.stdout.write(f"{await bursts(reactor, text, int(depth), int(rounds))}\n")


if __name__ == "__main__":
    react(lambda reactor, *words: Deferred.fromCoroutine(_main(reactor, *words)), sys.argv[1:])
