from __future__ import annotations

import json

from tests.ctl.fake_control import ID, ControlTestCase, Reply

SESSION = {
    "id": "a1b2c3",
    "kind": "image",
    "ticket": "3fa9c1d2e4b7",
    "op": "write",
    "principal": "alice",
    "peer": "192.0.2.7",
    "target": "https://host.invalid:54322",
    "listener": "images",
    "bytes_in": 1536 << 20,
    "bytes_out": 0,
    "since": "2025-12-31T23:56:48.000Z",
    "rate": 12 << 20,
}


class Sessions(ControlTestCase):
    async def test_list(self) -> None:
        """Sessions are listed with amounts, rate and age; the filters are the gateway's."""
        self.fake.reply("GET /sessions/", Reply({"sessions": [SESSION]}))
        ran = await self.run_it("session", "list", "--ticket", ID, "--kind", "image")
        self.assertEqual(self.fake.asked[0].query, {"ticket": ID, "kind": "image"})
        for text in ("a1b2c3", "1.5 GiB", "12.0 MiB/s", "3m12s", "192.0.2.7"):
            self.assertIn(text, ran.out)
        self.assertEqual((await self.run_it("session", "list", "--json")).document, {"sessions": [SESSION]})

    async def test_consoles(self) -> None:
        """Tunnels show which console they are a part of; where there is none there is no such column."""
        tunnel = {**SESSION, "id": "d4e5f6", "kind": "tunnel", "console": "cafe00cafe00"}
        self.fake.reply("GET /sessions/", Reply({"sessions": [SESSION, tunnel]}))
        heading, image, shown = (await self.run_it("session", "list")).out.splitlines()
        self.assertTrue(heading.endswith("CONSOLE") and shown.endswith(" cafe00cafe00"), heading)
        self.assertTrue(image.endswith(" -"))
        ran = await self.run_it("session", "watch", "-n", "1", "-i", "100ms")
        self.assertTrue(ran.out.splitlines()[1].endswith(" console=cafe00cafe00"))
        self.assertNotIn("console=", ran.out.splitlines()[0])
        self.fake.reply("GET /sessions/", Reply({"sessions": [SESSION]}))
        self.assertNotIn("CONSOLE", (await self.run_it("session", "list")).out)

    async def test_kill(self) -> None:
        """Every session named is ended, and one that is not there is reported."""
        self.fake.reply("DELETE /sessions/a1", Reply(status=204))
        self.fake.reply("DELETE /sessions/a2", Reply({"title": "No such session"}, 404))
        ran = await self.run_it("session", "kill", "a2", "a1")
        self.assertEqual((ran.code, ran.out), (1, "a1: killed\n"))
        self.assertEqual(ran.err, "gatewayctl: a2: No such session\n")
        self.assertEqual((await self.run_it("session", "kill")).code, 2)

    async def test_id_is_one_segment(self) -> None:
        """No id leads a request to another path."""
        await self.run_it("session", "kill", "../tickets/?x#y")
        self.assertEqual(self.fake.asked[0].path, "/sessions/..%2Ftickets%2F%3Fx%23y")


class Watching(ControlTestCase):
    async def test_plain(self) -> None:
        """Where nobody looks, each session is one line without control characters."""
        self.fake.reply("GET /sessions/", Reply({"sessions": [SESSION]}), Reply({"sessions": []}))
        ran = await self.run_it("session", "watch", "--count", "2", "--interval", "100ms")
        first, second = ran.out.splitlines()
        self.assertTrue(first.isprintable())
        self.assertTrue(first.startswith("session=a1b2c3 kind=image op=write"))
        self.assertIn("rate=12.0MiB/s", first)
        self.assertEqual(second, "no sessions")

    async def test_terminal(self) -> None:
        """On a terminal the table is drawn anew, with a bar for the transfers of the ticket watched."""
        self.fake.reply("GET /sessions/", Reply({"sessions": [SESSION]}))
        self.fake.reply(f"GET /tickets/{ID}", Reply({"size": 2 << 30, "transferred": 1 << 30}))
        ran = await self.run_it(
            "session", "watch", "-n", "2", "-i", "100ms", "-t", ID, tty=True, environ={"COLUMNS": "200"}
        )
        self.assertEqual((ran.code, ran.out.count("\x1b[H\x1b[J")), (0, 2))
        self.assertIn("1 sessions, 12.0 MiB/s", ran.out)
        self.assertIn("[######------]   50%", ran.out)

    async def test_fingerprint(self) -> None:
        """A fingerprint finds sessions though no ticket can be asked for by it; then there is no bar."""
        self.fake.reply("GET /sessions/", Reply({"sessions": [SESSION]}))
        ran = await self.run_it("session", "watch", "-n", "1", "-t", "3fa9c1d2e4b7")
        self.assertEqual((ran.code, ran.err), (0, ""))
        self.assertNotIn("%", ran.out)

    async def test_json(self) -> None:
        """As JSON each look is one line."""
        self.fake.reply("GET /sessions/", Reply({"sessions": [SESSION]}))
        ran = await self.run_it("session", "watch", "-n", "2", "-i", "100ms", "--json")
        self.assertEqual([json.loads(line) for line in ran.out.splitlines()], [{"sessions": [SESSION]}] * 2)

    async def test_gone(self) -> None:
        """When the gateway goes, so does the watch, and it says why."""
        self.fake.reply("GET /sessions/", Reply({"sessions": []}), Reply(status=0))
        ran = await self.run_it("session", "watch", "-i", "100ms")
        self.assertEqual(ran.code, 1)
        self.assertIn("hung up", ran.err)

    async def test_too_often(self) -> None:
        """The gateway is not asked in a tight loop."""
        self.assertEqual((await self.run_it("session", "watch", "-i", "0")).code, 2)
