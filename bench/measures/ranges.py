"""``ranges``: pieces of 4 KiB on a connection that is kept; what a request costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from bench.cases import Case, Metric
from bench.light import Order
from bench.peers.base import Relay
from bench.stage import Job, Options, Stage, account, take_turns

_PIECE = 4096
_METRICS = (
    Metric("cpu_us_per_request", "CPU µs/request", 0),
    Metric("requests_per_s", "requests/s", 0, more=True),
    Metric("p50_ms", "p50 ms", 2),
    Metric("p99_ms", "p99 ms", 2),
    Metric("peak_rss_mib", "peak RSS MiB", 0),
)
_BEHIND = {"tls": "TLS", "unix": "unix socket"}
_WORDS = {"ranges": "reads", "put": "writes"}


def measure(stage: Stage, options: Options) -> list[Case]:
    """One request after the other, on one connection unless more are asked for."""
    return take_turns(stage.relays, _jobs(stage, options), options)


def _jobs(stage: Stage, options: Options) -> Iterator[tuple[Case, Job]]:
    connections = options.connections or 1
    what = f"{connections} connection{'s' * (connections > 1)}"
    for kind, behind in _BEHIND.items():
        for mode, word in _WORDS.items():
            name = f"ranges/{kind}-{'get' if mode == 'ranges' else 'put'}"
            case = Case(name, f"TLS to {behind}, {word} of 4 KiB, {what}", _METRICS)
            yield case, partial(_requests, stage, options, kind, mode)


def _requests(
    stage: Stage, options: Options, kind: str, mode: str, relay: Relay
) -> Mapping[str, float] | None:
    way = relay.way(kind)
    if way is None:
        return None
    order = Order(mode, way, _PIECE, options.connections or 1, seconds=options.seconds or 2.0)
    with account(relay.pid) as used:
        result = stage.client.run(order)
    return {
        "cpu_us_per_request": used.cpu / result.requests * 1e6,
        "requests_per_s": result.requests / result.seconds,
        "p50_ms": result.p50 * 1e3,
        "p99_ms": result.p99 * 1e3,
        **used.memory(),
    }
