"""The test case of consoles: a gateway with that service, virtual machines, tickets and signatures."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote
from uuid import uuid4

from tests.functional.case import GatewayCase
from tests.functional.console_client import Console, Refused
from tests.functional.hypervisor import Credentials, Qemu
from tests.functional.peers import Gateway
from tests.functional.processes import HOST, free_port, short_directory, wait_for

PAGE = "https://engine.invalid"
VERSION = b"RFB 003.008\n"
SIGN = Path(__file__).parent / "sign-ticket"


class ConsoleCase(GatewayCase):
    """A gateway with consoles that trusts one authority of hypervisors.

    :cvar consoles: the port.
    :cvar ready: when the gateway was, by the monotonic clock.
    :cvar more: keys of the section beside the usual.
    """

    consoles: ClassVar[int]
    ready: ClassVar[float]
    credentials: ClassVar[Credentials]
    more: ClassVar[dict[str, str]] = {}

    @classmethod
    def setUpClass(cls) -> None:
        cls.home = short_directory()
        cls.addClassCleanup(shutil.rmtree, cls.home, ignore_errors=True)
        donor = cls.home / "donor"
        donor.mkdir()
        cls.credentials = known = Qemu(donor).credentials
        cls.consoles = free_port()
        keys = {"listen": f"tcp:{cls.consoles}:interface={HOST}", "origins": PAGE, **cls.more}
        keys |= {"vnc_ca": str(known.ca), "spice_ca": str(known.ca)}
        keys |= {"client_certificate": str(known.certificate), "client_key": str(known.key)}
        cls.gateway = Gateway(cls.home, {"consoles": keys, **cls.sections})
        cls.addClassCleanup(cls.gateway.stop)
        cls.gateway.start(cls.descriptors)
        cls.ready = time.monotonic()

    def setUp(self) -> None:
        # Those of the test before may still be on their way out, and would be counted.
        wait_for(lambda: not self.gateway.sessions(), "the end of all sessions before")

    def machine(self, *, known: bool = True) -> Qemu:
        """A virtual machine, not started; its certificates are of the authority we trust, if *known*."""
        directory = short_directory()
        self.addCleanup(shutil.rmtree, directory)
        qemu = Qemu(directory)
        if known:
            (directory / "tls").symlink_to(self.home / "donor" / "tls")
            qemu._credentials = self.credentials
        self.addCleanup(qemu.stop)
        return qemu

    def grant(self, url: str, **more: Any) -> str:
        """Install a ticket for a console; return its id."""
        name = str(uuid4())
        ticket = {"uuid": name, "kind": "console", "url": url, "timeout": 300, "ops": ["view", "control"]}
        self.gateway.put({**ticket, **more})
        return name

    def path(self, path: str, *fields: str) -> Console:
        console = Console(self.consoles, self.gateway.ca, path, *fields)
        self.addCleanup(console.line.close)
        return console

    def open(self, url: str, **more: Any) -> Console:
        return self.path(f"/console/{self.grant(url, **more)}", "Sec-WebSocket-Protocol: binary")

    def refused(self, status: int, path: str, *fields: str) -> str:
        with self.assertRaises(Refused) as raised:
            self.path(path, *fields)
        self.assertEqual(raised.exception.status, status, raised.exception.body)
        body: str = raised.exception.body
        return body

    def enter(self, console: Console, security: int = 1) -> None:
        """Go the browser's side of RFB, with this one security type, up to where the desktop is described."""
        self.assertEqual(console.read(12), VERSION)
        console.send(VERSION)
        self.assertEqual(console.read(2), bytes([1, security]))
        console.send(bytes([security]))
        self.assertEqual(console.read(4), bytes(4))
        console.send(b"\1")

    def assert_screen(self, console: Console, security: int = 1) -> None:
        """There is a desktop, with this one security type."""
        self.enter(console, security)
        width, height, _, length = (console.read(size) for size in (2, 2, 16, 4))
        self.assertGreater(int.from_bytes(width) * int.from_bytes(height), 0)
        self.assertIn(b"QEMU", console.read(int.from_bytes(length)))

    def sign(
        self, payload: dict[str, object], *, generation: str = "C", order: str = "java", seconds: float = 115
    ) -> str:
        """A ticket as an engine signs it, good from now on for so many *seconds*."""
        # What was signed before the gateway started may have been used up then.
        time.sleep(max(0.0, self.ready + 1.1 - time.monotonic()))
        pki, now = self.home / "pki", datetime.now(UTC)
        times = [(now + timedelta(seconds=it)).strftime("%Y%m%d%H%M%S") for it in (0, seconds)]
        command = [str(SIGN), str(pki / "engine.key"), str(pki / "engine.pem"), generation, order, *times]
        text = quote(json.dumps(payload), safe="").encode()
        return subprocess.run(command, input=text, capture_output=True, check=True).stdout.decode()

    def trap(self) -> tuple[socket.socket, str]:
        """Where nobody may connect."""
        listener = socket.create_server((HOST, 0))
        self.addCleanup(listener.close)
        listener.settimeout(0.2)
        return listener, f"vnc://{HOST}:{listener.getsockname()[1]}"

    def assert_untouched(self, listener: socket.socket) -> None:
        self.assertRaises(TimeoutError, listener.accept)
