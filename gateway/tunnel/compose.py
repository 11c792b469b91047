"""Makes the service of tunnels out of the configuration, and gives it a new one."""

from __future__ import annotations

from collections.abc import Callable

from gateway.core.config import Config
from gateway.core.config_types import port_ranges
from gateway.core.dial import Dialer
from gateway.core.penalties import within
from gateway.core.proofs import Proofs
from gateway.core.sessions import SessionTable
from gateway.tunnel.access import Access
from gateway.tunnel.console import Consoles
from gateway.tunnel.service import TunnelService


def compose(
    config: Config,
    proofs: Proofs,
    sessions: SessionTable,
    dialer: Dialer,
    opened: Callable[[str], object],
) -> TunnelService | None:
    """Make the service, if there is a section for it."""
    if config.tunnel is None:
        return None
    consoles = Consoles(proofs.clock)
    access = Access(proofs.registry, proofs, consoles)
    service = TunnelService(access, consoles, sessions, dialer, proofs.clock, opened=opened)
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
    service.access.free = within(section.allow_from) if section.allow_from else lambda peer: False
