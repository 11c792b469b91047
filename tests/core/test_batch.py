"""Tests for gateway.core.batch."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from gateway.core.batch import Batch


class BatchTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.batch = Batch()
        self.done: list[str] = []

    def later(self, name: str) -> None:
        self.batch.later(lambda: self.done.append(name))

    def test_together(self) -> None:
        """What is left for later is done when the batch is over, in its order, and once."""
        with self.batch:
            self.assertTrue(self.batch.open)
            self.later("a")
            self.later("b")
            self.assertEqual(self.done, [])
        self.assertFalse(self.batch.open)
        self.assertEqual(self.done, ["a", "b"])
        with self.batch:
            pass
        self.assertEqual(self.done, ["a", "b"])

    def test_within(self) -> None:
        """A batch within a batch ends with the outer one."""
        with self.batch:
            with self.batch:
                self.later("a")
            self.assertEqual((self.done, self.batch.open), ([], True))
        self.assertEqual(self.done, ["a"])

    def test_while_it_ends(self) -> None:
        """Who writes because something has left finds no batch any more, or is done in the same end."""

        def more() -> None:
            self.done.append(f"a, open: {self.batch.open}")
            with self.batch:
                self.later("b")
            self.batch.later(lambda: self.done.append("c"))

        with self.batch:
            self.batch.later(more)
        self.assertEqual(self.done, ["a, open: False", "b", "c"])

    def test_first(self) -> None:
        """What comes first does so whoever spoke before, and what that has to say first, too."""

        def first() -> None:
            self.done.append("first")
            with self.batch:
                self.batch.first(lambda: self.done.append("and its own"))

        with self.batch:
            self.later("later")
            self.batch.first(first)
        self.assertEqual(self.done, ["first", "and its own", "later"])

    def test_settle(self) -> None:
        """Who cannot wait for the end does not overtake what comes first."""
        with self.batch:
            self.later("later")
            self.batch.first(lambda: self.done.append("first"))
            self.batch.settle()
            self.assertEqual(self.done, ["first"])
        self.assertEqual(self.done, ["first", "later"])

    def test_failure(self) -> None:
        """A batch that ends badly ends all the same."""

        def fail() -> None:
            with self.batch:
                self.later("a")
                raise ValueError

        self.assertRaises(ValueError, fail)
        self.assertEqual((self.done, self.batch.open), (["a"], False))

    def test_failing_flush(self) -> None:
        """What fails takes nothing of the others with it: they follow at the next end."""

        def fail() -> None:
            raise ValueError

        def run() -> None:
            with self.batch:
                self.batch.later(fail)
                self.later("a")

        self.assertRaises(ValueError, run)
        with self.batch:
            self.later("b")
        self.assertEqual(self.done, ["a", "b"])
