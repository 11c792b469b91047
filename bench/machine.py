"""Where figures were made: they are worth nothing without."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
from pathlib import Path


def describe() -> dict[str, str]:
    """Processor, cores, kernel and the load before the first run."""
    return {
        "cpu": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / (1 << 30):.0f} GiB",
        "kernel": platform.release(),
        "load": load(),
    }


def load() -> str:
    """The load averages of one and five minutes."""
    return " ".join(f"{each:.2f}" for each in os.getloadavg()[:2])


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def openssl_of(libcrypto: Path) -> str:
    """The version that the shared library *libcrypto* says it has."""
    say = ctypes.CDLL(str(libcrypto)).OpenSSL_version
    say.restype, say.argtypes = ctypes.c_char_p, [ctypes.c_int]
    return short(say(0).decode("ascii"))


def short(version: str) -> str:
    """``OpenSSL 3.0.22 1 Jan 2030 (Library: ...)`` without what nobody compares."""
    return version.split()[1]


def said(*command: str) -> str:
    """All that *command* writes; nothing when it fails or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=30, check=False)
    except OSError:
        return ""
    return (done.stdout + done.stderr).decode("utf-8", "replace") if done.returncode == 0 else ""


def commit() -> str:
    """The commit that last changed the gateway, with ``+`` when files changed since; empty without git."""
    git = ("git", "-C", str(Path(__file__).resolve().parents[1]))
    found = said(*git, "log", "-1", "--format=%h", "--abbrev=10", "--", "gateway").strip()
    return found + "+" * bool(said(*git, "status", "--porcelain", "--", "gateway"))
