"""What the programs have in common: an order comes, calls are made, figures go back."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from time import perf_counter
from typing import Any

from attrs import asdict
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure

from bench.callers import CallOrder, CallResult

#: Makes one call, for the caller of this number.
Call = Callable[[int], Awaitable[object]]
#: Gets ready to call this, over this transport.
Prepare = Callable[[str, str], Coroutine[Any, Any, Call]]
#: Seconds of calls that do not count: a process that has rested finds nothing of its own in the caches.
_EARLY = 0.02


async def work(order: CallOrder, call: Call) -> CallResult:
    """Let all callers call, each again when it has its answer."""
    early, _ = await _calls(order.callers, _EARLY, call)
    took, seconds = await _calls(order.callers, order.seconds, call)
    took.sort()
    count = len(took)
    return CallResult(len(early), count, seconds, took[count // 2], took[count * 99 // 100])


async def _calls(callers: int, seconds: float, call: Call) -> tuple[list[float], float]:
    """The seconds of each call, and of all together."""
    took: list[float] = []

    async def one(number: int) -> None:
        began = perf_counter()
        while began < end:
            await call(number)
            now = perf_counter()
            took.append(now - began)
            began = now

    start = perf_counter()
    end = start + seconds
    await gatherResults([Deferred.fromCoroutine(one(number)) for number in range(callers)])
    return took, perf_counter() - start


class _Orders(LineReceiver):
    def __init__(self, prepare: Prepare, ready: dict[tuple[str, str], Call]) -> None:
        self._prepare = prepare
        self._ready = ready

    def lineReceived(self, line: bytes) -> None:
        Deferred.fromCoroutine(self._obey(CallOrder(**json.loads(line)))).addErrback(self._failed)

    async def _obey(self, order: CallOrder) -> None:
        asked = order.what, order.transport
        if asked not in self._ready:
            self._ready[asked] = await self._prepare(*asked)
        result = await work(order, self._ready[asked])
        self.sendLine(json.dumps(asdict(result)).encode("ascii"))

    def _failed(self, failure: Failure) -> None:
        failure.printTraceback(sys.stderr)
        self.sendLine(repr(failure.value).encode("utf-8"))


def serve(path: str, prepare: Prepare) -> None:
    """Take orders on the unix socket *path*, one after the other, for ever."""
    from twisted.internet import reactor as _reactor

    reactor: Any = _reactor
    ready: dict[tuple[str, str], Call] = {}
    factory = Factory.forProtocol(partial(_Orders, prepare, ready))
    factory.noisy = False
    reactor.listenUNIX(path, factory)
    reactor.run()
