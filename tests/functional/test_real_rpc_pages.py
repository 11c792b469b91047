"""What the endpoint gives a ticket for, seen by a browser: the screen of a guest behind libvirt."""

from __future__ import annotations

import json
import sys
from typing import ClassVar

from tests.functional.case import PYTEST_ONLY
from tests.functional.commands import run
from tests.functional.daemon_case import daemon_of
from tests.functional.hypervisor import Screen
from tests.functional.libvirt_daemon import Libvirtd
from tests.functional.page_case import PageCase, close_browser, digest
from tests.functional.processes import HOST, free_port, wait_for

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)
tearDownModule = close_browser


class GraphicsTests(PageCase):
    """A libvirtd with one guest, and the gateway before it."""

    daemon: ClassVar[Libvirtd]
    rpc: ClassVar[int]

    @classmethod
    def setUpClass(cls) -> None:
        cls.daemon = daemon_of(cls)
        cls.daemon.tiny()
        cls.rpc = free_port()
        cls.sections = {
            "web": {"listen": "tcp:0:interface=127.0.0.1"},
            "rpc": {"listen": f"tcp:{cls.rpc}:interface={HOST}"},
            "target lab": {"uri": cls.daemon.url("qemu")},
        }
        super().setUpClass()

    def ask(self, *words: str) -> dict[str, str]:
        """What the command line of the endpoint answers."""
        control = ("--control", f"http://{HOST}:{self.gateway.control_port}")
        place = ("--connect", f"localhost:{self.rpc}", "--ca", str(self.gateway.ca), "--target", "lab")
        command = [sys.executable, "-m", "gateway.ctl", "rpc", "--json", *control, *place, *words]
        found: dict[str, str] = json.loads(run(command))
        return found

    def screen(self) -> Screen:
        """What the guest shows right now, as QEMU itself has it."""
        path = self.daemon.home / "screen.ppm"
        self.daemon.virsh("qemu-monitor-command", "tiny", "--hmp", f"screendump {path}")
        _, size, _, rgb = path.read_bytes().split(b"\n", 3)
        width, height = map(int, size.split())
        return Screen(width, height, rgb)

    def test_graphics(self) -> None:
        """The ticket of Graphics opens the guest's screen in the page, pixel for pixel."""
        wait_for(lambda: self.screen().lit > 2000, "the firmware")
        link = self.ask("graphics", "tiny")
        self.show(link["ticket"])
        self.browser.until("state", "Connected")
        wait_for(lambda: self.seen() == digest(self.screen()), "the same picture")
        self.daemon.virsh("reset", "tiny")
        wait_for(lambda: self.seen() == digest(self.screen()), "the picture after a reset")
