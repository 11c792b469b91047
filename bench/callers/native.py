"""Calls as the gateway itself makes them.

Arguments: a unix socket for orders; ``target`` for all that the gateway has before a hypervisor, with nothing
kept and nothing shared, or ``connection`` for one connection alone; ``{transport: URL}``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Hashable
from typing import Any

from bench.callers import GUESTS
from bench.callers.loop import Call, serve
from gateway.core.clock import wall
from gateway.core.dial import Dialer
from gateway.core.policy import Policy, parse_rule
from gateway.rpc.cache import Cache
from gateway.rpc.connector import dialing
from gateway.rpc.job import Job
from gateway.rpc.target import Target
from gateway.rpc.transports import Transports
from gateway.wire.libvirt_schema import procedure
from gateway.wire.libvirt_url import parse_url

_INFO, _LIST = procedure("DOMAIN_GET_INFO"), procedure("CONNECT_LIST_ALL_DOMAINS")
_ALL = {"need_results": 1, "flags": 0}


class _Forgetful(Cache[Job]):
    """Every call goes to the hypervisor."""

    def flight(self, key: Hashable) -> None:
        """Nobody waits for what somebody else has asked."""

    def end(self, key: Hashable, flight: Job, values: dict[str, Any], keep: float, passing: bool) -> None:
        self.forget(key, flight)


class _Native:
    def __init__(self, kind: str, urls: dict[str, str]) -> None:
        from twisted.internet import reactor

        self._reactor: Any = reactor
        self._kind = kind
        self._urls = urls
        self._targets: dict[str, Target] = {}

    def _target(self, transport: str) -> Target:
        if transport not in self._targets:
            url = parse_url(self._urls[transport])
            dialer = Dialer(
                self._reactor, Policy([parse_rule("*://127.0.0.0/8:*"), parse_rule("*://[::1]:*")])
            )
            dial = dialing(Transports(self._reactor, dialer, wall).connect, url, self._reactor)
            made = self._targets[transport] = Target("hv", url, dial=dial, clock=self._reactor)
            made._cache = _Forgetful(self._reactor)
        return self._targets[transport]

    async def prepare(self, what: str, transport: str) -> Call:
        target = self._target(transport)
        guests = (await target.call(_LIST.name, _ALL))["domains"]
        assert len(guests) == GUESTS, guests
        if self._kind == "target":
            if what == "info":
                return lambda number: target.call(_INFO.name, {"dom": guests[number]}, principal=str(number))
            return lambda number: target.call(_LIST.name, _ALL, principal=str(number))
        connection = await target._connector.connect(readonly=False)
        if what == "info":
            return lambda number: connection.call(_INFO, {"dom": guests[number]})
        return lambda number: connection.call(_LIST, _ALL)


if __name__ == "__main__":
    serve(sys.argv[1], _Native(sys.argv[2], json.loads(sys.argv[3])).prepare)
