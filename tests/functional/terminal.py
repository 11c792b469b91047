"""A program at a terminal, played from a test: what it shows is waited for, what a user types is sent."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from tests.functional.commands import need
from tests.functional.processes import DEADLINE


class Terminal:
    """Runs *command* at a terminal of its own, which controls it: Ctrl-C and prompts of passwords work.

    :ivar shown: all that it has written, and the echo of what was typed.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.shown = b""
        self._master, slave = pty.openpty()
        try:
            self._process = subprocess.Popen(
                [need("setsid", "apt install util-linux"), "--ctty", *command],
                stdin=slave,
                stdout=slave,
                stderr=slave,
                env={"TERM": "dumb", **environment},
            )
        finally:
            os.close(slave)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def hides(self) -> bool:
        """What is typed is not shown."""
        return not termios.tcgetattr(self._master)[3] & termios.ECHO

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._master, text.encode())

    def expect(self, text: str, deadline: float = DEADLINE) -> float:
        """Wait until *text* was shown since the last time; return when, on the monotonic clock.

        :raises AssertionError: it is not, or the program has ended.
        """
        end = time.monotonic() + deadline
        while (at := self.shown.find(text.encode())) < 0:
            if not self._read(end - time.monotonic()):
                raise AssertionError(f"no {text!r} at the terminal: {self.shown[-2000:]!r}")
        now = time.monotonic()
        self.shown = self.shown[at + len(text.encode()) :]
        return now

    def end(self, deadline: float = DEADLINE) -> int:
        """Wait for the program to end by itself; return its exit code."""
        end = time.monotonic() + deadline
        while self._read(end - time.monotonic()):
            pass
        return self._process.wait(max(0.1, end - time.monotonic()))

    def close(self) -> None:
        """End the program, if it runs."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        with suppress(OSError):
            os.close(self._master)

    def _read(self, patience: float) -> bool:
        """Take in what comes; return whether anything did."""
        if not select.select([self._master], [], [], max(0.0, patience))[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # nobody has the other end any more
            return False
        self.shown += data
        return bool(data)
