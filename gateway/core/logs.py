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

import logging
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.application.service import MultiService
from twisted.logger import ILogObserver, Logger, LogLevel
from twisted.python.components import Componentized
from twisted.python.failure import Failure
from twisted.python.reflect import safe_repr, safe_str
from zope.interface import implementer

from gateway.core.batch import BATCH
from gateway.core.config_model import Config
from gateway.core.log_lines import clean_name, encode, plain, text_of, traceback_of

AUDIT = "gateway.audit"
#: Keys of an event that are no fields: those of Twisted's older log.
_OLD = frozenset({"message", "time", "isError", "system", "format", "failure", "why", "log_legacy"})


@lru_cache(maxsize=8)
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
            line = event["audit"]
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
            "namespace": clean_name(safe_str(event.get("log_namespace", "-"))),
            "text": text_of(event),
        }
        if names:
            record["fields"] = {clean_name(name): plain(name, event[name]) for name in names}
        if traceback := traceback_of(event):
            record["traceback"] = traceback
        return encode(record)

    def _line(self, event: Mapping[str, Any]) -> str:
        when = rfc3339(event.get("log_time", 0.0))
        level = event.get("log_level", LogLevel.info).name.upper()
        name = clean_name(safe_str(event.get("log_namespace", "-")))
        rest = "".join(f"\n    {line}" for line in traceback_of(event).split("\n") if line)
        return f"{when} {level} {name}: {text_of(event)}{rest}"

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
