"""Calls to the gateway, by its client library.

Arguments: a unix socket for orders; the port of the endpoint; the file of the CA; the id of a ticket. The
gateway has a target called like each transport.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bench.callers import GUESTS
from bench.callers.loop import Call, serve
from gateway.rpc.client import Gateway, Host, connect


class _Amp:
    def __init__(self, port: int, ca: Path, ticket: str) -> None:
        self._port, self._ca, self._ticket = port, ca, ticket
        self._gateway: Gateway | None = None
        self._hosts: dict[str, Host] = {}

    async def prepare(self, what: str, transport: str) -> Call:
        from twisted.internet import reactor

        if self._gateway is None:
            self._gateway = await connect(reactor, "localhost", self._port, ca=[self._ca], token=self._ticket)
        if transport not in self._hosts:
            self._hosts[transport] = await self._gateway.open(transport)
        host = self._hosts[transport]
        if what == "list":
            return lambda number: host.list_domains()
        guests = await host.list_domains()
        assert len(guests) == GUESTS, guests
        return lambda number: guests[number].get_info()


if __name__ == "__main__":
    serve(sys.argv[1], _Amp(int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]).prepare)
