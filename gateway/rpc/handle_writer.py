"""Brings the file of handles up to what is in memory: many at a time, one writing after another."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import islice

from twisted.internet.defer import Deferred

from gateway.rpc import handle as rows
from gateway.rpc.handle import Handle
from gateway.rpc.store import Store, nothing

#: Handles written in one go.
_BATCH = 1000


class HandleWriter:
    """What differs from the file, and who waits until it does not.

    :param handles: all there are, by their ids; what is noted and not there is taken out of the file.
    :param generations: of all targets.
    """

    def __init__(self, store: Store, handles: Mapping[bytes, Handle], generations: Mapping[str, int]) -> None:
        self._store = store
        self._handles = handles
        self._generations = generations
        self._dirty: dict[bytes, Handle] = {}
        self._targets: set[str] = set()
        self._waiting: dict[bytes, list[Deferred[None]]] = {}
        self._idle: list[Deferred[None]] = []
        self._urgent = self._writing = False

    def note(self, handle: Handle) -> None:
        """Write *handle* with what comes next."""
        self._dirty[handle.id] = handle

    def note_target(self, name: str) -> None:
        """Write the generation of a target with what comes next."""
        self._targets.add(name)

    def durable(self, handle: Handle) -> Deferred[None]:
        """Wait until the file says of *handle* what we say now."""
        result: Deferred[None] = Deferred(nothing)
        self.note(handle)
        self._waiting.setdefault(handle.id, []).append(result)
        self.flush()
        return result

    def flush(self) -> None:
        """Write what was noted, as soon as nothing else is being written."""
        if self._dirty or self._targets:
            self._urgent = True
            self._go()

    async def settled(self) -> None:
        """Wait until nothing is being written."""
        while self._writing:
            idle: Deferred[None] = Deferred(nothing)
            self._idle.append(idle)
            await idle

    def _go(self) -> None:
        if self._writing or not self._urgent:
            return
        self._writing = True
        taken = dict(islice(self._dirty.items(), _BATCH))
        for key in taken:
            del self._dirty[key]
        self._urgent = bool(self._dirty)
        waiting = [result for key in taken for result in self._waiting.pop(key, ())]
        targets, self._targets = self._targets, set()
        numbers = [(name, self._generations[name]) for name in targets]
        live = [rows.snapshot(handle) for key, handle in taken.items() if key in self._handles]
        gone = [handle.hash for key, handle in taken.items() if key not in self._handles]

        def over(error: BaseException | None) -> None:
            self._writing = False
            if error is not None:
                # At the end, so that each of the others has its turn.
                self._dirty |= taken
                self._targets |= targets
                # The rest waits for the next purge.
                self._urgent = bool(self._waiting)
            for result in waiting:
                if not result.called:
                    if error is None:
                        result.callback(None)
                    else:
                        result.errback(error)
            self._go()
            idle, self._idle = self._idle, []
            for stopping in idle:
                stopping.callback(None)

        writing = self._store.write(partial(rows.save, live, gone, numbers))
        writing.addCallbacks(lambda _: over(None), lambda failure: over(failure.value))
