"""Ours, configured as the functional tests do."""

from __future__ import annotations

from pathlib import Path

from OpenSSL import SSL

from bench import machine
from bench.light import CONSOLES, Way
from bench.peers.base import CLIENTS, Backends, Pki, console_ticket, relay_ticket
from gateway import __version__
from tests.functional.peers import HOST, Gateway, free_port


class Ours(Gateway):
    """The gateway, with a ticket for each client and kind of way."""

    def __init__(self, directory: Path, pki: Pki, backends: Backends) -> None:
        self._consoles = free_port()
        super().__init__(directory, {"consoles": {"listen": f"tcp:{self._consoles}:interface={HOST}"}})
        self._backends = backends
        self._ways: dict[tuple[str, int], Way] = {}

    def start(self, descriptors: int = 4096) -> None:
        super().start(descriptors)
        for number, client in enumerate(CLIENTS):
            for kind, url in self._backends.urls(client).items():
                name = f"{kind}-{client}"
                self.put(relay_ticket(name, url))
                self._ways[kind, number] = Way(self.port, f"/images/{name}")

    def way(self, kind: str, client: int = 0) -> Way | None:
        if kind in CONSOLES and (kind, client) not in self._ways:
            name = f"{kind}-{client}"
            self.put(console_ticket(name, f"tcp://{HOST}:{self._backends.consoles[kind]}"))
            self._ways[kind, client] = Way(self._consoles, f"/console/{name}")
        return self._ways.get((kind, client))

    def version(self) -> str:
        return " ".join(filter(None, [__version__, machine.commit()]))

    def openssl(self) -> str:
        return machine.short(SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode("ascii"))
