"""The test case that the functional tests with real peers share."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any, ClassVar
from unittest import TestSuite
from uuid import uuid4

from twisted.trial.unittest import SynchronousTestCase

from tests.functional.peers import Gateway, Sections
from tests.functional.processes import short_directory

#: What ``testSuite`` of a module is set to, so that trial finds an empty suite there: these tests block,
#: need real peers and minutes, and the gateway is another process, so that they run under pytest alone.
PYTEST_ONLY = TestSuite


def read_head(connection: socket.socket) -> tuple[bytes, bytes]:
    """The head of an answer, and what came after it."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = connection.recv(65536)
        if not piece:
            raise AssertionError(f"closed in the head: {answer!r}")
        answer += piece
    head, _, rest = answer.partition(b"\r\n\r\n")
    return head, rest


class GatewayCase(SynchronousTestCase):
    """One running gateway for all tests of a class.

    :cvar sections: what its configuration has beside the usual.
    :cvar descriptors: how many files it may open.
    :cvar home: the directory of every process of the class.
    """

    sections: ClassVar[Sections] = {}
    descriptors: ClassVar[int] = 4096
    home: ClassVar[Path]
    gateway: ClassVar[Gateway]

    @classmethod
    def setUpClass(cls) -> None:
        cls.home = short_directory()
        cls.addClassCleanup(shutil.rmtree, cls.home, ignore_errors=True)
        cls.gateway = Gateway(cls.home, cls.sections)
        cls.addClassCleanup(cls.gateway.stop)
        cls.gateway.start(cls.descriptors)

    @classmethod
    def ticket(cls, url: str, **more: Any) -> str:
        """Install a ticket for the image at *url*; return its id."""
        name = str(uuid4())
        ticket = {"uuid": name, "size": 1 << 40, "timeout": 300, "ops": ["read", "write"], "url": url}
        cls.gateway.put({**ticket, **more})
        return name

    def begin(self, request: str) -> socket.socket:
        """Send the head of a request, but for its last line, on a connection of its own."""
        connection = self.gateway.connect()
        self.addCleanup(connection.close)
        connection.sendall(f"{request} HTTP/1.1\r\nhost: localhost\r\n".encode("ascii"))
        return connection
