"""Real processes for the functional tests: our gateway, the image daemon, qemu-nbd.

Everything runs on loopback; :mod:`tests.functional.processes` says how a process is run.
"""

from __future__ import annotations

import http.client
import re
import resource
import socket
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.core import dev_pki
from tests.functional.commands import need, need_imageio
from tests.functional.processes import (
    DEADLINE,
    HOST,
    MIB,
    Answer,
    Peer,
    UnixConnection,
    ask,
    free_port,
    short_directory,
    wait_for,
)

__all__ = [
    "DEADLINE",
    "HOST",
    "MIB",
    "Answer",
    "Daemon",
    "Gateway",
    "Nbd",
    "Peer",
    "Script",
    "Sections",
    "UnixConnection",
    "ask",
    "free_port",
    "short_directory",
    "wait_for",
]

Sections = Mapping[str, Mapping[str, str]]


class Gateway(Peer):
    """Our gateway, started as its users do, with a configuration for loopback.

    :param sections: keys to add or to replace, by section.
    :ivar port: of images, TLS; ``control_port`` and ``metrics_port`` speak plain HTTP.
    """

    name = "gateway"

    def __init__(self, directory: Path, sections: Sections | None = None) -> None:
        super().__init__(directory)
        self.port, self.control_port, self.metrics_port = free_port(), free_port(), free_port()
        pki = dev_pki.make(directory / "pki")
        self.ca, self.certificate, self.key = pki.ca, pki.gateway, pki.gateway_key
        self.control_socket = directory / "run" / "control.sock"
        (directory / "images").mkdir(exist_ok=True)
        wanted: dict[str, dict[str, str]] = {
            "gateway": {
                "state_dir": "state",
                "run_dir": "run",
                "public_url": f"https://localhost:{self.port}",
                "drain_timeout": "1s",
            },
            "tls": {"certificate": str(self.certificate), "key": str(self.key)},
            "tokens": {"engine_certificate": str(pki.engine), "engine_ca": str(pki.ca)},
            "policy": {"allow": "*://127.0.0.0/8:*, *://[::1]/128:*"},
            "control": {
                "listen": "unix:run/control.sock:mode=660",
                "tcp": f"tcp:{self.control_port}:interface={HOST}",
            },
            "images": {
                "listen": f"tcp:{self.port}:interface={HOST}",
                "upstream_ca": str(pki.ca),
                "file_roots": "images",
            },
            "metrics": {"listen": f"tcp:{self.metrics_port}:interface={HOST}"},
        }
        for section, keys in (sections or {}).items():
            wanted.setdefault(section, {}).update(keys)
        self.config_file = directory / "gateway.conf"
        self.config_file.write_text(
            "".join(
                f"[{section}]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items()) + "\n"
                for section, keys in wanted.items()
            )
        )

    def start(self, descriptors: int = 4096) -> None:
        """Start it and wait until it says that it is ready.

        :param descriptors: how many files it may open.
        """
        (self.directory / "run").mkdir(exist_ok=True)
        command = [need("twistd", "pip install -e ."), "--nodaemon", "--pidfile=", "gateway"]
        self.spawn([*command, "--config", str(self.config_file)], self.is_ready)
        _, most = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (min(descriptors, most), most))

    def is_ready(self) -> bool:
        try:
            return self._plain(self.metrics_port, "GET", "/readyz").status == 200
        except OSError:
            return False

    def stop(self) -> None:
        """Stop it in order: no error on the way, and nothing unhandled in the log."""
        code = self.end()
        if code is not None:
            log = self.log()
            assert "Traceback" not in log, f"the gateway's log has a traceback\n{log[-8000:]}"
            assert code == 0, f"the gateway exited with {code}\n{log[-4000:]}"

    def rss(self) -> int:
        """Resident memory in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+([0-9]+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def _plain(self, port: int, method: str, path: str, body: Mapping[str, Any] | None = None) -> Answer:
        return ask(http.client.HTTPConnection(HOST, port, timeout=DEADLINE), method, path, body)

    def control(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Answer:
        """An order, over the TCP control port."""
        return self._plain(self.control_port, method, path, body)

    def put(self, ticket: Mapping[str, Any]) -> None:
        """Install *ticket*.

        :raises AssertionError: it is refused.
        """
        answer = self.control("PUT", f"/tickets/{ticket['uuid']}", ticket)
        assert answer.status == 200, answer

    def get(self, ticket_id: str) -> Answer:
        return self.control("GET", f"/tickets/{ticket_id}")

    def renew(self, ticket_id: str, timeout: int) -> Answer:
        return self.control("PATCH", f"/tickets/{ticket_id}", {"timeout": timeout})

    def delete(self, ticket_id: str) -> Answer:
        return self.control("DELETE", f"/tickets/{ticket_id}")

    def sessions(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.control("GET", "/sessions/").json()["sessions"]
        return found

    def url(self, ticket_id: str, host: str = "localhost") -> str:
        return f"https://{host}:{self.port}/images/{ticket_id}"

    def context(self) -> ssl.SSLContext:
        """Trusts the gateway, and nobody else."""
        return ssl.create_default_context(cafile=str(self.ca))

    def client(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("localhost", self.port, context=self.context(), timeout=DEADLINE)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request to the image port, on a connection of its own."""
        return ask(self.client(), method, path, body, headers)

    def connect(self) -> ssl.SSLSocket:
        """A TLS connection to the image port."""
        raw = socket.create_connection((HOST, self.port), DEADLINE)
        return self.context().wrap_socket(raw, server_hostname="localhost")


class Daemon(Peer):
    """The real image daemon; it can be killed and started again on the same port.

    :param pki: CA, certificate and key for TLS; None for plain HTTP.
    :param local: whether it offers its unix socket, ``local_socket``.
    """

    name = "daemon"

    def __init__(
        self, directory: Path, pki: tuple[Path, Path, Path] | None = None, *, local: bool = False
    ) -> None:
        super().__init__(directory)
        self.port = 0
        self.pki = pki
        self.local = local
        self.local_socket = directory / "run" / "local.sock"
        self.control_socket = directory / "run" / "imageio.sock"

    def start(self) -> None:
        """Start it, on its former port if it had one."""
        (self.directory / "run").mkdir(exist_ok=True)
        (self.directory / "daemon" / "conf.d").mkdir(parents=True, exist_ok=True)
        (self.directory / "daemon" / "conf.d" / "50-test.conf").write_text(self._config())
        self.local_socket.unlink(missing_ok=True)
        self.control_socket.unlink(missing_ok=True)
        before = len(self.log()) if self.log_file.exists() else 0
        self.spawn([need_imageio(), "-c", "daemon"], lambda: "Ready for requests" in self.log()[before:])
        found = re.search(r"remote.service listening on \('127\.0\.0\.1', ([0-9]+)\)", self.log()[before:])
        assert found is not None, self.log()
        self.port = int(found[1])

    def _config(self) -> str:
        lines = ["[tls]", f"enable = {str(self.pki is not None).lower()}"]
        if self.pki is not None:
            ca, certificate, key = self.pki
            lines += [f"key_file = {key}", f"cert_file = {certificate}", f"ca_file = {ca}"]
        lines += ["[local]", f"enable = {str(self.local).lower()}", f"socket = {self.local_socket}"]
        lines += ["[daemon]", "poll_interval = 0.1", "run_dir = ./run", "drop_privileges = false"]
        lines += ["systemd_enable = false", "[remote]", f"host = {HOST}", f"port = {self.port}"]
        lines += ["[control]", "transport = unix", f"socket = {self.control_socket}", "remove_timeout = 2"]
        lines += ["[handlers]", "keys = stderr", "[logger_root]", "level = INFO", "handlers = stderr"]
        # Two hundred connections of eight megabytes each are not what is tested.
        lines += ["[backend_file]", f"buffer_size = {MIB}", "[backend_nbd]", f"buffer_size = {MIB}"]
        return "\n".join(lines) + "\n"

    def put(self, ticket: Mapping[str, Any]) -> None:
        """Install *ticket*, over the control socket."""
        path = f"/tickets/{ticket['uuid']}"
        answer = ask(UnixConnection(self.control_socket), "PUT", path, ticket)
        assert answer.status == 200, answer

    def get(self, ticket_id: str) -> Answer:
        return ask(UnixConnection(self.control_socket), "GET", f"/tickets/{ticket_id}")

    def url(self, ticket_id: str) -> str:
        """Where the gateway reaches an image."""
        return f"{'http' if self.pki is None else 'https'}://{HOST}:{self.port}/images/{ticket_id}"


class Nbd(Peer):
    """qemu-nbd: serves one image on a unix socket, or on a port when it has one."""

    name = "nbd"

    def __init__(self, directory: Path, port: int = 0) -> None:
        super().__init__(directory)
        self.port = port

    def start(self, image: Path, image_format: str, *more: str) -> str:
        """Start it.

        :param more: options beside the usual.
        :return: the ``nbd:`` url of the image.
        """
        path = self.directory / "nbd.sock"
        where = [f"--bind={HOST}", f"--port={self.port}"] if self.port else [f"--socket={path}"]
        program = need("qemu-nbd", "apt install qemu-utils")
        command = [program, *where, "--persistent", "--shared=8", f"--format={image_format}"]
        command += ["--discard=unmap", "--detect-zeroes=unmap", *more, str(image)]
        path.unlink(missing_ok=True)
        self.spawn(command, self._listens if self.port else path.exists)
        return f"nbd:{HOST}:{self.port}" if self.port else f"nbd:unix:{path}"

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self.port)) == 0


class Script(Peer):
    """A Python script of ours in a process of its own; the first line it writes is the port it listens on."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        super().__init__(directory)
        self.port = 0

    def start(self, *arguments: str) -> None:
        script = Path(__file__).with_name(f"{self.name}.py")
        self.spawn([sys.executable, str(script), *arguments], lambda: self.log().endswith("\n"))
        self.port = int(self.log().split()[0])
