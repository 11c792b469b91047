"""``rpc``: calls to a hypervisor as the gateway makes them, and through its endpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial

from bench.callers import GUESTS, UPLOAD, Caller, CallOrder, CallResult
from bench.cases import GATEWAY, Case, Metric
from bench.peers.base import Relay
from bench.peers.gateway import Ours
from bench.peers.hypervisor import Stock
from bench.stage import Job, Options, Stage, account, take_turns
from bench.targets import TARGETS

#: Parts of a run, and the seconds of a run.
SLICES, SECONDS = 5, 1.0
#: Lets somebody call, and brings what came of it.
Run = Callable[[Relay, CallOrder], CallResult]

_METRICS = (
    Metric("calls_per_s", "calls/s", 0, more=True),
    Metric("cpu_us_each", "CPU µs each", 0, beside=True),
    Metric("p50_ms", "p50 ms", 2),
    Metric("p99_ms", "p99 ms", 2),
)
#: Who takes part beside the gateway: in calls, and in calls by AMP.
_STOCK = "amp-libvirt-python"
_BARE = "bare-socket"
_NATIVE, _AMP = ("connection", _BARE, "libvirt-python"), ("libvirt-python", _STOCK)
_TITLES = {"info": "State of one guest", "list": f"All of {GUESTS} guests"}
_WAYS = {"unix": "unix socket", "tls": "TLS"}
_NATIVE_NOTE = {
    "info": "",
    "list": "The gateway keeps a list for a second, and one answer serves all who ask at once: not here.",
}
_AMP_NOTE = {
    "info": "CPU is that of who is asked by AMP, not of its client; libvirt-python alone has no client.",
    "list": "The same; and the gateway keeps a list for a second, as it does for everybody.",
}


#: Those of stock clients that come through the gateway, beside the same that come directly.
_DIRECT = "direct"
_THROUGH = (_METRICS[0], *_METRICS[2:])
_UPLOAD = (Metric("mib_per_s", "MiB/s", 0, more=True),)


def measure(stage: Stage, options: Options) -> list[Case]:
    """What the gateway calls with, then the same through it."""
    relays = {it.name: it for it in stage.relays}
    with ExitStack() as ending:

        def caller(name: str, program: str, *arguments: object) -> Caller:
            made = Caller(stage.home, name, program, *map(str, arguments))
            ending.callback(made.kill)
            made.start()
            return made

        native = caller(GATEWAY, "native", "target", json.dumps(stage.hypervisor))
        others = [relays[name] for name in _NATIVE if name in relays]
        jobs = _jobs(options, "", _NATIVE_NOTE, _native)
        found = take_turns([native, *others], jobs, options, slices=SLICES)
        clients: dict[str, Caller] = {}
        ours, stock, ca = relays[GATEWAY], relays.get(_STOCK), stage.client.ca
        assert isinstance(ours, Ours)
        clients[GATEWAY] = caller("amp-client", "amp", ours.rpc_port, ca, ours.RPC)
        if isinstance(stock, Stock):
            clients[_STOCK] = caller("stock-client", "stock", stock.port, ca)
        others = [relays[name] for name in _AMP if name in relays]
        jobs = _jobs(options, "amp-", _AMP_NOTE, partial(_by_client, clients))
        found += take_turns([ours, *others], jobs, options, slices=SLICES)
        through = caller(GATEWAY, "threads", json.dumps(_urls(stage, ours)), ours.RPC)
        direct = caller(_DIRECT, "threads", json.dumps(stage.hypervisor))
        found += take_turns([through, direct], _stock_jobs(options), options, slices=SLICES)
        # One of these takes as long as a part of what is above.
        return [*found, *take_turns([through, direct], _uploads(options), options)]


def _urls(stage: Stage, ours: Ours) -> Mapping[str, str]:
    """Where a stock client finds the gateway; behind it the hypervisor is at its unix socket."""
    pki = stage.home / "stock-pki"
    pki.mkdir()
    shutil.copy(stage.client.ca, pki / "cacert.pem")
    host = f"localhost:{ours.libvirt_port}"
    return {
        "tls": f"test+tls://{host}/default?target=unix&pkipath={pki}",
        "qemu-tls": f"qemu+tls://{host}/session?target=qemu-unix&pkipath={pki}",
    }


def _stock_jobs(options: Options) -> Iterator[tuple[Case, Job]]:
    seconds = _seconds(options)
    for many, callers in (("one", 1), ("many", options.connections or GUESTS)):
        name = f"rpc/stock-info-{many}"
        title = f"{_TITLES['info']}, libvirt-python over TLS, {callers} caller{'s' * (callers > 1)}"
        note = "Directly is over TLS to libvirtd; through the gateway over TLS to that."
        order = CallOrder("info", "tls", callers, seconds)
        yield Case(name, title, _THROUGH, TARGETS[name], note), partial(_stock, order)


def _uploads(options: Options) -> Iterator[tuple[Case, Job]]:
    seconds = options.seconds or SECONDS
    name, title = "rpc/stock-upload", f"vol-upload of {UPLOAD >> 20} MiB, libvirt-python over TLS"
    yield (
        Case(name, title, _UPLOAD, TARGETS[name], ""),
        partial(_stock, CallOrder("upload", "tls", 1, seconds)),
    )


def _stock(order: CallOrder, relay: Relay) -> Mapping[str, float]:
    result = _native(relay, order)
    each = result.calls / result.seconds
    if order.what == "upload":
        return {"mib_per_s": each * (UPLOAD >> 20)}
    return {"calls_per_s": each, "p50_ms": result.p50 * 1e3, "p99_ms": result.p99 * 1e3}


def _jobs(options: Options, kind: str, notes: Mapping[str, str], run: Run) -> Iterator[tuple[Case, Job]]:
    words = ", through the endpoint" if kind else ""
    for what, title in _TITLES.items():
        for transport, way in _WAYS.items():
            for many, callers in (("one", 1), ("many", options.connections or GUESTS)):
                name = f"rpc/{kind}{what}-{transport}-{many}"
                at_once = f"{callers} caller{'s' * (callers > 1)}"
                order = CallOrder(what, transport, callers, _seconds(options))
                case = Case(name, f"{title}, {way}, {at_once}{words}", _METRICS, TARGETS[name], notes[what])
                yield case, partial(_calls, run, order)


def _seconds(options: Options) -> float:
    """Of one part."""
    return (options.seconds or SECONDS) / SLICES


def _calls(run: Run, order: CallOrder, relay: Relay) -> Mapping[str, float] | None:
    if relay.name == _BARE and order.callers > 1:
        return None
    with account(relay.pid) as used:
        result = run(relay, order)
    return {
        "calls_per_s": result.calls / result.seconds,
        "cpu_us_each": used.cpu / (result.early + result.calls) * 1e6,
        "p50_ms": result.p50 * 1e3,
        "p99_ms": result.p99 * 1e3,
    }


def _native(caller: Relay, order: CallOrder) -> CallResult:
    assert isinstance(caller, Caller)
    return caller.run(order)


def _by_client(clients: Mapping[str, Caller], relay: Relay, order: CallOrder) -> CallResult:
    """By its client, if it has one."""
    return clients[relay.name].run(order) if relay.name in clients else _native(relay, order)
