"""The shell of ``gatewayctl rpc``: line by line, typed or piped, until the last."""

from __future__ import annotations

import shlex
import signal
from typing import Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.usage import UsageError

from gateway import errors
from gateway.ctl import rpc_words as words
from gateway.ctl.control import Refused, Unreachable
from gateway.ctl.rpc_prompt import Piped, Typed
from gateway.ctl.rpc_tab import Tab
from gateway.ctl.rpc_talk import OURS, Talk
from gateway.ctl.rpc_text import explain
from gateway.ctl.shell import Failed, Shell

_MAYBE = "given up, but it may have been done: look before you do it again"


@define(eq=False)
class Conversation:
    """Has a talk go on for as long as somebody has more to say."""

    _shell: Shell
    _talk: Talk
    _running: Deferred[Any] | None = field(default=None, init=False)

    async def converse(self) -> None:
        """Read lines until the last.

        At a terminal what goes wrong in one does not end it; of a script it does.

        :raises Failed:
        """
        self._talk.lasting = True
        if self._shell.source.isatty() and self._shell.out.isatty():
            await self._interactive()
            return
        lines = Piped(self._shell.reactor, self._shell.source)
        number = 0
        while (line := await lines.read("")) is not None:
            number += 1
            try:
                if not await self._line(line):
                    return
            except (words.Mistyped, ValueError) as error:
                raise Failed(f"line {number}: {error}") from None
            except errors.GatewayError as error:
                raise Failed(f"line {number}: {explain(error)}") from None

    async def _line(self, line: str) -> bool:
        given = shlex.split(line, comments=True)
        return not given or await self._talk.do(given)

    async def _interactive(self) -> None:
        shell = self._shell
        await self._talk.greet()
        typed = Typed(shell.reactor, Tab(tuple(OURS), self._talk.known, self._talk.known_targets).complete)
        typed.start(shell.environ)
        before = signal.signal(signal.SIGINT, lambda *_: shell.reactor.callFromThread(self._interrupt))
        shell.note("Tab completes, help explains, Ctrl-C gives up what runs, quit or Ctrl-D ends.")
        try:
            while (line := await typed.read(f"{self._talk.target or 'gateway'}> ")) is not None:
                if line.strip() and not line.startswith(" ") and not words.is_secret(line):
                    typed.keep(line)
                if not await self._forgiving(line):
                    break
        finally:
            signal.signal(signal.SIGINT, before)
            await typed.close()

    async def _forgiving(self, line: str) -> bool:
        self._running = Deferred.fromCoroutine(self._line(line))
        try:
            return bool(await self._running)
        except CancelledError:
            command = words.WORDS.get(line.split()[0])
            maybe = command is not None and command.writes and words.MOVES.get(command, True)
            self._shell.note(_MAYBE if maybe else "given up")
        except errors.GatewayError as error:
            self._shell.note(explain(error))
        except (words.Mistyped, ValueError, Failed, Refused, Unreachable, UsageError) as error:
            self._shell.note(str(error))
        finally:
            self._running = None
        return True

    def _interrupt(self) -> None:
        if self._running is not None:
            self._running.cancel()
