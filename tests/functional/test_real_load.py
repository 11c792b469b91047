"""What a gateway costs: memory with one slow side, and with thousands of clients."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.functional.case import PYTEST_ONLY, GatewayCase, read_head
from tests.functional.peers import Script, Sections
from tests.functional.processes import HOST, MIB
from tests.functional.zero_host import SIZE as ZEROES
from tests.functional.zero_host import SLOW

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)


class MemoryTests(GatewayCase):
    """Back-pressure holds: a slow side does not fill the gateway with the other side's bytes."""

    GROWTH = 16 * MIB
    host: ClassVar[Script]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.host = Script(cls.home, "zero_host")
        cls.addClassCleanup(cls.host.kill)
        cls.host.start()

    def image(self, path: str) -> str:
        return self.ticket(f"http://{HOST}:{self.host.port}/images/{path}", size=ZEROES)

    @contextmanager
    def growth(self, what: str) -> Iterator[None]:
        """Watch the gateway's memory meanwhile, from after a first transfer of some mebibytes."""
        headers = {"range": f"bytes=0-{16 * MIB - 1}"}
        self.gateway.ask("GET", f"/images/{self.image('warm')}", headers=headers)
        self.gateway.ask("PUT", f"/images/{self.image('warm')}", bytes(16 * MIB))
        before = most = self.gateway.rss()
        done = threading.Event()

        def watch() -> None:
            nonlocal most
            while not done.wait(0.02):
                most = max(most, self.gateway.rss())

        watcher = threading.Thread(target=watch)
        watcher.start()
        begin = time.monotonic()
        try:
            yield
        finally:
            done.set()
            watcher.join()
        seconds = time.monotonic() - begin
        print(  # noqa: T201
            f"{what}: RSS {before / MIB:.1f} MiB, grew by {(most - before) / MIB:.1f} MiB, {seconds:.1f} s"
        )
        self.assertLess(most - before, self.GROWTH)

    def test_slow_reader(self) -> None:
        """4 GiB from a fast host to a client that begins slowly."""
        connection = self.begin(f"GET /images/{self.image('fast')}")
        with self.growth("slow reader"):
            connection.sendall(b"\r\n")
            _, rest = read_head(connection)
            left = ZEROES - len(rest)
            pieces, size, pause = SLOW
            for _ in range(pieces):
                left -= len(connection.recv(size))
                time.sleep(pause)
            buffer = bytearray(MIB)
            while left:
                count = connection.recv_into(buffer)
                self.assertNotEqual(count, 0, f"cut with {left} bytes to go")
                left -= count

    def test_slow_host(self) -> None:
        """4 GiB from a fast client to a host that begins slowly."""
        connection = self.begin(f"PUT /images/{self.image('slow/x')}")
        connection.settimeout(60)
        with self.growth("slow host"):
            connection.sendall(b"content-length: %d\r\n\r\n" % ZEROES)
            piece = bytes(MIB)
            for _ in range(ZEROES // MIB):
                connection.sendall(piece)
            head, _ = read_head(connection)
        self.assertTrue(head.startswith(b"HTTP/1.1 200"), head)


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

    @pytest.mark.timeout(180)
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
        print(f"{what}, {said['seconds']:.1f} s")  # noqa: T201

    def _said(self, load: subprocess.Popen[bytes]) -> dict[str, Any]:
        assert load.stdout is not None
        line = load.stdout.readline()
        self.assertTrue(line, "the clients' process ended")
        said: dict[str, Any] = json.loads(line)
        return said
