from __future__ import annotations

from typing import Any

from tests.ctl.fake_control import NOW, Asked, ControlTestCase, Reply

STATUS = {"public_url": "https://gw.invalid:54323/", "pages": True}
NAME = "20251231T230000Z-0a1b2c3d4e5f-0123456789ab.fbs"
ITEM = {
    "name": NAME,
    "kind": "fbs",
    "began": "2025-12-31T23:00:00.000Z",
    "session": "0a1b2c3d4e5f",
    "ticket": "0123456789ab",
    "size": 3000,
    "complete": True,
    "path": f"/srv/my recordings/{NAME}",
}


class Recordings(ControlTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.fake.reply("GET /status", Reply(STATUS))
        self.tickets: list[Any] = []
        self.fake.before = self.accept

    def accept(self, asked: Asked) -> None:
        if asked.method == "PUT":
            self.tickets.append(asked.body)
            self.fake.reply(f"PUT {asked.path}", Reply())

    def there_is(self, *items: dict[str, object]) -> None:
        self.fake.reply("GET /recordings/", Reply({"recordings": items, "next": None}))

    async def test_list(self) -> None:
        """Each recording has a line with its age and size; those in work say so; JSON has it all."""
        self.there_is(ITEM, {**ITEM, "complete": False})
        ran = await self.run_it("recording", "list")
        first, second = ran.out.splitlines()[1:]
        for part in (NAME, "0a1b2c3d4e5f", "2.9 KiB", "1h00m", "complete"):
            self.assertIn(part, first)
        self.assertTrue(second.endswith("in work"))
        self.assertEqual(NOW, 1767225600)
        ran = await self.run_it("recording", "list", "--json")
        self.assertEqual(ran.document["recordings"][0], ITEM)

    async def test_link(self) -> None:
        """The link is for the page that plays it, under a ticket that can read this one file."""
        self.there_is(ITEM)
        ran = await self.run_it("link", "recording", NAME, "--timeout", "15m", "-P", "alice")
        [ticket] = self.tickets
        uuid = ticket.pop("uuid")
        self.assertEqual((ran.code, ran.out), (0, f"https://gw.invalid:54323/ui/replay#{uuid}\n"))
        expected = {"size": 3000, "ops": ["read"], "timeout": 900, "filename": NAME, "principal": "alice"}
        self.assertEqual(ticket, {**expected, "url": f"file:///srv/my%20recordings/{NAME}"})
        [asked] = [asked for asked in self.fake.asked if asked.path == "/recordings/"]
        self.assertEqual(asked.query, {"after": NAME[:-1], "limit": "1"})
        ran = await self.run_it("link", "recording", NAME, "--json")
        self.assertEqual(ran.document["download"], f"https://gw.invalid:54323/images/{ran.document['id']}")

    async def test_none(self) -> None:
        """No ticket is made for what is not there, is in work, or could not be watched."""
        for items, status, words in (
            ([], STATUS, "no recording"),
            ([{**ITEM, "name": NAME + "x"}], STATUS, "no recording"),
            ([{**ITEM, "complete": False}], STATUS, "still being recorded"),
            ([ITEM], {**STATUS, "public_url": None}, "public_url"),
            ([ITEM], {**STATUS, "pages": False}, "[web]"),
        ):
            self.there_is(*items)
            self.fake.reply("GET /status", Reply(status))
            ran = await self.run_it("link", "recording", NAME)
            self.assertEqual((ran.code, self.tickets), (1, []), words)
            self.assertIn(words, ran.err)
        self.assertEqual((await self.run_it("link", "recording")).code, 2)
