"""CONNECT for native SPICE clients: one port that leads where a ticket says, and nowhere else."""

from gateway.tunnel.access import places
from gateway.tunnel.compose import adopt, compose
from gateway.tunnel.service import TunnelService

__all__ = ["TunnelService", "adopt", "compose", "places"]
