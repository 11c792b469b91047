"""``fairness``: how long a small request takes while others fill every core."""

from __future__ import annotations

import time
from collections.abc import Mapping

from bench.cases import Case, Metric
from bench.light import Client, Order, Result, Way
from bench.measures.images import GIB
from bench.peers.base import Relay
from bench.stage import Options, Stage, account, take_turns, way_of
from bench.targets import TARGETS
from tests.functional.peers import MIB

_METRICS = (
    Metric("p99_ms", "p99 ms", 1),
    Metric("p50_ms", "p50 ms", 1),
    Metric("upload_gib_per_s", "uploads GiB/s", 2, more=True),
    Metric("cpu_s_per_s", "CPU s/s", 2),
)
#: Connections that upload.
UPLOADS = 4
#: An upload goes in requests of so many bytes; seconds until all of them run.
_UPLOAD = 64 * MIB
_AHEAD = 0.5


def beside_uploads(client: Client, way: Way, uploads: int, order: Order) -> tuple[Result, Result]:
    """What becomes of *order* while that many connections upload, and of the uploads."""
    seconds = order.seconds + 2 * _AHEAD
    large = client.start(Order("put", way, _UPLOAD, uploads, seconds=seconds))
    try:
        time.sleep(_AHEAD)
        small = client.run(order)
    finally:
        uploaded = large.result()
    return small, uploaded


def measure(stage: Stage, options: Options) -> list[Case]:
    """One client uploads with four connections; another, with a ticket of its own, reads 4 KiB."""
    uploads = options.connections or UPLOADS
    seconds = options.seconds or 2.0

    def job(relay: Relay) -> Mapping[str, float]:
        way, other = way_of(relay, "tls"), way_of(relay, "tls", client=1)
        with account(relay.pid) as used:
            begin = time.monotonic()
            order = Order("ranges", other, seconds=seconds)
            small, uploaded = beside_uploads(stage.client, way, uploads, order)
            took = time.monotonic() - begin
        return {
            "p99_ms": small.p99 * 1e3,
            "p50_ms": small.p50 * 1e3,
            "upload_gib_per_s": uploaded.bytes / GIB / uploaded.seconds,
            "cpu_s_per_s": used.cpu / took,
        }

    title = f"Reads of 4 KiB by one client beside {uploads} uploads of another, TLS to TLS"
    case = Case("fairness/p99", title, _METRICS, TARGETS["fairness/p99"])
    return take_turns(stage.relays, [(case, job)], options)
