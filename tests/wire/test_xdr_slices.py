"""Lists that are read in slices."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.wire import xdr_slices
from gateway.wire.libvirt_schema import procedure
from gateway.wire.xdr import XdrError
from gateway.wire.xdr_slices import TooManyError, unpack_slowly

STATS = procedure("CONNECT_GET_ALL_DOMAIN_STATS").results
LIST = procedure("CONNECT_LIST_ALL_DOMAINS").results
DOM = {"name": "a", "uuid": "6695eb01-f6a4-8304-79aa-97f2502e193f", "id": 1}


def stats(*counts: int) -> dict[str, Any]:
    """Domains with so many values each."""
    values = [{"field": f"p{at}", "type": "int", "value": at} for at in range(max(counts, default=0))]
    return {"retStats": [{"dom": DOM, "params": values[:count]} for count in counts]}


def outcome(struct: Any, data: bytes, *, slowly: bool) -> tuple[Any, int]:
    """What is read, or the text of the error; and how many pauses there were."""
    pauses = 0
    try:
        if not slowly:
            return struct.unpack(data), 0
        steps = unpack_slowly(struct, data)
        while True:
            next(steps)
            pauses += 1
    except StopIteration as end:
        return end.value, pauses
    except XdrError as error:
        return str(error), pauses


class SlicesTests(SynchronousTestCase):
    """The same as in one go, with pauses."""

    def test_same(self) -> None:
        """Long lists, and lists in lists, are read as in one go; there are pauses every few items."""
        for struct, values in ((LIST, {"domains": [DOM] * 1000, "ret": 1000}), (STATS, stats(3, 0, 1000))):
            read, pauses = outcome(struct, struct.pack(values), slowly=True)
            self.assertEqual(read, values)
            self.assertGreaterEqual(pauses, 1000 // xdr_slices.SLICE)

    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def test_any_bytes(self, data: st.DataObject) -> None:
        """Whatever the bytes are, the outcome is the same."""
        struct, values = data.draw(
            st.sampled_from(((LIST, {"domains": [DOM] * 3, "ret": 3}), (STATS, stats(2, 0, 3))))
        )
        mutated = bytearray(struct.pack(values))
        for _ in range(data.draw(st.integers(0, 3))):
            mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
        cut = bytes(
            mutated[: data.draw(st.integers(0, len(mutated)))] if data.draw(st.booleans()) else mutated
        )
        self.assertEqual(outcome(struct, cut, slowly=True)[0], outcome(struct, cut, slowly=False)[0])

    def test_bound(self) -> None:
        """There is an end to how many values one answer may have."""
        most = xdr_slices.MOST // 1000
        fine = STATS.pack(stats(*[1000] * most))
        self.assertEqual(len(outcome(STATS, fine, slowly=True)[0]["retStats"]), most)
        with self.assertRaises(TooManyError):
            outcome(STATS, STATS.pack(stats(*[1000] * most, 1)), slowly=True)
