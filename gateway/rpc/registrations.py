"""What one client has asked a hypervisor to tell it: so much, one by one, and none cut in the middle.

libvirtd keeps every registration, and crashes when a connection goes while it works on one.
Source: observed on libvirtd 9.0: a worker fails in remoteClientFreePrivateCallbacks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.interfaces import IReactorTime

from gateway import errors
from gateway.rpc.connection import LibvirtConnection
from gateway.wire.libvirt_schema import Procedure, names

#: Registrations that one client may have.
MOST = 1024
#: Seconds that a connection stays for the answer to one.
PATIENCE = 5.0
#: What adds one, and what takes one away.
CHANGES = {
    name: 1 if found[1] is None else -1
    for name in names()
    if (found := re.fullmatch(r"\w+_EVENT(?:_CALLBACK)?_(DE)?REGISTER(?:_ANY)?", name))
}


class Registrations:
    """Those of one client."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._count = 0
        self._turn = DeferredSemaphore(1)
        self._asked: Deferred[Any] | None = None
        self._closed = False

    def full(self, procedure: Procedure) -> bool:
        """Whether *procedure* would be one too many."""
        return self._count + CHANGES.get(procedure.name, 0) > MOST

    async def ask(
        self, upstream: LibvirtConnection, procedure: Procedure, arguments: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Call *procedure*, one of :data:`CHANGES`; it goes on when nobody waits for it any more."""
        await self._turn.acquire()
        try:
            if self._closed:
                raise errors.Interrupted(maybe_executed=False)
            answer: Deferred[dict[str, Any]] = Deferred()
            asked = self._asked = upstream.call(procedure, arguments)
            asked.addBoth(self._answered, answer)
            results = await answer
        finally:
            self._turn.release()
        self._count += CHANGES[procedure.name]
        return results

    def _answered(self, result: Any, answer: Deferred[dict[str, Any]]) -> None:
        self._asked = None
        if not answer.called:
            answer.callback(result)

    def close(self, upstream: LibvirtConnection) -> None:
        """Ask no more, and close *upstream* when it is not in the middle of a registration."""
        self._closed = True
        asked = self._asked
        if asked is None:
            upstream.close()
            return
        late = self._clock.callLater(PATIENCE, upstream.close)

        def done(_: object) -> None:
            if late.active():
                late.cancel()
                upstream.close()

        asked.addBoth(done)
