"""Consoles in the browser: websockets on one side, VNC, SPICE and serial ports on the other."""

from gateway.consoles.compose import adopt, compose, origins, recordings
from gateway.consoles.pipe import Pipe
from gateway.consoles.service import ConsoleService

__all__ = ["ConsoleService", "Pipe", "adopt", "compose", "origins", "recordings"]
