"""A libvirt client that says what no library would, on a unix socket."""

from __future__ import annotations

import socket
from itertools import count
from pathlib import Path
from typing import Any

from gateway.wire.libvirt_message import Message, MessageReader, Status, Type, read_error
from gateway.wire.libvirt_schema import PROCEDURES, procedure
from gateway.wire.xdr import XdrError
from tests.functional.processes import DEADLINE


class Raw:
    """One connection, of somebody who has logged in with *token* unless that is empty.

    :ivar got: all bytes that came.
    """

    def __init__(self, path: Path, token: str = "", name: str | None = None, flags: int = 0) -> None:
        self.got = bytearray()
        self._reader = MessageReader()
        self._messages: list[Message] = []
        self._serials = count()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(DEADLINE)
        self._socket.connect(str(path))
        if token:
            self.call("AUTH_LIST")
            self.call("AUTH_SASL_START", mech="PLAIN", nil=0, data=f"\0alice\0{token}".encode())
        if name is not None:
            self.call("CONNECT_OPEN", name=name, flags=flags)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def message(self, name: str, /, **arguments: Any) -> Message:
        """A call."""
        known = procedure(name)
        payload = known.arguments.pack(arguments)
        return Message(known.program, 1, known.number, Type.CALL, next(self._serials), Status.OK, payload)

    def call(self, name: str, /, **arguments: Any) -> Any:
        """Call; return the results, or the code of an error; None when the connection was closed instead."""
        call = self.message(name, **arguments)
        self.send(call.pack())
        while (message := self.next()) is not None:
            if message.type == Type.REPLY and message.serial == call.serial:
                if message.status == Status.ERROR:
                    return read_error(message.payload).code
                return PROCEDURES[call.program, call.procedure].results.unpack(message.payload)
        return None

    def events(self) -> list[tuple[str, dict[str, Any]]]:
        """What came of events by now."""
        self.drain(0.3)
        found = [it for it in self._messages if it.type == Type.EVENT]
        known = [(PROCEDURES[it.program, it.procedure], it.payload) for it in found]
        return [(each.name, each.arguments.unpack(payload)) for each, payload in known]

    def send(self, data: bytes) -> None:
        """Say *data*."""
        self._socket.sendall(data)

    def flood(self, data: bytes, patience: float, times: int) -> int:
        """Say *data* many *times*, until nobody takes it for *patience* seconds; return how much is left."""
        self._socket.settimeout(patience)
        left = times * len(data)
        try:
            for _ in range(times):
                view = memoryview(data)
                while view:
                    sent = self._socket.send(view)
                    view, left = view[sent:], left - sent
        except TimeoutError:
            pass
        finally:
            self._socket.settimeout(DEADLINE)
        return left

    def next(self) -> Message | None:
        """The next message; None at the end."""
        kept: list[Message] = []
        try:
            while True:
                while self._messages:
                    message = self._messages.pop(0)
                    if message.type != Type.EVENT:
                        return message
                    kept.append(message)
                if not self._read():
                    return None
        finally:
            self._messages = kept + self._messages

    def drain(self, patience: float) -> None:
        """Take all that comes, until nothing does for *patience* seconds, or for ever."""
        self._socket.settimeout(patience)
        try:
            while self._read():
                pass
        except (TimeoutError, ConnectionResetError, BrokenPipeError):
            pass
        finally:
            self._socket.settimeout(DEADLINE)

    def _read(self) -> bool:
        data = self._socket.recv(1 << 18)
        self.got += data
        self._messages += self._reader.feed(data)
        return bool(data)


def calls_of(said: bytes) -> list[tuple[str, dict[str, Any]]]:
    """The calls in what a client said on one connection, with their arguments; of other messages nothing."""
    found: list[tuple[str, dict[str, Any]]] = []
    for message in MessageReader().feed(said):
        known = PROCEDURES.get((message.program, message.procedure))
        if message.type == Type.CALL and known is not None:
            try:
                found.append((known.name, known.arguments.unpack(message.payload)))
            except XdrError:
                found.append((known.name, {}))
    return found
