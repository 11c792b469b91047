"""The events of one hypervisor: asked for after each connect, kept in order, and made whole after a loss.

After a connect: register for every kind, list all domains, compare with what was known, tell the
differences, and then whatever came in the meantime. That order leaves no gap: what happens before the list
is in it, what happens after the registration arrives as an event, and an event that is older than the list
is followed by those that led to it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import islice
from typing import Any, Protocol

from attrs import frozen
from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred, DeferredQueue
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from gateway.errors import BadArguments, DeadlinePassed, GatewayError, Interrupted, TargetDown
from gateway.rpc.domain_list import Connection, list_domains, look_at, together
from gateway.rpc.domain_states import Change, Domain, DomainStates
from gateway.rpc.domain_tags import DomainNames, DomainTags
from gateway.rpc.events import RING, Allowed, Deliver, EventLog, Subscription, weigh
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_schema import PROGRAMS, Procedure, procedure
from gateway.wire.libvirt_words import EVENT_KINDS, EVENT_WORDS, EventKind, event_kind

#: Seconds between tries to list the domains (doubled up to the longest), and between the lists of a
#: hypervisor that does not tell by itself.
_PAUSE, _LONGEST_PAUSE, _POLL = 1.0, 60.0, 10.0
#: Names that replies told before the events did.
_LEARNED = 4096
#: Asked for only when somebody subscribes to them by name.
_ON_DEMAND = frozenset({"node_device", "secret"})


class EventSource(Protocol):
    """A hypervisor that keeps a connection for events while somebody watches."""

    def watch(
        self,
        events: Callable[[Procedure, Mapping[str, Any]], object],
        up: Callable[[Connection], object],
        down: Callable[[str], object],
    ) -> None:
        """Tell each event, each new connection (before its events), and each loss."""

    def unwatch(self) -> None:
        """Tell nothing more."""


@frozen
class _Told:
    """An event that arrived."""

    kind: EventKind
    values: Mapping[str, Any]


class EventHub:
    """The events of one hypervisor, and the names of its domains.

    :param name: of the target, for the log.
    :param wall: seconds since the epoch.
    :param kept: events in the ring.
    """

    log = Logger()

    def __init__(
        self,
        name: str,
        source: EventSource,
        clock: IReactorTime,
        wall: Callable[[], float],
        *,
        kept: int = 1000,
    ) -> None:
        self.name = name
        self._source = source
        self._clock = clock
        self._kept = kept
        self._states = DomainStates()
        self._tags = DomainTags(clock)
        #: Names of the domains as they are now by uuid, and their tags.
        self.names = DomainNames(self._name_of, self._tags)
        self._log = EventLog(wall, self._states.all, kept=kept)
        self._learned: OrderedDict[str, str] = OrderedDict()
        self._wanted = EVENT_WORDS - _ON_DEMAND
        self._connection: Connection | None = None
        self._running: set[Deferred[None]] = set()
        #: What arrives while a list is on its way; None when there is none.
        self._buffer: list[_Told] | None = None
        self._weight = 0
        self._doubts: DeferredQueue[str] = DeferredQueue()
        self._doubted: set[str] = set()
        self._watching = False
        self._waiting: list[Deferred[None]] = []

    # -- of the subscribers ----------------------------------------------------------------

    @property
    def synced(self) -> bool:
        """The states and names are those of the hypervisor."""
        return self._log.ready

    @property
    def seq(self) -> int:
        """The number of the latest event."""
        return self._log.seq

    def subscribe(
        self,
        kinds: Collection[str],
        uuid: str | None,
        from_seq: int | None,
        allowed: Allowed,
        deliver: Deliver,
        *,
        window: int = 256,
    ) -> Subscription:
        """See :meth:`EventLog.subscribe`.

        :raises gateway.errors.BadArguments: there is no such kind.
        """
        strange = sorted(set(kinds) - EVENT_WORDS - {"*"})
        if strange or not kinds:
            raise BadArguments("kinds", f"not a kind of event: {strange[0]}" if strange else "none is named")
        only = uuid.lower() if uuid is not None else None
        subscription = self._log.subscribe(kinds, only, from_seq, allowed, deliver, window=window)
        more = _ON_DEMAND.intersection(kinds) - self._wanted
        self._wanted |= more
        if more and self._connection is not None:
            self._run(self._ask(self._connection, more))
        return subscription

    def is_settled(self, *, tagged: bool = False) -> bool:
        """Whether there is nothing to wait for in :meth:`settled`."""
        return self.synced and (self._tags.wanted or not tagged)

    async def settled(self, patience: float = 5.0, *, tagged: bool = False) -> None:
        """Wait until states and names are those of the hypervisor.

        :param patience: seconds.
        :param tagged: tags, too.
        :raises gateway.errors.TargetDown: they are not by then.
        """
        self.start()
        if tagged and not self._tags.wanted:
            self._tags.wanted = True
            if self._connection is not None and self.synced:
                await self._tags.load(self._connection, [it.uuid for it in self._states.all()])
        if self.synced:
            return
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        try:
            await waiting.addTimeout(patience, self._clock)
        except defer.TimeoutError:
            text = "The domains of this hypervisor are not known yet"
            raise TargetDown(text, retry_after=1.0) from None
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)

    def domain(self, uuid: str) -> Domain | None:
        """What is known of a domain; good as long as :attr:`synced`."""
        return self._states.get(uuid)

    def states(self, uuids: Iterable[str]) -> dict[str, str]:
        """The states of those of the domains *uuids* of which they are known now, as words."""
        find = self._states.get
        known = {uuid: find(uuid) for uuid in uuids} if self.synced else {}
        return {uuid: domain.state for uuid, domain in known.items() if domain is not None}

    def _name_of(self, uuid: str) -> str | None:
        """The name of a domain, as it is now; None when there is none, or nothing is known of it."""
        learned = self._learned.get(uuid)
        if learned is not None:
            return learned
        domain = self._states.get(uuid)
        return domain.name if domain is not None else None

    def learn(self, dom: Mapping[str, Any], *, was: str | None = None) -> None:
        """Believe the name in a reply until events say more, which may come after it.

        :param was: for the reply to a DOMAIN_RENAME, the name before it; without it nobody is renamed.
        """
        uuid = dom["uuid"]
        known = self._states.get(uuid)
        if known is None or known.name == was:
            self._learned.pop(uuid, None)
            self._learned[uuid] = dom["name"]
            if len(self._learned) > _LEARNED:
                self._learned.popitem(last=False)

    def learn_all(self, doms: Iterable[Mapping[str, Any]]) -> None:
        """The same for a list, of which most are known; not for more than can be kept."""
        for dom in islice((dom for dom in doms if self._states.get(dom["uuid"]) is None), _LEARNED):
            self.learn(dom)

    # -- life ------------------------------------------------------------------------------

    def start(self) -> None:
        """Watch the hypervisor; once is enough."""
        if self._watching:
            return
        self._watching = True
        self._source.watch(self._arrived, self._up, self._down)

    def stop(self) -> None:
        """Watch it no more."""
        self._watching = False
        self._source.unwatch()
        self._down("stopped")

    def _up(self, connection: Connection) -> None:
        self._down("replaced")
        self._connection = connection
        self._buffer = []
        self._doubts = DeferredQueue()
        self._doubted.clear()
        self._run(self._follow(connection))

    def _down(self, reason: str) -> None:
        self._connection = None
        self._log.ready = False
        for running in list(self._running):
            running.cancel()
        self._flush()

    def _run(self, work: Any) -> None:
        running = Deferred.fromCoroutine(work)
        self._running.add(running)

        def ended(result: Any) -> Any:
            self._running.discard(running)
            return result

        running.addBoth(ended)
        # The loss of the connection is told by `down`.
        running.addErrback(lambda failure: failure.trap(CancelledError, Interrupted) and None)
        running.addErrback(lambda failure: self.log.failure("events of {target}", failure, target=self.name))

    # -- from connect to connect -----------------------------------------------------------

    async def _follow(self, connection: Connection) -> None:
        """Register, make whole, and look after what is in doubt, until the connection is lost."""
        tells = await self._ask(connection, self._wanted)
        pause = _PAUSE
        while not self._log.ready:
            buffer = self._buffer = self._buffer or []
            try:
                listed = await list_domains(connection, self._clock)
            except Interrupted:
                raise
            except GatewayError as error:
                failure = error.reason
            else:
                if self._tags.wanted:
                    await self._tags.load(connection, [it.uuid for it in listed])
                if self._buffer is buffer:
                    self._made_whole(listed)
                    break
                failure = "too many events at a time"
            self.log.warn("no list of the domains of {target}: {why}", target=self.name, why=failure)
            self._flush()
            await deferLater(self._clock, pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        if not tells:
            self.log.warn("{target} does not tell of its domains; it is asked instead", target=self.name)
            self._run(self._poll(connection))
        while True:
            uuid = await self._doubts.get()
            self._doubted.discard(uuid)
            await self._look(connection, uuid)

    def _made_whole(self, listed: Collection[Domain]) -> None:
        for domain in listed:
            self._learned.pop(domain.uuid, None)
        self._tell(self._states.replace(listed))
        self._flush()
        self._log.ready = True
        self._log.lost()
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)

    async def _ask(self, connection: Connection, words: Collection[str]) -> bool:
        """Register for the kinds of *words*; tell whether lifecycle is among what the driver has."""
        kinds = [kind for kind in EVENT_KINDS if kind.word in words]
        refused: set[str] = set()

        async def ask(kind: EventKind) -> None:
            # All of them: the field that would name one has the name that it has in the events.
            arguments = {"eventID": kind.number, kind.subject: None}
            try:
                await connection.call(procedure(kind.registration), arguments)
            except LibvirtError as error:
                refused.add(kind.word)
                self.log.debug(
                    "{target} has no events of kind {kind}: {code}",
                    target=self.name,
                    kind=kind.word,
                    code=error.code,
                )

        await together(kinds, ask)
        return "lifecycle" not in refused

    async def _poll(self, connection: Connection) -> None:
        while True:
            await deferLater(self._clock, _POLL)
            try:
                self._tell(self._states.replace(await list_domains(connection, self._clock)))
            except (LibvirtError, DeadlinePassed):
                self.log.warn("no list of the domains of {target}", target=self.name)

    async def _look(self, connection: Connection, uuid: str) -> None:
        """See whether a domain is still there whose guest has ended."""
        domain = self._states.doubtful(uuid)
        if domain is None:
            return
        try:
            found = await look_at(connection, self._clock, domain.dom)
        except LibvirtError:
            return
        except DeadlinePassed:
            self._doubt(uuid)
            return
        # One that runs again has an event on its way.
        if found is None or not found.active:
            self._tell(self._states.settle(domain, exists=found is not None))

    # -- events ----------------------------------------------------------------------------

    def _arrived(self, procedure: Procedure, values: Mapping[str, Any]) -> None:
        kind = event_kind(procedure.number) if procedure.program == PROGRAMS["remote"] else None
        if kind is None:
            return
        if self._buffer is None:
            self._note(_Told(kind, values))
            return
        self._buffer.append(_Told(kind, values))
        self._weight += weigh(values)
        if len(self._buffer) > self._kept or self._weight > RING:
            self._flush()  # and the list that is on its way is of no use

    def _flush(self) -> None:
        waiting, self._buffer, self._weight = self._buffer, None, 0
        for told in waiting or ():
            self._note(told)

    def _note(self, told: _Told) -> None:
        kind = told.kind
        what, fields = told.values[kind.subject], kind.fields(told.values)
        if kind.subject == "dom":
            self._learned.pop(what["uuid"], None)
            self._look_for_tags(kind, what["uuid"], fields)
        if kind.word == "lifecycle":
            self._tell(self._states.apply(what, fields["event"], fields["detail"]))
            if self._states.doubtful(what["uuid"]) is not None:
                self._doubt(what["uuid"])
            return
        if kind.subject == "dom":
            self._tell(self._states.renamed(what))
        self._log.publish(kind.word, kind.subject, what, fields)

    def _look_for_tags(self, kind: EventKind, uuid: str, fields: Mapping[str, Any]) -> None:
        """Read the tags of a domain again, when they may be others."""
        defined = kind.word == "lifecycle" and fields["event"] in ("defined", "undefined", "started")
        if self._tags.wanted and self._connection and (defined or kind.word == "metadata_change"):
            self._run(self._tags.read(self._connection, uuid))

    def _doubt(self, uuid: str) -> None:
        if uuid not in self._doubted:
            self._doubted.add(uuid)
            self._doubts.put(uuid)

    def _tell(self, changes: Iterable[Change]) -> None:
        for change in changes:
            self._log.publish("lifecycle", "dom", change.dom, change.fields)
