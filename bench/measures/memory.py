"""``memory``: how a relay grows while one side is slower than the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from bench.cases import Case, Metric
from bench.light import Order
from bench.peers.base import Relay
from bench.stage import Job, Options, Stage, account, take_turns, way_of
from bench.targets import TARGETS
from tests.functional.peers import MIB

#: Bytes a second of the slow side; the other goes as fast as it may.
RATE = 256 * MIB
_WARM = 64 * MIB
_METRICS = (Metric("growth_mib", "growth MiB", 1, ratio=False), Metric("peak_rss_mib", "peak RSS MiB", 0))
_WORDS = {"get": "download by a slow client", "put": "upload to a slow host"}


def measure(stage: Stage, options: Options) -> list[Case]:
    """One long transfer each way, after a short one."""
    size = options.size or 4096 * MIB
    return take_turns(stage.relays, _jobs(stage, size), options, once=True)


def _jobs(stage: Stage, size: int) -> Iterator[tuple[Case, Job]]:
    for mode, word in _WORDS.items():
        name = f"memory/{mode}"
        title = f"TLS to TLS, {word} ({RATE // MIB} MiB/s), {size // MIB} MiB"
        yield Case(name, title, _METRICS, TARGETS[name]), partial(_slow, stage, mode, size)


def _slow(stage: Stage, mode: str, size: int, relay: Relay) -> Mapping[str, float]:
    way = way_of(relay, "tls")
    stage.client.run(Order(mode, way, _WARM))
    rate = RATE if mode == "get" else 0.0
    with account(relay.pid) as used:
        stage.client.run(Order(mode, way, size, rate=rate))
    return {"growth_mib": used.growth / MIB, **used.memory()}
