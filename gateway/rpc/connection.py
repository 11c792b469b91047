"""A connection to a hypervisor, in the part of the client.

Source: libvirt 9.0.0, virnetclient.c and remote_driver.c.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from attrs import define
from twisted.internet import error
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IFileDescriptorReceiver, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway import errors
from gateway.rpc.outbox import Outbox
from gateway.rpc.stream import Stream
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_message import (
    DESCRIPTORS,
    KEEPALIVE,
    PING,
    PONG,
    Message,
    MessageReader,
    ProtocolError,
    Status,
    Type,
    read_error,
)
from gateway.wire.libvirt_schema import PROCEDURES, Procedure, procedure
from gateway.wire.xdr import XdrError

#: What a server sends inside TLS when it has accepted our certificate.
_CONFIRMED = b"\1"
#: Seconds between signs of life, and how many may be missing. Source: virsh's default, -k 5 -K 6.
INTERVAL, COUNT = 5.0, 6
_PONG = Message(KEEPALIVE, 1, PONG, Type.EVENT, 0, Status.OK).pack()
_PING = Message(KEEPALIVE, 1, PING, Type.EVENT, 0, Status.OK).pack()

_AUTH_LIST = procedure("AUTH_LIST")
_AUTH_POLKIT = procedure("AUTH_POLKIT")
_FEATURE = procedure("CONNECT_SUPPORTS_FEATURE")
_OPEN = procedure("CONNECT_OPEN")
_WATCH_CLOSE = procedure("CONNECT_REGISTER_CLOSE_CALLBACK")
_CLOSED = procedure("CONNECT_EVENT_CONNECTION_CLOSED")
_KEEPALIVE_FEATURE, _CLOSE_FEATURE = 10, 15


@define(eq=False)
class _Call:
    """A call on its way.

    :ivar answer: None when nobody wants it any more.
    :ivar result: what waits for descriptors.
    """

    procedure: Procedure
    answer: Deferred[Any] | None
    stream: Stream | None = None
    descriptor: bool = False


def _ignore(*_: object) -> None:
    """Nobody has asked to be told."""


@implementer(IFileDescriptorReceiver)
class LibvirtConnection(Protocol):
    """Calls, events and one stream on a connection of any transport.

    :param tls: the transport encrypts: the server confirms our certificate first, and messages go one by one.
    :ivar event: told each event: its procedure, and its values.
    :ivar lost: told once, with a word, when the connection is gone.
    :ivar alive: calls can be made.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, *, tls: bool = False) -> None:
        self.event: Callable[[Procedure, dict[str, Any]], object] = _ignore
        self.lost: Callable[[str], object] = _ignore
        self.alive = False
        self._clock = clock
        self._tls = tls
        self._reader = MessageReader()
        self._calls: dict[int, _Call] = {}
        self._streams: dict[int, Stream] = {}
        self._serial = 0
        self._descriptors: deque[int] = deque()
        self._wanting: deque[tuple[_Call, int]] = deque()
        self._unconfirmed = tls
        self._confirmation: Deferred[None] | None = None
        self._reason = ""
        self._silent = 0
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
        if self._unconfirmed and self.alive:
            self._confirmation = Deferred()
            await self._confirmation
        types = (await self.call(_AUTH_LIST))["types"]
        if 2 in types:
            await self.call(_AUTH_POLKIT)
        elif 0 not in types:
            raise errors.UpstreamFailed("The hypervisor wants another authentication", reason="auth")
        if keepalive and (await self.call(_FEATURE, {"feature": _KEEPALIVE_FEATURE}))["supported"]:
            self._beat.start(INTERVAL, now=False)
        await self.call(_OPEN, {"name": name or None, "flags": int(readonly)})
        if keepalive and (await self.call(_FEATURE, {"feature": _CLOSE_FEATURE}))["supported"]:
            try:
                await self.call(_WATCH_CLOSE)
            except LibvirtError as refusal:
                if refusal.code != 3:  # this driver does not tell
                    raise

    def call(self, procedure: Procedure, arguments: Mapping[str, object] = {}) -> Deferred[dict[str, Any]]:
        """Call *procedure*; the Deferred fires with its results, and may be cancelled.

        It fails with

        * :class:`LibvirtError`: the hypervisor refuses,
        * :class:`gateway.errors.BadArguments`: *arguments* are not what it takes,
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

    def _call(
        self,
        procedure: Procedure,
        arguments: Mapping[str, object],
        *,
        stream: bool = False,
        descriptor: bool = False,
    ) -> Deferred[Any]:
        try:
            payload = procedure.arguments.pack(arguments)
        except XdrError as failure:
            return fail(errors.BadArguments(failure.path, failure.text))
        if not self.alive:
            return fail(errors.Interrupted(maybe_executed=False))
        serial = self._serial
        while serial in self._calls or serial in self._streams:
            serial = (serial + 1) & 0xFFFFFFFF
        self._serial = (serial + 1) & 0xFFFFFFFF
        head = Message(procedure.program, 1, procedure.number, Type.CALL, serial, Status.OK, payload)
        call = _Call(procedure, None, descriptor=descriptor)

        def forget(_: object) -> None:
            # The answer comes all the same, and must be known for what it is.
            call.answer = None

        answer = call.answer = Deferred(forget)
        self._calls[serial] = call
        if stream:
            # Before the answer arrives, for data may follow in the same read.
            call.stream = Stream(self, head._replace(payload=b""), writes=procedure.stream == "w")
        self.outbox.send(head.pack())
        return answer

    def close(self) -> None:
        """Close the connection; what was written still goes out."""
        if self.alive:
            self.alive = False
            self._reason = self._reason or "closed"
            self.outbox.close()
            transport: Any = self.transport
            transport.resumeProducing()
            transport.loseConnection()

    def abort(self, reason: str) -> None:
        """Cut the connection."""
        self._reason = self._reason or reason
        if self.transport is not None:
            self.alive = False
            self.transport.abortConnection()  # type: ignore[attr-defined]

    # -- of the streams --------------------------------------------------------------------

    def read(self, on: bool) -> None:
        """Read from the network, or do not."""
        transport: Any = self.transport
        if on:
            transport.resumeProducing()
        else:
            transport.pauseProducing()

    def forget(self, head: Message) -> None:
        """The stream of *head* is over."""
        self._streams.pop(head.serial, None)

    # -- of the transport ------------------------------------------------------------------

    def connectionMade(self) -> None:
        transport: Any = self.transport
        self.outbox = Outbox(transport, self._clock, single=self._tls)
        self.alive = True

    def fileDescriptorReceived(self, descriptor: int) -> None:
        """Keep a descriptor until its message is there, or the other way round."""
        if len(self._descriptors) >= DESCRIPTORS:
            os.close(descriptor)
            self.abort("malformed")
            return
        self._descriptors.append(descriptor)
        self._hand_over()

    def dataReceived(self, data: bytes) -> None:
        self._silent = 0
        if self._unconfirmed:
            if not data.startswith(_CONFIRMED):
                self.abort("tls")
                return
            data = data[1:]
            self._unconfirmed = False
            confirmation, self._confirmation = self._confirmation, None
            if confirmation is not None:
                confirmation.callback(None)
        try:
            for message in self._reader.feed(data):
                self._message(message)
                if self._reason:
                    return
        except (ProtocolError, XdrError) as failure:
            self.log.warn("a hypervisor spoke nonsense: {problem}", problem=str(failure))
            self.abort("malformed")

    def _message(self, message: Message) -> None:
        if message.type in (Type.REPLY, Type.REPLY_WITH_FDS):
            self._reply(message)
        elif message.type in (Type.STREAM, Type.HOLE):
            stream = self._streams.get(message.serial)
            if stream is not None:  # else it was given up, and did not know yet
                stream.message(message)
        elif message.type != Type.EVENT:
            raise ProtocolError(f"a message of type {message.type} from a server")
        elif message.program == KEEPALIVE:
            if message.procedure == PING:
                self.outbox.send(_PONG)
        else:
            self._told(message)

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

    def _reply(self, message: Message) -> None:
        call = self._calls.get(message.serial)
        if call is None or call.procedure.number != message.procedure:
            raise ProtocolError("an answer to no call")
        if message.status == Status.ERROR:
            failure = read_error(message.payload)
            del self._calls[message.serial]
            if call.answer is not None:
                call.answer.errback(Failure(failure))
            return
        result: Any = call.procedure.results.unpack(message.payload)
        del self._calls[message.serial]
        if call.stream is not None:
            if call.answer is None:
                call.stream.abort()
                return
            self._streams[message.serial] = call.stream
            result = (result, call.stream)
        if call.descriptor or message.descriptors:
            self._wanting.append((call, message.descriptors))
            self._hand_over()
        elif call.answer is not None:
            call.answer.callback(result)

    def _hand_over(self) -> None:
        """Give the descriptors that are there to the answers that want them, in order."""
        while self._wanting and len(self._descriptors) >= self._wanting[0][1]:
            call, count = self._wanting.popleft()
            got = [self._descriptors.popleft() for _ in range(count)]
            wanted = call.answer is not None and call.descriptor and bool(got)
            for extra in got[1:] if wanted else got:
                os.close(extra)
            if call.answer is None:
                continue
            if wanted or not call.descriptor:
                call.answer.callback(got[0] if wanted else {})
            else:
                call.answer.errback(Failure(errors.UpstreamFailed(reason="malformed")))

    def _look(self) -> None:
        """Ask whether the hypervisor is there, when it has not said anything for a while."""
        self._silent += 1
        if self._silent > COUNT:
            self.abort("silent")
        elif self._silent > 1:
            self.outbox.send(_PING)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.alive = False
        word = self._reason or ("closed" if reason.check(error.ConnectionDone) else "lost")
        if self._beat.running:
            self._beat.stop()
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()
        confirmation, self._confirmation = self._confirmation, None
        if confirmation is not None:
            text = "The hypervisor did not accept our certificate"
            confirmation.errback(Failure(errors.UpstreamFailed(text, reason="tls")))
        calls = [*self._calls.values(), *(call for call, _ in self._wanting)]
        self._calls.clear()
        self._wanting.clear()
        for stream in list(self._streams.values()):
            stream.broken(errors.Interrupted(maybe_executed=stream.writes), word)
        for call in calls:
            if call.answer is not None:
                done = errors.Interrupted(maybe_executed=call.procedure.writes == "W")
                call.answer.errback(Failure(done))
        self.lost(word)
