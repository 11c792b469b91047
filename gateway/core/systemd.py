"""Tell systemd how we are: the datagrams of ``sd_notify(3)``; nothing happens where nobody listens.

``READY=1`` is for the last service that starts, ``STOPPING=1`` for the first that stops.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Mapping

from gateway.core.masking import clean


def notify(*state: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Send the lines *state*, such as ``READY=1``, to the socket that ``NOTIFY_SOCKET`` names.

    :return: whether it was sent; a full or missing socket is no failure of ours.
    """
    name = environ.get("NOTIFY_SOCKET", "")
    if name[:1] not in ("/", "@"):
        return False
    address = "\0" + name[1:] if name.startswith("@") else name
    try:
        with socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        ) as out:
            out.connect(address)
            out.sendmsg(["\n".join(state).encode()])
    except OSError:
        return False
    return True


def ready(status: str = "", *, environ: Mapping[str, str] = os.environ) -> bool:
    """We serve: after the start, and after each reload."""
    return notify("READY=1", *_status(status), environ=environ)


def reloading(*, environ: Mapping[str, str] = os.environ) -> bool:
    """We read the configuration again; :func:`ready` ends that."""
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    return notify("RELOADING=1", f"MONOTONIC_USEC={now}", environ=environ)


def stopping(status: str = "", *, environ: Mapping[str, str] = os.environ) -> bool:
    """We drain, or go."""
    return notify("STOPPING=1", *_status(status), environ=environ)


def status(text: str, *, environ: Mapping[str, str] = os.environ) -> bool:
    """One line for ``systemctl status``."""
    return notify(*_status(text or "-"), environ=environ)


def watchdog(*, environ: Mapping[str, str] = os.environ) -> bool:
    """We are alive: every third of :func:`watchdog_seconds`."""
    return notify("WATCHDOG=1", environ=environ)


def watchdog_seconds(pid: int, *, environ: Mapping[str, str] = os.environ) -> float | None:
    """After how long a silence systemd restarts the process *pid*; None when it does not watch it."""
    interval = environ.get("WATCHDOG_USEC", "")
    if not re.fullmatch(r"[0-9]{1,18}", interval) or not int(interval):
        return None
    return int(interval) / 1e6 if environ.get("WATCHDOG_PID", str(pid)) == str(pid) else None


def _status(text: str) -> tuple[str, ...]:
    return (f"STATUS={clean(text)}",) if text else ()
