"""One stock libvirt client: who it is, what it has opened, and what becomes of its calls.

It speaks to us as to a libvirtd. Its URI is never followed: it names one of the configured targets, and what
is opened there is for the configuration to say. Every call passes the rights of its ticket, every answer and
event passes them again, and nothing is passed on that was not understood.
Source: libvirt 9.0.0, remote_daemon_dispatch.c; virerror.h for the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway import errors
from gateway.rpc import objects
from gateway.rpc.connection import LibvirtConnection
from gateway.rpc.desk import Desk, scope_of
from gateway.rpc.libvirt_errors import refusal, told
from gateway.rpc.libvirt_login import LibvirtLogin
from gateway.rpc.libvirt_server import LibvirtServer
from gateway.rpc.libvirt_stream import ServedStream
from gateway.rpc.login import Caller
from gateway.rpc.plan import Plan
from gateway.rpc.registrations import Registrations
from gateway.rpc.rights import Scope
from gateway.rpc.sites import Site
from gateway.rpc.volume_files import judge
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_message import Message
from gateway.wire.libvirt_schema import PROCEDURES, PROGRAMS, Procedure
from gateway.wire.open_name import OpenName, is_target, parse_open_name, usual_payload
from gateway.wire.xdr import XdrError

if TYPE_CHECKING:
    from gateway.rpc.libvirt_door import LibvirtDoor

#: Seconds for the last words to a client.
_FAREWELL = 0.02
#: Calls of one client at a time on the way to its hypervisor, which takes five messages.
_TOGETHER = 4
#: Features that are ours to answer: what passes descriptors, and what needs two daemons, we do not have.
_KEEPALIVE, _OWN_FEATURES = 10, frozenset({1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13})
_PASSES_DESCRIPTORS = frozenset(
    {
        "DOMAIN_OPEN_GRAPHICS",
        "DOMAIN_OPEN_GRAPHICS_FD",
        "DOMAIN_CREATE_XML_WITH_FILES",
        "DOMAIN_CREATE_WITH_FILES",
        "DOMAIN_FD_ASSOCIATE",
        "LXC_DOMAIN_OPEN_NAMESPACE",
        "QEMU_DOMAIN_MONITOR_COMMAND_WITH_FILES",
    }
)


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
        self._upstream: LibvirtConnection | None = None
        self._readonly = False
        self._opened = False
        self._gone = False
        self._flowing = True
        self._registrations = Registrations(door.clock)
        self._turns = DeferredSemaphore(_TOGETHER)
        self._working: dict[int, Deferred[None]] = {}
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
        if not self._opened:
            # Until then one after the other: no step of the way in runs beside another one.
            self._server.hold(self, True)
        work = Deferred.fromCoroutine(self._answer(message))
        if not work.called:
            self._working[message.serial] = work
        work.addBoth(self._answered, message)

    def _answered(self, result: object, message: Message) -> None:
        self._working.pop(message.serial, None)
        if isinstance(result, Failure) and not result.check(CancelledError):
            incident = self._door.incident(result)
            self._server.refuse(message, refusal(1, f"internal error: incident {incident}"))
        if self._login.failed:
            self._server.close("login")
        self._server.done(message)
        self._server.hold(self, False)

    async def _answer(self, message: Message) -> None:
        began = self._door.clock.seconds()
        name, end, uuid = f"{message.program:x}-{message.procedure}", "internal", None
        try:
            procedure, arguments = self._understand(message)
            name = procedure.name
            uuid = next(iter(objects.uuids(procedure, arguments)), None)
            local = self._local.get(name)
            if local is not None:
                self._server.reply(message, procedure.results.pack(await local(arguments)))
                if name == "CONNECT_CLOSE":
                    self._server.close("closed")
            else:
                await self._pass(message, await self._judge(procedure, arguments))
            end = "ok"
        except errors.GatewayError as error:
            end = error.reason
            self._server.refuse(message, told(error))
        except CancelledError:
            end = "cancelled"
            raise
        finally:
            site, caller = self.site, self._login.caller
            if site is not None or (caller is not None and end != "ok"):
                seconds = self._door.clock.seconds() - began
                self._door.note(caller, "" if site is None else site.name, name, uuid, end, seconds)

    def _understand(self, message: Message) -> tuple[Procedure, dict[str, Any]]:
        """What is called, and with what.

        :raises LibvirtError: nobody knows, or it may not be called yet.
        """
        if message.program not in PROGRAMS.values() or message.version != 1:
            text = f"Cannot find program {message.program} version {message.version}"
            raise refusal(39, text)
        procedure = PROCEDURES.get((message.program, message.procedure))
        if procedure is None or procedure.event:
            raise refusal(39, f"unknown procedure: {message.procedure}")
        if not self.known and not procedure.name.startswith("AUTH_"):
            raise refusal(39, "authentication required")
        payload = usual_payload(message.payload) if procedure.name == "CONNECT_OPEN" else message.payload
        try:
            arguments = procedure.arguments.unpack(payload)
        except XdrError as error:
            raise refusal(39, f"Unable to decode message payload: {error}") from None
        early = procedure.name in self._local
        if not self._opened and not early:
            raise refusal(1, "hypervisor connection not open")
        return procedure, arguments

    def stream(self, message: Message) -> None:
        """Pass on what the client says on a stream; one that is over hears nothing more."""
        stream = self._streams.get(message.serial)
        if stream is not None:
            stream.message(message)

    def flow(self, on: bool) -> None:
        """Stop what comes from the hypervisor while the client does not take it."""
        self._flowing = on
        if self._upstream is not None and self._upstream.alive:
            self._upstream.read(on)
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
            if self._upstream.alive:
                self._upstream.read(True)  # for the answers, whether the client takes them or not
            self._upstream.lost = lambda word: None
            self._upstream.event = lambda procedure, values: None
            self._registrations.close(self._upstream)
        for work in list(self._working.values()):
            work.cancel()
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
            if scope.restricted:
                await site.hub.settled(tagged=scope.tagged)
            upstream = await site.target.connection(readonly=self._readonly)
        except BaseException:
            self.site = None
            raise
        if self._gone:
            upstream.close()
            raise errors.Interrupted(maybe_executed=False)
        self._upstream = upstream
        upstream.event, upstream.lost = self._told, self._lost
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

    def _scope(self, caller: Caller, site: Site) -> Scope:
        """What the ticket permits now: it may have been installed again since it was shown."""
        return scope_of(caller.rights, self._readonly, None if caller.admin else site.policy)

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

    async def _feature(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        feature = arguments["feature"]
        if feature == _KEEPALIVE:
            self._server.watch()
            return {"supported": 1}
        if feature in _OWN_FEATURES:
            return {"supported": 0}
        if self._upstream is None:
            raise refusal(1, "hypervisor connection not open")
        procedure = PROCEDURES[PROGRAMS["remote"], 60]
        return await self._ask(procedure, arguments)

    # -- calls -----------------------------------------------------------------------------

    async def _judge(self, procedure: Procedure, arguments: Mapping[str, Any]) -> Plan:
        """What the rights make of a call; raises what the client is told."""
        site, caller = self._there()
        if not self._door.desk.may_use(caller, site):
            raise refusal(38, "this hypervisor is not there for you any more")
        if procedure.name in _PASSES_DESCRIPTORS:
            raise refusal(84, "Operation not supported: descriptors cannot be passed on this connection")
        if self._registrations.full(procedure):
            raise refusal(9, "operation failed: too many registrations for events")
        scope = self._scope(caller, site)
        if scope.restricted:
            # Names of the past would show what is another's by now.
            await site.hub.settled(tagged=scope.tagged)
        check = partial(scope.check, procedure, arguments, site.hub.names)
        return await judge(check, procedure, arguments, site)

    def _there(self) -> tuple[Site, Caller]:
        site, caller = self.site, self._login.caller
        if site is None or caller is None:
            raise refusal(1, "hypervisor connection not open")
        return site, caller

    async def _pass(self, message: Message, plan: Plan) -> None:
        """Ask the hypervisor, and answer with what the client may know of it."""
        site, _ = self._there()
        procedure = PROCEDURES[message.program, message.procedure]
        try:
            if plan.procedure.stream:
                await self._open_stream(message, plan)
                return
            if plan.ready is None:
                results: Mapping[str, Any] = await self._ask(plan.procedure, plan.arguments)
                Desk.learn(site, plan.procedure, plan.arguments, results)
            else:
                results = plan.ready
            self._server.reply(message, procedure.results.pack(plan.answer(results)))
        except LibvirtError as error:
            raise plan.failure(error) from None

    async def _ask(self, procedure: Procedure, arguments: Mapping[str, Any]) -> dict[str, Any]:
        upstream = self._upstream
        if upstream is None:
            raise refusal(1, "hypervisor connection not open")
        await self._turns.acquire()
        try:
            if self._gone:
                # Whoever had the turn before has left with us.
                raise errors.Interrupted(maybe_executed=False)
            self._registrations.asked(procedure)
            results = await upstream.call(procedure, arguments)
            self._registrations.done(procedure)
            return results
        finally:
            self._turns.release()

    async def _open_stream(self, message: Message, plan: Plan) -> None:
        site, caller = self._there()
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
        self._server.reply(message, plan.procedure.results.pack(plan.answer(results)))
        served.start(reads=plan.procedure.stream == "r", flowing=self._flowing)

    # -- events ----------------------------------------------------------------------------

    def _told(self, procedure: Procedure, values: dict[str, Any]) -> None:
        site, caller = self.site, self._login.caller
        if site is None or caller is None or not self._door.desk.may_use(caller, site):
            return
        if self._scope(caller, site).shows(procedure, values, site.hub.names):
            self._server.event(procedure.program, procedure.number, procedure.arguments.pack(values))
