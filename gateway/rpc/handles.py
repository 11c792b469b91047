"""Handles: what a client keeps of a target it opened, and finds again after a restart of anybody.

A handle is 32 random characters that only its client has; here and in the file is their SHA-256. All of them
are in memory, so nothing that looks at one waits. What a client is told has been written down before, but
for how far it has seen its events: those may come twice.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from math import inf
from secrets import token_hex, token_urlsafe
from typing import TypeVar

from attrs import evolve

from gateway import errors
from gateway.rpc import handle as rows
from gateway.rpc.handle import ID, Handle, Subscription, hash_handle
from gateway.rpc.handle_writer import HandleWriter
from gateway.rpc.store import Store
from gateway.wire.ticket_json import Rights

T = TypeVar("T")
#: Seconds a handle may be given at once.
LONGEST = 7 * 86400.0
#: Characters of a principal, a target or a name, of a kind of event, and of a uuid.
_TEXT, _KIND, _UUID = 1024, 32, 36
#: Kinds of one subscription, subscriptions of one handle.
_KINDS, _SUBSCRIPTIONS = 32, 16
#: What fits in the file.
_MOST = 2**63 - 1


class Handles:
    """All handles.

    :param wall: seconds since the epoch.
    :param maximum: handles in all.
    :param per_principal: handles of one principal.
    """

    def __init__(
        self, store: Store, wall: Callable[[], float], *, maximum: int = 50_000, per_principal: int = 10_000
    ) -> None:
        self._wall = wall
        self._maximum = maximum
        self._per_principal = per_principal
        self._handles: dict[bytes, Handle] = {}
        self._principals: dict[str, dict[bytes, Handle]] = {}
        self._tickets: dict[bytes, dict[bytes, Handle]] = {}
        self._subscriptions: dict[str, Handle] = {}
        # A number that was told and not yet written must not be told again.
        self._generations = {name: number + 1 for name, number in store.load(rows.load_generations).items()}
        self._writer = HandleWriter(store, self._handles, self._generations)
        for handle in store.load(rows.load):
            self._enter(handle)
        self.purge()

    def __len__(self) -> int:
        return len(self._handles)

    # Looking

    def find(self, text: str, principal: str) -> Handle:
        """The handle *text*.

        :raises gateway.errors.NoHandle: there is none, or none of *principal*.
        """
        return self._get(hash_handle(text), principal)

    def get(self, handle_id: bytes, principal: str) -> Handle:
        """The handle that a cookie names.

        :raises gateway.errors.NoHandle: there is none, or none of *principal*.
        """
        return self._get(handle_id, principal)

    def list(self, principal: str) -> Sequence[Handle]:
        """All handles of *principal*, the oldest first."""
        now = self._wall()
        return [handle for handle in self._principals.get(principal, {}).values() if handle.expires > now]

    def targets(self) -> set[str]:
        """The targets that somebody has a handle of."""
        return {handle.target for handle in self._handles.values()}

    def subscription(self, sub: str, principal: str) -> tuple[Handle, Subscription]:
        """A subscription and the handle it belongs to.

        :raises gateway.errors.NoHandle: there is none, or none of *principal*.
        """
        handle = self._subscriptions.get(sub)
        if handle is None or handle.principal != principal or not self._good(handle):
            raise errors.NoHandle("There is no such subscription")
        return handle, handle.subscriptions[sub]

    # Opening and ending

    async def open(
        self,
        principal: str,
        target: str,
        *,
        ticket: bytes,
        rights: Rights | None,
        ttl: float,
        left: float = inf,
        readonly: bool = False,
        name: str = "",
    ) -> tuple[str, Handle]:
        """A new handle, and its text, which is nowhere else.

        :param ttl: seconds, :data:`LONGEST` at most.
        :param left: seconds until its ticket ends, and the handle too unless the ticket is renewed.
        :raises gateway.errors.Busy: there are too many, or it cannot be written down.
        :raises gateway.errors.Expired: its ticket has ended meanwhile.
        """
        for path, value in (("principal", principal), ("target", target), ("name", name)):
            _check_text(path, value)
        end = self._end(ttl)
        self._make_room(principal)
        text = token_urlsafe(24)
        handle = Handle(
            hash_handle(text),
            principal,
            target,
            ticket,
            rights,
            readonly,
            name,
            opened=self._wall(),
            expires=min(end, self._wall() + left),
            generation=self.generation(target),
            wanted=end,
        )
        self._enter(handle)
        written = False
        try:
            await self._writer.durable(handle)
            written = True
        finally:
            if not written:
                self._drop(handle)
        if handle.id not in self._handles:
            raise errors.Expired
        return text, handle

    async def renew(self, handle: Handle, ttl: float, left: float = inf) -> float:
        """Let it end in *ttl* seconds from now, *left* or :data:`LONGEST` at most; the new end."""
        self._check(handle)
        handle.wanted = self._end(ttl)
        handle.expires = min(handle.wanted, self._wall() + left)
        await self._writer.durable(handle)
        self._check(handle)
        return handle.expires

    async def close(self, handle: Handle) -> None:
        """End it now; what fails is only to write that down, which is tried again."""
        self._check(handle)
        self._drop(handle)
        await self._writer.durable(handle)

    def renew_ticket(self, ticket: bytes, left: float) -> None:
        """The ticket with this hash ends in *left* seconds now; its handles go on, as long as they should."""
        for handle in self._tickets.get(ticket, {}).values() if ticket else ():
            end = min(handle.wanted, self._wall() + left)
            if end > handle.expires:
                handle.expires = end
                self._writer.note(handle)

    def end_ticket(self, ticket: bytes) -> Sequence[Handle]:
        """End all handles of the ticket with this hash, for good; those that ended."""
        return self._end_all(self._tickets.get(ticket, {}).values() if ticket else ())

    def purge(self) -> Sequence[Handle]:
        """End what is over by time, write what is not yet written; to be called every few seconds."""
        now = self._wall()
        ended = self._end_all(handle for handle in self._handles.values() if handle.expires <= now)
        self._writer.flush()
        return ended

    async def stop(self) -> None:
        """Write what is not yet written; the store is to be closed afterwards."""
        self.purge()
        await self._writer.settled()

    # Targets

    def generation(self, target: str) -> int:
        """How often *target* has been connected, over all restarts."""
        return self._generations.get(target, 0)

    def connected(self, target: str) -> int:
        """Raise the generation of *target*: it has a new connection."""
        self._generations[target] = number = self.generation(target) + 1
        self._writer.note_target(target)
        self._writer.flush()
        return number

    def reopened(self, handle: Handle) -> int:
        """Note that *handle* works over the connection that its target has now; the generation."""
        generation = self.generation(handle.target)
        if handle.generation != generation and handle.id in self._handles:
            handle.generation = generation
            self._writer.note(handle)
        return generation

    # Subscriptions

    async def subscribe(
        self, handle: Handle, kinds: Iterable[str], dom: str | None, seq: int
    ) -> Subscription:
        """A new subscription of *handle*, which has seen the events up to *seq*.

        :raises gateway.errors.Busy: it has too many, or it cannot be written down.
        """
        self._check(handle)
        if len(handle.subscriptions) >= _SUBSCRIPTIONS:
            raise errors.Busy("This handle has too many subscriptions")
        wanted = tuple(dict.fromkeys(islice(kinds, _KINDS + 1)))
        if not wanted or len(wanted) > _KINDS or any(not 0 < len(kind) <= _KIND for kind in wanted):
            raise errors.BadArguments("kinds", f"1 to {_KINDS} names of events are expected")
        if dom is not None and len(dom) > _UUID:
            raise errors.BadArguments("dom", "a uuid is expected")
        _check_seq(seq)
        subscription = Subscription(token_hex(8), wanted, dom, seq)
        handle.subscriptions[subscription.sub] = subscription
        self._subscriptions[subscription.sub] = handle
        written = False
        try:
            await self._writer.durable(handle)
            written = True
        finally:
            if not written and handle.subscriptions.pop(subscription.sub, None) is not None:
                self._subscriptions.pop(subscription.sub, None)
                self._writer.note(handle)
        self._check(handle)
        return subscription

    async def unsubscribe(self, handle: Handle, sub: str) -> None:
        """End the subscription *sub* of *handle*.

        :raises gateway.errors.NoHandle: there is none.
        """
        self._check(handle)
        if handle.subscriptions.pop(sub, None) is None:
            raise errors.NoHandle("There is no such subscription")
        del self._subscriptions[sub]
        await self._writer.durable(handle)

    def ack(self, handle: Handle, sub: str, seq: int) -> None:
        """The client has seen all up to *seq*; written down with what comes next.

        :raises gateway.errors.NoHandle: there is no such subscription.
        """
        self._check(handle)
        _check_seq(seq)
        known = handle.subscriptions.get(sub)
        if known is None:
            raise errors.NoHandle("There is no such subscription")
        if seq > known.seq:
            handle.subscriptions[sub] = evolve(known, seq=seq)
            self._writer.note(handle)

    # Inside

    def _get(self, wanted: bytes, principal: str) -> Handle:
        handle = self._handles.get(wanted[:ID])
        if handle is None or not hmac.compare_digest(handle.hash[: len(wanted)], wanted):
            raise errors.NoHandle
        if handle.principal != principal or not self._good(handle):
            raise errors.NoHandle
        return handle

    def _good(self, handle: Handle) -> bool:
        return self._handles.get(handle.id) is handle and handle.expires > self._wall()

    def _check(self, handle: Handle) -> None:
        if not self._good(handle):
            raise errors.NoHandle

    def _end(self, ttl: float) -> float:
        if not ttl > 0:
            raise errors.BadArguments("ttl", "more than 0 seconds are expected")
        return self._wall() + min(ttl, LONGEST)

    def _make_room(self, principal: str) -> None:
        if self._full(principal):
            self.purge()
            if self._full(principal):
                raise errors.Busy("There are too many handles", reason="handles")

    def _full(self, principal: str) -> bool:
        own = self._principals.get(principal, ())
        return len(self._handles) >= self._maximum or len(own) >= self._per_principal

    def _enter(self, handle: Handle) -> None:
        self._handles[handle.id] = handle
        self._principals.setdefault(handle.principal, {})[handle.id] = handle
        self._tickets.setdefault(handle.ticket, {})[handle.id] = handle
        self._subscriptions.update(dict.fromkeys(handle.subscriptions, handle))

    def _drop(self, handle: Handle) -> None:
        """Forget it; the file follows."""
        if self._handles.pop(handle.id, None) is None:
            return
        _leave(self._principals, handle.principal, handle.id)
        _leave(self._tickets, handle.ticket, handle.id)
        for sub in handle.subscriptions:
            del self._subscriptions[sub]
        self._writer.note(handle)

    def _end_all(self, handles: Iterable[Handle]) -> Sequence[Handle]:
        ended = list(handles)
        for handle in ended:
            self._drop(handle)
        if ended:
            self._writer.flush()
        return ended


def _leave(index: dict[T, dict[bytes, Handle]], key: T, handle_id: bytes) -> None:
    index[key].pop(handle_id)
    if not index[key]:
        del index[key]


def _check_text(path: str, value: str) -> None:
    if len(value) > _TEXT:
        raise errors.BadArguments(path, f"{_TEXT} characters at most are expected")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise errors.BadArguments(path, "it is not UTF-8") from None


def _check_seq(seq: int) -> None:
    if not 0 <= seq <= _MOST:
        raise errors.BadArguments("seq", "the number of an event is expected")
