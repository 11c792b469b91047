"""Events of a client: in order, each once, acknowledged, and none missed over a new connection."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from inspect import isawaitable
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway import errors
from gateway.rpc import commands
from gateway.rpc.arguments import HARD_CAP
from gateway.rpc.client_link import Link
from gateway.wire import strict_json

#: Events that may come before the answer says what they belong to.
_EARLY = 10_000


@frozen
class Event:
    """Something that happened.

    :ivar seq: numbers of one target rise, over its restarts and the gateway's, too.
    :ivar time: UTC.
    :ivar kind: such as ``lifecycle``; ``resync`` is the state of everything, when something was missed.
    :ivar dom: cookie of the domain, empty where none is meant.
    :ivar payload: what else there is to say.
    """

    seq: int
    time: datetime
    kind: str
    dom: str
    payload: Mapping[str, Any]


OnEvent = Callable[[Event], Awaitable[object] | object]


@define(eq=False)
class Subscription:
    """Calls *on_event* for one event after the other, and waits for it where it returns an awaitable.

    Only then an event is acknowledged: the gateway sends no more than a few that are not.

    :ivar seq: the last one that was dealt with, or where it began.
    :ivar complete: whether nothing was missed when it began, or began again.
    :ivar ended: told once when no more events come though nobody asked for that.
    """

    handle: str
    kinds: tuple[str, ...]
    dom: str | None
    on_event: OnEvent = field(repr=False)
    _events: Events = field(repr=False)
    seq: int | None = None
    complete: bool = True
    ended: Callable[[errors.GatewayError], object] = field(default=lambda reason: None, repr=False)
    id: str = field(default="", init=False)
    _seen: int = field(default=-1, init=False)
    _queue: deque[Event] = field(factory=deque, init=False, repr=False)
    _busy: bool = field(default=False, init=False)
    _acking: bool = field(default=False, init=False)
    _acked: int = field(default=-1, init=False)

    log = Logger()

    async def unsubscribe(self) -> None:
        """Have no more events; those that are under way are dropped."""
        await self._events.unsubscribe(self)

    def arrived(self, event: Event) -> None:
        """Take one more event."""
        self._queue.append(event)
        if not self._busy:
            self._busy = True
            Deferred.fromCoroutine(self._work()).addErrback(self._failed)

    async def _work(self) -> None:
        try:
            while self._queue and self.id:
                event = self._queue.popleft()
                # After a new connection some come twice.
                if event.seq > self._seen or event.kind == "resync":
                    await Deferred.fromCoroutine(self._call(event)).addErrback(self._not_dealt_with, event)
                    self._seen = self.seq = max(self._seen, event.seq)
                self._acknowledge()
        finally:
            self._busy = False

    async def _call(self, event: Event) -> None:
        result = self.on_event(event)
        if isawaitable(result):
            await result

    def _not_dealt_with(self, failure: Failure, event: Event) -> None:
        self.log.failure("{kind} {seq} was not dealt with", failure, kind=event.kind, seq=event.seq)

    def _acknowledge(self) -> None:
        """One at a time: all that happens meanwhile needs but one more."""
        if not self._acking:
            self._acking = True
            Deferred.fromCoroutine(self._send_acknowledgements()).addErrback(self._failed)

    async def _send_acknowledgements(self) -> None:
        try:
            while self._acked < self._seen and self.id:
                sub, seq = self.id, self._seen
                await self._events.link.ask(commands.Ack, sub=sub, seq=seq)
                # Of what is called otherwise by now nothing was acknowledged.
                if sub == self.id:
                    self._acked = seq
        except (errors.Interrupted, errors.NoHandle):
            # Whoever subscribes again says where to go on.
            pass
        finally:
            self._acking = False

    def _failed(self, failure: Failure) -> None:
        self.log.failure("events of {sub} are in trouble", failure, sub=self.id)

    def begin(self, answer: Mapping[str, Any]) -> None:
        """Events come as those of another number from now on."""
        self.id, self.complete = answer["sub"], answer["complete"]
        self._acked = -1
        self._queue.clear()
        if self.seq is None:
            self.seq = answer["seq"]

    def stop(self) -> None:
        """Deal with no more."""
        self.id = ""
        self._queue.clear()


class Events:
    """All subscriptions of one client."""

    log = Logger()

    def __init__(self) -> None:
        self.link: Link
        self._all: list[Subscription] = []
        self._by_id: dict[str, Subscription] = {}
        self._early: list[tuple[str, Event]] = []
        self._beginning = 0

    async def event(
        self, sub: str, seq: int, time: datetime, kind: str, dom: str, payload: str
    ) -> Mapping[str, Any]:
        """The gateway sends an event."""
        try:
            told = strict_json.load_object(payload, limit=HARD_CAP, depth=64)
        except ValueError as error:
            raise errors.BadArguments("payload", str(error)) from None
        event = Event(seq, time, kind, dom, told)
        subscription = self._by_id.get(sub)
        if subscription is not None:
            subscription.arrived(event)
        elif self._beginning and len(self._early) < _EARLY:
            self._early.append((sub, event))
        return {}

    async def subscribe(
        self, handle: str, kinds: Sequence[str], on_event: OnEvent, dom: str | None, from_seq: int | None
    ) -> Subscription:
        """Begin; raises what the gateway says."""
        subscription = Subscription(handle, tuple(kinds), dom, on_event, self, from_seq)
        await self._begin(subscription)
        self._all.append(subscription)
        return subscription

    async def _begin(self, subscription: Subscription) -> None:
        self._beginning += 1
        try:
            answer = await self.link.ask(
                commands.Subscribe,
                handle=subscription.handle,
                kinds=subscription.kinds,
                dom=subscription.dom,
                from_seq=subscription.seq,
            )
            subscription.begin(answer)
            self._by_id[subscription.id] = subscription
            for sub, event in self._early:
                if sub == subscription.id:
                    subscription.arrived(event)
        finally:
            self._beginning -= 1
            if not self._beginning:
                self._early.clear()

    async def unsubscribe(self, subscription: Subscription) -> None:
        """End it here, and at the gateway."""
        sub = subscription.id
        self._forget(subscription)
        if sub:
            await self.link.ask(commands.Unsubscribe, sub=sub)

    def _forget(self, subscription: Subscription) -> None:
        self._by_id.pop(subscription.id, None)
        subscription.stop()
        if subscription in self._all:
            self._all.remove(subscription)

    async def renew(self) -> None:
        """Go on with all of them over a new connection."""
        self._by_id.clear()
        for subscription in [*self._all]:
            if subscription not in self._all:
                continue
            try:
                await self._begin(subscription)
            except errors.Interrupted:
                # With the next connection they are all begun again.
                return
            except errors.GatewayError as error:
                self.end(subscription, error)

    def end(self, subscription: Subscription, reason: errors.GatewayError) -> None:
        """It is over, though nobody asked for that."""
        self._forget(subscription)
        subscription.ended(reason)

    def end_all(self, reason: errors.GatewayError) -> None:
        """There will be no connection any more."""
        for subscription in [*self._all]:
            self.end(subscription, reason)
