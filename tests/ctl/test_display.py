from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.ctl import display


class Units(SynchronousTestCase):
    def test_sizes(self) -> None:
        """Sizes have one digit behind the point and the unit people read them in."""
        for count, text in {
            0: "0 B",
            1023: "1023 B",
            1024: "1.0 KiB",
            1536 << 20: "1.5 GiB",
            (1 << 20) - 1: "1.0 MiB",
            1 << 60: "1024.0 PiB",
        }.items():
            self.assertEqual(display.size(count), text)

    def test_ages(self) -> None:
        """A duration shows its two largest units; the past of a clock that was set back is zero."""
        for seconds, text in {
            0: "0s",
            59.9: "59s",
            192: "3m12s",
            7500: "2h05m",
            356400: "4d03h",
            -5: "0s",
        }.items():
            self.assertEqual(display.age(seconds), text)

    def test_times(self) -> None:
        """Times are read as RFC 3339 or as numbers; what is neither is a dash."""
        now = 1767225600.0
        self.assertEqual(display.since("2025-12-31T23:59:30.000Z", now), "30s")
        self.assertEqual(display.until(now + 90, now), "1m30s")
        self.assertEqual(display.until("2025-12-31T23:59:30Z", now), "over")
        self.assertEqual(display.since(None, now), "-")


class Tables(SynchronousTestCase):
    def test_aligned(self) -> None:
        """Columns are aligned, numbers to the right, and no line ends with blanks."""
        text = display.table(("NAME", "SIZE"), [("a", "1 B"), ("longer", "10 KiB")], right={"SIZE"})
        self.assertEqual(text.splitlines(), ["NAME      SIZE", "a          1 B", "longer  10 KiB"])

    def test_narrow(self) -> None:
        """The widest column gives way first when the terminal is narrow."""
        text = display.table(("ID", "TARGET"), [("abc", "x" * 40)], 20)
        self.assertEqual(text.splitlines()[1], "abc  " + "x" * 14 + "…")

    def test_control_characters(self) -> None:
        """Nothing a peer chose reaches the terminal as a control character."""
        evil = "alice\x1b]0;owned\x07\x1b[2J\n\u202egpj"
        for text in (display.table(("WHO",), [(evil,)]), display.facts({"who": evil}), display.cell([evil])):
            self.assertNotIn("\x1b", text)
            self.assertNotIn("\x07", text)
            self.assertNotIn("\u202e", text)
            self.assertLess(text.count("\n"), 2)

    @given(
        st.lists(st.tuples(st.text(max_size=50), st.integers(), st.none()), max_size=5),
        st.integers(min_value=30, max_value=120),
    )
    @settings(max_examples=100, deadline=None)
    def test_fits(self, rows: list[tuple[str, int, None]], width: int) -> None:
        """Whatever is in it, a table has one line for each row and none is wider than asked."""
        lines = display.table(("A", "B", "C"), rows, width).split("\n")
        self.assertEqual(len(lines), len(rows) + 1)
        self.assertLessEqual(max(map(len, lines)), width)
