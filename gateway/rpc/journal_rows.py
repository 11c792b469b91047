"""An entry of the journal of writes: what it is bound to, and its row in the file."""

from __future__ import annotations

import hmac
import json
import sqlite3
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from attrs import define, field, frozen

from gateway import errors
from gateway.wire.libvirt_error import LibvirtError

Result = Mapping[str, object]
Row = tuple[Any, ...]
#: Seconds an entry is kept after its last change.
KEPT = 86400.0
#: Bytes of JSON kept of one result, and of one error.
RESULT, ERROR = 64 * 1024, 4096
#: Characters of a ``request_id``; entries looked at in one go.
_ID, _BEGUN = 128, 1000
#: Seconds within which another request that has no end may have done what is seen, and by which one that has
#: may have come before.
_RIVALS, _SLACK = 600.0, 5.0


def _hash(data: bytes) -> bytes:
    return sha256(data).digest()


@frozen
class Entry:
    """A write whose end nobody knows.

    :ivar subject: what it was about, as the caller of :meth:`Journal.run` said: the uuid of a domain.
    :ivar began: seconds since the epoch.
    :ivar before: how that was then, as the caller said; None when it did not know.
    """

    principal: str
    request_id: str
    target: str
    procedure: str
    subject: str
    began: float
    before: int | None = None


@frozen
class Request:
    """A write as a client wants it; what it is bound to.

    :param arguments: as they are encoded for the hypervisor; only their SHA-256 is kept.
    :raises gateway.errors.BadArguments: the id is none.
    """

    principal: str
    target: str
    request_id: str
    procedure: str
    digest: bytes = field(alias="arguments", repr=False, converter=_hash)
    subject: str = ""
    before: int | None = None

    def __attrs_post_init__(self) -> None:
        if not (0 < len(self.request_id) <= _ID and self.request_id.isprintable()):
            raise errors.BadArguments("request_id", f"1 to {_ID} printable characters are expected")

    @property
    def key(self) -> tuple[str, str]:
        """What it is looked up by."""
        return self.principal, self.request_id

    def check(self, target: str, procedure: str, digest: bytes) -> None:
        """Compare it with what had the same id.

        :raises gateway.errors.BadArguments: it was something else.
        """
        same = hmac.compare_digest(self.digest, digest)
        if not same or (self.target, self.procedure) != (target, procedure):
            raise errors.BadArguments("request_id", "it was used for something else")


@define
class Attempt:
    """What the thread says of the beginning; read by its later jobs."""

    fresh: bool = False


@define
class Known:
    """What the file says of an entry."""

    state: str
    outcome: str | None
    entry: Entry

    def answer(self) -> Result | None:
        """What was answered then, None when nobody knows.

        :raises LibvirtError: it failed.
        :raises gateway.errors.Interrupted: it was done, and the result is gone.
        """
        if self.state == "begun":
            return None
        try:
            outcome = json.loads(self.outcome or "null")
            if self.state == "failed":
                first, second, third = outcome.pop("strings", (None, None, None))
                low, high = outcome.pop("numbers", (-1, -1))
                raise LibvirtError(strings=(first, second, third), numbers=(low, high), **outcome)
        except (ValueError, TypeError, AttributeError):
            outcome = None
        if isinstance(outcome, dict):
            return outcome
        raise errors.Interrupted("It was done, and its result was not kept", maybe_executed=True)


def encode(result: Result) -> str | None:
    """JSON of *result*, bytes as base64; None when it is too large to keep."""
    text = json.dumps(result, default=_plain)
    return text if len(text) <= RESULT else None


def encode_error(error: LibvirtError) -> str:
    """JSON of *error*; of one that is too large to keep, its numbers."""
    numbers = {"code": error.code, "domain": error.domain, "level": error.level}
    text = json.dumps({"text": error.text, "strings": error.strings, "numbers": error.numbers, **numbers})
    return text if len(text) <= ERROR else json.dumps(numbers)


def _plain(value: object) -> str:
    """What JSON has no form of."""
    if isinstance(value, bytes):
        return b64encode(value).decode("ascii")
    raise TypeError(f"{type(value).__name__} is no result")


def find(principal: str, request_id: str, since: float, database: sqlite3.Connection) -> Row | None:
    """The entry, if it has changed after *since*."""
    row: Row | None = database.execute(
        "SELECT target, procedure, digest, state, outcome, subject, at, before FROM journal"
        " WHERE principal = ? AND request = ? AND at > ?",
        (principal, request_id, since),
    ).fetchone()
    return row


def insert(
    request: Request, now: float, limits: tuple[int, int], attempt: Attempt, database: sqlite3.Connection
) -> Known | None:
    """Begin *request*, or say what is known of it."""
    row = find(*request.key, now - KEPT, database)
    if row is not None:
        target, procedure, digest, state, outcome, subject, at, before = row
        request.check(target, procedure, digest)
        entry = Entry(request.principal, request.request_id, target, procedure, subject, at, before)
        return Known(state, outcome, entry)
    # What is left of it is too old to count.
    database.execute("DELETE FROM journal WHERE principal = ? AND request = ?", request.key)
    if _full(request.principal, limits, database):
        purge(now - KEPT, database)
        if _full(request.principal, limits, database):
            raise errors.Busy("There are too many writes to remember", reason="journal")
    bound = (*request.key, request.target, request.procedure, request.digest)
    database.execute(
        "INSERT INTO journal (principal, request, target, procedure, digest, subject, before, state, at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, 'begun', ?)",
        (*bound, request.subject, request.before, now),
    )
    attempt.fresh = True
    return None


def _full(principal: str, limits: tuple[int, int], database: sqlite3.Connection) -> bool:
    (total,) = database.execute("SELECT entries FROM total").fetchone()
    own = database.execute("SELECT entries FROM tally WHERE principal = ?", (principal,)).fetchone()
    return total >= limits[0] or (own is not None and own[0] >= limits[1])


def finish(
    key: tuple[str, str],
    state: str,
    outcome: str | None,
    now: float,
    share: int,
    database: sqlite3.Connection,
) -> None:
    """Note the end of an entry that was begun; one result more than *share* bytes allow is not kept."""
    own = database.execute("SELECT bytes FROM tally WHERE principal = ?", key[:1]).fetchone()
    if state == "done" and outcome is not None and own is not None and own[0] + len(outcome) > share:
        outcome = None
    database.execute(
        "UPDATE journal SET state = ?, outcome = ?, at = ?"
        " WHERE principal = ? AND request = ? AND state = 'begun'",
        (state, outcome, now, *key),
    )


def claim(entry: Entry, outcome: str | None, now: float, share: int, database: sqlite3.Connection) -> bool:
    """Note that *entry* was what gave *outcome*, unless it may have been another; return whether it was."""
    same = "target = ? AND procedure = ? AND subject = ? AND NOT (principal = ? AND request = ?)"
    bound = (entry.target, entry.procedure, entry.subject, entry.principal, entry.request_id)
    (contested,) = database.execute(
        f"SELECT EXISTS (SELECT 1 FROM journal WHERE state = 'begun' AND at > ? AND {same})"  # noqa: S608 (all of it is ours)
        f" OR EXISTS (SELECT 1 FROM journal WHERE state = 'done' AND at > ? AND {same}"
        " AND (outcome IS NULL OR outcome = ?))",
        (entry.began - _RIVALS, *bound, entry.began - _SLACK, *bound, outcome),
    ).fetchone()
    if contested:
        return False
    finish((entry.principal, entry.request_id), "done", outcome, now, share, database)
    return True


def delete(key: tuple[str, str], database: sqlite3.Connection) -> None:
    """Forget an entry that has no end."""
    database.execute("DELETE FROM journal WHERE principal = ? AND request = ? AND state = 'begun'", key)


def begun(target: str, since: float, after: int, database: sqlite3.Connection) -> list[tuple[int, Entry]]:
    """Some entries of *target* without an end, each with its number: greater than *after*, and rising."""
    rows = database.execute(
        "SELECT rowid, principal, request, target, procedure, subject, at, before FROM journal"
        " WHERE state = 'begun' AND target = ? AND at > ? AND rowid > ? ORDER BY rowid LIMIT ?",
        (target, since, after, _BEGUN),
    )
    return [(number, Entry(*row)) for number, *row in rows]


def purge(until: float, database: sqlite3.Connection) -> None:
    """Forget what has not changed after *until*."""
    database.execute("DELETE FROM journal WHERE at <= ?", (until,))
