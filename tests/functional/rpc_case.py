"""The test case of hypervisors: a real libvirtd, a gateway before it, tickets, and the client library.

Tests are coroutines on this process's reactor; the gateway and the daemon are processes of their own, so what
asks these two by HTTP or virsh may block.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, TypeVar

from twisted.internet import tcp
from twisted.internet.task import deferLater

from gateway import errors
from gateway.rpc.client import Gateway as Client
from gateway.rpc.client import Host, connect
from tests.functional.daemon_case import DaemonCase
from tests.functional.peers import Gateway, Sections
from tests.functional.processes import HOST, free_port
from tests.support import ReactorTestCase

Error = TypeVar("Error", bound=errors.GatewayError)


class RpcCase(ReactorTestCase, DaemonCase):
    """One libvirtd, and one gateway with it as two targets: ``test``, its test driver, and ``qemu``.

    :cvar rpc: the port of the endpoint; ``consoles`` that of the websockets.
    :cvar more: keys of ``[rpc]`` beside the usual.
    :ivar reactor: this process's own.
    """

    timeout = 150.0
    rpc: ClassVar[int]
    consoles: ClassVar[int]
    more: ClassVar[dict[str, str]] = {}

    @classmethod
    def setUpClass(cls) -> None:
        cls.start_daemon()
        cls.rpc, cls.consoles = free_port(), free_port()
        cls.gateway = Gateway(cls.home, cls.configuration())
        cls.addClassCleanup(cls.gateway.stop)
        cls.gateway.start(cls.descriptors)

    @classmethod
    def configuration(cls) -> Sections:
        """What the configuration has beside the usual; the daemon runs by now."""
        return {
            "rpc": {"listen": f"tcp:{cls.rpc}:interface={HOST}", **cls.more},
            "consoles": {"listen": f"tcp:{cls.consoles}:interface={HOST}", "origins": "*"},
            "log": {"format": "json", "level": "debug", "audit": "audit.log"},
            "target test": {"uri": cls.daemon.url("test")},
            "target qemu": {"uri": cls.daemon.url("qemu")},
            **cls.sections,
        }

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self._clients: list[Client] = []
        self.addCleanup(self._hang_up)

    async def _hang_up(self) -> None:
        for client in self._clients:
            client.close()
        await self.until(lambda: not any(isinstance(it, tcp.Client) for it in self.reactor.getReaders()))

    # What is installed, and who comes with it.

    def unchecked(self) -> str:
        """A ticket for everything that may even name what belongs to the host."""
        return self.grant(("*", "xml:unchecked"))

    async def client(self, token: str | Callable[[], str] = "", **more: Any) -> Client:
        """Somebody who has logged in; without a *token*, or a certificate, by one that permits everything."""
        token = token or ("" if "certificate" in more else self.grant())
        client = await connect(self.reactor, "localhost", self.rpc, ca=[self.gateway.ca], token=token, **more)
        self._clients.append(client)
        return client

    async def host(self, target: str = "test", token: str = "", **more: Any) -> Host:
        """A target that somebody has opened, see :meth:`client`."""
        return await (await self.client(token)).open(target, **more)

    # What tests say.

    async def raises(self, kind: type[Error], asked: Awaitable[object]) -> Error:
        """What *asked* fails with."""
        try:
            await asked
        except kind as error:
            return error
        raise AssertionError(f"no {kind.__name__}")

    async def sleep(self, seconds: float) -> None:
        await deferLater(self.reactor, seconds)

    def virsh(self, *arguments: str, driver: str = "test") -> str:
        """What the daemon itself says, or does, without the gateway."""
        return self.daemon.virsh(*arguments, driver=driver)

    def trail(self, event: str = "rpc.call") -> list[dict[str, Any]]:
        """What the audit trail says."""
        # The last line may still be written.
        *lines, _ = (self.home / "audit.log").read_text("utf-8").split("\n")
        return [record for record in map(json.loads, lines) if record.get("event") == event]
