"""The websockets of consoles: how one comes to be, and the fast way to read and write its frames.

:class:`FastSocket` leaves the handshake's answer, the closing handshake, pings and timeouts to autobahn, and
reads and writes data frames by our own framing, in one pass. Private names of autobahn are used for that here
and nowhere else; :data:`MISSING` names what this installation lacks, and then autobahn's framing serves.
``GATEWAY_FAST=off`` in the environment chooses that too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.protocol import FrameHeader
from twisted.internet.interfaces import IReactorTime

from gateway.consoles.console_socket import (
    CLOSED,
    FRAGMENT,
    OPEN,
    ConsoleSocket,
    Ending,
    Sink,
    SocketLimits,
    choose,
)
from gateway.consoles.line import straight
from gateway.core.exchange import Exchange
from gateway.core.fasttls import READ
from gateway.wire.websocket_frames import BINARY, TEXT, Control, FrameReader, frame, frames
from gateway.wire.websocket_handshake import Handshake


class FastSocket(ConsoleSocket):
    """A websocket with our own framing."""

    def __init__(self, factory: SocketFactory, handshake: Handshake, sink: Sink) -> None:
        super().__init__(factory, handshake, sink)
        self._reader = FrameReader(self.takes)

    def connectionMade(self) -> None:
        self._put = straight(self.transport)
        super().connectionMade()

    def read(self, data: bytes) -> None:
        if self.autoPingTimeoutCall:
            self._cancelAutoPingTimeoutCall()
        if self.state == OPEN and (keys := self._reader.keys(data)):
            self.received(keys, False, True)
            return
        for event in self._reader.receive(data):
            if type(event) is Control:
                self._obey(event)
            elif self.state == OPEN:
                self.received(*event)
            if self.state == CLOSED:
                break

    def _obey(self, event: Control) -> None:
        """Let autobahn act on a control frame."""
        header: Any = FrameHeader(event.opcode, True, 0, len(event.payload), "")
        self.current_frame = header
        self.control_frame_data = [event.payload]
        self.processControlFrame()

    def write(self, data: bytes) -> None:
        if self._base64 is not None or self.state != OPEN:
            super().write(data)
        elif len(data) <= FRAGMENT:
            self.send(data, False)
        else:
            # What one read brought goes on as one, for each piece has its price; more would stay in memory.
            view = memoryview(data)
            self._sent += len(data)
            for start in range(0, len(data), READ):
                self._put(frames(BINARY, view[start : start + READ], FRAGMENT))

    def send(self, payload: bytes | memoryview, text: bool) -> None:
        self._sent += len(payload)
        self._put(frame(TEXT if text else BINARY, payload))


def _missing() -> Iterator[str]:
    for method, used in {
        "processControlFrame": ("current_frame", "control_frame_data", "onCloseFrame", "_onPing"),
        "_cancelAutoPingTimeoutCall": ("autoPingTimeoutCall", "_batched_timer"),
        "_dataReceived": ("consumeData",),
        "_fail_connection": ("failedByMe", "sendCloseFrame"),
    }.items():
        code = getattr(getattr(WebSocketServerProtocol, method, None), "__code__", None)
        if code is None:
            yield f"autobahn.twisted.websocket.WebSocketServerProtocol.{method}"
            continue
        for name in used:
            if name not in code.co_names:
                yield f"{name} in autobahn.twisted.websocket.WebSocketServerProtocol.{method}"


#: What of the names used for our own framing this installation does not have.
MISSING = tuple(_missing())


class SocketFactory(WebSocketServerFactory):  # type: ignore[misc, unused-ignore]  # untyped base
    """The websockets of a listener.

    :cvar protocol: what carries them here.
    """

    protocol: type[ConsoleSocket] = (
        ConsoleSocket if MISSING or os.environ.get("GATEWAY_FAST") == "off" else FastSocket
    )

    def __init__(self, clock: IReactorTime, limits: SocketLimits | None = None) -> None:
        super().__init__(server="gateway", reactor=clock)
        self.clock = clock
        self.limits = limits = limits or SocketLimits()
        # Its own timers round to whole seconds and find a reactor for themselves.
        self._batched_timer = SimpleNamespace(call_later=clock.callLater)
        self.setProtocolOptions(
            versions=[13],
            webStatus=False,
            maxFramePayloadSize=limits.max_frame,
            maxMessagePayloadSize=limits.max_message,
            failByDrop=False,
            # There is nothing to wait for: the request is there.
            openHandshakeTimeout=0,
            closeHandshakeTimeout=limits.close_timeout,
            autoPingInterval=limits.ping_interval,
            autoPingTimeout=limits.pong_timeout,
            # What an origin may do was decided before; none is passed on.
            allowedOrigins=[],
        )

    def accept(self, exchange: Exchange, handshake: Handshake, sink: Sink) -> ConsoleSocket:
        """Answer *exchange* with a websocket; see :class:`ConsoleSocket`."""
        socket = self.protocol(self, handshake, sink)
        exchange.upgrade(socket)
        return socket


__all__ = ["ConsoleSocket", "Ending", "FastSocket", "SocketFactory", "SocketLimits", "choose"]
