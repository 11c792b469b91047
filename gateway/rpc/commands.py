"""Every command of the endpoint, by name; :data:`COMMANDS` has them all.

Sizes are bytes, times UTC, durations seconds. ``handle`` is what Open answered; ``dom``, ``net`` and ``pool``
are cookies: each stands for one object of one handle. ``flags`` are libvirt's own numbers. A ``request_id``
makes a command that changes something safe to send again: it is done once.

Lists come in pages: ``cursor`` is where to go on, empty at the beginning and at the end.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.rpc.command import Command

# One name for all of them: where they stand is nobody's business.
from gateway.rpc.commands_base import *  # noqa: F403  # one name for all
from gateway.rpc.commands_base import Login, Version
from gateway.rpc.commands_control import *  # noqa: F403  # likewise
from gateway.rpc.commands_domains import *  # noqa: F403  # likewise
from gateway.rpc.commands_objects import *  # noqa: F403  # likewise

#: What may be asked before the login.
STRANGERS: frozenset[type[Command]] = frozenset({Login, Version})

COMMANDS: Mapping[bytes, type[Command]] = {
    it.commandName: it
    for name, it in sorted(globals().items())
    if isinstance(it, type) and issubclass(it, Command) and it is not Command
}
