"""What a transfer of a file may have in memory."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from bench.kernel import memory
from gateway.core.fasttls import READ, SLACK
from gateway.core.pump import WORTH
from gateway.images.buffers import BEHIND, LONG, LONG_PIECE, PIECE, Buffers, prepare
from gateway.images.direct_io import PAGE


class BuffersTests(SynchronousTestCase):
    """The buffers of one transfer, and of many."""

    def setUp(self) -> None:
        self.patch(Buffers, "long", [])
        prepare.cache_clear()
        prepare()
        self.held: list[object] = []

    def buffers(self, length: int) -> Buffers:
        buffers = Buffers(length)
        self.addCleanup(buffers.close)
        return buffers

    def test_two(self) -> None:
        """There are two of them, and whoever gives one back gets it again."""
        for length, behind in (
            (0, 0),
            (1, 0),
            (PAGE + 1, 0),
            (WORTH, BEHIND),
            (PIECE + 1, BEHIND),
            (LONG, BEHIND),
        ):
            buffers = self.buffers(length)
            one, other = buffers.take(), buffers.take()
            assert one is not None
            assert other is not None
            self.assertIsNone(buffers.take())
            for buffer in (one, other):
                self.assertGreaterEqual(len(buffer), max(buffers.piece, PAGE) + behind)
                self.assertGreaterEqual(len(buffer) - buffers.enough, behind and SLACK + READ)
                self.assertEqual(len(buffer) % PAGE, 0)
            one[-1], other[0] = 1, 2
            self.assertEqual((one[-1], other[0]), (1, 2))
            buffers.give(one)
            self.assertIs(buffers.take(), one)

    def test_pieces(self) -> None:
        """They are as long as the transfer, and not longer than makes sense for it."""
        pieces = {0: PAGE, 1: PAGE, PAGE: PAGE, 5 * PAGE + 1: 5 * PAGE + 1, PIECE: PIECE, LONG - 1: PIECE}
        for length, piece in pieces.items():
            self.assertEqual(self.buffers(length).piece, piece)

    def test_long(self) -> None:
        """One transfer has long pieces: those of the last, unless somebody may still use one of them."""
        first = self.buffers(LONG)
        one, other = self.two(first)
        self.assertEqual((first.piece, self.buffers(LONG).piece), (LONG_PIECE, PIECE))
        first.give(one)
        first.give(other)
        for _ in range(2):
            first.close()
        second = self.buffers(LONG)
        self.assertEqual({id(each) for each in self.two(second)}, {id(one), id(other)})
        second.give(one)
        second.close()
        third = self.buffers(LONG)
        self.assertEqual((third.piece, self.buffers(LONG).piece), (LONG_PIECE, PIECE))
        self.assertFalse({id(each) for each in self.two(third)} & {id(one), id(other)})

    def test_there(self) -> None:
        """Their memory was taken before there is any transfer."""
        before = memory(os.getpid())
        prepare.cache_clear()
        prepare()
        self.assertGreater(memory(os.getpid()) - before, 2 * LONG_PIECE)
        prepare()
        self.assertEqual(len(Buffers.long), 2)

    def two(self, buffers: Buffers) -> list[memoryview]:
        """Both of them; held, so that no other gets their names."""
        both = [buffer for _ in range(2) if (buffer := buffers.take()) is not None]
        self.held.append(both)
        return both
