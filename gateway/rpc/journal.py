"""The journal of writes: whoever asks again by the same ``request_id`` is told, and nothing is done twice.

An entry is *begun* on the disk before the hypervisor is asked, and *done* or *failed* there before the client
is answered. One that is begun and has no end may have been executed; where the hypervisor's state tells,
it is settled by that, unless what shows there may be the work of another request. Let it keep what the
hypervisor said, never a handle or a cookie.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Literal

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway import errors
from gateway.rpc import journal_rows as rows
from gateway.rpc.journal_rows import KEPT, Entry, Request, Result
from gateway.rpc.store import Store, nothing
from gateway.wire.libvirt_error import LibvirtError

__all__ = ["KEPT", "Entry", "Executed", "Journal", "Request", "Result", "Settle", "unsettled"]

Executed = Literal["no", "unknown", "yes"]
#: Whoever raises these has not asked the hypervisor.
_BEFORE = (
    errors.BadArguments,
    errors.Busy,
    errors.Denied,
    errors.Expired,
    errors.NoHandle,
    errors.NoTarget,
    errors.TargetDown,
    errors.Unauthenticated,
)
_log = Logger()

#: Looks at the hypervisor: what *entry* gave unless another request did, False when it was certainly not
#: executed and never will be, None when nobody can tell.
Settle = Callable[[Entry], Awaitable[Result | Literal[False] | None]]


async def unsettled(_: Entry) -> None:
    """Nobody can tell."""


class Journal:
    """All that was written by ``request_id`` within a day.

    :param wall: seconds since the epoch.
    :param settle: asked for entries without an end.
    :param maximum: entries in all.
    :param per_principal: entries of one principal.
    :param share: bytes of results kept for one principal; beyond, only that they were there is.
    """

    def __init__(
        self,
        store: Store,
        wall: Callable[[], float],
        settle: Settle = unsettled,
        *,
        maximum: int = 100_000,
        per_principal: int = 20_000,
        share: int = 64 << 20,
    ) -> None:
        self._store = store
        self._wall = wall
        self._settle = settle
        self._limits = (maximum, per_principal)
        self._share = share
        self._running: dict[tuple[str, str], list[Deferred[None]]] = {}

    async def run(self, request: Request, do: Callable[[], Awaitable[Result]]) -> Result:
        """What *do* gives, or gave when the same was asked before; while it still runs, its end is awaited.

        What *do* raises decides: :exc:`LibvirtError` is a result too. What comes before the hypervisor is
        asked (:exc:`Denied`, :exc:`TargetDown`, :exc:`Interrupted` that says so …) means that the same may
        be tried again. Anything else, cancellation and bugs included, leaves the end open.

        :param do: must not begin before it is called.
        :raises gateway.errors.BadArguments: the id was used for something else.
        :raises gateway.errors.Interrupted: it was begun before, and nobody knows its end.
        :raises gateway.errors.Busy: there are too many entries, or this cannot be written down.
        """
        while request.key in self._running:
            await self._over(request.key)
        self._running[request.key] = []
        try:
            found = await self._answer(request)
            return await self._do(request, do) if found is None else found
        finally:
            self._release(request.key)

    def late(self, request: Request, outcome: Result | BaseException) -> None:
        """The hypervisor answered *request* at last, after :meth:`run` had ended without that answer."""
        if isinstance(outcome, LibvirtError):
            self._end(request.key, "failed", rows.encode_error(outcome))
        elif not isinstance(outcome, BaseException):
            self._end(request.key, "done", rows.encode(outcome))
        elif isinstance(outcome, errors.Interrupted) and not outcome.maybe_executed:
            self._noted(self._store.write(partial(rows.delete, request.key)))

    async def executed(self, principal: str, request_id: str) -> Executed:
        """What is known of a request: whether the hypervisor has done it.

        ``no`` also stands for what was never asked, and for what was asked more than :data:`KEPT` ago.
        """
        job = partial(rows.find, principal, request_id, self._wall() - KEPT)
        row = await self._store.write(job)
        words: dict[str | None, Executed] = {"begun": "unknown", "done": "yes"}
        return words.get(None if row is None else row[3], "no")

    async def settle(self, target: str) -> int:
        """Settle what can be of *target*, which is in reach now; how many entries have an end at last."""
        settled = number = 0
        since = self._wall() - KEPT
        while entries := await self._store.write(partial(rows.begun, target, since, number)):
            number = entries[-1][0]
            for _, entry in entries:
                if (entry.principal, entry.request_id) not in self._running:
                    settled += await self._settle_one(entry)
        return settled

    async def purge(self) -> None:
        """Forget what is old; to be called every few minutes."""
        await self._store.write(partial(rows.purge, self._wall() - KEPT))

    # Inside

    async def _over(self, key: tuple[str, str]) -> None:
        waiting: Deferred[None] = Deferred(nothing)
        self._running[key].append(waiting)
        await waiting

    def _release(self, key: tuple[str, str]) -> None:
        for waiting in self._running.pop(key):
            if not waiting.called:
                waiting.callback(None)

    async def _settle_one(self, entry: Entry) -> bool:
        key = (entry.principal, entry.request_id)
        self._running[key] = []
        try:
            await self._ask(entry)
        except errors.Interrupted:
            return False
        finally:
            self._release(key)
        return True

    async def _answer(self, request: Request) -> Result | None:
        """What was answered before; None when it is begun now."""
        known = await self._begin(request)
        answer = None if known is None else known.answer()
        if known is None or answer is not None:
            return answer
        found = await self._ask(known.entry)
        if found is not False:
            return found
        await self._begin(request)
        return None

    async def _begin(self, request: Request) -> rows.Known | None:
        attempt = rows.Attempt()
        try:
            return await self._store.write(partial(rows.insert, request, self._wall(), self._limits, attempt))
        except CancelledError:
            # The job runs all the same, and what it enters has not been begun.
            self._noted(self._store.write(lambda db: rows.delete(request.key, db) if attempt.fresh else None))
            raise

    async def _ask(self, entry: Entry) -> Result | Literal[False]:
        """Have *entry* settled; False when it was not executed, and is gone.

        :raises gateway.errors.Interrupted: nobody knows.
        """
        key = (entry.principal, entry.request_id)
        try:
            found = await self._settle(entry)
        except errors.GatewayError:
            found = None
        if found is None:
            raise errors.Interrupted(maybe_executed=True)
        if found is False:
            await self._store.write(partial(rows.delete, key))
            return False
        outcome = rows.encode(found)
        job = partial(rows.claim, entry, outcome, self._wall(), self._share)
        if not await self._store.write(job):
            raise errors.Interrupted(maybe_executed=True)
        return found

    async def _do(self, request: Request, do: Callable[[], Awaitable[Result]]) -> Result:
        try:
            result = await do()
        except LibvirtError as error:
            await self._end(request.key, "failed", rows.encode_error(error))
            raise
        except (errors.Interrupted, errors.DeadlinePassed) as error:
            if not error.maybe_executed:
                await self._noted(self._store.write(partial(rows.delete, request.key)))
            raise
        except _BEFORE:
            await self._noted(self._store.write(partial(rows.delete, request.key)))
            raise
        await self._end(request.key, "done", rows.encode(result))
        return result

    def _end(self, key: tuple[str, str], state: str, outcome: str | None) -> Deferred[None]:
        job = partial(rows.finish, key, state, outcome, self._wall(), self._share)
        return self._noted(self._store.write(job))

    def _noted(self, writing: Deferred[None]) -> Deferred[None]:
        """The end of a write is for the client even when it cannot be written down: it stays open then."""

        def failed(failure: Failure) -> None:
            failure.trap(errors.Busy)
            _log.warn("the end of a write could not be written down")

        return writing.addErrback(failed)
