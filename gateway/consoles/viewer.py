"""Those who look at a shared VNC console: what each has seen, and what it gets.

What a viewer has not seen is noted, never queued: whoever is slow sees fewer pictures, and costs no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import pack
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from gateway import errors
from gateway.wire.rfb import ServerInit
from gateway.wire.rfb_messages import Message
from gateway.wire.rfb_server import Encoding
from gateway.wire.rfb_viewer import ViewerEncoder

if TYPE_CHECKING:
    from gateway.consoles.shared import Hub

#: For those who watch: pictures that need nothing of those before, sizes, and the pointer.
_WATCHED = (Encoding.TIGHT, Encoding.ZRLE, Encoding.SIZE, Encoding.CURSOR)

Take = Callable[[bytes], object]
Gone = Callable[[errors.GatewayError | None], object]


@implementer(IPushProducer)
class Viewer:
    """Somebody who looks at a console. To pause it costs nothing: nothing is kept for it.

    :param take: takes bytes for it.
    :param gone: called when the console has ended; with what went wrong, if anything did.
    :param controls: it may control the console.
    :ivar ready: fires when the console is there, or with why it is not.
    """

    def __init__(self, hub: Hub, take: Take, gone: Gone, *, controls: bool = False) -> None:
        self.hub = hub
        self.take = take
        self.gone = gone
        self.controls = controls
        self.ready: Deferred[None] = Deferred()
        #: Told whether it is in control, and whether what it types is taken.
        self.in_control: Callable[[bool], object] = lambda true: None
        self.flow: Callable[[bool], object] = lambda flows: None
        self.encoder: ViewerEncoder | None = None
        self._full = False
        # The update that it is being shown, and whether there was anything to show.
        self._update: Iterator[bytes] | None = None
        self._shown = False
        # What it could not take yet. Of several clipboards only the last matters.
        self._late: dict[int, bytes] = {}

    @property
    def wants(self) -> bool:
        """It wants to see more, and has room for it."""
        return not self._full and self.encoder is not None and self.encoder.wants

    def begin(self, *, takeover: bool = False) -> ServerInit:
        """Look from now on; return what the screen is."""
        return self.hub.begin(self, takeover)

    def receive(self, message: bytes) -> None:
        """Take a message about its own picture.

        :raises gateway.errors.BadRequest: it wants pixels that nobody makes here.
        """
        if self.encoder is not None:
            self.encoder.receive(message)
            self.hub.look(self)

    def act(self, data: bytes) -> None:
        """Take what it types: whole messages that may change the guest."""
        self.hub.act(self, data)

    def tell(self, message: bytes, *, keep: bool) -> None:
        """Pass on a message that is no picture; when there is no room, *keep* it or forget it."""
        if not self._full and self._update is None:
            self.take(message)
        elif keep or not self._full:
            self._late[message[0]] = message

    def show(self) -> bool:
        """Show it a piece of what it has not seen; return whether there may be more to show now.

        An update that was begun is finished, for nothing may come in between; none is begun without room.
        """
        if self.encoder is None:
            return False
        if self._update is None:
            self._catch_up()
            if not self.wants:
                return False
            self._update = self.encoder.pieces()
        piece = next(self._update, b"")
        if piece:
            self._shown = True
            self.piece(piece)
            return True
        shown, self._shown, self._update = self._shown, False, None
        self.complete()
        self._catch_up()
        # It may have asked again meanwhile.
        return shown and self.wants

    def piece(self, data: bytes) -> None:
        """Take a piece of an update."""
        self.take(data)

    def complete(self) -> None:
        """That was the last piece."""

    def _catch_up(self) -> None:
        while self._late and not self._full:
            self.take(self._late.pop(next(iter(self._late))))

    def leave(self, *, cut: bool = False) -> None:
        """It is gone; with the last one the connection ends, at once if it is to be *cut*."""
        self._update = None
        self.hub.leave(self, cut)

    def pauseProducing(self) -> None:
        self._full = True

    def resumeProducing(self) -> None:
        self._full = False
        self.hub.look(self)

    def stopProducing(self) -> None:
        """Whoever owns it says when it leaves."""
        self._full = True


class Watching(Viewer):
    """One who sees everything and is seen by nobody: the console ends without minding it.

    What it takes are messages of a server, whole ones and in 32-bit true color of the order red, green, blue,
    nothing: at first the whole screen, then what is new, in Tight; sizes as DesktopSize; the pointer's shape;
    the bell and the clipboard. It may be paused.

    :ivar init: how the screen was at the beginning, as a server says it.
    """

    init: bytes
    _pieces: list[bytes]

    def start(self) -> None:
        """Begin to look."""
        self._pieces = []
        self.init = self.begin().encode()
        self.receive(pack(f">BxH{len(_WATCHED)}i", Message.SET_ENCODINGS, len(_WATCHED), *_WATCHED))
        self._ask()

    def show(self) -> bool:
        return super().show() or self._ask()

    def piece(self, data: bytes) -> None:
        self._pieces.append(data)

    def complete(self) -> None:
        pieces, self._pieces = self._pieces, []
        if pieces:
            self.take(b"".join(pieces))

    def stop(self) -> None:
        """See nothing more; it may be called at any time."""
        self.leave()

    def _ask(self) -> bool:
        """Want more; return whether it did not before."""
        if self.encoder is None or self.encoder.wants:
            return False
        self.encoder.wants = True
        self.hub.look(self)
        return True
