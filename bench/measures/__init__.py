"""Everything that can be measured, by the name it has on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attrs import frozen

from bench.cases import Case
from bench.measures import connections, consoles, fairness, idle, images, memory, ranges, rpc, store, tunnel
from bench.stage import Options, Stage

RELAYS = ("gateway", "imageio", "nginx", "haproxy", "squid")
CALLERS = ("gateway", "connection", "bare-socket", "libvirt-python", "amp-libvirt-python")
BRIDGES = ("gateway", "websockify", "autobahn")


@frozen
class Measure:
    """One section of the figures.

    :ivar summary: a heading.
    :ivar peers: who takes part when nobody says otherwise.
    :ivar rate: bytes a second at which the image host takes an upload; 0 for as they come.
    :ivar hypervisor: it needs one.
    """

    summary: str
    run: Callable[[Stage, Options], list[Case]]
    peers: tuple[str, ...] = RELAYS
    rate: float = 0.0
    hypervisor: bool = False


MEASURES: Mapping[str, Measure] = {
    "images": Measure("Relay of images, one connection", images.measure),
    "parallel": Measure("Relay of images, four connections", images.parallel),
    "store": Measure("Embedded store", store.measure, ("gateway", "imageio")),
    "ranges": Measure("Small ranges on a kept connection", ranges.measure),
    "connections": Measure("New connections", connections.measure),
    "fairness": Measure("Small requests beside large uploads", fairness.measure),
    "consoles": Measure("Consoles by websocket", consoles.measure, BRIDGES),
    "tunnel": Measure("Tunnels by CONNECT", tunnel.measure, ("gateway", "squid", "haproxy")),
    "rpc": Measure("Calls to a hypervisor", rpc.measure, CALLERS, hypervisor=True),
    "memory": Measure("Memory with one slow side", memory.measure, rate=memory.RATE),
    "idle": Measure("Memory of an idle connection", idle.measure, ("gateway", "nginx", "haproxy", "squid")),
}
