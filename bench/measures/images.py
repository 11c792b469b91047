"""``images``: whole transfers through a relay, TLS to the client and TLS or a unix socket to the host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from bench.cases import Case, Metric
from bench.light import Order
from bench.peers.base import Relay
from bench.stage import Job, Options, Stage, account, take_turns
from bench.targets import TARGETS

GIB = 1 << 30
METRICS = (
    Metric("cpu_s_per_gib", "CPU s/GiB", 2),
    Metric("gib_per_s", "GiB/s", 2, more=True),
    Metric("peak_rss_mib", "peak RSS MiB", 0),
)
_WORDS = {"get": "download", "put": "upload"}
_BEHIND = {"tls": "TLS", "unix": "unix socket"}


def measure(stage: Stage, options: Options, connections: int = 1) -> list[Case]:
    """All four ways of a byte."""
    return take_turns(stage.relays, _jobs(stage, options, options.connections or connections), options)


def parallel(stage: Stage, options: Options) -> list[Case]:
    """The same with four connections, each of which carries a part of the image."""
    return measure(stage, options, connections=4)


def _jobs(stage: Stage, options: Options, connections: int) -> Iterator[tuple[Case, Job]]:
    size = (options.size or 512 << 20) // connections
    what = "one connection" if connections == 1 else f"{connections} connections at once"
    prefix = "images" if connections == 1 else "parallel"
    for kind, behind in _BEHIND.items():
        for mode, word in _WORDS.items():
            name = f"{prefix}/{kind}-{mode}"
            title = f"TLS to {behind}, {word}, {what}"
            note = ""
            if kind == "unix":
                note = "Squid cannot speak HTTP to a unix socket; ovirt-imageio switches to it by OPTIONS."
            case = Case(name, title, METRICS, TARGETS.get(f"images/{kind}-{mode}", ()), note)
            yield case, partial(_transfer, stage, kind, mode, size, connections)


def _transfer(
    stage: Stage, kind: str, mode: str, size: int, connections: int, relay: Relay
) -> Mapping[str, float] | None:
    way = relay.way(kind)
    if way is None:
        return None
    with account(relay.pid) as used:
        result = stage.client.run(Order(mode, way, size, connections))
    gib = result.bytes / GIB
    return {"cpu_s_per_gib": used.cpu / gib, "gib_per_s": gib / result.seconds, **used.memory()}
