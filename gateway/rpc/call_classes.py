"""What the gateway does with each procedure: how long it waits, whether it may ask twice, what it keeps.

A *read* changes nothing, so it may be sent again after a lost connection, and one answer may serve all who
ask the same at the same time. libvirt says which procedures write by refusing them on read-only connections
(``W``); those with ``w`` only tell more with some flags, or ask the guest. The programs beside the main one
have no such marks, so all they do counts as writing.
"""

from __future__ import annotations

import re

from attrs import frozen

from gateway.wire.libvirt_schema import PROCEDURES, PROGRAMS, Procedure

#: Seconds that a caller waits for an answer when it does not say how long.
READ, WRITE, SLOW = 30.0, 120.0, 1800.0
#: Seconds that results are kept: what only changes with the host, and what changes with what runs on it.
_LASTING = {
    "CONNECT_GET_CAPABILITIES": 60.0,
    "CONNECT_GET_TYPE": 60.0,
    "CONNECT_GET_VERSION": 60.0,
    "CONNECT_GET_LIB_VERSION": 60.0,
    "CONNECT_GET_HOSTNAME": 60.0,
    "CONNECT_GET_URI": 60.0,
    "CONNECT_GET_MAX_VCPUS": 60.0,
    "CONNECT_GET_SYSINFO": 60.0,
    "CONNECT_IS_SECURE": 60.0,
    "NODE_GET_SECURITY_MODEL": 60.0,
    "NODE_GET_INFO": 10.0,
}
_PASSING = 1.0
_LISTS = re.compile(
    r"\w+_LIST_ALL_\w+|CONNECT_LIST_\w+|CONNECT_NUM_OF_\w+|CONNECT_GET_ALL_DOMAIN_STATS", re.ASCII
)
#: Calls that move or store much. Names of writing procedures only.
_LONG = re.compile(
    r"\w*_MIGRATE\w*|\w+_SAVE\w*|\w+_RESTORE\w*|\w+_SNAPSHOT_\w+|\w+_REVERT_TO_SNAPSHOT|\w+_CHECKPOINT_\w+"
    r"|\w+_CORE_DUMP\w*|\w+_BACKUP\w*|\w+_BLOCK_(PULL|REBASE|COMMIT|COPY|JOB_ABORT)\w*|\w+_PM_SUSPEND\w*"
    r"|STORAGE_VOL_(CREATE|WIPE|RESIZE|DELETE)\w*|STORAGE_POOL_(BUILD|CREATE|REFRESH|DELETE)\w*",
    re.ASCII,
)
#: They change the connection they come by, which is not the caller's.
_OURS = re.compile(
    r"AUTH_\w+|CONNECT_(OPEN|CLOSE|SET_IDENTITY)|CONNECT_(UN)?REGISTER_CLOSE_CALLBACK|\w+_EVENT_\w*REGISTER\w*",
    re.ASCII,
)
#: They come or go with descriptors.
_DESCRIPTORS = frozenset(
    {
        "DOMAIN_OPEN_GRAPHICS",
        "DOMAIN_OPEN_GRAPHICS_FD",
        "DOMAIN_CREATE_XML_WITH_FILES",
        "DOMAIN_CREATE_WITH_FILES",
        "DOMAIN_FD_ASSOCIATE",
        "QEMU_DOMAIN_MONITOR_COMMAND_WITH_FILES",
        "LXC_DOMAIN_OPEN_NAMESPACE",
    }
)


@frozen
class CallClass:
    """How one procedure is called.

    :ivar read: it changes nothing.
    :ivar patience: seconds a caller waits by default.
    :ivar kept: seconds its results are kept for others; 0 when they are not.
    :ivar passing: what is kept does not outlive an event.
    :ivar problem: why it cannot be called by anybody; empty when it can.
    """

    read: bool
    patience: float
    kept: float
    passing: bool
    problem: str


def _class(procedure: Procedure) -> CallClass:
    name = procedure.name
    read = procedure.program == PROGRAMS["remote"] and procedure.writes != "W"
    problem = ""
    if procedure.event:
        problem = f"{name} is an event"
    elif _OURS.fullmatch(name):
        problem = f"{name} concerns the gateway's own connection"
    elif procedure.stream:
        problem = f"{name} opens a stream"
    elif name in _DESCRIPTORS:
        problem = f"{name} passes a descriptor"
    if not read:
        return CallClass(False, SLOW if _LONG.fullmatch(name) else WRITE, 0.0, False, problem)
    passing = _LISTS.fullmatch(name) is not None
    return CallClass(True, READ, _PASSING if passing else _LASTING.get(name, 0.0), passing, problem)


#: By the name of the procedure.
CLASSES = {procedure.name: _class(procedure) for procedure in PROCEDURES.values()}
