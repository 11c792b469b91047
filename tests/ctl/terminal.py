"""A terminal that tests type at, and a program in it."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence

DEADLINE = 40.0


class Terminal:
    """A program whose standard streams are a terminal of 100 columns.

    :ivar shown: what it has shown that nobody waited for yet.
    """

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], *, more: Mapping[int, int] | None = None
    ) -> None:
        """:param more: further files of ours, by the number that the program knows them by."""
        self.shown = ""
        self._ours, self._theirs = os.openpty()
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        self.before = termios.tcgetattr(self._theirs)
        files = " ".join(f"{there}={ours}" for there, ours in (more or {}).items())
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", _LEADER, files, *command],
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            env={**os.environ, "TERM": "xterm", **env},
            pass_fds=tuple((more or {}).values()),
            start_new_session=True,
        )

    def type(self, text: str) -> None:
        # A signal that comes in the moment before readline waits is only seen with the next key.
        time.sleep(0.1)
        os.write(self._ours, text.encode("utf-8"))

    def until(self, text: str) -> str:
        """All that is shown up to *text*.

        :raises AssertionError: it is not shown in time.
        """
        end = time.monotonic() + DEADLINE
        while text not in self.shown:
            if time.monotonic() > end:
                raise AssertionError(f"{text!r} is not shown, but {self.shown!r}")
            if select.select([self._ours], [], [], 0.1)[0]:
                self.shown += os.read(self._ours, 65536).decode("utf-8", "replace")
        found, _, self.shown = self.shown.partition(text)
        return found + text

    @property
    def restored(self) -> bool:
        """Whether the terminal is as it was."""
        return termios.tcgetattr(self._theirs) == self.before

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)


#: Makes the terminal the one that Ctrl-C is typed at, and moves files where the program looks for them.
_LEADER = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
pairs = [map(int, pair.split("=")) for pair in sys.argv[1].split()]
for there, copy in [(there, fcntl.fcntl(ours, fcntl.F_DUPFD, 100)) for there, ours in pairs]:
    os.dup2(copy, there)
    os.close(copy)
os.execvp(sys.argv[2], sys.argv[2:])
"""
