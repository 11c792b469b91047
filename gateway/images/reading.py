"""Reading an image: whole or in part, never beyond the ticket, and taken up again where a host broke off.

Source: ovirt-imageio 2.5, images API; RFC 9110, sections 13.1.5 and 14.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed
from twisted.internet.defer import TimeoutError as Late

from gateway import errors
from gateway.core import relay
from gateway.core.exchange import Field
from gateway.images.disposition import attachment
from gateway.images.operations import NO_CACHE, Operation
from gateway.images.target import Reading, Target
from gateway.wire.byte_range import Range, parse_range

#: Seconds without a byte from the image host before a download is taken up anew.
STALL = 120.0
#: Bytes in which the last extent of a list stands.
_LAST_EXTENT = 512
#: Seconds a host may take to tell the size of an image before its first byte goes to the client.
_DESCRIBE_TIME = 5.0


async def get(operation: Operation) -> None:
    """Answer GET with the image or one range of it, taking a broken upstream up again."""
    exchange = operation.exchange
    reading = await _read(operation)
    count = operation.count_out(reading.start)
    exchange.start(206 if reading.partial else 200, _reading_fields(operation, reading), reading.length)
    moved = 0

    def counted(amount: int) -> None:
        nonlocal moved
        moved += amount
        count(amount)

    current, broken_at = reading, -1
    while True:
        try:
            await relay.body(
                current.source,
                exchange,
                operation.clock,
                count=counted,
                begun=exchange.flush,
                bucket=operation.bucket,
                stall=STALL,
            )
            break
        except (errors.UpstreamFailed, errors.UpstreamTimeout):
            if moved == reading.length:
                break
            if moved == broken_at:
                # Taken up again it gave nothing: that will not change.
                raise
            broken_at = moved
            current = await operation.target.resume(reading, moved)
    exchange.finish()


async def head(operation: Operation) -> None:
    """Answer HEAD, which image hosts do not know, as GET would be without its body."""
    size = await operation.target.size()
    if operation.limit is not None:
        size = min(size, operation.limit)
    fields = [
        (b"content-type", b"application/octet-stream"),
        (b"accept-ranges", b"bytes"),
        (b"content-disposition", attachment(operation.ticket.grant.filename)),
        NO_CACHE,
    ]
    operation.exchange.start(200, fields, size)
    operation.exchange.finish()


async def _read(operation: Operation) -> Reading:
    """Begin to read what was asked for, within what the ticket covers."""
    request, target, limit = operation.exchange.head, operation.target, operation.limit
    value = request.get(b"range")
    if value is None:
        return await _whole(operation, await target.read(None, None))
    wanted = parse_range(value.decode("latin-1"))
    if limit is not None and wanted.suffix is None:
        wanted.resolve(limit)
    if wanted.suffix is not None:
        size = await target.size()
        start, stop = wanted.resolve(size if limit is None else min(size, limit))
        wanted = Range(start, stop - 1)
    reading = await target.read(wanted, request.get(b"if-range"))
    if not reading.partial:
        return await _whole(operation, reading)
    if limit is not None and reading.start + reading.length > limit:
        # The ticket there covers more than the one here.
        reading.source.stopProducing()
        reading = await _part(target, reading.start, limit)
    return reading


async def _part(target: Target, start: int, stop: int) -> Reading:
    """Read a range without any condition, from a host that has just sent more than that."""
    reading = await target.read(Range(start, stop - 1), None)
    if not reading.partial:
        reading.source.stopProducing()
        raise errors.UpstreamFailed("The image host does not know ranges", reason="malformed")
    return reading


async def _whole(operation: Operation, reading: Reading) -> Reading:
    """Hold a whole image to what the ticket covers."""
    target, limit = operation.target, operation.limit
    if limit is None or reading.length == limit:
        return reading
    if reading.length > limit:
        reading.source.stopProducing()
        if limit == 0:
            return Reading(_Nothing(), 0, 0, False)
        part = await _part(target, 0, limit)
        return Reading(part.source, 0, part.length, False, part.filename, part.validators)
    asking = Deferred.fromCoroutine(_described_size(target))
    try:
        size = await asking.addTimeout(_DESCRIBE_TIME, operation.clock)
    except (errors.GatewayError, ValueError, Late):
        size = reading.length
    if size > reading.length:
        # The ticket there covers less than the one here: a part must not pass for the whole.
        reading.source.stopProducing()
        raise errors.RangeNotSatisfiable(available=reading.length)
    return reading


async def _described_size(target: Target) -> int:
    """The end of the last extent: the image itself, whatever the ticket on the host covers."""
    document = await target.extents("zero")
    tail = b""

    def collect(piece: bytes) -> None:
        nonlocal tail
        tail = (tail + piece)[-_LAST_EXTENT:]

    await document.source.deliver(collect)
    last = json.loads(tail[tail.rindex(b"{") : tail.rindex(b"}") + 1]) if b"{" in tail else {}
    return int(last.get("start", 0)) + int(last.get("length", 0))


class _Nothing:
    """The bytes of an empty image."""

    def deliver(self, sink: Callable[[bytes], None]) -> Deferred[None]:
        return succeed(None)

    def pauseProducing(self) -> None:
        """There is nothing to pause."""

    def resumeProducing(self) -> None:
        """There is nothing to resume."""

    def stopProducing(self) -> None:
        """There is nothing to stop."""


def _reading_fields(operation: Operation, reading: Reading) -> list[Field]:
    grant = operation.ticket.grant
    fields: list[Field] = [
        (b"content-type", b"application/octet-stream"),
        (b"accept-ranges", b"bytes"),
        (b"content-disposition", attachment(grant.filename or reading.filename)),
        NO_CACHE,
        *reading.validators,
    ]
    if reading.partial:
        total = b"*" if operation.limit is None else b"%d" % operation.limit
        last = reading.start + reading.length - 1
        fields.append((b"content-range", b"bytes %d-%d/%s" % (reading.start, last, total)))
    return fields
