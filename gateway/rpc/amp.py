"""AMP with limits: what arrives is counted before it is kept, calls and answers are bounded, and nothing is
known but the commands of a table.

Twisted's own keeps a box without end, starts every call that arrives, waits for ever, and hangs up when one
call has a bug. Here a box too large ends the connection; reading pauses while too many calls are under way or
the peer does not take its answers; a failure that nobody foresaw is one answer, with a number that the log
has as well.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from secrets import token_hex
from typing import Any, cast

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime, ITransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols import amp
from twisted.python.failure import Failure

from gateway import errors
from gateway.core.batch import BATCH
from gateway.rpc.arguments import HARD_CAP
from gateway.rpc.command import STRANGER, TAG, Command, code, describe
from gateway.rpc.commands import COMMANDS
from gateway.rpc.outlet import Outlet
from gateway.rpc.running import Running
from gateway.wire.amp_box import BoxError, BoxReader, BoxTooLarge, Room, pack

#: Does what a command asks: its arguments by name, None for what was left out; returns the answer's members.
#: It is cancelled when nobody waits for it any more.
Responder = Callable[..., Coroutine[Any, Any, Mapping[str, Any]]]
Table = Mapping[bytes, tuple[type[Command], Responder]]

#: What a box may have before the login. Source: our limits.
STRANGERS_ROOM: Room = (16 * 1024, 16)
#: Boxes that are dealt with in one turn of the reactor.
TURN = 64
#: Seconds after which no other is begun in it: answers that are at hand may be long.
SPAN = 0.01
#: Seconds, and bytes that are thrown away meanwhile, for a peer to hear why it is hung up on.
FAREWELL = 5.0
DISCARD = 16 * 1024 * 1024


def table(*responders: tuple[type[Command], Responder]) -> Table:
    """A table by names."""
    return {command.commandName: (command, responder) for command, responder in responders}


@frozen
class Limits:
    """What one connection may cost.

    :ivar calls: under way at once; with more, reading pauses.
    :ivar work: bytes of the requests under way, likewise.
    :ivar login: seconds until somebody must have logged in, None for any time.
    :ivar idle: seconds without a box and without a call, None for any time.
    :ivar stalled: seconds in which a peer takes nothing of what waits for it.
    """

    calls: int = 64
    work: int = HARD_CAP
    login: float | None = 10.0
    idle: float | None = None
    stalled: float = 60.0


class BoundedAMP(Protocol):
    """One side of a connection: answers the commands of a table, and may send some.

    :ivar responders: the table; :meth:`admit` replaces it.
    :ivar admitted: whether it was replaced.
    :ivar lost: told once, with a word, when the connection is gone. Calls under way are cancelled by then.
    :ivar peer: address, for people.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, responders: Table, limits: Limits | None = None) -> None:
        self.responders = responders
        self.admitted = False
        self.lost: Callable[[str], object] = lambda word: None
        self.peer = ""
        self._clock = clock
        self._limits = limits or Limits()
        self._reader = BoxReader(STRANGERS_ROOM, self._room_of)
        self._calls: set[Running] = set()
        self._work = 0
        self._reading = self._paused = self._over = False
        self._outlet: Outlet | None = None
        self._timers: dict[str, IDelayedCall] = {}
        self._active = 0.0
        self._discarded = 0
        self._word = ""

    # The interface.

    def admit(self, responders: Table, *, room: Room | None = None) -> None:
        """Know the commands of *responders* from now on, and the limits that go with them.

        :param room: what a box may have that holds none of them, for a side that gets answers.
        """
        self.responders, self.admitted = responders, True
        rooms = [STRANGER if room is None else room, *(it.room() for it, _ in responders.values())]
        self._reader.room = max(size for size, _ in rooms), max(pairs for _, pairs in rooms)
        self._set_timer("login", None, self._late)
        self._arm_idle()

    def room(self) -> bool:
        """Whether something may be sent that nobody waits for, such as an event."""
        return self._outlet is not None and self._outlet.room()

    def drained(self) -> Deferred[None]:
        """Fires when there is :meth:`room` again; is cancelled when there never will be."""
        if self._outlet is not None:
            return self._outlet.drained()
        nothing: Deferred[None] = Deferred()
        nothing.cancel()
        return nothing

    def send(self, command: type[Command], **arguments: Any) -> None:
        """Send a command that has no answer; on a connection that is gone nothing happens."""
        if not self._over:
            self._write(pack(command.makeArguments(arguments) | {amp.COMMAND: command.commandName}))

    def end(self, error: errors.GatewayError) -> None:
        """Tell every call under way, and the peer, that it ends here, and why; then hang up."""
        if self._over:
            return
        calls, self._calls = self._calls, set()
        for call in calls:
            self._refuse(call.tag, error)
        self._refuse(b"", error)
        self._shut(error.reason)
        for call in calls:
            call.cancel()

    def close(self) -> None:
        """Hang up, once what waits is sent."""
        if not self._over:
            self._shut("closed")

    @property
    def over(self) -> bool:
        """Whether nothing more can be sent."""
        return self._over

    @property
    def calls(self) -> int:
        """How many are under way."""
        return len(self._calls)

    # Connection.

    def makeConnection(self, transport: ITransport) -> None:
        self.peer = str(getattr(transport.getPeer(), "host", "") or "unix")
        self._active = self._clock.seconds()
        self._outlet = Outlet(transport, self._clock, self._limits.stalled, self._read, self._stuck)
        self._set_timer("login", self._limits.login, self._late)
        super().makeConnection(transport)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._over = True
        for timer in [*self._timers]:
            self._set_timer(timer, None, self._late)
        outlet, self._outlet = self._outlet, None
        if outlet is not None:
            outlet.stop()
        self.gone()
        calls, self._calls = self._calls, set()
        for call in calls:
            call.cancel()
        self.transport = None
        self.lost(self._word or "left")

    def _hang_up(self, word: str) -> None:
        """Cut the connection."""
        self._word = self._word or word
        self._over = True
        if self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]  # no ITransport has it

    def _shut(self, word: str) -> None:
        """Send what waits, and hang up; what still arrives is thrown away."""
        self._word = self._word or word
        self._over = True
        if self._paused and self.transport is not None:
            self._paused = False
            self.transport.resumeProducing()  # type: ignore[attr-defined]  # likewise
        self._set_timer("farewell", FAREWELL, self._hang_up)
        if self._outlet is not None:
            self._outlet.end()

    def _late(self, what: str) -> None:
        self.log.info("{peer} did not log in", peer=self.peer)
        self._hang_up(what)

    def _stuck(self) -> None:
        self.log.info("{peer} does not take its answers", peer=self.peer)
        self._hang_up("stalled")

    def _set_timer(self, name: str, delay: float | None, act: Callable[[str], None]) -> None:
        running = self._timers.pop(name, None)
        if running is not None and running.active():
            running.cancel()
        if delay is not None:
            self._timers[name] = self._clock.callLater(delay, act, name)

    def _arm_idle(self, _: str = "") -> None:
        if self._limits.idle is None or self._over:
            return
        if self._calls:
            self._active = self._clock.seconds()
        left = self._active + self._limits.idle - self._clock.seconds()
        if left <= 0:
            self._shut("idle")
        else:
            self._set_timer("idle", left, self._arm_idle)

    # In.

    def dataReceived(self, data: bytes) -> None:
        if self._over:
            self._discarded += len(data)
            if self._discarded > DISCARD:
                self._hang_up("flood")
            return
        self._reader.feed(data)
        self._read()

    def _room_of(self, name: bytes) -> Room:
        known = self.responders.get(name)
        if known is not None:
            return known[0].room()
        return STRANGER if self.admitted else STRANGERS_ROOM

    def _ready(self) -> bool:
        """Whether one more call may begin; before the login there is one at a time."""
        most = self._limits.calls if self.admitted else 1
        return self.room() and len(self._calls) < most and self._work < self._limits.work

    def _read(self, _: str = "") -> None:
        """Deal with what has arrived, as far as it may be, and let no more arrive than can be dealt with."""
        outlet = self._outlet
        if self._reading or self._over or outlet is None:
            return
        self._reading = True
        seconds = self._clock.seconds
        left, more, until = TURN, True, seconds() + SPAN
        try:
            with BATCH:
                while more and left and self._ready():
                    box = self._reader.next()
                    if box is None:
                        more = False
                    else:
                        self._active = now = seconds()
                        left = 0 if now > until else left - 1
                        self._received(box)
        except BoxError as error:
            self._break(error)
        finally:
            self._reading = False
        if not self._over:
            # What is left in the reader is looked at in the next turn, after the others.
            again = more and self._ready()
            self._set_timer("turn", 0 if again else None, self._read)
            self._pause(more)

    def _pause(self, wanted: bool) -> None:
        if wanted != self._paused and self.transport is not None:
            self._paused = wanted
            transport = cast(Any, self.transport)
            if wanted:
                transport.pauseProducing()
            else:
                transport.resumeProducing()

    def _break(self, error: BoxError) -> None:
        """What arrives cannot be understood from here on."""
        self.log.warn("{peer} is cut off: {why}", peer=self.peer, why=str(error))
        if isinstance(error, BoxTooLarge) and error.tag and len(error.tag) <= TAG and self.admitted:
            self._refuse(error.tag, errors.TooLarge("The call is too large", limit=error.limit))
            self._shut("too_large")
        else:
            self._hang_up("malformed")

    def _received(self, box: dict[bytes, bytes]) -> None:
        name, tag = box.get(amp.COMMAND), box.get(amp.ANSWER, box.get(amp.ERROR))
        if tag is not None:
            if tag == b"" and amp.ERROR in box:
                self.dismissed(box.get(amp.ERROR_CODE, b""), box.get(amp.ERROR_DESCRIPTION, b""))
            else:
                self.answered(tag, box)
        elif name is not None:
            self._called(name, box)
        else:
            raise BoxError("a box is neither call nor answer")

    # For a side that calls, too.

    def answered(self, tag: bytes, box: dict[bytes, bytes]) -> None:
        """The peer answers a call of ours, in some way.

        :raises BoxError: there is none with this number.
        """
        raise BoxError("an answer belongs to no call")

    def gone(self) -> None:
        """The connection is lost; nothing that was asked is answered any more."""

    def dismissed(self, word: bytes, description: bytes) -> None:
        """The peer says why it is about to hang up."""

    # Calls.

    def _called(self, name: bytes, box: dict[bytes, bytes]) -> None:
        tag = box.get(amp.ASK)
        if tag is not None and not 0 < len(tag) <= TAG:
            raise BoxError("the number of a call is too long")
        known = self.responders.get(name)
        if known is None:
            self._unknown(tag, name)
            return
        command, responder = known
        steps = _respond(command, responder, box)
        call = Running(tag, name, self._reader.size, command.writes, self._done, steps)
        self._calls.add(call)
        self._work += call.size
        call.go()

    def _unknown(self, tag: bytes | None, name: bytes) -> None:
        if not self.admitted:
            self._refuse(tag, errors.Unauthenticated())
        elif name in COMMANDS:
            self._refuse(tag, errors.Denied(f"command:{name.decode('ascii')}"))
        elif tag is not None:
            error = errors.NotImplementedHere("There is no such command")
            self._answer(tag, {amp.ERROR_CODE: amp.UNHANDLED_ERROR_CODE}, describe(error))

    def _done(self, call: Running, result: dict[bytes, bytes] | BaseException) -> None:
        self._work -= call.size
        wanted = call in self._calls
        self._calls.discard(call)
        if isinstance(result, dict):
            if wanted and call.tag is not None and not self._over:
                result[amp.ANSWER] = call.tag
                self._write(pack(result))
        elif isinstance(result, CancelledError):
            error = errors.Interrupted("The call was given up", maybe_executed=call.writes)
            self._refuse(call.tag if wanted else None, error)
        elif isinstance(result, errors.GatewayError):
            self._refuse(call.tag if wanted else None, result)
        else:
            self._bug(Failure(result), call, wanted)
        if self._paused:
            self._read()

    def _bug(self, failure: Failure, call: Running, wanted: bool) -> None:
        """Nobody foresaw this: it is told once, here, and the caller gets the number of it."""
        incident = token_hex(4)
        self.log.failure(
            "incident {incident}: {command} failed",
            failure,
            incident=incident,
            command=call.name.decode("ascii", "replace"),
        )
        if wanted and call.tag is not None:
            error = errors.GatewayError()
            self._answer(call.tag, {amp.ERROR_CODE: code(error)}, describe(error, incident=incident))

    # Out.

    def _refuse(self, tag: bytes | None, error: errors.GatewayError) -> None:
        if tag is not None:
            self._answer(tag, {amp.ERROR_CODE: code(error)}, describe(error))

    def _answer(self, tag: bytes, box: dict[bytes, bytes], description: bytes) -> None:
        if not self._over:
            self._write(pack(box | {amp.ERROR: tag, amp.ERROR_DESCRIPTION: description}))

    def _write(self, data: bytes) -> None:
        if self._outlet is not None:
            self._outlet.write(data)


async def _respond(
    command: type[Command], responder: Responder, box: Mapping[bytes, bytes]
) -> dict[bytes, bytes]:
    return command.makeResponse(await responder(**command.parseArguments(box)))
