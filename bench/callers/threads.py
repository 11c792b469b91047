"""Calls as anybody would make them from Twisted: libvirt-python's, in threads; all share one connection.

Arguments: a unix socket for orders; ``{transport: URL}``; a ticket, where one is asked for.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import libvirt
from twisted.internet.threads import deferToThread

from bench.callers import GUESTS, POOL, UPLOAD, VOLUME
from bench.callers.loop import Call, serve

_ZEROES = bytes(1 << 20)


class Libvirt:
    """Connections by transport, and the guests of each."""

    def __init__(self, urls: str, ticket: str = "") -> None:
        self._urls: dict[str, str] = json.loads(urls)
        self._ticket = ticket
        self._open: dict[str, Any] = {}
        self._guests: dict[str, list[Any]] = {}

    async def connection(self, transport: str) -> Any:
        if transport not in self._open:
            self._open[transport] = await deferToThread(self._connect, self._urls[transport])
        return self._open[transport]

    def _connect(self, url: str) -> Any:
        wanted = [libvirt.VIR_CRED_AUTHNAME, libvirt.VIR_CRED_PASSPHRASE]
        return libvirt.openAuth(url, [wanted, self._answer, None], 0)

    def _answer(self, asked: list[Any], _: object) -> int:
        for each in asked:
            each[4] = "bench" if each[0] == libvirt.VIR_CRED_AUTHNAME else self._ticket
        return 0

    async def guests(self, transport: str) -> list[Any]:
        if transport not in self._guests:
            connection = await self.connection(transport)
            found = self._guests[transport] = await deferToThread(connection.listAllDomains)
            assert len(found) == GUESTS, found
        return self._guests[transport]

    async def prepare(self, what: str, transport: str) -> Call:
        if what == "upload":
            connection = await self.connection(f"qemu-{transport}")
            pool = await deferToThread(connection.storagePoolLookupByName, POOL)
            volume = await deferToThread(pool.storageVolLookupByName, VOLUME)
            return lambda number: deferToThread(_upload, connection, volume)
        connection, guests = await self.connection(transport), await self.guests(transport)
        if what == "list":
            return lambda number: deferToThread(connection.listAllDomains)
        return lambda number: deferToThread(guests[number].info)


def _upload(connection: Any, volume: Any) -> None:
    left = [UPLOAD]

    def more(_: object, size: int, __: object) -> bytes:
        part = min(size, left[0])
        left[0] -= part
        return _ZEROES[:part]

    stream = connection.newStream(0)
    volume.upload(stream, 0, UPLOAD, 0)
    stream.sendAll(more, None)
    stream.finish()


def main(path: str, urls: str, ticket: str = "") -> None:
    from twisted.internet import reactor

    reactor.suggestThreadPoolSize(GUESTS)  # type: ignore[attr-defined]  # a module to mypy
    serve(path, Libvirt(urls, ticket).prepare)


if __name__ == "__main__":
    main(*sys.argv[1:])
