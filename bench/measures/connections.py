"""``connections``: a TLS connection for each small request, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from bench.cases import Case, Metric
from bench.light import Order
from bench.peers.base import Relay
from bench.stage import Job, Options, Stage, account, take_turns, way_of
from bench.targets import TARGETS

_METRICS = (
    Metric("cpu_ms_each", "CPU ms each", 2),
    Metric("connections_per_s", "connections/s", 0, more=True),
    Metric("p50_ms", "p50 ms", 2),
    Metric("p99_ms", "p99 ms", 2),
)
_TITLES = {
    "connections/new": "New TLS 1.3 connection and a read of 4 KiB, TLS behind",
    "connections/resumed": "The same, with the session of the connection before",
}


def measure(stage: Stage, options: Options) -> list[Case]:
    """Whole handshakes, then resumed ones; the client insists that they are."""
    return take_turns(stage.relays, _jobs(stage, options), options)


def _jobs(stage: Stage, options: Options) -> Iterator[tuple[Case, Job]]:
    for name, title in _TITLES.items():
        case = Case(name, title, _METRICS, TARGETS.get(name, ()))
        yield case, partial(_connections, stage, options, name.endswith("resumed"))


def _connections(stage: Stage, options: Options, resume: bool, relay: Relay) -> Mapping[str, float]:
    order = Order("connect", way_of(relay, "tls"), seconds=options.seconds or 2.0, resume=resume)
    with account(relay.pid) as used:
        result = stage.client.run(order)
    return {
        "cpu_ms_each": used.cpu / result.requests * 1e3,
        "connections_per_s": result.requests / result.seconds,
        "p50_ms": result.p50 * 1e3,
        "p99_ms": result.p99 * 1e3,
    }
