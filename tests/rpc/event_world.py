"""A hypervisor whose domains change, its connections that are late and get lost, and those who listen."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from gateway.errors import Interrupted
from gateway.rpc.event_hub import EventHub
from gateway.rpc.events import Event, Subscription
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_schema import PROCEDURES, Procedure
from gateway.wire.libvirt_words import EVENT_KINDS, STATES

REMOTE = 0x20008086
NOW = 1_700_000_000.0
_ASKS = {kind.registration for kind in EVENT_KINDS}


def uuid_of(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012x}"


@define
class Guest:
    """A domain as it truly is."""

    uuid: str
    name: str
    id: int = -1
    state: int = 5
    reason: int = 0
    persistent: bool = True

    @property
    def dom(self) -> dict[str, Any]:
        return {"name": self.name, "uuid": self.uuid, "id": self.id}


@define(eq=False)
class Call:
    """A call that the daemon has not done, or not answered, yet."""

    procedure: Procedure
    arguments: Mapping[str, Any]
    answer: Deferred[dict[str, Any]]
    result: dict[str, Any] | LibvirtError | None = None
    cancelled: bool = False


class Link:
    """One connection to the world: events in order, answers in any order."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.alive = True
        self.calls: list[Call] = []
        self.events: deque[tuple[Procedure, dict[str, Any]]] = deque()
        self.registered: set[tuple[str, int]] = set()
        self.asked: list[tuple[str, int]] = []

    def call(self, procedure: Procedure, arguments: Mapping[str, object] = {}) -> Deferred[dict[str, Any]]:
        procedure.arguments.pack(arguments)
        call = Call(procedure, arguments, Deferred(lambda _: setattr(call, "cancelled", True)))
        self.calls.append(call)
        return call.answer

    def do(self, call: Call) -> None:
        """The daemon does it; what it answers is true now."""
        if call.result is None:
            try:
                call.result = self.world.answer(self, call.procedure.name, call.arguments)
            except LibvirtError as refusal:
                call.result = refusal

    def reply(self, call: Call) -> None:
        """The answer arrives."""
        self.do(call)
        self.calls.remove(call)
        if call.cancelled or self.world.mute:
            return
        if isinstance(call.result, LibvirtError):
            call.answer.errback(Failure(call.result))
        else:
            assert call.result is not None
            call.answer.callback(call.result)

    def bring(self) -> None:
        """The next event arrives."""
        self.world.events(*self.events.popleft())


class World:
    """The daemon: its domains, and whoever watches.

    :ivar lacks: procedures that the driver does not have; *without* are kinds of events.
    """

    def __init__(self) -> None:
        self.tags: dict[str, str] = {}
        self.guests: dict[str, Guest] = {}
        self.link: Link | None = None
        self.lacks: set[str] = set()
        self.without: set[tuple[str, int]] = set()
        self.mute = False
        self._ids = 0
        self._up: Callable[[Any], object] | None = None
        self._down: Callable[[str], object] = lambda _: None
        self.events: Callable[[Procedure, Mapping[str, Any]], object] = lambda *_: None

    # What the hub sees.

    def watch(
        self,
        events: Callable[[Procedure, Mapping[str, Any]], object],
        up: Callable[[Any], object],
        down: Callable[[str], object],
    ) -> None:
        self.events, self._up, self._down = events, up, down

    def unwatch(self) -> None:
        self._up = None

    def answer(self, link: Link, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        if name in self.lacks:
            raise LibvirtError(3)
        if name in _ASKS:
            asked = (name, arguments["eventID"])
            link.asked.append(asked)
            if asked in self.without:
                raise LibvirtError(8)
            link.registered.add(asked)
            return {"callbackID": len(link.registered)}
        if name == "CONNECT_GET_ALL_DOMAIN_STATS":
            return {"retStats": [_stats(guest) for guest in self.guests.values()]}
        if name == "CONNECT_LIST_ALL_DOMAINS":
            doms = [guest.dom for guest in self.guests.values()]
            return {"domains": doms, "ret": len(doms)}
        if name == "DOMAIN_GET_METADATA":
            words = self.tags.get(arguments["dom"]["uuid"])
            if words is None:
                raise LibvirtError(80, 20, "no metadata")
            return {"metadata": f"<tags>{words}</tags>"}
        assert name == "DOMAIN_GET_STATE", name
        guest = self.guests.get(arguments["dom"]["uuid"])
        if guest is None:
            raise LibvirtError(42)
        return {"state": guest.state, "reason": guest.reason}

    # What happens to it.

    def connect(self) -> Link:
        assert self.link is None and self._up is not None
        self.link = Link(self)
        self._up(self.link)
        return self.link

    def lose(self) -> None:
        link, self.link = self.link, None
        if link is not None:
            for call in link.calls:
                if not call.cancelled:
                    call.answer.errback(Failure(Interrupted(maybe_executed=False)))
            self._down("lost")

    def settle(self) -> None:
        """Everything that is on its way arrives."""
        while self.link is not None and (self.link.calls or self.link.events):
            while self.link.events:
                self.link.bring()
            for call in list(self.link.calls):
                self.link.reply(call)

    # The life of its domains.

    def define(self, uuid: str, name: str) -> None:
        guest = self.guests.setdefault(uuid, Guest(uuid, name))
        self._tell(guest, 0, 0 if guest.persistent else 1)
        guest.persistent = True

    def create(self, uuid: str, name: str) -> None:
        if uuid not in self.guests:
            self.guests[uuid] = Guest(uuid, name, persistent=False)
            self.start(uuid)

    def start(self, uuid: str) -> None:
        guest = self.guests.get(uuid)
        if guest is not None and guest.id < 0:
            self._ids += 1
            guest.id = self._ids
            self._move(guest, 1, 1, (4, 0), (2, 0))

    def suspend(self, uuid: str) -> None:
        guest = self.guests.get(uuid)
        if guest is not None and guest.state == 1:
            self._move(guest, 3, 1, (3, 0))

    def resume(self, uuid: str) -> None:
        guest = self.guests.get(uuid)
        if guest is not None and guest.state == 3:
            self._move(guest, 1, 5, (4, 0))

    def destroy(self, uuid: str) -> None:
        guest = self.guests.get(uuid)
        if guest is not None and guest.id >= 0:
            self._move(guest, 4, 0, (6, 2))
            guest.id = -1
            self._move(guest, 5, 2, (5, 1))
            if not guest.persistent:
                del self.guests[uuid]

    def undefine(self, uuid: str) -> None:
        guest = self.guests.get(uuid)
        if guest is not None and guest.persistent:
            guest.persistent = False
            self._tell(guest, 1, 0)
            if guest.id < 0:
                del self.guests[uuid]

    def rename(self, uuid: str, name: str) -> None:
        guest = self.guests.get(uuid)
        if guest is not None and guest.id < 0 and guest.name != name:
            self._tell(guest, 1, 1)
            guest.name = name
            self._tell(guest, 0, 2)

    def reboot(self, uuid: str) -> None:
        guest = self.guests.get(uuid)
        if guest is not None and guest.id >= 0:
            self.say(319, "CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY", 1, dom=guest.dom)

    def say(self, number: int, registration: str, asked: int, /, **values: Any) -> None:
        """Tell an event, if somebody has asked for it."""
        if self.link is not None and (registration, asked) in self.link.registered:
            self.link.events.append((PROCEDURES[REMOTE, number], {"callbackID": 9, **values}))

    def _move(self, guest: Guest, state: int, reason: int, *events: tuple[int, int]) -> None:
        guest.state, guest.reason = state, reason
        for event, detail in events:
            self._tell(guest, event, detail)

    def _tell(self, guest: Guest, event: int, detail: int) -> None:
        registration = "CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY"
        self.say(318, registration, 0, dom=guest.dom, event=event, detail=detail)

    def truth(self, allowed: Callable[[str, Mapping[str, Any]], bool]) -> dict[str, tuple[str, str]]:
        """Name and state of each domain."""
        return {
            guest.uuid: (guest.name, STATES[guest.state])
            for guest in self.guests.values()
            if allowed("dom", guest.dom)
        }


def _stats(guest: Guest) -> dict[str, Any]:
    named = {"state.state": guest.state, "state.reason": guest.reason}
    params = [{"field": name, "type": "int", "value": value} for name, value in named.items()]
    return {"dom": guest.dom, "params": params}


def everything(subject: str, what: Mapping[str, Any]) -> bool:
    return True


@define(eq=False)
class Listener:
    """A consumer that applies events and resyncs, and checks what it is told.

    :ivar room: how many events it takes before it must be told to go on.
    """

    hub: EventHub
    allowed: Callable[[str, Mapping[str, Any]], bool] = everything
    window: int = 256
    room: int = 1_000_000
    auto: bool = True
    uuid: str | None = None
    kinds: tuple[str, ...] = ("*",)
    table: dict[str, tuple[str, str]] = field(factory=dict)
    told: list[Event] = field(factory=list)
    last: int = 0
    most: int = 0
    subscription: Subscription | None = None
    _since: list[int] = field(factory=list)

    def listen(self, from_seq: int | None = 0) -> Subscription:
        if self.subscription is not None:
            self.subscription.close()
        self._since.clear()
        subscription = self.subscription = self.hub.subscribe(
            self.kinds, self.uuid, from_seq, self.allowed, self.take, window=self.window
        )
        self.last = from_seq if from_seq and subscription.complete else self.last
        subscription.resume()
        return subscription

    def take(self, event: Event) -> bool:
        assert event["seq"] > self.last, (event["seq"], self.last)
        self.last = event["seq"]
        self.told.append(event)
        self._since.append(event["seq"])
        self.most = max(self.most, len(self._since))
        self._apply(event)
        if self.auto:
            self.ack()
        self.room -= 1
        return self.room > 0

    def ack(self, seq: int | None = None) -> None:
        seq = self.last if seq is None else seq
        self._since = [other for other in self._since if other > seq]
        assert self.subscription is not None
        self.subscription.ack(seq)

    def more(self, room: int) -> None:
        self.room = room
        if self.subscription is not None:
            self.subscription.resume()

    def _apply(self, event: Event) -> None:
        if event["kind"] == "resync":
            assert len(event["domains"]) <= 256
            if event["page"] == 0:
                self.table.clear()
            for row in event["domains"]:
                assert self.allowed("dom", row["dom"]), row
                self.table[row["dom"]["uuid"]] = (row["dom"]["name"], row["state"])
        elif "dom" in event:
            assert self.allowed("dom", event["dom"]), event
            uuid = event["dom"]["uuid"]
            if event["kind"] == "lifecycle" and event["state"] is None:
                self.table.pop(uuid, None)
            elif event["kind"] == "lifecycle":
                self.table[uuid] = (event["dom"]["name"], event["state"])

    def story(self) -> list[str]:
        """What it was told, in short."""
        return [
            " ".join(
                [event["kind"]]
                + [str(event[name]) for name in ("event", "detail") if name in event]
                + ["*" * event.get("synthetic", False)]
            ).strip()
            for event in self.told
        ]


def hub_of(world: World, clock: Clock, *, kept: int = 1000, now: float = NOW) -> EventHub:
    hub = EventHub("hv1", world, clock, lambda: now + clock.seconds(), kept=kept)
    hub.start()
    return hub
