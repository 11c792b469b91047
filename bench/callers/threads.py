"""Calls as anybody would make them from Twisted: libvirt-python's, in threads; all share one connection.

Arguments: a unix socket for orders; ``{transport: URL}``.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import libvirt
from twisted.internet.threads import deferToThread

from bench.callers import GUESTS
from bench.callers.loop import Call, serve


class Libvirt:
    """Connections by transport, and the guests of each."""

    def __init__(self, urls: str) -> None:
        self._urls: dict[str, str] = json.loads(urls)
        self._open: dict[str, Any] = {}
        self._guests: dict[str, list[Any]] = {}

    async def connection(self, transport: str) -> Any:
        if transport not in self._open:
            self._open[transport] = await deferToThread(libvirt.open, self._urls[transport])
        return self._open[transport]

    async def guests(self, transport: str) -> list[Any]:
        if transport not in self._guests:
            connection = await self.connection(transport)
            found = self._guests[transport] = await deferToThread(connection.listAllDomains)
            assert len(found) == GUESTS, found
        return self._guests[transport]

    async def prepare(self, what: str, transport: str) -> Call:
        connection, guests = await self.connection(transport), await self.guests(transport)
        if what == "list":
            return lambda number: deferToThread(connection.listAllDomains)
        return lambda number: deferToThread(guests[number].info)


def main(path: str, urls: str) -> None:
    from twisted.internet import reactor

    reactor.suggestThreadPoolSize(GUESTS)  # type: ignore[attr-defined]
    serve(path, Libvirt(urls).prepare)


if __name__ == "__main__":
    main(*sys.argv[1:])
