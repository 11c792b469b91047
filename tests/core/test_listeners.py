"""Listeners, on loopback: what is taken ends the start, what is left over does not."""

from __future__ import annotations

import gc
import os
import socket
import stat
import tempfile
import warnings
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from shutil import rmtree
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase

from gateway.core.listeners import Listener, is_local
from tests.support import ReactorTestCase


class LocalTests(SynchronousTestCase):
    """:func:`is_local`."""

    def test_addresses(self) -> None:
        """All of loopback is this machine's, and what is for documentation is nobody's."""
        for text in ("127.0.0.1", "127.9.8.7"):
            self.assertTrue(is_local(ip_address(text)), text)
        for text in ("192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"):
            self.assertFalse(is_local(ip_address(text)), text)


class ListenerTests(ReactorTestCase):
    """One endpoint."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="gw-"))
        self.addCleanup(rmtree, self.directory)
        self.path = self.directory / "deep" / "control.sock"

    def listen(self, endpoint: str, protocol: Callable[[], Protocol] = Protocol) -> Listener:
        from twisted.internet import reactor

        listener = Listener(reactor, endpoint, Factory.forProtocol(protocol), 5)
        self.addCleanup(listener.stopService)
        listener.privilegedStartService()
        listener.startService()
        return listener

    def refused(self, endpoint: str) -> None:
        """Starting fails, and names what could not be had."""
        with warnings.catch_warnings():
            # Twisted leaves the socket of a failed unix listener to the garbage collector.
            warnings.simplefilter("ignore", ResourceWarning)
            error = self.assertRaises(SystemExit, self.listen, endpoint)
            self.assertIn(endpoint, str(error))
            del error
            gc.collect()

    @staticmethod
    def number(listener: Listener) -> int:
        port: Any = listener.port
        answer: int = port.getHost().port
        return answer

    def test_listens(self) -> None:
        """It listens as soon as it was started, and knows where."""
        port = self.number(self.listen("tcp:0:interface=127.0.0.1"))
        socket.create_connection(("127.0.0.1", port), 5).close()

    def test_backlog(self) -> None:
        """The backlog is set where the endpoint does not say."""
        one = self.listen("tcp:0:interface=127.0.0.1")
        two = self.listen("tcp:0:interface=127.0.0.1:backlog=7")
        ports: list[Any] = [one.port, two.port]
        self.assertEqual([port.backlog for port in ports], [5, 7])

    def test_no_delay(self) -> Deferred[None]:
        """No byte of an answer waits for the client to acknowledge the one before it."""
        made: Deferred[int] = Deferred()

        class Accepted(Protocol):
            transport: Any

            def connectionMade(self) -> None:
                handle: socket.socket = self.transport.getHandle()
                self.transport.loseConnection()
                made.callback(handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

        port = self.number(self.listen("tcp:0:interface=127.0.0.1", Accepted))
        client = socket.create_connection(("127.0.0.1", port), 5)
        self.addCleanup(client.close)
        return made.addCallback(self.assertEqual, 1)

    def test_taken(self) -> None:
        """A port that is taken fails the start: nobody lives on deaf."""
        port = self.number(self.listen("tcp:0:interface=127.0.0.1"))
        self.refused(f"tcp:{port}:interface=127.0.0.1")

    def test_stops(self) -> Deferred[None]:
        """A stopped listener listens no more."""
        listener = self.listen("tcp:0:interface=127.0.0.1")
        port = self.number(listener)

        def check(_: None) -> None:
            self.assertIsNone(listener.port)
            self.assertRaises(ConnectionRefusedError, socket.create_connection, ("127.0.0.1", port), 5)

        return listener.stopService().addCallback(check)

    def stale(self) -> None:
        """Leave a socket behind as a process does that is killed."""
        self.path.parent.mkdir()
        left = socket.socket(socket.AF_UNIX)
        left.bind(str(self.path))
        left.close()

    def connect(self) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.path))

    def test_unix(self) -> None:
        """A unix socket has its mode, and its directory is made."""
        self.listen(f"unix:{self.path}:mode=660")
        self.connect()
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o660)
        self.assertEqual(stat.S_IMODE(self.path.parent.stat().st_mode) & 0o007, 0)

    def test_stale(self) -> None:
        """The socket of a process that is gone is replaced."""
        self.stale()
        self.assertRaises(ConnectionRefusedError, self.connect)
        self.listen(f"unix:{self.path}:mode=660")
        self.connect()

    def test_escaped(self) -> None:
        """So is one whose path has to be escaped in an endpoint."""
        self.path = self.directory / "a:b" / "control.sock"
        self.stale()
        self.listen("unix:" + str(self.path).replace(":", "\\:"))
        self.connect()

    def test_living(self) -> None:
        """That of a living one is not: the start fails, and the other goes on."""
        self.path.parent.mkdir()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(self.path))
            other.listen(8)
            self.refused(f"unix:{self.path}")
            self.connect()

    def test_second_gateway(self) -> None:
        """A gateway that is running already is named as the likely cause."""
        self.listen(f"unix:{self.path}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            error = self.assertRaises(SystemExit, self.listen, f"unix:{self.path}")
            self.assertIn("is a gateway running already?", str(error))
            del error
            gc.collect()

    def test_no_socket(self) -> None:
        """A file that is no socket is never removed."""
        self.path.parent.mkdir()
        self.path.write_text("precious")
        self.refused(f"unix:{self.path}")
        self.assertEqual(self.path.read_text(), "precious")

    def test_link(self) -> None:
        """Nor is what a link points to."""
        self.path.parent.mkdir()
        target = self.directory / "precious"
        target.write_text("x")
        os.symlink(target, self.path)
        self.refused(f"unix:{self.path}")
        self.assertEqual(target.read_text(), "x")
