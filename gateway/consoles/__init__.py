"""Consoles in the browser: websockets on one side, VNC, SPICE and serial ports on the other."""
