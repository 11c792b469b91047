"""The gateway: the only door between the users of virtual machines and the hypervisors.

``tap`` composes the process; ``core`` is what all protocols share; ``wire`` knows the bytes and
no network; every other package is one protocol. ``docs/architecture.md`` shows the way around.
"""

from gateway._version import __version__

__all__ = ["__version__"]
