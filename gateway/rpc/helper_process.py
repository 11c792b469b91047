"""A program whose standard input and output are the connection: ssh, or one of the operator's own.

It gets one end of a socket pair as both; the other end is an ordinary transport here, with back-pressure. It
begins a session, and so a process group, which is killed when the connection ends, whichever side ends it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import PurePath
from typing import Any

from twisted.internet import error
from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IDelayedCall, IProtocol, IReadDescriptor
from twisted.internet.tcp import Connection
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway.core.masking import clean
from gateway.core.race import attach, tune
from gateway.errors import UpstreamFailed

#: What a program gets of our environment, when it is there.
INHERITED = {"PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "XDG_RUNTIME_DIR", "KRB5CCNAME"}
INHERITED |= {"SSH_AUTH_SOCK", "OPENSSL_CONF"}
#: Bytes of its complaints that are kept: the last ones.
_KEPT = 1024
_LINES = 4
_READ = 4096
#: Seconds between two looks at what it says when that is much.
_PAUSE = 0.1


class HelperEnded(error.ConnectionLost):
    """The program ended, or was late; the text has the last that it said."""

    def __str__(self) -> str:
        return str(self.args[0])


def environment_of(ours: Mapping[str, str]) -> dict[str, str]:
    """What a program gets of *ours*."""
    return {name: value for name, value in ours.items() if name in INHERITED} | {"LC_ALL": "C"}


def start_helper(
    reactor: Any,
    command: Sequence[str],
    protocol: IProtocol,
    *,
    environment: Mapping[str, str],
    patience: float,
) -> None:
    """Run *command* and let *protocol* speak with it.

    :param environment: all that the program gets.
    :param patience: seconds until its first byte must be there.
    :raises UpstreamFailed: ``reason`` is ``helper``: it cannot be started.
    """
    try:
        process, ours, listen = _spawn(command, environment)
    except (OSError, ValueError) as failure:
        raise UpstreamFailed("The program that leads there cannot be started", reason="helper") from failure
    helper = _Helper(reactor, process, PurePath(command[0]).name, _Complaints(reactor, listen))
    transport = _Transport(ours, protocol, reactor, helper)
    helper.wait(transport, patience)
    tune(transport)
    transport.startReading()
    attach(transport, protocol)


def _spawn(
    command: Sequence[str], environment: Mapping[str, str]
) -> tuple[subprocess.Popen[bytes], socket.socket, int]:
    """The process, our end of the pair, and the descriptor of its complaints."""
    with ExitStack() as undo:
        ours, theirs = socket.socketpair()
        undo.callback(ours.close)
        with theirs:
            listen, complain = os.pipe()
            undo.callback(os.close, listen)
            try:
                process = subprocess.Popen(  # noqa: S603 (the operator's own words, and no shell)
                    command,
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=complain,
                    env=environment,
                    cwd="/",
                    start_new_session=True,
                )
            finally:
                os.close(complain)
        undo.pop_all()
    os.set_blocking(listen, False)
    return process, ours, listen


@implementer(IReadDescriptor)
class _Complaints:
    """What a program writes to its standard error: the end of it is kept, and it cannot keep us busy."""

    def __init__(self, reactor: Any, descriptor: int) -> None:
        self._reactor = reactor
        self._descriptor = descriptor
        self._text = b""
        self._pause: IDelayedCall | None = None
        reactor.addReader(self)

    def fileno(self) -> int:
        return self._descriptor

    def logPrefix(self) -> str:
        return "helper"

    def doRead(self) -> Failure | None:
        if self._read() == 0:
            return Failure(error.ConnectionDone())
        self._reactor.removeReader(self)
        self._pause = self._reactor.callLater(_PAUSE, self._go_on)
        return None

    def _read(self) -> int:
        try:
            data = os.read(self._descriptor, _READ)
        except OSError:
            return -1
        self._text = (self._text + data)[-_KEPT:]
        return len(data)

    def _go_on(self) -> None:
        self._pause = None
        self._reactor.addReader(self)

    def connectionLost(self, reason: Failure) -> None:
        self._close()

    def _close(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._descriptor >= 0:
            self._reactor.removeReader(self)
            os.close(self._descriptor)
            self._descriptor = -1

    def end(self) -> str:
        """The last lines, as far as they are there; nothing more is read."""
        # A pipe holds 64 KiB, which was all said before the program could end.
        for _ in range(16):
            if self._descriptor < 0 or self._read() <= 0:
                break
        self._close()
        lines = [it.strip() for it in self._text.decode("utf-8", "replace").split("\n")]
        return clean("; ".join([it for it in lines if it][-_LINES:]))


class _Helper:
    """A program that runs."""

    log = Logger()

    def __init__(
        self, reactor: Any, process: subprocess.Popen[bytes], program: str, complaints: _Complaints
    ) -> None:
        self._reactor = reactor
        self._process = process
        self._program = program
        self._complaints = complaints
        self._deadline: IDelayedCall | None = None
        self._late = False
        self._said = ""

    def wait(self, transport: Connection, patience: float) -> None:
        """Cut *transport* when nothing is heard within *patience* seconds."""

        def cut() -> None:
            self._deadline, self._late = None, True
            transport.abortConnection()

        self._deadline = self._reactor.callLater(patience, cut)

    def heard(self) -> None:
        """It has said something, or closed."""
        deadline, self._deadline = self._deadline, None
        if deadline is not None:
            deadline.cancel()

    def ended(self, reason: Failure, expected: bool) -> Failure:
        """The connection is over: so is the whole group; return why, as far as the program has told.

        :param expected: we wanted it to end.
        """
        self.heard()
        # As long as we have not waited for it the number is nobody else's.
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        self._said = self._complaints.end()
        unwanted = self._late or not expected
        self._reap(unwanted, 0.01)
        if not unwanted:
            return reason
        text = f"nothing was heard of {self._program}" if self._late else f"{self._program} has ended"
        return Failure(HelperEnded(f"{text}: {self._said}" if self._said else text))

    def _reap(self, tell: bool, pause: float) -> None:
        status = self._process.poll()
        if status is None:
            self._reactor.callLater(pause, self._reap, tell, min(2 * pause, 1.0))
        elif tell:
            what = "was late" if self._late else "has ended"
            self.log.warn(
                "the program {program} that leads to a hypervisor {what}, status {status}: {said}",
                program=self._program, what=what, status=status, said=self._said,
            )  # fmt: skip


class _Transport(Connection):
    """Our end of the pair."""

    def __init__(self, ours: socket.socket, protocol: IProtocol, reactor: Any, helper: _Helper) -> None:
        super().__init__(ours, protocol, reactor)
        self._helper = helper
        self._over = False
        self.connected = 1

    def getHost(self) -> UNIXAddress:
        return UNIXAddress(None)

    def getPeer(self) -> UNIXAddress:
        return UNIXAddress(None)

    def doRead(self) -> Any:
        self._helper.heard()
        return super().doRead()

    def connectionLost(self, reason: Failure) -> None:
        if not self._over:
            self._over = True
            expected = bool(self.disconnecting or reason.check(error.ConnectionAborted))
            super().connectionLost(self._helper.ended(reason, expected))
