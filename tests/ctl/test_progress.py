from __future__ import annotations

from io import StringIO

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.ctl.progress import Meter, ProgressLine, bar


class Bar(SynchronousTestCase):
    def test_all(self) -> None:
        """A bar shows share, amount, rate and what is left."""
        self.assertEqual(
            bar(70, 0.5, 12.3 * 2**20, 192, "1.0 GiB of 2.0 GiB"),
            "[#########----------]   50%  1.0 GiB of 2.0 GiB  12.3 MiB/s  ETA 3m12s",
        )

    def test_ends(self) -> None:
        """It is empty at the start, full at the end, and not 100% before all is done."""
        self.assertEqual(bar(20, 0), "[------------]    0%")
        self.assertEqual(bar(20, 1), "[############]  100%")
        self.assertIn(" 99%", bar(20, 0.9999))
        self.assertIn("-]", bar(20, 0.9999))

    def test_beyond(self) -> None:
        """A share beyond its bounds is drawn as the bound."""
        self.assertEqual(bar(20, 7.5), bar(20, 1))
        self.assertEqual(bar(20, -1), bar(20, 0))

    def test_narrow(self) -> None:
        """On a narrow terminal the time and the rate go first."""
        self.assertEqual(bar(40, 0.25, 1024, 60, "1 B of 4 B"), "[##-------]   25%  1 B of 4 B  1.0 KiB/s")
        self.assertEqual(bar(30, 0.25, 1024, 60, "1 B of 4 B"), "[##--------]   25%  1 B of 4 B")
        self.assertEqual(bar(20, 0.25, 1024, 60, "1 B of 4 B"), "[###---------]   25%")

    def test_unknown(self) -> None:
        """Without a known end there are words and no bar."""
        self.assertEqual(bar(40, None, 1024, None, "5.0 MiB"), "5.0 MiB  1.0 KiB/s")

    @given(
        st.integers(min_value=0, max_value=200),
        st.none() | st.floats(allow_nan=False),
        st.none() | st.floats(min_value=0, max_value=1e12),
        st.none() | st.floats(min_value=0, max_value=1e9),
        st.text("abc ", max_size=30),
    )
    @settings(max_examples=200, deadline=None)
    def test_never_wider(
        self, width: int, fraction: float | None, speed: float | None, eta: float | None, moved: str
    ) -> None:
        """A bar is one line that is never wider than the terminal."""
        self.assertLessEqual(len(bar(width, fraction, speed, eta, moved)), width)


class Measuring(SynchronousTestCase):
    def test_rate(self) -> None:
        """The rate follows the measurements, and tells when the rest is done."""
        meter = Meter(1000)
        meter.measure(0.0, 0)
        self.assertIsNone(meter.eta)
        meter.measure(1.0, 100)
        self.assertEqual((meter.rate, meter.eta, meter.fraction), (100.0, 9.0, 0.1))
        meter.measure(2.0, 100)
        self.assertEqual(meter.rate, 70.0)

    def test_still(self) -> None:
        """Two looks at one moment and a clock that was set back change no rate."""
        meter = Meter(1000)
        for now, moved in ((5.0, 0), (6.0, 100), (6.0, 200), (1.0, 300)):
            meter.measure(now, moved)
        self.assertEqual(meter.rate, 100.0)

    def test_nothing(self) -> None:
        """An empty image is complete."""
        self.assertEqual(Meter(0).fraction, 1.0)


class Line(SynchronousTestCase):
    def test_terminal(self) -> None:
        """On a terminal the line is drawn over itself, and left when it is closed."""
        stream = StringIO()
        line = ProgressLine(stream, 40)
        meter = Meter(100)
        for now in range(3):
            meter.measure(float(now), now * 50)
            line.draw(meter)
        line.close()
        line.close()
        text = stream.getvalue()
        self.assertEqual((text.count("\r"), text.count("\n")), (3, 1))
        self.assertIn("100%", text)

    def test_file(self) -> None:
        """In a file there is one line for each tenth, without any control character."""
        stream = StringIO()
        line = ProgressLine(stream, None)
        meter = Meter(100)
        for moved in range(101):
            meter.measure(float(moved), moved)
            line.draw(meter)
        line.close()
        self.assertEqual(len(stream.getvalue().splitlines()), 11)
        self.assertTrue(stream.getvalue().replace("\n", "").isprintable())
