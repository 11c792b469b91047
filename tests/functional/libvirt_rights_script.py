"""libvirt-python with rights for some domains, in a process of its own: ``python … URI UUID ID NAME``.

Of a domain that it may not see it knows the uuid, the number and the name. It writes one line of JSON for all
that it was shown, another when it waits for events, and one for each event until its input ends.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from typing import Any

import libvirt


def say(**seen: Any) -> None:
    sys.stdout.write(json.dumps(seen) + "\n")
    sys.stdout.flush()


def turn() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def refusal(act: Callable[[], Any]) -> int:
    """The number of the error."""
    try:
        return len(str(act()))
    except libvirt.libvirtError as error:
        number: int = error.get_error_code()
        return number


def main(uri: str, uuid: str, number: str, name: str) -> None:
    libvirt.registerErrorHandler(lambda *_: None, None)
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=turn, daemon=True).start()
    connection = libvirt.open(uri)
    everything = connection.listAllDomains()
    say(
        listed=[it.name() for it in everything],
        ids=connection.listDomainsID(),
        running=connection.numOfDomains(),
        defined=connection.listDefinedDomains(),
        stats=[domain.name() for domain, _ in connection.getAllDomainStats()],
        some_stats=[domain.name() for domain, _ in connection.domainListGetStats(everything)],
        looked_up=[
            refusal(lambda: connection.lookupByName(name)),
            refusal(lambda: connection.lookupByUUIDString(uuid)),
            refusal(lambda: connection.lookupByID(int(number))),
        ],
    )
    kinds = [it for it in dir(libvirt) if it.startswith("VIR_DOMAIN_EVENT_ID_") and not it.endswith("LAST")]
    for kind in kinds:
        connection.domainEventRegisterAny(
            None, getattr(libvirt, kind), lambda _, domain, *rest: say(event=domain.name()), None
        )
    say(waiting=len(kinds) > 20)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
