"""Events of the reactor are dealt with as they are, without a log context made for each of them.

Twisted names the connection in it, for messages of its older log. That takes eleven calls for each event,
half as many as to read a key that was typed and pass it on, and nobody looks: our log has fields, and leaves
that one out.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import ILoggingContext
from twisted.python import log


def without_context() -> None:
    """Let every reactor of this process do so."""
    # Reactors look it up for each event.
    log.callWithLogger = _call


def _call(selectable: ILoggingContext, function: Callable[..., object], *arguments: object) -> object:
    """As the original: whatever goes wrong is logged, and the reactor goes on."""
    try:
        return function(*arguments)
    except KeyboardInterrupt:
        raise
    except BaseException:
        log.err(system=selectable.logPrefix())
        return None
