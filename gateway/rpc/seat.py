"""One connection of somebody who has logged in, as the commands see it."""

from __future__ import annotations

import base64
import json
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Mapping, Sequence
from functools import partial
from math import inf
from operator import itemgetter
from typing import TYPE_CHECKING, Any, cast

from attrs import define, field, frozen
from twisted.internet.defer import Deferred

from gateway import errors
from gateway.rpc import commands
from gateway.rpc.arguments import AmpList
from gateway.rpc.command import Command
from gateway.rpc.desk import Desk, Opened
from gateway.rpc.login import Caller

if TYPE_CHECKING:
    from gateway.rpc.answers_events import Told

Answer = dict[str, Any]
#: Does what a command says: takes the seat and its arguments, and returns the members of the answer.
Responder = Callable[..., Coroutine[Any, Any, Answer]]
#: Things on one page unless the client says otherwise; lists that are kept for the next page, and how long.
_PAGE, _LISTS, _KEPT = 256, 4, 60.0
_LOOKUPS = {"net": "NETWORK_LOOKUP_BY_UUID", "pool": "STORAGE_POOL_LOOKUP_BY_UUID"}


@frozen
class Page:
    """Some things of a list.

    :ivar items: in the order of their *key*.
    :ivar more: others follow.
    """

    items: list[dict[str, Any]]
    key: str
    more: bool

    def answer(self, command: type[Command], member: str, rows: Sequence[Mapping[str, Any]]) -> Answer:
        """The answer of *command*: of *rows*, one for each item, as many as one value can hold."""
        page = _list(command, member).page(rows)
        last = len(page) < len(self.items) or self.more
        return {member: page, "cursor": self.items[len(page) - 1][self.key] if last and page else ""}


@define(eq=False)
class Seat:
    """See the module.

    :ivar events: the subscriptions of this connection.
    :ivar soon: calls something after what is being answered was answered.
    :ivar handles: hashes of the handles that were used here.
    """

    desk: Desk
    caller: Caller
    events: Told
    soon: Callable[[Callable[[], object]], object]
    handles: set[bytes] = field(factory=set, init=False)
    _lists: OrderedDict[Hashable, tuple[float, list[dict[str, Any]]]] = field(factory=OrderedDict, init=False)

    def bound(self, command: type[Command], responder: Responder) -> Responder:
        """What answers *command* on this connection; what has a ``request_id`` can be cancelled by that."""
        if not command.admin and b"request_id" not in dict(command.arguments):
            return partial(responder, self)

        async def answer(**arguments: Any) -> Answer:
            if command.admin and not self.caller.admin:
                raise errors.Denied(f"command:{command.__name__}")
            request_id = arguments.get("request_id") if command is not commands.Cancel else None
            if request_id is None:
                return await responder(self, **arguments)
            work = Deferred.fromCoroutine(responder(self, **arguments))
            running = self.desk.running.setdefault((self.caller.principal, request_id), set())
            running.add(work)
            try:
                return await work
            finally:
                running.discard(work)
                if not running:
                    self.desk.running.pop((self.caller.principal, request_id), None)

        return answer

    def cancel(self, request_id: str) -> bool:
        """Give up what the caller has under way by this id; return whether there was anything."""
        running = list(self.desk.running.get((self.caller.principal, request_id), ()))
        for work in running:
            work.cancel()
        return bool(running)

    @property
    def left(self) -> float:
        """Seconds until the ticket ends."""
        ticket = self.caller.ticket
        return inf if ticket is None else ticket.deadline - self.desk.clock.seconds()

    def opened(self, handle: str) -> Opened:
        """The handle of a command.

        :raises gateway.errors.NoHandle, gateway.errors.NoTarget:
        """
        return self._used(self.desk.opened(self.caller, handle))

    def domain(self, cookie: str) -> tuple[Opened, dict[str, Any]]:
        """The handle and the reference to the domain that *cookie* stands for; raises as :meth:`opened`."""
        opened, uuid = self.desk.found(self.caller, "dom", cookie)
        self._used(opened)
        # libvirt looks at the uuid alone; the name is for its messages.
        return opened, {"name": opened.site.hub.names(uuid) or uuid, "uuid": uuid, "id": -1}

    async def object(self, kind: str, cookie: str) -> tuple[Opened, dict[str, Any]]:
        """The same for a network or a pool, of which some drivers want the name."""
        opened, uuid = self.desk.found(self.caller, kind, cookie)
        found = await self.call(opened, _LOOKUPS[kind], {"uuid": uuid})
        return opened, found[kind]

    def _used(self, opened: Opened) -> Opened:
        self.handles.add(opened.handle.hash)
        return opened

    def cookie(self, opened: Opened, kind: str, uuid: str) -> str:
        """What stands for an object in commands."""
        return self.desk.cookie(opened, kind, uuid)

    def call(
        self,
        opened: Opened,
        name: str,
        arguments: Mapping[str, Any] = {},
        *,
        request_id: str | None = None,
        deadline: float | None = None,
    ) -> Awaitable[dict[str, Any]]:
        """See :meth:`Desk.call`."""
        return self.desk.call(self.caller, opened, name, arguments, request_id=request_id, deadline=deadline)

    async def page(
        self,
        list_name: Hashable,
        ask: Callable[[], Awaitable[Mapping[str, Any]]],
        member: str,
        cursor: str | None,
        limit: int | None,
        *,
        key: str = "uuid",
    ) -> Page:
        """A page of a list, behind *cursor*; a client that goes on does so in the list that it began with.

        :param ask: gives the list, as its *member*.
        """
        now = self.desk.clock.seconds()
        at, items = self._lists.get(list_name, (now - 2 * _KEPT, []))
        if not cursor or now - at > _KEPT:
            items = sorted((await ask())[member], key=itemgetter(key))
        start = bisect_right(items, cursor, key=itemgetter(key)) if cursor else 0
        end = start + (limit or _PAGE)
        more = end < len(items)
        self._lists.pop(list_name, None)
        if more:
            self._lists[list_name] = (now, items)
            if len(self._lists) > _LISTS:
                self._lists.popitem(last=False)
        return Page(items[start:end], key, more)


def fit(command: type[Command], member: str, rows: Sequence[Mapping[str, Any]]) -> int:
    """How many of *rows* the *member* of an answer can hold."""
    return _list(command, member).fit(rows)


def _list(command: type[Command], member: str) -> AmpList:
    return cast(AmpList, dict(command.response)[member.encode("ascii")])


def as_json(value: object) -> str:
    """JSON of what a hypervisor says: bytes in base64, and marks in the places of what is no UTF-8."""
    text = json.dumps(value, default=lambda it: base64.b64encode(it).decode("ascii"), ensure_ascii=False)
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def one_of(**given: Any) -> tuple[str, Any]:
    """The one argument that is given.

    :raises gateway.errors.BadArguments: it is none, or several.
    """
    there = [(name, value) for name, value in given.items() if value is not None]
    if len(there) != 1:
        raise errors.BadArguments("", f"exactly one of {', '.join(given)} is expected")
    return there[0]
