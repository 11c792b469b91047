"""The connection of one stock libvirt client to its hypervisor."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorTime

from gateway import errors
from gateway.rpc.connection import LibvirtConnection
from gateway.rpc.libvirt_call import ClientCall
from gateway.rpc.libvirt_errors import refusal
from gateway.rpc.registrations import Registrations
from gateway.wire.libvirt_schema import Procedure

#: Calls of one client at a time on the way to its hypervisor, which takes five and then reads nothing more,
#: not even signs of life. More of those that change nothing, while they are answered within so many seconds.
_TOGETHER, _QUICK, _AT_ONCE = 4, 16, 0.1
_PASSES_DESCRIPTORS = frozenset(
    {
        "DOMAIN_OPEN_GRAPHICS",
        "DOMAIN_OPEN_GRAPHICS_FD",
        "DOMAIN_CREATE_XML_WITH_FILES",
        "DOMAIN_CREATE_WITH_FILES",
        "DOMAIN_FD_ASSOCIATE",
        "LXC_DOMAIN_OPEN_NAMESPACE",
        "QEMU_DOMAIN_MONITOR_COMMAND_WITH_FILES",
    }
)


class Upstream:
    """Calls take turns on it, registrations are counted, and it ends in a way that libvirtd survives.

    :param event: told each event: its procedure, and its values.
    :param lost: told once, with a word, when the hypervisor is gone.
    """

    def __init__(
        self,
        connection: LibvirtConnection,
        clock: IReactorTime,
        event: Callable[[Procedure, dict[str, Any]], object],
        lost: Callable[[str], object],
    ) -> None:
        self._connection = connection
        self._registrations = Registrations(clock)
        self._clock = clock
        self._asked: dict[ClientCall, None] = {}
        self._waiting: deque[tuple[ClientCall, Procedure, bytes]] = deque()
        self._closed = False
        connection.event, connection.lost = event, lost

    def check(self, procedure: Procedure) -> None:
        """See whether *procedure* can be called here at all.

        :raises LibvirtError: it cannot: it would pass descriptors, or be one registration too many.
        """
        if procedure.name in _PASSES_DESCRIPTORS:
            raise refusal(84, "Operation not supported: descriptors cannot be passed on this connection")
        if self._registrations.full(procedure):
            raise refusal(9, "operation failed: too many registrations for events")

    def ask(self, call: ClientCall, procedure: Procedure, payload: bytes) -> None:
        """Call the hypervisor for *call*, now or when it is its turn.

        :raises gateway.errors.Interrupted: the client is gone.
        """
        if self._closed:
            raise errors.Interrupted(maybe_executed=False)
        if self._waiting or not self._has_room(procedure):
            self._waiting.append((call, procedure, payload))
        else:
            self._post(call, procedure, payload)

    def _has_room(self, procedure: Procedure) -> bool:
        """Whether one more call may go, after the others."""
        count = len(self._asked)
        if count < _TOGETHER:
            return True
        oldest = next(iter(self._asked)).began
        return not procedure.writes and count < _QUICK and self._clock.seconds() - oldest < _AT_ONCE

    def _post(self, call: ClientCall, procedure: Procedure, payload: bytes) -> None:
        self._asked[call] = None
        self._registrations.asked(procedure)
        self._connection.post(procedure, payload, call, whole=True)

    def done(self, procedure: Procedure) -> None:
        """*procedure* was called with success."""
        self._registrations.done(procedure)

    def returned(self, call: ClientCall) -> None:
        """*call* is not on its way any more: let others go."""
        del self._asked[call]
        while self._waiting and self._has_room(self._waiting[0][1]):
            call, procedure, payload = self._waiting.popleft()
            call.do(self._post, procedure, payload)

    def flow(self, on: bool) -> None:
        """Read what the hypervisor says, or do not."""
        if self._connection.alive:
            self._connection.read(on)

    def close(self) -> None:
        """Hear nothing more, and send nothing more."""
        self._closed = True
        self._waiting.clear()
        self.flow(True)  # for the answers, whether the client takes them or not
        self._connection.lost = lambda word: None
        self._connection.event = lambda procedure, values: None
        self._registrations.close(self._connection)
