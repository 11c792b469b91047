"""Consoles in the browser: websockets on one side, VNC, SPICE and serial ports on the other."""

from gateway.consoles.compose import adopt, compose, origins, recordings
from gateway.consoles.pipe import Pipe
from gateway.consoles.service import ConsoleService
from gateway.consoles.websocket import SocketFactory

__all__ = ["ConsoleService", "Pipe", "SocketFactory", "adopt", "compose", "origins", "recordings"]
