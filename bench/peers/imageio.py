"""The real ovirt-imageio, with the buffers it has by default: proxy and daemon are one program.

Its way to a unix socket is its own: the host offers one by OPTIONS, and it switches for each connection.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.light import Way
from bench.peers.base import CLIENTS, Backends, Pki, Program, relay_ticket
from tests.functional.commands import need_imageio
from tests.functional.peers import HOST, UnixConnection, ask

_CONFIG = """\
[daemon]
poll_interval = 0.1
run_dir = ./imageio
drop_privileges = false
systemd_enable = false
[tls]
enable = true
ca_file = {pki.ca}
cert_file = {pki.certificate}
key_file = {pki.key}
[remote]
host = {host}
port = 0
[local]
enable = false
[control]
transport = unix
socket = {control}
[handlers]
keys = stderr
[logger_root]
level = INFO
handlers = stderr
"""


class Imageio(Program):
    name = "imageio"

    def __init__(self, directory: Path, pki: Pki, backends: Backends) -> None:
        super().__init__(directory)
        self._backends = backends
        self._control = directory / "imageio.ctl"
        self._home = directory / "imageio"
        configuration = self._home / "conf.d"
        configuration.mkdir(parents=True)
        text = _CONFIG.format(pki=pki, host=HOST, control=self._control)
        (configuration / "50-bench.conf").write_text(text)

    def start(self) -> None:
        self.spawn([need_imageio(), "-c", str(self._home)], lambda: "Ready for requests" in self.log())
        found = re.search(r"remote.service listening on \('[^']*', ([0-9]+)", self.log())
        assert found is not None, self.log()
        port = int(found[1])
        self.ports = {"tls": port, "unix": port}
        for client in CLIENTS:
            # The port behind "unix" is plain TCP, and offers the socket.
            urls = {
                "tls": f"https://localhost:{self._backends.tls}/images/{client}",
                "unix": f"http://{HOST}:{self._backends.tcp}/images/{client}",
            }
            for kind, url in urls.items():
                self.put(relay_ticket(f"{kind}-{client}", url))

    def way(self, kind: str, client: int = 0) -> Way | None:
        port = self.ports.get(kind)
        return None if port is None else Way(port, f"/images/{kind}-{CLIENTS[client]}")

    def put(self, ticket: Mapping[str, Any]) -> None:
        """Install *ticket*."""
        answer = ask(UnixConnection(self._control), "PUT", f"/tickets/{ticket['uuid']}", ticket)
        assert answer.status == 200, answer

    def version(self) -> str:
        return importlib.metadata.version("ovirt-imageio")
