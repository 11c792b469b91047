"""Every failure that may be reported to a peer, and how it looks on each wire.

Raise by meaning, close to the cause. The text of an error may be shown to whoever asked, so it
holds no path, no secret and no traceback; ``reason`` is the one word for the logs, the audit
trail and metrics. Nobody else in the gateway knows a status, a close code or an AMP code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class GatewayError(Exception):
    """A failure with a meaning; the base of all that may be reported.

    :cvar status: HTTP status; the WebSocket close code is 4000 + status.
    :cvar word: problem type and log field; upper-cased it is the AMP code.
    :ivar reason: one word for logs and metrics, by default :attr:`word`.
    :ivar text: what the peer may read.
    """

    status = 500
    word = "internal"
    default = "The gateway failed to perform the request"

    def __init__(self, text: str = "", *, reason: str = "") -> None:
        self.text = text or self.default
        self.reason = reason or self.word
        super().__init__(self.text)

    @property
    def close_code(self) -> int:
        """The WebSocket close code (RFC 6455, section 7.4.2: 4000-4999 are private use)."""
        return 4000 + self.status

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        """HTTP header fields that belong to this failure."""
        return ()

    @property
    def details(self) -> Mapping[str, object]:
        """What a program may want to know; JSON in the description of an AMP error."""
        return {}


class BadRequest(GatewayError):
    """The request makes no sense, whoever sent it."""

    status = 400
    word = "bad_request"
    default = "Bad request"


class Unauthorized(GatewayError):
    """A credential is missing, or the one given is no good."""

    status = 401
    word = "unauthorized"
    default = "Not authorized"


class ProxyUnauthorized(Unauthorized):
    """The same towards a client that takes us for its proxy (RFC 9110, section 15.5.8)."""

    status = 407
    word = "proxy_unauthorized"

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        return [(b"proxy-authenticate", b'Basic realm="gateway", charset="UTF-8"')]


class Forbidden(GatewayError):
    """The credential is good, and the ticket or the policy says no."""

    status = 403
    word = "forbidden"
    default = "You are not allowed to access this resource"


class NoTicket(Forbidden):
    """No usable ticket has this id.

    Unknown, expired, revoked and used-up tickets look the same to the peer; only :attr:`reason`
    tells them apart.
    """

    word = "no_ticket"
    default = "You are not allowed to access this resource: No such ticket, or it has expired"


class NotFound(GatewayError):
    """There is nothing here."""

    status = 404
    word = "not_found"
    default = "Not found"


class MethodNotAllowed(GatewayError):
    """The resource exists and does not know this method.

    :ivar allowed: the methods it does know.
    """

    status = 405
    word = "method_not_allowed"
    default = "Method not allowed"

    def __init__(self, allowed: Sequence[str] = ()) -> None:
        super().__init__()
        self.allowed = tuple(allowed)

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        return [(b"allow", ",".join(self.allowed).encode("ascii"))] if self.allowed else []


class RequestTimeout(GatewayError):
    """The peer took too long to say what it wants."""

    status = 408
    word = "request_timeout"
    default = "The request took too long to arrive"


class Conflict(GatewayError):
    """The resource is in a state that forbids this."""

    status = 409
    word = "conflict"
    default = "Conflict"


class TooLarge(GatewayError):
    """The body is longer than this resource takes."""

    status = 413
    word = "too_large"
    default = "The request body is too large"

    def __init__(self, text: str = "", *, limit: int | None = None) -> None:
        super().__init__(text)
        self.limit = limit

    @property
    def details(self) -> Mapping[str, object]:
        return {} if self.limit is None else {"limit": self.limit}


class UriTooLong(GatewayError):
    """The request line is longer than allowed."""

    status = 414
    word = "uri_too_long"
    default = "The request line is too long"


class UnsupportedMediaType(GatewayError):
    """The body has a coding we do not undo."""

    status = 415
    word = "unsupported_media_type"
    default = "Content codings are not supported"


class RangeNotSatisfiable(GatewayError):
    """The range lies outside of what the ticket or the image has.

    :ivar available: size that may be asked for, bytes.
    """

    status = 416
    word = "range"
    default = "Requested range not satisfiable"

    def __init__(self, text: str = "", *, available: int | None = None) -> None:
        super().__init__(text)
        self.available = available

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        if self.available is None:
            return []
        return [(b"content-range", b"bytes */%d" % self.available)]


class ExpectationFailed(GatewayError):
    """``Expect`` holds something else than ``100-continue``."""

    status = 417
    word = "expectation"
    default = "Only 100-continue may be expected"


class Misdirected(GatewayError):
    """The request names a host that is not us."""

    status = 421
    word = "misdirected"
    default = "This host is not served here"


class UpgradeRequired(GatewayError):
    """Only a websocket is served here, of the one version there is (RFC 6455, section 4.2.2)."""

    status = 426
    word = "upgrade_required"
    default = "Only websockets are served here"

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        return [
            (b"upgrade", b"websocket"),
            (b"connection", b"upgrade"),
            (b"sec-websocket-version", b"13"),
        ]


class _RetryLater(GatewayError):
    """A refusal that says when to come back.

    :ivar retry_after: seconds.
    """

    def __init__(self, text: str = "", *, reason: str = "", retry_after: float = 5.0) -> None:
        super().__init__(text, reason=reason)
        self.retry_after = retry_after

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        return [(b"retry-after", b"%d" % max(1, round(self.retry_after)))]

    @property
    def details(self) -> Mapping[str, object]:
        return {"retry_after": self.retry_after}


class TooManyRequests(_RetryLater):
    """This peer has used up its share."""

    status = 429
    word = "too_many_requests"
    default = "Too many requests"


class HeadTooLarge(GatewayError):
    """The header section is longer, or has more fields, than allowed."""

    status = 431
    word = "head_too_large"
    default = "The request header fields are too large"


class NotImplementedHere(GatewayError):
    """The method or coding is unknown to every resource."""

    status = 501
    word = "not_implemented"
    default = "Not implemented"


class UpstreamFailed(GatewayError):
    """The host behind us refused, broke off, or spoke nonsense."""

    status = 502
    word = "upstream"
    default = "The host behind the gateway is out of reach"


class Unavailable(_RetryLater):
    """We are full, or draining."""

    status = 503
    word = "unavailable"
    default = "The gateway is busy, try again later"


class UpstreamTimeout(GatewayError):
    """The host behind us stayed silent."""

    status = 504
    word = "upstream_timeout"
    default = "The host behind the gateway did not answer in time"


class VersionNotSupported(GatewayError):
    """The peer speaks another HTTP."""

    status = 505
    word = "version"
    default = "HTTP version not supported"


class Denied(Forbidden):
    """The ticket's rights do not hold this permission.

    :ivar permission: such as ``domain:start``.
    :ivar named: what it was wanted for, as the caller called it.
    """

    word = "denied"

    def __init__(self, permission: str, named: str = "") -> None:
        super().__init__(f"This ticket does not permit {permission}")
        self.permission = permission
        self.named = named

    @property
    def details(self) -> Mapping[str, object]:
        return {"perm": self.permission, "object": self.named}


class Unauthenticated(Unauthorized):
    """A call before the login, or a login that failed."""

    word = "unauthenticated"
    default = "Log in first, with a token or a ticket that is good"


class Expired(Unauthorized):
    """What was opened with a ticket ended with it."""

    word = "expired"
    default = "The ticket has ended"


class NoHandle(NotFound):
    """No such handle or domain cookie, or it is somebody else's."""

    word = "no_handle"
    default = "There is no such handle; open the target again"


class NoTarget(NotFound):
    """No such target, or one that the ticket does not name."""

    word = "no_target"
    default = "There is no such target"


class TargetDown(_RetryLater):
    """The hypervisor is out of reach; whoever was not told otherwise may try again."""

    status = 502
    word = "target_down"
    default = "The hypervisor is out of reach"


class _MaybeDone(GatewayError):
    """A call without an answer.

    :ivar maybe_executed: the hypervisor may have done it.
    """

    def __init__(self, text: str = "", *, maybe_executed: bool) -> None:
        super().__init__(text)
        self.maybe_executed = maybe_executed

    @property
    def details(self) -> Mapping[str, object]:
        return {"maybe_executed": self.maybe_executed}


class Interrupted(_MaybeDone):
    """The connection to the hypervisor was lost during the call."""

    status = 502
    word = "interrupted"
    default = "The connection to the hypervisor was lost"


class DeadlinePassed(_MaybeDone):
    """The hypervisor took longer than the caller wanted to wait."""

    status = 504
    word = "deadline"
    default = "The hypervisor did not answer in time"


class Busy(Unavailable):
    """Too many calls wait already."""

    word = "busy"
    default = "Too many calls wait already"


class BadArguments(BadRequest):
    """Arguments of a call are not what its schema says.

    :ivar path: which one, such as ``params.3.value``.
    """

    word = "bad_args"

    def __init__(self, path: str, text: str) -> None:
        super().__init__(f"{path}: {text}" if path else text)
        self.path = path

    @property
    def details(self) -> Mapping[str, object]:
        return {"path": self.path}


class ConfigError(Exception):
    """The configuration cannot be used.

    :ivar problems: one sentence each: file, section, key, and what would be right.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))
