"""What is typed becomes a command of the AMP endpoint, and its answer becomes text.

Every command there is can be typed, in small letters: ``list-domains``. Arguments come in their order or by
name, ``@FILE`` stands for what a file holds, and domains, networks and pools go by their names.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from gateway import errors
from gateway.core.masking import escape
from gateway.ctl.display import facts, table
from gateway.rpc import commands
from gateway.rpc.arguments import AmpList, Argument, Big, Boolean, Float, Integer, ListOf
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
        text = name.upper() if name in COOKIES else f"{name}={_hint(kind)}"
        parts.append(f"[{text}]" if kind.optional else text)
    return " ".join(parts)


def _hint(kind: Argument) -> str:
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
    return (command.__doc__ or "").strip().split("\n")[0]


def read(command: type[Command], given: Sequence[str], file: Callable[[str], bytes]) -> dict[str, Any]:
    """The arguments of *command* out of what was typed behind it; objects still by their names.

    :param file: gives what a file holds.
    :raises Mistyped:
    """
    known = arguments_of(command)
    values: dict[str, Any] = {}
    for typed in given:
        match, text = _SETTING.fullmatch(typed), typed
        if match is not None and match[1] in known:
            name, text = match[1], match[2]
        else:
            free = [name for name in known if name not in values]
            if not free:
                raise Mistyped(f"too much: {text!r}; {synopsis(command)}")
            name = free[0]
        if name in values:
            raise Mistyped(f"{name} is given twice")
        values[name] = _value(name, known[name], text, file)
    missing = [name for name, kind in known.items() if not kind.optional and name not in values]
    if missing:
        raise Mistyped(f"{missing[0]} is missing: {synopsis(command)}")
    return values


def _value(name: str, kind: Argument, text: str, file: Callable[[str], bytes]) -> Any:
    try:
        if isinstance(kind, Big):
            data = file(text[1:]) if text.startswith("@") else text.encode("utf-8", "surrogateescape")
            return data.decode("utf-8", "surrogateescape") if kind.text else data
        if isinstance(kind, Integer):
            return int(text, 0)
        if isinstance(kind, Float):
            return float(text)
        if isinstance(kind, Boolean):
            return {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}[
                text.lower()
            ]
    except (ValueError, KeyError):
        raise Mistyped(f"{name}: {_hint(kind)} is expected") from None
    return text.split(",") if isinstance(kind, ListOf) else text


def lookup(name: str, value: str) -> dict[str, Any]:
    """The arguments of the lookup for the object *value* of the kind *name*: a uuid, a name or an id."""
    if _UUID.fullmatch(value):
        return {"uuid": value}
    return {"id": int(value)} if name == "dom" and value.isdigit() else {"name": value}


def plain(value: Any) -> Any:
    """*value* of an answer as JSON has it."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return b64encode(value).decode("ascii")
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


def text_of(command: type[Command], answer: Mapping[str, Any], width: int | None) -> str:
    """An answer for people: a table, XML as it is, or names and values."""
    shown = {name: value for name, value in answer.items() if name not in COOKIES and name != "cursor"}
    for key, kind in command.response:
        name = key.decode("ascii")
        if isinstance(kind, AmpList):
            columns = [each for each in kind.fields if each not in COOKIES]
            rows = [[plain(row[each]) for each in columns] for row in answer[name]]
            return table([each.upper() for each in columns], rows, width) if rows else f"no {name}"
        if isinstance(kind, Big) and answer.get(name) is not None and isinstance(answer[name], str):
            return _document(answer[name])
    if not shown:
        return "done"
    return facts({name: plain(value) for name, value in shown.items()}, width)


def _document(text: str) -> str:
    """XML or JSON from elsewhere, safe for a terminal."""
    try:
        text = json.dumps(json.loads(text), indent=2, ensure_ascii=True)
    except ValueError:
        pass
    return "\n".join(escape(line) for line in text.rstrip().splitlines())


def explain(error: errors.GatewayError) -> str:
    """An error for people, with what helps to go on."""
    details = dict(error.details)
    if error.word == "libvirt":
        return f"the hypervisor refused: {error.text} (code {details.get('code')})"
    if details.get("maybe_executed"):
        return f"{error.text}; it may have been done: look before you do it again"
    if "retry_after" in details:
        return f"{error.text}; try again in {details['retry_after']:g} s"
    return error.text
