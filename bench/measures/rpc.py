"""``rpc``: calls to a hypervisor as the gateway makes them, and through its endpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial

from bench.callers import GUESTS, Caller, CallOrder, CallResult
from bench.cases import GATEWAY, Case, Metric
from bench.peers.base import Relay
from bench.peers.gateway import Ours
from bench.peers.hypervisor import Stock
from bench.stage import Job, Options, Stage, account, take_turns
from bench.targets import TARGETS

#: Lets somebody call, and brings what came of it.
Run = Callable[[Relay, CallOrder], CallResult]

_METRICS = (
    Metric("calls_per_s", "calls/s", 0, more=True),
    Metric("cpu_us_each", "CPU µs each", 0),
    Metric("p50_ms", "p50 ms", 2),
    Metric("p99_ms", "p99 ms", 2),
)
#: Who takes part beside the gateway: in calls, and in calls by AMP.
_STOCK = "amp-libvirt-python"
_NATIVE, _AMP = ("connection", "libvirt-python"), ("libvirt-python", _STOCK)
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
        found = take_turns([native, *others], _jobs(options, "", _NATIVE_NOTE, _native), options)
        clients: dict[str, Caller] = {}
        ours, stock, ca = relays[GATEWAY], relays.get(_STOCK), stage.client.ca
        assert isinstance(ours, Ours)
        clients[GATEWAY] = caller("amp-client", "amp", ours.rpc_port, ca, ours.RPC)
        if isinstance(stock, Stock):
            clients[_STOCK] = caller("stock-client", "stock", stock.port, ca)
        others = [relays[name] for name in _AMP if name in relays]
        jobs = _jobs(options, "amp-", _AMP_NOTE, partial(_by_client, clients))
        return [*found, *take_turns([ours, *others], jobs, options)]


def _jobs(options: Options, kind: str, notes: Mapping[str, str], run: Run) -> Iterator[tuple[Case, Job]]:
    words = ", through the endpoint" if kind else ""
    for what, title in _TITLES.items():
        for transport, way in _WAYS.items():
            for many, callers in (("one", 1), ("many", options.connections or GUESTS)):
                name = f"rpc/{kind}{what}-{transport}-{many}"
                at_once = f"{callers} caller{'s' * (callers > 1)}"
                order = CallOrder(what, transport, callers, options.seconds or 1.0)
                case = Case(name, f"{title}, {way}, {at_once}{words}", _METRICS, TARGETS[name], notes[what])
                yield case, partial(_calls, run, order)


def _calls(run: Run, order: CallOrder, relay: Relay) -> Mapping[str, float]:
    with account(relay.pid) as used:
        result = run(relay, order)
    return {
        "calls_per_s": result.calls / result.seconds,
        "cpu_us_each": used.cpu / result.calls * 1e6,
        "p50_ms": result.p50 * 1e3,
        "p99_ms": result.p99 * 1e3,
    }


def _native(caller: Relay, order: CallOrder) -> CallResult:
    assert isinstance(caller, Caller)
    return caller.run(order)


def _by_client(clients: Mapping[str, Caller], relay: Relay, order: CallOrder) -> CallResult:
    """By its client, if it has one."""
    return clients[relay.name].run(order) if relay.name in clients else _native(relay, order)
