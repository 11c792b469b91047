"""SPICE consoles that are up: one session each, and the channels that belong to it.

A client opens one websocket for each channel, all with the same ticket. The first, the main channel, uses the
ticket; the server tells the session's id on it, and who names that id with that ticket belongs to it.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field
from twisted.logger import Logger

from gateway import errors
from gateway.core.sessions import Session, SessionTable
from gateway.core.tickets import Ticket
from gateway.wire.spice_link import LinkMessage
from gateway.wire.spice_view import VIEWED

#: Channels of one console.
CHANNELS = 32


@define(eq=False)
class SpiceChannel:
    """One channel of a console; its owner calls :meth:`leave` when it is over.

    :ivar link: which one.
    """

    console: SpiceConsole = field(repr=False)
    link: LinkMessage
    _ended: Callable[[str], None] = field(repr=False)

    @property
    def session(self) -> Session:
        """That of the console; the owner adds to its counters."""
        if self.console.session is None:
            raise errors.NoTicket(reason="revoked")
        return self.console.session

    def bind(self, connection_id: int) -> None:
        """The server told the id of the session, on the main channel: others may join from now on."""
        if self.console.main is self:
            self.console.connection_id = connection_id

    def leave(self, reason: str) -> None:
        """This channel is over; without its main channel the whole console is."""
        self.console.left(self, reason)

    def end(self, reason: str) -> None:
        """Only for :class:`SpiceConsole`."""
        self._ended(reason)


@define(eq=False)
class SpiceConsole:
    """One console.

    :ivar ticket_id: what the registry knows its ticket by.
    :ivar session: None only while it is being opened.
    :ivar connection_id: of the session at the server; None until that has told it.
    :ivar gone: called once, when nobody may join any more.
    """

    ticket_id: str = field(repr=False)
    gone: Callable[[SpiceConsole], None] = field(repr=False)
    session: Session | None = None
    connection_id: int | None = None
    main: SpiceChannel | None = field(default=None, repr=False)
    channels: dict[SpiceChannel, None] = field(factory=dict, repr=False)
    over: bool = False
    _log = Logger()

    @property
    def ticket(self) -> Ticket | None:
        """Under which it is; None once it is over."""
        if self.over or self.session is None or self.session.hold is None:
            return None
        return self.session.hold.ticket

    def join(self, link: LinkMessage, op: str, ended: Callable[[str], None]) -> SpiceChannel:
        """Add a channel.

        :raises gateway.errors.Forbidden: who may only look has no use for such a channel.
        :raises gateway.errors.Unavailable: it has as many as it may have.
        """
        if op != "control" and link.channel_type not in VIEWED:
            raise errors.Forbidden("This ticket is for looking only", reason="view")
        if len(self.channels) >= CHANNELS:
            raise errors.Unavailable("This console has as many channels as it may have", reason="limit")
        channel = SpiceChannel(self, link, ended)
        self.channels[channel] = None
        return channel

    def left(self, channel: SpiceChannel, reason: str) -> None:
        """Only for :meth:`SpiceChannel.leave`."""
        if channel not in self.channels:
            return
        del self.channels[channel]
        if channel is self.main or not self.channels:
            self.end(reason)
            if self.session is not None:
                self.session.close(reason)

    def abandon(self) -> list[SpiceChannel]:
        """Let nobody in any more; return who was."""
        if not self.over:
            self.over = True
            self.gone(self)
        channels = list(self.channels)
        self.channels.clear()
        return channels

    def end(self, reason: str) -> None:
        """End all its channels; called when the ticket is revoked, too."""
        for channel in self.abandon():
            with self._log.failuresHandled("a channel failed to end"):
                channel.end(reason)


@define(eq=False)
class SpiceConsoles:
    """All that are up, by what was shown to open them.

    :ivar sessions: where the session of each is.
    """

    sessions: SessionTable = field(repr=False)
    _by_key: dict[bytes, list[SpiceConsole]] = field(factory=dict, repr=False)

    def under(self, key: bytes) -> list[SpiceConsole]:
        """Return the consoles that one may join who shows what *key* is the hash of."""
        return [console for console in self._by_key.get(key, ()) if console.ticket is not None]

    def enter(self, key: bytes, ticket_id: str) -> SpiceConsole:
        """Return a new console without a session."""

        def gone(console: SpiceConsole) -> None:
            others = self._by_key.get(key, [])
            if console in others:
                others.remove(console)
            if not others:
                self._by_key.pop(key, None)

        console = SpiceConsole(ticket_id, gone)
        self._by_key.setdefault(key, []).append(console)
        return console

    async def unreached(self, channel: SpiceChannel, reason: str) -> None:
        """The server of *channel* is out of reach: a new console gives the use of its ticket back."""
        console = channel.console
        if console.main is channel and console.session is not None and not console.over:
            console.channels.pop(channel, None)
            console.end(reason)
            await self.sessions.undo(console.session, reason)
        else:
            channel.leave(reason)
