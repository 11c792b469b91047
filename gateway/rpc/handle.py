"""One handle with its subscriptions, and its row in the file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Any

from attrs import asdict, define, field, frozen
from twisted.logger import Logger

from gateway.wire.ticket_json import Rights

#: Bytes of the hash that a handle is looked up by.
ID = 16
Row = tuple[Any, ...]
_COLUMNS = (
    "hash, principal, target, ticket, rights, readonly, name, opened, expires, generation, subscriptions"
)
_TYPES = (bytes, str, str, bytes, str, int, str, float, float, int, str)
_log = Logger()


@frozen
class Subscription:
    """What a client wants to be told of.

    :ivar sub: its name, public and unlike any other.
    :ivar kinds: of events.
    :ivar dom: uuid of the only domain it is about, None for all.
    :ivar seq: the last event the client has seen.
    """

    sub: str
    kinds: tuple[str, ...]
    dom: str | None
    seq: int


@define(eq=False)
class Handle:
    """A target opened by somebody; only :class:`~gateway.rpc.handles.Handles` changes it.

    :ivar hash: SHA-256 of the handle's text.
    :ivar ticket: hash of the ticket it ends with, empty for none.
    :ivar rights: of that ticket; None where rights do not apply. A later login may have fewer.
    :ivar name: what was given to ``Open`` beside the target.
    :ivar opened: seconds since the epoch, like *expires*.
    :ivar generation: that of the target when it was last (re)opened under this handle.
    :ivar subscriptions: by their names.
    :ivar wanted: when it would end if its ticket lasted; not in the file, for no ticket outlives a restart.
    """

    hash: bytes = field(repr=False)
    principal: str
    target: str
    ticket: bytes = field(repr=False)
    rights: Rights | None
    readonly: bool
    name: str
    opened: float
    expires: float
    generation: int
    subscriptions: dict[str, Subscription] = field(factory=dict)
    wanted: float = 0.0

    @property
    def id(self) -> bytes:
        """What it is looked up by, and what its cookies hold."""
        return self.hash[:ID]

    @property
    def fingerprint(self) -> str:
        """What logs, audit and people may see."""
        return self.hash.hex()[:12]


def hash_handle(text: str) -> bytes:
    """The SHA-256 of a handle."""
    return sha256(text.encode("utf-8", "surrogatepass")).digest()


def snapshot(handle: Handle) -> Row:
    """What :func:`save` writes of *handle*, whatever becomes of it meanwhile."""
    return (
        handle.hash,
        handle.principal,
        handle.target,
        handle.ticket,
        handle.rights,
        handle.readonly,
        handle.name,
        handle.opened,
        handle.expires,
        handle.generation,
        tuple(handle.subscriptions.values()),
    )


def save(
    live: Iterable[Row],
    gone: Iterable[bytes],
    targets: Iterable[tuple[str, int]],
    database: sqlite3.Connection,
) -> None:
    """Write handles by :func:`snapshot`, remove others by their hash, and note generations of targets."""
    marks = ", ".join("?" * len(_TYPES))
    database.executemany(
        f"INSERT OR REPLACE INTO handle ({_COLUMNS}) VALUES ({marks})",  # noqa: S608 (all of it is ours)
        (_row(values) for values in live),
    )
    database.executemany("DELETE FROM handle WHERE hash = ?", ((key,) for key in gone))
    database.executemany("INSERT OR REPLACE INTO target VALUES (?, ?)", targets)


def load(database: sqlite3.Connection) -> Sequence[Handle]:
    """All handles, the oldest first; a row that makes no sense is left out."""
    rows = database.execute(f"SELECT {_COLUMNS} FROM handle ORDER BY opened").fetchall()  # noqa: S608 (our own columns)
    found = list(_handles(rows))
    if len(found) < len(rows):
        _log.error("{count} handles are damaged and lost", count=len(rows) - len(found))
    return found


def load_generations(database: sqlite3.Connection) -> dict[str, int]:
    """The generations of all targets."""
    rows = database.execute("SELECT name, generation FROM target").fetchall()
    return {name: number for name, number in rows if isinstance(name, str) and isinstance(number, int)}


def _row(values: Row) -> Row:
    rights: Rights | None = values[4]
    encoded = json.dumps(None if rights is None else asdict(rights))
    return (*values[:4], encoded, *values[5:-1], json.dumps([asdict(item) for item in values[-1]]))


def _handles(rows: Iterable[Row]) -> Iterator[Handle]:
    for row in rows:
        try:
            yield _handle(row)
        except (ValueError, TypeError, RecursionError):
            continue


def _handle(row: Row) -> Handle:
    if any(not isinstance(value, kind) for value, kind in zip(row, _TYPES, strict=True)):
        raise TypeError
    key, principal, target, ticket, rights, readonly, name, opened, expires, generation, subscriptions = row
    items = [_subscription(**item) for item in json.loads(subscriptions)]
    return Handle(
        key,
        principal,
        target,
        ticket,
        None if rights == "null" else _rights(**json.loads(rights)),
        bool(readonly),
        name,
        opened,
        expires,
        generation,
        {item.sub: item for item in items},
    )


def _rights(*, allow: list[str], domains: list[str]) -> Rights:
    return Rights(_texts(allow), _texts(domains))


def _subscription(*, sub: str, kinds: list[str], dom: str | None, seq: int) -> Subscription:
    if not isinstance(seq, int) or not isinstance(dom, str | None) or not isinstance(sub, str):
        raise TypeError
    return Subscription(sub, _texts(kinds), dom, seq)


def _texts(values: list[str]) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError
    return tuple(values)
