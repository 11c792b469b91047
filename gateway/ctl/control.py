"""HTTP with the control listener of a gateway, over its unix socket or a loopback port."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote

import treq.client
from attrs import define
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as Late
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionClosed, DNSLookupError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.python.usage import UsageError
from twisted.web.client import URI, Agent, RequestTransmissionFailed, ResponseFailed
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

#: Seconds: more than the gateway waits for what a revoked ticket still has open.
PATIENCE = 90.0
_HTTP = re.compile(r"http://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?/?")
_BROKEN = (ResponseFailed, RequestTransmissionFailed, ConnectionClosed)

Document = dict[str, Any]


class Unreachable(Exception):
    """No gateway answers; the text says where, and what to do."""


class Refused(Exception):
    """The gateway said no.

    :ivar status: of HTTP.
    :ivar problems: everything that is wrong, when the gateway lists it.
    """

    def __init__(self, status: int, text: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.status = status
        self.problems = problems


@implementer(IAgentEndpointFactory)
@define
class _Socket:
    """Leads every request to one unix socket."""

    reactor: Any
    path: str

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        return UNIXClientEndpoint(self.reactor, self.path, timeout=10)


@define
class Control:
    """A gateway as its operator sees it.

    :ivar place: what was asked for, for messages.
    :ivar patience: seconds to wait for an answer.
    """

    place: str
    _reactor: Any
    _base: str
    _http: Any
    patience: float = PATIENCE

    @classmethod
    def at(cls, reactor: Any, place: str) -> Control:
        """Of the socket at path *place*, or of the port that is ``http://HOST:PORT``.

        :raises UsageError: when it is neither.
        """
        if _HTTP.fullmatch(place):
            agent = Agent(reactor, connectTimeout=10)
            return cls(place, reactor, place.rstrip("/"), treq.client.HTTPClient(agent))
        if "://" in place:
            raise UsageError("--control is the path of a socket, or http://127.0.0.1:PORT")
        path = place.removeprefix("unix:")
        agent = Agent.usingEndpointFactory(reactor, _Socket(reactor, path))
        return cls(path, reactor, "http://localhost", treq.client.HTTPClient(agent))

    async def get(self, path: str, query: Mapping[str, object] | None = None) -> Document:
        """The JSON object at *path*; parts of *query* that are None or empty are left out.

        :raises Refused, Unreachable:
        """
        return await self.ask("GET", path, query=query)

    async def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, object] | None = None,
    ) -> Document:
        """Send one request; the answer's JSON object, empty for an empty answer.

        :raises Refused, Unreachable:
        """
        exchange = Deferred.fromCoroutine(self._exchange(method, path, body, query or {}))
        exchange.addTimeout(self.patience, self._reactor)
        try:
            status, kind, data = await exchange
        except (ConnectError, DNSLookupError) as error:
            raise Unreachable(self._why(error)) from None
        except _BROKEN:
            raise Unreachable(f"the gateway at {self.place} hung up; its log says why") from None
        except Late:
            raise Unreachable(
                f"the gateway at {self.place} does not answer; look whether it is stopped or overloaded"
            ) from None
        if status >= 300:
            raise _refusal(status, kind, data)
        try:
            document = json.loads(data) if data.strip() else {}
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise Unreachable(f"what answers at {self.place} is no gateway; see --control")
        return document

    async def pages(self, path: str, key: str, query: Mapping[str, object]) -> AsyncIterator[Document]:
        """Each object of the list *key* at *path*, over all pages.

        :raises Refused, Unreachable:
        """
        after: object = None
        while True:
            page = await self.get(path, {**query, "after": after})
            for item in page.get(key, []):
                yield item
            after, before = page.get("next"), after
            if not after or after == before:
                return

    async def _exchange(
        self, method: str, path: str, body: Mapping[str, Any] | None, query: Mapping[str, object]
    ) -> tuple[int, str, bytes]:
        more: dict[str, Any] = {} if body is None else {"json": body}
        pairs = {name: str(value) for name, value in query.items() if value not in (None, "")}
        try:
            response = await self._http.request(
                method, self._base + path, params=pairs, allow_redirects=False, **more
            )
            data = await response.content()
        except ConnectingCancelledError:
            raise CancelledError from None
        except (ResponseFailed, RequestTransmissionFailed) as error:
            if any(why.check(CancelledError) for why in error.reasons):  # we, not the gateway
                raise CancelledError from None
            raise
        kinds = response.headers.getRawHeaders("content-type", [""])
        return response.code, kinds[0].partition(";")[0].strip().lower(), data

    def _why(self, error: Exception) -> str:
        number = getattr(error, "osError", None)
        if number in (1, 13):
            return f"you may not use {self.place}: become a member of the group of the socket, or root"
        return (
            f"no gateway answers at {self.place}: start it with 'twistd gateway', or say where it is"
            " with --control or $GATEWAY_CONTROL"
        )


def segment(text: str) -> str:
    """*text* as one segment of a path."""
    return quote(text, safe="~")


def _refusal(status: int, kind: str, data: bytes) -> Refused:
    text = ""
    listed: tuple[str, ...] = ()
    if kind == "text/plain":
        text = data.decode("utf-8", "replace").strip().partition("\n")[0]
    elif kind.endswith("json"):
        try:
            document = json.loads(data)
        except ValueError:
            document = None
        if isinstance(document, dict):
            text = str(document.get("detail") or document.get("title") or "")
            listed = tuple(map(str, document.get("problems") or ()))
    return Refused(status, text or f"the gateway answered with status {status}", listed)
