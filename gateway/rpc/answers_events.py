"""What the commands about events do: subscriptions of a connection, which a handle remembers.

After a reconnect a client subscribes again under its handle; where it says nothing else, the same kinds go on
behind what was acknowledged last.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Protocol

from attrs import define, field
from twisted.internet.defer import Deferred

from gateway import errors
from gateway.rpc import commands
from gateway.rpc.command import Command
from gateway.rpc.desk import Opened
from gateway.rpc.events import Event, Subscription
from gateway.rpc.seat import Answer, Responder, Seat, as_json
from gateway.rpc.sites import Site

#: What one must be permitted to hear of something, by the field that names it.
_NEEDS = {
    "dom": "domain:getattr",
    "net": "network:getattr",
    "pool": "storage_pool:getattr",
    "dev": "node_device:getattr",
    "secret": "secret:getattr",
}


class Link(Protocol):
    """A connection that events are sent on; :class:`gateway.rpc.amp.BoundedAMP` is one."""

    def send(self, command: type[Command], **arguments: Any) -> None: ...
    def room(self) -> bool: ...
    def drained(self) -> Deferred[None]: ...
    def end(self, error: errors.GatewayError) -> None: ...


@define(eq=False)
class Told:
    """The subscriptions of one connection."""

    _link: Link
    _live: dict[str, tuple[Site, Subscription]] = field(factory=dict, init=False)
    _waiting: bool = field(default=False, init=False)
    _over: bool = field(default=False, init=False)

    def begin(self, site: Site, sub: str, subscription: Subscription) -> None:
        """Tell what there is for *subscription*, as far as there is room."""
        if self._over:
            subscription.close()
            return
        self._live[sub] = site, subscription
        subscription.resume()

    def deliver(self, seat: Seat, opened: Opened, sub: str, event: Event) -> bool:
        """Send *event*; return whether the next may follow at once."""
        payload = {name: value for name, value in event.items() if name not in ("seq", "time", "kind")}
        dom = event.get("dom")
        cookie = "" if dom is None else seat.cookie(opened, "dom", dom["uuid"])
        if "domains" in payload:
            rows = payload["domains"]
            payload["domains"] = [
                row | {"cookie": seat.cookie(opened, "dom", row["dom"]["uuid"])} for row in rows
            ]
        self._link.send(
            commands.Event,
            sub=sub,
            seq=event["seq"],
            time=datetime.fromtimestamp(event["time"], UTC),
            kind=event["kind"],
            dom=cookie,
            payload=as_json(payload),
        )
        if self._link.room():
            return True
        if not self._waiting:
            self._waiting = True
            self._link.drained().addCallbacks(self._go_on, lambda _: None)
        return False

    def _go_on(self, drained: None) -> None:
        self._waiting = False
        for _, live in list(self._live.values()):
            live.resume()

    def ack(self, sub: str, seq: int) -> int | None:
        """Note what a client has dealt with; return where it would go on, None for no such subscription."""
        if sub not in self._live:
            return None
        _, subscription = self._live[sub]
        subscription.ack(seq)
        return subscription.position

    def end(self, sub: str) -> None:
        """Tell nothing more to *sub*."""
        if sub in self._live:
            _, subscription = self._live.pop(sub)
            subscription.close()

    def leave(self, site: Site) -> None:
        """There will be no more events of *site*: who waits for some shall connect and subscribe again."""
        if any(each is site for each, _ in self._live.values()):
            self._link.end(errors.Interrupted("The hypervisor was configured anew", maybe_executed=True))

    def stop(self) -> None:
        """The connection is gone."""
        self._over = True
        for sub in list(self._live):
            self.end(sub)

    def __contains__(self, sub: str) -> bool:
        return sub in self._live


async def _subscribe(
    seat: Seat, handle: str, kinds: list[str], dom: str | None, from_seq: int | None
) -> Answer:
    opened = seat.opened(handle)
    uuid = None
    if dom is not None:
        other, subject = seat.domain(dom)
        if other.handle is not opened.handle:
            raise errors.NoHandle
        uuid = subject["uuid"]
    kept = next(
        (
            it
            for it in opened.handle.subscriptions.values()
            if (set(it.kinds), it.dom) == (set(kinds), uuid)
            and not any(it.sub in each.events for each in seat.desk.seats)
        ),
        None,
    )
    if kept is not None:
        # Whoever subscribes on two connections has two subscriptions; this one has lost its connection.
        await seat.desk.handles.unsubscribe(opened.handle, kept.sub)
        from_seq = kept.seq if from_seq is None else from_seq
    sub = ""

    def allowed(subject: str, what: Mapping[str, Any]) -> bool:
        try:
            now = seat.desk.subscribed(seat.caller, sub)
        except errors.GatewayError:
            return False  # the handle has ended, or the ticket says something else by now
        return now.permits(_NEEDS.get(subject, "")) and (subject != "dom" or now.sees(what))

    hub = opened.site.hub
    with suppress(errors.TargetDown):
        # Who begins at a moment that nobody knows would get everything once more.
        await hub.settled(tagged=opened.tagged)
    subscription = hub.subscribe(
        kinds, uuid, from_seq, allowed, lambda event: seat.events.deliver(seat, opened, sub, event)
    )
    try:
        stored = await seat.desk.handles.subscribe(opened.handle, kinds, uuid, subscription.position)
    except BaseException:  # raised again, cancelled or not
        subscription.close()
        raise
    sub = stored.sub
    # The answer goes out first: an event of a subscription that nobody knows is of no use.
    seat.soon(lambda: seat.events.begin(opened.site, sub, subscription))
    return {"sub": sub, "seq": subscription.seq, "complete": subscription.complete}


async def _unsubscribe(seat: Seat, sub: str) -> Answer:
    opened = seat.desk.subscribed(seat.caller, sub)
    seat.events.end(sub)
    await seat.desk.handles.unsubscribe(opened.handle, sub)
    return {}


async def _ack(seat: Seat, sub: str, seq: int) -> Answer:
    opened = seat.desk.subscribed(seat.caller, sub)
    position = seat.events.ack(sub, seq)
    if position is None:
        raise errors.NoHandle("This subscription is not of this connection")
    seat.desk.handles.ack(opened.handle, sub, position)
    return {}


RESPONDERS: Mapping[type[Command], Responder] = {
    commands.Subscribe: _subscribe,
    commands.Unsubscribe: _unsubscribe,
    commands.Ack: _ack,
}
