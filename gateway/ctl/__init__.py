"""``gatewayctl``: the command line of a running gateway, which it asks over the control listener.

:mod:`~gateway.ctl.tree` parses and runs. A command is a class in one of the ``…_commands`` modules,
made of :class:`~gateway.ctl.command.Command`; it gets a :class:`~gateway.ctl.shell.Shell` with the streams
and the :class:`~gateway.ctl.control.Control` that speaks HTTP. What is printed is made by the pure
functions of :mod:`~gateway.ctl.display` and :mod:`~gateway.ctl.progress`.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command in ``sys.argv`` and exit: 0 done, 1 refused or failed, 2 not understood."""
    from gateway.ctl.tree import main as run  # so that whoever only wants the name pays for nothing

    run()
