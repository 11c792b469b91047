"""What viewers send: passed on unchanged, or without what they may not do, in pieces of every size."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from struct import pack

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.errors import BadRequest
from gateway.wire.rfb_messages import MAX_CLIPBOARD, ClientFilter
from tests.wire.rfb_peers import cut

FORMAT = b"\0\0\0\0" + bytes(16)
REQUEST = b"\x03" + bytes(9)
KEY = b"\x04\x01\0\0\0\0\0\x61"
POINTER = b"\x05\0\0\x10\0\x10"
CONTINUOUS = b"\x96" + bytes(9)
XVP = b"\xfa\0\x01\x02"
EXTENDED_KEY = b"\xff\0\0\x01" + pack(">II", 0x61, 0x1E)
AUDIO = (b"\xff\x01\0\0", b"\xff\x01\0\x01", b"\xff\x01\0\x02" + bytes(6))


def encodings(count: int) -> bytes:
    return pack(">BxH", 2, count) + bytes(4 * count)


def cut_text(data: bytes, *, extended: bool = False) -> bytes:
    return pack(">Bxxxi", 6, -len(data) if extended else len(data)) + data


def fence(payload: bytes) -> bytes:
    return b"\xf8" + bytes(7) + bytes([len(payload)]) + payload


def desktop_size(screens: int) -> bytes:
    return b"\xfb\0\x01\0\x01\0" + bytes([screens, 0]) + bytes(16 * screens)


def gii(size: int, *, big: bool) -> bytes:
    return (pack(">BBH", 253, 0x80, size) if big else pack("<BBH", 253, 0, size)) + bytes(size)


SMALL = st.binary(max_size=40)
#: What is about a viewer's own picture, what only listens, and what changes the guest.
LOCAL = st.one_of(
    st.sampled_from([FORMAT, REQUEST, CONTINUOUS]), st.integers(0, 30).map(encodings), SMALL.map(fence)
)
LISTEN = st.sampled_from(AUDIO)
INPUT = st.one_of(
    st.sampled_from([KEY, POINTER, XVP, EXTENDED_KEY]),
    SMALL.map(cut_text),
    SMALL.map(lambda data: cut_text(data, extended=True)),
    st.integers(0, 3).map(desktop_size),
    st.builds(lambda size, big: gii(size, big=big), st.integers(0, 40), st.booleans()),
)
KINDS = {"local": LOCAL, "listen": LISTEN, "input": INPUT}
MESSAGES = st.lists(
    st.sampled_from(sorted(KINDS)).flatmap(lambda kind: KINDS[kind].map(lambda it: (kind, it))), max_size=25
)
SIZES = st.lists(st.integers(1, 30), max_size=80)


def feed(filtered: ClientFilter, data: bytes, sizes: Iterable[int]) -> tuple[list[bytes], bool]:
    """What comes out of each piece, and whether any of it was activity."""
    out, active = [], False
    for piece in cut(data, sizes):
        passed, alive = filtered.receive(piece)
        out.append(passed)
        active = active or alive
    return out, active


def is_alive(message: bytes) -> bool:
    return message[0] in (4, 5, 6, 253) or message[:2] == b"\xff\0"


class PassTests(SynchronousTestCase):
    """Whoever may do everything."""

    @given(MESSAGES, SIZES)
    @settings(max_examples=100, deadline=None)
    def test_unchanged(self, messages: list[tuple[str, bytes]], sizes: list[int]) -> None:
        """All is passed on as it is, and whether somebody is there is seen."""
        data = b"".join(it for _, it in messages)
        out, active = feed(ClientFilter(), data, sizes)
        self.assertEqual(b"".join(out), data)
        self.assertEqual(active, any(is_alive(it) for _, it in messages))

    def test_each(self) -> None:
        """Only what somebody does is activity; each message ends where it should."""
        for message in (
            *(FORMAT, REQUEST, KEY, POINTER, CONTINUOUS, XVP, EXTENDED_KEY, *AUDIO),
            *(encodings(0), encodings(20), cut_text(b""), cut_text(b"text"), fence(b""), fence(b"x" * 64)),
            *(cut_text(b"text", extended=True), desktop_size(0), desktop_size(255)),
            *(gii(4, big=True), gii(300, big=False)),
        ):
            filtered = ClientFilter()
            self.assertEqual(filtered.receive(message), (message, is_alive(message)))
            self.assertEqual(filtered.receive(REQUEST), (REQUEST, False))

    def test_same_object(self) -> None:
        """What needs no change is not copied."""
        data = KEY + POINTER + REQUEST
        self.assertIs(ClientFilter().receive(data)[0], data)

    def test_whole_messages(self) -> None:
        """Of a message that is cut, nothing is passed on."""
        filtered = ClientFilter()
        self.assertEqual(filtered.receive(POINTER + KEY[:7]), (POINTER, True))
        self.assertEqual(filtered.receive(KEY[7:]), (KEY, True))

    def test_clipboard_flows(self) -> None:
        """A long clipboard is passed on as it comes, and never collected."""
        data = cut_text(b"x" * 1_000_000)
        filtered = ClientFilter()
        for at in range(0, len(data), 4096):
            piece = data[at : at + 4096]
            self.assertEqual(filtered.receive(piece)[0], piece)
        self.assertEqual(filtered.receive(KEY), (KEY, True))

    def test_cut_clipboards(self) -> None:
        """A clipboard that flows is cut at any byte, with messages behind it."""
        data = KEY + cut_text(b"clipboard") + KEY + REQUEST
        for at in range(len(data) + 1):
            filtered = ClientFilter()
            self.assertEqual(filtered.receive(data[:at])[0] + filtered.receive(data[at:])[0], data)


class ViewOnlyTests(SynchronousTestCase):
    """Whoever may only look."""

    @given(MESSAGES, SIZES)
    @settings(max_examples=100, deadline=None)
    def test_no_input(self, messages: list[tuple[str, bytes]], sizes: list[int]) -> None:
        """Nothing that changes the guest is passed on, and everything else is."""
        out, active = feed(ClientFilter(view_only=True), b"".join(it for _, it in messages), sizes)
        self.assertEqual(b"".join(out), b"".join(it for kind, it in messages if kind != "input"))
        self.assertEqual(active, any(is_alive(it) for _, it in messages))

    def test_input_inside_clipboard(self) -> None:
        """What looks like a key inside of a clipboard, or a clipboard inside of a fence, fools nobody."""
        data = fence(cut_text(b"x" * 9)[:30]) + cut_text(KEY * 10) + REQUEST
        for at in range(len(data) + 1):
            filtered = ClientFilter(view_only=True)
            out = filtered.receive(data[:at])[0] + filtered.receive(data[at:])[0]
            self.assertEqual(out, fence(cut_text(b"x" * 9)[:30]) + REQUEST)


class SharedTests(SynchronousTestCase):
    """Viewers who share one server."""

    @given(MESSAGES, SIZES, st.booleans())
    @settings(max_examples=100, deadline=None)
    def test_local(self, messages: list[tuple[str, bytes]], sizes: list[int], view_only: bool) -> None:
        """What is about one's own picture stays here, whole; the rest is passed on in whole messages."""
        local: list[bytes] = []
        filtered = ClientFilter(view_only, local=local.append)
        out, _ = feed(filtered, b"".join(it for _, it in messages), sizes)
        self.assertEqual(local, [it for kind, it in messages if kind == "local"])
        passed = [
            it
            for kind, it in messages
            if kind == "listen" or (kind == "input" and not view_only and not (it[0] == 6 and it[4] & 128))
        ]
        self.assertEqual(b"".join(out), b"".join(passed))
        # Each piece that comes out ends where a message does.
        ends = {0}
        for it in passed:
            ends.add(max(ends) + len(it))
        length = 0
        for piece in out:
            length += len(piece)
            self.assertIn(length, ends)

    def test_long_clipboard(self) -> None:
        """A long clipboard in tiny pieces is only looked at when all of it is there."""
        data = cut_text(b"x" * 50_000)
        filtered = ClientFilter(local=lambda _: None)
        out = filtered.receive(data[:9])[0]
        for at in range(9, len(data)):
            self.assertEqual(filtered._needed, len(data))
            out += filtered.receive(data[at : at + 1])[0]
        self.assertEqual(out, data)


class HostileTests(SynchronousTestCase):
    """Viewers that cheat."""

    def assert_refused(self, data: bytes, make: Callable[[], ClientFilter] = ClientFilter) -> None:
        self.assertRaises(BadRequest, make().receive, data)
        self.assertRaises(BadRequest, make().receive, KEY + data)

    def test_unknown(self) -> None:
        """Where nobody knows the length of a message, nothing after it makes sense."""
        known = {0, 2, 3, 4, 5, 6, 150, 248, 250, 251, 253, 255}
        for kind in set(range(256)) - known:
            self.assert_refused(bytes([kind]))
        self.assert_refused(b"\xff\x02\0\0")
        self.assert_refused(b"\xff\x01\0\x03")
        self.assert_refused(b"\xff\x01\x01\0")

    def test_too_long(self) -> None:
        """Lengths are bounded before anything is collected."""
        for data in (
            pack(">Bxxxi", 6, MAX_CLIPBOARD + 1),
            pack(">Bxxxi", 6, -MAX_CLIPBOARD - 1),
            pack(">Bxxxi", 6, -(1 << 31)),
            pack(">Bxxxi", 6, (1 << 31) - 1),
            pack(">BxH", 2, 1025),
            pack(">BxH", 2, 65535),
            b"\xf8" + bytes(7) + b"\x41",
        ):
            self.assert_refused(data)
            self.assert_refused(data, lambda: ClientFilter(local=lambda _: None))
        self.assert_refused(pack(">Bxxxi", 6, 11), lambda: ClientFilter(clipboard=10))
        self.assertEqual(ClientFilter(clipboard=10).receive(cut_text(bytes(10)))[0], cut_text(bytes(10)))

    @given(st.lists(st.binary(max_size=60), max_size=20), st.booleans(), st.booleans())
    @settings(max_examples=300, deadline=None)
    def test_fuzz(self, pieces: list[bytes], view_only: bool, shared: bool) -> None:
        """Whatever arrives, it fails with the one error, or no more comes out than went in."""
        filtered = ClientFilter(view_only, local=(lambda _: None) if shared else None)
        data, out = b"".join(pieces), b""
        try:
            for piece in pieces:
                out += filtered.receive(piece)[0]
        except BadRequest:
            pass
        if not view_only and not shared:
            self.assertTrue(data.startswith(out))
        self.assertLessEqual(len(out), len(data))
        self.assertLess(len(filtered._held), 128 * 1024)
