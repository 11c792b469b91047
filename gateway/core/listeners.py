"""What listens: one service for each endpoint, which fails at start when its port is taken."""

from __future__ import annotations

import os
import re
import socket
import stat
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory

_UNIX_PATH = re.compile(r"unix:(?:address=)?((?:[^:\\]|\\.)+)")


def is_local(address: IPv4Address | IPv6Address) -> bool:
    """Whether *address* is one of this machine's, as the kernel knows it now."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


class Listener(Service):
    """Listens on one endpoint as long as it runs.

    :ivar endpoint: a Twisted endpoint string.
    :ivar port: what listens, None when nothing does.
    """

    def __init__(self, reactor: Any, endpoint: str, factory: IProtocolFactory, backlog: int) -> None:
        self.endpoint = endpoint
        self.port: IListeningPort | None = None
        text = endpoint
        if endpoint.startswith("tcp:") and "backlog=" not in endpoint:
            text = f"{endpoint}:backlog={backlog}"
        self._service = StreamServerEndpointService(serverFromString(reactor, text), factory)
        # As twisted.application.strports does: a taken port ends the start.
        self._service._raiseSynchronously = True

    def privilegedStartService(self) -> None:
        match = _UNIX_PATH.match(self.endpoint)
        if match:
            _remove_stale(Path(re.sub(r"\\(.)", r"\1", match[1])))
        try:
            self._service.privilegedStartService()
        except CannotListenError as error:
            # One line that says what to do is worth more than a traceback.
            cause = error.socketError
            if "lock" in str(cause):
                cause = "another process uses it; is a gateway running already?"
            raise SystemExit(f"gateway: cannot listen on {self.endpoint}: {cause}") from error
        waiting = self._service._waitingForPort
        if waiting is not None:
            waiting.addCallback(self._listening)

    def _listening(self, port: IListeningPort) -> IListeningPort:
        self.port = port
        handle: socket.socket = port.socket  # type: ignore[attr-defined]  # every port of a socket has one
        if handle.family != socket.AF_UNIX:
            # Every connection has it from here. With a delay the last piece of an answer would wait
            # up to 40 ms for the peer to acknowledge the piece before it.
            handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return port

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self.port = None
        stopped: Deferred[None] = self._service.stopService()
        return stopped


def _remove_stale(path: Path) -> None:
    """Make room for a unix socket: its directory, and the socket of a process that is gone.

    A living process still holds its socket; the connect tells.
    """
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
