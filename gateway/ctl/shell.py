"""What a command has around it: streams, environment, clock, and the gateway it talks to."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from attrs import define

from gateway.core.masking import escape
from gateway.ctl.control import Control
from gateway.errors import ConfigError

DEFAULT_CONTROL = "/run/gateway/control.sock"


class Failed(Exception):
    """A command was refused or did not work; the text says what to do about it."""


@define
class Shell:
    """The surroundings of one run.

    :ivar reactor: of the process; also what is waited by.
    :ivar wall: seconds since the epoch.
    :ivar pause: seconds between two looks at something that is waited for.
    :ivar control_at: what ``--control`` said, None for the default.
    """

    reactor: Any
    out: TextIO
    err: TextIO
    source: TextIO
    environ: Mapping[str, str]
    wall: Callable[[], float]
    pause: float = 1.0
    as_json: bool = False
    control_at: str | None = None

    def control(self) -> Control:
        """The gateway.

        :raises UsageError: when the place named is none.
        """
        place = self.control_at or self.environ.get("GATEWAY_CONTROL") or DEFAULT_CONTROL
        return Control.at(self.reactor, place)

    def show(self, document: Mapping[str, Any], text: str) -> None:
        """Print the result of a command in the form that was asked for."""
        self.out.write((json.dumps(document, indent=2) if self.as_json else text) + "\n")
        self.out.flush()

    def note(self, text: str) -> None:
        """Tell something that is not the result."""
        self.err.write(escape(text) + "\n")
        self.err.flush()

    @property
    def columns(self) -> int | None:
        """The width to fit; None when nobody looks."""
        return _terminal(self.out, self.environ)[0]

    @property
    def rows(self) -> int | None:
        """The height to fit; None when nobody looks."""
        return _terminal(self.out, self.environ)[1]

    @property
    def progress_columns(self) -> int | None:
        """The width of the terminal that progress is shown on; None when it is none."""
        return _terminal(self.err, self.environ)[0]

    def read(self, name: str) -> str:
        """The text of the file *name*, or standard input for ``-``.

        :raises Failed:
        """
        try:
            if name == "-":
                return self.source.read()
            with open(name, encoding="utf-8") as stream:
                return stream.read()
        except OSError as error:
            raise Failed(f"{name} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise Failed(f"{name} is no text") from None

    def read_bytes(self, name: str) -> bytes:
        """The bytes of the file *name*.

        :raises Failed:
        """
        try:
            with open(name, "rb") as stream:
                return stream.read()
        except OSError as error:
            raise Failed(f"{name} cannot be read: {error.strerror}") from None


def problems(error: ConfigError) -> Failed:
    """*error* as the failure of a command."""
    return Failed("\n".join(error.problems))


def _terminal(stream: TextIO, environ: Mapping[str, str]) -> tuple[int | None, int | None]:
    if not stream.isatty():
        return None, None
    try:
        found = os.get_terminal_size(stream.fileno())
        columns, rows = found.columns, found.lines
    except (OSError, ValueError):
        columns, rows = 0, 0
    wanted = environ.get("COLUMNS", "")
    if wanted.isascii() and wanted.isdigit():
        columns = int(wanted)
    return max(20, columns or 80), max(4, rows or 24)
