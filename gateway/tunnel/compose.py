"""Makes the service of tunnels out of the configuration, and gives it a new one."""

from __future__ import annotations

from collections.abc import Callable

from gateway.core.base import Base
from gateway.core.config import Config
from gateway.core.config_types import port_ranges
from gateway.core.penalties import within
from gateway.core.proofs import Proofs
from gateway.tunnel.access import Access
from gateway.tunnel.console import Consoles
from gateway.tunnel.service import TunnelService


def compose(
    config: Config, base: Base, opened: Callable[[str], object], dialed: Callable[[str, float], object]
) -> TunnelService | None:
    """Make the service, if there is a section for it; *opened* and *dialed* are its."""
    if config.tunnel is None:
        return None
    clock = base.reactor
    consoles = Consoles(clock)
    proofs = Proofs(base.registry, base.tokens, clock, base.wall)
    access = Access(base.registry, proofs, consoles)
    service = TunnelService(access, consoles, base.sessions, base.dialer, clock, opened=opened, dialed=dialed)
    adopt(service, config)
    return service


def adopt(service: TunnelService | None, config: Config) -> None:
    """Go by *config* from now on; tunnels that are up stay."""
    section = config.tunnel
    if service is None or section is None:
        return
    service.guarded = section.guard == "spice"
    service.consoles.channels = section.channels_per_ticket
    service.consoles.idle_timeout = section.idle_timeout
    service.access.ports = port_ranges(section.ports) or None
    service.access.subjects = section.allowed_dn
    service.access.free = within(section.allow_from) if section.allow_from else lambda peer: False
