"""JSON that is written a little at a time."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gateway.rpc.slow_json import dump
from tests.rpc.wire_case import turn

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
)


class DumpTests(SynchronousTestCase):
    """:func:`dump`."""

    def dump(self, value: Any) -> tuple[str, int]:
        """The text, and in how many turns it was written."""
        clock = Clock()
        work = Deferred.fromCoroutine(dump(value, clock))
        turns = 1
        while not work.called:
            turn(clock)
            turns += 1
        return self.successResultOf(work), turns

    @settings(max_examples=150, deadline=None)
    @given(st.dictionaries(st.text(max_size=3), _VALUES, max_size=4))
    def test_same(self, value: Any) -> None:
        """It is the JSON that is written at once."""
        self.assertEqual(json.loads(self.dump(value)[0]), value)

    def test_turns(self) -> None:
        """Long lists, and those in lists, take many turns; short results one."""
        dom = {"name": "a", "data": b"\0\xff"}
        told = {"name": "a", "data": "AP8="}
        self.assertEqual(self.dump({"ret": 1, "dom": dom}), (json.dumps({"ret": 1, "dom": told}), 1))
        text, turns = self.dump({"domains": [dom] * 10_000, "ret": 3})
        self.assertEqual(json.loads(text), {"domains": [told] * 10_000, "ret": 3})
        self.assertGreater(turns, 10_000 // 2048)
        text, turns = self.dump({"retStats": [{"dom": dom, "params": [1, 2] * 500}] * 300})
        self.assertEqual(json.loads(text), {"retStats": [{"dom": told, "params": [1, 2] * 500}] * 300})
        self.assertGreater(turns, 100)

    def test_empty(self) -> None:
        """Nothing is nothing."""
        empty: tuple[dict[str, Any], ...] = ({}, {"domains": []}, {"a": [{}]}, {"a": {"b": []}})
        for value in empty:
            self.assertEqual(json.loads(self.dump(value)[0]), value)
