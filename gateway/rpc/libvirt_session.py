"""One stock libvirt client: who it is, what it has opened, and what becomes of its calls.

It speaks to us as to a libvirtd. Its URI is never followed: it names one of the configured targets, and what
is opened there is for the configuration to say. Every call passes the rights of its ticket, every answer and
event passes them again, and nothing is passed on that was not understood.
Source: libvirt 9.0.0, remote_daemon_dispatch.c; virerror.h for the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway import errors
from gateway.rpc.connection import LibvirtConnection
from gateway.rpc.desk import scope_of
from gateway.rpc.libvirt_errors import refusal, told
from gateway.rpc.libvirt_server import LibvirtServer
from gateway.rpc.libvirt_stream import ServedStream
from gateway.rpc.login import Caller
from gateway.rpc.objects import names_told
from gateway.rpc.plan import Plan
from gateway.rpc.rights import Scope
from gateway.rpc.sites import Site
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_message import Message
from gateway.wire.libvirt_schema import PROCEDURES, PROGRAMS, Procedure
from gateway.wire.open_name import OpenName, parse_open_name
from gateway.wire.sasl_plain import parse_plain
from gateway.wire.xdr import XdrError

if TYPE_CHECKING:
    from gateway.rpc.libvirt_door import LibvirtDoor

#: Kinds of authentication.
_NONE, _SASL = 0, 1
#: Bad logins on one connection.
_TRIES = 3
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

    :ivar known: somebody has logged in.
    """

    log = Logger()

    def __init__(self, door: LibvirtDoor, server: LibvirtServer) -> None:
        self.known = False
        self._door = door
        self._server = server
        self._caller: Caller | None = None
        self._user = ""
        self._tries = 0
        self._site: Site | None = None
        self._scope: Scope | None = None
        self._upstream: LibvirtConnection | None = None
        self._readonly = False
        self._opened = False
        self._turns = DeferredSemaphore(_TOGETHER)
        self._working: dict[int, Deferred[None]] = {}
        self._streams: dict[int, ServedStream] = {}
        self._local: Mapping[str, Callable[..., Any]] = {
            "AUTH_LIST": self._auth_list,
            "AUTH_SASL_INIT": self._sasl_init,
            "AUTH_SASL_START": self._sasl_start,
            "AUTH_SASL_STEP": self._sasl_step,
            "AUTH_POLKIT": self._polkit,
            "CONNECT_OPEN": self._open,
            "CONNECT_CLOSE": self._close,
            "CONNECT_SUPPORTS_FEATURE": self._feature,
            "CONNECT_REGISTER_CLOSE_CALLBACK": self._nothing,
            "CONNECT_UNREGISTER_CLOSE_CALLBACK": self._nothing,
            "CONNECT_SET_IDENTITY": self._identity,
            "CONNECT_IS_SECURE": self._secure,
        }

    # -- of the server ---------------------------------------------------------------------

    def call(self, message: Message) -> None:
        """Answer *message*, in its own time."""
        if message.serial in self._working or message.serial in self._streams:
            self._server.abort("malformed")  # nobody could tell the answers apart
            return
        work = Deferred.fromCoroutine(self._answer(message))
        if not work.called:
            self._working[message.serial] = work
        work.addBoth(self._answered, message)

    def _answered(self, result: object, message: Message) -> None:
        self._working.pop(message.serial, None)
        if isinstance(result, Failure) and not result.check(CancelledError):
            incident = self._door.incident(result)
            self._server.refuse(message, refusal(1, f"internal error: incident {incident}"))
        self._server.done()

    async def _answer(self, message: Message) -> None:
        began = self._door.clock.seconds()
        procedure, end, uuid = None, "ok", None
        try:
            procedure, arguments = self._understand(message)
            local = self._local.get(procedure.name)
            if local is not None:
                self._server.reply(message, procedure.results.pack(await local(arguments)))
                if procedure.name == "CONNECT_CLOSE":
                    self._server.close("closed")
                return
            plan = await self._judge(procedure, arguments)
            uuid = plan.uuids[0] if plan.uuids else None
            await self._pass(message, plan)
        except errors.GatewayError as error:
            end = error.reason
            self._server.refuse(message, told(error))
        finally:
            if procedure is not None and self._site is not None:
                seconds = self._door.clock.seconds() - began
                self._door.note(self._caller, self._site, procedure, uuid, end, seconds)

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
        try:
            arguments = procedure.arguments.unpack(message.payload)
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
        if self._upstream is not None and self._upstream.alive:
            self._upstream.read(on)
        for stream in list(self._streams.values()):
            stream.flow(on)

    def gone(self, reason: str) -> None:
        """The client is gone: so is everything that it had."""
        for work in list(self._working.values()):
            work.cancel()
        for stream in list(self._streams.values()):
            stream.stop(reason)
        if self._upstream is not None:
            self._upstream.lost = lambda word: None
            self._upstream.close()
        if self._caller is not None:
            self._caller.session.close(reason)
        self._door.left(self._server)

    def _ended(self, word: str) -> None:
        """The ticket has ended, or an operator ends the session."""
        self._server.abort(word)

    # -- login -----------------------------------------------------------------------------

    async def _auth_list(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        if not self.known:
            caller = await self._door.known(self._server, self._ended)
            if caller is not None:
                self._enter(caller)
            elif self._door.is_plain(self._server):
                self.known = True  # the name to open holds a ticket, for nothing else can be shown there
        return {"types": [_NONE if self.known else _SASL]}

    async def _sasl_init(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        self._strangers_only()
        return {"mechlist": "PLAIN"}

    async def _sasl_start(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        self._strangers_only()
        try:
            if arguments["mech"] != "PLAIN":
                raise ValueError
            shown = parse_plain(arguments["data"].rstrip(b"\0") if arguments["nil"] == 0 else b"")
        except ValueError:
            raise self._failed(errors.Unauthenticated(reason="shape")) from None
        self._user = shown.user
        try:
            self._enter(await self._door.logins.token(shown.password, self._server.peer, self._ended))
        except errors.Unauthenticated as error:
            raise self._failed(error) from None
        return {"complete": 1, "nil": 1, "data": b""}

    async def _sasl_step(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        raise refusal(45, "authentication failed: there is no further step")

    async def _polkit(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        raise refusal(45, "authentication failed: polkit is not offered")

    def _strangers_only(self) -> None:
        if self.known:
            raise refusal(45, "authentication failed: already authenticated")

    def _failed(self, error: errors.Unauthenticated) -> LibvirtError:
        self._door.refused(self._server.peer, error)
        self._tries += 1
        if self._tries >= _TRIES:
            self._door.clock.callLater(0, self._server.close, "login")
        return refusal(45, "authentication failed: authentication failed")

    async def _show(self, ticket: str) -> None:
        """Log in with a ticket out of the name to open."""
        try:
            self._enter(await self._door.logins.token(ticket, self._server.peer, self._ended))
        except errors.Unauthenticated as error:
            raise self._failed(error) from None

    def _enter(self, caller: Caller) -> None:
        self._caller = caller
        self.known = True
        self._server.logged_in()

    # -- the connection to the hypervisor --------------------------------------------------

    async def _open(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        if self._site is not None:
            raise refusal(1, "connection already open")
        try:
            name = parse_open_name(arguments["name"] or "")
        except ValueError as error:
            raise refusal(8, f"invalid connection name: {error}") from None
        if self._caller is None:
            await self._show(name.ticket)
        caller = self._caller
        if caller is None:
            raise refusal(39, "authentication required")
        site = self._find(caller, name)
        if name.driver and name.driver != site.url.driver:
            raise refusal(5, f"no connection driver available for {name.driver}:///")
        self._site = site
        self._readonly = bool(arguments["flags"] & 1) or site.readonly
        policy = None if caller.admin else site.policy
        self._scope = scope_of(caller.rights, self._readonly, policy)
        caller.session.target, caller.session.readonly = site.name, self._readonly
        try:
            if self._scope.restricted:
                await site.hub.settled()
            upstream = await site.target.connection(readonly=self._readonly)
        except BaseException:
            self._site = None
            raise
        self._upstream = upstream
        upstream.event, upstream.lost = self._told, self._lost
        self._opened = True
        return {}

    def _find(self, caller: Caller, name: OpenName) -> Site:
        """The target that a client means: by its URI, by its user name, by the port, or the only one.

        :raises LibvirtError: there is none for it.
        """
        _, percent, of_user = self._user.rpartition("%")
        wanted = name.target or (of_user if percent else "") or self._door.target_of(self._server)
        if wanted:
            try:
                return self._door.desk.site(caller, wanted)
            except errors.NoTarget:
                raise refusal(38, f"there is no target {wanted!r} for you") from None
        mine = [site for site in self._door.desk.sites if self._door.desk.may_use(caller, site)]
        if len(mine) != 1:
            raise refusal(38, "say which hypervisor, with ?target=NAME in the URI or user%NAME as the user")
        return mine[0]

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
        if self._scope is None or self._site is None:
            raise refusal(1, "hypervisor connection not open")
        if procedure.name in _PASSES_DESCRIPTORS:
            raise refusal(84, "Operation not supported: descriptors cannot be passed on this connection")
        return self._scope.check(procedure, arguments, self._site.hub.names)

    async def _pass(self, message: Message, plan: Plan) -> None:
        """Ask the hypervisor, and answer with what the client may know of it."""
        procedure = PROCEDURES[message.program, message.procedure]
        try:
            if plan.procedure.stream:
                await self._open_stream(message, plan)
                return
            results = (
                plan.ready if plan.ready is not None else await self._ask(plan.procedure, plan.arguments)
            )
            if self._site is not None and plan.ready is None:
                for uuid, name in names_told(plan.procedure, results).items():
                    self._site.hub.learn({"uuid": uuid, "name": name})
            self._server.reply(message, procedure.results.pack(plan.answer(results)))
        except LibvirtError as error:
            raise plan.failure(error) from None

    async def _ask(self, procedure: Procedure, arguments: Mapping[str, Any]) -> dict[str, Any]:
        upstream = self._upstream
        if upstream is None:
            raise refusal(1, "hypervisor connection not open")
        await self._turns.acquire()
        call = upstream.call(procedure, arguments)
        # Whoever stops waiting has its turn back when the hypervisor has answered.
        try:
            return await call
        finally:
            self._turns.release()

    async def _open_stream(self, message: Message, plan: Plan) -> None:
        site, caller = self._site, self._caller
        if site is None or caller is None:
            raise refusal(1, "hypervisor connection not open")
        results, stream = await site.target.stream(
            plan.procedure.name, plan.arguments, principal=caller.principal, readonly=self._readonly
        )

        def over(reason: str) -> None:
            self._streams.pop(message.serial, None)

        def counted(received: int, sent: int) -> None:
            caller.session.bytes_in += received
            caller.session.bytes_out += sent

        flags = plan.arguments.get("flags", 0)
        served = ServedStream(
            self._server,
            message,
            stream,
            told,
            over,
            counted,
            sparse=plan.procedure.sparse and bool(flags & 1),
        )
        self._streams[message.serial] = served
        self._server.reply(message, plan.procedure.results.pack(plan.answer(results)))
        served.start(reads=plan.procedure.stream == "r", writes=plan.procedure.stream == "w")

    # -- events ----------------------------------------------------------------------------

    def _told(self, procedure: Procedure, values: dict[str, Any]) -> None:
        if self._scope is None or self._site is None:
            return
        if self._scope.shows(procedure, values, self._site.hub.names):
            self._server.event(procedure.program, procedure.number, procedure.arguments.pack(values))
