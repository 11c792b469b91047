"""Processes that the tests start, and HTTP to them.

A process runs below one short temporary directory and is ended by its process id.
"""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

MIB = 1 << 20
HOST = "127.0.0.1"
DEADLINE = 40.0
#: Seconds for a program to start in: it may have to wait for its turn.
START = 100.0


def short_directory() -> Path:
    """A directory whose name is short enough for unix sockets in it (108 bytes at most)."""
    return Path(tempfile.mkdtemp(prefix="gw-", dir="/var/tmp"))


#: Ports that were given away last: bound without listening, so that nobody else gets them by chance.
_held: deque[socket.socket] = deque()
_MOST_HELD = 256


def free_port(port: int = 0) -> int:
    """A port that nobody listens on, and that no other test gets while this one has it.

    It stays bound, and refuses. Whoever listens with ``SO_REUSEADDR``, as every server does, may have it too.

    :param port: the one that it has to be.
    :raises OSError: this one is in use.
    """
    if len(_held) == _MOST_HELD:
        _held.popleft().close()
    holder = socket.socket()
    _held.append(holder)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind((HOST, port))
    found: int = holder.getsockname()[1]
    return found


def wait_for(true: Callable[[], object], what: str, deadline: float = DEADLINE) -> None:
    """Poll until *true* says so.

    :raises AssertionError: it does not within *deadline* seconds.
    """
    end = time.monotonic() + deadline
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline} s: {what}")
        time.sleep(0.02)


def best_of(attempt: Callable[[], float], most: float, tries: int = 10) -> float:
    """The best of several figures, as seconds, as soon as one is good: what else runs here only adds to it.

    The pauses in between grow, so that the last is not taken in the same busy moment as the first.

    :raises AssertionError: all are more than *most*.
    """
    figures: list[float] = []
    while not figures or figures[-1] > most:
        if len(figures) == tries:
            raise AssertionError(f"more than {most} each time: {figures}")
        if figures:
            time.sleep(min(0.05 * 2 ** len(figures), 5.0))
        figures.append(attempt())
    return figures[-1]


@frozen
class Answer:
    """An HTTP answer with its whole body; the names of header fields are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=DEADLINE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    close: bool = True,
) -> Answer:
    """One request, and its answer; a mapping as *body* is sent as JSON."""
    if isinstance(body, Mapping):
        body = json.dumps(body).encode("ascii")
    try:
        connection.request(method, path, body=body, headers=dict(headers or {}))
        response = connection.getresponse()
        fields = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, fields, response.read())
    finally:
        if close:
            connection.close()


class Peer:
    """A process with a log file; its end is awaited."""

    name = "peer"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log_file = directory / f"{self.name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        """All it has written."""
        return self.log_file.read_text("utf-8", "replace")

    def spawn(
        self, command: Sequence[str], ready: Callable[[], object], env: Mapping[str, str] | None = None
    ) -> None:
        """Start *command* in the directory and wait until it is *ready*."""
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env
            )
        process = self._process
        try:
            wait_for(lambda: process.poll() is not None or ready(), f"{self.name} ready", START)
            if process.poll() is not None:
                raise AssertionError(f"{self.name} ended with {process.returncode}")
        except AssertionError as error:
            self.kill()
            raise AssertionError(f"{error}\n{self.log()[-4000:]}") from None

    def end(self, number: int = signal.SIGTERM) -> int | None:
        """Send a signal and wait for the exit code; None when it does not run."""
        process, self._process = self._process, None
        if process is None:
            return None
        if process.poll() is None:
            process.send_signal(number)
        try:
            return process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"{self.name} does not end\n{self.log()[-4000:]}") from None

    def kill(self) -> None:
        self.end(signal.SIGKILL)

    def stop(self) -> None:
        self.end()
