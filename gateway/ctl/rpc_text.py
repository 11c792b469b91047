"""Answers and events of the AMP endpoint as text for people, and as JSON."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from gateway import errors
from gateway.core.masking import escape
from gateway.ctl import rpc_words as words
from gateway.ctl.display import facts, size, table
from gateway.rpc import commands
from gateway.rpc.arguments import JSON, SIZE, AmpList, Big
from gateway.rpc.command import Command

#: What an event is about; a cookie in one says nothing to anybody.
_SUBJECTS = ("dom", "net", "pool", "dev", "secret", "cookie")
_NOBODY: Mapping[str, str] = {}


def joined(command: type[Command], former: Mapping[str, Any], page: Mapping[str, Any]) -> dict[str, Any]:
    """Two pages as one."""
    made = dict(page)
    for key, kind in command.response:
        name = key.decode("ascii")
        if isinstance(kind, AmpList):
            made[name] = former[name] + page[name]
        elif kind is JSON:
            made[name] = json.dumps(json.loads(former[name]) + json.loads(page[name]))
    return made


def plain(value: Any) -> Any:
    """*value* of an answer as JSON has it."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return b64encode(value).decode("ascii")
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


def document(command: type[Command], answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer as one JSON object; what is JSON in it is a part of that."""
    found: dict[str, Any] = plain(answer)
    for key, kind in command.response:
        name = key.decode("ascii")
        if (kind is JSON or (command, name) == (commands.Call, "result")) and found.get(name) is not None:
            found[name] = json.loads(found[name])
    return found


def text_of(command: type[Command], answer: Mapping[str, Any], width: int | None) -> str:
    """An answer for people: a table, XML as it is, or names and values.

    :param width: of the terminal; None for a file, in which documents stand as they came.
    """
    shown = {}
    for key, kind in command.response:
        name = key.decode("ascii")
        if isinstance(kind, AmpList):
            columns = {each: type_ for each, type_ in kind.fields.items() if each not in words.COOKIES}
            rows = [[_shown(type_, row[each]) for each, type_ in columns.items()] for row in answer[name]]
            return table([each.upper() for each in columns], rows, width) if rows else f"no {name}"
        if isinstance(kind, Big) and isinstance(answer.get(name), str):
            return _document(answer[name], width)
        if name not in words.COOKIES and name != "cursor":
            shown[name] = _shown(kind, answer.get(name))
    if command is commands.GetVersion:
        shown = {name: f"{n // 1_000_000}.{n // 1000 % 1000}.{n % 1000}" for name, n in answer.items()}
    return facts(shown) if shown else "done"


def _shown(kind: object, value: Any) -> object:
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, float):
        return round(value, 3)
    return size(value) if kind is SIZE else plain(value)


def _document(text: str, width: int | None) -> str:
    """XML or JSON from elsewhere, safe for a terminal."""
    try:
        text = json.dumps(json.loads(text), indent=2, ensure_ascii=True)
    except ValueError:
        pass
    lines = text.rstrip().splitlines()
    return "\n".join(lines if width is None else [escape(line.expandtabs()) for line in lines])


def event_lines(time: datetime, kind: str, payload: Mapping[str, Any]) -> list[str]:
    """An event for people: a line, or one for each domain that a resync tells of."""
    lines = []
    for told in payload["domains"] if kind == "resync" else [payload]:
        facts = {name: value for name, value in told.items() if name not in _SUBJECTS}
        subject = next((told[name] for name in _SUBJECTS if isinstance(told.get(name), dict)), _NOBODY)
        texts = [
            f"{name}={value if isinstance(value, str) else json.dumps(value)}"
            for name, value in facts.items()
        ]
        lines.append(escape(f"{time:%H:%M:%S} {kind} {subject.get('name', '-')} {' '.join(texts)}"))
    return lines


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
