"""``tunnel``: bulk and keystrokes through a CONNECT, plain and over TLS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from bench.cases import Case, Metric
from bench.light import Order
from bench.measures.images import GIB, METRICS
from bench.peers.base import Relay
from bench.stage import Job, Options, Stage, account, take_turns, way_of
from bench.targets import TARGETS
from tests.functional.peers import MIB

_ECHO = (
    Metric("p50_ms", "p50 ms", 2),
    Metric("p99_ms", "p99 ms", 2),
    Metric("cpu_us_each", "CPU µs each", 0),
)
#: By the name of the order: what stands at the end, and what people call it.
_WAYS = {"down": ("flood", "get", "to the client"), "up": ("sink", "put", "from the client")}
#: Bytes of an echo: a few keys, or a move of the mouse.
_KEYS = 64
#: How often a second each of so many tunnels echoes.
_ECHOES = {1: 200, 100: 10, 1000: 1}
_NOTE = "HAProxy knows no CONNECT: it hands on what comes to a port of each target, and splices."


def measure(stage: Stage, options: Options) -> list[Case]:
    """Bulk, then latency."""
    return take_turns(stage.relays, [*_bulk(stage, options), *_latency(stage, options)], options)


def _bulk(stage: Stage, options: Options) -> Iterator[tuple[Case, Job]]:
    size = options.size or 1024 * MIB
    for scheme, prefix, tail, count, title in (
        ("http", "", "", 1, "Plain"),
        ("http", "", "-both", 2, "Plain, two tunnels at once"),
        ("https", "tls-", "", 1, "TLS to the proxy"),
    ):
        for mode, (console, word, words) in _WAYS.items():
            name = f"tunnel/{prefix}{word}{tail}"
            case = Case(name, f"{title}, {words}", METRICS, TARGETS.get(name, ()), _NOTE)
            yield case, partial(_stream, stage, f"{scheme}:{console}", mode, size // count, count)


def _stream(
    stage: Stage, kind: str, mode: str, size: int, connections: int, relay: Relay
) -> Mapping[str, float]:
    ways = [way_of(relay, kind, number) for number in range(connections)]
    paths = tuple(way.path for way in ways)
    with account(relay.pid) as used:
        result = stage.client.run(Order(mode, ways[0], size, connections, frame=128 * 1024, paths=paths))
    gib = result.bytes / GIB
    return {"cpu_s_per_gib": used.cpu / gib, "gib_per_s": gib / result.seconds, **used.memory()}


def _latency(stage: Stage, options: Options) -> Iterator[tuple[Case, Job]]:
    for tunnels, rate in _ECHOES.items():
        name, plural = f"tunnel/echo-{tunnels}", "s" if tunnels > 1 else ""
        title = f"Echo of {_KEYS} bytes, {tunnels} tunnel{plural}, {rate} a second each"
        case = Case(name, title, _ECHO, TARGETS[name], _NOTE)
        yield case, partial(_echo, stage, options.seconds or 3.0, tunnels, rate)


def _echo(stage: Stage, seconds: float, tunnels: int, rate: int, relay: Relay) -> Mapping[str, float]:
    ways = [way_of(relay, "http:echo", number) for number in range(tunnels)]
    paths = tuple(way.path for way in ways)
    order = Order("echo", ways[0], _KEYS, tunnels, seconds=seconds, rate=rate * _KEYS, paths=paths)
    with account(relay.pid) as used:
        result = stage.client.run(order)
    each = used.cpu / result.requests * 1e6
    return {"p50_ms": result.p50 * 1e3, "p99_ms": result.p99 * 1e3, "cpu_us_each": each}
