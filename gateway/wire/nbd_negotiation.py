"""The first phase of NBD, as a client: agree on an export and on what can be asked of it.

Source: NBD protocol (NetworkBlockDevice/nbd, doc/proto.md), sections "Fixed newstyle negotiation",
"Option types", "Option reply types" and "Metadata querying". All integers are big-endian.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from enum import IntEnum, IntFlag
from struct import Struct

from attrs import frozen

from gateway import errors

_GREETING = Struct(">8s8sH")
_OPTION = Struct(">8sII")
_REPLY = Struct(">QIII")
_EXPORT = Struct(">HQH")
_NUMBER = Struct(">I")
_SHORT = Struct(">H")

_OPTION_MAGIC = b"IHAVEOPT"
_REPLY_MAGIC = 0x3E889045565A9
#: Bytes of one reply to an option, and how many of them there may be to one option.
_MAX_REPLY = 16 * 1024
_MAX_REPLIES = 256
#: Bytes of a string.
MAX_STRING = 4096

#: Ranges that read as zeroes. Source: "base:allocation" metadata context.
ALLOCATION = "base:allocation"
#: How deep in a chain of images a range is allocated. Source: QEMU, docs/interop/nbd.txt.
DEPTH = "qemu:allocation-depth"
#: What a bitmap has marked since it was made; the name of the bitmap follows. Source: as above.
DIRTY = "qemu:dirty-bitmap:"


class _Option(IntEnum):
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10


class _Answer(IntEnum):
    ACK = 1
    INFO = 3
    META_CONTEXT = 4
    FAILED = 1 << 31


#: What a refusal of an export means to a person. Source: section "Error types".
_REFUSALS = {
    _Answer.FAILED + 1: "the server cannot name exports",
    _Answer.FAILED + 2: "its policy forbids it",
    _Answer.FAILED + 5: "it wants TLS, which is not spoken here",
    _Answer.FAILED + 6: "it has no such export",
    _Answer.FAILED + 7: "it is shutting down",
    _Answer.FAILED + 8: "its block size is not supported",
}


class Flags(IntFlag):
    """What a server says of an export. Source: section "Transmission flags"."""

    READ_ONLY = 2
    FLUSH = 4
    WRITE_ZEROES = 64
    MULTI_CONN = 256


@frozen
class Export:
    """What was agreed on.

    :ivar size: bytes.
    :ivar structured: replies come in chunks.
    :ivar allocation: id of the context that tells zeroes from data; None when it is not offered.
    :ivar depth: likewise of the context that tells what is allocated at all.
    :ivar dirty: likewise of the first dirty bitmap.
    """

    size: int
    flags: Flags
    structured: bool = False
    allocation: int | None = None
    depth: int | None = None
    dirty: int | None = None


def failed(text: str, reason: str = "malformed") -> errors.UpstreamFailed:
    """What a server did wrong, as the one error of these codecs."""
    return errors.UpstreamFailed(f"The NBD server failed: {text}", reason=reason)


#: Takes as many bytes as it has last asked for, and ends with the result.
_Script = Generator[int, bytes, Export]


class Negotiation:
    """A client's half of the handshake.

    :param name: of the export; empty for the default one.
    :param dirty: look for a dirty bitmap.
    :ivar export: set when the other phase has begun.
    """

    def __init__(self, name: str, *, dirty: bool = False) -> None:
        encoded = name.encode("utf-8", "surrogateescape")
        if len(encoded) > MAX_STRING:
            raise failed("the name of the export is too long", "export")
        self.export: Export | None = None
        self._name = _NUMBER.pack(len(encoded)) + encoded
        self._wants_dirty = dirty
        self._rest = bytearray()
        self._out = bytearray()
        self._script = self._talk()
        self._needed = next(self._script)

    def receive(self, data: bytes) -> bytes:
        """Consume *data*, in pieces of any size; return what is to be sent.

        :raises gateway.errors.UpstreamFailed: the server does not offer the export, or spoke nonsense.
        """
        self._rest += data
        while self.export is None and len(self._rest) >= self._needed:
            piece = bytes(self._rest[: self._needed])
            del self._rest[: self._needed]
            try:
                self._needed = self._script.send(piece)
            except StopIteration as end:
                self.export = end.value
        if self.export is not None and self._rest:
            raise failed("it answered before it was asked")
        out = bytes(self._out)
        self._out.clear()
        return out

    def _talk(self) -> _Script:
        magic, again, flags = _GREETING.unpack((yield _GREETING.size))
        if magic != b"NBDMAGIC":
            raise failed("this is no NBD server")
        if again != _OPTION_MAGIC or not flags & 1:
            raise failed("it speaks an old dialect")
        # What we understand of the greeting, too: fixed newstyle, and no zeroes.
        self._out += _NUMBER.pack(flags & 3)
        structured = yield from self._ask_structured()
        names: list[str] = []
        if structured:
            names = [ALLOCATION, DEPTH]
            if self._wants_dirty:
                names += [it for it in (yield from self._contexts(False, [DIRTY])) if it.startswith(DIRTY)][
                    :1
                ]
        contexts = (yield from self._contexts(True, names)) if names else {}
        size, export_flags = yield from self._go()
        dirty = names[2] if len(names) > 2 else ""
        return Export(
            size, export_flags, structured, contexts.get(ALLOCATION), contexts.get(DEPTH), contexts.get(dirty)
        )

    def _ask_structured(self) -> Generator[int, bytes, bool]:
        answers = yield from self._option(_Option.STRUCTURED_REPLY)
        return any(kind == _Answer.ACK for kind, _ in answers)

    def _contexts(self, select: bool, queries: list[str]) -> Generator[int, bytes, dict[str, int]]:
        """List or select metadata contexts; return their ids by name."""
        data = self._name + _NUMBER.pack(len(queries))
        for query in queries:
            encoded = query.encode("utf-8", "surrogateescape")
            data += _NUMBER.pack(len(encoded)) + encoded
        found: dict[str, int] = {}
        option = _Option.SET_META_CONTEXT if select else _Option.LIST_META_CONTEXT
        for kind, answer in (yield from self._option(option, data)):
            if kind == _Answer.META_CONTEXT:
                if not 4 < len(answer) <= 4 + MAX_STRING:
                    raise failed("a metadata context has no good name")
                found.setdefault(answer[4:].decode("utf-8", "surrogateescape"), *_NUMBER.unpack(answer[:4]))
            elif kind >= _Answer.FAILED:
                return {}
        if select and len(set(found.values())) != len(found):
            raise failed("two metadata contexts have one id")
        return found

    def _go(self) -> Generator[int, bytes, tuple[int, Flags]]:
        export: tuple[int, Flags] | None = None
        for kind, answer in (yield from self._option(_Option.GO, self._name + _SHORT.pack(0))):
            if kind == _Answer.INFO and answer[:2] == b"\0\0":
                if len(answer) != _EXPORT.size:
                    raise failed("it describes its export in an odd way")
                _, size, flags = _EXPORT.unpack(answer)
                export = size, Flags(flags)
            elif kind >= _Answer.FAILED:
                raise failed(_REFUSALS.get(kind, "it refuses the export"), "export")
        if export is None or export[0] >= 1 << 63:
            raise failed("it does not tell the size of its export")
        return export

    def _option(
        self, option: _Option, data: bytes = b""
    ) -> Generator[int, bytes, Iterator[tuple[int, bytes]]]:
        """Send an option; return its answers, the last of which settles it."""
        self._out += _OPTION.pack(_OPTION_MAGIC, option, len(data)) + data
        answers: list[tuple[int, bytes]] = []
        while len(answers) < _MAX_REPLIES:
            magic, about, kind, length = _REPLY.unpack((yield _REPLY.size))
            if magic != _REPLY_MAGIC or about != option or length > _MAX_REPLY:
                raise failed("it answers an option in an odd way")
            answers.append((kind, (yield length) if length else b""))
            if kind == _Answer.ACK or kind >= _Answer.FAILED:
                return iter(answers)
        raise failed("it has no end of answers")
