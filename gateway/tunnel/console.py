"""Consoles that are up: all tunnels of one ticket, which are busy and silent together.

A SPICE client has a tunnel for each of its channels. Some of them say nothing for hours while others are
busy, and the client gives up when it loses one. So what counts is whether anything passes on any of them.
"""

from __future__ import annotations

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from gateway import errors
from gateway.core.sessions import Session
from gateway.core.tickets import Hold


@define(eq=False)
class Console:
    """One console.

    :ivar opening: tunnels that are about to be.
    :ivar sessions: of its tunnels, and what viewer each of them is of; None while that is not known.
    """

    _consoles: Consoles = field(repr=False)
    _key: object = field(repr=False)
    opening: int = 0
    sessions: dict[Session, object] = field(factory=dict, repr=False)
    _moved: float = 0.0
    _timer: IDelayedCall | None = field(default=None, repr=False)

    def moved(self) -> None:
        """Something passed on one of its tunnels."""
        self._moved = self._consoles.clock.seconds()

    def enter(self, session: Session) -> None:
        """Take in a tunnel."""
        self.sessions[session] = None
        self.moved()
        self._watch()

    def group(self, session: Session, viewer: object) -> None:
        """Put a tunnel to the others of *viewer*; the first of these has given them its name."""
        if session in self.sessions:
            first = next((it for it, known in self.sessions.items() if known == viewer), session)
            session.console = first.console or session.id
            self.sessions[session] = viewer

    def leave(self, session: Session) -> None:
        """A tunnel is closed."""
        self.sessions.pop(session, None)
        self._consoles.tidy(self._key, self)

    def close(self) -> None:
        """It is over: nothing is left that could be silent."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _watch(self) -> None:
        limit, clock = self._consoles.idle_timeout, self._consoles.clock
        if limit is None or (self._timer is not None and self._timer.active()):
            return
        left = self._moved + limit - clock.seconds()
        if left > 0:
            self._timer = clock.callLater(left, self._watch)
            return
        for session in list(self.sessions):
            session.end("idle")


@define(eq=False)
class Consoles:
    """All that are up, by what they belong to.

    :ivar channels: tunnels of one console at most.
    :ivar idle_timeout: seconds without a byte on any tunnel of a console; None for any time.
    """

    clock: IReactorTime = field(repr=False)
    channels: int = 32
    idle_timeout: float | None = 900.0
    _up: dict[object, Console] = field(factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self._up)

    def hold(self, key: object, peer: str | None) -> Hold | None:
        """What keeps the ticket of a console that is up."""
        session = self.session(key, peer)
        return None if session is None else session.hold

    def session(self, key: object, peer: str | None) -> Session | None:
        """One of a console that is up, of the same *peer*: the use of a ticket is shared with nobody else."""
        console = self._up.get(key)
        sessions = () if console is None else console.sessions
        return next((it for it in sessions if it.hold is not None and it.peer == peer), None)

    def place(self, key: object) -> Console:
        """The console of *key*, with a place for one tunnel more; give it back by :meth:`given`.

        :raises gateway.errors.Unavailable: it has as many as it may have.
        """
        console = self._up.get(key) or Console(self, key)
        if len(console.sessions) + console.opening >= self.channels:
            raise errors.Unavailable("This console has as many channels as it may have", reason="limit")
        self._up[key] = console
        console.opening += 1
        return console

    def given(self, key: object, console: Console) -> None:
        """The place was taken, or is not wanted any more."""
        console.opening -= 1
        self.tidy(key, console)

    def tidy(self, key: object, console: Console) -> None:
        """Forget *console* if it is empty."""
        if not console.sessions and not console.opening:
            console.close()
            self._up.pop(key, None)
