"""What each procedure demands: words such as ``domain:start``, and which of them must be named outright.

The words and their conditions come with the table of procedures; what is added to them here, and what no
general grant holds, is ours. A procedure about which nothing is known demands what nobody has.
Source: libvirt, remote_protocol.x (``@acl``) and viraccessperm.h.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from attrs import frozen

from gateway import errors
from gateway.wire.libvirt_schema import PROGRAMS, Procedure

#: The bits of ``flags`` that conditions name. Source: libvirt-domain.h and its like.
_BITS = {
    "AFFECT_LIVE": 1,
    "AFFECT_CONFIG": 2,
    "CHECKPOINT_CREATE_QUIESCE": 2,
    "CHECKPOINT_XML_SECURE": 1,
    "NETWORK_UPDATE_AFFECT_LIVE": 1,
    "NETWORK_UPDATE_AFFECT_CONFIG": 2,
    "REBOOT_GUEST_AGENT": 2,
    "SAVE_IMAGE_XML_SECURE": 1,
    "SHUTDOWN_GUEST_AGENT": 2,
    "SNAPSHOT_CREATE_QUIESCE": 64,
    "SNAPSHOT_XML_SECURE": 1,
    "VCPU_GUEST": 8,
    "XML_MIGRATABLE": 8,
    "XML_SECURE": 1,
}
#: Values of other arguments that conditions name.
_VALUES = {"INTERFACE_ADDRESSES_SRC_AGENT": 1}

#: They are about a connection to the hypervisor itself, which is ours: nobody's call goes there.
NEVER = frozenset(
    {
        "AUTH_LIST",
        "AUTH_POLKIT",
        "AUTH_SASL_INIT",
        "AUTH_SASL_START",
        "AUTH_SASL_STEP",
        "CONNECT_CLOSE",
        "CONNECT_OPEN",
        "CONNECT_SET_IDENTITY",
    }
)
#: They change the state of the connection that they come by: never on one that several share.
STATEFUL = NEVER | {
    "CONNECT_DOMAIN_EVENT_CALLBACK_DEREGISTER_ANY",
    "CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY",
    "CONNECT_DOMAIN_EVENT_DEREGISTER",
    "CONNECT_DOMAIN_EVENT_DEREGISTER_ANY",
    "CONNECT_DOMAIN_EVENT_REGISTER",
    "CONNECT_DOMAIN_EVENT_REGISTER_ANY",
    "CONNECT_NETWORK_EVENT_DEREGISTER_ANY",
    "CONNECT_NETWORK_EVENT_REGISTER_ANY",
    "CONNECT_NODE_DEVICE_EVENT_DEREGISTER_ANY",
    "CONNECT_NODE_DEVICE_EVENT_REGISTER_ANY",
    "CONNECT_REGISTER_CLOSE_CALLBACK",
    "CONNECT_SECRET_EVENT_DEREGISTER_ANY",
    "CONNECT_SECRET_EVENT_REGISTER_ANY",
    "CONNECT_STORAGE_POOL_EVENT_DEREGISTER_ANY",
    "CONNECT_STORAGE_POOL_EVENT_REGISTER_ANY",
    "CONNECT_SUPPORTS_FEATURE",
    "CONNECT_UNREGISTER_CLOSE_CALLBACK",
    "QEMU_CONNECT_DOMAIN_MONITOR_EVENT_DEREGISTER",
    "QEMU_CONNECT_DOMAIN_MONITOR_EVENT_REGISTER",
}

#: Words that reach the host, or what does not belong to one guest: neither ``*`` nor a glob holds them.
OUTRIGHT_WORDS = frozenset(
    {
        "connect:detect_storage_pools",
        "connect:interface_transaction",
        "connect:pm_control",
        "domain:block_read",
        "domain:core_dump",
        "domain:mem_read",
        "domain:migrate",
        "domain:open_namespace",
        "interface:delete",
        "interface:save",
        "interface:start",
        "interface:stop",
        "interface:write",
        "network_port:create",
        "network_port:delete",
        "network_port:write",
        "node_device:delete",
        "node_device:detach",
        "node_device:start",
        "node_device:stop",
        "node_device:write",
        "nwfilter:delete",
        "nwfilter:save",
        "nwfilter:write",
        "nwfilter_binding:create",
        "nwfilter_binding:delete",
        "secret:read_secure",
    }
)
#: Procedures that do more than their words say: the ticket must hold their very names, beside the words.
#: They name files of the host, take or give descriptors, or take XML that nobody checks.
OUTRIGHT_NAMES = frozenset(
    {
        "CONNECT_DOMAIN_XML_FROM_NATIVE",
        "DOMAIN_CREATE_WITH_FILES",
        "DOMAIN_CREATE_XML_WITH_FILES",
        "DOMAIN_FD_ASSOCIATE",
        "DOMAIN_RESTORE",
        "DOMAIN_RESTORE_FLAGS",
        "DOMAIN_RESTORE_PARAMS",
        "DOMAIN_SAVE",
        "DOMAIN_SAVE_FLAGS",
        "DOMAIN_SAVE_IMAGE_DEFINE_XML",
        "DOMAIN_SAVE_IMAGE_GET_XML_DESC",
        "DOMAIN_SAVE_PARAMS",
        "NETWORK_UPDATE",
        "NODE_ALLOC_PAGES",
        "NODE_SET_MEMORY_PARAMETERS",
        "SECRET_DEFINE_XML",
    }
)
#: The same for some bits of their flags: what exists is overwritten, state is put in unchecked.
_OUTRIGHT_FLAGS = {
    "DOMAIN_BACKUP_BEGIN": 1,  # REUSE_EXTERNAL
    "DOMAIN_BLOCK_COPY": 2,  # REUSE_EXT
    "DOMAIN_BLOCK_REBASE": 8,  # COPY: base is a file to write
    "DOMAIN_CHECKPOINT_CREATE_XML": 1,  # REDEFINE
    "DOMAIN_SNAPSHOT_CREATE_XML": 1 | 16 | 32,  # REDEFINE, DISK_ONLY, REUSE_EXT
}
#: What they say about the guests of others; who may see only some must name them.
_TELL_OWNERS = frozenset(
    {"NETWORK_GET_DHCP_LEASES", "NETWORK_PORT_GET_XML_DESC", "NWFILTER_BINDING_GET_XML_DESC"}
)
#: libvirt runs the program that they name, to see what it can.
_EMULATORS = {
    "CONNECT_BASELINE_HYPERVISOR_CPU": "emulator",
    "CONNECT_COMPARE_HYPERVISOR_CPU": "emulator",
    "CONNECT_GET_DOMAIN_CAPABILITIES": "emulatorbin",
}
#: libvirt's table asks less than the call does.
_MORE_WORDS = {"DOMAIN_SET_SCHEDULER_PARAMETERS": ("domain:write",)}

_DEPEND = {*_OUTRIGHT_FLAGS, *_EMULATORS}


@frozen
class Demand:
    """One word that a call needs, always or on a condition.

    :ivar bits: of ``flags``: all of them must be set, or none with *unset*; 0 for always.
    :ivar argument: another argument that must have *value*.
    """

    word: str
    bits: int = 0
    unset: bool = False
    argument: str = ""
    value: int = 0

    @property
    def conditional(self) -> bool:
        """It depends on the arguments."""
        return bool(self.bits or self.argument)

    def applies(self, arguments: Mapping[str, Any]) -> bool:
        """Tell whether a call with *arguments* needs the word.

        :raises BadArguments: what decides that is no number.
        """
        if self.argument:
            return number(arguments, self.argument) == self.value
        if not self.bits:
            return True
        flags = number(arguments, "flags")
        return not flags & self.bits if self.unset else flags & self.bits == self.bits


@frozen
class Demands:
    """All that one procedure needs.

    :ivar known: its permissions stand in the table; else nobody may call it.
    :ivar words: of the call; ``domain:getattr`` of ``filter(domain:getattr)`` is among them.
    :ivar outright: words that must be granted literally.
    :ivar named: the ticket must hold the name of the procedure.
    :ivar outright_flags: with any of these bits, too.
    :ivar emulator: the argument that names a program.
    :ivar tells_owners: it tells about guests beyond those that the ticket sees.
    :ivar depends: what it needs is another thing with other arguments.
    """

    known: bool
    words: tuple[Demand, ...]
    outright: frozenset[str]
    named: bool
    outright_flags: int
    emulator: str
    tells_owners: bool
    depends: bool


def number(arguments: Mapping[str, Any], name: str) -> int:
    """The argument *name*, 0 without it.

    :raises BadArguments: it is no number.
    """
    value = arguments.get(name, 0)
    if not isinstance(value, int):
        raise errors.BadArguments(name, "a number is expected")
    return value


def _bits(text: str) -> int:
    bits = 0
    for name in text.split("+"):
        bits |= _BITS[name]
    return bits


def parse(raw: str) -> Demand:
    """Read one permission of the table.

    :raises KeyError: its condition names a flag that we do not know.
    """
    if raw.startswith("filter(") and raw.endswith(")"):
        return Demand(raw[7:-1])
    kind, _, rest = raw.partition(":")
    permission, _, condition = rest.partition(":")
    word = f"{kind}:{permission}"
    if condition.startswith(":"):
        argument, _, value = condition[1:].partition(":")
        return Demand(word, argument=argument, value=_VALUES[value])
    if condition.startswith("!"):
        return Demand(word, bits=_bits(condition[1:]), unset=True)
    return Demand(word, bits=_bits(condition) if condition else 0)


@cache
def demands(procedure: Procedure) -> Demands:
    """What a call of *procedure* needs."""
    name = procedure.name
    raw = [text for text in procedure.permissions if text != "none"]
    words = (*map(parse, raw), *map(Demand, _MORE_WORDS.get(name, ())))
    return Demands(
        known=bool(procedure.permissions) and not procedure.event and name not in NEVER,
        words=words,
        outright=OUTRIGHT_WORDS.intersection(demand.word for demand in words),
        named=name in OUTRIGHT_NAMES or procedure.program != PROGRAMS["remote"],
        outright_flags=_OUTRIGHT_FLAGS.get(name, 0),
        emulator=_EMULATORS.get(name, ""),
        tells_owners=name in _TELL_OWNERS,
        depends=any(it.conditional for it in words) or name in _DEPEND,
    )


def only_reads(word: str) -> bool:
    """Tell whether ``read`` may hold *word*; ``read_secure`` is no reading of this kind."""
    permission = word.partition(":")[2]
    return permission in ("getattr", "read") or permission.startswith("search_")
