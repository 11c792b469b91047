"""The real ovirt-imageio in its proxy role, with the buffers it has by default."""

from __future__ import annotations

import http.client
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.functional.commands import need_imageio
from tests.functional.peers import HOST, Peer, ask

_CONFIG = """\
[daemon]
poll_interval = 0.1
run_dir = ./run
drop_privileges = false
systemd_enable = false
[tls]
enable = true
ca_file = {ca}
cert_file = {certificate}
key_file = {key}
[remote]
host = {host}
port = 0
[local]
enable = false
[control]
transport = tcp
port = 0
[handlers]
keys = stderr
[logger_root]
level = INFO
handlers = stderr
"""


class ImageioProxy(Peer):
    """ovirt-imageio as on an engine host.

    :ivar port: of images, TLS.
    """

    name = "proxy"

    def __init__(self, directory: Path, pki: tuple[Path, Path, Path]) -> None:
        super().__init__(directory)
        self.port = self.control_port = 0
        ca, certificate, key = pki
        configuration = directory / "proxy" / "conf.d"
        configuration.mkdir(parents=True)
        text = _CONFIG.format(ca=ca, certificate=certificate, key=key, host=HOST)
        (configuration / "50-bench.conf").write_text(text)

    def start(self) -> None:
        """Start it on free ports."""
        self.spawn([need_imageio(), "-c", "proxy"], lambda: "Ready for requests" in self.log())
        self.port, self.control_port = self._port("remote"), self._port("control")

    def _port(self, service: str) -> int:
        found = re.search(rf"{service}.service listening on \('[^']*', ([0-9]+)", self.log())
        assert found is not None, self.log()
        return int(found[1])

    def put(self, ticket: Mapping[str, Any]) -> None:
        connection = http.client.HTTPConnection("localhost", self.control_port, timeout=20)
        answer = ask(connection, "PUT", f"/tickets/{ticket['uuid']}", ticket)
        assert answer.status == 200, answer
