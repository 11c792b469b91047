"""What every connection of the endpoint works with, and the way of one call to a hypervisor.

A call passes the rights of the caller's ticket and those that its handle was opened with; what changes
something by a ``request_id`` passes the journal; what it gives passes the rights again.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from gateway import errors
from gateway.core.ticket_news import Trail
from gateway.core.tickets import Grant, Rights
from gateway.rpc import settling
from gateway.rpc.cookies import Cookies
from gateway.rpc.handle import Handle
from gateway.rpc.handles import Handles
from gateway.rpc.journal import Journal, Request
from gateway.rpc.login import Caller
from gateway.rpc.objects import doms_told, nameless
from gateway.rpc.permissions import STATEFUL
from gateway.rpc.plan import Plan
from gateway.rpc.rights import Scope
from gateway.rpc.sites import Site, Sites
from gateway.rpc.volume_files import judge
from gateway.rpc.xml_guard import XML, Guard, Policy
from gateway.wire import libvirt_schema
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_schema import Procedure

if TYPE_CHECKING:
    from gateway.rpc.seat import Seat

#: What a handle is opened for unless its client says otherwise, in seconds.
TTL = 86_400.0
#: Handles of one caller that are not judged anew for each call.
_KNOWN = 1024


@lru_cache(4096)
def scope_of(rights: Rights | None, readonly: bool, policy: Policy | None) -> Scope:
    """The scope of *rights*; making one compiles its globs.

    :param policy: what XML may name, None for everything.
    """
    return Scope(rights, readonly, None if policy is None else Guard(policy))


@frozen
class Opened:
    """A handle in the hands of a caller.

    :ivar scopes: what limits the calls, one after the other.
    :ivar grant: what the caller's ticket said; *admin*: whether it was an operator.
    :ivar restricted: some domains may not be seen.
    """

    handle: Handle
    site: Site
    scopes: tuple[Scope, ...] = field(repr=False)
    grant: Grant | None = field(repr=False)
    admin: bool
    restricted: bool = field(init=False)

    @restricted.default
    def _restricted(self) -> bool:
        return any(scope.restricted for scope in self.scopes)

    @property
    def tagged(self) -> bool:
        """Some domains may be seen for their tags."""
        return any(scope.tagged for scope in self.scopes)

    def sees(self, dom: Mapping[str, Any]) -> bool:
        """Whether the domain *dom*, whose name is the hypervisor's, may be seen."""
        return all(scope.sees(dom, self.site.hub.names, told=True) for scope in self.scopes)

    def permits(self, word: str) -> bool:
        """Whether the permission *word* is there."""
        return all(scope.permits(word) for scope in self.scopes)

    def plans(
        self, call: Procedure, arguments: Mapping[str, Any], volumes: Mapping[str, str] = {}
    ) -> Sequence[Plan]:
        """What each scope makes of a call, the last is what to ask.

        :param volumes: ``pool/volume`` by its file, of the files in its XML.
        :raises gateway.errors.Denied, LibvirtError, gateway.errors.BadArguments: one lets it not through.
        """
        plans: list[Plan] = []
        for scope in self.scopes:
            plan = scope.check(call, arguments, self.site.hub.names, volumes)
            plans.append(plan)
            call, arguments = plan.procedure, plan.arguments
        return plans


@define(eq=False)
class Desk:
    """See the module.

    :ivar wall: seconds since the epoch.
    :ivar seats: the connections of all who have logged in.
    :ivar running: what is under way, by principal and request id.
    :ivar seen: told the name of each procedure, a word for its end, and its seconds.
    """

    sites: Sites
    handles: Handles
    cookies: Cookies
    journal: Journal
    clock: IReactorTime
    wall: Callable[[], float]
    audit: Trail
    seen: Callable[[str, str, float], object]
    seats: set[Seat] = field(factory=set, init=False)
    running: dict[tuple[str, str], set[Deferred[Any]]] = field(factory=dict, init=False)

    @property
    def in_use(self) -> set[bytes]:
        """Hashes of the handles that a connection has used."""
        return {handle for seat in self.seats for handle in seat.handles}

    # -- handles ---------------------------------------------------------------------------

    def site(self, caller: Caller, name: str) -> Site:
        """The target *name*.

        :raises gateway.errors.NoTarget: there is none, or none for *caller*; which of the two is not told.
        """
        site = self.sites.find(name)
        if site is None and caller.admin:
            # A handle that was opened by a URL outlives us.
            with suppress(errors.BadArguments, errors.Busy):
                site = self.sites.free(name)
        if site is None or not self.may_use(caller, site):
            raise errors.NoTarget
        return site

    def may_use(self, caller: Caller, site: Site) -> bool:
        """Whether *caller* may open *site*."""
        if caller.admin:
            return True
        named = not site.match or any(fnmatchcase(caller.principal, each) for each in site.match)
        return named and not site.private and caller.may_use(site.name)

    def opened(self, caller: Caller, text: str) -> Opened:
        """The handle *text*.

        :raises gateway.errors.NoHandle, gateway.errors.NoTarget:
        """
        return self._opened(caller, self.handles.find(text, caller.principal))

    def subscribed(self, caller: Caller, sub: str) -> Opened:
        """The handle that the subscription *sub* belongs to; raises as :meth:`opened`."""
        return self._opened(caller, self.handles.subscription(sub, caller.principal)[0])

    def found(self, caller: Caller, kind: str, cookie: str) -> tuple[Opened, str]:
        """The handle and the uuid that *cookie* stands for; raises as :meth:`opened`."""
        handle = self.handles.get(self.cookies.handle_id(cookie), caller.principal)
        return self._opened(caller, handle), self.cookies.check(handle.hash, cookie, kind)

    def left(self, handles: Iterable[Handle]) -> None:
        """Nobody is told anything more under *handles*, which have ended."""
        for handle in handles:
            for seat in self.seats:
                seat.handles.discard(handle.hash)
                for sub in handle.subscriptions:
                    seat.events.end(sub)

    def end_ticket(self, ticket: bytes) -> None:
        """The ticket with this hash has ended, and all handles with it."""
        self.left(self.handles.end_ticket(ticket))

    def cookie(self, opened: Opened, kind: str, uuid: str) -> str:
        """What stands for the object *uuid* under a handle."""
        return self.cookies.make(opened.handle.hash, uuid, kind)

    def _opened(self, caller: Caller, handle: Handle) -> Opened:
        grant, admin = caller.grant, caller.admin
        known: Opened | None = caller.known.get(handle.hash)
        if (
            known is not None
            and known.handle is handle
            and known.site is self.sites.find(handle.target)
            and known.grant is grant
            and known.admin == admin
        ):
            return known
        site = self.site(caller, handle.target)
        readonly = handle.readonly or site.readonly
        rights = dict.fromkeys((caller.rights, handle.rights or Rights()))
        policy = None if admin else site.policy
        scopes = tuple(scope_of(each, readonly, policy) for each in rights)
        if len(caller.known) >= _KNOWN:
            caller.known.clear()
        made = caller.known[handle.hash] = Opened(handle, site, scopes, grant, admin)
        return made

    # -- calls -----------------------------------------------------------------------------

    async def call(
        self,
        caller: Caller,
        opened: Opened,
        name: str,
        arguments: Mapping[str, Any] = {},
        *,
        request_id: str | None = None,
        deadline: float | None = None,
    ) -> dict[str, Any]:
        """Call the procedure *name* on behalf of *caller*.

        :param request_id: the same once more gives the same result, and does nothing.
        :param deadline: seconds to wait; None for what is usual for this call.
        :raises gateway.errors.GatewayError: everything that AMP tells of.
        """
        try:
            procedure = libvirt_schema.procedure(name)
        except KeyError:
            raise errors.BadArguments("proc", "there is no such procedure") from None
        if name in STATEFUL:
            raise errors.Denied(name)  # it would change a connection that others use, too
        began, end, told = self.clock.seconds(), "ok", None
        plans: Sequence[Plan] = ()
        # A handle may be older than we are.
        opened.site.hub.start()
        try:
            if opened.restricted:
                await opened.site.hub.settled(tagged=opened.tagged)
            if name in XML:
                check = partial(opened.plans, procedure, arguments)
                plans = await judge(check, procedure, arguments, opened.site)
            else:
                plans = opened.plans(procedure, arguments)
            last = plans[-1]
            if last.ready is not None:
                results: Mapping[str, Any] = last.ready
            elif request_id is None or last.procedure.writes != "W":
                results = await self._ask(caller, opened, last, deadline)
            else:
                results = await self._journaled(caller, opened, last, request_id, deadline)
            self.learn(opened.site, last.procedure, arguments, results)
            for plan in reversed(plans):
                results = plan.answer(results)
            return results if isinstance(results, dict) else dict(results)
        except LibvirtError as error:
            told = error
            for plan in reversed(plans):
                told = plan.failure(told)
            end = told.reason
            if told is error:
                raise
            raise told from None
        except errors.GatewayError as error:
            end = error.reason
            raise
        except BaseException:  # raised again: cancelled, or a bug
            end = "cancelled"
            raise
        finally:
            self._note(caller, opened, procedure, plans, end, self.clock.seconds() - began)

    @staticmethod
    def _ask(
        caller: Caller,
        opened: Opened,
        plan: Plan,
        deadline: float | None,
        late: Callable[[Any], object] | None = None,
    ) -> Coroutine[Any, Any, Mapping[str, Any]]:
        return opened.site.target.call(
            plan.procedure.name,
            plan.arguments,
            principal=caller.principal,
            deadline=deadline,
            readonly=opened.handle.readonly,
            late=late,
        )

    async def _journaled(
        self, caller: Caller, opened: Opened, plan: Plan, request_id: str, deadline: float | None
    ) -> Mapping[str, Any]:
        name, arguments = plan.procedure.name, plan.arguments
        # The name goes with what is known of the domain: nothing after a restart.
        encoded = plan.procedure.arguments.pack(nameless(plan.procedure, arguments))
        subject = settling.subject(plan.procedure, arguments)
        before = settling.before(opened.site.hub, subject)
        request = Request(caller.principal, opened.site.name, request_id, name, encoded, subject, before)
        ask = partial(self._ask, caller, opened, plan, deadline, partial(self.journal.late, request))
        return await self.journal.run(request, ask)

    @staticmethod
    def learn(
        site: Site, procedure: Procedure, arguments: Mapping[str, Any], results: Mapping[str, Any]
    ) -> None:
        """Take note of names, before events tell of them."""
        if told := doms_told(procedure, results):
            site.hub.learn_all(told)
        if procedure.name == "DOMAIN_RENAME" and arguments.get("new_name"):
            uuid = arguments["dom"]["uuid"]
            site.hub.learn({"uuid": uuid, "name": arguments["new_name"]}, was=site.hub.names(uuid))

    def _note(
        self,
        caller: Caller,
        opened: Opened,
        procedure: Procedure,
        plans: Sequence[Plan],
        end: str,
        seconds: float,
    ) -> None:
        self.seen(procedure.name, end, seconds)
        if procedure.writes == "W" or not plans:
            uuids = plans[-1].uuids if plans else ()
            self.audit(
                "rpc.call",
                kind=procedure.name,
                session=caller.session.id,
                ticket=caller.session.fingerprint or None,
                principal=caller.principal or None,
                peer=caller.session.peer,
                target=opened.site.name,
                vm=uuids[0] if uuids else None,
                result="ok" if end == "ok" else "failed",
                reason=None if end == "ok" else end,
                duration_ms=round(seconds * 1000),
            )
