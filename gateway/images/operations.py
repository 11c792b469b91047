"""The operations of the images API on one target: ranges, lengths, texts and statuses.

Source: ovirt-imageio 2.5, images API (ranges, PATCH, extents, checksum); RFC 9110, section 14.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import parse_qsl

from attrs import evolve, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from gateway import errors
from gateway.core import relay
from gateway.core.exchange import Exchange, Field
from gateway.core.fasttls import READ
from gateway.core.pump import Tap
from gateway.core.sessions import Session
from gateway.core.tickets import Ticket
from gateway.images.target import FEATURES, Document, Target
from gateway.wire.byte_range import parse_content_range
from gateway.wire.http_head import RequestHead
from gateway.wire.strict_json import load_object
from gateway.wire.ticket_json import LARGEST

#: Bytes of one PUT into which a chunked upload is cut.
SEGMENT = 4 * 1024 * 1024
#: Bytes of a PATCH body.
MAX_PATCH = 64 * 1024
T = TypeVar("T")
NO_CACHE: Field = (b"cache-control", b"no-cache, no-store")
_READ_ONLY = ("checksum", "extents")


@frozen
class Operation:
    """One request on its way: who asked, under which ticket, on which image.

    :ivar bucket: share of the network this ticket has, None without limit.
    """

    exchange: Exchange
    ticket: Ticket
    session: Session
    target: Target
    clock: IReactorTime
    bucket: relay.Bucket | None

    @property
    def limit(self) -> int | None:
        """Bytes of the image that the ticket covers; None when the ticket does not say."""
        size = self.ticket.grant.size
        return None if size >= LARGEST else size

    def count_in(self, start: int) -> Callable[[int], None]:
        """Return what counts bytes of an upload that begins at *start*."""
        position = start

        def count(amount: int) -> None:
            nonlocal position
            self.session.bytes_in += amount
            self.ticket.transferred.add(position, position + amount)
            position += amount

        return count

    def count_out(self, start: int) -> Callable[[int], None]:
        """Return what counts bytes of a download that begins at *start*."""
        position = start

        def count(amount: int) -> None:
            nonlocal position
            self.session.bytes_out += amount
            self.ticket.transferred.add(position, position + amount)
            position += amount

        return count


def query_of(head: RequestHead) -> dict[str, str]:
    """Return the query of a request; of a repeated key the last value counts."""
    query = head.target.partition(b"?")[2].decode("ascii")
    if not query:
        return {}
    try:
        return dict(parse_qsl(query, keep_blank_values=True, max_num_fields=16))
    except ValueError as error:
        raise errors.BadRequest("The query has too many parts") from error


def closes(head: RequestHead) -> bool:
    """Whether the client asks for the connection to end after this request (``close=y``)."""
    return query_of(head).get("close") == "y"


async def extents(operation: Operation) -> None:
    """Answer GET extents with the host's own list, however long it takes."""
    context = query_of(operation.exchange.head).get("context", "zero")
    if context == "dirty" and not operation.ticket.grant.dirty and operation.ticket.trusted:
        raise errors.NotFound("Ticket does not support dirty extents")
    await _send(operation, await operation.target.extents(context))


async def checksum(operation: Operation) -> None:
    """Answer GET checksum; the host computes it over the whole image."""
    query = query_of(operation.exchange.head)
    text = query.get("block_size", str(4 * 1024 * 1024))
    if not (text.isascii() and text.isdecimal() and len(text) <= 10):
        raise errors.BadRequest("Invalid value for 'block_size': an integer is expected")
    block_size = int(text)
    if not 1024 * 1024 <= block_size <= 16 * 1024 * 1024 or block_size % 4096:
        raise errors.BadRequest("Invalid value for 'block_size': 1 MiB to 16 MiB, a multiple of 4096")
    document = await operation.target.checksum(query.get("algorithm", "blake2b"), block_size)
    if operation.limit is not None:
        operation.ticket.transferred.add(0, operation.limit)
    await _send(operation, document)


def algorithms(exchange: Exchange) -> None:
    """Answer GET checksum/algorithms, which needs no ticket, with every name there is, as the daemon does."""
    names = json.dumps({"algorithms": sorted(hashlib.algorithms_available)})
    exchange.respond(200, [(b"content-type", b"application/json")], names.encode("ascii") + b"\n")


async def _send(operation: Operation, document: Document) -> None:
    exchange = operation.exchange
    fields = [(b"content-type", b"application/json"), NO_CACHE]
    if document.length is None:
        exchange.keep_alive = False
    exchange.start(200, fields, document.length)
    await relay.body(document.source, exchange, operation.clock, begun=exchange.flush)
    exchange.finish()


# -- writing -----------------------------------------------------------------------------------


@frozen
class Placement:
    """Where an upload goes.

    :ivar length: bytes, None when they come in chunks.
    """

    offset: int
    length: int | None
    flush: bool


def placement(request: RequestHead) -> Placement:
    """Read where and how PUT writes.

    :raises gateway.errors.BadRequest: a part is missing or malformed.
    """
    flush = query_of(request).get("flush", "y")
    if flush not in ("y", "n"):
        raise errors.BadRequest(f"Unsupported value {flush[:40]!r} for 'flush', expecting one of ['y', 'n']")
    if request.length is None and not request.chunked:
        raise errors.BadRequest("Content-Length header is required")
    offset = 0
    if (value := request.get(b"content-range")) is not None:
        # As the image host does, only the first position counts; the length is Content-Length.
        offset = parse_content_range(value.decode("latin-1")).first
    return Placement(offset, request.length, flush == "y")


async def put(operation: Operation, place: Placement) -> None:
    """Answer PUT: write the body where it belongs."""
    exchange, target, limit = operation.exchange, operation.target, operation.limit

    def check(stop: int) -> None:
        if limit is not None and stop > limit:
            raise errors.RangeNotSatisfiable("Requested range out of allowed range", available=limit)

    check(place.offset + (place.length or 0))
    source = _Counted(exchange, operation, place.offset)
    if place.length is not None:
        await target.write(place.offset, place.length, source, flush=place.flush)
    else:
        offset = place.offset
        async for segment in relay.Segments(source, SEGMENT):
            check(offset + len(segment))
            await target.write_segment(offset, segment, flush=False)
            offset += len(segment)
        if place.flush:
            await target.flush()
    exchange.respond(200, [NO_CACHE])


class _Counted:
    """The body of an upload as a source that counts, and keeps to the ticket's rate."""

    def __init__(self, exchange: Exchange, operation: Operation, offset: int) -> None:
        self._body = exchange.body
        self._count = operation.count_in(offset)
        self._valve = relay.Valve(exchange.body, operation.clock)
        self._bucket = operation.bucket
        self.pauseProducing = self._valve.pauseProducing
        self.resumeProducing = self._valve.resumeProducing
        self.stopProducing = self._valve.stopProducing

    def deliver(self, sink: Callable[[bytes], None]) -> Deferred[None]:
        def write(piece: bytes) -> None:
            self._note(len(piece))
            sink(piece)

        return self._body.deliver(write).addBoth(self._over)

    def tap(self) -> Tap | None:
        """As the body's own; what is taken there is counted here."""
        tap = self._body.tap()
        if tap is None:
            return None
        took = tap.took

        def noted(size: int) -> None:
            self._note(size)
            took(size)

        return evolve(tap, took=noted, most=0 if self._bucket is None else READ)

    def _note(self, size: int) -> None:
        self._count(size)
        if self._bucket is not None:
            self._valve.take(self._bucket, size)

    def _over(self, result: T) -> T:
        self._valve.close()
        return result


@frozen
class Patch:
    """A PATCH body: ``zero`` or ``flush``."""

    op: str
    offset: int = 0
    size: int = 0
    flush: bool = False


def parse_patch(body: bytes) -> Patch:
    """Read the body of PATCH on an image.

    :raises gateway.errors.BadRequest: with imageio's own texts.
    """
    try:
        patch = load_object(body, limit=MAX_PATCH)
    except ValueError as error:
        raise errors.BadRequest(f"Invalid patch: {error}") from error
    op = patch.get("op")
    if "op" not in patch:
        raise errors.BadRequest("Missing required value for 'op'")
    if op == "flush":
        return Patch("flush")
    if op != "zero":
        text = f"Unsupported value {str(op)[:40]!r} for 'op', expecting one of ['flush', 'zero']"
        raise errors.BadRequest(text)
    flush = patch.get("flush", False)
    if not isinstance(flush, bool):
        raise errors.BadRequest(f"Boolean required {str(flush)[:40]!r}")
    return Patch("zero", _natural(patch, "offset", 0), _natural(patch, "size", None), flush)


def _natural(patch: dict[str, object], name: str, default: int | None) -> int:
    value = patch.get(name, default)
    if value is None:
        raise errors.BadRequest(f"Missing required value for {name!r}")
    if not isinstance(value, int) or isinstance(value, bool):
        raise errors.BadRequest(f"Integer required {str(value)[:40]!r}")
    if value < 0:
        raise errors.BadRequest(f"Invalid value {value} < 0")
    return value


async def patch(operation: Operation, wanted: Patch) -> None:
    """Answer PATCH: zero a range, or flush."""
    if wanted.op == "flush":
        await operation.target.flush()
    else:
        stop = wanted.offset + wanted.size
        if operation.limit is not None and stop > operation.limit:
            text = "Requested range out of allowed range"
            raise errors.RangeNotSatisfiable(text, available=operation.limit)
        await operation.target.zero(wanted.offset, wanted.size, flush=wanted.flush)
        operation.ticket.transferred.add(wanted.offset, stop)
    operation.exchange.respond(200, [NO_CACHE])


# -- describing --------------------------------------------------------------------------------


async def options(operation: Operation) -> None:
    """Answer OPTIONS: what we and the host both can do, and never a way around us."""
    capabilities = await operation.target.options()
    operation.ticket.max_readers = capabilities.readers
    operation.ticket.max_writers = capabilities.writers
    writable = "write" in operation.ticket.grant.ops
    features = [name for name in capabilities.features if writable or name in _READ_ONLY]
    answer = {
        "features": features,
        "max_readers": capabilities.readers,
        "max_writers": capabilities.writers,
    }
    allow = b"OPTIONS,GET"
    if writable:
        allow += b",PUT,PATCH" if features else b",PUT"
    _describe(operation.exchange, answer, allow)


def options_all(exchange: Exchange) -> None:
    """Answer ``OPTIONS /images/*``: what we can do at all."""
    _describe(exchange, {"features": list(FEATURES)}, b"OPTIONS,GET,PUT,PATCH")


def _describe(exchange: Exchange, answer: object, allow: bytes) -> None:
    body = json.dumps(answer).encode("ascii") + b"\n"
    exchange.respond(200, [(b"allow", allow), (b"content-type", b"application/json")], body)
