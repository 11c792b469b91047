"""Consoles in the browser: websockets on one side, VNC, SPICE and serial ports on the other."""

from gateway.consoles.compose import adopt, compose, origins, recordings
from gateway.consoles.pipe import Pipe
from gateway.consoles.service import ConsoleService
from gateway.consoles.targets import places

__all__ = ["ConsoleService", "Pipe", "adopt", "compose", "origins", "places", "recordings"]
