"""One connection as commands see it: pages, arguments, and what is cancelled by its request id."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.core.tickets import Rights
from gateway.rpc import commands
from gateway.rpc.seat import Seat, as_json, one_of
from tests.rpc.desk_case import DeskCase, domain


class PageTests(DeskCase):
    def setUp(self) -> None:
        super().setUp()
        self.items = [domain(number) for number in range(1, 1001)]
        self.asked = 0
        self.one = self.seat()

    async def ask(self) -> dict[str, Any]:
        self.asked += 1
        return {"domains": list(reversed(self.items))}

    def page(self, cursor: str | None, limit: int | None = 300, seat: Seat | None = None) -> Any:
        return self.do((seat or self.one).page("domains", self.ask, "domains", cursor, limit))

    def test_pages(self) -> None:
        """A list is asked for once, and comes in order, each thing once."""
        found: list[Any] = []
        page = self.page(None)
        while page.more:
            found += page.items
            page = self.page(found[-1]["uuid"])
        self.assertEqual((found + page.items, self.asked), (self.items, 1))

    def test_elsewhere(self) -> None:
        """Another connection, or one that comes late, goes on at the same place of a new list."""
        first = self.page(None)
        del self.items[299:301]
        other = self.page(first.items[-1]["uuid"], seat=self.seat())
        self.assertEqual((other.items[0], self.asked), (domain(302), 2))
        self.turn(61)
        self.assertEqual((self.page(first.items[-1]["uuid"]).items[0], self.asked), (domain(302), 3))

    def test_beginning(self) -> None:
        """Whoever begins again is told what there is now."""
        self.page(None)
        self.items.insert(0, domain(5000))
        self.assertEqual(self.page(None, 2000).items[-1], domain(5000))
        self.assertFalse(self.page(None, 2000).more)

    def test_beyond(self) -> None:
        """Behind the last there is nothing; what stands before the first is the beginning."""
        self.assertEqual((self.page("g").items, self.page("g").more), ([], False))
        self.assertEqual(self.page("!").items[0], domain(1))

    def test_few_kept(self) -> None:
        """A connection keeps a few lists only."""
        for number in range(10):
            self.do(self.one.page(number, self.ask, "domains", None, 5))
        self.assertEqual(len(self.one._lists), 4)

    def test_fit(self) -> None:
        """A page has as many as one value can hold; the next one goes on behind them."""
        page = self.page(None, 1000)
        rows = [dom | {"state": "x" * 500, "dom": ""} for dom in page.items]
        answer = page.answer(commands.ListDomains, "domains", rows)
        number = len(answer["domains"])
        self.assertTrue(50 < number < 150, number)
        self.assertEqual(answer["cursor"], page.items[number - 1]["uuid"])
        rows = [dom | {"state": "", "dom": ""} for dom in page.items[:3]]
        page = self.page(self.items[-4]["uuid"], 3)
        self.assertEqual(page.answer(commands.ListDomains, "domains", rows)["cursor"], "")


class CancelTests(DeskCase):
    def setUp(self) -> None:
        super().setUp()
        self.waiting: list[Deferred[dict[str, Any]]] = []

    async def wait(self, seat: Seat, request_id: str | None = None) -> dict[str, Any]:
        self.waiting.append(Deferred())
        return await self.waiting[-1]

    def test_cancel(self) -> None:
        """What is under way by a request id is given up, on all connections of that principal alone."""
        one, two, other = (
            self.seat(),
            self.seat(),
            self.seat(self.caller(self.ticket("b" * 24, principal="bob"))),
        )
        begun = [
            self.begin(seat.bound(commands.Start, self.wait)(request_id="r")) for seat in (one, two, other)
        ]
        begun.append(self.begin(one.bound(commands.Start, self.wait)(request_id=None)))
        self.assertTrue(two.cancel("r"))
        for each in begun[:2]:
            self.failureResultOf(each, CancelledError)
        self.assertNoResult(begun[2])
        self.assertNoResult(begun[3])
        self.assertFalse(two.cancel("r"))
        self.waiting[2].callback({})
        self.waiting[3].callback({})
        self.assertEqual(self.desk.running, {})

    def test_operators_only(self) -> None:
        """What is for operators is denied to others, when it is asked for."""
        uuid = self.ticket(ops=("call", "admin"))
        seat = self.seat(self.caller(uuid))
        begun = self.begin(seat.bound(commands.Drain, self.wait)())
        self.ticket(uuid, ops=("call",), rights=Rights())
        error = self.fails(errors.Denied, seat.bound(commands.Drain, self.wait)())
        self.assertEqual((error.permission, len(self.waiting)), ("command:Drain", 1))
        self.waiting[0].callback({"done": 1})
        self.assertEqual(self.successResultOf(begun), {"done": 1})


class WordsTests(SynchronousTestCase):
    def test_one_of(self) -> None:
        """Exactly one of several arguments is there."""
        self.assertEqual(one_of(name=None, id=0), ("id", 0))
        for given in ({"name": None, "id": None}, {"name": "x", "id": 0}):
            error = self.assertRaises(errors.BadArguments, one_of, **given)
            self.assertIn("exactly one of name, id", error.text)

    def test_json(self) -> None:
        """Bytes are base64, what is no text is marked, and nothing else is guessed at."""
        self.assertEqual(as_json({"a": b"\0\1", "b": ["ä\udcff"]}), '{"a": "AAE=", "b": ["ä\ufffd"]}')
        self.assertRaises(TypeError, as_json, {"a": object()})
