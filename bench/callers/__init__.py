"""Processes that call a hypervisor as often as they can, by one library or another.

Each is a program of this package that takes orders on a unix socket, one JSON object in a line each, and
answers in the same way; :mod:`bench.callers.loop` is what they have in common.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from attrs import asdict, frozen

from tests.functional.processes import Peer

#: Guests that the hypervisor has; each caller asks for one of its own.
GUESTS = 16
#: A volume of the hypervisor, and bytes of one upload into it.
POOL, VOLUME, UPLOAD = "bench", "upload", 64 << 20
#: Seconds beside those of an order.
_PATIENCE = 30.0


@frozen
class CallOrder:
    """What is to be called.

    :ivar what: ``info`` of one guest, the ``list`` of all, or an ``upload`` of a volume.
    :ivar transport: to the hypervisor, ``unix`` or ``tls``.
    :ivar callers: calls under way at once.
    """

    what: str
    transport: str
    callers: int
    seconds: float


@frozen
class CallResult:
    """What came of it.

    :ivar early: calls before those that count.
    :ivar p50: seconds of a call; so is ``p99``.
    """

    early: int
    calls: int
    seconds: float
    p50: float
    p99: float


class Caller(Peer):
    """One of the programs.

    :param program: which, such as ``native``; *arguments* are its own.
    :param version: of the library that it calls with.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        program: str,
        *arguments: str,
        version: Callable[[], str] = str,
        openssl: Callable[[], str] = str,
    ) -> None:
        self.name = name
        super().__init__(directory)
        self.log_file = directory / f"{program}-{name}.log"
        self.version, self.openssl = version, openssl
        self._socket = directory / f"{program}-{name}.sock"
        self._command = [sys.executable, "-m", f"bench.callers.{program}", str(self._socket), *arguments]

    def start(self) -> None:
        self.spawn(self._command, self._listens)

    def _listens(self) -> bool:
        # Its file is there a moment before.
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self._socket)) == 0

    def way(self, kind: str, client: int = 0) -> None:
        """It relays nothing."""

    def run(self, order: CallOrder) -> CallResult:
        """Let it call.

        :raises AssertionError: it cannot.
        """
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(_PATIENCE + order.seconds)
            line.connect(str(self._socket))
            line.sendall(json.dumps(asdict(order)).encode("ascii") + b"\r\n")
            try:
                said = line.makefile("rb").readline()
            except TimeoutError:
                said = b""
        if not said.startswith(b"{"):
            raise AssertionError(f"{self.name} cannot do {order}: {said[-400:]!r}\n{self.log()[-2000:]}")
        return CallResult(**json.loads(said))
