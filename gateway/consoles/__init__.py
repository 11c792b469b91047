"""Consoles in the browser: websockets to the VNC, SPICE and serial consoles of virtual machines."""
