"""websockify, with numpy: a process for each console, targets by token."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from bench.light import CONSOLES, Way
from bench.peers.base import Backends, Pki, Program
from bench.peers.nginx import accepts
from tests.functional.commands import need
from tests.functional.peers import HOST, free_port


class Websockify(Program):
    name = "websockify"

    def __init__(self, directory: Path, pki: Pki, backends: Backends) -> None:
        super().__init__(directory)
        self._port = free_port()
        tokens = directory / "websockify.tokens"
        tokens.write_text("".join(f"{kind}: {HOST}:{backends.consoles[kind]}\n" for kind in CONSOLES))
        self._command = [need("websockify", "pip install websockify numpy"), "--ssl-only"]
        self._command += [f"--cert={pki.certificate}", f"--key={pki.key}"]
        self._command += ["--token-plugin=ReadOnlyTokenFile", f"--token-source={tokens}"]
        self._command += [f"{HOST}:{self._port}"]

    def start(self) -> None:
        self.spawn(self._command, lambda: accepts(self._port))

    def way(self, kind: str, client: int = 0) -> Way | None:
        return Way(self._port, f"/websockify?token={kind}") if kind in CONSOLES else None

    def version(self) -> str:
        found = importlib.metadata.version
        return f"{found('websockify')}, numpy {found('numpy')}"
