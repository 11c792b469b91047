"""Squid as a reverse proxy that keeps nothing, and a proxy for tunnels; it speaks no HTTP to a unix socket.

With its own 512 KB of ``client_request_buffer_max_size``, Squid 5.7 hung up on six of eight uploads of
256 MiB over TLS that came faster than the host took them, and with 64 MB on none.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from bench import machine
from bench.light import Way
from bench.peers.base import TUNNELS, Backends, Pki, Program
from bench.peers.nginx import accepts
from tests.functional.commands import need
from tests.functional.peers import HOST, free_port

_CONFIG = """\
https_port {host}:{ports[tls]} accel tls-cert={pki.certificate} tls-key={pki.key} defaultsite=localhost
http_port {host}:{ports[http]}
https_port {host}:{ports[https]} tls-cert={pki.certificate} tls-key={pki.key}
acl tunnels method CONNECT
always_direct allow tunnels
cache_peer {host} parent {backends.tls} 0 no-query no-digest no-netdb-exchange originserver {tls}
http_access allow all
never_direct allow !tunnels
cache deny all
cache_mem 8 MB
access_log none
cache_store_log none
cache_log {home}/cache.log
pid_filename {home}/squid.pid
coredump_dir {home}
cache_effective_user {user}
visible_hostname localhost
shutdown_lifetime 1 seconds
read_ahead_gap 256 KB
client_request_buffer_max_size 64 MB
max_filedescriptors 16384
pinger_enable off
"""


class Squid(Program):
    name = "squid"

    def __init__(self, directory: Path, pki: Pki, backends: Backends) -> None:
        super().__init__(directory)
        self.ports = {"tls": free_port(), "http": free_port(), "https": free_port()}
        self._consoles = backends.consoles
        home = directory / "squid"
        home.mkdir()
        if os.getuid() == 0:
            # Squid leaves root behind, and then wants to write its log.
            directory.chmod(0o711)
            shutil.chown(home, "proxy")
        self._config = directory / "squid.conf"
        self._config.write_text(
            _CONFIG.format(
                home=home,
                tls=f"tls tls-cafile={pki.ca} tls-domain=localhost",
                pki=pki,
                host=HOST,
                backends=backends,
                ports=self.ports,
                user="proxy",
            )
        )
        self._program = need("squid", "apt install squid-openssl")

    def start(self) -> None:
        # The service name tells its shared memory from another Squid's.
        command = [self._program, "-N", "-n", f"bench{os.getpid()}", "-f", str(self._config)]
        self.spawn(command, lambda: accepts(self.ports["tls"]))

    def way(self, kind: str, client: int = 0) -> Way | None:
        if kind not in TUNNELS:
            return super().way(kind, client)
        scheme, _, console = kind.partition(":")
        target = f"{HOST}:{self._consoles[console]}"
        return Way(self.ports[scheme], target, tls=scheme == "https", tunnel=True)

    def version(self) -> str:
        found = re.search(r"Version ([0-9.]+)", machine.said(self._program, "-v"))
        return found[1] if found else "?"
