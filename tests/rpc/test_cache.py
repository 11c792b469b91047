"""What is kept of answers, and until when."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gateway.rpc.cache import MOST, Cache, weight


class WeightTest(SynchronousTestCase):
    """How much a result is."""

    def test_weight(self) -> None:
        """The weight counts every value."""
        self.assertEqual(weight({"a": [1, 2, {"b": 3}], "c": None}), 7)

    def test_much(self) -> None:
        """Nobody counts on when it is more than was asked for."""
        self.assertIn(weight({"a": [{"b": 3}] * 10_000}, 100), range(101, 110))


class CacheTest(SynchronousTestCase):
    """Keeping and forgetting."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.cache: Cache[str] = Cache(self.clock)

    def keep(self, key: str, seconds: float = 10, *, passing: bool = False, **values: object) -> None:
        self.cache.begin(key, "flight")
        self.cache.end(key, "flight", dict(values), seconds, passing)

    def test_time(self) -> None:
        """A result is there until its time is up, and then is not even held."""
        self.keep("k", 10, a=1)
        self.clock.advance(9.9)
        self.assertEqual(self.cache.find("k"), {"a": 1})
        self.clock.advance(0.1)
        self.assertIsNone(self.cache.find("k"))
        self.clock.advance(1)
        self.assertEqual(len(self.cache), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_not_kept(self) -> None:
        """What is good for no time is not kept."""
        self.keep("k", 0, a=1)
        self.assertEqual(len(self.cache), 0)

    def test_own_copies(self) -> None:
        """Members that somebody adds or replaces are his own; what is in them is everybody's."""
        values: dict[str, Any] = {"list": [{"name": "a"}]}
        self.cache.begin("k", "flight")
        self.cache.end("k", "flight", values, 10, False)
        values["list"] = []
        found = self.cache.find("k")
        assert found is not None
        del found["list"]
        self.assertEqual(self.cache.find("k"), {"list": [{"name": "a"}]})
        self.cache.stop()

    def test_change_meanwhile(self) -> None:
        """An answer to what was asked before a change is not kept after it, and nobody new waits for it."""
        for change in (self.cache.clear, self.cache.clear_passing):
            self.cache.begin("k", "flight")
            self.assertEqual(self.cache.flight("k"), "flight")
            change()
            self.assertIsNone(self.cache.flight("k"))
            self.cache.end("k", "flight", {"a": 1}, 10, True)
            self.assertIsNone(self.cache.find("k"))

    def test_events(self) -> None:
        """An event empties what depends on what runs, and leaves what is the host's."""
        self.keep("host", a=1)
        self.keep("list", passing=True, a=2)
        self.cache.clear_passing()
        self.assertIsNone(self.cache.find("list"))
        self.assertEqual(self.cache.find("host"), {"a": 1})
        self.cache.clear()
        self.assertIsNone(self.cache.find("host"))
        self.assertEqual(len(self.cache), 0)
        self.cache.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_bound(self) -> None:
        """Lists that are very long are not kept, and many of them take the place of others."""
        self.keep("host", a=1)
        self.keep("huge", passing=True, a=[0] * MOST)
        self.assertIsNone(self.cache.find("huge"))
        for number in range(10):
            self.keep(f"long{number}", passing=True, a=[0] * (MOST // 4))
        self.assertLessEqual(len(self.cache), 5)
        self.assertIsNotNone(self.cache.find("long9"))
        self.assertIsNotNone(self.cache.find("host"))
        self.cache.stop()

    def test_newer_flight(self) -> None:
        """What ends late does not take the place of what began later."""
        self.cache.begin("k", "old")
        self.cache.begin("k", "new")
        self.cache.end("k", "old", {"a": 1}, 10, False)
        self.assertIsNone(self.cache.find("k"))
        self.assertEqual(self.cache.flight("k"), "new")
