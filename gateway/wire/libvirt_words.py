"""Words for libvirt's numbers: states and their reasons, events and their details, kinds of objects.

A number that is newer than these tables becomes its own digits. Source: libvirt 9.0.0, libvirt-domain.h,
libvirt-network.h, libvirt-storage.h, libvirt-nodedev.h and libvirt-secret.h.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import field, frozen

#: States of a domain.
STATES = ("nostate", "running", "blocked", "paused", "shutdown", "shutoff", "crashed", "pmsuspended")
#: Why a domain is in its state.
REASONS: Mapping[str, Sequence[str]] = {
    "nostate": ("unknown",),
    "running": (
        *("unknown", "booted", "migrated", "restored", "from_snapshot", "unpaused", "migration_canceled"),
        *("save_canceled", "wakeup", "crashed", "postcopy", "postcopy_failed"),
    ),
    "blocked": ("unknown",),
    "paused": (
        *("unknown", "user", "migration", "save", "dump", "ioerror", "watchdog", "from_snapshot"),
        *("shutting_down", "snapshot", "crashed", "starting_up", "postcopy", "postcopy_failed"),
    ),
    "shutdown": ("unknown", "user"),
    "shutoff": (
        *("unknown", "shutdown", "destroyed", "crashed", "migrated", "saved", "failed", "from_snapshot"),
        "daemon",
    ),
    "crashed": ("unknown", "panicked"),
    "pmsuspended": ("unknown",),
}
#: What happens in the life of a domain, with the details of each.
LIFECYCLE: Mapping[str, Sequence[str]] = {
    "defined": ("added", "updated", "renamed", "from_snapshot"),
    "undefined": ("removed", "renamed"),
    "started": ("booted", "migrated", "restored", "from_snapshot", "wakeup"),
    "suspended": (
        *("paused", "migrated", "ioerror", "watchdog", "restored", "from_snapshot", "api_error"),
        *("postcopy", "postcopy_failed"),
    ),
    "resumed": ("unpaused", "migrated", "from_snapshot", "postcopy", "postcopy_failed"),
    "stopped": ("shutdown", "destroyed", "crashed", "migrated", "saved", "failed", "from_snapshot"),
    "shutdown": ("finished", "guest", "host"),
    "pmsuspended": ("memory", "disk"),
    "crashed": ("panicked", "crashloaded"),
}
#: What a lifecycle event makes of a domain; those not named here leave its state alone.
_STATE_AFTER = {
    "started": "running",
    "suspended": "paused",
    "resumed": "running",
    "stopped": "shutoff",
    "shutdown": "shutdown",
    "pmsuspended": "pmsuspended",
    "crashed": "crashed",
}
#: Details that have another name as a reason.
_REASON_AFTER = {
    ("suspended", "paused"): "user",
    ("suspended", "migrated"): "migration",
    ("crashed", "crashloaded"): "panicked",
}

GRAPHICS_PHASES = ("connect", "initialize", "disconnect")
POOL_STATES = ("inactive", "building", "running", "degraded", "inaccessible")
VOLUME_TYPES = ("file", "block", "dir", "network", "netdir", "ploop")
ADDRESS_SOURCES = ("lease", "agent", "arp")

_FAMILIES = ("ipv4", "ipv6", "unix")
_IO_ACTIONS = ("none", "pause", "report")
_BLOCK_JOB = {
    "type": ("unknown", "pull", "copy", "commit", "active_commit", "backup"),
    "status": ("completed", "failed", "canceled", "ready"),
}
_METADATA = {"type": ("description", "title", "element")}
_DEFINED = ("defined", "undefined", "started", "stopped")


def word(table: Sequence[str], number: int) -> str:
    """The word for *number*, or its digits."""
    return table[number] if 0 <= number < len(table) else str(number)


def state_words(state: int, reason: int) -> tuple[str, str]:
    """The words for what DOMAIN_GET_STATE tells."""
    named = word(STATES, state)
    return named, word(REASONS.get(named, ()), reason)


def lifecycle_words(event: int, detail: int) -> tuple[str, str]:
    """The words for a lifecycle event and its detail."""
    named = word(tuple(LIFECYCLE), event)
    return named, word(LIFECYCLE.get(named, ()), detail)


def state_after(event: str, detail: str) -> tuple[str, str] | None:
    """State and reason of a domain after a lifecycle event; None when that does not change them."""
    state = _STATE_AFTER.get(event)
    if state is None:
        return None
    reason = _REASON_AFTER.get((event, detail), detail)
    return state, reason if reason in REASONS[state] else "unknown"


@frozen
class EventKind:
    """One kind of event that a hypervisor may be asked for.

    :ivar word: what subscribers call it.
    :ivar registration: the procedure that asks for it.
    :ivar number: its event id there.
    :ivar procedure: number of the message that brings it.
    :ivar subject: the field of the message that holds what it is about.
    :ivar event: the word that goes into the field ``event``, for messages without one.
    :ivar tables: words for the numbers in its fields.
    """

    word: str
    registration: str
    number: int
    procedure: int
    subject: str
    event: str = ""
    tables: Mapping[str, Sequence[str]] = field(factory=dict)

    def fields(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a message in words, without what it is about."""
        told = {name: value for name, value in values.items() if name not in ("callbackID", self.subject)}
        if self.word == "lifecycle":
            told["event"], told["detail"] = lifecycle_words(values["event"], values["detail"])
        if self.event:
            told["event"] = self.event
        for name, table in self.tables.items():
            told[name] = word(table, values[name])
        for side in ("local", "remote"):
            if side in told:
                told[side] = told[side] | {"family": word(_FAMILIES, told[side]["family"])}
        return told


def _domain(name: str, number: int, procedure: int, **tables: Sequence[str]) -> EventKind:
    registration = "CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY"
    return EventKind(name, registration, number, procedure, "dom", tables=tables)


_NETWORK = "CONNECT_NETWORK_EVENT_REGISTER_ANY"
_POOL = "CONNECT_STORAGE_POOL_EVENT_REGISTER_ANY"
_DEVICE = "CONNECT_NODE_DEVICE_EVENT_REGISTER_ANY"
_SECRET = "CONNECT_SECRET_EVENT_REGISTER_ANY"  # noqa: S105 (the name of a procedure)
_WATCHDOG = ("none", "pause", "reset", "poweroff", "shutdown", "debug", "injectnmi")

#: Every kind of event, by registration and event id.
EVENT_KINDS = (
    _domain("lifecycle", 0, 318),
    _domain("reboot", 1, 319),
    _domain("rtc_change", 2, 320),
    _domain("watchdog", 3, 321, action=_WATCHDOG),
    _domain("io_error", 4, 322, action=_IO_ACTIONS),
    _domain("graphics", 5, 323, phase=GRAPHICS_PHASES),
    _domain("io_error_reason", 6, 324, action=_IO_ACTIONS),
    _domain("control_error", 7, 325),
    _domain("block_job", 8, 326, **_BLOCK_JOB),
    _domain("disk_change", 9, 327, reason=("change_missing_on_start", "drop_missing_on_start")),
    _domain("tray_change", 10, 328, reason=("open", "close")),
    _domain("pmwakeup", 11, 329, reason=("unknown",)),
    _domain("pmsuspend", 12, 330, reason=("unknown",)),
    _domain("balloon_change", 13, 331),
    _domain("pmsuspend_disk", 14, 332, reason=("unknown",)),
    _domain("device_removed", 15, 333),
    _domain("block_job_2", 16, 339, **_BLOCK_JOB),
    _domain("tunable", 17, 346),
    _domain(
        *("agent_lifecycle", 18, 348),
        state=("0", "connected", "disconnected"),
        reason=("unknown", "domain_started", "channel"),
    ),
    _domain("device_added", 19, 354),
    _domain("migration_iteration", 20, 359),
    _domain("job_completed", 21, 363),
    _domain("device_removal_failed", 22, 367),
    _domain("metadata_change", 23, 379, **_METADATA),
    _domain("block_threshold", 24, 385),
    _domain(
        *("memory_failure", 25, 423),
        recipient=("hypervisor", "guest"),
        action=("ignore", "inject", "fatal", "reset"),
    ),
    _domain("memory_device_size_change", 26, 438),
    _domain("nic_mac_change", 27, 453),
    EventKind("network", _NETWORK, 0, 315, "net", tables={"event": _DEFINED}),
    EventKind("network", _NETWORK, 1, 446, "net", "metadata_changed", _METADATA),
    EventKind("pool", _POOL, 0, 370, "pool", tables={"event": (*_DEFINED, "created", "deleted")}),
    EventKind("pool", _POOL, 1, 373, "pool", "refreshed"),
    EventKind(
        *("node_device", _DEVICE, 0, 376, "dev"),
        tables={"event": ("created", "deleted", "defined", "undefined")},
    ),
    EventKind("node_device", _DEVICE, 1, 377, "dev", "updated"),
    EventKind("secret", _SECRET, 0, 382, "secret", tables={"event": ("defined", "undefined")}),
    EventKind("secret", _SECRET, 1, 383, "secret", "value_changed"),
)
#: What may be subscribed to by its word.
EVENT_WORDS = frozenset(kind.word for kind in EVENT_KINDS)
_BY_PROCEDURE = {kind.procedure: kind for kind in EVENT_KINDS}


def event_kind(procedure: int) -> EventKind | None:
    """The kind that messages with this procedure number bring; None for those without a callback id."""
    return _BY_PROCEDURE.get(procedure)
