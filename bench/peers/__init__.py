"""The programs that are measured, by name: ours first, then what people would run instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from bench.cases import GATEWAY
from bench.peers.autobahn import Autobahn
from bench.peers.base import Backends, Pki, Relay
from bench.peers.gateway import Ours
from bench.peers.haproxy import Haproxy
from bench.peers.hypervisor import Stock, bare, connection, libvirt_python
from bench.peers.imageio import Imageio
from bench.peers.nginx import Nginx
from bench.peers.squid import Squid
from bench.peers.websockify import Websockify

#: Each makes a relay in a directory, before the hosts; it is not started yet.
PEERS: Mapping[str, Callable[[Path, Pki, Backends], Relay]] = {
    GATEWAY: Ours,
    "imageio": Imageio,
    "nginx": Nginx,
    "haproxy": Haproxy,
    "squid": Squid,
    "websockify": Websockify,
    "autobahn": Autobahn,
    "connection": connection,
    "bare-socket": bare,
    "libvirt-python": libvirt_python,
    "amp-libvirt-python": Stock,
}
