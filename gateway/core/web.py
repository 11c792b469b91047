"""The one way in for HTTP: a site of streaming applications and of ordinary pages.

A *route* looks at the path and names a coroutine function that answers the exchange at header
time. What no route wants goes to ordinary ``twisted.web`` resources below :attr:`GatewaySite.root`:
they see a whole body, which must be small. :class:`Leaf` is the resource with coroutine methods.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ClassVar

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IAddress, IPushProducer, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.error import UnsupportedMethod
from twisted.web.http_headers import Headers
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from gateway import errors
from gateway.core.channel import HttpChannel
from gateway.core.exchange import Exchange, Field
from gateway.core.pace import HttpLimits

Application = Callable[[Exchange], Coroutine[Any, Any, None]]
Route = Callable[[Exchange], Application | None]
Observe = Callable[[Exchange, float], None]

#: What every ordinary page carries. Source: OWASP secure headers; W3C CSP level 3.
PAGE_FIELDS: list[Field] = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'"),
]
_METHODS = {b"GET", b"HEAD", b"PUT", b"POST", b"PATCH", b"DELETE", b"OPTIONS"}


class GatewaySite(Site):
    """What is served on one listener.

    :ivar name: for logs.
    :ivar routes: asked in turn for the application of a request.
    :ivar root: of the ordinary pages.
    :ivar observe: called with each finished exchange and its seconds.
    :ivar refused: called with the address and the error of each refusal.
    :ivar admit: called with each exchange before anything else is done for it; what it raises is the answer.
    :ivar proven: called with a connection when the first of its requests was authorised.
    :ivar draining: answers close their connections.
    :ivar proxy: clients may take this for their proxy, and name whole URLs.
    """

    noisy = False

    def __init__(
        self,
        clock: IReactorTime,
        *,
        name: str = "http",
        root: Resource | None = None,
        limits: HttpLimits | None = None,
        observe: Observe = lambda exchange, seconds: None,
        refused: Callable[[str, errors.GatewayError], None] = lambda peer, error: None,
        hosts: Callable[[bytes], bool] = lambda host: True,
        admit: Callable[[Exchange], object] = lambda exchange: None,
        proven: Callable[[HttpChannel], object] = lambda channel: None,
    ) -> None:
        super().__init__(root if root is not None else Tree(), reactor=clock)
        self.name = name
        self.clock = clock
        self.limits = limits or HttpLimits()
        self.observe = observe
        self.refused = refused
        self.admit = admit
        self.proven = proven
        self.routes: list[Route] = []
        self.draining = False
        self.proxy = False
        self.root = self.resource
        self._hosts = hosts
        self._log = Logger()
        self._channels: set[HttpChannel] = set()

    def logPrefix(self) -> str:
        """What Twisted calls this when it begins and ends to listen."""
        return self.name

    def startFactory(self) -> None:
        """Keep out of Twisted's own access log and its timer: a path may hold a ticket."""

    def stopFactory(self) -> None:
        """See :meth:`startFactory`."""

    def buildProtocol(self, addr: IAddress) -> HttpChannel:  # type: ignore[override]  # Twisted's own channel
        peer = addr.host if isinstance(addr, IPv4Address | IPv6Address) else "local"
        channel = HttpChannel(self, peer)
        channel.factory = self
        return channel

    def connected(self, channel: HttpChannel) -> None:
        """Take note of a new connection."""
        self._channels.add(channel)

    def disconnected(self, channel: HttpChannel) -> None:
        """Forget a connection."""
        self._channels.discard(channel)

    def drain(self) -> None:
        """Finish what is in work and close every connection after it."""
        self.draining = True
        for channel in list(self._channels):
            channel.drain()

    def close(self) -> None:
        """Cut every connection."""
        for channel in list(self._channels):
            channel.abort()

    def incident(self, failure: Failure) -> errors.GatewayError:
        """Log a bug under a number, and return what may be said about it."""
        number = secrets.token_hex(4)
        self._log.failure("request failed, incident {incident}", failure=failure, incident=number)
        return errors.GatewayError(
            f"Server failed to perform the request, check logs for incident {number}", reason="incident"
        )

    def application(self, exchange: Exchange) -> Coroutine[Any, Any, None]:
        """Return what answers *exchange*.

        :raises gateway.errors.GatewayError: nothing does.
        """
        # A route first: its note, such as that of CORS, belongs on the refusals below as well.
        application = next(filter(None, (route(exchange) for route in self.routes)), None)
        self.admit(exchange)
        head = exchange.head
        if self.draining:
            raise errors.Unavailable(reason="draining")
        if any(name == b"content-encoding" and value.lower() != b"identity" for name, value in head.fields):
            raise errors.UnsupportedMediaType
        if not self._hosts(head.get(b"host") or b""):
            raise errors.Misdirected
        if application is not None:
            return application(exchange)
        if head.method not in _METHODS:
            raise errors.MethodNotAllowed
        return _page(self, exchange)


class _PageChannel:
    """What a ``twisted.web`` request takes for its channel: one exchange."""

    factory = None

    def __init__(self, site: GatewaySite, exchange: Exchange, transport: Any, done: Deferred[None]) -> None:
        self.site = site
        self.transport = transport
        self._exchange = exchange
        self._done = done

    def isSecure(self) -> bool:
        return self._exchange.secure

    def getPeer(self) -> IAddress:
        return self.transport.getPeer()  # type: ignore[no-any-return]  # untyped

    def getHost(self) -> IAddress:
        return self.transport.getHost()  # type: ignore[no-any-return]  # untyped

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        fields = [
            (name.lower(), value)
            for name, values in headers.getAllRawHeaders()
            for value in values
            if name.lower() not in (b"server", b"date", b"content-length", b"connection")
        ]
        known = {name for name, _ in fields}
        fields += [item for item in PAGE_FIELDS if item[0] not in known]
        length = headers.getRawHeaders(b"content-length")
        bodiless = self._exchange.head.method == b"HEAD" or int(code) in (204, 304)
        if length is None and b"transfer-encoding" not in known and not bodiless:
            self._exchange.keep_alive = False
        self._exchange.start(int(code), fields, int(length[-1]) if length else None)
        self._exchange.flush()

    def write(self, data: bytes) -> None:
        self._exchange.write(data)

    def writeSequence(self, pieces: list[bytes]) -> None:
        self._exchange.write(b"".join(pieces))

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        self._exchange.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        self._exchange.unregisterProducer()

    def loseConnection(self) -> None:
        self._exchange.abort()

    def requestDone(self, request: Request) -> None:
        self._exchange.finish()
        if not self._done.called:
            self._done.callback(None)


class _PageRequest(Request):
    """A request whose failures look like everybody's, where Twisted has pages of its own."""

    def render(self, resrc: Any) -> None:
        try:
            body = resrc.render(self)
        except UnsupportedMethod as error:
            known: list[bytes] = sorted(error.allowedMethods)
            body = _write_problem(self, errors.MethodNotAllowed([it.decode("ascii") for it in known]))
        if body is NOT_DONE_YET:
            return
        if not isinstance(body, bytes):
            raise TypeError("a page is bytes")
        if self.method != b"HEAD" or body:
            self.setHeader(b"content-length", b"%d" % len(body))
        self.write(b"" if self.method == b"HEAD" else body)
        self.finish()

    def processingFailed(self, reason: Failure) -> Failure:
        site: Any = self.site
        error = site.incident(reason)
        if self.startedWriting:
            self.channel.loseConnection()
        else:
            self.responseHeaders = Headers()
            self.render(Refusal(error))
        return reason


async def _page(site: GatewaySite, exchange: Exchange) -> None:
    """Let an ordinary resource answer."""
    head = exchange.head
    body = await exchange.body.read(site.limits.max_body_control)
    done: Deferred[None] = Deferred()
    channel = _PageChannel(site, exchange, exchange.transport, done)
    # A form that is broken would make Twisted hang up; nobody here wants forms.
    request = _PageRequest(channel, queued=False, parsePOSTFormSubmission=False)
    for name, value in head.fields:
        request.requestHeaders.addRawHeader(name, value)
    request.gotLength(len(body))
    request.parseCookies()
    request.handleContentChunk(body)
    request.requestReceived(head.method, head.target, b"HTTP/" + head.version)
    try:
        await done
    except CancelledError:
        request.connectionLost(Failure(CancelledError()))
        raise


class Tree(Resource):
    """A node that has only children."""

    def getChild(self, path: bytes, request: IRequest) -> Resource:
        return Refusal(errors.NotFound())

    def render(self, request: IRequest) -> bytes:
        return Refusal(errors.NotFound()).render(request)


class Refusal(Resource):
    """Answers everything with one error, as problem details (RFC 9457)."""

    isLeaf = True

    def __init__(self, error: errors.GatewayError) -> None:
        super().__init__()
        self._error = error

    def render(self, request: IRequest) -> bytes:
        return _write_problem(request, self._error)


def _write_problem(request: Any, error: errors.GatewayError) -> bytes:
    request.setResponseCode(error.status)
    for name, value in error.headers:
        request.setHeader(name, value)
    request.setHeader(b"content-type", b"application/problem+json")
    problem = {"type": f"urn:gateway:{error.word}", "title": error.text, "status": error.status}
    body = json.dumps(problem).encode("ascii") + b"\n"
    request.setHeader(b"content-length", b"%d" % len(body))
    return b"" if request.method == b"HEAD" else body


class Answer:
    """What a :class:`Leaf` returns: a status, a body and its type."""

    def __init__(
        self, body: object = b"", status: int = 200, content_type: bytes = b"application/json"
    ) -> None:
        self.status = status
        self.content_type = content_type
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode("ascii") + b"\n"


class Leaf(Resource):
    """A resource whose methods are coroutines ``on_get(request)``, ``on_put(request)`` and so on.

    They return an :class:`Answer`; a :class:`~gateway.errors.GatewayError` they raise is answered
    by :meth:`refuse`, anything else is a bug.
    """

    isLeaf = True
    methods: ClassVar[Mapping[bytes, str]] = {
        method: "on_" + method.decode("ascii").lower() for method in _METHODS - {b"HEAD"}
    }

    def refuse(self, request: Any, error: errors.GatewayError) -> bytes:
        """Write *error* in this resource's dialect; return the body."""
        return _write_problem(request, error)

    def render(self, request: Any) -> Any:
        method = b"GET" if request.method == b"HEAD" else request.method
        handle = getattr(self, self.methods.get(method, ""), None)
        if handle is None:
            allowed = [m.decode("ascii") for m, name in self.methods.items() if hasattr(self, name)]
            return self.refuse(request, errors.MethodNotAllowed(sorted(allowed)))
        running: Deferred[Answer] = Deferred.fromCoroutine(handle(request))
        request.notifyFinish().addErrback(lambda _: running.cancel())
        running.addCallback(self._answer, request).addErrback(self._fail, request)
        return NOT_DONE_YET

    def _answer(self, answer: Answer, request: Any) -> None:
        if request.channel is None:
            return
        request.setResponseCode(answer.status)
        if answer.body:
            request.setHeader(b"content-type", answer.content_type)
        request.setHeader(b"content-length", b"%d" % len(answer.body))
        request.setHeader(b"cache-control", b"no-store")
        if request.method != b"HEAD":
            request.write(answer.body)
        request.finish()

    def _fail(self, failure: Failure, request: Any) -> None:
        if request.channel is None:
            return
        error = failure.value
        if not isinstance(error, errors.GatewayError):
            error = request.site.incident(failure)
        if request.startedWriting:
            request.channel.loseConnection()
            return
        request.write(self.refuse(request, error))
        request.finish()


__all__ = ["Answer", "GatewaySite", "Leaf", "Refusal", "Route", "Tree"]
