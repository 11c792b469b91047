"""What the kernel's accounts say about a process and its children.

Source: proc(5); clock_getcpuclockid(3), which makes a clock of a process id.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
#: CPUCLOCK_SCHED: user and system time of all threads, in nanoseconds, also of those that ended.
_SCHED = 2


def tree(pid: int) -> Iterator[int]:
    """*pid* and the processes below it."""
    yield pid
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text("ascii").split():
                yield from tree(int(child))


def cpu(pid: int) -> float:
    """CPU seconds, user and system, that *pid* and its children have used; ended children too."""
    used = 0.0
    for each in tree(pid):
        with suppress(OSError):
            used += time.clock_gettime(~each << 3 | _SCHED)
            fields = Path(f"/proc/{each}/stat").read_text("ascii").rpartition(")")[2].split()
            used += (int(fields[13]) + int(fields[14])) / _TICKS
    return used


def forget_peak(pid: int) -> None:
    """Let the peak of memory start from what is resident now."""
    for each in tree(pid):
        with suppress(OSError):
            Path(f"/proc/{each}/clear_refs").write_text("5", "ascii")


def memory(pid: int, line: str = "VmRSS") -> int:
    """Resident bytes of *pid* and its children; ``VmHWM`` for the peak since :func:`forget_peak`."""
    found = 0
    for each in tree(pid):
        with suppress(OSError):
            for text in Path(f"/proc/{each}/status").read_text("utf-8", "replace").splitlines():
                if text.startswith(f"{line}:"):
                    found += int(text.split()[1]) * 1024
    return found


def share(pid: int) -> int:
    """The same, with what several processes share divided among them.

    Source: proc(5), smaps_rollup, Pss.
    """
    found = 0
    for each in tree(pid):
        with suppress(OSError):
            for text in Path(f"/proc/{each}/smaps_rollup").read_text("ascii", "replace").splitlines():
                if text.startswith("Pss:"):
                    found += int(text.split()[1]) * 1024
    return found


def mapped(pid: int, name: str) -> Path | None:
    """The shared library *name* that a process has loaded, by the beginning of its file name."""
    for line in Path(f"/proc/{pid}/maps").read_text("utf-8", "replace").splitlines():
        path = Path(line.split(maxsplit=5)[-1])
        if path.name.startswith(name):
            return path
    return None
