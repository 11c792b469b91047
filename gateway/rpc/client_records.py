"""What a client is told: a record for each kind of answer. Sizes are bytes, durations seconds, times UTC."""

from __future__ import annotations

from datetime import datetime

from attrs import frozen


@frozen
class Target:
    """A hypervisor that one may open.

    :ivar state: ``idle``, ``connecting``, ``up`` or ``down``.
    :ivar latency: of its last answer, None where none is known.
    """

    name: str
    driver: str
    state: str
    latency: float | None
    version: str


@frozen
class HandleInfo:
    """A handle that one has."""

    handle: str
    target: str
    expires: datetime
    in_use: bool


@frozen
class Versions:
    """Of the hypervisor and of libvirt: 1,000,000 major + 1,000 minor + release."""

    version: int
    library: int


@frozen
class NodeInfo:
    """The machine of a hypervisor; ``mhz`` is the clock of a processor, in MHz."""

    model: str
    memory: int
    cpus: int
    mhz: int
    nodes: int
    sockets: int
    cores: int
    threads: int


@frozen
class Info:
    """What a domain has, and the time it used its processors for."""

    state: str
    max_memory: int
    memory: int
    cpus: int
    cpu_time: float


@frozen
class State:
    """The state of a domain, and why it is in it, as words."""

    state: str
    reason: str


@frozen
class Interface:
    """A network interface of a guest; addresses are such as ``192.0.2.1/24``."""

    name: str
    mac: str
    addresses: list[str]


@frozen
class Lease:
    """An address that a network gave out; ``expires`` is None for one without end."""

    interface: str
    mac: str
    address: str
    hostname: str
    expires: datetime | None


@frozen
class PoolInfo:
    """The state of a pool as a word, and its bytes: in all, used, and free."""

    state: str
    capacity: int
    allocation: int
    available: int


@frozen
class VolumeInfo:
    """A volume: its type as a word, what it can hold, what it takes, and where it is."""

    type: str
    capacity: int
    allocation: int
    path: str


@frozen
class Link:
    """Where to go with which ticket: a websocket, or a resource over HTTPS."""

    ticket: str
    url: str
    expires: datetime


@frozen
class Given:
    """What became of a call that was given up.

    :ivar executed: ``no``, ``unknown`` or ``yes``.
    """

    stopped: bool
    executed: str
