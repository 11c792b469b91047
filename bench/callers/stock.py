"""Calls by AMP as anybody would offer them: Twisted's own, over TLS, before libvirt-python in threads.

Arguments: ``serve``, a port, the files of a certificate and its key, ``{transport: URL}``; or, as for the
other programs, a unix socket for orders, then the port, and the file of the CA.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar

from twisted.internet.endpoints import HostnameEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.protocol import Factory
from twisted.internet.ssl import (
    Certificate,
    DefaultOpenSSLContextFactory,
    optionsForClientTLS,
    trustRootFromCertificates,
)
from twisted.internet.threads import deferToThread
from twisted.protocols import amp

from bench.callers import GUESTS
from bench.callers.loop import Call, serve
from bench.callers.threads import Libvirt


class Info(amp.Command):
    """A guest by its number."""

    arguments: ClassVar = [(b"transport", amp.Unicode()), (b"guest", amp.Integer())]
    response: ClassVar = [(name, amp.Integer()) for name in (b"state", b"most", b"memory", b"cpus", b"time")]


class List(amp.Command):
    arguments: ClassVar = [(b"transport", amp.Unicode())]
    response: ClassVar = [
        (b"guests", amp.AmpList([(b"name", amp.Unicode()), (b"uuid", amp.Unicode()), (b"id", amp.Integer())]))
    ]


class Server(amp.AMP):
    libvirt: Libvirt

    @Info.responder
    async def info(self, transport: str, guest: int) -> dict[str, int]:
        guests = await self.libvirt.guests(transport)
        names = ("state", "most", "memory", "cpus", "time")
        return dict(zip(names, await deferToThread(guests[guest].info), strict=True))

    @List.responder
    async def list(self, transport: str) -> dict[str, Any]:
        connection = await self.libvirt.connection(transport)
        return {"guests": await deferToThread(_list, connection)}


def _list(connection: Any) -> list[dict[str, Any]]:
    return [{"name": it.name(), "uuid": it.UUIDString(), "id": it.ID()} for it in connection.listAllDomains()]


class _Client:
    def __init__(self, port: int, ca: Path) -> None:
        self._port, self._ca = port, ca
        self._side: Any = None

    async def prepare(self, what: str, transport: str) -> Call:
        from twisted.internet import reactor

        if self._side is None:
            trusted = trustRootFromCertificates([Certificate.loadPEM(self._ca.read_bytes())])
            endpoint = HostnameEndpoint(reactor, "localhost", self._port)
            options = optionsForClientTLS("localhost", trusted)
            self._side = await connectProtocol(wrapClientTLS(options, endpoint), amp.AMP())
        side = self._side
        assert len((await side.callRemote(List, transport=transport))["guests"]) == GUESTS
        if what == "list":
            return lambda number: side.callRemote(List, transport=transport)
        return lambda number: side.callRemote(Info, transport=transport, guest=number)


def main(port: str, certificate: str, key: str, urls: str) -> None:
    from twisted.internet import reactor as _reactor

    reactor: Any = _reactor
    reactor.suggestThreadPoolSize(GUESTS)
    Server.libvirt = Libvirt(urls)
    tls = DefaultOpenSSLContextFactory(key, certificate)
    reactor.listenSSL(int(port), Factory.forProtocol(Server), tls, interface="127.0.0.1")
    reactor.run()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        main(*sys.argv[2:])
    else:
        serve(sys.argv[1], _Client(int(sys.argv[2]), Path(sys.argv[3])).prepare)
