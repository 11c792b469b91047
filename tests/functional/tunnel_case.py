"""The test case of tunnels: a gateway with that service, clients by hand, and the real ones."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import struct
import subprocess
from base64 import b64encode
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

from gateway.core.ticket import fingerprint
from tests.functional.case import GatewayCase
from tests.functional.commands import need
from tests.functional.hypervisor import Qemu, Screen
from tests.functional.peers import Gateway
from tests.functional.processes import DEADLINE, HOST, free_port, short_directory, wait_for

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
#: How TLS begins.
HELLO = b"\x16\x03\x01\x00\x05hello"


def basic(ticket: str, user: str = "ticket") -> str:
    """The field that shows a ticket."""
    return f"Proxy-Authorization: Basic {b64encode(f'{user}:{ticket}'.encode()).decode()}"


class Client:
    """A connection to the port of tunnels.

    :ivar status: of the answer, once :meth:`connect` was called; 0 when there was none.
    """

    def __init__(self, port: int, *, ca: Path | None = None, source: str = HOST) -> None:
        self.line: socket.socket = socket.create_connection(
            (HOST, port), DEADLINE, source_address=(source, 0)
        )
        if ca is not None:
            context = ssl.create_default_context(cafile=str(ca))
            self.line = context.wrap_socket(self.line, server_hostname=HOST)
        self.status = 0
        self.head = b""

    def connect(self, target: str, *fields: str, early: bytes = b"", version: str = "1.0") -> int:
        """Ask for a tunnel; return the status."""
        self.send(
            "\r\n".join([f"CONNECT {target} HTTP/{version}", f"Host: {target}", *fields, "", ""]), early
        )
        return self.answer()

    def send(self, text: str, early: bytes = b"") -> None:
        self.line.sendall(text.encode("latin-1") + early)

    def answer(self) -> int:
        """Read the head of an answer, and no byte more."""
        while not self.head.endswith(b"\r\n\r\n") and (piece := self.line.recv(1)):
            self.head += piece
        self.status = int(self.head.split()[1]) if self.head else 0
        return self.status

    def read(self, size: int) -> bytes:
        """So many bytes, or fewer at the end."""
        found = bytearray()
        while len(found) < size and (piece := self.line.recv(size - len(found))):
            found += piece
        return bytes(found)

    def over(self) -> bool:
        """Whether it ends, reset or in order, without a byte."""
        try:
            return self.line.recv(1) == b""
        except ConnectionError:
            return True

    def reset(self) -> None:
        self.line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.line.close()


class TunnelCase(GatewayCase):
    """A gateway with tunnels.

    :cvar plain: the port for clients without TLS, and ``secure`` that with.
    :cvar more: keys of the section beside the usual.
    """

    plain: ClassVar[int]
    secure: ClassVar[int]
    more: ClassVar[dict[str, str]] = {}

    @classmethod
    def setUpClass(cls) -> None:
        cls.home = short_directory()
        cls.addClassCleanup(shutil.rmtree, cls.home, ignore_errors=True)
        cls.plain, cls.secure = free_port(), free_port()
        keys = {
            "listen": f"tcp:{cls.plain}:interface={HOST}",
            "tls_listen": f"tcp:{cls.secure}:interface={HOST}",
            **cls.more,
        }
        log = {"format": "json", "level": "debug", "audit": "audit.log"}
        cls.gateway = Gateway(cls.home, {"tunnel": keys, "log": log, **cls.sections})
        cls.addClassCleanup(cls.gateway.stop)
        cls.gateway.start(cls.descriptors)

    def grant(self, *urls: str, **more: Any) -> str:
        """Install a ticket for tunnels; return its id."""
        name = str(uuid4())
        ticket = {"uuid": name, "kind": "tunnel", "urls": list(urls), "timeout": 300, "ops": ["connect"]}
        self.gateway.put({**ticket, **more})
        return name

    def client(self, **more: Any) -> Client:
        client = Client(self.plain, **more)
        self.addCleanup(client.line.close)
        return client

    def status(self, target: str, *fields: str, **more: Any) -> int:
        """Of the answer to a CONNECT."""
        return self.client().connect(target, *fields, **more)

    def open(self, target: str, ticket: str, **more: Any) -> Client:
        """A tunnel that is up."""
        client = self.client(**more)
        self.assertEqual(client.connect(target, basic(ticket)), 200, client.head)
        return client

    def proxy(self, ticket: str = "", *, tls: bool = False) -> str:
        """The address of the gateway as clients take it."""
        shown = f"ticket:{ticket}@" if ticket else ""
        return f"https://{shown}{HOST}:{self.secure}" if tls else f"http://{shown}{HOST}:{self.plain}"

    def trail(self, event: str = "session.close") -> list[dict[str, Any]]:
        """What the audit trail says of tunnels."""
        # What stands after the last line end is still being written.
        lines = (self.home / "audit.log").read_text("utf-8").split("\n")[:-1]
        found = [json.loads(line) for line in lines if event in line]
        return [it for it in found if it.get("kind") == "tunnel"]

    def closed(self, ticket: str) -> list[dict[str, Any]]:
        """What the audit trail says of the tunnels of *ticket* alone, once no tunnel is up.

        Those of a test before may still be closing, and their records come late.
        """
        wait_for(lambda: not self.gateway.sessions(), "no tunnel is up")
        return [it for it in self.trail() if it.get("ticket") == fingerprint(ticket)]

    def written(self) -> str:
        """Everything that the gateway has written."""
        return self.gateway.log() + (self.home / "audit.log").read_text("utf-8")


def machine(case: Any, password: str = "", *, tls: bool = False) -> Qemu:
    """A virtual machine with SPICE whose guest has greeted.

    :param case: the class of tests that it is for.
    """
    directory = short_directory()
    case.addClassCleanup(shutil.rmtree, directory)
    qemu = Qemu(directory).spice(password=password, tls=tls)
    case.addClassCleanup(qemu.stop)
    qemu.start()
    qemu.wait_for_screen()
    return qemu


def screenshot(
    file: Path, *where: str, proxy: str = "", ca: Path | None = None, trust: Path | None = None
) -> int:
    """Have spicy-screenshot look at a machine; return how it exits.

    :param ca: of the machine, where the channels have TLS.
    :param trust: of the proxy, which the client looks for among those of the system.
    """
    file.unlink(missing_ok=True)
    program = need("spicy-screenshot", "apt install spice-client-gtk")
    command = ["timeout", f"{DEADLINE:.0f}", program, *where, "-o", str(file)]
    env = {name: value for name, value in os.environ.items() if name not in ("SPICE_PROXY", "SSL_CERT_FILE")}
    if proxy:
        env["SPICE_PROXY"] = proxy
    if ca is not None:
        env["SSL_CERT_FILE"] = str(ca)
    if trust is not None:
        command = trusting(file.parent, trust, command)
    return subprocess.run(command, env=env, capture_output=True, check=False).returncode


def trusting(directory: Path, ca: Path, command: list[str]) -> list[str]:
    """*command* where *ca* is among the authorities of the system, for it alone; only root may do that."""
    system = Path("/etc/ssl/certs/ca-certificates.crt")
    bundle = directory / "bundle.crt"
    bundle.write_bytes((system.read_bytes() if system.exists() else b"") + ca.read_bytes())
    mount = 'mount --bind "$0" /etc/ssl/certs/ca-certificates.crt && exec "$@"'
    return ["unshare", "-m", "sh", "-c", mount, str(bundle), *command]


def picture(file: Path) -> Screen:
    """What a client saw."""
    magic, size, depth, rgb = file.read_bytes().split(b"\n", 3)
    assert (magic, depth) == (b"P6", b"255"), magic
    width, height = map(int, size.split())
    return Screen(width, height, rgb)
