"""What is seen of the traffic: each event once in the metrics, the log or the audit trail."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from attrs import frozen
from twisted.logger import Logger

from gateway import errors
from gateway.core.audit import Audit
from gateway.core.exchange import Exchange
from gateway.core.masking import clean_authority, clean_target
from gateway.core.metrics import METHODS, Metrics
from gateway.core.tickets import Ticket

_access_log = Logger(namespace="gateway.access")
#: Requests of these listeners are polls, and not worth a line each.
_QUIET = frozenset({"control", "metrics"})
#: Where tokens for these kinds of tickets are shown; the others are called like their listener.
_LISTENERS = {"image": "images", "console": "consoles"}


@frozen
class Observation:
    """Turns what the parts report into counters and lines; *section* is always a listener's."""

    metrics: Metrics
    audit: Audit

    def handshake(self, section: str, result: str, seconds: float) -> None:
        """A TLS handshake is over."""
        self.metrics.handshakes.labels(section, result).inc()
        self.metrics.handshake_seconds.labels(section).observe(seconds)

    def request(self, section: str, exchange: Exchange, seconds: float) -> None:
        """A request was answered, or its client left (status 499, as nginx has it)."""
        method = exchange.head.method.decode("ascii")
        status = exchange.status or 499
        self.metrics.request(section, method, status, seconds)
        write = _access_log.debug if section in _QUIET else _access_log.info
        write(
            "{peer} {method} {target} {status} {received} in, {sent} out, {seconds:.3f} s",
            peer=exchange.peer,
            # What nobody knows may be anything, a body that was taken for a request for one.
            method=method if method in METHODS else "other",
            target=(clean_authority if method == "CONNECT" else clean_target)(exchange.head.target),
            status=status,
            received=exchange.body.received,
            sent=exchange.sent,
            seconds=seconds,
        )

    def refusal(self, section: str, peer: str, error: errors.GatewayError) -> None:
        """A request was refused."""
        if error.reason == "incident":
            self.metrics.incidents.labels(section).inc()
        elif error.status in (401, 403, 407):
            self.metrics.auth_failures.labels(section, error.reason).inc()
            # The registry writes down what it refuses itself.
            if error.status == 401 or _is_of_token(error):
                self.audit("token.refused", peer=peer, reason=error.reason, listener=section)
        elif error.status in (429, 503):
            self.metrics.limit_hits.labels(error.reason).inc()
            self.audit("limit", peer=peer, reason=error.reason, listener=section)
        elif error.status in (502, 504):
            self.audit("upstream.refused", peer=peer, reason=error.reason, listener=section)

    def trail(self, event: str, /, **fields: Any) -> None:
        """A record of the registry or of the session table."""
        self.audit(event, **fields)
        if event == "session.close":
            kind = fields["kind"]
            self.metrics.sessions_total.labels(kind, fields["reason"]).inc()
            self.metrics.session_seconds.labels(kind).observe(fields["duration_ms"] / 1000)
            self.metrics.session_bytes.labels(kind, "in").inc(fields["bytes_in"])
            self.metrics.session_bytes.labels(kind, "out").inc(fields["bytes_out"])

    def call(self, procedure: str, end: str, seconds: float) -> None:
        """A call to a hypervisor is over; *end* is ``ok``, or the reason of its error."""
        self.metrics.calls.labels(procedure, "ok" if end == "ok" else "failed").inc()
        self.metrics.call_seconds.observe(seconds)

    def hypervisors(self, describe: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
        """Have the metrics read how the hypervisors are, as *describe* tells."""
        metrics = self.metrics
        metrics.target_up.read = lambda: {(it["target"],): it["state"] != "down" for it in describe()}
        metrics.target_latency.read = lambda: {(it["target"],): it["latency"] for it in describe()}
        metrics.target_calls.read = lambda: {
            (it["target"], state): it[state] for it in describe() for state in ("in_flight", "queued")
        }

    def ticket(self, word: str, ticket: Ticket) -> None:
        """Something became of a ticket."""
        self.metrics.ticket_events.labels(ticket.kind, word).inc()

    def revocation(self, kind: str, seconds: float) -> None:
        """Nothing is left of a ticket that was revoked while it was in use."""
        self.metrics.revoke_seconds.labels(kind).observe(seconds)

    def tunnel(self, name: str) -> None:
        """It is known what a tunnel carries, such as ``display 1``."""
        self.metrics.tunnels.labels(name.partition(" ")[0]).inc()

    def dial(self, kind: str, result: str, seconds: float) -> None:
        """A target was reached, or not; *result* is ``ok``, or the reason of the error."""
        # What users name is no label.
        self.metrics.upstream_connects.labels(kind, "", result).inc()
        self.metrics.upstream_connect_seconds.labels(kind, "", result).observe(seconds)

    def token(self, kind: str, result: str, reason: str) -> None:
        """A token for a ticket of this *kind* was judged."""
        self.metrics.tokens.labels(_LISTENERS.get(kind, kind), result, reason).inc()


def _is_of_token(error: BaseException) -> bool:
    """Whether a signed token was no good, which the registry has not seen."""
    cause = error.__cause__
    while cause is not None and not isinstance(cause, errors.Unauthorized):
        cause = cause.__cause__
    return cause is not None
