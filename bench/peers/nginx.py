"""nginx: one worker, buffers as large as ours, streaming both ways, the host verified."""

from __future__ import annotations

import re
import socket
from pathlib import Path

from bench import machine
from bench.peers.base import Backends, Pki, Program
from tests.functional.commands import need
from tests.functional.peers import HOST, free_port

_CONFIG = """\
daemon off;
master_process off;
worker_processes 1;
user root;
pid {home}/nginx.pid;
error_log {home}/nginx.err warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_max_body_size 0;
    client_body_buffer_size 256k;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    keepalive_requests 1000000;
    ssl_certificate {pki.certificate};
    ssl_certificate_key {pki.key};
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:tls:1m;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_request_buffering off;
    proxy_max_temp_file_size 0;
    proxy_buffer_size 64k;
    proxy_buffers 16 64k;
    proxy_busy_buffers_size 256k;
    upstream tls {{ server {host}:{backends.tls}; keepalive 16; keepalive_requests 1000000; }}
    upstream unix {{ server unix:{backends.unix}; keepalive 16; keepalive_requests 1000000; }}
    server {{
        listen {host}:{ports[tls]} ssl;
        location / {{
            proxy_pass https://tls;
            proxy_ssl_protocols TLSv1.3;
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate {pki.ca};
            proxy_ssl_name localhost;
            proxy_ssl_server_name on;
        }}
    }}
    server {{
        listen {host}:{ports[unix]} ssl;
        location / {{ proxy_pass http://unix; }}
    }}
}}
"""


def accepts(port: int) -> bool:
    """Whether somebody listens."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


class Nginx(Program):
    name = "nginx"

    def __init__(self, directory: Path, pki: Pki, backends: Backends) -> None:
        super().__init__(directory)
        self.ports = {"tls": free_port(), "unix": free_port()}
        self._config = directory / "nginx.conf"
        self._config.write_text(
            _CONFIG.format(home=directory, pki=pki, host=HOST, backends=backends, ports=self.ports)
        )
        self._program = need("nginx", "apt install nginx-light")

    def start(self) -> None:
        command = [self._program, "-c", str(self._config), "-e", str(self.directory / "nginx.err")]
        self.spawn(command, lambda: accepts(self.ports["unix"]))

    def version(self) -> str:
        found = re.search(r"nginx/([0-9.]+)", machine.said(self._program, "-v"))
        return found[1] if found else "?"
