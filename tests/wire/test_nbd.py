"""The NBD client: whatever the server sends, in pieces of every size, and whatever no server would send."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterable
from random import Random
from struct import pack
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.errors import UpstreamFailed
from gateway.wire.nbd import Command, CommandFlag, Reply, Transmission
from gateway.wire.nbd_extents import Extents, dirty_extents, zero_extents
from gateway.wire.nbd_negotiation import Export, Flags, Negotiation
from tests.wire.nbd_server import DONE, FLUSH, MULTI, NO_HOLE, ZEROES, Image, Server

SIZE = 64 * 1024


def image(**members: Any) -> Image:
    """Data with holes."""
    data = bytearray(bytes(range(1, 251)) * 300)[:SIZE]
    data[8192:20480] = bytes(12288)
    return Image(data, **members)


def cut(data: bytes, sizes: Iterable[int]) -> Iterable[bytes]:
    """*data* in pieces of *sizes*, and the rest at once."""
    for size in sizes:
        if not data:
            return
        yield data[:size]
        data = data[size:]
    if data:
        yield data


def negotiate(server: Server, sizes: Iterable[int] = (), *, name: str = "", dirty: bool = False) -> Export:
    """Let the two find each other."""
    client = Negotiation(name, dirty=dirty)
    waiting = server.greeting()
    sizes = list(sizes)
    while waiting:
        said = b"".join(client.receive(piece) for piece in cut(waiting, sizes))
        waiting = server.receive(said)
    assert client.export is not None
    return client.export


def opened(**members: Any) -> tuple[Transmission, Server]:
    server = Server(image(**members))
    return Transmission(negotiate(server, dirty=server.image.dirty is not None)), server


def one(client: Transmission, server: Server, request: tuple[int, bytes], payload: bytes = b"") -> Reply:
    """The reply to one request."""
    handle, head = request
    (reply,) = client.receive(server.receive(head + payload))
    assert reply.handle == handle
    return reply


def chunk(kind: int, payload: bytes = b"", *, flags: int = DONE, handle: int = 1, length: int = -1) -> bytes:
    size = len(payload) if length < 0 else length
    return pack(">IHHQI", 0x668E33EF, flags, kind, handle, size) + payload


def answer(option: int, kind: int, length: int) -> bytes:
    """The head of a reply to an option."""
    return pack(">QIII", 0x3E889045565A9, option, kind, length)


EXPORT = answer(7, 3, 12) + pack(">HQH", 0, 5, 1)


class NegotiationTests(SynchronousTestCase):
    """The handshake."""

    def test_all(self) -> None:
        """All there is is agreed on: size, flags, chunks, and metadata, of which the first bitmap."""
        export = negotiate(Server(image(name="a b", dirty=set(), depth=set())), name="a b", dirty=True)
        self.assertEqual((export.size, export.structured), (SIZE, True))
        self.assertEqual(export.flags & ~1, FLUSH | ZEROES | MULTI)
        self.assertEqual((export.allocation, export.depth, export.dirty), (7, 8, 9))

    def test_least(self) -> None:
        """A server that knows none of it can still be read."""
        self.assertEqual(negotiate(Server(image(structured=False))), Export(SIZE, Flags(1 | 4 | 64 | 256)))
        export = negotiate(Server(image(allocation=False)), dirty=True)
        self.assertEqual((export.structured, export.allocation, export.dirty), (True, None, None))

    def test_bitmap_not_wanted(self) -> None:
        """No bitmap is asked for when nobody wants it."""
        self.assertIsNone(negotiate(Server(image(dirty=set()))).dirty)

    def test_no_export(self) -> None:
        """An export that is not there is told, without the server's own words."""
        error = self.assertRaises(UpstreamFailed, negotiate, Server(image(name="a")), name="b")
        self.assertEqual((error.reason, "no such export" in error.text), ("export", True))
        self.assertRaises(UpstreamFailed, Negotiation, "x" * 5000)

    def test_every_cut(self) -> None:
        """It makes no difference where the network cuts."""
        whole = negotiate(Server(image(dirty=set())), dirty=True)
        for size in range(1, 60):
            self.assertEqual(negotiate(Server(image(dirty=set())), [size] * 1000, dirty=True), whole)

    def test_broken(self) -> None:
        """What is no NBD server, an old one, or one without end is refused, with bounded memory."""
        hello = b"NBDMAGICIHAVEOPT\0\3"
        option = answer(8, 1, 0)
        context = answer(10, 4, 8) + b"\0\0\0\1abcd"
        for data in (
            b"HTTP/1.1 400 Bad Request\r\n",
            b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53" + bytes(200),
            b"NBDMAGICIHAVEOPT\0\0",
            hello + bytes(20),
            hello + answer(9, 1, 0),
            hello + answer(8, 3, 1 << 31),
            hello + answer(8, 3, 0) * 5000,
            hello + option + context * 5000,
            hello + option + answer(10, 4, 2) + b"ab" + answer(10, 1, 0),
            hello + option + context + context.replace(b"abcd", b"abce") + answer(10, 1, 0),
            hello + option + answer(10, 1, 0) + answer(7, 1, 0),
            hello + option + answer(10, 1, 0)
            + EXPORT + answer(7, 1, 0) + b"x",
        ):  # fmt: skip
            for sizes in ([], [1] * 100):
                client = Negotiation("")
                with self.assertRaises(UpstreamFailed):
                    for piece in cut(data, sizes):
                        client.receive(piece)

    @settings(max_examples=300, deadline=None)
    @given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([
        b"NBDMAGICIHAVEOPT\0\3", b"NBDMAGICIHAVEOPT\0\1", pack(">Q", 0x3E889045565A9),
        answer(8, 1, 0), answer(10, 1, 0),
        EXPORT, answer(7, 1, 0),
        answer(9, 1 << 31 | 1, 0), answer(10, 4, 9) + b"\0\0\0\1\xff\xfebcd",
    ])), max_size=10), st.booleans())  # fmt: skip
    def test_fuzz(self, pieces: list[bytes], dirty: bool) -> None:
        """Whatever comes, there is an export, a wish for more, or the one error."""
        client = Negotiation("", dirty=dirty)
        try:
            for piece in pieces:
                client.receive(piece)
        except UpstreamFailed:
            pass


class TransmissionTests(SynchronousTestCase):
    """Requests and replies."""

    def test_read(self) -> None:
        """Bytes are the same in simple replies and in chunks, whole or with holes."""
        for structured in (False, True):
            for size in (1 << 30, 5000):
                client, server = opened(structured=structured, chunk=size)
                reply = one(client, server, client.request(Command.READ, 100, 30_000))
                self.assertEqual(reply.data, server.image.data[100:30_100])
                self.assertEqual(client.waiting, 0)

    def test_write(self) -> None:
        """Writes, zeroes and flushes arrive, with their flags."""
        client, server = opened()
        self.assertEqual(one(client, server, client.request(Command.WRITE, 5, 3), b"abc").error, 0)
        zero = client.request(Command.WRITE_ZEROES, 50, 10, CommandFlag.NO_HOLE)
        self.assertEqual(one(client, server, zero).error, 0)
        self.assertEqual(one(client, server, client.request(Command.FLUSH)).error, 0)
        self.assertEqual(server.image.data[5:8], b"abc")
        self.assertEqual(server.image.log, [(1, 5, 3, 0), (6, 50, 10, NO_HOLE), (3, 0, 0, 0)])
        self.assertEqual(server.receive(client.request(Command.DISC)[1]), b"")
        self.assertTrue(server.closed)

    def test_errors(self) -> None:
        """An error belongs to its request; others go on."""
        for structured in (False, True):
            client, server = opened(structured=structured, refuse={0: 5})
            reply = one(client, server, client.request(Command.READ, 0, 10))
            self.assertEqual((reply.error, reply.data), (5, b""))
            self.assertEqual(one(client, server, client.request(Command.FLUSH)).error, 0)

    def test_error_in_the_middle(self) -> None:
        """A read that fails after some of its data is an error, not data."""
        client, _ = opened()
        client.request(Command.READ, 0, 10)
        data = chunk(1, pack(">Q5s", 0, b"abcde"), flags=0) + chunk(
            0x8002, pack(">IH2sQ", 5, 2, b"no", 5), flags=0
        )
        self.assertEqual(client.receive(data), [])
        (reply,) = client.receive(chunk(0))
        self.assertEqual((reply.error, reply.message, reply.data), (5, "no", b""))

    def test_out_of_order(self) -> None:
        """Replies come in any order, and their chunks among each other."""
        client, _ = opened()
        for offset in (0, 4):
            client.request(Command.READ, offset, 4)
        data = (
            chunk(1, pack(">Q2s", 6, b"78"), flags=0, handle=2)
            + chunk(1, pack(">Q2s", 2, b"34"), flags=0)
            + chunk(1, pack(">Q2s", 4, b"56"), handle=2)
            + chunk(1, pack(">Q2s", 0, b"12"))
        )
        self.assertEqual([(it.handle, it.data) for it in client.receive(data)], [(2, b"5678"), (1, b"1234")])

    def test_broken(self) -> None:
        """What does not fit what was asked is refused: places, lengths, kinds, twice or never."""
        status = pack(">III", 7, 4096, 0)
        for data in (
            b"\0" * 16,
            b"\x67\x44\x66\x98" + bytes(4) + pack(">Q", 9),
            chunk(1, pack(">Q1s", 0, b"a"), handle=9),
            chunk(1, pack(">Q11s", 0, b"a" * 11)),
            chunk(1, pack(">Q5s", 6, b"a" * 5)),
            chunk(1, pack(">Q5s", (1 << 64) - 2, b"a" * 5)),
            chunk(1, pack(">Q", 0)),
            chunk(1, length=1 << 31),
            chunk(1, pack(">Q9s", 0, b"a" * 9)),
            chunk(1, pack(">Q6s", 0, b"a" * 6), flags=0) + chunk(1, pack(">Q4s", 5, b"a" * 4)),
            chunk(1, pack(">Q6s", 0, b"a" * 6), flags=0) + chunk(2, pack(">QI", 0, 4)),
            chunk(2, pack(">QI", 0, 0)),
            chunk(2, pack(">QI", 0, 1 << 31)),
            chunk(2, bytes(11)),
            chunk(0),
            chunk(0, flags=0),
            chunk(0, b"a"),
            chunk(3, b"a"),
            chunk(5, status),
            chunk(5, status, handle=2) + chunk(5, status, handle=2),
            chunk(5, pack(">III", 6, 4096, 0), handle=2),
            chunk(5, pack(">III", 7, 0, 0), handle=2),
            chunk(5, status + b"abc", handle=2),
            chunk(5, status, handle=2, flags=0) * 2,
            chunk(5, length=1 << 30, handle=2),
            chunk(0, handle=2),
            chunk(0x8001, pack(">IH", 0, 0)),
            chunk(0x8001, pack(">IH", 5, 9)),
            chunk(0x8001, b"abc"),
            chunk(0x8001, length=1 << 20),
            chunk(2, pack(">QI", 0, 1), flags=0) * 9 + b"\x67\x44\x66\x98" + bytes(4) + pack(">Q", 1),
        ):
            for sizes in ([], [1] * 200):
                client, _ = opened()
                client.request(Command.READ, 0, 10)
                client.request(Command.BLOCK_STATUS, 0, 4096)
                with self.assertRaises(UpstreamFailed):
                    for piece in cut(data, sizes):
                        client.receive(piece)

    def test_simple_only(self) -> None:
        """A chunk from a server that did not agree on chunks is nonsense."""
        client, _ = opened(structured=False)
        client.request(Command.READ, 0, 1)
        self.assertRaises(UpstreamFailed, client.receive, chunk(1, pack(">Q1s", 0, b"a")))

    def test_endless_chunks(self) -> None:
        """A reply of endlessly many pieces is given up."""
        client, _ = opened()
        client.request(Command.READ, 0, 32 * 1024 * 1024)
        client.request(Command.READ, 0, 1024)
        pieces = b"".join(chunk(2, pack(">QI", at, 1), flags=0, handle=2) for at in range(100))
        self.assertRaises(UpstreamFailed, client.receive, pieces)

    def test_bounds(self) -> None:
        """No more is asked for in one piece than a server must be able to give."""
        client, _ = opened()
        for length in (0, -1, 32 * 1024 * 1024 + 1):
            self.assertRaises(ValueError, client.request, Command.READ, 0, length)

    def test_memory(self) -> None:
        """However small the pieces, what is kept is little more than what was asked for."""
        client, _ = opened()
        size = 256 * 1024
        for _ in range(4):
            client.request(Command.READ, 0, size)
        heads = [chunk(1, pack(">Q", 0), flags=0, handle=it + 1, length=8 + size) for it in range(4)]
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for head in heads:
            client.receive(head)
            for _ in range(size // 64):
                client.receive(bytes(64))
        kept = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        self.assertLess(kept, 4 * size * 1.3)

    def test_memory_of_others(self) -> None:
        """A small piece does not keep the large buffer it came in."""
        client, _ = opened()
        client.request(Command.READ, 0, SIZE)
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(50):
            handle, _ = client.request(Command.READ, 0, 60_000)
            small = chunk(1, pack(">Q", number * 100) + bytes(100), flags=0)
            self.assertEqual(
                len(client.receive(small + chunk(1, bytes(8) + bytes(60_000), handle=handle))), 1
            )
        kept = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        self.assertLess(kept, SIZE)

    @settings(max_examples=150, deadline=None)
    @given(
        st.integers(0, 1 << 30),
        st.booleans(),
        st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(1, 9000)), min_size=1, max_size=6),
        st.lists(st.one_of(st.integers(1, 40), st.integers(1, 9000)), max_size=60),
    )
    def test_any_split(
        self, seed: int, structured: bool, wanted: list[tuple[int, int]], sizes: list[int]
    ) -> None:
        """However the server's bytes are cut, mixed and ordered, the result is what the image holds."""
        server = Server(image(structured=structured), Random(seed))
        client = Transmission(negotiate(server))
        asked: dict[int, tuple[int, int]] = {}
        said = b""
        for offset, length in wanted:
            length = min(length, SIZE - offset)
            handle, head = client.request(Command.READ, offset, length)
            asked[handle] = offset, length
            said += head
        replies = [reply for piece in cut(server.receive(said), sizes) for reply in client.receive(piece)]
        self.assertEqual({it.handle for it in replies}, set(asked))
        for reply in replies:
            offset, length = asked[reply.handle]
            self.assertEqual(reply.data, server.image.data[offset : offset + length])

    @settings(max_examples=400, deadline=None)
    @given(
        st.lists(
            st.one_of(
                st.binary(max_size=60),
                st.builds(
                    chunk,
                    st.sampled_from([0, 1, 2, 3, 5, 0x8001, 0x8002, 0xFFFF]),
                    st.binary(max_size=24),
                    flags=st.sampled_from([0, 1]),
                    handle=st.integers(1, 4),
                ),
                st.builds(lambda at, d, h: chunk(1, pack(">Q", at) + d, flags=0, handle=h),
                          st.integers(0, 20), st.binary(max_size=20), st.integers(1, 2)),
                st.builds(lambda e, h: pack(">IIQ", 0x67446698, e, h), st.integers(0, 2), st.integers(1, 4)),
            ),
            max_size=12,
        ),
        st.lists(st.integers(1, 20), max_size=100),
    )  # fmt: skip
    def test_fuzz(self, pieces: list[bytes], sizes: list[int]) -> None:
        """Whatever comes, in whatever pieces, there are replies, a wish for more, or the one error."""
        outcomes = []
        for how in ([], sizes):
            client, _ = opened()
            client.request(Command.READ, 0, 20)
            client.request(Command.READ, 10, 20)
            client.request(Command.BLOCK_STATUS, 0, 4096)
            client.request(Command.WRITE, 0, 1)
            replies: list[Reply] = []
            try:
                for piece in cut(b"".join(pieces), how):
                    replies += client.receive(piece)
                outcomes.append((replies, False))
            except UpstreamFailed:
                outcomes.append(([], True))
        self.assertEqual(outcomes[0], outcomes[1])


class ExtentsTests(SynchronousTestCase):
    """What the server tells of its image becomes what the images API lists."""

    def listed(self, context: str, step: int, **members: Any) -> list[dict[str, Any]]:
        client, server = opened(**members)
        told = zero_extents if context == "zero" else dirty_extents
        extents = Extents(*(("zero", "hole") if context == "zero" else ("dirty", "zero")))
        while extents.stop < SIZE:
            length = min(step, SIZE - extents.stop)
            reply = one(client, server, client.request(Command.BLOCK_STATUS, extents.stop, length))
            for piece, values in told(client.export, reply):
                extents.add(piece, values)
        found: list[dict[str, Any]] = json.loads(extents.text())
        return found

    def test_zero(self) -> None:
        """Equal neighbors are one, wherever requests and replies were cut; no depth, no holes."""
        wanted = [
            {"start": 0, "length": 8192, "zero": False, "hole": False},
            {"start": 8192, "length": 12288, "zero": True, "hole": False},
            {"start": 20480, "length": SIZE - 20480, "zero": False, "hole": False},
        ]
        for step in (512, 4096, 5000, SIZE):
            self.assertEqual(self.listed("zero", step), wanted)

    def test_hole(self) -> None:
        """A hole is what no image of the chain has."""
        found = self.listed("zero", SIZE, depth={3})
        self.assertEqual([(it["start"], it["zero"], it["hole"]) for it in found[1:4]], [
            (8192, True, False), (12288, True, True), (16384, True, False),
        ])  # fmt: skip

    def test_dirty(self) -> None:
        """What is marked, and what of it is zero."""
        found = self.listed("dirty", 9000, dirty={0, 2, 3})
        self.assertEqual([(it["start"], it["length"], it["dirty"], it["zero"]) for it in found], [
            (0, 4096, True, False), (4096, 4096, False, False), (8192, 8192, True, True),
            (16384, 4096, False, True), (20480, SIZE - 20480, False, False),
        ])  # fmt: skip

    def test_half_told(self) -> None:
        """A description that leaves a part out is refused: what is not told would pass for clean."""
        export = Export(SIZE, Flags(1), True, 7, None, 9)
        reply = Reply(1, extents={7: [(4096, 0)]})
        self.assertRaises(UpstreamFailed, list, dirty_extents(export, reply))

    def test_unequal(self) -> None:
        """Of two descriptions of different length the shorter counts."""
        export = Export(SIZE, Flags(1), True, 7, None, 9)
        reply = Reply(1, extents={7: [(4096, 0), (1 << 31, 3)], 9: [(8192, 1), (100, 0)]})
        self.assertEqual(
            list(dirty_extents(export, reply)),
            [(4096, (True, False)), (4096, (True, True)), (100, (False, True))],
        )

    def test_nothing(self) -> None:
        """What has no length is not listed, but for the one extent of an empty image."""
        extents = Extents("zero", "hole")
        self.assertEqual(extents.text(), b'[{"start": 0, "length": 0, "zero": false, "hole": false}]\n')
        extents = Extents("dirty", "zero")
        extents.add(5, (True, False))
        extents.add(0, (False, False))
        self.assertEqual(extents.text(), b'[{"start": 0, "length": 5, "dirty": true, "zero": false}]\n')

    def test_too_many(self) -> None:
        """A list without end is refused."""
        import gateway.wire.nbd_extents as module

        self.patch(module, "MAX_LIST", 1000)
        extents = Extents("zero", "hole")
        with self.assertRaises(UpstreamFailed):
            for at in range(100):
                extents.add(1, (at % 2 == 0, False))
