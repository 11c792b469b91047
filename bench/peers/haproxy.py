"""HAProxy: one thread, buffers as it has them by default, the host verified.

It knows no CONNECT: for tunnels it hands on connections to targets that are fixed, and splices.
"""

from __future__ import annotations

import re
from pathlib import Path

from bench import machine
from bench.light import Way
from bench.peers.base import TUNNELS, Backends, Pki, Program
from bench.peers.nginx import accepts
from tests.functional.commands import need
from tests.functional.peers import HOST, free_port

_CONFIG = """\
global
    nbthread 1
    maxconn 4000
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout http-keep-alive 60s
    http-reuse always
listen tls
    bind {host}:{ports[tls]} ssl crt {both} alpn http/1.1
    default-server ssl verify required verifyhost localhost sni str(localhost) ca-file {pki.ca}
    server host {host}:{backends.tls}
listen unix
    bind {host}:{ports[unix]} ssl crt {both} alpn http/1.1
    server host unix@{backends.unix}
defaults
    mode tcp
    option splice-auto
    timeout connect 5s
    timeout client 60s
    timeout server 60s
{tunnels}"""
_TUNNEL = """\
listen {kind}
    bind {host}:{port}{secure}
    server console {host}:{console}
"""


class Haproxy(Program):
    name = "haproxy"

    def __init__(self, directory: Path, pki: Pki, backends: Backends) -> None:
        super().__init__(directory)
        self.ports = {"tls": free_port(), "unix": free_port()}
        both = directory / "haproxy.pem"
        both.touch(mode=0o600)
        both.write_bytes(pki.certificate.read_bytes() + pki.key.read_bytes())
        self.ports |= {kind: free_port() for kind in TUNNELS}
        tunnels = "".join(
            _TUNNEL.format(
                kind=kind,
                host=HOST,
                port=self.ports[kind],
                secure=f" ssl crt {both}" * kind.startswith("https:"),
                console=backends.consoles[kind.partition(":")[2]],
            )
            for kind in TUNNELS
        )
        self._config = directory / "haproxy.cfg"
        self._config.write_text(
            _CONFIG.format(
                pki=pki, host=HOST, backends=backends, ports=self.ports, both=both, tunnels=tunnels
            )
        )
        self._program = need("haproxy", "apt install haproxy")

    def start(self) -> None:
        self.spawn([self._program, "-db", "-f", str(self._config)], lambda: accepts(self.ports["unix"]))

    def way(self, kind: str, client: int = 0) -> Way | None:
        if kind not in TUNNELS:
            return super().way(kind, client)
        return Way(self.ports[kind], "-", tls=kind.startswith("https:"), tunnel=True)

    def version(self) -> str:
        found = re.search(r"version ([0-9.]+)", machine.said(self._program, "-v"))
        return found[1] if found else "?"
