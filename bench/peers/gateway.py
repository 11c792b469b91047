"""Ours, configured as the functional tests do."""

from __future__ import annotations

from pathlib import Path

from OpenSSL import SSL

from bench import machine
from bench.light import Way
from bench.peers.base import CLIENTS, Backends, Pki, relay_ticket
from gateway import __version__
from tests.functional.peers import Gateway


class Ours(Gateway):
    """The gateway, with a ticket for each client and kind of way."""

    def __init__(self, directory: Path, pki: Pki, backends: Backends) -> None:
        super().__init__(directory)
        self._backends = backends
        self._paths: dict[tuple[str, int], str] = {}

    def start(self, descriptors: int = 4096) -> None:
        super().start(descriptors)
        for number, client in enumerate(CLIENTS):
            for kind, url in self._backends.urls(client).items():
                name = f"{kind}-{client}"
                self.put(relay_ticket(name, url))
                self._paths[kind, number] = f"/images/{name}"

    def way(self, kind: str, client: int = 0) -> Way | None:
        path = self._paths.get((kind, client))
        return None if path is None else Way(self.port, path)

    def version(self) -> str:
        return " ".join(filter(None, [__version__, machine.commit()]))

    def openssl(self) -> str:
        return machine.short(SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode("ascii"))
