"""A bridge as anybody would write it with autobahn; see :mod:`bench.peers.autobahn_bridge`."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path

from OpenSSL import SSL

from bench import machine
from bench.light import CONSOLES, Way
from bench.peers.base import Backends, Pki, Program
from bench.peers.nginx import accepts
from tests.functional.peers import free_port


class Autobahn(Program):
    name = "autobahn"

    def __init__(self, directory: Path, pki: Pki, backends: Backends) -> None:
        super().__init__(directory)
        self._port = free_port()
        script = Path(__file__).with_name("autobahn_bridge.py")
        # Without its directory among those of modules, where we stand for autobahn.
        self._command = [sys.executable, "-P", str(script), str(self._port)]
        self._command += [str(pki.certificate), str(pki.key)]
        self._command += [json.dumps({f"/{kind}": port for kind, port in backends.consoles.items()})]

    def start(self) -> None:
        self.spawn(self._command, lambda: accepts(self._port))

    def way(self, kind: str, client: int = 0) -> Way | None:
        return Way(self._port, f"/{kind}") if kind in CONSOLES else None

    def version(self) -> str:
        return importlib.metadata.version("autobahn")

    def openssl(self) -> str:
        return machine.short(SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode("ascii"))
