"""Tests for gateway.core.units."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError
from twisted.trial.unittest import SynchronousTestCase

from gateway.core import units


class All(BaseModel):
    model_config = ConfigDict(strict=True)

    seconds: units.Seconds = 1.0
    seconds_or_zero: units.SecondsOrZero = 0.0
    seconds_or_off: units.SecondsOrOff = None
    size: units.Bytes = 1
    size_or_unlimited: units.BytesOrUnlimited = None
    count: units.Count = 1
    count_or_unlimited: units.CountOrUnlimited = None
    flag: units.Flag = False
    ratio: units.Ratio = 0.5


class UnitsTests(SynchronousTestCase):
    """Words become numbers in base units, and back."""

    def test_seconds(self) -> None:
        """Every unit of time is known, and a plain number is seconds."""
        for text, value in [
            ("250ms", 0.25), ("90s", 90), ("15m", 900), ("1h", 3600), ("28d", 2419200), ("7", 7),
            ("1.5h", 5400),
        ]:  # fmt: skip
            self.assertEqual(units.parse_seconds(text), value)

    def test_bytes(self) -> None:
        """Every unit of size is known, and a plain number is bytes."""
        for text, value in [("64K", 65536), ("8M", 8 << 20), ("2G", 2 << 30), ("1T", 1 << 40), ("512", 512)]:
            self.assertEqual(units.parse_bytes(text), value)

    def test_nonsense(self) -> None:
        """What is no number, in any of Python's fancy ways, says what would be right."""
        for text in ["", " 1", "1_0", "-1s", "+1", "1e3", "nan", "inf", "٣", "1x", "1 0", "\n1", "9" * 5000]:
            self.assertRaises(ValueError, units.parse_seconds, text)
            self.assertRaises(ValueError, units.parse_bytes, text)
            self.assertRaises(ValueError, units.parse_count, text)
            self.assertRaises(ValueError, units.parse_flag, text)
            self.assertRaises(ValueError, units.parse_ratio, text)

    def test_flags(self) -> None:
        """All eight words of truth are known, in any case."""
        for text in ["yes", "true", "on", "1", "YES"]:
            self.assertIs(units.parse_flag(text), True)
        for text in ["no", "false", "off", "0", "No"]:
            self.assertIs(units.parse_flag(text), False)

    def test_zero_is_not_unlimited(self) -> None:
        """Zero is refused where it could be taken for no limit; the words are not."""
        for key in ("seconds", "seconds_or_off", "size", "size_or_unlimited", "count", "count_or_unlimited"):
            with self.assertRaises(ValidationError, msg=key):
                All.model_validate({key: "0"})
        made = All.model_validate(
            {"seconds_or_off": "OFF", "size_or_unlimited": "unlimited", "seconds_or_zero": "0"}
        )
        self.assertEqual(
            (made.seconds_or_off, made.size_or_unlimited, made.seconds_or_zero), (None, None, 0.0)
        )
        self.assertRaises(ValidationError, All.model_validate, {"seconds": "off"})

    @settings(max_examples=200, deadline=None)
    @given(
        st.builds(
            All,
            seconds=st.integers(1, 10**12).map(lambda n: n / 1e6) | st.integers(1, 10**7).map(float),
            seconds_or_off=st.none() | st.integers(1, 10**7).map(float),
            size=st.integers(1, 1 << 62),
            size_or_unlimited=st.none() | st.integers(1, 1 << 50),
            count=st.integers(1, 10**9),
            count_or_unlimited=st.none() | st.integers(1, 10**9),
            flag=st.booleans(),
        )
    )
    def test_inverse(self, made: All) -> None:
        """What is shown reads back as the same."""
        shown = {key: str(value) for key, value in made.model_dump(mode="json").items()}
        again = All.model_validate(shown)
        self.assertAlmostEqual(again.seconds, made.seconds, 6)
        self.assertEqual(again.model_copy(update={"seconds": made.seconds}), made)
