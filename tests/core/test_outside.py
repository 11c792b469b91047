"""TLS to a host that a user has named, on loopback sockets."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater

from gateway import errors
from gateway.core import outside
from gateway.core.tls import tls_factory
from gateway.core.tls_client import strict_creator
from tests.core.test_dial import NOW, Greeter, Serve, ca
from tests.support import ReactorTestCase

NAME, HOST = "localhost", "127.0.0.1"


class OutsideTests(ReactorTestCase):
    """:func:`outside.connect`."""

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.built: list[Greeter] = []

    def listen(self, factory: Any) -> int:
        port = self.reactor.listenTCP(0, factory, interface=HOST)
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    def serve(self, name: str = NAME) -> int:
        """A host with a certificate for *name*."""
        issued = ca().issue(name, now=NOW, names=[name], addresses=[HOST] if name == NAME else [])
        self.far = Greeter()
        plain = Factory.forProtocol(lambda: self.far)
        return self.listen(tls_factory(Serve(issued), plain, self.reactor))

    def build(self) -> Greeter:
        self.built.append(Greeter())
        return self.built[-1]

    async def connect(self, port: int, host: str = NAME, timeout: float = 5.0) -> None:
        creator = strict_creator(host, [ca().certificate])
        await outside.connect(self.reactor, host, port, creator, Factory.forProtocol(self.build), timeout)

    async def fails(self, kind: type[errors.GatewayError], reason: str, *where: Any, **more: Any) -> None:
        """It fails, and nothing was built that could have said anything."""
        try:
            await self.connect(*where, **more)
        except kind as error:
            self.assertEqual(
                (error.reason, "hypervisor" in error.text, "host behind" in error.text),
                (reason, False, False),
            )
        else:
            self.fail("it is connected")
        self.assertEqual(self.built, [])

    async def test_connects(self) -> None:
        """Loopback is as good as any place; a name does, and so does an address."""
        for host in (NAME, HOST):
            await self.connect(self.serve(), host)
            near = self.built.pop()
            assert near.transport is not None
            while near.heard != b"hello":
                await deferLater(self.reactor, 0.005)
            near.transport.loseConnection()
            await near.lost
            await self.far.lost

    async def test_nobody(self) -> None:
        """Where nobody listens that is said."""
        with socket.socket() as deaf:
            deaf.bind((HOST, 0))
            await self.fails(errors.UpstreamFailed, "refused", deaf.getsockname()[1])

    async def test_no_name(self) -> None:
        """A name that nobody has, or can have, is told from a host that is down."""
        await self.fails(errors.UpstreamFailed, "dns", 443, "gateway.invalid")
        await self.fails(errors.UpstreamFailed, "dns", 443, "a_b.invalid")

    async def test_another(self) -> None:
        """A host with a certificate for another name hears nothing, nor does one that speaks no TLS."""
        await self.fails(errors.UpstreamFailed, "tls", self.serve("other.invalid"))
        plain = Greeter()
        await self.fails(errors.UpstreamFailed, "tls", self.listen(Factory.forProtocol(lambda: plain)))
        await plain.lost

    async def test_silent(self) -> None:
        """A host that accepts and says nothing is given up in time, and let go."""
        far = Greeter()
        far.connectionMade = lambda: None  # type: ignore[method-assign]  # it says nothing
        port = self.listen(Factory.forProtocol(lambda: far))
        await self.fails(errors.UpstreamTimeout, "connect", port, timeout=0.1)
        await far.lost

    async def test_full(self) -> None:
        """A host that does not even accept is given up in time."""
        with socket.socket() as full:
            full.bind((HOST, 0))
            full.listen(0)
            with socket.create_connection(full.getsockname()):
                await self.fails(errors.UpstreamTimeout, "connect", full.getsockname()[1], timeout=0.2)
