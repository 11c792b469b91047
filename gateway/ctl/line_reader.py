"""Reads lines at a terminal for another process, which must not wait; run as a program.

The terminal is on files 0 and 1. Orders come on file 3, answers go to file 4, one JSON object a line:

- ``{"prompt": TEXT}`` reads one line: ``{"line": TEXT}``, or ``{"end": true}`` for Ctrl-D. Ctrl-C makes an
  empty one of it.
- ``{"keep": TEXT}`` puts a line into the history, which is the file that is named as the only argument.
- For Tab, ``{"complete": TEXT}`` asks for all that the last word before the cursor may become:
  ``{"found": [TEXT, …], "at": NUMBER}``, where it begins.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

_NOTHING: dict[str, Any] = {"found": [], "at": 0}
#: Lines that are kept.
_MOST = 1000


class Reader:
    """Does what it is told, until nobody tells it anything any more."""

    def __init__(self, history: str) -> None:
        self._orders = os.fdopen(3, encoding="utf-8")
        self._answers = os.fdopen(4, "w", encoding="utf-8")
        self._history = history
        self._found: list[str] = []
        try:
            import readline
        except ImportError:
            self._readline: Any = None
            return
        self._readline = readline
        readline.set_auto_history(False)
        readline.set_completer_delims(" ")
        readline.set_completer(self._complete)
        readline.parse_and_bind("tab: complete")
        for line in self._kept():
            readline.add_history(line)

    def run(self) -> None:
        """Read orders."""
        for order in self._told():
            if "keep" in order:
                self._keep(order["keep"])
            else:
                self._say(self._read(order["prompt"]))

    def _read(self, prompt: str) -> dict[str, Any]:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return {"line": input(prompt)}
        except KeyboardInterrupt:
            print()
            return {"line": ""}
        except EOFError:
            print()
            return {"end": True}
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _complete(self, text: str, state: int) -> str | None:
        if state == 0:
            line, begin = self._readline.get_line_buffer(), self._readline.get_begidx()
            # Ctrl-C would lose the answer; it is not long in coming.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            self._say({"complete": line[: begin + len(text)]})
            answer = next(self._told(), _NOTHING)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            # A blank in a name is no end of a word, but readline thinks so.
            known = max(0, begin - answer["at"])
            self._found = [str(word)[known:] for word in answer["found"]]
        return self._found[state] if state < len(self._found) else None

    # -- history ---------------------------------------------------------------------------

    def _kept(self) -> list[str]:
        try:
            with open(self._history, encoding="utf-8", errors="replace") as file:
                lines = file.read().splitlines()
        except OSError:
            return []
        if len(lines) > 2 * _MOST:
            self._write("".join(f"{line}\n" for line in lines[-_MOST:]), os.O_TRUNC)
        return lines[-_MOST:]

    def _keep(self, line: str) -> None:
        if self._readline is not None:
            self._readline.add_history(line)
        self._write(f"{line}\n", os.O_APPEND)

    def _write(self, text: str, how: int) -> None:
        try:
            os.makedirs(os.path.dirname(self._history), mode=0o700, exist_ok=True)
            number = os.open(self._history, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | how, 0o600)
            with os.fdopen(number, "w", encoding="utf-8", errors="replace") as file:
                os.fchmod(number, 0o600)
                file.write(text)
        except OSError:
            # Without a place for it there is none.
            return

    # -- the other process -----------------------------------------------------------------

    def _told(self) -> Iterator[dict[str, Any]]:
        while line := self._orders.readline():
            yield json.loads(line)

    def _say(self, answer: dict[str, Any]) -> None:
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The terminal is put in order on the way out.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit())
    Reader(sys.argv[1]).run()
