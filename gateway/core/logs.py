"""The log: one observer that masks, filters and writes lines, and what feeds it.

:class:`Logs` is the observer. It writes the operational log (text, or one JSON object a line) to standard
error or a file, and records of the namespace ``gateway.audit`` (always JSON) also to a file of their own.
Whatever it writes went through :mod:`gateway.core.masking` first, so lines of Twisted and of libraries are
masked as well.

``twistd`` uses the observer that it finds as a component of the application. ``makeService`` does not see the
application, but the service it returns is given to it, so ``tap`` returns a :class:`LoggedService`::

    logs = observer(config)
    root = LoggedService(logs)          # a MultiService; add the others to it
    undo = capture()                    # Python's logging and warnings, from now on

``logs.reopen()`` belongs to SIGUSR1 and to each reload; ``logs.level`` may change at any time. Standard
error is written as descriptor 2, because ``twistd`` redirects ``sys.stderr`` into the log itself.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.application.service import MultiService
from twisted.logger import ILogObserver, Logger, LogLevel, formatEvent
from twisted.python.components import Componentized
from twisted.python.failure import Failure
from twisted.python.reflect import safe_repr, safe_str
from zope.interface import implementer

from gateway.core.batch import BATCH
from gateway.core.config_model import Config
from gateway.core.masking import FIELD, clean, clean_field, escape, mask

AUDIT = "gateway.audit"
#: Characters of a whole line, and of what another library said in one.
_LINE = 4096
_TRACEBACK = 1 << 16
_DEPTH = 4
_MEMBERS = 32
#: Keys of an event that are no fields: those of Twisted's older log.
_OLD = frozenset({"message", "time", "isError", "system", "format", "failure", "why", "log_legacy"})

_TEXT = (str, bytes)
_NUMBERS = (int, float)
_MOST = 1 << 63
_SIMPLE = re.compile(r"(?:[^{}]|\{[a-z]+(?::[^{}]*+)?\})*+", re.ASCII)
_NAME = re.compile(r"\{([a-z]+)", re.ASCII)

_clean_name = lru_cache(maxsize=512)(clean)
_encode = json.JSONEncoder(ensure_ascii=False).encode

#: Members of an audit record that differ from one to the next stand first: so many.
_FRESH = 6
#: The others as they are written; such as have only these values are kept, up to so many.
_seen: dict[object, str] = {}
_FLAT, _KEPT = frozenset({str, int, float, bool, type(None)}), 1024


def rfc3339(seconds: float) -> str:
    """*seconds* since the epoch as UTC, to the millisecond."""
    whole, rest = divmod(round(seconds * 1e6), 1_000_000)
    return f"{_second(whole)}.{rest // 1000:03d}Z"


@lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


@define
class Sink:
    """A file that lines are appended to; a line that cannot be written is dropped and counted.

    :ivar path: the file, or None for standard error.
    :ivar dropped: lines lost so far.
    :ivar on_drop: called for each of them.
    """

    path: Path | None = None
    dropped: int = 0
    on_drop: Callable[[], object] = lambda: None
    _descriptor: int = field(default=-1, init=False)
    _torn: bool = field(default=False, init=False)
    _lines: list[str] = field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        self.reopen()

    def reopen(self) -> None:
        """Open the file by its name again; the old one stays in use when that fails."""
        if self.path is None:
            self._descriptor = 2
            return
        try:
            fresh = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError:
            return
        self.close()
        self._descriptor, self._torn = fresh, False

    @property
    def writable(self) -> bool:
        """Whether there is a file to write to."""
        return self._descriptor >= 0

    def close(self) -> None:
        """Let go of the file; lines are dropped until it is reopened."""
        self._flush()
        if self.path is not None and self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def write(self, line: str) -> None:
        """Append *line* and a line end; those of one batch go to the file together, when it is over."""
        if not BATCH.open:
            self._append([line])
            return
        if not self._lines:
            BATCH.first(self._flush)
        self._lines.append(line)

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        if lines:
            self._append(lines)

    def _append(self, lines: list[str]) -> None:
        """Write *lines*; after half a line the next begins on its own."""
        text = "\n".join(lines)
        data = (("\n" if self._torn else "") + text + "\n").encode("utf-8", "backslashreplace")
        try:
            while data:
                count = os.write(self._descriptor, data)
                data = data[count:]
                self._torn = bool(data)
        except OSError:
            for _ in range(data.count(b"\n")):
                self.dropped += 1
                self.on_drop()


class _Shown:
    """An object inside of a format: whatever the format takes of it comes out clean."""

    def __init__(self, value: object, limit: int) -> None:
        self._value = value
        self._limit = limit

    def __str__(self) -> str:
        return clean(safe_str(self._value), self._limit)

    def __repr__(self) -> str:
        return clean(safe_repr(self._value), self._limit)

    def __format__(self, spec: str) -> str:
        return clean(format(self._value, spec) if spec else safe_str(self._value), self._limit)

    def __getattr__(self, name: str) -> object:
        return _formatted(name, getattr(self._value, name))

    def __getitem__(self, key: Any) -> object:
        return _formatted(str(key), self._value[key])  # type: ignore[index]  # only for mappings

    def __call__(self) -> object:
        return _formatted("", self._value())  # type: ignore[operator]  # only for callables


def _formatted(name: str, value: object) -> object:
    """*value* of the field *name*, for use in a format."""
    if value is None or isinstance(value, _NUMBERS):
        return value
    limit = _LINE if name in ("log_legacy", "log_python") else FIELD
    if isinstance(value, _TEXT):
        return clean_field(name, value, limit)
    if clean_field(name, "") != "":  # the name says secret, whatever it is
        return clean_field(name, safe_repr(value))
    return _Shown(value, limit)


def plain(name: str, value: object, depth: int = _DEPTH) -> object:
    """*value* of the field *name* as JSON can have it, clean."""
    if isinstance(value, _TEXT):
        return clean_field(name, value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 64:
        return int(value)
    if isinstance(value, float) and isfinite(value):
        return float(value)
    if depth and clean_field(name, "") == "":
        if isinstance(value, Mapping):
            few = [(safe_str(key), member) for key, member in islice(value.items(), _MEMBERS)]
            return {_clean_name(key): plain(key, member, depth - 1) for key, member in few}
        if isinstance(value, list | tuple | set | frozenset):
            return [plain(name, member, depth - 1) for member in list(value)[:_MEMBERS]]
    return clean_field(name, hex(value) if isinstance(value, int) else safe_repr(value))


def audit_line(event: Mapping[str, Any]) -> str:
    """The JSON line of an event of the namespace ``gateway.audit``."""
    record = event.get("audit")
    few = tuple(islice(record.items(), _MEMBERS)) if isinstance(record, Mapping) else ()
    members = [_member(name, value) for name, value in few[:_FRESH]]
    if rest := few[_FRESH:]:
        members.append(_repeated(rest))
    return f"{{{', '.join(members)}}}"


def _repeated(members: tuple[tuple[object, object], ...]) -> str:
    """Members of an audit record that are likely to have been in one before, all of them."""
    # Values that are equal are written alike when they are of one kind, and flat.
    kinds = tuple([type(value) for _, value in members])
    key = (members, kinds) if _FLAT.issuperset(kinds) else None
    found = _seen.get(key)
    if found is None:
        found = ", ".join([_member(name, value) for name, value in members])
        if key is not None and all(len(value) <= FIELD for _, value in members if isinstance(value, str)):
            if len(_seen) >= _KEPT:
                _seen.clear()
            _seen[key] = found
    return found


def _member(name: object, value: object) -> str:
    """One member of an audit record, as :func:`plain` has it; most members were in a record before."""
    if (type(value) is int or type(value) is float) and -_MOST < value < _MOST:
        return f"{_key(name)}{value!r}"
    if isinstance(value, str) and len(value) <= FIELD:
        return _usual(name, value)
    return _key(name) + _encode(plain(safe_str(name), value, _DEPTH - 1))


@lru_cache(maxsize=64)
def _key(name: object) -> str:
    return f"{_encode(clean(safe_str(name)))}: "


@lru_cache(maxsize=1024)
def _usual(name: object, value: str) -> str:
    return _key(name) + _encode(clean_field(safe_str(name), value))


def _text(event: Mapping[str, Any]) -> str:
    """What the event says, on one line."""
    if event.get("log_legacy") is not None and event.get("log_failure") is not None:
        return clean(safe_str(event.get("why") or "Unhandled Error"), _LINE)  # its text is the traceback
    wanted = safe_str(event.get("log_format") or "")
    simple = _simple_names(wanted)
    if simple is not None:
        with suppress(KeyError, ValueError, TypeError):
            return clean(wanted.format_map({key: _formatted(key, event[key]) for key in simple}), _LINE)
    # A name that does not stand in the format is no part of the text.
    names = [key for key in event if key in wanted and not _is_kept(key)]
    fields = {key: _formatted(key, event[key]) for key in names}
    kept = {key: value for key, value in event.items() if key in ("log_format", "log_level")}
    return clean(formatEvent(fields | kept), _LINE)


@lru_cache(maxsize=256)
def _simple_names(wanted: str) -> frozenset[str] | None:
    """The fields of *wanted* if none is a call: Python formats it as Twisted does, at a tenth of the cost."""
    return frozenset(_NAME.findall(wanted)) if _SIMPLE.fullmatch(wanted) else None


def _is_kept(key: str) -> bool:
    """Whether the log itself, not a format, needs the value of *key*."""
    return key in ("log_format", "log_flattened", "log_failure", "log_level", "log_logger")


def _traceback(event: Mapping[str, Any]) -> str:
    """Frames without local values, masked."""
    failure = event.get("log_failure")
    if not isinstance(failure, Failure):
        return ""
    text = failure.getTraceback(detail="default")
    if len(text) > _TRACEBACK:  # the end says what happened; the word at the cut may be half a secret
        text = "…\n" + text[-_TRACEBACK:].partition("\n")[2]
    return "\n".join(escape(line) for line in mask(text).rstrip().split("\n"))


@implementer(ILogObserver)
@define(eq=False)
class Logs:
    """Writes every event of at least :attr:`level` as one line, and audit records always.

    :ivar json: JSON lines rather than text.
    :ivar log: where the operational log goes.
    :ivar audit: where audit records go as well, if anywhere.
    """

    log: Sink
    audit: Sink | None = None
    json: bool = False
    level: Any = LogLevel.info

    def __call__(self, event: Mapping[str, Any]) -> None:
        if event.get("log_namespace") == AUDIT:
            line = audit_line(event)
            if self.audit is not None:
                self.audit.write(line)
            when = rfc3339(event.get("log_time", 0.0))
            self.log.write(line if self.json else f"{when} AUDIT {AUDIT}: {line}")
        elif event.get("log_level", LogLevel.info) >= self.level:
            self.log.write(self._json(event) if self.json else self._line(event))

    def _json(self, event: Mapping[str, Any]) -> str:
        names = [key for key in event if not key.startswith("log_") and key not in _OLD]
        record: dict[str, object] = {
            "time": rfc3339(event.get("log_time", 0.0)),
            "level": event.get("log_level", LogLevel.info).name,
            "namespace": _clean_name(safe_str(event.get("log_namespace", "-"))),
            "text": _text(event),
        }
        if names:
            record["fields"] = {_clean_name(name): plain(name, event[name]) for name in names}
        if traceback := _traceback(event):
            record["traceback"] = traceback
        return _encode(record)

    def _line(self, event: Mapping[str, Any]) -> str:
        when = rfc3339(event.get("log_time", 0.0))
        level = event.get("log_level", LogLevel.info).name.upper()
        name = _clean_name(safe_str(event.get("log_namespace", "-")))
        rest = "".join(f"\n    {line}" for line in _traceback(event).split("\n") if line)
        return f"{when} {level} {name}: {_text(event)}{rest}"

    def unwritable(self) -> list[str]:
        """Where lines should go and cannot."""
        return [str(it.path) for it in (self.log, self.audit) if it is not None and not it.writable]

    def reopen(self) -> None:
        """Open the files by their names again, after rotation."""
        for sink in (self.log, self.audit):
            if sink is not None:
                sink.reopen()

    def close(self) -> None:
        """Let go of the files."""
        for sink in (self.log, self.audit):
            if sink is not None:
                sink.close()


def observer(config: Config, on_drop: Callable[[str], object] = lambda stream: None) -> Logs:
    """The observer that ``[log]`` of *config* asks for.

    :param on_drop: called with ``log`` or ``audit`` for each line that could not be written.
    """
    section = config.log
    audit = None if section.audit is None else Sink(section.audit, on_drop=lambda: on_drop("audit"))
    log = Sink(section.file, on_drop=lambda: on_drop("log"))
    return Logs(log, audit, section.format == "json", LogLevel.levelWithName(section.level))


class LoggedService(MultiService):
    """The topmost service: makes *logs* the observer of the application that it is put into."""

    def __init__(self, logs: Logs) -> None:
        super().__init__()
        self.logs = logs

    def setServiceParent(self, parent: Any) -> None:
        if isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self.logs)
        super().setServiceParent(parent)


class _Bridge(logging.Handler):
    """Hands records of Python's ``logging`` to Twisted's log."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            said = record.getMessage()
        except (TypeError, ValueError, KeyError):
            said = f"unformattable: {safe_repr(record.msg)}"
        by_number = {50: LogLevel.critical, 40: LogLevel.error, 30: LogLevel.warn, 20: LogLevel.info}
        level = next((by_number[n] for n in by_number if record.levelno >= n), LogLevel.debug)
        extra: dict[str, Any] = {}
        if record.exc_info and record.exc_info[1] is not None:
            extra["log_failure"] = Failure(record.exc_info[1], record.exc_info[0], record.exc_info[2])
        Logger(namespace=f"python.{record.name}").emit(level, "{log_python}", log_python=said, **extra)


def capture() -> Callable[[], None]:
    """Send Python's ``logging`` and ``warnings`` to Twisted's log; the result undoes that."""
    bridge, root = _Bridge(), logging.getLogger()
    before = root.level
    root.addHandler(bridge)
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)

    def undo() -> None:
        logging.captureWarnings(False)
        root.removeHandler(bridge)
        root.setLevel(before)

    return undo
