"""``store``: the embedded store against the image daemon, with one file for both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from bench.cases import Case
from bench.light import Order, Way
from bench.measures.images import GIB, METRICS
from bench.peers.base import Relay
from bench.peers.gateway import Ours
from bench.peers.imageio import Imageio
from bench.stage import Job, Options, Stage, account, take_turns, way_of
from bench.targets import TARGETS

_NOTE = "Neither flushes to disk (`flush=n`); ovirt-imageio reads and writes past the page cache."
_WORDS = {"put": "upload", "get": "download"}
_TICKET = "bench-store"


def measure(stage: Stage, options: Options) -> list[Case]:
    """Whole files, TLS to the client."""
    connections = options.connections or 1
    size = (options.size or 512 << 20) // connections
    image = stage.home / "images" / "store.raw"
    with image.open("wb") as file:
        file.truncate(size * connections)
    ticket = {
        "uuid": _TICKET,
        "size": size * connections,
        "url": image.as_uri(),
        "timeout": 86400,
        "inactivity_timeout": 3600,
        "ops": ["read", "write"],
    }
    stores = [relay for relay in stage.relays if isinstance(relay, Ours | Imageio)]
    for each in stores:
        each.put(ticket)
    # What is read is what was written, also when only reading is measured.
    _transfer(stage, "put", size, connections, stores[0])
    return take_turns(stores, _jobs(stage, size, connections), options)


def _jobs(stage: Stage, size: int, connections: int) -> Iterator[tuple[Case, Job]]:
    what = "one connection" if connections == 1 else f"{connections} connections at once"
    for mode, word in _WORDS.items():
        name = f"store/{mode}"
        case = Case(name, f"Embedded store, {word}, {what}", METRICS, TARGETS[name], _NOTE)
        yield case, partial(_transfer, stage, mode, size, connections)


def _transfer(stage: Stage, mode: str, size: int, connections: int, relay: Relay) -> Mapping[str, float]:
    way = Way(way_of(relay, "tls").port, f"/images/{_TICKET}{'?flush=n' * (mode == 'put')}")
    with account(relay.pid) as used:
        result = stage.client.run(Order(mode, way, size, connections))
    gib = result.bytes / GIB
    return {"cpu_s_per_gib": used.cpu / gib, "gib_per_s": gib / result.seconds, **used.memory()}
