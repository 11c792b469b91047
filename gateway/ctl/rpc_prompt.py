"""The lines of a shell: typed at a terminal, or out of a pipe; either way the reactor goes on meanwhile."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any, TextIO

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as Late
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

#: Gives what the last word of a line may become, and where it begins.
Complete = Callable[[str], Coroutine[Any, Any, tuple[Sequence[str], int]]]
#: Seconds until Tab gives up.
_PATIENCE = 3.0
#: Seconds until the process is told to end again.
_AGAIN = 0.2


def history_file(environ: Mapping[str, str]) -> Path:
    """Where the lines of former shells are."""
    state = environ.get("XDG_STATE_HOME") or str(Path(environ.get("HOME", "/nonexistent"), ".local", "state"))
    return Path(state, "gatewayctl", "rpc-history")


@define(eq=False)
class Piped:
    """Lines of a file or pipe; its end may be long in coming, and is not waited for when we leave."""

    _reactor: Any
    _source: TextIO

    def read(self, prompt: str) -> Deferred[str | None]:
        """The next line; None at the end."""
        line: Deferred[str | None] = Deferred()
        Thread(target=self._read, args=(line,), daemon=True).start()
        return line

    def _read(self, line: Deferred[str | None]) -> None:
        try:
            found: Any = self._source.readline() or None
        except (OSError, UnicodeDecodeError) as error:
            found = Failure(error)
        with suppress(RuntimeError):
            self._reactor.callFromThread(self._give, line, found)

    @staticmethod
    def _give(line: Deferred[str | None], found: Any) -> None:
        if not line.called:
            line.callback(found)

    def keep(self, line: str) -> None:
        """There is no history."""


@define(eq=False)
class Typed(ProcessProtocol):
    """Lines from a terminal, by a process of its own: :mod:`gateway.ctl.line_reader`."""

    _reactor: Any
    _complete: Complete
    _rest: bytes = field(default=b"", init=False)
    _line: Deferred[str | None] | None = field(default=None, init=False)
    _work: Deferred[None] | None = field(default=None, init=False)
    _ended: Deferred[None] = field(factory=Deferred, init=False)

    def start(self, environ: Mapping[str, str]) -> None:
        """Begin; the terminal is our standard input and output."""
        program = str(Path(__file__).with_name("line_reader.py"))
        command = [sys.executable, "-I", program, str(history_file(environ))]
        files: Any = {0: 0, 1: 1, 2: 2, 3: "w", 4: "r"}
        self._reactor.spawnProcess(
            self, sys.executable, command, env={**os.environ, **environ}, childFDs=files
        )

    def read(self, prompt: str) -> Deferred[str | None]:
        """The next line, empty after Ctrl-C; None at the end."""
        self._line = Deferred()
        self._order({"prompt": prompt})
        return self._line

    def keep(self, line: str) -> None:
        """Put *line* into the history."""
        self._order({"keep": line})

    async def close(self) -> None:
        """Give the terminal back."""
        # A signal may come in the moment before it waits, and then nothing wakes it but the next one.
        ending = LoopingCall(self._end)
        ending.clock = self._reactor
        ending.start(_AGAIN)
        try:
            await self._ended
        finally:
            ending.stop()

    def _end(self) -> None:
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess("TERM")  # type: ignore[union-attr]  # it runs

    def _order(self, order: Mapping[str, object]) -> None:
        self.transport.writeToChild(3, json.dumps(order).encode("ascii") + b"\n")  # type: ignore[union-attr]  # it runs

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            said = json.loads(line)
            if "complete" in said:
                self._work = Deferred.fromCoroutine(self._answer(said["complete"]))
            else:
                self._give(said.get("line"))

    async def _answer(self, text: str) -> None:
        asked = Deferred.fromCoroutine(self._complete(text)).addTimeout(_PATIENCE, self._reactor)
        try:
            found, at = await asked
        except Late:
            found, at = (), len(text)
        self._order({"found": list(found), "at": at})

    def processEnded(self, reason: Failure) -> None:
        self._give(None)
        self._ended.callback(None)

    def _give(self, line: str | None) -> None:
        waiting, self._line = self._line, None
        if waiting is not None and not waiting.called:
            waiting.callback(line)
