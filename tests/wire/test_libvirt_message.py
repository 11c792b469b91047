"""Messages of libvirt's protocol, in pieces of any size, and with anything in them."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_message import (
    DESCRIPTORS,
    KEEPALIVE,
    LARGEST,
    Message,
    MessageReader,
    ProtocolError,
    Status,
    Type,
    pack_call,
    pack_error,
    read_error,
)
from gateway.wire.libvirt_schema import PROGRAMS, procedure
from gateway.wire.xdr import XdrError

REMOTE = PROGRAMS["remote"]
#: One of each kind; those with descriptors are followed by a byte for each.
MESSAGES = (
    Message(REMOTE, 1, 66, Type.CALL, 0, Status.OK),
    Message(REMOTE, 1, 66, Type.REPLY, 0, Status.OK, bytes(8)),
    Message(REMOTE, 1, 343, Type.REPLY_WITH_FDS, 9, Status.OK, b"", 1),
    Message(REMOTE, 1, 309, Type.CALL_WITH_FDS, 10, Status.OK, b"abcd", 3),
    Message(REMOTE, 1, 309, Type.REPLY_WITH_FDS, 2**32 - 1, Status.ERROR, b"abcd"),
    Message(REMOTE, 1, 209, Type.STREAM, 11, Status.CONTINUE, bytes(range(256))),
    Message(REMOTE, 1, 209, Type.STREAM, 11, Status.CONTINUE),
    Message(REMOTE, 1, 209, Type.HOLE, 11, Status.CONTINUE, bytes(12)),
    Message(KEEPALIVE, 1, 1, Type.EVENT, 0, Status.OK),
)


def wire(messages: Iterable[Message] = MESSAGES) -> bytes:
    """Their bytes, those of descriptors included."""
    return b"".join(message.pack() + bytes(message.descriptors) for message in messages)


def head(length: int, kind: int = 1, status: int = 0) -> bytes:
    """Six words and a length, which may lie."""
    return b"".join(word.to_bytes(4, "big") for word in (length, REMOTE, 1, 66, kind, 0, status))


class ReaderTest(SynchronousTestCase):
    """What cuts bytes into messages."""

    def setUp(self) -> None:
        self.reader = MessageReader()

    def feed(self, *pieces: bytes) -> list[Message]:
        return [message for piece in pieces for message in self.reader.feed(piece)]

    def test_golden(self) -> None:
        """The first call of any client, and its answer, as libvirt sends them."""
        call = bytes.fromhex("0000001c 20008086 00000001 00000042 00000000 00000000 00000000")
        self.assertEqual(MESSAGES[0].pack(), call)
        self.assertEqual(pack_call(REMOTE, 66, 0, b""), call)
        self.assertEqual(self.feed(call), [MESSAGES[0]])
        answer = "00000024 20008086 00000001 00000042 00000001 00000000 00000000 00000001 00000000"
        (message,) = self.feed(bytes.fromhex(answer))
        self.assertEqual((message.type, message.status), (Type.REPLY, Status.OK))
        self.assertEqual(procedure("AUTH_LIST").results.unpack(message.payload), {"types": [0]})
        self.assertEqual(message.pack(), bytes.fromhex(answer))

    def test_cuts(self) -> None:
        """It does not matter how many bytes arrive at a time."""
        data = wire()
        for size in range(1, len(data) + 1):
            pieces = [data[at : at + size] for at in range(0, len(data), size)]
            self.assertEqual(self.feed(*pieces), [*MESSAGES], size)
            self.assertEqual(self.reader.held, 0)
        for cut in range(len(data)):
            self.assertEqual(self.feed(data[:cut], data[cut:]), [*MESSAGES], cut)

    @given(st.lists(st.sampled_from(MESSAGES), max_size=8), st.data())
    @settings(max_examples=100, deadline=None)
    def test_any_cuts(self, messages: list[Message], data: st.DataObject) -> None:
        """The same for any messages in any pieces."""
        whole = wire(messages)
        cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=6).map(sorted))
        pieces = [whole[low:high] for low, high in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
        self.assertEqual(self.feed(*pieces), messages)

    def test_descriptors(self) -> None:
        """A message with descriptors is whole when the byte of each was there."""
        message = MESSAGES[3]
        self.assertEqual(self.feed(message.pack(), b"\0", b"\0"), [])
        self.assertEqual(self.feed(b"\0" + MESSAGES[0].pack()), [message, MESSAGES[0]])
        # The byte is no byte of the next message, whatever it is.
        self.assertEqual(self.feed(message.pack() + b"\xff\xff\xff" + wire()), [message, *MESSAGES])

    def test_lengths(self) -> None:
        """A length that no message has is refused when its four bytes are there; before it is kept."""
        for length in (0, 3, 4, 27, LARGEST + 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
            for rest in (b"", bytes(100)):
                reader = MessageReader()
                self.assertRaises(ProtocolError, list, reader.feed(length.to_bytes(4, "big") + rest))
        self.assertRaises(ProtocolError, self.feed, b"\xff", b"\xff", b"\xff", b"\xff")

    def test_limit(self) -> None:
        """The largest message is taken, and a lower limit is kept to."""
        largest = Message(REMOTE, 1, 1, Type.CALL, 1, Status.OK, bytes(LARGEST - 28))
        self.assertEqual(len(largest.pack()), 4 + 33_554_432)
        self.assertEqual(self.feed(largest.pack()), [largest])
        reader = MessageReader(100)
        self.assertEqual(len(list(reader.feed(head(100) + bytes(72)))), 1)
        self.assertRaises(ProtocolError, list, reader.feed(head(101)))

    def test_nonsense(self) -> None:
        """Unknown types and statuses, and counts of descriptors that cannot be, are refused."""
        most = DESCRIPTORS.to_bytes(4, "big")
        for bad in (
            head(28, kind=7),
            head(28, kind=0xFFFFFFFF),
            head(28, status=3),
            head(28, kind=5),
            head(31, kind=5) + bytes(3),
            head(32, kind=4) + (DESCRIPTORS + 1).to_bytes(4, "big"),
            head(32, kind=5) + b"\xff\xff\xff\xff",
        ):
            self.assertRaises(ProtocolError, list, MessageReader().feed(bad))
            self.assertRaises(ProtocolError, list, MessageReader().feed(wire() + bad))
        self.assertEqual(self.feed(head(32, kind=5) + most, bytes(DESCRIPTORS))[0].descriptors, DESCRIPTORS)

    def test_before_nonsense(self) -> None:
        """What came before nonsense was heard."""
        heard = []

        def hear() -> None:
            for message in self.reader.feed(wire() + head(28, kind=9)):
                heard.append(message)

        self.assertRaises(ProtocolError, hear)
        self.assertEqual(heard, [*MESSAGES])

    @given(st.lists(st.binary(max_size=40) | st.sampled_from([wire(), head(64), head(32, 5)]), max_size=6))
    @settings(max_examples=200, deadline=None)
    def test_fuzz(self, pieces: list[bytes]) -> None:
        """Anything is messages or a ProtocolError, and their results and errors are read or an XdrError."""
        reader = MessageReader()
        try:
            for piece in pieces:
                for message in reader.feed(piece):
                    self.assertLessEqual(message.descriptors, DESCRIPTORS)
                    for read in (read_error, procedure("CONNECT_GET_ALL_DOMAIN_STATS").results.unpack):
                        try:
                            read(message.payload)
                        except XdrError:
                            continue
        except ProtocolError:
            return
        self.assertLessEqual(reader.held, sum(map(len, pieces)))

    def test_memory(self) -> None:
        """A message that never ends costs what arrived of it, and a promise of much costs nothing."""
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        before, _ = tracemalloc.get_traced_memory()
        list(self.reader.feed(head(LARGEST)))
        for _ in range(20_000):
            list(self.reader.feed(b"abc"))
        after, peak = tracemalloc.get_traced_memory()
        self.assertLess(after - before, 100_000)
        self.assertLess(peak - before, 200_000)

    def test_large_in_pieces(self) -> None:
        """A large message in small pieces is not gone over again with each of them."""
        large = Message(REMOTE, 1, 1, Type.REPLY, 1, Status.OK, bytes(8 << 20))
        data = large.pack()
        pieces = [data[at : at + 4096] for at in range(0, len(data), 4096)]
        self.assertEqual(self.feed(*pieces), [large])


class ErrorTest(SynchronousTestCase):
    """Refusals."""

    def test_round(self) -> None:
        """All that a refusal says comes back, what is absent as well."""
        for error in (
            LibvirtError(42, 12, "Domain not found", 2, ("Domain not found: %s", None, "x"), (-1, 7)),
            LibvirtError(1, 0, "internal \u20ac", 1),
        ):
            same = read_error(pack_error(error))
            self.assertEqual(vars(same), vars(error))

    def test_golden(self) -> None:
        """A refusal as libvirtd writes it."""
        wire = "0000002a 0000000c 00000001 00000010 446f6d61696e206e6f7420666f756e64 00000002 00000000"
        rest = (
            "00000001 00000010 446f6d61696e206e6f7420666f756e64 00000000 00000000 ffffffff ffffffff 00000000"
        )
        error = read_error(bytes.fromhex(wire + rest))
        self.assertEqual((error.code, error.domain, error.text, error.level), (42, 12, "Domain not found", 2))
        self.assertEqual(pack_error(error), bytes.fromhex(wire + rest))

    def test_nonsense(self) -> None:
        """A refusal that is cut, or too long, is no refusal."""
        whole = pack_error(LibvirtError(42, 12, "no"))
        for bad in (b"", whole + b"\0", *(whole[:cut] for cut in range(len(whole)))):
            self.assertRaises(XdrError, read_error, bad)


class HostileTest(SynchronousTestCase):
    """Payloads that lie about what is in them."""

    def test_counts(self) -> None:
        """Counts that are negative, over their bound, or not there at all are refused, and cost nothing."""
        domains = procedure("CONNECT_LIST_ALL_DOMAINS").results
        stats = procedure("CONNECT_GET_ALL_DOMAIN_STATS").results
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        before, _ = tracemalloc.get_traced_memory()
        for count in (1, 16384, 16385, 2**31 - 1, 2**31, 2**32 - 1):
            for struct in (domains, stats):
                for rest in (b"", bytes(4), bytes(16)):
                    self.assertRaises(XdrError, struct.unpack, count.to_bytes(4, "big") + rest)
        _, peak = tracemalloc.get_traced_memory()
        self.assertLess(peak - before, 200_000)

    def test_unions(self) -> None:
        """A union that is neither, and one that is cut short."""
        register = procedure("CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY").arguments
        for bad in (b"\0\0\0\2", b"\0\0\0\1", b"\0\0", b"", b"\xff\xff\xff\xff"):
            self.assertRaises(XdrError, register.unpack, bytes(4) + bad)
        self.assertEqual(register.unpack(bytes(8)), {"eventID": 0, "dom": None})
