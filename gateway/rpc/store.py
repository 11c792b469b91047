"""The file that outlives the gateway: one SQLite database for handles and the journal of writes.

It opens once at the start and is then used by one thread at a time: a *job* is a function of the open
database, and jobs run in the order they come. What waits is committed together, so that many pay for one
``fsync``; when the result of :meth:`Store.write` is there, it is on the disk.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway import errors

T = TypeVar("T")
#: Runs a blocking function elsewhere than on the reactor's thread.
InThread = Callable[..., Deferred[Any]]
Job = Callable[[sqlite3.Connection], T]

#: Raised with every change of the tables.
VERSION = 1
_TABLES = """
CREATE TABLE handle (
    hash BLOB PRIMARY KEY, principal TEXT, target TEXT, ticket BLOB, rights TEXT, readonly INTEGER,
    name TEXT, opened REAL, expires REAL, generation INTEGER, subscriptions TEXT
) WITHOUT ROWID;
CREATE TABLE target (name TEXT PRIMARY KEY, generation INTEGER) WITHOUT ROWID;
CREATE TABLE journal (
    principal TEXT, request TEXT, target TEXT, procedure TEXT, digest BLOB, subject TEXT, before INTEGER,
    state TEXT, outcome TEXT, at REAL, UNIQUE (principal, request)
);
CREATE INDEX journal_at ON journal (at);
CREATE INDEX journal_begun ON journal (target) WHERE state = 'begun';
CREATE TABLE tally (principal TEXT PRIMARY KEY, entries INTEGER, bytes INTEGER) WITHOUT ROWID;
CREATE TABLE total (entries INTEGER);
INSERT INTO total VALUES (0);
CREATE TRIGGER journal_more AFTER INSERT ON journal BEGIN
    INSERT OR IGNORE INTO tally VALUES (new.principal, 0, 0);
    UPDATE tally SET entries = entries + 1 WHERE principal = new.principal;
    UPDATE total SET entries = entries + 1;
END;
CREATE TRIGGER journal_ends AFTER UPDATE OF outcome ON journal BEGIN
    UPDATE tally SET bytes = bytes + ifnull(length(new.outcome), 0) - ifnull(length(old.outcome), 0)
        WHERE principal = new.principal;
END;
CREATE TRIGGER journal_less AFTER DELETE ON journal BEGIN
    UPDATE tally SET entries = entries - 1, bytes = bytes - ifnull(length(old.outcome), 0)
        WHERE principal = old.principal;
    DELETE FROM tally WHERE principal = old.principal AND entries = 0;
    UPDATE total SET entries = entries - 1;
END;
"""
#: The tables and all that belongs to them, as SQLite itself remembers them.
_SHAPE = "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_stat%' ORDER BY name"
_PAGE = 4096
#: Jobs committed together.
_BATCH = 500
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_SUFFIXES = ("", "-wal", "-shm", "-journal")
_log = Logger()


def nothing(*_: object) -> None:
    """Do nothing: whoever stops waiting does not stop what runs."""


class _DamagedError(Exception):
    """The file is not, or is no longer, what this version can use."""


class Store:
    """The open database.

    A file that cannot be used is moved aside, with a line in the log, and a new one begun.

    :param path: mode 0600; one process at a time has it.
    :param size: bytes of the file at most.
    :param waiting: jobs that may wait.
    :raises gateway.errors.ConfigError: neither the file nor a new one can be opened.
    """

    def __init__(
        self, path: Path, in_thread: InThread, *, size: int = 512 << 20, waiting: int = 10_000
    ) -> None:
        self._in_thread = in_thread
        self._most = waiting
        self._queue: list[tuple[Job[Any], Deferred[Any]]] = []
        self._running = False
        self._failing = False
        self._closed = False
        self._database = _open(path, size // _PAGE)

    def load(self, job: Job[T]) -> T:
        """Run *job* at once, blocking: at the start, before anything is written."""
        return job(self._database)

    def write(self, job: Job[T]) -> Deferred[T]:
        """Run *job* in the thread, after all before it; the result comes when it is on the disk.

        A job that raises a :exc:`GatewayError` does so before it changes anything. It is not stopped when the
        result is cancelled.

        :raises gateway.errors.Busy: (by the result) too much waits, or the disk does not take it.
        """
        if self._closed or len(self._queue) >= self._most:
            return fail(errors.Busy())
        result: Deferred[T] = Deferred(nothing)
        self._queue.append((job, result))
        self._start()
        return result

    async def close(self) -> None:
        """Write what waits, and close the file."""
        if not self._closed:
            last = self.write(nothing)
            self._closed = True
            await last
            await self._in_thread(self._database.close)

    def _start(self) -> None:
        if not self._running and self._queue:
            self._running = True
            batch, self._queue = self._queue[:_BATCH], self._queue[_BATCH:]
            running = self._in_thread(self._commit, [job for job, _ in batch])
            running.addBoth(self._tell, [result for _, result in batch])

    def _tell(self, outcomes: list[object] | Failure, results: list[Deferred[object]]) -> None:
        self._running = False
        if isinstance(outcomes, Failure):
            _log.failure("a job of the store failed", outcomes)
            outcomes = [outcomes.value] * len(results)
        self._note(next((outcome for outcome in outcomes if isinstance(outcome, sqlite3.Error)), None))
        for result, outcome in zip(results, outcomes, strict=True):
            if result.called:
                continue
            if isinstance(outcome, sqlite3.Error):
                result.errback(errors.Busy("The gateway cannot write this down now"))
            elif isinstance(outcome, BaseException):
                # One of ours, or a bug.
                result.errback(outcome)
            else:
                result.callback(outcome)
        self._start()

    def _note(self, error: sqlite3.Error | None) -> None:
        if error is not None and not self._failing:
            _log.error("the file of handles cannot be written: {error}", error=str(error))
        elif error is None and self._failing:
            _log.info("the file of handles can be written again")
        self._failing = error is not None

    def _commit(self, jobs: list[Job[Any]]) -> list[object]:
        """In the thread: run *jobs* in one transaction, or one by one when that does not work."""
        database = self._database
        try:
            database.execute("BEGIN IMMEDIATE")
            outcomes = [_outcome(job, database) for job in jobs]
            database.execute("COMMIT")
        except (sqlite3.Error, ValueError, OverflowError) as error:
            _roll_back(database)
            return [error] if len(jobs) == 1 else [self._commit([job])[0] for job in jobs]
        finally:
            _roll_back(database)
        return outcomes


def _outcome(job: Job[Any], database: sqlite3.Connection) -> object:
    try:
        return job(database)
    except errors.GatewayError as error:
        return error


def _roll_back(database: sqlite3.Connection) -> None:
    if database.in_transaction:
        database.execute("ROLLBACK")


def _open(path: Path, pages: int) -> sqlite3.Connection:
    try:
        try:
            return _connect(path, pages)
        except _DamagedError as damage:
            aside = path.with_name(path.name + ".damaged")
            for suffix in _SUFFIXES:
                _move(f"{path}{suffix}", f"{aside}{suffix}")
            _log.error(
                "{file} cannot be used ({reason}): it is {aside} now, and all handles are lost",
                file=str(path),
                reason=str(damage),
                aside=str(aside),
            )
            return _connect(path, pages)
    except (OSError, sqlite3.Error, _DamagedError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise errors.ConfigError([f"[gateway] state_dir: {path} cannot be opened: {why}"]) from error


def _move(path: str, aside: str) -> None:
    try:
        os.replace(path, aside)
    except FileNotFoundError:
        # What lay there belonged to another file.
        Path(aside).unlink(missing_ok=True)


def _connect(path: Path, pages: int) -> sqlite3.Connection:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
    database = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
    # One flipped bit in a text is no reason not to read the others.
    database.text_factory = lambda data: data.decode("utf-8", "replace")
    try:
        _prepare(database, pages)
    except BaseException as error:  # raised again, or as what it means
        database.close()
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        # SQLite's message repeats what is damaged, and that may be no text.
        damaged = code in _DAMAGE or isinstance(error, UnicodeDecodeError)
        raise (_DamagedError(str(error)) if damaged else error) from error
    return database


def _prepare(database: sqlite3.Connection, pages: int) -> None:
    # A second process must not write: each keeps a copy in memory.
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    fresh = _judge(database)
    database.execute(f"PRAGMA page_size = {_PAGE}")
    database.execute("PRAGMA journal_mode = WAL")
    # A write that was begun must be known after a power failure, too.
    database.execute("PRAGMA synchronous = FULL")
    database.execute(f"PRAGMA max_page_count = {pages}")
    database.execute(f"PRAGMA journal_size_limit = {16 << 20}")
    if fresh:
        database.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {VERSION}; COMMIT")


def _judge(database: sqlite3.Connection) -> bool:
    """Whether it is empty, and ours to fill; nothing is written.

    :raises _DamagedError: it is neither that nor one of ours.
    """
    shape = database.execute(_SHAPE).fetchall()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if not shape and version == 0:
        return True
    if version != VERSION:
        raise _DamagedError(f"it is of version {version}, and we write {VERSION}")
    (verdict,) = database.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise _DamagedError(verdict)
    model = sqlite3.connect(":memory:")
    try:
        model.executescript(_TABLES)
        if shape != model.execute(_SHAPE).fetchall():
            raise _DamagedError("its tables are not ours")
    finally:
        model.close()
    return False
