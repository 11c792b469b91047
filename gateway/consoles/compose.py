"""Makes the service of consoles out of the configuration, and gives it a new one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from attrs import evolve
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from gateway import errors
from gateway.consoles.access import Access
from gateway.consoles.bridge import Consoles
from gateway.consoles.hypervisor import HypervisorReach, Hypervisors
from gateway.consoles.origin import Origins
from gateway.consoles.recording import Recordings
from gateway.consoles.service import ConsoleService
from gateway.consoles.targets import Reach
from gateway.consoles.websocket import SocketFactory
from gateway.core.addresses import console_url
from gateway.core.base import Base
from gateway.core.config import Config
from gateway.core.ticket_news import Trail

#: Threads for recordings, so that their disk makes no transfer wait.
_THREADS = 4


def recordings(reactor: Any, wall: Callable[[], float], audit: Trail) -> Recordings:
    """What keeps recordings, with threads of its own; a service that somebody has to start."""
    threads = ThreadPool(0, _THREADS, "recordings")
    return Recordings(partial(deferToThreadPool, reactor, threads), reactor, wall, audit, threads)


def origins(config: Config) -> Origins:
    """The pages that may open consoles.

    :raises gateway.errors.ConfigError: with every word that is no origin.
    """
    words = () if config.consoles is None else config.consoles.origins
    return Origins.of(words, config.gateway.public_url, console_url(config))


def compose(
    config: Config,
    base: Base,
    kept: Recordings,
    refused: Callable[[str, errors.GatewayError], object],
    hypervisors: Hypervisors | None = None,
) -> ConsoleService | None:
    """Make the service, if there is a section for it.

    :param kept: of the process, see :func:`recordings`.
    :param hypervisors: whose consoles tickets may name; without, they may name none.
    :raises gateway.errors.ConfigError: the section is no good.
    """
    if config.consoles is None:
        return None
    access = Access(base.registry, base.tokens, base.sessions, origins(config), base.reactor, base.wall)
    behind = None if hypervisors is None else HypervisorReach(hypervisors, base.reactor)
    reach, sockets = Reach(base.dialer, hypervisors=behind), SocketFactory(base.reactor)
    service = ConsoleService(Consoles(access, reach, sockets, base.reactor, kept), refused)
    adopt(service, config)
    return service


def adopt(service: ConsoleService | None, config: Config) -> None:
    """Go by *config* from now on; consoles that are up stay as they are.

    :raises gateway.errors.ConfigError: the section is no good.
    """
    section = config.consoles
    if service is None or section is None:
        return
    consoles = service.consoles
    consoles.access.origins = origins(config)
    consoles.access.prefixes = section.paths
    consoles.reach = evolve(
        consoles.reach,
        vnc_ca=section.vnc_ca,
        spice_ca=section.spice_ca,
        certificate=section.client_certificate,
        key=section.client_key,
    )
    consoles.idle_timeout = section.idle_timeout
    consoles.recordings.adopt(section.recordings, section.recording_size)
