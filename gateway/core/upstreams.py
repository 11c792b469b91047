"""The one way out for HTTP: upstreams, their connections, and requests that may be repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property

from attrs import field, frozen
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IReactorTime
from twisted.internet.protocol import Factory

from gateway import errors
from gateway.core.dial import Dialer
from gateway.core.http_client import Call, HttpConnection, StaleConnection, UpstreamPool
from gateway.wire.http_head import ResponseHead


@frozen(cache_hash=True)
class Upstream:
    """Where requests are sent: one origin, or one unix socket.

    :ivar socket: path of a unix socket; a leading NUL marks an abstract one. None for TCP.
    """

    scheme: str
    host: str
    port: int
    socket: str | None = None

    @cached_property
    def authority(self) -> bytes:
        """The value of ``Host``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}".encode("ascii") if self.port else host.encode("ascii")


#: Returns what verifies an upstream by that host name.
Trust = Callable[[str], IOpenSSLClientConnectionCreator]


@frozen
class Upstreams:
    """Makes requests over pooled connections.

    :ivar timeout: seconds until the first byte of an answer, unless the request says otherwise.
    """

    dialer: Dialer = field(repr=False)
    pool: UpstreamPool = field(repr=False)
    trust: Trust = field(repr=False)
    clock: IReactorTime = field(repr=False)
    timeout: float = 120.0

    async def connection(self, upstream: Upstream, *, fresh: bool = False) -> HttpConnection:
        """Return a connection that is not in use; *fresh* asks for a new one.

        :raises gateway.errors.GatewayError: it cannot be made, or the policy forbids it.
        """
        pooled = None if fresh else self.pool.take(upstream)
        if pooled is not None:
            return pooled
        factory = Factory.forProtocol(HttpConnection)
        if upstream.socket is not None:
            made = await self.dialer.connect_unix(upstream.socket, factory)
        else:
            tls = self.trust(upstream.host) if upstream.scheme == "https" else None
            made = await self.dialer.connect(upstream.scheme, upstream.host, upstream.port, factory, tls=tls)
        assert isinstance(made, HttpConnection)  # noqa: S101 (for the type checker: our factory)
        self.pool.adopt(upstream, made)
        return made

    async def head(self, call: Call, timeout: float | None) -> ResponseHead:
        """Wait for the head of an answer.

        :param timeout: seconds, None for ever.
        :raises gateway.errors.UpstreamTimeout: it did not come in time.
        """
        timer = None if timeout is None else self.clock.callLater(timeout, call.head.cancel)
        try:
            return await call.head
        except CancelledError:
            call.abort()
            if timer is not None and not timer.active():
                raise errors.UpstreamTimeout(reason="silent") from None
            raise
        finally:
            if timer is not None and timer.active():
                timer.cancel()

    async def ask(
        self,
        upstream: Upstream,
        method: bytes,
        target: bytes,
        fields: Iterable[tuple[bytes, bytes]] = (),
        body: bytes = b"",
        *,
        timeout: float | None = -1,
    ) -> Call:
        """Send a request that may be repeated, and return once the head of the answer is there.

        A pooled connection that proves stale is replaced, once.

        :param timeout: seconds, None for ever, by default :attr:`timeout`.
        """
        fields = [(b"host", upstream.authority), *fields]
        if body:
            fields.append((b"content-length", b"%d" % len(body)))
        limit = self.timeout if timeout == -1 else timeout
        try:
            return await self._ask(await self.connection(upstream), method, target, fields, body, limit)
        except StaleConnection:
            made = await self.connection(upstream, fresh=True)
            return await self._ask(made, method, target, fields, body, limit)

    async def _ask(
        self,
        connection: HttpConnection,
        method: bytes,
        target: bytes,
        fields: Iterable[tuple[bytes, bytes]],
        body: bytes,
        timeout: float | None,
    ) -> Call:
        try:
            call = connection.call(method, target, fields, len(body))
        except ValueError:
            connection.abort()
            raise
        if body:
            call.write(body)
        await self.head(call, timeout)
        return call
