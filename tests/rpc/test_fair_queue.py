"""A queue in which nobody can keep others waiting."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.rpc.fair_queue import FairQueue


def _queue(share: int = 100, each: int = 2000, total: int = 4000) -> FairQueue[str]:
    return FairQueue(share=share, each=each, total=total)


class FairQueueTest(SynchronousTestCase):
    """Turns, shares and bounds."""

    def test_in_turn(self) -> None:
        """Principals take turns, and of one principal the items keep their order."""
        queue = _queue()
        for principal, item in [("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1"), ("c", "c1"), ("b", "b2")]:
            queue.put(principal, item)
        taken = [queue.take() for _ in range(6)]
        self.assertEqual(
            taken, [("a", "a1"), ("b", "b1"), ("c", "c1"), ("a", "a2"), ("b", "b2"), ("a", "a3")]
        )
        self.assertIsNone(queue.take())
        self.assertEqual(len(queue), 0)

    def test_thousand_before(self) -> None:
        """A thousand items of one principal come before at most one of another."""
        queue = _queue(share=2000)
        for number in range(1000):
            queue.put("greedy", str(number))
        queue.take()
        queue.put("modest", "mine")
        self.assertIn(("modest", "mine"), [queue.take(), queue.take()])

    def test_pass_by(self) -> None:
        """What need not wait counts as taken; nobody passes by who has his share, or while others wait."""
        queue = _queue(share=2)
        self.assertEqual([queue.pass_by("a") for _ in range(3)], [True, True, False])
        self.assertTrue(queue.pass_by("b"))
        queue.put("a", "a3")
        self.assertFalse(queue.ready)
        self.assertFalse(queue.pass_by("b"))
        queue.done("a")
        self.assertEqual(queue.take(), ("a", "a3"))
        self.assertTrue(queue.pass_by("b"))

    def test_share(self) -> None:
        """Who has his share in work gets no more until something is done, and others do."""
        queue = _queue(share=2)
        for number in range(4):
            queue.put("greedy", str(number))
        self.assertEqual([queue.take(), queue.take()], [("greedy", "0"), ("greedy", "1")])
        self.assertFalse(queue.ready)
        self.assertIsNone(queue.take())
        queue.put("modest", "mine")
        self.assertTrue(queue.ready)
        self.assertEqual(queue.take(), ("modest", "mine"))
        queue.done("greedy")
        self.assertEqual(queue.take(), ("greedy", "2"))

    def test_full(self) -> None:
        """One principal, and all together, have a bound; others are not touched by the first."""
        queue = _queue(each=2, total=3)
        queue.put("a", "1")
        queue.put("a", "2")
        self.assertRaises(errors.Busy, queue.put, "a", "3")
        queue.put("b", "1")
        self.assertRaises(errors.Busy, queue.put, "c", "1")
        self.assertEqual(len(queue), 3)

    def test_discard(self) -> None:
        """What is discarded never comes, and makes room."""
        queue = _queue(each=2)
        queue.put("a", "1")
        queue.put("a", "2")
        queue.discard("a", "1")
        queue.put("a", "3")
        self.assertEqual([queue.take(), queue.take(), queue.take()], [("a", "2"), ("a", "3"), None])

    def test_put_back(self) -> None:
        """What is put back is the next of its principal, even when the queue is full."""
        queue = _queue(share=1, each=2)
        for item in ("1", "2"):
            queue.put("a", item)
        self.assertEqual(queue.take(), ("a", "1"))
        queue.put("a", "3")
        queue.put_back("a", "1")
        self.assertEqual(queue.take(), ("a", "1"))

    def test_drain(self) -> None:
        """All that waits comes out, and nothing is left."""
        queue = _queue()
        queue.put("a", "1")
        queue.put("b", "2")
        self.assertEqual(sorted(queue.drain()), ["1", "2"])
        self.assertEqual(len(queue), 0)
        self.assertIsNone(queue.take())
