"""One stock libvirt client: who it is, what it has opened, and what becomes of its calls.

It speaks to us as to a libvirtd. Its URI is never followed: it names one of the configured targets, and what
is opened there is for the configuration to say. Every call passes the rights of its ticket, every answer and
event passes them again, and nothing is passed on that was not understood.
Source: libvirt 9.0.0, remote_daemon_dispatch.c; virerror.h for the numbers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway import errors
from gateway.core.tickets import Grant
from gateway.rpc import objects
from gateway.rpc.answer import Reply, packed
from gateway.rpc.desk import Desk, scope_of
from gateway.rpc.libvirt_call import ClientCall, understood
from gateway.rpc.libvirt_errors import refusal, told
from gateway.rpc.libvirt_login import LibvirtLogin
from gateway.rpc.libvirt_server import LibvirtServer
from gateway.rpc.libvirt_stream import ServedStream
from gateway.rpc.libvirt_upstream import Upstream
from gateway.rpc.login import Caller
from gateway.rpc.plan import Plan
from gateway.rpc.rights import Scope
from gateway.rpc.sites import Site
from gateway.rpc.volume_files import judge
from gateway.rpc.xml_guard import XML
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_message import Message
from gateway.wire.libvirt_schema import PROCEDURES, Procedure, procedure
from gateway.wire.open_name import OpenName, is_target, parse_open_name
from gateway.wire.xdr_exact import is_exact

if TYPE_CHECKING:
    from gateway.rpc.libvirt_door import LibvirtDoor

#: Seconds for the last words to a client.
_FAREWELL = 0.02
#: Features that are ours to answer: what passes descriptors, and what needs two daemons, we do not have.
_KEEPALIVE, _OWN_FEATURES = 10, frozenset({1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13})
_FEATURE = procedure("CONNECT_SUPPORTS_FEATURE")


class LibvirtSession:
    """See the module.

    :ivar site: what is open, or about to be.
    """

    log = Logger()

    def __init__(self, door: LibvirtDoor, server: LibvirtServer) -> None:
        self.site: Site | None = None
        self._door = door
        self._server = server
        self._login = LibvirtLogin(door, server, self._ended)
        self._upstream: Upstream | None = None
        self._readonly = False
        self._known: tuple[Grant | None, bool, Scope | None] | None = None
        self._opened = False
        self._gone = False
        self._flowing = True
        self._working: dict[int, ClientCall] = {}
        self._streams: dict[int, ServedStream] = {}
        self._local: Mapping[str, Callable[..., Any]] = {
            **self._login.calls,
            "CONNECT_OPEN": self._open,
            "CONNECT_CLOSE": self._close,
            "CONNECT_SUPPORTS_FEATURE": self._feature,
            "CONNECT_REGISTER_CLOSE_CALLBACK": self._nothing,
            "CONNECT_UNREGISTER_CLOSE_CALLBACK": self._nothing,
            "CONNECT_SET_IDENTITY": self._identity,
            "CONNECT_IS_SECURE": self._secure,
        }

    # -- of the server ---------------------------------------------------------------------

    @property
    def known(self) -> bool:
        """Somebody has logged in."""
        return self._login.known

    def call(self, message: Message) -> None:
        """Answer *message*, in its own time."""
        if message.serial in self._working or message.serial in self._streams:
            self._server.abort("malformed")  # nobody could tell the answers apart
            return
        call = self._working[message.serial] = ClientCall(self, message, self._door.clock.seconds())
        if not self._opened:
            # Until then one after the other: no step of the way in runs beside another one.
            call.held = True
            self._server.hold(self, True)
        call.do(self._begin)

    def _begin(self, call: ClientCall) -> None:
        procedure, arguments = understood(call.message, known=self.known)
        local = self._local.get(procedure.name)
        if local is None and not self._opened:
            raise refusal(1, "hypervisor connection not open")
        call.name = procedure.name
        call.uuid = next(iter(objects.uuids(procedure, arguments)), None)
        if local is None:
            self._judge(call, procedure, arguments)
        else:
            call.wait(self._locally(call, procedure, local(arguments)))

    async def _locally(self, call: ClientCall, procedure: Procedure, work: Any) -> None:
        """Answer by ourselves, or with what the hypervisor says to a plan."""
        results = await work
        if isinstance(results, Plan):
            self._pass(call, results)
            return
        payload = procedure.results.pack(results)

        def answer() -> None:
            self._server.reply(call.message, payload)
            if procedure.name == "CONNECT_CLOSE":
                self._server.close("closed")

        self._over(call, "ok", answer)

    def failed(self, call: ClientCall, failure: Failure) -> None:
        """Tell the client that there is no answer; what is not meant to be told is a bug."""
        error = failure.value
        if isinstance(error, CancelledError):
            self._over(call, "cancelled")
        elif isinstance(error, errors.GatewayError):
            if isinstance(error, LibvirtError) and call.plan is not None:
                error = call.plan.failure(error)
            self._over(call, error.reason, partial(self._server.refuse, call.message, told(error)))
        else:
            bug = refusal(1, f"internal error: incident {self._door.incident(failure)}")
            self._over(call, "internal", partial(self._server.refuse, call.message, bug))

    def _over(self, call: ClientCall, end: str, answer: Callable[[], object] | None = None) -> None:
        """*call* ends with *answer*, or never gets one; nobody is told before the trail is."""
        if call.over:
            return
        call.over = True
        del self._working[call.message.serial]
        site, caller = self.site, self._login.caller
        if site is not None or (caller is not None and end != "ok"):
            seconds = self._door.clock.seconds() - call.began
            self._door.note(caller, "" if site is None else site.name, call.name, call.uuid, end, seconds)
        if answer is not None:
            answer()
        if self._login.failed:
            self._server.close("login")
        self._server.done(call.message)
        if call.held:
            self._server.hold(self, False)

    def stream(self, message: Message) -> None:
        """Pass on what the client says on a stream; one that is over hears nothing more."""
        stream = self._streams.get(message.serial)
        if stream is not None:
            stream.message(message)

    def flow(self, on: bool) -> None:
        """Stop what comes from the hypervisor while the client does not take it."""
        self._flowing = on
        if self._upstream is not None:
            self._upstream.flow(on)
        for stream in list(self._streams.values()):
            stream.flow(on)

    def gone(self, reason: str) -> None:
        """The client is gone: so is everything that it had."""
        self._cut(reason)
        self._login.leave(reason)
        self._door.left(self._server)

    def _cut(self, reason: str) -> None:
        """End all that goes to the hypervisor."""
        before, self._gone = self._gone, True
        if self._upstream is not None and not before:
            self._upstream.close()
        for call in list(self._working.values()):
            if not call.cancel():
                self._over(call, "cancelled")
        for stream in list(self._streams.values()):
            stream.stop(reason)

    def _ended(self, word: str) -> None:
        """The ticket has ended, or an operator ends the session.

        Who has a stream is told: virsh would go on to show a console that is not there any more.
        """
        # What waits to be dealt with behind a stream is not dealt with any more.
        self._server.hold("ended", True)
        streams = list(self._streams.values())
        for stream in streams:
            stream.refuse(refusal(78, f"operation aborted: the gateway has ended this session: {word}"))
        if streams:
            self._server.part(word, _FAREWELL)
        else:
            self._server.abort(word)
        self._cut(word)

    # -- the connection to the hypervisor --------------------------------------------------

    async def _open(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.site is not None:
            raise refusal(1, "connection already open")
        try:
            name = parse_open_name(arguments["name"] or "")
        except ValueError as error:
            raise refusal(8, f"invalid connection name: {error}") from None
        await self._login.show(name.ticket)
        caller = self._login.caller
        if caller is None:
            raise refusal(39, "authentication required")
        if self._door.draining:
            raise errors.Unavailable("The gateway is going away")
        site = self._find(caller, name)
        if name.driver and name.driver != site.url.driver:
            raise refusal(5, f"no connection driver available for {name.driver}:///")
        self.site = site
        self._readonly = bool(arguments["flags"] & 1) or site.readonly
        caller.session.target, caller.session.readonly = site.name, self._readonly
        try:
            scope = self._scope(caller, site)
            if scope is not None and scope.restricted:
                await site.hub.settled(tagged=scope.tagged)
            upstream = await site.target.connection(readonly=self._readonly)
        except BaseException:  # raised again, cancelled or not
            self.site = None
            raise
        if self._gone:
            upstream.close()
            raise errors.Interrupted(maybe_executed=False)
        self._upstream = Upstream(upstream, self._door.clock, self._told, self._lost)
        self._opened = True
        return {}

    def _find(self, caller: Caller, name: OpenName) -> Site:
        """The target that a client means: by the port, by its URI, by its user name, or the only one.

        :raises LibvirtError: there is none for it.
        """
        _, percent, of_user = self._login.user.rpartition("%")
        own = self._door.target_of(self._server)
        wanted = name.target or (of_user if percent else "") or own
        if wanted:
            try:
                if not is_target(wanted) or own not in ("", wanted):
                    raise errors.NoTarget
                return self._door.desk.site(caller, wanted)
            except errors.NoTarget:
                raise refusal(38, f"there is no target {wanted[:64]!r} for you") from None
        mine = [site for site in self._door.desk.sites if self._door.desk.may_use(caller, site)]
        if len(mine) != 1:
            raise refusal(38, "say which hypervisor, with ?target=NAME in the URI or user%NAME as the user")
        return mine[0]

    def _scope(self, caller: Caller, site: Site) -> Scope | None:
        """What the ticket permits now, for it may have been installed again since it was shown; None for
        nothing at all here.
        """
        grant, admin = caller.grant, caller.admin
        known = self._known
        if known is None or known[0] is not grant or known[1] != admin:
            scope = None
            if self._door.desk.may_use(caller, site):
                scope = scope_of(caller.rights, self._readonly, None if admin else site.policy)
            known = self._known = grant, admin, scope
        return known[2]

    def _lost(self, word: str) -> None:
        """The hypervisor is gone: a libvirt client has to open it anew."""
        self._server.close("upstream")

    async def _close(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        return {}

    async def _nothing(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        return {}

    async def _identity(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        raise refusal(88, "access denied: nobody may take another identity here")

    async def _secure(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"secure": int(self._door.is_secure(self._server))}

    async def _feature(self, arguments: Mapping[str, Any]) -> Mapping[str, Any] | Plan:
        feature = arguments["feature"]
        if feature == _KEEPALIVE:
            self._server.watch()
            return {"supported": 1}
        if feature in _OWN_FEATURES:
            return {"supported": 0}
        if self._upstream is None:
            raise refusal(1, "hypervisor connection not open")
        return Plan(_FEATURE, arguments, None, _FEATURE, arguments, None)

    # -- calls -----------------------------------------------------------------------------

    def _judge(self, call: ClientCall, procedure: Procedure, arguments: Mapping[str, Any]) -> None:
        """Pass on what the rights let through; raises what the client is told."""
        site, caller, upstream = self._there()
        scope = self._scope(caller, site)
        if scope is None:
            raise refusal(38, "this hypervisor is not there for you any more")
        upstream.check(procedure)
        if scope.restricted and not site.hub.is_settled(tagged=scope.tagged):
            # Names of the past would show what is another's by now.
            call.wait(self._judge_later(call, procedure, arguments, site.hub.settled(tagged=scope.tagged)))
            return
        check = partial(scope.check, procedure, arguments, site.hub.names)
        if procedure.name in XML:
            call.wait(self._pass_later(call, judge(check, procedure, arguments, site)))
        else:
            self._pass(call, check())

    async def _pass_later(self, call: ClientCall, plan: Awaitable[Plan]) -> None:
        self._pass(call, await plan)

    async def _judge_later(
        self, call: ClientCall, procedure: Procedure, arguments: Mapping[str, Any], settled: Awaitable[None]
    ) -> None:
        await settled
        self._judge(call, procedure, arguments)

    def _there(self) -> tuple[Site, Caller, Upstream]:
        site, caller, upstream = self.site, self._login.caller, self._upstream
        if site is None or caller is None or upstream is None:
            raise refusal(1, "hypervisor connection not open")
        return site, caller, upstream

    def _pass(self, call: ClientCall, plan: Plan) -> None:
        """Ask the hypervisor what the plan says, if it has no answer by itself."""
        call.plan = plan
        if plan.procedure.stream:
            call.wait(self._open_stream(call, plan))
        elif plan.ready is not None:
            self._reply(call, plan.ready)
        else:
            literal = plan.literal and is_exact(plan.procedure.arguments)
            payload = call.message.payload if literal else packed(plan.procedure, plan.arguments)
            self._there()[2].ask(call, plan.procedure, payload)

    def returned(self, call: ClientCall) -> None:
        """*call* has come back from the hypervisor."""
        self._there()[2].returned(call)

    def replied(self, call: ClientCall, reply: Reply) -> None:
        """Answer with what the client may know of what the hypervisor says."""
        (site, _, upstream), plan = self._there(), call.plan
        assert plan is not None  # noqa: S101 (what was asked had one)
        upstream.done(plan.procedure)
        Desk.learn(site, plan.procedure, plan.arguments, reply.values)
        self._reply(call, plan.answer(reply.values), reply)

    def _reply(self, call: ClientCall, results: Mapping[str, Any], reply: Reply | None = None) -> None:
        """Answer with *results*; when they are those of *reply*, with its very bytes."""
        message = call.message
        codec = PROCEDURES[message.program, message.procedure].results
        literal = reply is not None and results is reply.values and is_exact(codec)
        payload = reply.payload if reply is not None and literal else codec.pack(results)
        self._over(call, "ok", partial(self._server.reply, message, payload))

    async def _open_stream(self, call: ClientCall, plan: Plan) -> None:
        site, caller, _ = self._there()
        message = call.message
        results, stream = await site.target.stream(
            plan.procedure.name, plan.arguments, principal=caller.principal, readonly=self._readonly
        )

        def over(reason: str) -> None:
            self._streams.pop(message.serial, None)

        def counted(received: int, sent: int) -> None:
            caller.session.bytes_in += received
            caller.session.bytes_out += sent

        if self._gone:
            stream.close()
            self._over(call, "cancelled")
            return
        flags = plan.arguments.get("flags", 0)
        served = ServedStream(
            self._server,
            message,
            stream,
            told,
            over,
            counted,
            sparse=plan.procedure.sparse and bool(flags & 1),
            limit=site.target.stream_limit,
        )
        self._streams[message.serial] = served
        self._reply(call, plan.answer(results))
        served.start(reads=plan.procedure.stream == "r", flowing=self._flowing)

    # -- events ----------------------------------------------------------------------------

    def _told(self, procedure: Procedure, values: dict[str, Any]) -> None:
        site, caller = self.site, self._login.caller
        scope = None if site is None or caller is None else self._scope(caller, site)
        if site is not None and scope is not None and scope.shows(procedure, values, site.hub.names):
            self._server.event(procedure.program, procedure.number, procedure.arguments.pack(values))
