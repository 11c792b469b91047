"""A connection to a hypervisor, in the part of the client.

Source: libvirt 9.0.0, virnetclient.c and remote_driver.c.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from math import inf
from typing import Any

from attrs import define
from twisted.internet import error
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IFileDescriptorReceiver, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway import errors
from gateway.rpc.answer import Answer, Reply, packed
from gateway.rpc.inbox import Inbox
from gateway.rpc.outbox import Outbox
from gateway.rpc.stream import Stream
from gateway.rpc.upstream_login import Call, log_in
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_message import (
    DESCRIPTORS,
    KEEPALIVE,
    LARGEST,
    PING,
    PONG,
    Message,
    ProtocolError,
    Status,
    Type,
    pack_call,
    read_error,
)
from gateway.wire.libvirt_schema import PROCEDURES, Procedure, procedure
from gateway.wire.xdr_slices import TooManyError, unpack_slowly

#: What a server sends inside TLS when it has accepted our certificate.
_CONFIRMED = b"\1"
#: Seconds between signs of life, and how many may be missing. Source: virsh's default, -k 5 -K 6.
INTERVAL, COUNT = 5.0, 6
#: Seconds that a closed connection has for what was written to it.
LINGER = 5.0
#: Bytes of a reply that is read over several turns of the reactor.
LARGE = 32 * 1024
#: Seconds between two answers to pings, which may come as fast as they like: nobody says that we are read.
PONGS = 0.5
_MOST = LARGEST - len(Message(0, 0, 0, 0, 0, 0).pack())
_PONG = Message(KEEPALIVE, 1, PONG, Type.EVENT, 0, Status.OK).pack()
_PING = Message(KEEPALIVE, 1, PING, Type.EVENT, 0, Status.OK).pack()

_FEATURE = procedure("CONNECT_SUPPORTS_FEATURE")
_OPEN = procedure("CONNECT_OPEN")
_WATCH_CLOSE = procedure("CONNECT_REGISTER_CLOSE_CALLBACK")
_CLOSED = procedure("CONNECT_EVENT_CONNECTION_CLOSED")
_KEEPALIVE_FEATURE, _CLOSE_FEATURE = 10, 15
# The numbers alone: to look a member up takes longer than to compare.
_REPLIES = (int(Type.REPLY), int(Type.REPLY_WITH_FDS))
_OF_STREAMS = (int(Type.STREAM), int(Type.HOLE))
_EVENT = int(Type.EVENT)
_NOT_SUPPORTED = 3


@define(eq=False)
class _Call:
    """A call on its way.

    :ivar answer: has been called already when nobody wants it any more.
    :ivar descriptor: one is the answer.
    :ivar whole: a :class:`Reply` is.
    """

    procedure: Procedure
    answer: Answer
    stream: Stream | None
    descriptor: bool
    whole: bool


def _ignore(*_: object) -> None:
    """Nobody has asked to be told."""


@implementer(IFileDescriptorReceiver)
class LibvirtConnection(Protocol):
    """Calls, events and one stream on a connection of any transport.

    :param tls: the transport encrypts: the server confirms our certificate first, and messages go one by one.
    :ivar event: told each event: its procedure, and its values.
    :ivar lost: told once, with a word, when the connection is gone.
    :ivar login: makes the first calls.
    :ivar alive: calls can be made.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, *, tls: bool = False) -> None:
        self.event: Callable[[Procedure, dict[str, Any]], object] = _ignore
        self.lost: Callable[[str], object] = _ignore
        self.login: Callable[[Call], Awaitable[None]] = log_in
        self.alive = False
        self._clock = clock
        self._tls = tls
        self._inbox = Inbox(clock, self._message, self._nonsense, self._rested)
        self._calls: dict[int, _Call] = {}
        self._streams: dict[int, Stream] = {}
        self._serial = 0
        self._descriptors: deque[int] = deque()
        self._unconfirmed = tls
        self._confirmation: Deferred[None] | None = None
        self._reason = ""
        self._linger: IDelayedCall | None = None
        self._silent = 0
        self._ponged = -inf
        self._beat = LoopingCall(self._look)
        self._beat.clock = clock

    # -- calls -----------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """Calls without an answer, those included that nobody waits for."""
        return len(self._calls)

    async def open(self, name: str | None, *, readonly: bool = False, keepalive: bool = True) -> None:
        """Log in, and open the hypervisor called *name*; an empty one is for the daemon to choose.

        :param keepalive: both sides look whether the other lives; not for a stream, which may have to wait.
        :raises LibvirtError: the daemon refuses.
        :raises gateway.errors.UpstreamFailed: it does not want our certificate, or an authentication that we
            do not have.
        """
        if self._unconfirmed:
            if self._reason:
                raise _unconfirmed()
            self._confirmation = Deferred()
            await self._confirmation
        await self.login(self.call)
        if keepalive and (await self.call(_FEATURE, {"feature": _KEEPALIVE_FEATURE}))["supported"]:
            self._beat.start(INTERVAL, now=False)
        await self.call(_OPEN, {"name": name or None, "flags": int(readonly)})
        if keepalive and (await self.call(_FEATURE, {"feature": _CLOSE_FEATURE}))["supported"]:
            try:
                await self.call(_WATCH_CLOSE)
            except LibvirtError as refusal:
                if refusal.code != _NOT_SUPPORTED:
                    raise

    def call(self, procedure: Procedure, arguments: Mapping[str, object] = {}) -> Deferred[dict[str, Any]]:
        """Call *procedure*; the Deferred fires with its results, and may be cancelled.

        It fails with

        * :class:`LibvirtError`: the hypervisor refuses,
        * :class:`gateway.errors.BadArguments`: *arguments* are not what it takes,
        * :class:`gateway.errors.TooLarge`: they are more than a message holds,
        * :class:`gateway.errors.Interrupted`: the connection is lost.
        """
        return self._call(procedure, arguments)

    def stream(
        self, procedure: Procedure, arguments: Mapping[str, object]
    ) -> Deferred[tuple[dict[str, Any], Stream]]:
        """Call *procedure*, which opens a stream; fire with its results and the stream.

        Fails as :meth:`call`.
        """
        return self._call(procedure, arguments, stream=True)

    def descriptor(self, procedure: Procedure, arguments: Mapping[str, object]) -> Deferred[int]:
        """Call *procedure*, which passes a descriptor; fire with that, which is the caller's to close."""
        return self._call(procedure, arguments, descriptor=True)

    def post(
        self,
        procedure: Procedure,
        payload: bytes,
        answer: Answer,
        *,
        stream: bool = False,
        descriptor: bool = False,
        whole: bool = False,
    ) -> None:
        """Call *procedure* with arguments that are packed; *answer* is told what the others fire with.

        :param whole: it is told a :class:`Reply` instead.
        """
        if not self.alive or len(payload) > _MOST:
            lost = errors.Interrupted(maybe_executed=False)
            answer.errback(Failure(errors.TooLarge(limit=_MOST) if self.alive else lost))
            return
        calls, serial = self._calls, self._serial
        while serial in calls or serial in self._streams:
            serial = (serial + 1) & 0xFFFFFFFF
        self._serial = (serial + 1) & 0xFFFFFFFF
        program, number = procedure.program, procedure.number
        opened = None
        if stream:
            head = Message(program, 1, number, Type.CALL, serial, Status.OK)
            # At once, for data may arrive before the answer.
            opened = self._streams[serial] = Stream(self, head, writes=procedure.stream == "w")
        calls[serial] = _Call(procedure, answer, opened, descriptor, whole)
        self.outbox.send(pack_call(program, number, serial, payload))

    def _call(
        self,
        procedure: Procedure,
        arguments: Mapping[str, object],
        *,
        stream: bool = False,
        descriptor: bool = False,
    ) -> Deferred[Any]:
        if not self.alive:
            return fail(errors.Interrupted(maybe_executed=False))
        try:
            payload = packed(procedure, arguments)
        except errors.BadArguments as failure:
            return fail(failure)
        answer: Deferred[Any] = Deferred()
        self.post(procedure, payload, answer, stream=stream, descriptor=descriptor)
        return answer

    def close(self) -> None:
        """Close the connection; what was written still goes out, when the other side takes it."""
        if not self._reason:
            self._reason, self.alive = "closed", False
            self._inbox.stop()
            transport: Any = self.transport
            self._linger = self._clock.callLater(LINGER, transport.abortConnection)
            self.outbox.close()
            transport.resumeProducing()
            transport.loseConnection()

    def abort(self, reason: str) -> None:
        """Cut the connection."""
        self._reason, self.alive = self._reason or reason, False
        self._inbox.stop()
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()

    # -- of the streams --------------------------------------------------------------------

    def read(self, on: bool) -> None:
        """Read from the network, or do not."""
        self._inbox.read(on)

    def forget(self, serial: int) -> None:
        """The stream of this number is over."""
        self._streams.pop(serial, None)

    # -- of the transport ------------------------------------------------------------------

    def connectionMade(self) -> None:
        transport: Any = self.transport
        self.outbox = Outbox(transport, self._clock, single=self._tls)
        self._inbox.connected(transport)
        self.alive = not self._tls and not self._reason
        if self._reason:
            transport.abortConnection()

    def fileDescriptorReceived(self, descriptor: int) -> None:
        """Keep a descriptor until its message is whole."""
        self._descriptors.append(descriptor)
        if len(self._descriptors) > DESCRIPTORS:
            self._nonsense("too many descriptors")

    def dataReceived(self, data: bytes) -> None:
        self._silent = 0
        if self._reason:
            return
        if self._unconfirmed:
            if not data.startswith(_CONFIRMED):
                self.abort("tls")
                return
            data = data[1:]
            self._unconfirmed, self.alive = False, True
            confirmation, self._confirmation = self._confirmation, None
            if confirmation is not None:
                confirmation.callback(None)
        self._inbox.feed(data)

    def _rested(self) -> None:
        if self._descriptors and not self._inbox.part:
            self._nonsense("descriptors of no message")

    def _nonsense(self, problem: str) -> None:
        self.log.warn("a hypervisor spoke nonsense: {problem}", problem=problem)
        self.abort("malformed")

    def _message(self, message: Message) -> Iterator[None] | None:
        kind = message.type
        if kind in _REPLIES:
            return self._reply(message)
        elif kind in _OF_STREAMS:
            stream = self._streams.get(message.serial)
            if stream is not None:  # else it was given up, and did not know yet
                stream.message(message)
        elif kind != _EVENT:
            raise ProtocolError(f"a message of type {kind} from a server")
        elif message.program != KEEPALIVE:
            self._told(message)
        elif message.procedure == PING and self._clock.seconds() - self._ponged >= PONGS:
            self._ponged = self._clock.seconds()
            self.outbox.send(_PONG)
        return None

    def _told(self, message: Message) -> None:
        known = PROCEDURES.get((message.program, message.procedure))
        if known is None or not known.event:
            self.log.debug("an event {number} that we do not know", number=message.procedure)
            return
        values = known.arguments.unpack(message.payload)
        if known is _CLOSED:
            self.abort("hypervisor")
        else:
            self.event(known, values)

    def _reply(self, message: Message) -> Iterator[None] | None:
        program, _, number, _, serial, status, payload, count = message
        call = self._calls.get(serial)
        if call is None or call.procedure.number != number or call.procedure.program != program:
            raise ProtocolError("an answer to no call")
        if count > len(self._descriptors):
            raise ProtocolError("an answer without its descriptors")
        if len(payload) > LARGE and not status:
            return self._slowly(call, serial, payload, count)
        refusal: errors.GatewayError | None = read_error(payload) if status else None
        result: Any = None if refusal else call.procedure.results.unpack(payload)
        if call.whole and refusal is None:
            result = Reply(result, payload)
        self._answered(call, serial, count, refusal, result)
        return None

    def _slowly(self, call: _Call, serial: int, payload: bytes, count: int) -> Iterator[None]:
        refusal, result = None, None
        try:
            result = yield from unpack_slowly(call.procedure.results, payload)
            if call.whole:
                result = Reply(result, payload)
        except TooManyError as error:
            refusal = errors.TooLarge(f"The hypervisor's answer is too large: {error}")
        self._answered(call, serial, count, refusal, result)

    def _answered(
        self, call: _Call, serial: int, count: int, refusal: errors.GatewayError | None, result: Any
    ) -> None:
        del self._calls[serial]
        answer, stream = call.answer, call.stream
        wanted = not answer.called
        if call.descriptor and refusal is None:
            if not count:
                refusal = errors.UpstreamFailed(reason="malformed")
            elif wanted:
                result, count = self._descriptors.popleft(), count - 1
        for _ in range(count):
            os.close(self._descriptors.popleft())
        if stream is not None and refusal is not None:
            self.forget(serial)
        elif stream is not None:
            stream.opened()
            result = (result, stream)
            if not wanted:
                stream.abort()
        if wanted and refusal is None:
            answer.callback(result)
        elif wanted:
            answer.errback(Failure(refusal))

    def _look(self) -> None:
        """Ask whether the hypervisor is there, when it has not said anything for a while."""
        self._silent += 1
        if self._silent > COUNT:
            self.abort("silent")
        elif self._silent > 1:
            self.outbox.send(_PING)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        word = self._reason = self._reason or ("closed" if reason.check(error.ConnectionDone) else "lost")
        self.alive = False
        self._inbox.stop()
        if self._beat.running:
            self._beat.stop()
        if self._linger is not None and self._linger.active():
            self._linger.cancel()
        while self._descriptors:
            os.close(self._descriptors.popleft())
        confirmation, self._confirmation = self._confirmation, None
        if confirmation is not None:
            confirmation.errback(Failure(_unconfirmed()))
        for stream in [*self._streams.values()]:
            stream.broken(errors.Interrupted(maybe_executed=stream.writes), word)
        calls = [*self._calls.values()]
        self._calls.clear()
        for call in calls:
            if not call.answer.called:
                done = errors.Interrupted(maybe_executed=call.procedure.writes == "W")
                call.answer.errback(Failure(done))
        self.lost(word)


def _unconfirmed() -> errors.UpstreamFailed:
    return errors.UpstreamFailed("The hypervisor did not accept our certificate", reason="tls")
