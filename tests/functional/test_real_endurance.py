"""Nothing is left behind: not by a hundred thousand requests, not by ten thousand broken transfers."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from attrs import field, frozen

from bench import kernel
from bench.light import Host
from tests.functional.case import PYTEST_ONLY, GatewayCase, read_head
from tests.functional.listening import Listening
from tests.functional.peers import Daemon, Nbd, Sections
from tests.functional.processes import DEADLINE, HOST, MIB, ask, wait_for

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

#: Bytes of every image here, and of the piece that it repeats.
SIZE, PATTERN = 16 * MIB, MIB


@frozen
class Held:
    """What a gateway holds when nobody asks anything; threads for files stay when they were wanted once."""

    descriptors: int
    timers: int
    threads: int = field(eq=False)


class FickleHost(Listening):
    """An image host that breaks off in the middle of most heads and bodies, of its own and of uploads."""

    def __init__(self, content: bytes, seed: int) -> None:
        self._content = content
        self._chance = random.Random(seed)
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(AssertionError):
            connection.settimeout(30)
            while self._answer(connection):
                pass
            if self._chance.random() < 0.5:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _answer(self, connection: socket.socket) -> bool:
        """Answer a request; whether that was done in full."""
        head, rest = read_head(connection)
        if head.startswith(b"OPTIONS"):
            body = b'{"features": [], "max_readers": 8, "max_writers": 8}\n'
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
            return True
        if head.startswith(b"GET"):
            place = re.search(rb"(?i)range: bytes=(\d+)-(\d+)", head)
            assert place is not None
            first, last = int(place[1]), int(place[2])
            told = b"HTTP/1.1 206 Partial\r\ncontent-length: %d\r\ncontent-range: bytes %d-%d/%d\r\n\r\n"
            answer = told % (last - first + 1, first, last, SIZE) + self._content[first : last + 1]
        else:
            length = re.search(rb"(?i)content-length: (\d+)", head)
            assert length is not None
            stop = self._stop(int(length[1]))
            received = len(rest)
            while received < stop:
                received += len(connection.recv(65536)) or stop
            answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n" if stop == int(length[1]) else b""
        stop = self._stop(len(answer))
        connection.sendall(answer[:stop])
        return bool(answer) and stop == len(answer)

    def _stop(self, length: int) -> int:
        chance = self._chance.random()
        if chance < 0.4:
            return length
        return self._chance.randint(0, min(length, 200) if chance < 0.5 else length)


class EnduranceTests(GatewayCase):
    """One gateway that a crowd uses, and what it holds once the crowd has gone."""

    REQUESTS, BROKEN = 100_000, 10_000
    #: Bytes of resident memory that the second half of a test may add to the first: 84 for each request,
    #: 1.6 KiB for each broken transfer, whose buffers of mebibytes the garbage collector may find late.
    GROWTH: ClassVar = {"short": 4 * MIB, "broken": 8 * MIB}
    #: Threads for files are made when they are first wanted, and stay.
    FILE_THREADS = 16
    #: Seconds.
    LIMIT = 5
    sections: ClassVar[Sections] = {
        "limits": {
            "header_timeout": f"{LIMIT}s",
            "handshake_timeout": f"{LIMIT}s",
            "body_idle_timeout": f"{LIMIT}s",
            "write_idle_timeout": f"{LIMIT}s",
        },
        "log": {"level": "warn"},
    }
    light: ClassVar[Host]
    daemon: ClassVar[Daemon]
    pattern: ClassVar[Path]
    content: ClassVar[bytes]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        pki = (cls.gateway.ca, cls.gateway.certificate, cls.gateway.key)
        cls.light = Host(cls.home, *pki[1:])
        cls.addClassCleanup(cls.light.kill)
        cls.light.start()
        name = cls.long_ticket(f"https://localhost:{cls.light.tls}/images/x")
        headers = {"range": f"bytes=0-{PATTERN - 1}"}
        piece = cls.gateway.ask("GET", f"/images/{name}", headers=headers).body
        assert len(piece) == PATTERN
        cls.pattern = cls.home / "pattern"
        cls.pattern.write_bytes(piece)
        cls.content = piece * (SIZE // PATTERN)
        cls.daemon = Daemon(cls.home, pki)
        cls.addClassCleanup(cls.daemon.stop)
        cls.daemon.start()

    # -- images of one content -------------------------------------------------------------

    @classmethod
    def long_ticket(cls, url: str) -> str:
        return cls.ticket(url, size=SIZE, timeout=3000)

    def remote(self) -> str:
        """An image of the light host, over TLS."""
        return self.long_ticket(f"https://localhost:{self.light.tls}/images/x")

    def local(self) -> str:
        """One whose host offers a unix socket."""
        return self.long_ticket(f"http://{HOST}:{self.light.tcp}/images/x")

    def _file(self) -> Path:
        path = self.home / "images" / f"{uuid4()}.raw"
        path.write_bytes(self.content)
        return path

    def stored(self) -> str:
        """An image of the gateway's own store."""
        return self.long_ticket(self._file().as_uri())

    def served(self) -> str:
        """An image of the real daemon."""
        name = str(uuid4())
        ticket = {"uuid": name, "size": SIZE, "timeout": 3000, "ops": ["read", "write"]}
        self.daemon.put({**ticket, "url": self._file().as_uri()})
        return self.long_ticket(self.daemon.url(name))

    # -- the crowd -------------------------------------------------------------------------

    def crowd(self, what: str, count: int, tickets: list[str], seed: int) -> dict[str, Any]:
        """Let *count* come and go; return what they saw."""
        order = {
            "what": what,
            "count": count,
            "seed": seed,
            "tickets": tickets,
            "size": SIZE,
            "pattern": str(self.pattern),
            "port": self.gateway.port,
            "ca": str(self.gateway.ca),
        }
        script = Path(__file__).with_name("churn.py")
        used = kernel.cpu(self.gateway.pid)
        done = subprocess.run(
            [sys.executable, str(script), json.dumps(order)], capture_output=True, timeout=500, check=False
        )
        self.assertEqual((done.returncode, done.stderr.decode()), (0, ""))
        said: dict[str, Any] = json.loads(done.stdout)
        used = kernel.cpu(self.gateway.pid) - used
        print(f"{what}: {count} in {said['seconds']:.1f} s, the gateway used {used:.1f} s: {said}")  # noqa: T201 (what was measured)
        return said

    # -- what is held ----------------------------------------------------------------------

    def metric(self, name: str, label: str = "") -> float:
        """The sum of a metric over its labels, or over those that have *label* among them."""
        connection = http.client.HTTPConnection(HOST, self.gateway.metrics_port, timeout=DEADLINE)
        page = ask(connection, "GET", "/metrics").body.decode()
        found: list[tuple[str, str]] = re.findall(rf"(?m)^gateway_{name}(?:{{(.*)}})? (\S+)$", page)
        return sum(float(value) for labels, value in found if label in labels)

    def held(self) -> Held:
        status = Path(f"/proc/{self.gateway.pid}/status").read_text()
        threads = re.search(r"Threads:\s+(\d+)", status)
        assert threads is not None
        time.sleep(0.1)  # what asked last has gone as well
        descriptors = len(os.listdir(f"/proc/{self.gateway.pid}/fd"))
        return Held(descriptors, int(self.metric("timers")), int(threads[1]))

    def calm(self, before: Held | None = None) -> Held:
        """What is held when everybody has gone and the pool of idle connections was emptied.

        :param before: what it should be; it may take a few seconds to be that.
        """
        wait_for(lambda: not self.gateway.sessions(), "no session is left")
        wait_for(lambda: self.metric("connections", 'listener="images"') == 0, "no client is left")
        self.assertEqual(self.gateway.control("POST", "/reload").status, 200)
        # From a refusal on the audit trail has a timer for a minute.
        self.assertEqual(self.gateway.ask("GET", "/images/unknown").status, 403)
        end = time.monotonic() + DEADLINE
        if before is None:
            return self.rest(end)
        while (held := self.held()) != before and time.monotonic() < end:
            pass
        return held

    def rest(self, end: float) -> Held:
        """What is held once that has not changed for longer than any limit of this gateway lasts."""
        held, since = self.held(), time.monotonic()
        while time.monotonic() - since < self.LIMIT + 1:
            self.assertLess(time.monotonic(), end, "there is no rest")
            if (now := self.held()) != held:
                held, since = now, time.monotonic()
        return held

    def endure(self, what: str, count: int, tickets: list[str]) -> list[dict[str, Any]]:
        """Twice half of *count*, and afterwards nothing more is held than before."""
        self.crowd(what, count // 50, tickets, 0)
        before = self.calm()
        said, memory = [], []
        for seed in (1, 2):
            said.append(self.crowd(what, count // 2, tickets, seed))
            after = self.calm(before)
            memory.append(self.gateway.rss())
            print(f"{after}, {memory[-1] / MIB:.1f} MiB")  # noqa: T201 (what was measured)
            self.assertEqual(after, before)
            self.assertLessEqual(after.threads, before.threads + self.FILE_THREADS)
        self.assertLess(memory[1] - memory[0], self.GROWTH[what])
        self.assertEqual(self.metric("incidents_total"), 0)
        log = self.gateway.log()
        for word in ("Traceback", "Unhandled", " ERROR ", " CRITICAL "):
            self.assertNotIn(word, log)
        return said

    @pytest.mark.timeout(600)
    def test_short(self) -> None:
        """A hundred thousand short requests leave nothing."""
        tickets = [make() for make in 2 * [self.remote, self.remote, self.local, self.stored, self.stored]]
        for said in self.endure("short", self.REQUESTS, tickets):
            self.assertGreater(said["connections"], 1000)

    @pytest.mark.timeout(600)
    def test_broken(self) -> None:
        """Ten thousand transfers that break off anywhere, on either side, leave nothing and harm no image."""
        fickle = FickleHost(self.content, 1)
        self.addCleanup(fickle.close)
        makers = [self.remote, self.remote, self.local, self.stored, self.stored, self.served]
        tickets = [make() for make in 2 * makers]
        tickets += [self.long_ticket(f"http://{HOST}:{fickle.port}/images/x") for _ in range(2)]
        nbd = Nbd(self.home)
        self.addCleanup(nbd.stop)
        tickets += [self.long_ticket(nbd.start(self._file(), "raw"))]
        for said in self.endure("broken", self.BROKEN, tickets):
            self.assertEqual(said["wrong"], [])
            # These are the gateway's doing: with the fickle host there are some, and few.
            self.assertLess(said["seen"]["gone"], self.BROKEN / 2 / 20)
        for image in (self.home / "images").iterdir():
            self.assertEqual(image.read_bytes(), self.content)
