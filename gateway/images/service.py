"""The data port of image transfers: paths, methods, rights, and the life of one transfer.

Source: ovirt-imageio 2.5 (routes are prefixes, matched after percent-decoding);
ovirt-imageio-proxy 1.x for ``/sessions/`` and ``/tickets/``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from urllib.parse import unquote
from weakref import WeakKeyDictionary

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime

from gateway import errors
from gateway.core import relay
from gateway.core.exchange import Exchange
from gateway.core.sessions import SessionTable
from gateway.core.tickets import Ticket, TicketRegistry
from gateway.core.web import Application
from gateway.images import operations, reading
from gateway.images.access import Access
from gateway.images.cors import Cors, is_preflight
from gateway.images.operations import Operation
from gateway.images.slots import Slots
from gateway.images.target import Target
from gateway.images.targets import Targets
from gateway.wire.ticket_json import Kind

#: The version of the imageio protocol that ``/info/`` names.
PROTOCOL_VERSION = "2.5.1"
#: Seconds an operation waits for its turn when a ticket has all its readers or writers.
PATIENCE = 30.0
#: Seconds in which the client of a revoked upload may read why, before its connection is cut.
LAST_WORD = 0.02
_MAX_TOKEN = 16 * 1024

_PATHS = re.compile(
    r"/images/(?P<extents>.*)/extents"
    r"|/images/(?P<algorithms>.*)/checksum/algorithms"
    r"|/images/(?P<checksum>.*)/checksum"
    r"|/images/(?P<image>.*)"
    r"|/sessions(?:/(?P<session>.*))?$"
    r"|/tickets/(?P<ticket>.*)"
    r"|/info/?(?P<info>)$",
    re.DOTALL,
)
_RAW = b"content-range"

Run = Callable[[Operation], Awaitable[None]]


@define(eq=False)
class _Image:
    """What lasts as long as a ticket: the target, whose turn it is, and the ticket's share."""

    url: str = field(repr=False)
    target: Target
    readers: Slots
    writers: Slots
    bucket: relay.Bucket | None


@define(eq=False)
class ImageService:
    """Answers everything below ``/images/``, ``/sessions/``, ``/tickets/`` and ``/info/``.

    :ivar rate: bytes per second that one ticket may move, None for any number.
    :ivar operations: that read, and that write, at once under one ticket, unless its host says otherwise.
    """

    access: Access = field(repr=False)
    registry: TicketRegistry = field(repr=False)
    sessions: SessionTable = field(repr=False)
    targets: Targets
    cors: Cors
    clock: IReactorTime = field(repr=False)
    rate: float | None = None
    operations: int | None = 8
    _images: WeakKeyDictionary[Ticket, _Image] = field(factory=WeakKeyDictionary, repr=False)

    def route(self, exchange: Exchange) -> Application | None:
        """Name what answers *exchange*, if it is ours; see :class:`gateway.core.web.GatewaySite`."""
        path = unquote(exchange.head.target.partition(b"?")[0].decode("ascii"))
        match = _PATHS.match(path)
        if match is None:
            return None
        exchange.note += self.cors.fields(exchange.head)
        kind = match.lastgroup or "session"
        return partial(self._answer, kind, match[kind] or "")

    async def _answer(self, kind: str, name: str, exchange: Exchange) -> None:
        if is_preflight(exchange.head):
            exchange.respond(204)
            return
        try:
            await getattr(self, f"_{kind}")(exchange, name)
        except (errors.Forbidden, errors.Unauthorized):
            # As the originals do: nothing that is cut off may wait on an open connection.
            exchange.keep_alive = False
            raise

    # -- images ----------------------------------------------------------------------------

    async def _image(self, exchange: Exchange, ticket_id: str) -> None:
        request, method = exchange.head, exchange.head.method
        if method not in (b"GET", b"HEAD", b"PUT", b"PATCH", b"OPTIONS"):
            raise errors.MethodNotAllowed(["OPTIONS", "GET", "HEAD", "PUT", "PATCH"])
        if not ticket_id:
            raise errors.BadRequest("Ticket id is required")
        if operations.closes(request):
            exchange.keep_alive = False
        if method == b"OPTIONS":
            if ticket_id == "*":
                operations.options_all(exchange)
            else:
                await self._run(exchange, ticket_id, "", operations.options)
        elif method == b"GET":
            await self._run(exchange, ticket_id, "read", reading.get)
        elif method == b"HEAD":
            await self._run(exchange, ticket_id, "read", reading.head)
        elif method == b"PUT" or request.get(_RAW) is not None:
            # PATCH with Content-Range is how 1.0 to 1.2 wrote a piece.
            place = operations.placement(request)
            await self._run(exchange, ticket_id, "write", lambda it: operations.put(it, place))
        else:
            wanted = operations.parse_patch(await exchange.body.read(operations.MAX_PATCH))
            await self._run(exchange, ticket_id, "write", lambda it: operations.patch(it, wanted))

    async def _extents(self, exchange: Exchange, ticket_id: str) -> None:
        self._reads_only(exchange, ticket_id)
        await self._run(exchange, ticket_id, "read", operations.extents, touch=False)

    async def _checksum(self, exchange: Exchange, ticket_id: str) -> None:
        self._reads_only(exchange, ticket_id)
        await self._run(exchange, ticket_id, "read", operations.checksum)

    async def _algorithms(self, exchange: Exchange, ticket_id: str) -> None:
        self._reads_only(exchange, "any")
        operations.algorithms(exchange)

    def _reads_only(self, exchange: Exchange, ticket_id: str) -> None:
        if exchange.head.method != b"GET":
            raise errors.MethodNotAllowed(["GET"])
        if not ticket_id:
            raise errors.BadRequest("Ticket id is required")

    async def _run(
        self, exchange: Exchange, ticket_id: str, op: str, run: Run, *, touch: bool = True
    ) -> None:
        """Let *run* answer under a ticket: authorize, wait for a turn, hold the ticket meanwhile."""
        old = await self.access.admit(exchange, ticket_id)
        try:
            ticket = await self._authorize(exchange, ticket_id, op)
            exchange.allow_idle(ticket.grant.inactivity_timeout)
            exchange.while_connected(ticket, ticket.connect, ticket.disconnect)
            image = self._of(ticket)
            slots = image.writers if op == "write" else image.readers
            await slots.take(PATIENCE)
            try:
                await self._hold(exchange, ticket_id, op or ticket.grant.ops[0], image, run, touch)
            finally:
                slots.give()
                image.readers.limit = ticket.max_readers or image.readers.limit
                image.writers.limit = ticket.max_writers or image.writers.limit
        except errors.Forbidden as error:
            text = error.text
            if not text.startswith(errors.Forbidden.default):
                text = f"{errors.Forbidden.default}: {text}"
            refusal = errors.Unauthorized if old else errors.Forbidden
            raise refusal(text, reason=error.reason) from error

    async def _authorize(self, exchange: Exchange, ticket_id: str, op: str) -> Ticket:
        """OPTIONS (no *op*) needs any right at all."""
        if op:
            return await self.registry.authorize(ticket_id, op, kind=Kind.IMAGE, peer=exchange.peer)
        known = await self.registry.get(ticket_id)
        any_op = known.grant.ops[0] if known is not None and known.grant.ops else "read"
        return await self.registry.authorize(ticket_id, any_op, kind=Kind.IMAGE, peer=exchange.peer)

    async def _hold(
        self, exchange: Exchange, ticket_id: str, op: str, image: _Image, run: Run, touch: bool
    ) -> None:
        running: Deferred[None] | None = None
        ended = ""

        def end(reason: str) -> None:
            nonlocal ended
            ended = reason
            if running is not None:
                running.cancel()

        session = await self.sessions.open(
            ticket_id,
            op,
            kind=Kind.IMAGE,
            peer=exchange.peer,
            target=image.target.name,
            ended=end,
            listener="images",
        )
        if session.hold is None:
            raise errors.NoTicket(reason="revoked")
        session.hold.quiet = not touch
        ticket = session.hold.ticket
        outcome = "error"
        try:
            operation = Operation(exchange, ticket, session, image.target, self.clock, image.bucket)
            running = Deferred.fromCoroutine(_coroutine(run, operation))
            await running
            outcome = "done"
        except CancelledError:
            outcome = ended or "left"
            if ended:
                exchange.linger = LAST_WORD
                text = f"Transfer={ticket.grant.transfer_id} was canceled"
                raise errors.Forbidden(text, reason=ended) from None
            raise
        except errors.GatewayError as error:
            outcome = error.reason
            raise
        finally:
            session.close(outcome, touch=touch)

    def _of(self, ticket: Ticket) -> _Image:
        image = self._images.get(ticket)
        if image is None or image.url != ticket.grant.url:
            image = _Image(
                ticket.grant.url,
                self.targets.make(ticket),
                Slots(self.operations or sys.maxsize, self.clock),
                Slots(self.operations or sys.maxsize, self.clock),
                None if self.rate is None else relay.Bucket(self.rate, self.clock),
            )
            self._images[ticket] = image
        return image

    # -- the 1.x dialects ------------------------------------------------------------------

    async def _session(self, exchange: Exchange, session_id: str) -> None:
        method = exchange.head.method
        if method == b"POST" and not session_id:
            made = await self.access.open_session(exchange)
            exchange.respond(200, [(b"session-id", made.encode("ascii")), (b"cache-control", b"no-store")])
        elif method == b"DELETE" and session_id:
            await self.access.close_session(session_id)
            exchange.respond(204)
        elif method == b"OPTIONS":
            exchange.respond(204)
        else:
            raise errors.MethodNotAllowed(["POST", "DELETE", "OPTIONS"])

    async def _ticket(self, exchange: Exchange, ticket_id: str) -> None:
        method = exchange.head.method
        if method == b"PUT":
            await self.access.store(await exchange.body.read(_MAX_TOKEN))
            exchange.respond(200)
        elif method == b"DELETE":
            if not ticket_id:
                raise errors.BadRequest("Missing ticket ID")
            await self.access.drop(ticket_id)
            exchange.respond(204)
        elif method == b"OPTIONS":
            exchange.respond(204)
        else:
            raise errors.MethodNotAllowed(["PUT", "DELETE", "OPTIONS"])

    async def _info(self, exchange: Exchange, _: str) -> None:
        if exchange.head.method not in (b"GET", b"HEAD", b"OPTIONS"):
            raise errors.MethodNotAllowed(["GET", "OPTIONS"])
        body = b'{"version": "%s"}\n' % PROTOCOL_VERSION.encode("ascii")
        exchange.respond(200, [(b"content-type", b"application/json")], body)


async def _coroutine(run: Run, operation: Operation) -> None:
    await run(operation)
