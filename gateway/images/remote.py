"""An image behind an image daemon: every operation becomes one request to it.

The path comes from the ticket, never from the client, and nothing of the client's head is passed
on but ``Range``, ``If-Range`` and what places the bytes.
Source: ovirt-imageio 2.5, images API.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import unquote, urlsplit

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from gateway import errors
from gateway.core import relay
from gateway.core.http_client import Call, HttpConnection, StaleConnection
from gateway.core.pump import Tap
from gateway.core.upstreams import Upstream, Upstreams
from gateway.images.disposition import parse_disposition
from gateway.images.patience import until_back, watched
from gateway.images.target import FEATURES, Capabilities, Document, Reading, Relayed
from gateway.images.uplink import Uplink
from gateway.wire.byte_range import Range, parse_content_range_answer, parse_unsatisfied_range
from gateway.wire.http_head import ResponseHead
from gateway.wire.strict_json import load_object

#: Bytes of an error text or an OPTIONS answer.
_MAX_TEXT = 64 * 1024
#: What passes by itself: while a host starts its answers are refusals.
_PASSING = (errors.UpstreamFailed, errors.UpstreamTimeout, Relayed)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_QUERY_VALUE = re.compile(r"[A-Za-z0-9_./-]{1,64}")


def upstream_of(url: str) -> tuple[Upstream, str]:
    """Take the ``http``, ``https`` or ``http+unix`` *url* of a ticket apart.

    :return: where to connect, and the path of the image.
    """
    parts = urlsplit(url)
    if parts.scheme == "http+unix":
        return Upstream("http", "localhost", 0, unquote(parts.netloc)), parts.path
    port = parts.port or _DEFAULT_PORTS[parts.scheme]
    return Upstream(parts.scheme, parts.hostname or "", port), parts.path


@define
class RemoteTarget:
    """One image on one host; see the module.

    :ivar use_socket: told by OPTIONS that a socket of this very machine leads to the same images.
    """

    _upstreams: Upstreams = field(repr=False)
    _upstream: Upstream
    _path: str = field(repr=False)
    _local_socket: bool = True
    _direct: Upstream | None = None

    @property
    def name(self) -> str:
        where = self._direct or self._upstream
        return "unix" if where.socket is not None else where.authority.decode("ascii")

    # -- requests --------------------------------------------------------------------------

    async def _connection(self, *, fresh: bool) -> tuple[HttpConnection, Upstream]:
        """Return a connection for an upload, and where it leads."""
        if self._direct is not None:
            try:
                return await self._upstreams.connection(self._direct, fresh=fresh), self._direct
            except errors.UpstreamFailed:
                self._direct = None
        return await self._upstreams.connection(self._upstream, fresh=fresh), self._upstream

    def _target(self, suffix: str = "") -> bytes:
        return (self._path + suffix).encode("ascii")

    async def _ask(
        self,
        method: bytes,
        suffix: str = "",
        fields: list[tuple[bytes, bytes]] | None = None,
        body: bytes = b"",
        *,
        timeout: float | None = -1,
    ) -> Call:
        target, fields = self._target(suffix), fields or []
        if self._direct is not None:
            try:
                return await self._upstreams.ask(self._direct, method, target, fields, body, timeout=timeout)
            except errors.UpstreamFailed:
                self._direct = None
        return await self._upstreams.ask(self._upstream, method, target, fields, body, timeout=timeout)

    async def _done(self, call: Call, *expected: int) -> None:
        """Read an answer whose body does not matter."""
        head = _head(call)
        if head.status not in expected:
            raise await self._refused(call)
        await call.read(_MAX_TEXT)
        call.release()

    async def _refused(self, call: Call) -> errors.GatewayError:
        """What the host said instead of doing it."""
        head = _head(call)
        if not 400 <= head.status <= 599:
            call.abort()
            return errors.UpstreamFailed("The image host gave an odd answer", reason="malformed")
        text = (await call.read(_MAX_TEXT)).decode("utf-8", "replace").strip()
        call.release()
        available = None
        if head.status == 416:
            with suppress(errors.UpstreamFailed):
                available = parse_unsatisfied_range((head.get(b"content-range") or b"").decode("latin-1"))
        if "<html" in text.lower():
            text = ""
        return Relayed(head.status, text[:500] or f"The image host answered {head.status}", available)

    # -- operations ------------------------------------------------------------------------

    async def options(self) -> Capabilities:
        """Ask the host; an old one that knows no OPTIONS can get and put.

        When host and gateway are one machine and the host offers a unix socket, that is used
        from then on, as the original proxy does.
        """
        call = await self._ask(b"OPTIONS")
        head = _head(call)
        if head.status in (204, 405):
            await self._done(call, 204, 405)
            return Capabilities((), 1, 1)
        if head.status != 200:
            raise await self._refused(call)
        peer, own = call.addresses
        text = await call.read(_MAX_TEXT)
        call.release()
        try:
            answer = load_object(text)
        except ValueError:
            answer = {}
        socket = answer.get("unix_socket")
        if self._local_socket and isinstance(socket, str) and socket and peer is not None and peer == own:
            await self._try_socket(socket)
        offered = answer.get("features")
        offered = offered if isinstance(offered, list) else []
        return Capabilities(
            tuple(feature for feature in FEATURES if feature in offered),
            _count(answer.get("max_readers")),
            _count(answer.get("max_writers")),
        )

    async def _try_socket(self, path: str) -> None:
        """Go through the socket at *path* from now on, if we may."""
        direct = Upstream("http", "localhost", 0, path)
        try:
            connection = await self._upstreams.connection(direct)
        except errors.GatewayError:
            return
        connection.idle(connection)
        self._direct = direct

    async def size(self) -> int:
        """Length of a full GET, dropped after its head: extents may take minutes."""
        call = await self._ask(b"GET")
        head = _head(call)
        if head.status != 200 or head.length is None:
            raise await self._refused(call)
        call.abort()
        return head.length

    async def read(self, wanted: Range | None, if_range: bytes | None) -> Reading:
        fields = []
        if wanted is not None:
            fields.append((b"range", str(wanted).encode("ascii")))
            if if_range is not None:
                fields.append((b"if-range", if_range))
        call = await self._ask(b"GET", fields=fields)
        head = _head(call)
        if head.status not in (200, 206):
            raise await self._refused(call)
        start = 0
        if head.status == 206:
            start = self._placed(call, wanted)
        if head.length is None:
            call.abort()
            raise errors.UpstreamFailed("The image host did not say how much it sends", reason="malformed")
        validators = tuple((n, v) for n, v in head.fields if n in (b"etag", b"last-modified"))
        filename = parse_disposition(head.get(b"content-disposition"))
        return Reading(_Body(call), start, head.length, head.status == 206, filename, validators)

    def _placed(self, call: Call, wanted: Range | None) -> int:
        """Hold a 206 to what was asked for; return where it begins."""
        head = _head(call)
        try:
            got = parse_content_range_answer((head.get(b"content-range") or b"").decode("latin-1"))
        except errors.UpstreamFailed:
            call.abort()
            raise
        fits = (
            wanted is not None
            and got.last is not None
            and got.last - got.first + 1 == head.length
            and (wanted.start is None or wanted.start == got.first)
            and (wanted.last is None or wanted.last == got.last)
        )
        if not fits:
            call.abort()
            raise errors.UpstreamFailed("The image host sent another range", reason="malformed")
        return got.first

    async def resume(self, reading: Reading, moved: int) -> Reading:
        """Ask for the rest until the host is back."""

        async def again() -> Reading:
            rest = await self.read(reading.after(moved), None)
            if not rest.partial or rest.validators != reading.validators:
                rest.source.stopProducing()
                raise errors.UpstreamFailed(reason="malformed")
            return rest

        return await until_back(again, self._upstreams.clock, _PASSING)

    async def write(self, offset: int, length: int, body: relay.Source, *, flush: bool) -> None:
        uplink = Uplink(await self._put(offset, length, flush))
        pumping = Deferred.fromCoroutine(relay.body(body, uplink, self._upstreams.clock))
        up = self._upstreams
        try:
            with watched(pumping, uplink, up.clock, up.timeout):
                await self._answered(uplink, pumping, lambda: self._put(offset, length, flush, fresh=True))
                await self._done(uplink.call, 200, 204)
        finally:
            # A call that went by whole was given back, and this changes nothing.
            uplink.call.abort()
            pumping.cancel()
            pumping.addErrback(lambda _: None)

    async def _put(self, offset: int, length: int, flush: bool, *, fresh: bool = False) -> Call:
        connection, where = await self._connection(fresh=fresh)
        fields = [
            (b"host", where.authority),
            (b"content-length", b"%d" % length),
            (b"content-type", b"application/octet-stream"),
        ]
        if offset:
            last = b"%d" % (offset + length - 1) if length else b"*"
            fields.append((b"content-range", b"bytes %d-%s/*" % (offset, last)))
        return connection.call(b"PUT", self._target("" if flush else "?flush=n"), fields, length)

    async def _answered(
        self, uplink: Uplink, pumping: Deferred[None], again: Callable[[], Awaitable[Call]]
    ) -> ResponseHead:
        """Send the body and wait for the answer, on a second connection if the first was stale."""
        try:
            return await self._answer(uplink.call, pumping)
        except StaleConnection:
            if not uplink.in_hand:
                raise
            uplink.replace(await again())
            return await self._answer(uplink.call, pumping)

    async def _answer(self, call: Call, pumping: Deferred[None]) -> ResponseHead:
        """Wait until the body is through and answered, or the host has refused it or broken off."""
        while not pumping.called:
            await _first_of(call.head, pumping)
            if call.head.called:
                if call.answer is None or call.answer.status >= 300:
                    break
                await pumping
        if pumping.called:
            await pumping
        return await self._upstreams.head(call, self._upstreams.timeout)

    async def write_segment(self, offset: int, data: bytes, *, flush: bool) -> None:
        last = b"%d" % (offset + len(data) - 1) if data else b"*"
        fields = [(b"content-range", b"bytes %d-%s/*" % (offset, last))]
        if not data:
            fields.append((b"content-length", b"0"))
        await self._done(await self._ask(b"PUT", "" if flush else "?flush=n", fields, data), 200, 204)

    async def _patch(self, patch: dict[str, object]) -> None:
        body = json.dumps(patch).encode("ascii")
        fields = [(b"content-type", b"application/json")]
        # Zeroing terabytes, or flushing them, takes as long as it takes.
        await self._done(await self._ask(b"PATCH", fields=fields, body=body, timeout=None), 200, 204)

    async def zero(self, offset: int, size: int, *, flush: bool) -> None:
        await self._patch({"op": "zero", "offset": offset, "size": size, "flush": flush})

    async def flush(self) -> None:
        await self._patch({"op": "flush"})

    async def extents(self, context: str) -> Document:
        return await self._document(f"/extents?context={_checked(context)}")

    async def checksum(self, algorithm: str, block_size: int) -> Document:
        return await self._document(f"/checksum?algorithm={_checked(algorithm)}&block_size={block_size}")

    async def _document(self, suffix: str) -> Document:
        call = await self._ask(b"GET", suffix, timeout=None)
        if _head(call).status != 200:
            raise await self._refused(call)
        return Document(_Body(call), _head(call).length)


class _Body:
    """The body of an answer as a source, which gives its connection back when it is over."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.pauseProducing = call.pauseProducing
        self.resumeProducing = call.resumeProducing
        self.stopProducing = call.abort

    def tap(self) -> Tap | None:
        return self._call.tap()

    def deliver(self, sink: Callable[[bytes], None]) -> Deferred[None]:
        def over(_: None) -> None:
            self._call.release()

        return self._call.deliver(sink).addCallback(over)


def _first_of(*several: Deferred[Any]) -> Deferred[None]:
    """Fire as soon as one of *several* has a result, which stays where it is; a failure is handed on."""
    first: Deferred[None] = Deferred()

    def note(result: object) -> object:
        if first.called:
            return result
        if isinstance(result, Failure):
            # Whoever waits must not ask the Deferred that is just calling back.
            first.errback(result)
            return None
        first.callback(None)
        return result

    for each in several:
        each.addBoth(note)
    return first


def _head(call: Call) -> ResponseHead:
    if call.answer is None:
        raise CancelledError
    return call.answer


def _count(value: object) -> int:
    """A number of connections; one when the host said nothing, or nonsense."""
    return min(value, 1024) if isinstance(value, int) and value > 0 and value is not True else 1


def _checked(value: str) -> str:
    if not _QUERY_VALUE.fullmatch(value):
        raise errors.BadRequest("A query parameter holds characters that make no sense")
    return value
