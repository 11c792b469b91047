"""Makes the service of consoles out of the configuration, and gives it a new one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from gateway import errors
from gateway.consoles.access import Access
from gateway.consoles.bridge import Consoles
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
    config: Config, base: Base, kept: Recordings, refused: Callable[[str, errors.GatewayError], object]
) -> ConsoleService | None:
    """Make the service, if there is a section for it.

    :param kept: of the process, see :func:`recordings`.
    :raises gateway.errors.ConfigError: the section is no good.
    """
    if config.consoles is None:
        return None
    access = Access(base.registry, base.tokens, base.sessions, origins(config), base.reactor, base.wall)
    reach, sockets = Reach(base.dialer), SocketFactory(base.reactor)
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
    consoles.reach = Reach(
        consoles.reach.dialer,
        section.vnc_ca,
        section.spice_ca,
        section.client_certificate,
        section.client_key,
    )
    consoles.idle_timeout = section.idle_timeout
    consoles.recordings.adopt(section.recordings, section.recording_size)
