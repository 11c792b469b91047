"""What a measure asks of a relay of images or consoles, be it ours or another."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from attrs import frozen

from bench import kernel, machine
from bench.light import CONSOLES, Host, Way
from tests.functional.peers import Peer

#: The image that is relayed is so long; it has no disk beneath it.
IMAGE_SIZE = 64 << 30
#: One id for each client, so that two of them share nothing.
CLIENTS = tuple(str(uuid.UUID(int=number)) for number in (1, 2))


@frozen
class Pki:
    """Files."""

    ca: Path
    certificate: Path
    key: Path


@frozen
class Backends:
    """The image host and the consoles that all relays stand before.

    :ivar tls: port; ``tcp`` too, ``unix`` is a path.
    :ivar consoles: ports, by what the console there does; see :mod:`bench.light`.
    :ivar hypervisor: URLs by transport; none where it is not wanted.
    """

    tls: int
    tcp: int
    unix: Path
    consoles: Mapping[str, int]
    hypervisor: Mapping[str, str]

    @classmethod
    def of(cls, host: Host, hypervisor: Mapping[str, str]) -> Backends:
        return cls(host.tls, host.tcp, host.unix, host.consoles, hypervisor)

    def urls(self, image: str) -> dict[str, str]:
        """The url of a ticket, by the kind of way."""
        return {
            "tls": f"https://localhost:{self.tls}/images/{image}",
            "unix": f"http+unix://{quote(str(self.unix), safe='')}/images/{image}",
        }


def relay_ticket(name: str, url: str) -> dict[str, object]:
    """A ticket for the image at *url*, as an engine writes it."""
    return {
        "uuid": name,
        "size": IMAGE_SIZE,
        "url": url,
        "timeout": 86400,
        "inactivity_timeout": 3600,
        "ops": ["read", "write"],
    }


def console_ticket(name: str, url: str) -> dict[str, object]:
    """A ticket for the console at *url*."""
    return {"uuid": name, "kind": "console", "url": url, "timeout": 86400, "ops": ["view", "control"]}


def tunnel_ticket(name: str, url: str) -> dict[str, object]:
    """A ticket for tunnels to *url*."""
    return {"uuid": name, "kind": "tunnel", "url": url, "timeout": 86400, "ops": ["connect"]}


def rpc_ticket(name: str) -> dict[str, object]:
    """A ticket for calls to every hypervisor."""
    rights = {"allow": ["*"], "domains": ["*"]}
    grants: dict[str, object] = {"ops": ["call"], "targets": ["*"], "rights": rights}
    return {"uuid": name, "kind": "rpc", "principal": "bench", "timeout": 86400, **grants}


#: How a client asks for a tunnel, and which console is at its end: ``https:echo`` is asked for over TLS.
TUNNELS = tuple(f"{scheme}:{kind}" for scheme in ("http", "https") for kind in CONSOLES)


class Relay(Protocol):
    """A program between clients and the hosts, running."""

    name: str

    @property
    def pid(self) -> int: ...

    def start(self) -> None: ...

    def kill(self) -> None: ...

    def log(self) -> str: ...

    def way(self, kind: str, client: int = 0) -> Way | None:
        """Where a client finds its image, or a console.

        :param kind: what is behind it: ``tls``, ``unix``, what a console does, or one of :data:`TUNNELS`.
        :param client: whose; of an image two share nothing, and everybody has a console of his own.
        :return: None says that it cannot.
        """

    def version(self) -> str: ...

    def openssl(self) -> str:
        """The version it runs with."""


class Program(Peer):
    """A peer that links the OpenSSL of the system, and is the same for every client.

    :ivar ports: by kind of way, when it runs.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.ports: Mapping[str, int] = {}

    def way(self, kind: str, client: int = 0) -> Way | None:
        port = self.ports.get(kind)
        return None if port is None else Way(port, f"/images/{CLIENTS[client]}")

    def openssl(self) -> str:
        for pid in kernel.tree(self.pid):
            library = kernel.mapped(pid, "libcrypto.so")
            if library is not None:
                return machine.openssl_of(library)
        return "none"
