"""Ours, configured as the functional tests do."""

from __future__ import annotations

from pathlib import Path

from OpenSSL import SSL

from bench import machine
from bench.light import CONSOLES, Way
from bench.peers.base import (
    CLIENTS,
    TUNNELS,
    Backends,
    Pki,
    console_ticket,
    relay_ticket,
    rpc_ticket,
    tunnel_ticket,
)
from gateway import __version__
from tests.functional.peers import HOST, Gateway, free_port


class Ours(Gateway):
    """The gateway, with a ticket for each client and kind of way.

    :ivar rpc_port: of the AMP endpoint, where there is a hypervisor; libvirt_port for stock clients.
    """

    #: The id of a ticket for the endpoint.
    RPC = "bench-rpc-0000000000000000"

    def __init__(self, directory: Path, pki: Pki, backends: Backends) -> None:
        self._consoles = free_port()
        self._tunnels = {"http": free_port(), "https": free_port()}
        sections = {
            "consoles": {"listen": f"tcp:{self._consoles}:interface={HOST}"},
            "tunnel": {
                "listen": f"tcp:{self._tunnels['http']}:interface={HOST}",
                "tls_listen": f"tcp:{self._tunnels['https']}:interface={HOST}",
            },
        }
        self.rpc_port, self.libvirt_port = free_port(), free_port()
        if backends.hypervisor:
            sections["rpc"] = {"listen": f"tcp:{self.rpc_port}:interface={HOST}"}
            sections["libvirt"] = {"listen": f"tcp:{self.libvirt_port}:interface={HOST}"}
        for transport, url in backends.hypervisor.items():
            sections[f"target {transport}"] = {"uri": url}
        super().__init__(directory, sections)
        self._backends = backends
        self._ways: dict[tuple[str, int], Way] = {}

    def start(self, descriptors: int = 4096) -> None:
        super().start(descriptors)
        for number, client in enumerate(CLIENTS):
            for kind, url in self._backends.urls(client).items():
                name = f"{kind}-{client}"
                self.put(relay_ticket(name, url))
                self._ways[kind, number] = Way(self.port, f"/images/{name}")
        if self._backends.hypervisor:
            self.put(rpc_ticket(self.RPC))

    def way(self, kind: str, client: int = 0) -> Way | None:
        if kind in CONSOLES and (kind, client) not in self._ways:
            name = f"{kind}-{client}"
            self.put(console_ticket(name, f"tcp://{HOST}:{self._backends.consoles[kind]}"))
            self._ways[kind, client] = Way(self._consoles, f"/console/{name}")
        if kind in TUNNELS and (kind, client) not in self._ways:
            scheme, _, console = kind.partition(":")
            name, port = f"{scheme}-{console}-{client:020}", self._backends.consoles[console]
            self.put(tunnel_ticket(name, f"tcp://{HOST}:{port}"))
            path = f"bench:{name}:bench:{port}"
            self._ways[kind, client] = Way(self._tunnels[scheme], path, tls=scheme == "https", tunnel=True)
        return self._ways.get((kind, client))

    def version(self) -> str:
        return " ".join(filter(None, [__version__, machine.commit()]))

    def openssl(self) -> str:
        return machine.short(SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode("ascii"))
