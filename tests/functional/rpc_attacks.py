"""What the threat tests do to the AMP endpoint, and hypervisors that mean no good.

All of it blocks, with threads for whatever happens at the same time: the gateway is another process.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from gateway.wire.amp_box import LONGEST_VALUE, BoxReader, pack
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_message import Message, MessageReader, ProtocolError, Status, Type, pack_error
from gateway.wire.libvirt_schema import PROCEDURES, PROGRAMS, procedure
from tests.functional.listening import Listening
from tests.functional.peers import Gateway
from tests.functional.processes import DEADLINE, HOST

#: The domain of libvirt's test driver.
TEST = "6695eb01-f6a4-8304-79aa-97f2502e193f"
_ROOM = (1 << 30, 1 << 20)


class Refused(Exception):
    """An answer that is an error.

    :ivar code: of AMP; ``details`` its JSON, of which ``text`` is for people.
    """

    def __init__(self, code: str, details: Mapping[str, Any]) -> None:
        super().__init__(code, details)
        self.code = code
        self.details = details

    @property
    def seen(self) -> tuple[str, str]:
        """All that its caller can compare."""
        return self.code, json.dumps(self.details, sort_keys=True)


class Client:
    """A connection to the endpoint, on which anything may be said.

    :param receive: bytes that the kernel keeps for us, where few shall be.
    """

    def __init__(self, gateway: Gateway, port: int, *, receive: int | None = None) -> None:
        raw = socket.socket()
        if receive is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        raw.settimeout(DEADLINE)
        raw.connect((HOST, port))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.line = gateway.context().wrap_socket(raw, server_hostname="localhost")
        self.told: list[dict[bytes, bytes]] = []
        self.farewell: Refused | None = None
        self._reader = BoxReader(_ROOM)
        self.tag = 0

    def close(self) -> None:
        self.line.close()

    def box(self, command: str, **arguments: str | bytes | int | bool) -> bytes:
        """The bytes of a call; what is too long for one value is sent in parts."""
        self.tag += 1
        found = {b"_command": command.encode(), b"_ask": b"%x" % self.tag}
        for name, value in arguments.items():
            data = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
            key = name.encode()
            found[key] = data[:LONGEST_VALUE]
            for number, at in enumerate(range(LONGEST_VALUE, len(data), LONGEST_VALUE), 1):
                found[b"%s.%d" % (key, number)] = data[at : at + LONGEST_VALUE]
        return pack(found)

    def send(self, command: str, **arguments: str | bytes | int | bool) -> bytes:
        """Call; return the number of the call."""
        self.line.sendall(self.box(command, **arguments))
        return b"%x" % self.tag

    def next(self) -> dict[bytes, bytes]:
        """The next box.

        :raises EOFError: there is none any more.
        """
        while (box := self._reader.next()) is None:
            try:
                data = self.line.recv(1 << 18)
            except TimeoutError:
                raise
            except OSError:
                data = b""
            if not data:
                raise EOFError
            self._reader.feed(data)
        return box

    def answer(self, tag: bytes) -> dict[str, bytes]:
        """The answer to one call; those to others are dropped, and events kept in :attr:`told`.

        :raises Refused: it is an error.
        """
        while True:
            box = self.next()
            if b"_command" in box:
                self.told.append(box)
            elif box.get(b"_answer") == tag:
                return _joined(box)
            elif box.get(b"_error") == tag:
                raise refusal(box)
            elif box.get(b"_error") == b"":
                self.farewell = refusal(box)

    def ask(self, command: str, **arguments: str | bytes | int | bool) -> dict[str, bytes]:
        """Call, and wait for the answer; raises as :meth:`answer`."""
        return self.answer(self.send(command, **arguments))

    def call(self, handle: str, proc: str, args: Mapping[str, Any] | None = None, **more: Any) -> Any:
        """Any procedure of libvirt's, by JSON."""
        answer = self.ask("Call", handle=handle, proc=proc, args=json.dumps(args or {}), **more)
        return json.loads(answer["result"])

    def open(self, target: str = "test", **more: Any) -> str:
        return self.ask("Open", target=target, **more)["handle"].decode()

    def lookup(self, handle: str, name: str = "test") -> str:
        """The cookie of a domain."""
        return self.ask("Lookup", handle=handle, name=name)["dom"].decode()

    def over(self, deadline: float = 20.0) -> bool:
        """Whether the gateway hangs up within *deadline* seconds; what comes until then is read."""
        self.line.settimeout(deadline)
        try:
            while True:
                box = self.next()
                if box.get(b"_error") == b"":
                    self.farewell = refusal(box)
        except EOFError:
            return True
        except TimeoutError:
            return False


def _joined(box: Mapping[bytes, bytes]) -> dict[str, bytes]:
    """The members of an answer, parts put together."""
    found: dict[str, bytes] = {}
    for key, value in box.items():
        if b"." not in key:
            parts, number = [value], 1
            while (part := box.get(b"%s.%d" % (key, number))) is not None:
                parts.append(part)
                number += 1
            found[key.decode()] = b"".join(parts)
    return found


def refusal(box: Mapping[bytes, bytes]) -> Refused:
    """What a box says that is an error."""
    text = box.get(b"_error_description", b"").decode()
    try:
        details = json.loads(text)
    except ValueError:
        details = {"text": text}
    return Refused(box.get(b"_error_code", b"").decode(), details)


class Neighbor:
    """Somebody innocent, who asks all the time while something else happens, and notes how long it takes.

    :param asks: one question and its answer.
    :ivar usual: seconds of the slowest of some, before anything happens; this machine does other things, too.
    :ivar taken: seconds of each.
    """

    def __init__(self, asks: Callable[[], object], memory: Callable[[], int]) -> None:
        self.taken: list[float] = []
        self.usual = 0.0
        self.failure: BaseException | None = None
        self.before = self.peak = memory()
        self._asks = asks
        self._memory = memory
        self._over = threading.Event()
        self._threads = [threading.Thread(target=it, daemon=True) for it in (self._run, self._weigh)]

    @property
    def grown(self) -> int:
        """Bytes of resident memory that the gateway had more than at the beginning, at most."""
        return self.peak - self.before

    def _ask(self) -> float:
        began = time.monotonic()
        self._asks()
        return time.monotonic() - began

    def _run(self) -> None:
        try:
            while not self._over.is_set() or len(self.taken) < 5:
                self.taken.append(self._ask())
                time.sleep(0.003)
        except BaseException as failure:
            self.failure = failure

    def _weigh(self) -> None:
        while not self._over.wait(0.02):
            self.peak = max(self.peak, self._memory())

    def __enter__(self) -> Neighbor:
        self.usual = max(self._ask() for _ in range(20))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(DEADLINE)
        self.peak = max(self.peak, self._memory())
        if error is None and self.failure is not None:
            raise AssertionError("the neighbor was not served") from self.failure


# Hypervisors.


class Line:
    """One connection to a hypervisor of ours.

    :ivar deaf: nothing is read from it any more, for a while.
    """

    def __init__(self, hypervisor: Hypervisor, connection: socket.socket) -> None:
        self.hypervisor = hypervisor
        self.connection = connection
        self.over = self.deaf = False
        self._lock = threading.Lock()

    def say(self, data: bytes) -> None:
        """Send; nothing happens when nobody is there any more."""
        with contextlib.suppress(OSError), self._lock:
            self.connection.sendall(data)

    def pass_on(self, descriptors: Sequence[int], data: bytes) -> None:
        """Send *data* with descriptors."""
        with contextlib.suppress(OSError), self._lock:
            socket.send_fds(self.connection, [data], list(descriptors))

    def reply(self, asked: Message, **values: Any) -> None:
        self.say(answer(asked, PROCEDURES[asked.program, asked.procedure].results.pack(values)))

    def refuse(self, asked: Message, code: int = 3, text: str = "not supported") -> None:
        self.say(answer(asked, pack_error(LibvirtError(code, 12, text)), Status.ERROR))

    def flood(self, data: bytes, seconds: float) -> int:
        """Send *data* over and over for a while, as fast as it is taken; return how many bytes went."""
        end, sent = time.monotonic() + seconds, 0
        with contextlib.suppress(OSError):
            self.connection.settimeout(0.2)
            while time.monotonic() < end:
                with contextlib.suppress(TimeoutError):
                    sent += self.connection.send(data[sent % len(data) :])
        return sent


#: What a hypervisor does with a call.
Act = Callable[[Line, Message, dict[str, Any]], object]


def answer(asked: Message, payload: bytes, status: int = Status.OK, **more: Any) -> bytes:
    """The bytes of a reply; *more* are members of the header that are wrong."""
    return asked._replace(type=Type.REPLY, status=status, payload=payload)._replace(**more).pack()


def event(name: str, **values: Any) -> bytes:
    """The bytes of an event."""
    known = procedure(name)
    return Message(
        PROGRAMS["remote"], 1, known.number, Type.EVENT, 0, Status.OK, known.arguments.pack(values)
    ).pack()


def gives(**values: Any) -> Act:
    """Answers with that."""
    return lambda line, asked, arguments: line.reply(asked, **values)


def says(make: Callable[[Message], bytes]) -> Act:
    """Says whatever *make* makes of the call."""
    return lambda line, asked, arguments: line.say(make(asked))


def silent(line: Line, asked: Message, arguments: dict[str, Any]) -> None:
    """Never answers."""


_GREETING: Mapping[str, Act] = {
    "AUTH_LIST": gives(types=[0]),
    "CONNECT_SUPPORTS_FEATURE": gives(supported=0),
    "CONNECT_OPEN": gives(),
    "CONNECT_GET_LIB_VERSION": gives(lib_ver=9_000_000),
    "CONNECT_GET_URI": gives(uri="test:///default"),
    "CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY": gives(callbackID=1),
}


class Hypervisor(Listening):
    """A libvirtd that does what *acts* say, on a unix socket; what nobody wrote down it does not support.

    :ivar domains: those it has.
    :ivar heard: how often each procedure was called.
    :ivar watchers: connections on which somebody waits for events.
    """

    def __init__(self, path: Path, domains: Sequence[Mapping[str, Any]] = (), **acts: Act) -> None:
        self.domains = [dict(dom) for dom in domains]
        self.acts: dict[str, Act] = {
            **_GREETING,
            "CONNECT_GET_ALL_DOMAIN_STATS": self._stats,
            "CONNECT_LIST_ALL_DOMAINS": self._list,
            "DOMAIN_LOOKUP_BY_NAME": self._by_name,
            "DOMAIN_LOOKUP_BY_UUID": self._by_uuid,
            "DOMAIN_GET_STATE": gives(state=1, reason=1),
            **acts,
        }
        self.heard: Counter[str] = Counter()
        self.lines: list[Line] = []
        self.watchers: list[Line] = []
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(64)
        super().__init__(listener)

    def came(self, connection: socket.socket, peer: object) -> None:
        self.lines.append(line := Line(self, connection))
        self.begin(partial(self._speak, line), connection)

    def _speak(self, line: Line, connection: socket.socket) -> None:
        reader = MessageReader()
        with connection, contextlib.suppress(OSError, ProtocolError):
            while data := connection.recv(1 << 18):
                for asked in reader.feed(data):
                    if asked.type == Type.CALL:
                        self._asked(line, asked)
                while line.deaf:
                    time.sleep(0.05)
        line.over = True

    def _asked(self, line: Line, asked: Message) -> None:
        known = PROCEDURES[asked.program, asked.procedure]
        self.heard[known.name] += 1
        if "EVENT_CALLBACK_REGISTER" in known.name and line not in self.watchers:
            self.watchers.append(line)
        self.acts.get(known.name, lambda *_: line.refuse(asked))(
            line, asked, known.arguments.unpack(asked.payload)
        )

    def _stats(self, line: Line, asked: Message, arguments: dict[str, Any]) -> None:
        state = [{"field": f"state.{it}", "type": "int", "value": 1} for it in ("state", "reason")]
        line.reply(asked, retStats=[{"dom": dom, "params": state} for dom in self.domains])

    def _list(self, line: Line, asked: Message, arguments: dict[str, Any]) -> None:
        line.reply(asked, domains=self.domains, ret=len(self.domains))

    def _by_name(self, line: Line, asked: Message, arguments: dict[str, Any]) -> None:
        self._found(line, asked, (dom for dom in self.domains if dom["name"] == arguments["name"]))

    def _by_uuid(self, line: Line, asked: Message, arguments: dict[str, Any]) -> None:
        self._found(line, asked, (dom for dom in self.domains if dom["uuid"] == arguments["uuid"]))

    @staticmethod
    def _found(line: Line, asked: Message, found: Iterator[Mapping[str, Any]]) -> None:
        dom = next(found, None)
        if dom is None:
            line.refuse(asked, 42, "Domain not found")
        else:
            line.reply(asked, dom=dom)


def domains(count: int, name: str = "vm{}") -> list[dict[str, Any]]:
    """So many of them, all running."""
    return [
        {"name": name.format(at), "uuid": f"00000000-0000-4000-8000-{at:012x}", "id": at + 1}
        for at in range(count)
    ]


def length(number: int) -> bytes:
    return struct.pack(">I", number & 0xFFFFFFFF)


def descriptors_of(pid: int) -> int:
    """How many files a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def tls_errors() -> tuple[type[Exception], ...]:
    """What a write raises on a connection that was cut."""
    return (OSError, ssl.SSLError)
