"""What is typed becomes a command of the AMP endpoint; :mod:`gateway.ctl.rpc_text` has its answers.

Every command there is can be typed, in small letters: ``list-domains``. Arguments come in their order or by
name, ``@FILE`` stands for what a file holds, and domains, networks and pools go by their names, as the usual
flags do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from keyword import iskeyword
from operator import or_
from typing import Any

from gateway.rpc import commands
from gateway.rpc.arguments import (
    FLAGS,
    Argument,
    Big,
    Boolean,
    Float,
    Integer,
    ListOf,
)
from gateway.rpc.command import Command

#: What the shell does by itself.
_OURS = {
    commands.Login,
    commands.Event,
    commands.Subscribe,
    commands.Unsubscribe,
    commands.Ack,
    commands.Open,
}
#: What stands for an object, and what looks it up by name or uuid.
COOKIES: Mapping[str, type[Command]] = {
    "dom": commands.Lookup,
    "net": commands.LookupNetwork,
    "pool": commands.LookupPool,
}
#: What moves the bytes of a file by itself, and whether it sends them.
MOVES: Mapping[type[Command], bool] = {
    commands.VolUpload: True,
    commands.VolDownload: False,
    commands.Screenshot: False,
}
#: Members of ``options``, which may be given by themselves.
OPTIONS: Mapping[type[Command], tuple[str, ...]] = {
    commands.Console: ("device", "force", "view", "record", "timeout", "uses"),
    commands.Graphics: ("index", "view", "shared", "record", "takeover", "timeout", "uses"),
    commands.Screenshot: ("screen", "timeout", "uses"),
    commands.VolUpload: ("filename", "timeout", "uses"),
    commands.VolDownload: ("filename", "timeout", "uses"),
}
_LIST = ("active inactive persistent transient running paused shutoff other managed-save no-managed-save "
         "autostart no-autostart has-snapshot no-snapshot")  # fmt: skip
#: Names of flags, the lowest bit first. Source: libvirt's headers, libvirt-domain.h.
BITS: Mapping[type[Command], tuple[str, ...]] = {
    commands.ListDomains: tuple(_LIST.split()),
    commands.Create: ("paused", "autodestroy", "bypass-cache", "force-boot", "validate"),
    commands.Start: ("paused", "autodestroy", "bypass-cache", "force-boot"),
    commands.Undefine: ("managed-save", "snapshots", "nvram", "keep-nvram", "checkpoints"),
    commands.Destroy: ("graceful",),
    commands.Shutdown: ("acpi", "agent", "initctl", "signal", "paravirt"),
    commands.Reboot: ("acpi", "agent", "initctl", "signal", "paravirt"),
    commands.GetXml: ("secure", "inactive", "update-cpu", "migratable"),
}
_SECRET = re.compile(r"-ticket\b|passw|secret|token", re.IGNORECASE)
_TRUTH = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}
_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_SETTING = re.compile(r"([a-z_]+)=(.*)", re.DOTALL)


class Mistyped(Exception):
    """What was typed makes no sense; the text says what would."""


def word_of(command: type[Command]) -> str:
    """What is typed for *command*."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", command.commandName.decode("ascii")).lower()


#: All that can be typed.
WORDS: Mapping[str, type[Command]] = {word_of(it): it for it in commands.COMMANDS.values() if it not in _OURS}


def arguments_of(command: type[Command]) -> dict[str, Argument]:
    """The arguments of *command* that are typed, in their order."""
    found: dict[str, Argument] = {}
    for key, kind in command.arguments:
        if key != b"handle" and isinstance(kind, Argument):
            found[key.decode("ascii")] = kind
    return found


def synopsis(command: type[Command]) -> str:
    """One line: what is typed for *command* with its arguments."""
    parts = [word_of(command)]
    for name, kind in arguments_of(command).items():
        text = name.upper() if name in COOKIES else f"{name}={_hint(command, kind)}"
        parts.append(f"[{text}]" if kind.optional else text)
    if command in MOVES:
        parts.append("[file=PATH]")
    return " ".join(parts)


def guide(command: type[Command]) -> str:
    """All there is to say about *command*."""
    lines = [line.strip() for line in (command.__doc__ or "").strip().splitlines()]
    if command in BITS:
        lines += ["", f"Flags: {', '.join(BITS[command])}; several with commas, or their sum."]
    if command in OPTIONS:
        lines += ["", f"Options, as NAME=VALUE: {', '.join(OPTIONS[command])}."]
    if command in MOVES:
        lines += ["", f"With file=PATH the file is {'sent' if MOVES[command] else 'written'} at once."]
    return "\n".join([synopsis(command), "", *lines])


def _hint(command: type[Command], kind: Argument) -> str:
    if kind is FLAGS and command in BITS:
        return "NAMES"
    if isinstance(kind, Integer):
        return "NUMBER"
    if isinstance(kind, Float):
        return "SECONDS"
    if isinstance(kind, Boolean):
        return "yes|no"
    if isinstance(kind, ListOf):
        return "A,B"
    return "TEXT|@FILE" if isinstance(kind, Big) else "TEXT"


def summary(command: type[Command]) -> str:
    """The first sentence about *command*."""
    return (command.__doc__ or "").strip().split("\n")[0].replace("``", "")


def read(command: type[Command], given: Sequence[str], file: Callable[[str], bytes]) -> dict[str, Any]:
    """The arguments of *command* out of what was typed behind it; objects still by their names.

    :param file: gives what a file holds.
    :raises Mistyped:
    """
    known = arguments_of(command)
    values: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for typed in given:
        match, text = _SETTING.fullmatch(typed), typed
        if match is not None and match[1] in OPTIONS.get(command, ()):
            options[match[1]] = _option(match[2])
            continue
        if match is not None and match[1] in known:
            name, text = match[1], match[2]
        else:
            free = [name for name in known if name not in values]
            if not free:
                raise Mistyped(f"too much: {text!r}; {synopsis(command)}")
            name = free[0]
        if name in values:
            raise Mistyped(f"{name} is given twice")
        values[name] = _value(command, name, known[name], text, file)
    missing = [name for name, kind in known.items() if not kind.optional and name not in values]
    if missing:
        raise Mistyped(f"{missing[0]} is missing: {synopsis(command)}")
    if options and "options" in values:
        raise Mistyped(f"options are given twice: as a whole, and {', '.join(options)}")
    if options:
        values["options"] = json.dumps(options)
    return {f"{name}_" if iskeyword(name) else name: value for name, value in values.items()}


def _option(text: str) -> object:
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else _TRUTH.get(text.lower(), text)


def _value(command: type[Command], name: str, kind: Argument, text: str, file: Callable[[str], bytes]) -> Any:
    try:
        if isinstance(kind, Big):
            data = file(text[1:]) if text.startswith("@") else text.encode("utf-8", "surrogateescape")
            return data.decode("utf-8", "surrogateescape") if kind.text else data
        if kind is FLAGS and command in BITS:
            return reduce(or_, (_bit(command, each) for each in text.split(",")))
        if isinstance(kind, Integer):
            return int(text, 0)
        if isinstance(kind, Float):
            return float(text)
        if isinstance(kind, Boolean):
            return _TRUTH[text.lower()]
    except (ValueError, KeyError):
        known = f"; there are: {', '.join(BITS[command])}" if kind is FLAGS and command in BITS else ""
        raise Mistyped(f"{name}: {_hint(command, kind)} is expected{known}") from None
    return text.split(",") if isinstance(kind, ListOf) else text


def _bit(command: type[Command], text: str) -> int:
    names = BITS[command]
    return 1 << names.index(text) if text in names else int(text, 0)


def lookups(name: str, value: str) -> list[dict[str, Any]]:
    """What to ask for the object *value* of the kind *name*, one after the other: a uuid, an id, a name."""
    if _UUID.fullmatch(value):
        return [{"uuid": value}]
    by_id = [{"id": int(value)}] if name == "dom" and re.fullmatch("[0-9]{1,9}", value) else []
    return [*by_id, {"name": value}]


def is_secret(line: str) -> bool:
    """Whether *line* may hold what has no place in a history: ids of tickets, passwords."""
    return _SECRET.search(line) is not None
