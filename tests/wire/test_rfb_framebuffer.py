"""The framebuffer: pixels where they belong, and changes that nobody misses."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.wire.rfb_framebuffer import TILE, Damage, Framebuffer, Rectangle, is_possible

SIDE = st.integers(1, 300)
PART = st.tuples(st.integers(0, 320), st.integers(0, 320), st.integers(0, 320), st.integers(0, 320))


def covered(parts: list[Rectangle]) -> set[tuple[int, int]]:
    """The squares that *parts* cover, each of them once."""
    out: list[tuple[int, int]] = []
    for part in parts:
        out += [
            (x, y)
            for y in range(part.y // TILE, -(-(part.y + part.height) // TILE))
            for x in range(part.x // TILE, -(-(part.x + part.width) // TILE))
        ]
    assert len(out) == len(set(out)), "rectangles overlap"
    return set(out)


class DamageTests(SynchronousTestCase):
    """What somebody has not seen."""

    @given(SIDE, SIDE, st.lists(PART, max_size=12), st.integers(1, 60_000))
    @settings(max_examples=200, deadline=None)
    def test_all_seen(
        self, width: int, height: int, parts: list[tuple[int, int, int, int]], budget: int
    ) -> None:
        """What is taken covers what was noted, once, lies on the screen, and is not much more at a time."""
        damage = Damage(width, height)
        noted: set[tuple[int, int]] = set()
        for x, y, columns, rows in parts:
            damage.add(x, y, columns, rows)
            right, bottom = min(x + columns, width), min(y + rows, height)
            if right > x and bottom > y:
                noted |= covered([Rectangle(x, y, right - x, bottom - y)])
        self.assertEqual(bool(damage), bool(noted))
        taken: list[Rectangle] = []
        while damage:
            now = list(damage.take(budget))
            self.assertLess(sum(it.pixels for it in now), budget + (width + TILE) * TILE)
            taken += now
        for part in taken:
            self.assertTrue(
                part.pixels > 0 and part.x + part.width <= width and part.y + part.height <= height
            )
        self.assertEqual(covered(taken), noted)

    def test_few(self) -> None:
        """A whole screen is one rectangle."""
        damage = Damage(1920, 1080)
        damage.add_all()
        self.assertEqual(list(damage.take(1 << 30)), [Rectangle(0, 0, 1920, 1080)])
        self.assertFalse(damage)

    def test_no_starving(self) -> None:
        """What changes all the time at the top does not hide the rest."""
        damage = Damage(1920, 1080)
        damage.add_all()
        seen: set[tuple[int, int]] = set()
        for _ in range(12):
            seen |= covered(list(damage.take(200_000)))
            damage.add(0, 0, 1920, 400)
        self.assertEqual(seen, covered([Rectangle(0, 0, 1920, 1080)]))

    def test_merge(self) -> None:
        """Two are as one."""
        one, other = Damage(100, 100), Damage(100, 100)
        one.add(0, 0, 1, 1)
        other.add(99, 99, 1, 1)
        one.merge(other)
        self.assertEqual(covered(list(one.take(1 << 30))), {(0, 0), (3, 3)})
        other.clear()
        self.assertFalse(other)

    def test_far_outside(self) -> None:
        """What lies outside counts for nothing."""
        damage = Damage(100, 100)
        damage.add(65535, 65535, 65535, 65535)
        damage.add(0, 200, 65535, 1)
        self.assertFalse(damage)


class FramebufferTests(SynchronousTestCase):
    """The pixels."""

    @given(st.integers(1, 40), st.integers(1, 40), st.data())
    @settings(max_examples=100, deadline=None)
    def test_put_and_get(self, width: int, height: int, data: st.DataObject) -> None:
        """What is put is there, and nothing else changes."""
        screen = Framebuffer(width, height)
        model = [[b"\0\0\0\0"] * width for _ in range(height)]
        for number in range(1, 5):
            x = data.draw(st.integers(0, width - 1))
            y = data.draw(st.integers(0, height - 1))
            columns = data.draw(st.integers(1, width - x))
            rows = data.draw(st.integers(1, height - y))
            pixels = [bytes([number, it & 255, it >> 8, 0]) for it in range(columns * rows)]
            screen.put(x, y, columns, memoryview(b"".join(pixels)))
            for at, pixel in enumerate(pixels):
                model[y + at // columns][x + at % columns] = pixel
            self.assertEqual(
                screen.get(Rectangle(0, 0, width, height)), b"".join(b"".join(row) for row in model)
            )
            self.assertEqual(
                screen.get(Rectangle(x, y, columns, rows)),
                b"".join(b"".join(row[x : x + columns]) for row in model[y : y + rows]),
            )

    def test_watch(self) -> None:
        """Who joins has seen nothing; who watches is told; who has left is not."""
        screen = Framebuffer(100, 100)
        early = screen.watch()
        self.assertEqual(list(early.take(1 << 30)), [Rectangle(0, 0, 100, 100)])
        screen.put(40, 40, 1, memoryview(b"abcd"))
        self.assertFalse(early)
        screen.spread()
        late = screen.watch()
        self.assertEqual(list(early.take(1 << 30)), [Rectangle(32, 32, 32, 32)])
        self.assertEqual(list(late.take(1 << 30)), [Rectangle(0, 0, 100, 100)])
        screen.forget(early)
        screen.put(0, 0, 1, memoryview(b"abcd"))
        screen.spread()
        self.assertFalse(early)
        self.assertTrue(late)

    def test_sizes(self) -> None:
        """Screens have a size, and a bounded one."""
        for width, height in ((1, 1), (5120, 2880), (16384, 1024)):
            self.assertTrue(is_possible(width, height))
        for width, height in ((0, 1), (1, 0), (16385, 1), (1, 65535), (16384, 16384)):
            self.assertFalse(is_possible(width, height))
