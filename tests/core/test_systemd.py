"""Tests for gateway.core.systemd."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from gateway.core import systemd


class NotifyTests(SynchronousTestCase):
    """Datagrams reach a real socket."""

    def listen(self, address: str) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(listener.close)
        listener.bind(address)
        listener.settimeout(2)
        return listener

    def test_path(self) -> None:
        """All states arrive, in the words of sd_notify."""
        path = self.mktemp()
        listener = self.listen(path)
        environ = {"NOTIFY_SOCKET": str(Path(path).absolute())}
        self.assertTrue(systemd.ready("up", environ=environ))
        self.assertEqual(listener.recv(999), b"READY=1\nSTATUS=up")
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self.assertTrue(systemd.reloading(environ=environ))
        first, second = listener.recv(999).split(b"\n")
        self.assertEqual(first, b"RELOADING=1")
        self.assertTrue(second.startswith(b"MONOTONIC_USEC="))
        self.assertGreaterEqual(int(second.partition(b"=")[2]), before)
        systemd.stopping(environ=environ)
        self.assertEqual(listener.recv(999), b"STOPPING=1")
        systemd.watchdog(environ=environ)
        self.assertEqual(listener.recv(999), b"WATCHDOG=1")

    def test_abstract(self) -> None:
        """A name that begins with @ is an abstract socket."""
        name = f"gateway-test-{id(self)}"
        listener = self.listen("\0" + name)
        self.assertTrue(systemd.notify("READY=1", environ={"NOTIFY_SOCKET": "@" + name}))
        self.assertEqual(listener.recv(999), b"READY=1")

    def test_status_is_one_line(self) -> None:
        """A line end in a status cannot add a state."""
        name = f"gateway-status-{id(self)}"
        listener = self.listen("\0" + name)
        systemd.status("a\nREADY=1", environ={"NOTIFY_SOCKET": "@" + name})
        self.assertEqual(listener.recv(999), b"STATUS=a\\nREADY=1")

    def test_nobody(self) -> None:
        """Without a socket, or with a dead one, nothing happens."""
        for environ in (
            {},
            {"NOTIFY_SOCKET": ""},
            {"NOTIFY_SOCKET": "vsock:1:2"},
            {"NOTIFY_SOCKET": "/nowhere/x"},
        ):
            self.assertFalse(systemd.ready(environ=environ))

    def test_full(self) -> None:
        """A socket that nobody reads does not block us."""
        name = f"gateway-full-{id(self)}"
        self.listen("\0" + name)
        sent = [systemd.watchdog(environ={"NOTIFY_SOCKET": "@" + name}) for _ in range(2000)]
        self.assertFalse(sent[-1])

    def test_watchdog_seconds(self) -> None:
        """The interval is ours only when the process is."""
        self.assertEqual(systemd.watchdog_seconds(7, environ={"WATCHDOG_USEC": "30000000"}), 30.0)
        self.assertIsNone(systemd.watchdog_seconds(7, environ={"WATCHDOG_USEC": "1", "WATCHDOG_PID": "8"}))
        for bad in ("", "0", "x", "-1"):
            self.assertIsNone(systemd.watchdog_seconds(7, environ={"WATCHDOG_USEC": bad}))
