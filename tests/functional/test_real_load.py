"""What a gateway costs: memory with one slow side, and with thousands of clients."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from attrs import evolve

from bench import kernel
from bench.light import Client, Host, Order, Way
from tests.functional.case import PYTEST_ONLY, GatewayCase
from tests.functional.peers import Script, Sections
from tests.functional.processes import HOST, MIB
from tests.functional.zero_host import SIZE as ZEROES

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)


class MemoryTests(GatewayCase):
    """Back-pressure holds: a slow side does not fill the gateway with the other side's bytes."""

    SIZE, GROWTH = 4096 * MIB, 4 * MIB
    #: Bytes a second of the slow side; the other goes as fast as it may.
    RATE = 300.0 * MIB

    def setUp(self) -> None:
        """Each transfer is the first of its gateway."""
        self.gateway.stop()
        self.gateway.start(self.descriptors)

    def way(self, url: str) -> Way:
        return Way(self.gateway.port, f"/images/{self.ticket(url)}")

    def remote(self, *, rate: float = 0.0) -> Way:
        """An image on a host of its own, over TLS."""
        directory = self.home / uuid4().hex
        directory.mkdir()
        host = Host(directory, self.gateway.certificate, self.gateway.key, rate)
        self.addCleanup(host.kill)
        host.start()
        return self.way(f"https://localhost:{host.tls}/images/x")

    def stored(self) -> Way:
        """A file of 1 GiB, written by a gateway before this one."""
        path = self.home / "images" / "image.raw"
        path.touch()
        self.addCleanup(path.unlink)
        Client(self.gateway.ca).run(Order("put", self.way(path.as_uri()), 256 * MIB, count=4))
        self.setUp()
        return self.way(path.as_uri())

    def check(self, order: Order) -> None:
        """The gateway's memory does not grow, after a first request of four kibibytes."""
        client, pid = Client(self.gateway.ca), self.gateway.pid
        client.run(evolve(order, size=4096, count=1))
        kernel.forget_peak(pid)
        before = kernel.memory(pid)
        took = client.run(order).seconds
        growth = kernel.memory(pid, "VmHWM") - before
        print(  # noqa: T201 (what was measured)
            f"{self.id()}: RSS {before / MIB:.1f} MiB, grew by {growth / MIB:.1f} MiB, {took:.1f} s"
        )
        self.assertLess(growth, self.GROWTH)

    def test_slow_reader(self) -> None:
        """4 GiB from a fast host to a slow client."""
        self.check(Order("get", self.remote(), self.SIZE, rate=self.RATE))

    def test_slow_host(self) -> None:
        """4 GiB from a fast client to a slow host."""
        self.check(Order("put", self.remote(rate=self.RATE), self.SIZE))

    def test_slow_reader_of_file(self) -> None:
        """4 GiB from a file to a slow client."""
        self.check(Order("get", self.stored(), self.SIZE // 16, count=16, rate=self.RATE))

    def test_file_written(self) -> None:
        """4 GiB from a fast client into a file, where the disk is the slow side."""
        self.check(Order("put", self.stored(), self.SIZE // 16, count=16))


class LoadTests(GatewayCase):
    """Two thousand idle connections, and two hundred transfers at once."""

    IDLE, TRANSFERS, TICKETS = 2000, 200, 25
    descriptors: ClassVar[int] = 8192
    sections: ClassVar[Sections] = {
        "limits": {
            "connections": "4096",
            "connections_per_address": "4096",
            "unauthenticated": "4096",
            "unauthenticated_per_address": "4096",
            "accept_rate": "10000",
            "accept_rate_per_address": "10000",
            "handshakes": "1024",
            "keepalive_timeout": "300s",
        }
    }

    @pytest.mark.timeout(300)
    def test_load(self) -> None:
        """None is dropped, none fails, and an idle connection costs little."""
        host = Script(self.home, "zero_host")
        self.addCleanup(host.kill)
        host.start()
        url = f"http://{HOST}:{host.port}/images/x"
        tickets = [self.ticket(url, size=ZEROES, inactivity_timeout=300) for _ in range(self.TICKETS)]
        self.gateway.ask("OPTIONS", f"/images/{tickets[0]}")
        before = self.gateway.rss()
        script = Path(__file__).with_name("load.py")
        numbers = (self.gateway.port, self.gateway.ca, self.IDLE, self.TRANSFERS)
        command = [sys.executable, str(script), *map(str, numbers), *tickets]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as load:
            try:
                assert load.stdin is not None and load.stdout is not None
                idle = self._said(load)
                self.assertEqual((idle["connected"], idle["wrong"]), (self.IDLE, []))
                cost = (self.gateway.rss() - before) / self.IDLE
                self._tell(f"{self.IDLE} idle TLS connections: {cost / 1024:.1f} KiB each", idle)
                load.stdin.write(b"\n")
                load.stdin.flush()
                end = self._said(load)
                self._tell(f"{self.TRANSFERS} transfers of 4 MiB at once", end)
                self.assertEqual(end["wrong"], [])
            finally:
                load.kill()
        self.assertLess(cost, 128 * 1024)

    def _tell(self, what: str, said: dict[str, Any]) -> None:
        print(f"{what}, {said['seconds']:.1f} s")  # noqa: T201 (what was measured)

    def _said(self, load: subprocess.Popen[bytes]) -> dict[str, Any]:
        assert load.stdout is not None
        line = load.stdout.readline()
        self.assertTrue(line, "the clients' process ended")
        said: dict[str, Any] = json.loads(line)
        return said
