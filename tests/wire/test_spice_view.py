from __future__ import annotations

from itertools import cycle

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.errors import BadRequest
from gateway.wire.spice_view import LIMIT, VIEWED, SpiceView
from tests.wire.spice_server import full, mini
from tests.wire.test_spice_link import pieces

MESSAGES = st.lists(
    st.tuples(st.integers(0, 200) | st.integers(0, 0xFFFF), st.binary(max_size=30) | st.just(b"x" * 3000)),
    max_size=12,
)


class ViewTests(SynchronousTestCase):
    """Who only looks."""

    def test_no_keys(self) -> None:
        """Keys, motion and buttons never pass, on whatever channel they come."""
        for kind in VIEWED:
            for message in (101, 102, 103, 104, 111, 112, 113, 114):
                if message not in VIEWED[kind]:
                    self.assertEqual(SpiceView(kind, mini=True).receive(mini(message, b"key")), b"")
        self.assertEqual(VIEWED[3], frozenset())

    def test_no_paste(self) -> None:
        """What goes to the guest's agent (clipboard, files, resolution) and the mouse mode do not pass."""
        for message in (105, 106, 107, 108, 109, 110):
            self.assertEqual(SpiceView(1, mini=True).receive(mini(message, b"clip")), b"")

    def test_still_works(self) -> None:
        """What a client needs to be shown the screen passes."""
        for kind, message in ((1, 104), (1, 3), (2, 101), (2, 1), (2, 2), (3, 2), (4, 1)):
            said = mini(message, b"12345678")
            self.assertEqual(SpiceView(kind, mini=True).receive(said), said)

    def test_unknown_channel(self) -> None:
        """On a channel we do not know nothing but the common messages passes."""
        view = SpiceView(9, mini=True)
        self.assertEqual(view.receive(mini(101) + mini(2) + mini(104)), mini(2))

    def test_within(self) -> None:
        """A message in a message is refused: it would not be looked at."""
        self.assertRaises(BadRequest, SpiceView(1, mini=False).receive, full(104, bytes(40), more=8))

    def test_long(self) -> None:
        """What passes is short; what is skipped may have any length and is not held."""
        self.assertRaises(BadRequest, SpiceView(1, mini=True).receive, mini(104, bytes(LIMIT + 1))[:6])
        view = SpiceView(3, mini=True)
        huge = (101).to_bytes(2, "little") + (0xFFFFFFFF).to_bytes(4, "little")
        self.assertEqual(view.receive(huge + bytes(1 << 20)), b"")
        self.assertEqual(len(view._begun), 0)

    @settings(max_examples=100, deadline=None)
    @given(
        st.lists(st.integers(1, 50), min_size=1), MESSAGES, st.booleans(), st.sampled_from([*VIEWED, 9, 200])
    )
    def test_any_split(self, sizes: list[int], said: list[tuple[int, bytes]], short: bool, kind: int) -> None:
        """However the bytes are cut, exactly the harmless messages arrive, whole and in order."""
        make = mini if short else full
        view = SpiceView(kind, mini=short)
        sent = b"".join(make(message, body) for message, body in said)
        passing = {1, 2, 3, 6} | VIEWED.get(kind, frozenset())
        expected = b"".join(make(message, body) for message, body in said if message in passing)
        self.assertEqual(b"".join(map(view.receive, pieces(sent, cycle(sizes)))), expected)

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.binary(max_size=80), max_size=8), st.booleans(), st.sampled_from([*VIEWED, 9]))
    def test_fuzz(self, said: list[bytes], short: bool, kind: int) -> None:
        """Whatever comes, what passes is a row of harmless messages, the last of them cut at most."""
        view, passed = SpiceView(kind, mini=short), b""
        try:
            for piece in said:
                passed += view.receive(piece)
                self.assertLess(len(view._begun), 18)
        except BadRequest:
            pass
        size, at = (6, 0) if short else (18, 8)
        while passed:
            self.assertGreaterEqual(len(passed), size)
            self.assertIn(
                int.from_bytes(passed[at : at + 2], "little"), {1, 2, 3, 6} | VIEWED.get(kind, frozenset())
            )
            passed = passed[size + int.from_bytes(passed[at + 2 : at + 6], "little") :]
