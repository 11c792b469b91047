"""The light client, image host and consoles, in C: a bottleneck last of all.

Compiled when it is first used, into ``var/bench/light``.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from attrs import frozen

from tests.functional.commands import need
from tests.functional.peers import Peer

_SOURCES = Path(__file__).parent
_PROGRAM = _SOURCES.parents[1] / "var" / "bench" / "light"
#: Bytes a second below which something is wrong, and seconds that anything may take.
_CRAWL = 20 << 20
_PATIENCE = 60.0

#: What a console does: sends all it is asked for, takes all it gets, or gives it back.
CONSOLES = ("flood", "sink", "echo")


def build() -> Path:
    """The program, compiled when it is older than its sources."""
    sources = sorted(_SOURCES.glob("*.c"))
    newest = max(source.stat().st_mtime for source in [*sources, *_SOURCES.glob("*.h")])
    if not _PROGRAM.exists() or _PROGRAM.stat().st_mtime < newest:
        _PROGRAM.parent.mkdir(parents=True, exist_ok=True)
        unfinished = _PROGRAM.with_name(f"light.{os.getpid()}")
        command = [need("gcc", "apt install gcc"), "-std=c11", "-O2", "-Wall", "-Wextra", "-pthread"]
        command += ["-o", str(unfinished), *map(str, sources), "-lssl", "-lcrypto"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise AssertionError(f"gcc (apt install gcc libssl-dev) said\n{done.stderr[-4000:]}")
        unfinished.replace(_PROGRAM)
    return _PROGRAM


@frozen
class Way:
    """Where a client finds an image or a console: a port of localhost and a path.

    :ivar tls: whether the port speaks TLS.
    :ivar tunnel: the path is the target of a CONNECT, or ``-``, and there is no websocket.
    """

    port: int
    path: str
    tls: bool = True
    tunnel: bool = False


@frozen
class Order:
    """What the client is to do; see ``main.c``.

    :ivar mode: ``get``, ``put``, ``ranges`` or ``connect``; with a console ``down``, ``up`` or ``echo``.
    :ivar size: bytes of one request.
    :ivar count: requests of each connection, unless *seconds* are said.
    :ivar rate: bytes a second at most; 0 for as fast as it goes.
    :ivar paths: of the connections, in turns, when each has its own.
    :ivar frame: bytes of each message that ``up`` sends.
    :ivar resume: the TLS session of the connection before.
    """

    mode: str
    way: Way
    size: int = 4096
    connections: int = 1
    count: int = 1
    seconds: float = 0.0
    rate: float = 0.0
    frame: int = 16384
    paths: tuple[str, ...] = ()
    resume: bool = False

    @property
    def limit(self) -> float:
        """Seconds within which it has to be done."""
        return _PATIENCE + self.seconds + self.size * self.connections * self.count / _CRAWL

    def arguments(self) -> list[str]:
        """For the program."""
        named = {
            "to": self.way.port,
            "bytes": self.size,
            "connections": self.connections,
            "count": self.count,
            "seconds": self.seconds,
            "rate": self.rate,
            "frame": self.frame,
        }
        found = [self.mode]
        for name, value in named.items():
            found += [f"--{name}", str(value)]
        for path in self.paths or [self.way.path]:
            found += ["--path", path]
        found += ["--resume"] * self.resume
        return found + ["--tunnel"] * self.way.tunnel


@frozen
class Result:
    """What the client saw; with consoles, from when all of them were open.

    :ivar p50: seconds of a request; so is ``p99``.
    :ivar cpu: seconds that the client itself used.
    """

    requests: int
    bytes: int
    seconds: float
    p50: float
    p99: float
    cpu: float


class Host(Peer):
    """The image host, and consoles on plain TCP.

    :param rate: bytes a second at which it takes an upload; 0 for as they come.
    :ivar tls: a port; ``tcp`` is one that offers ``unix``, a path, by OPTIONS, as image daemons do.
    :ivar consoles: ports, by what the console there does.
    """

    name = "host"

    def __init__(self, directory: Path, certificate: Path, key: Path, rate: float = 0.0) -> None:
        super().__init__(directory)
        self.unix = directory / "host.sock"
        self.tls = self.tcp = 0
        self.consoles: Mapping[str, int] = {}
        self._command = [str(build()), "host", "--certificate", str(certificate), "--key", str(key)]
        self._command += ["--rate", str(rate), "--offer", str(self.unix)]
        self._command += ["tls", "tcp", f"unix:{self.unix}", *CONSOLES]

    def start(self) -> None:
        self.spawn(self._command, lambda: "}" in self.log())
        said: Mapping[str, int] = json.loads(self.log().splitlines()[0])
        self.tls, self.tcp = said["tls"], said["tcp"]
        self.consoles = {kind: said[kind] for kind in CONSOLES}


@frozen
class Running:
    """A client at work."""

    order: Order
    process: subprocess.Popen[bytes]

    def result(self) -> Result:
        """Wait for its end.

        :raises AssertionError: it has failed, or does not end.
        """
        with self.process as process:
            try:
                said, wrong = process.communicate(timeout=self.order.limit)
            except subprocess.TimeoutExpired:
                process.kill()
                raise AssertionError(f"the client does not end: {self.order}") from None
        if process.returncode:
            text = wrong[-2000:].decode("utf-8", "replace")
            raise AssertionError(f"the client failed: {self.order}\n{text}")
        return Result(**json.loads(said))


@frozen
class Client:
    """Starts the light client, which verifies what it reads and whom it talks to."""

    ca: Path

    def start(self, order: Order) -> Running:
        """Let it work beside us."""
        command = [str(build()), *order.arguments()]
        if order.way.tls:
            command += ["--ca", str(self.ca)]
        return Running(order, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE))

    def run(self, order: Order) -> Result:
        """Let it work to its end."""
        return self.start(order).result()
