from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from wsproto.frame_protocol import FrameProtocol, Opcode, ParseFailed

from gateway.wire import websocket_mask
from gateway.wire.websocket_frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    INVALID_PAYLOAD,
    NO_CODE,
    PING,
    PONG,
    PROTOCOL_ERROR,
    TEXT,
    TOO_BIG,
    UNSUPPORTED,
    Control,
    Data,
    FrameError,
    FrameLimits,
    FrameReader,
    frame,
    frames,
)

KEY = b"\x37\xfa\x21\x3d"
#: Takes everything, and tells messages apart.
EVERYTHING = FrameLimits(text=True, boundaries=True)
STREAM = FrameLimits()
BOUNDLESS = FrameLimits(1 << 63, 1 << 63, text=True, boundaries=True)
FIN, MASKED = 0x80, 0x80
SIZES = (0, 1, 3, 125, 126, 1000, 65_535, 65_536)


def masked(data: bytes, key: bytes = KEY) -> bytes:
    return bytes(byte ^ key[i & 3] for i, byte in enumerate(data))


def head(first: int, size: int, key: bytes = KEY) -> bytes:
    """The header of a client's frame."""
    if size < 126:
        return bytes((first, MASKED | size)) + key
    if size < 1 << 16:
        return bytes((first, MASKED | 126)) + size.to_bytes(2, "big") + key
    return bytes((first, MASKED | 127)) + size.to_bytes(8, "big") + key


def client(opcode: int, payload: bytes = b"", final: bool = True, key: bytes = KEY) -> bytes:
    """A frame as a client sends it."""
    return head(FIN * final | opcode, len(payload), key) + masked(payload, key)


def collect(limits: FrameLimits, *pieces: bytes) -> tuple[list[Data | Control], int | None]:
    """The events of *pieces*, and the close code of the mistake that ended them."""
    reader = FrameReader(limits)
    events: list[Data | Control] = []
    try:
        for piece in pieces:
            for event in reader.receive(piece):
                events.append(event)
    except FrameError as error:
        return events, error.close_code
    return events, None


def joined(events: list[Data | Control]) -> list[Any]:
    """*events* without regard to how messages were cut: (text?, payload, ended?) and controls."""
    result: list[Any] = []
    partial: list[Any] | None = None
    for event in events:
        if isinstance(event, Control):
            result.append(tuple(event))
            continue
        if partial is None:
            partial = [event.text, b"", False]
            result.append(partial)
        partial[1] += event.payload
        partial[2] = event.ends
        if event.ends:
            partial = None
    return result


def stream(events: list[Data | Control]) -> bytes:
    return b"".join(event.payload for event in events if isinstance(event, Data))


def cuts(data: bytes, at: list[int]) -> list[bytes]:
    """*data* in pieces."""
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in at)})
    return [data[a:b] for a, b in pairwise(places)]


class DataTests(SynchronousTestCase):
    """Payloads arrive unmasked, in order, as they come."""

    def test_stream(self) -> None:
        """What arrives together is given on together, whatever frames it came in."""
        data = client(BINARY, b"ab") + client(BINARY) + client(BINARY, b"c", final=False)
        data += client(CONTINUATION, b"d") + client(BINARY, b"e" * 70_000)
        events, error = collect(STREAM, data)
        self.assertEqual(events, [Data(b"abcd" + b"e" * 70_000, False, False)])
        self.assertIsNone(error)

    def test_every_cut(self) -> None:
        """It makes no difference where the network cuts; a piece of a payload waits for nothing."""
        data = client(BINARY, bytes(range(200))) + client(PING, b"?") + client(BINARY, b"xyz", final=False)
        data += client(PONG) + client(CONTINUATION, b"!", key=b"\0\xff\1\2") + client(BINARY, b"z" * 66_000)
        for limits in (STREAM, EVERYTHING):
            whole = joined(collect(limits, data)[0])
            for cut in [*range(1, 260), len(data) - 66_001, len(data) - 1]:
                first, _ = collect(limits, data[:cut])
                events, error = collect(limits, data[:cut], data[cut:])
                self.assertIsNone(error)
                self.assertEqual(stream(events), stream(collect(limits, data)[0]))
                if limits is EVERYTHING:
                    self.assertEqual(joined(events), whole)
                if 8 < cut < 208:
                    self.assertEqual(stream(first), bytes(range(cut - 8)))

    def test_boundaries(self) -> None:
        """Where they matter, the ends of messages are told, those of empty ones too."""
        data = client(BINARY, b"ab") + client(BINARY) + client(BINARY, b"c", final=False)
        data += client(PING, b"p") + client(CONTINUATION) + client(TEXT, "é".encode())
        events, _ = collect(EVERYTHING, data)
        self.assertEqual(
            events,
            [
                Data(b"ab", False, True),
                Data(b"", False, True),
                Data(b"c", False, False),
                Control(PING, b"p"),
                Data(b"", False, True),
                Data("é".encode(), True, True),
            ],
        )

    def test_bounded(self) -> None:
        """No more is kept than one header or one control frame."""
        reader = FrameReader(STREAM)
        for piece in (head(BINARY | FIN, 1 << 20), *[b"x" * 1000] * 1000, b"y" * 48_576):
            for _ in reader.receive(piece):
                pass
            self.assertLess(len(reader._rest), 14)
        for byte in client(PING, b"p" * 125)[:-1]:
            self.assertEqual(list(reader.receive(bytes((byte,)))), [])
        self.assertEqual(len(reader._rest), 130)

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from((0, 1, 3, 125, 126, 1000, 65_535, 65_536)), st.binary(min_size=4, max_size=4)
            )
        ),
        st.lists(st.integers(0, 1 << 20), max_size=20),
    )
    def test_any_split(self, sizes: list[tuple[int, bytes]], at: list[int]) -> None:
        """Frames of any size, under any keys, in any pieces, carry their bytes."""
        source = random.Random(len(sizes))
        payloads = [source.randbytes(size) for size, _ in sizes]
        data = b"".join(client(BINARY, p, key=key) for p, (_, key) in zip(payloads, sizes, strict=True))
        for limits in (STREAM, EVERYTHING):
            events, error = collect(limits, *cuts(data, at))
            self.assertEqual((stream(events), error), (b"".join(payloads), None))
        self.assertEqual([payload for _, payload, _ in joined(events)], payloads)


class ControlTests(SynchronousTestCase):
    """Pings, pongs and closes."""

    def test_between_fragments(self) -> None:
        """Control frames may stand within a message, and nothing overtakes them."""
        data = (
            client(BINARY, b"a", final=False) + client(PING, b"1") + client(CONTINUATION, b"b", final=False)
        )
        data += client(PONG, b"2") + client(CONTINUATION, b"c")
        events, error = collect(STREAM, data)
        parts: list[Data | Control] = [
            Data(b"a", False, False),
            Control(PING, b"1"),
            Data(b"b", False, False),
        ]
        self.assertEqual(events, [*parts, Control(PONG, b"2"), Data(b"c", False, False)])
        self.assertIsNone(error)

    def test_close(self) -> None:
        """A close frame has no payload, or a code that may be sent, and perhaps a reason."""
        for payload in (
            b"",
            b"\x03\xe8",
            b"\x03\xe8bye",
            b"\x0f\xa0" + "ü".encode(),
            b"\x13\x87" + b"x" * 123,
        ):
            self.assertEqual(collect(STREAM, client(CLOSE, payload)), ([Control(CLOSE, payload)], None))


class RefusedTests(SynchronousTestCase):
    """Each rule of RFC 6455 has its close code."""

    def refused(self, code: int, *pieces: bytes, limits: FrameLimits = EVERYTHING) -> None:
        """Every mistake is found wherever it comes, and what came before it was given on."""
        good = client(BINARY, b"good")
        for kind in (limits, FrameLimits(limits.max_frame, limits.max_message, text=limits.text)):
            for data in (list(pieces), [b"".join(pieces)], [good, *pieces], [good + b"".join(pieces)]):
                events, error = collect(kind, *data)
                self.assertEqual(error, code)
                self.assertEqual(
                    stream(events)[:4], b"good" if data[0].startswith(good) else stream(events)[:4]
                )

    def test_reserved(self) -> None:
        """Reserved bits and opcodes mean extensions that nobody agreed on."""
        for bit in (0x10, 0x20, 0x40):
            for opcode in (BINARY, PING):
                self.refused(PROTOCOL_ERROR, head(FIN | bit | opcode, 0))
        for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
            self.refused(PROTOCOL_ERROR, head(FIN | opcode, 0))

    def test_unmasked(self) -> None:
        """A browser masks; what does not is an attack on something in between."""
        for opcode, size in ((BINARY, 0), (BINARY, 5), (BINARY, 126), (PING, 0), (CLOSE, 2)):
            self.refused(PROTOCOL_ERROR, frame(opcode, b"x" * size))

    def test_length(self) -> None:
        """A length has one form."""
        for size in (0, 1, 125):
            long = bytes((FIN | BINARY, 254)) + size.to_bytes(2, "big") + KEY
            self.refused(PROTOCOL_ERROR, long)
            self.refused(PROTOCOL_ERROR, long + b"x" * size)
        for size in (0, 65_535, 1 << 63, (1 << 64) - 1):
            self.refused(PROTOCOL_ERROR, bytes((FIN | BINARY, 255)) + size.to_bytes(8, "big") + KEY)

    def test_control(self) -> None:
        """Control frames are small and whole."""
        for opcode in (CLOSE, PING, PONG):
            self.refused(PROTOCOL_ERROR, client(opcode, b"xx", final=False))
            self.refused(PROTOCOL_ERROR, client(opcode, b"\x03\xe8" + b"x" * 124))

    def test_fragments(self) -> None:
        """A message is continued until it ends, and only then."""
        self.refused(PROTOCOL_ERROR, client(CONTINUATION, b"x"))
        self.refused(PROTOCOL_ERROR, client(CONTINUATION, b"x", final=False))
        for opcode in (TEXT, BINARY):
            self.refused(PROTOCOL_ERROR, client(BINARY, b"x", final=False), client(opcode, b"y"))
        self.refused(PROTOCOL_ERROR, client(BINARY, b"x"), client(CONTINUATION, b"y"))

    def test_close(self) -> None:
        """Codes that mean nothing on the wire, half of one, and reasons that are no text."""
        for code in (0, 999, 1004, 1005, 1006, 1014, 1015, 1016, 1100, 2000, 2999, 5000, 65_535):
            self.refused(PROTOCOL_ERROR, client(CLOSE, code.to_bytes(2, "big")))
        self.refused(PROTOCOL_ERROR, client(CLOSE, b"\x03"))
        for reason in (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"):
            self.refused(INVALID_PAYLOAD, client(CLOSE, b"\x03\xe8" + reason))

    def test_text(self) -> None:
        """Text is UTF-8, which is noticed at the first byte that is not."""
        self.refused(INVALID_PAYLOAD, client(TEXT, b"a\xffb"))
        self.refused(INVALID_PAYLOAD, client(TEXT, b"\xc3"))
        self.refused(
            INVALID_PAYLOAD, client(TEXT, b"\xf4", final=False), client(CONTINUATION, b"\x90", final=False)
        )
        _, error = collect(EVERYTHING, client(TEXT, b"\xe2\x82", final=False), client(CONTINUATION, b"\xac"))
        self.assertIsNone(error)
        # Half a frame is enough.
        self.assertEqual(collect(EVERYTHING, client(TEXT, b"\xff" + b"x" * 99)[:7])[1], INVALID_PAYLOAD)

    def test_kinds(self) -> None:
        """What nobody here takes is refused by its header."""
        self.assertEqual(collect(STREAM, client(BINARY, b"a") + head(FIN | TEXT, 5))[1], UNSUPPORTED)
        only = FrameLimits(text=True, binary=False)
        self.assertEqual(collect(only, client(TEXT, b"a") + head(FIN | BINARY, 5))[1], UNSUPPORTED)

    def test_too_big(self) -> None:
        """Frames and messages have limits, which hold before the bytes are there."""
        small = FrameLimits(100, 150, text=True, boundaries=True)
        self.refused(TOO_BIG, head(FIN | BINARY, 101), limits=small)
        self.refused(TOO_BIG, head(FIN | BINARY, 1 << 40), limits=small)
        first = client(BINARY, b"x" * 100, final=False)
        self.refused(TOO_BIG, first, head(CONTINUATION, 51), limits=small)
        for kind in (small, FrameLimits(100, 150)):
            data = first + client(CONTINUATION, b"x" * 50) + client(BINARY, b"x" * 100)
            self.assertIsNone(collect(kind, data)[1])
        # Of the two, the smaller counts.
        self.assertEqual(collect(FrameLimits(100, 50), client(BINARY, b"x" * 51))[1], TOO_BIG)


def oracle(data: bytes) -> tuple[list[Any], int | None]:
    """What wsproto makes of *data*: whole messages and control frames, and the code it would close with."""
    protocol = FrameProtocol(client=False, extensions=[])
    protocol.receive_bytes(data)
    events: list[Any] = []
    text, payload = False, b""
    try:
        for part in protocol.received_frames():
            content: Any = part.payload
            if part.opcode is Opcode.CLOSE:
                code, reason = content
                return [*events, (CLOSE, int(code), reason or "")], None
            if part.opcode.iscontrol():
                events.append((int(part.opcode), bytes(content)))
                continue
            text = isinstance(content, str)
            payload += content.encode() if text else content
            if part.message_finished:
                events.append((text, payload))
                payload = b""
    except ParseFailed as error:
        return events, int(error.code)
    return events, None


def ours(*pieces: bytes) -> tuple[list[Any], int | None]:
    """The same of our reader."""
    collected, error = collect(BOUNDLESS, *pieces)
    events: list[Any] = []
    payload = b""
    for event in collected:
        if isinstance(event, Data):
            payload += event.payload
            if event.ends:
                events.append((event.text, payload))
                payload = b""
        elif event.opcode == CLOSE:
            code = int.from_bytes(event.payload[:2], "big") if event.payload else NO_CODE
            return [*events, (CLOSE, code, event.payload[2:].decode())], None
        else:
            events.append(tuple(event))
    return events, error


_OPCODES = st.sampled_from((CONTINUATION, CONTINUATION, TEXT, BINARY, BINARY, CLOSE, PING, PONG, 3, 11))
_PAYLOADS = st.one_of(
    st.binary(max_size=8),
    st.text(max_size=5).map(str.encode),
    st.integers(0, 5000).map(lambda code: code.to_bytes(2, "big")),
    st.sampled_from((126, 65_536)).map(lambda size: b"x" * size),
)


@st.composite
def mixed(draw: st.DrawFn) -> bytes:
    """Frames in an order that is sometimes right, with mistakes now and then."""
    data = b""
    for _ in range(draw(st.integers(1, 5))):
        one = bytearray(client(draw(_OPCODES), draw(_PAYLOADS), draw(st.booleans())))
        if draw(st.integers(0, 7)) == 0:
            one[draw(st.integers(0, 1))] ^= 1 << draw(st.integers(0, 7))
        data += one
    return data


class OracleTests(SynchronousTestCase):
    """Another implementation reads the same."""

    @settings(max_examples=400, deadline=None)
    @given(mixed(), st.lists(st.integers(0, 1 << 17), max_size=4))
    def test_frames(self, data: bytes, at: list[int]) -> None:
        """What one takes the other one takes, as the same; what one refuses the other refuses, so too."""
        # We refuse a header before it is whole.
        data += bytes(14)
        self.assertEqual(ours(*cuts(data, at)), oracle(data))

    @settings(max_examples=300, deadline=None)
    @given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=4))
    def test_noise(self, data: bytes, at: list[int]) -> None:
        """Bytes without sense are refused or waited for, never anything else."""
        whole, error = collect(EVERYTHING, data)
        parts, again = collect(EVERYTHING, *cuts(data, at))
        self.assertEqual(error is None, again is None)
        if error is None:
            self.assertEqual(joined(whole), joined(parts))


class KeysTests(SynchronousTestCase):
    """The short way of what is typed."""

    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=140), st.booleans(), st.sampled_from((BINARY, TEXT, CONTINUATION, PING)))
    def test_as_always(self, payload: bytes, final: bool, opcode: int) -> None:
        """What is read the short way is what would have been read the long way; nothing else is taken."""
        data = client(opcode, payload, final=final)
        found = FrameReader(STREAM).keys(data)
        whole = final and opcode == BINARY and 0 < len(payload) <= 125
        self.assertEqual(found, payload if whole else b"")
        for other in (data[:-1], data + b"\0", bytes((data[0] | 0x40,)) + data[1:]):
            self.assertEqual(FrameReader(STREAM).keys(other), b"")

    def test_place(self) -> None:
        """In the middle of a frame or a message, or beyond a limit, there is no short way."""
        data = client(BINARY, b"keys")
        for before in (data[:1], data[:8], client(BINARY, b"x", final=False)):
            reader = FrameReader(FrameLimits())
            list(reader.receive(before))
            self.assertEqual(reader.keys(data), b"")
        for limits in (FrameLimits(max_frame=3), FrameLimits(max_message=3), FrameLimits(boundaries=True)):
            self.assertEqual(FrameReader(limits).keys(data), b"")
        self.assertEqual(FrameReader(FrameLimits(binary=False)).keys(data), b"")


class FrameTests(SynchronousTestCase):
    """What we send."""

    @settings(max_examples=50, deadline=None)
    @given(st.sampled_from((0, 1, 125, 126, 127, 65_535, 65_536, 100_000)), st.booleans(), st.booleans())
    def test_read_by_another(self, size: int, text: bool, final: bool) -> None:
        """A frame is what another implementation reads as a client, in the shortest form."""
        payload = b"x" * size
        data = frame(TEXT if text else BINARY, memoryview(payload), final)
        protocol = FrameProtocol(client=True, extensions=[])
        protocol.receive_bytes(data)
        parts: list[Any] = list(protocol.received_frames())
        read = "".join(part.payload if text else part.payload.decode() for part in parts)
        self.assertEqual(read, "x" * size)
        self.assertEqual(parts[-1].message_finished, final)
        self.assertEqual(len(data) - size, 2 if size < 126 else 4 if size < 65_536 else 10)

    def test_several(self) -> None:
        """Many bytes become whole messages, none larger than is said, and no empty one."""
        for size in (1, 99, 100, 101, 300, 1000):
            payload = random.Random(size).randbytes(size)
            protocol = FrameProtocol(client=True, extensions=[])
            protocol.receive_bytes(frames(BINARY, memoryview(payload), 100))
            parts: list[Any] = list(protocol.received_frames())
            self.assertEqual(b"".join(part.payload for part in parts), payload)
            self.assertEqual({part.message_finished for part in parts}, {True})
            self.assertEqual([len(part.payload) for part in parts[:-1]], [100] * (len(parts) - 1))
            self.assertLessEqual(len(parts[-1].payload), 100)


class MaskTests(SynchronousTestCase):
    """Both ways to unmask do the same."""

    def test_both(self) -> None:
        """Any part of a buffer, of any size, and nothing beside it."""
        source = random.Random(1)
        for size in (*range(70), 1000, 4097):
            for start in (0, 1, 3, 16):
                key, data = source.randbytes(4), source.randbytes(start + size + 5)
                wanted = data[:start] + masked(data[start : start + size], key) + data[start + size :]
                for way in (websocket_mask.portable, websocket_mask.native):
                    room = bytearray(data)
                    way(room)(key, start, size)
                    self.assertEqual(bytes(room), wanted)

    def test_native(self) -> None:
        """The compiled masker is there, or consoles cost three times as much."""
        self.assertIs(websocket_mask.unmasker, websocket_mask.native)
