"""Metrics, health and readiness, and the pages that show them.

:class:`Metrics` holds one registry. Label values come from short fixed lists: never a ticket, never a path,
never a name that a peer chose; what is not known becomes ``other``.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import TypeVar

from OpenSSL import SSL
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from twisted.application.service import Service
from twisted.copyright import version as twisted_version
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.web.resource import Resource
from twisted.web.server import Request

from gateway import __version__
from gateway.core.web import Tree

#: Upper ends of latency buckets, seconds.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
#: Upper ends of the buckets for the life of a session, seconds.
LIVES = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0)
#: The methods that are told apart; a peer may invent any number of others.
METHODS = frozenset({"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "CONNECT"})

#: A check of readiness: whether all is well, and a few words.
Check = Callable[[], tuple[bool, str]]


#: The registry thinks that the gauge ``x`` and the counter ``x_total`` clash. They do in OpenMetrics; in the
#: text format that we write, they do not. What describes itself as nothing is not compared.
_UNNAMED: tuple[Metric, ...] = ()


class _Beside(Collector):
    """The gauge ``x`` that has a counter ``x_total`` beside it."""

    def __init__(self, gauge: Gauge) -> None:
        self.gauge = gauge

    def describe(self) -> Iterable[Metric]:
        return _UNNAMED

    def collect(self) -> Iterable[Metric]:
        return self.gauge.collect()


class _Read(Collector):
    """A gauge whose values are asked for when somebody looks."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...]) -> None:
        self.name, self.text, self.labels = name, text, labels
        self.read: Callable[[], Mapping[tuple[str, ...], float]] = dict

    def describe(self) -> Iterable[Metric]:
        return _UNNAMED

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(self.name, self.text, labels=self.labels)
        for values, number in self.read().items():
            family.add_metric(values, number)
        return [family]


_Labelled = TypeVar("_Labelled", Counter, Gauge, Histogram)


def _quick(metric: _Labelled) -> _Labelled:
    """*metric*, whose ``labels`` remember what they found; a connection asks a dozen times."""
    # To look labels up costs more than to count.
    metric.labels = lru_cache(maxsize=1024)(metric.labels)  # type: ignore[method-assign]  # the same, remembered
    return metric


class Metrics:
    """Everything that is counted, in one registry.

    :ivar tickets: its ``read`` is asked for the number of tickets by kind and state.
    :ivar sessions: its ``read`` is asked for the number of live sessions by kind.
    :ivar timers: its ``read`` is asked for the number of timers that are set.
    """

    def __init__(self, started: float) -> None:
        """:param started: seconds since the epoch."""
        disable_created_metrics()
        self.registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return _quick(Counter(f"gateway_{name}", text, labels, registry=registry))

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return _quick(Gauge(f"gateway_{name}", text, labels, registry=registry))

        def histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...] = BUCKETS) -> Histogram:
            return _quick(Histogram(f"gateway_{name}", text, labels, registry=registry, buckets=buckets))

        def read(name: str, text: str, *labels: str) -> _Read:
            registry.register(collector := _Read(f"gateway_{name}", text, labels))
            return collector

        openssl = SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode("ascii", "replace")
        gauge("build_info", "What runs", "version", "python", "twisted", "openssl").labels(
            __version__, platform.python_version(), twisted_version, openssl
        ).set(1)
        gauge("start_time_seconds", "When it started").set(started)
        self.connections = _quick(
            Gauge("gateway_connections", "Open connections", ["listener"], registry=None)
        )
        registry.register(_Beside(self.connections))
        self.connections_total = counter("connections_total", "Connections", "listener", "result")
        self.handshakes = counter("tls_handshakes_total", "TLS handshakes", "listener", "result")
        self.handshake_seconds = histogram("tls_handshake_seconds", "Their duration", "listener")
        self.requests = counter("requests_total", "Requests", "listener", "method", "code")
        self.request_seconds = histogram("request_seconds", "Their duration", "listener")
        self.tokens = counter("tokens_total", "Tokens seen", "listener", "result", "reason")
        self.tickets = read("tickets", "Tickets", "kind", "state")
        self.ticket_events = counter("ticket_events_total", "What became of tickets", "kind", "event")
        self.sessions = read("sessions", "Live sessions", "kind")
        self.tunnels = counter("tunnels_total", "Tunnels by what they carry", "channel")
        self.sessions_total = counter("sessions_total", "Ended sessions", "kind", "reason")
        self.session_seconds = histogram("session_seconds", "Life of a session", "kind", buckets=LIVES)
        self.session_bytes = counter("session_bytes_total", "Bytes relayed", "kind", "direction")
        self.calls = counter("calls_total", "Calls to hypervisors", "procedure", "result")
        self.call_seconds = histogram("call_seconds", "Time of a call to a hypervisor")
        self.target_up = read("target_up", "1 while a hypervisor is in reach, 0 while not", "target")
        self.target_latency = read("target_latency_seconds", "From a call to its answer", "target")
        self.target_calls = read("target_calls", "Calls of hypervisors", "target", "state")
        self.revoke_seconds = histogram(
            "revoke_seconds", "From the order until the last session is over", "kind"
        )
        self.upstream_connects = counter(
            "upstream_connects_total", "Connections to upstreams", "kind", "target", "result"
        )
        self.upstream_connect_seconds = histogram(
            "upstream_connect_seconds", "Time to connect to upstreams", "kind", "target", "result"
        )
        self.limit_hits = counter("limit_hits_total", "Refusals by a limit", "limit")
        self.auth_failures = counter("auth_failures_total", "Bad credentials", "listener", "reason")
        self.overload_state = gauge("overload_state", "0 normal, 1 busy, 2 shedding, 3 exhausted")
        self.shed = counter("shed_total", "Refusals for overload", "listener")
        self.loop_lag = histogram("loop_lag_seconds", "How late a timer fires")
        self.timers = read("timers", "Timers that are set")
        self.certificate_end = gauge(
            "tls_certificate_not_after_seconds", "When the certificate ends", "listener"
        )
        self.crl_end = gauge(
            "tls_client_crl_next_update_seconds", "When the revocation list is no good any more", "listener"
        )
        self.reloads = counter("config_reloads_total", "Reloads of the configuration", "result")
        self.last_reload = gauge("config_last_reload_success", "Whether the last one was good")
        self.log_dropped = counter("log_dropped_total", "Lines that could not be written", "stream")
        self.incidents = counter("incidents_total", "Exceptions in our own code", "component")
        self.last_reload.set(1)
        ProcessCollector(registry=registry)

    def request(self, listener: str, method: str, code: int, seconds: float) -> None:
        """Count a request that was answered with *code*; the peer chose *method*."""
        known = method if method in METHODS else "other"
        self.requests.labels(listener, known, str(code) if 100 <= code < 600 else "other").inc()
        self.request_seconds.labels(listener).observe(seconds)

    def reloaded(self, good: bool) -> None:
        """Count a reload of the configuration."""
        self.reloads.labels("success" if good else "failure").inc()
        self.last_reload.set(1 if good else 0)

    def page(self) -> bytes:
        """All of it in the Prometheus text format, version 0.0.4."""
        return generate_latest(self.registry)


class MetricsPage(Resource):
    """``/metrics``."""

    isLeaf = True

    def __init__(self, metrics: Metrics) -> None:
        super().__init__()
        self.metrics = metrics

    def render_GET(self, request: Request) -> bytes:
        request.setHeader("content-type", CONTENT_TYPE_PLAIN_0_0_4)
        return self.metrics.page()


class HealthPage(Resource):
    """``/healthz``: the reactor turns."""

    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        request.setHeader("content-type", "text/plain; charset=utf-8")
        return b"ok"


class ReadyPage(Resource):
    """``/readyz``: 200 when every check is well, else 503; what is wrong with ``degraded`` leaves it at 200.

    :ivar checks: by name; asked for at each request, so they must be quick.
    :ivar degraded: the same, for what limits us and does not stop us.
    """

    isLeaf = True

    def __init__(self, checks: Mapping[str, Check], degraded: Mapping[str, Check] | None = None) -> None:
        super().__init__()
        self.checks = checks
        self.degraded: Mapping[str, Check] = degraded if degraded is not None else {}

    def render_GET(self, request: Request) -> bytes:
        checks = {name: check() for name, check in self.checks.items()}
        degraded = {name: check() for name, check in self.degraded.items()}
        ready = all(good for good, _ in checks.values())
        body = {
            "ready": ready,
            "checks": {
                name: {"ok": good, "text": text} for name, (good, text) in {**checks, **degraded}.items()
            },
            "degraded": [name for name, (good, _) in degraded.items() if not good],
        }
        request.setResponseCode(200 if ready else 503)
        request.setHeader("content-type", "application/json")
        request.setHeader("cache-control", "no-store")
        return json.dumps(body).encode()


def metrics_tree(
    metrics: Metrics, checks: Mapping[str, Check], degraded: Mapping[str, Check] | None = None
) -> Resource:
    """Return the root resource of the metrics listener; see :class:`ReadyPage`."""
    root = Tree()
    root.putChild(b"metrics", MetricsPage(metrics))
    root.putChild(b"healthz", HealthPage())
    root.putChild(b"readyz", ReadyPage(checks, degraded))
    return root


class LoopLag(Service):
    """Measures how late a timer of 100 ms fires.

    :ivar lag: the last measure, seconds.
    :ivar observe: told each measure, such as ``metrics.loop_lag.observe``.
    """

    interval = 0.1

    def __init__(self, clock: IReactorTime, observe: Callable[[float], object] = lambda lag: None) -> None:
        self.clock = clock
        self.observe = observe
        self.lag = 0.0
        self._due = 0.0
        self._timer: IDelayedCall | None = None

    def startService(self) -> None:
        super().startService()
        self._arm()

    def stopService(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        super().stopService()

    def _arm(self) -> None:
        self._due = self.clock.seconds() + self.interval
        self._timer = self.clock.callLater(self.interval, self._fired)

    def _fired(self) -> None:
        self.lag = max(0.0, self.clock.seconds() - self._due)
        self.observe(self.lag)
        self._arm()
