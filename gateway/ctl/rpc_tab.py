"""What Tab makes of the last word of a line: commands, their arguments, and names the gateway knows."""

from __future__ import annotations

import glob
import os
import re
import shlex
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

from attrs import frozen

from gateway import errors
from gateway.ctl import rpc_words as words
from gateway.rpc import commands
from gateway.rpc.arguments import FLAGS, Big, Boolean
from gateway.rpc.command import Command
from gateway.wire.libvirt_schema import PROCEDURES
from gateway.wire.libvirt_words import EVENT_WORDS

_WORD = re.compile(r"""(?:[^\s'"\\]|\\.|\\\Z|'[^']*(?:'|\Z)|"(?:[^"\\]|\\.|\\\Z)*(?:"|\Z))+""", re.DOTALL)
_PLAIN = re.compile(r"[\w@%+=:,./-]+", re.ASCII)
_LISTS: dict[str, tuple[type[Command], str]] = {
    "dom": (commands.ListDomains, "domains"),
    "net": (commands.ListNetworks, "networks"),
    "pool": (commands.ListPools, "pools"),
}
#: Asks a command about the hypervisor; its pages are one answer.
Ask = Callable[[type[Command], Sequence[str]], Awaitable[dict[str, Any]]]


def split(line: str) -> tuple[list[str], str, int]:
    """Words that are complete, the last one as it was typed so far, and where that begins.

    :raises ValueError: there is no sense in it.
    """
    for match in _WORD.finditer(line):
        if match.end() == len(line):
            return shlex.split(line[: match.start()]), match[0], match.start()
    return shlex.split(line), "", len(line)


def quoted(name: str, typed: str) -> str:
    """*name* as it has to be typed, going on with *typed* as it began."""
    if typed[:1] in ("'", '"') and typed[0] not in name and "\\" not in name:
        return f"{typed[0]}{name}{typed[0]}"
    return name if _PLAIN.fullmatch(name) else re.sub(r"([^\w@%+=:,./-])", r"\\\1", name)


@frozen
class Tab:
    """Completes.

    :ivar ours: what the shell does by itself.
    :ivar ask: asks the hypervisor in use.
    :ivar targets: names of all hypervisors.
    """

    ours: Collection[str]
    ask: Ask
    targets: Callable[[], Awaitable[Sequence[str]]]

    async def complete(self, line: str) -> tuple[list[str], int]:
        """What the last word of *line* may become, and where it begins."""
        try:
            before, typed, at = split(line)
            known = await self._known(before, typed)
        except (ValueError, words.Mistyped, errors.GatewayError):
            return [], len(line)
        found = [name if name.endswith(("=", "/")) else f"{quoted(name, typed)} " for name in known]
        return [each for each in found if each.startswith(typed)], at

    async def _known(self, before: Sequence[str], typed: str) -> Sequence[str]:
        if not before:
            return sorted({*self.ours, *words.WORDS})
        word, *given = before
        if word == "help":
            return sorted({*self.ours, *words.WORDS})
        if word == "use":
            return await self.targets()
        if word == "watch":
            return sorted(EVENT_WORDS)
        command = words.WORDS.get(word)
        return [] if command is None else await self._arguments(command, given, typed)

    async def _arguments(self, command: type[Command], given: Sequence[str], typed: str) -> Sequence[str]:
        known = words.arguments_of(command)
        named, _, value = typed.partition("=")
        if named == "file" and command in words.MOVES and "=" in typed:
            return [f"file={name}" for name in _files(value)]
        if named in known and "=" in typed:
            return [f"{named}={name}" for name in await self._values(command, named, given, value)]
        done = {word.partition("=")[0] for word in given if word.partition("=")[0] in known}
        free = [name for name in known if name not in done]
        free = free[sum(word.partition("=")[0] not in known for word in given) :]
        found = [f"{name}=" for name in free]
        found += [f"{name}=" for name in words.OPTIONS.get(command, ())]
        found += ["file="] if command in words.MOVES else []
        values = await self._values(command, free[0], given, typed) if free else []
        # Names of things first of all: that of an argument says little where they are known.
        return [*values, *(found if not values or typed else [])]

    async def _values(
        self, command: type[Command], name: str, given: Sequence[str], typed: str
    ) -> Sequence[str]:
        kind = words.arguments_of(command)[name]
        if name in _LISTS:
            asked, key = _LISTS[name]
            return [each["name"] for each in (await self.ask(asked, ()))[key]]
        if name == "volume" and given:
            return [each["volume"] for each in (await self.ask(commands.ListVolumes, given[:1]))["volumes"]]
        if name == "proc":
            return sorted(each.name for each in PROCEDURES.values() if not each.event)
        if kind is FLAGS:
            return words.BITS.get(command, ())
        if isinstance(kind, Boolean):
            return ("yes", "no")
        if isinstance(kind, Big) and typed.startswith("@"):
            return [f"@{each}" for each in _files(typed[1:])]
        return ()


def _files(typed: str) -> list[str]:
    found = glob.iglob(glob.escape(typed) + "*")
    return sorted(f"{each}/" if os.path.isdir(each) else each for each in found)
