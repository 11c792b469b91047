"""What one client has asked a hypervisor to tell it: so much, and with an end that libvirtd survives.

libvirtd keeps every registration. When a connection that has some goes while a call is in work, two of its
threads free them at the same time, and the daemon crashes.
Source: observed on libvirtd 9.0, remoteClientFreePrivateCallbacks.
"""

from __future__ import annotations

import re

from twisted.internet.interfaces import IReactorTime

from gateway.rpc.connection import LibvirtConnection
from gateway.wire.libvirt_schema import Procedure, names

#: Registrations that one client may have.
MOST = 1024
#: Seconds that a connection stays for the answers to its last calls, and between two looks for them.
PATIENCE, PAUSE = 30.0, 0.05
#: What adds one, and what takes one away.
_CHANGES = {
    name: 1 if found[1] is None else -1
    for name in names()
    if (found := re.fullmatch(r"\w+_EVENT(?:_CALLBACK)?_(DE)?REGISTER(?:_ANY)?", name))
}


class Registrations:
    """Those of one client."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._count = 0
        self._any = False

    def full(self, procedure: Procedure) -> bool:
        """Whether *procedure* would be one too many."""
        return self._count + _CHANGES.get(procedure.name, 0) > MOST

    def asked(self, procedure: Procedure) -> None:
        """*procedure* is about to be called."""
        self._any = self._any or procedure.name in _CHANGES

    def done(self, procedure: Procedure) -> None:
        """*procedure* was called with success."""
        self._count += _CHANGES.get(procedure.name, 0)

    def close(self, upstream: LibvirtConnection, until: float = 0.0) -> None:
        """Close *upstream* when nothing is in work there; nobody may call any more.

        :param until: seconds of the clock when it is closed in any case; 0 for as long as is usual.
        """
        now = self._clock.seconds()
        until = until or now + PATIENCE
        if self._any and upstream.alive and upstream.pending and now < until:
            self._clock.callLater(PAUSE, self.close, upstream, until)
        else:
            upstream.close()
