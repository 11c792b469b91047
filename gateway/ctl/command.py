"""What all commands share: options that name themselves in errors, help with an example, completion."""

from __future__ import annotations

import getopt
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from attrs import frozen
from twisted.python import reflect, usage

from gateway.ctl.shell import Shell
from gateway.errors import BadRequest
from gateway.wire.ticket_json import LONGEST

FILES = "files"
_ID = re.compile(r"[A-Za-z0-9._~-]{1,128}")
#: One row of ``optFlags`` or ``optParameters``.
Row = list[Any]


class HelpWanted(Exception):
    """Somebody asked for the text this holds instead of a command."""


@frozen
class Value:
    """Turns the text of one option into its value, and knows what may be completed.

    :ivar read: raises ValueError with what would be right.
    :ivar words: the only ones there are; empty for any text.
    :ivar files: it is the name of a file.
    """

    name: str
    read: Callable[[str], object]
    words: tuple[str, ...] = ()
    files: bool = False

    def __call__(self, text: str) -> object:
        """Read *text* for :mod:`twisted.python.usage`."""
        if self.words and text not in self.words:
            raise ValueError(f"--{self.name} is one of {', '.join(self.words)}")
        try:
            return self.read(text)
        except ValueError as error:
            raise ValueError(f"--{self.name}: right would be {error}") from None


def param(
    name: str,
    short: str | None,
    default: object,
    doc: str,
    read: Callable[[str], object] = str,
    *,
    words: Sequence[str] = (),
    files: bool = False,
) -> Row:
    """One row of ``optParameters``."""
    return [name, short, default, doc, Value(name, read, tuple(words), files)]


@frozen
class Option:
    """One option as completion and the manual see it; *value* is None for a flag."""

    name: str
    short: str | None
    doc: str
    value: Value | None

    @property
    def spellings(self) -> tuple[str, ...]:
        """How it may be written."""
        return (f"--{self.name}", *([f"-{self.short}"] if self.short else []))


class Command(usage.Options):
    """One command or group of commands; options may stand anywhere behind its name.

    :cvar arguments: what else it takes, for the synopsis.
    :cvar example: one line of shell each.
    :cvar completes: what its arguments are: :data:`FILES`, words, or nothing that can be known.
    """

    optFlags: ClassVar[list[Row]] = [["json", "j", "print one JSON document instead of text for people"]]
    optParameters: ClassVar[list[Row]] = [
        param(
            "control",
            "c",
            None,
            "the control listener: path of its socket, or http://127.0.0.1:PORT"
            " [default: $GATEWAY_CONTROL or /run/gateway/control.sock]",
            files=True,
        )
    ]
    arguments: ClassVar[str] = ""
    example: ClassVar[str] = ""
    longdesc: ClassVar[str] = ""
    completes: ClassVar[str | tuple[str, ...]] = ()

    async def run(self, shell: Shell) -> None:
        """Do what was asked.

        :raises Failed: when that is refused or does not work.
        """
        raise usage.UsageError("say which: " + ", ".join(name for name, *_ in self.commands()))

    @classmethod
    def commands(cls) -> list[tuple[str, None, type[Command], str]]:
        """The commands below this one."""
        return getattr(cls, "subCommands", [])

    @classmethod
    def options(cls) -> Iterator[Option]:
        """Every option, its own ones first."""
        parameters: list[Row] = []
        flags: list[Row] = []
        reflect.accumulateClassList(cls, "optParameters", parameters)
        reflect.accumulateClassList(cls, "optFlags", flags)
        found = [Option(name, short, doc, value) for name, short, _, doc, value in parameters]
        found += [Option(name, short, doc, None) for name, short, doc in flags]
        yield from reversed(found)
        yield Option("help", "h", "show this help", None)

    def setting(self, name: str) -> Any:
        """The value of an option that may be given at each level; the last one counts."""
        return self[name] or (self.parent.setting(name) if isinstance(self.parent, Command) else None)

    def parseOptions(self, options: Any = None) -> None:
        if not self.commands():
            try:
                found, rest = getopt.gnu_getopt(options, self.shortOpt, self.longOpt)
            except getopt.error as error:
                raise usage.UsageError(str(error)) from None
            options = [
                text
                for name, value in found
                for text in ([name, value] if self._takes_value(name) else [name])
            ]
            options += ["--", *rest]
        super().parseOptions(options)

    def _takes_value(self, spelling: str) -> bool:
        return any(spelling in option.spellings and option.value for option in self.options())

    def opt_help(self) -> None:
        """Show this help and exit."""
        text = str(self).rstrip()
        if self.example:
            text += "\n\nExample:\n" + "\n".join(f"  {line}" for line in self.example.splitlines())
        raise HelpWanted(text + "\n")

    opt_h = opt_help

    def opt_version(self) -> None:
        """Show the version and exit."""
        from gateway import __version__

        raise HelpWanted(f"gatewayctl {__version__}\n")

    def getSynopsis(self) -> str:
        rest = "COMMAND" if self.commands() else self.arguments
        return f"Usage: {self.path} [options] {rest}".rstrip()

    @property
    def path(self) -> str:
        """The words that lead here, such as ``gatewayctl ticket add``."""
        if not isinstance(self.parent, Command):
            return "gatewayctl"
        return f"{self.parent.path} {self.parent.subCommand}"


def ticket_id(text: str) -> str:
    """Pass an id that may stand in the path of a URL.

    :raises ValueError: for anything else.
    """
    if _ID.fullmatch(text) is None or text in (".", ".."):
        raise ValueError("1 to 128 characters of A-Z a-z 0-9 . _ ~ -")
    return text


def ids(texts: Sequence[str]) -> list[str]:
    """Pass the ids on a command line.

    :raises UsageError: when there is none, or one cannot be an id.
    """
    if not texts:
        raise usage.UsageError("say which one: an ID is missing")
    try:
        return [ticket_id(text) for text in texts]
    except ValueError as error:
        raise usage.UsageError(f"an ID has {error}") from None


def whole_seconds(text: str) -> int:
    """Whole seconds of a duration such as ``90s`` or ``1h``.

    :raises ValueError: for anything else.
    """
    from gateway.core.units import parse_seconds

    seconds = parse_seconds(text)
    if not 1 <= seconds <= LONGEST or seconds % 1:
        raise ValueError("whole seconds, 1s or more")
    return int(seconds)


def reason(error: BadRequest) -> str:
    """The text of a refused ticket, without the words that only make sense on the wire."""
    return error.text.removeprefix("Invalid ticket: ")
