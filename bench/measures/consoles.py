"""``consoles``: bytes and keystrokes through a websocket, and what a console costs while nothing happens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from attrs import evolve

from bench.cases import Case, Metric
from bench.light import Order, Way
from bench.measures import fairness, idle
from bench.measures.images import GIB
from bench.peers.base import Relay
from bench.stage import Job, Options, Stage, account, take_turns, way_of
from bench.targets import TARGETS
from tests.functional.peers import MIB

_BYTES = (
    Metric("mib_per_s", "MiB/s", 0, more=True),
    Metric("cpu_s_per_gib", "CPU s/GiB", 2),
    Metric("peak_rss_mib", "peak RSS MiB", 0),
)
_ECHO = (
    Metric("p50_ms", "p50 ms", 2),
    Metric("p99_ms", "p99 ms", 2),
    Metric("cpu_us_each", "CPU µs each", 0),
)
_BESIDE = (
    Metric("p99_ms", "p99 ms", 1),
    Metric("p50_ms", "p50 ms", 1),
    Metric("upload_gib_per_s", "uploads GiB/s", 2, more=True),
)
#: Which relay it goes through is not known yet.
_NOWHERE = Way(0, "")
#: What a browser's message may hold, and by how much less of it is sent.
_FRAMES = {"1k": (1024, 4), "16k": (16 * 1024, 1), "64k": (64 * 1024, 1)}
#: Bytes of an echo: a few keys, or a move of the mouse.
_KEYS = 64
#: Echoes a second of a session that is alone, and of one of many; how many many are.
_ALONE, _TOGETHER, _MANY = 200, 10, 100


def measure(stage: Stage, options: Options) -> list[Case]:
    """First what idle ones cost, while no memory was used and given back."""
    jobs = [*_throughput(stage, options), *_latency(stage, options), _beside(stage, options)]
    return [*idle.consoles(stage, options), *take_turns(stage.relays, jobs, options)]


def _throughput(stage: Stage, options: Options) -> Iterator[tuple[Case, Job]]:
    size = options.size or 256 * MIB
    case = Case("consoles/down", "Console to browser", _BYTES, TARGETS["consoles/down"])
    yield case, partial(_stream, stage, "flood", Order("down", _NOWHERE, size))
    for name, (frame, less) in _FRAMES.items():
        title = f"Browser to console, messages of {frame // 1024} KiB"
        part = max(size // less // MIB, 1) * MIB
        case = Case(f"consoles/up-{name}", title, _BYTES, TARGETS.get(f"consoles/up-{name}", ()))
        yield case, partial(_stream, stage, "sink", Order("up", _NOWHERE, part, frame=frame))


def _stream(stage: Stage, kind: str, order: Order, relay: Relay) -> Mapping[str, float]:
    with account(relay.pid) as used:
        result = stage.client.run(evolve(order, way=way_of(relay, kind)))
    mib = result.bytes / MIB
    return {"mib_per_s": mib / result.seconds, "cpu_s_per_gib": used.cpu / mib * 1024, **used.memory()}


def _latency(stage: Stage, options: Options) -> Iterator[tuple[Case, Job]]:
    many = options.connections or _MANY
    for name, sessions, rate in (("one", 1, _ALONE), ("many", many, _TOGETHER)):
        title = f"Echo of {_KEYS} bytes, {sessions} session{'s' * (sessions > 1)}, {rate} times a second"
        name = f"consoles/echo-{name}"
        yield Case(name, title, _ECHO, TARGETS[name]), partial(_echo, stage, options, sessions, rate)


def _echo(stage: Stage, options: Options, sessions: int, rate: int, relay: Relay) -> Mapping[str, float]:
    with account(relay.pid) as used:
        result = stage.client.run(_keys(relay, options, sessions, rate))
    each = used.cpu / result.requests * 1e6
    return {"p50_ms": result.p50 * 1e3, "p99_ms": result.p99 * 1e3, "cpu_us_each": each}


def _keys(relay: Relay, options: Options, sessions: int = 1, rate: int = _ALONE) -> Order:
    seconds = options.seconds or 2.0
    ways = [way_of(relay, "echo", number) for number in range(sessions)]
    return Order(
        "echo",
        ways[0],
        _KEYS,
        sessions,
        seconds=seconds,
        rate=rate * _KEYS,
        paths=tuple(way.path for way in ways),
    )


def _beside(stage: Stage, options: Options) -> tuple[Case, Job]:
    uploads = fairness.UPLOADS

    def job(relay: Relay) -> Mapping[str, float] | None:
        way = relay.way("tls")
        if way is None:
            return None
        order = _keys(relay, options)
        small, uploaded = fairness.beside_uploads(stage.client, way, uploads, order)
        return {
            "p99_ms": small.p99 * 1e3,
            "p50_ms": small.p50 * 1e3,
            "upload_gib_per_s": uploaded.bytes / GIB / uploaded.seconds,
        }

    name = "consoles/beside-uploads"
    title = f"Echo of {_KEYS} bytes beside {uploads} uploads of images, TLS to TLS"
    return Case(name, title, _BESIDE, TARGETS[name], "The others carry no images."), job
