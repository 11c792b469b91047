from __future__ import annotations

import json
import os
import re
import stat

from gateway.core.masking import fingerprint
from tests.ctl.fake_control import ID, ControlTestCase, Reply

SUMMARY = {
    "ticket": "3fa9c1d2e4b7",
    "kind": "image",
    "state": "active",
    "principal": "alice",
    "peer": None,
    "uses": 1,
    "sessions": ["a1b2"],
    "created": "2025-12-31T23:59:30.000Z",
    "expires_at": "2026-01-01T00:03:12.000Z",
}


class Add(ControlTestCase):
    async def test_flags(self) -> None:
        """A ticket made of options has what they say, an unguessable id, and defaults by kind."""
        self.fake.before = lambda asked: self.fake.reply(f"PUT {asked.path}", Reply())
        ran = await self.run_it(
            "ticket", "add", "--kind", "console", "--url=vnc://h:5900", "--uses", "1", "--timeout", "15m",
            "--shared", "--record"
        )  # fmt: skip
        self.assertEqual((ran.code, ran.err), (0, ""))
        uuid = ran.out.strip()
        self.assertTrue(
            re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", uuid)
        )
        (asked,) = self.fake.asked
        self.assertEqual((asked.method, asked.path), ("PUT", f"/tickets/{uuid}"))
        self.assertEqual(
            asked.body,
            {
                "uuid": uuid,
                "kind": "console",
                "url": "vnc://h:5900",
                "uses": 1,
                "timeout": 900,
                "ops": ["view", "control"],
                "shared": True,
                "record": True,
            },
        )

    async def test_stdin(self) -> None:
        """JSON from standard input goes through as it is, secrets too, and options are put over it."""
        self.fake.reply(f"PUT /tickets/{ID}", Reply())
        given = {"uuid": ID, "kind": "console", "url": "vnc://h:5900", "secret": "s3cret", "ops": ["view"]}
        ran = await self.run_it("ticket", "add", "-", "--principal", "bob", "--json", stdin=json.dumps(given))
        self.assertEqual(ran.document, {"id": ID, "ticket": fingerprint(ID), "timeout": 300})
        self.assertEqual(self.fake.asked[0].body, {**given, "principal": "bob", "timeout": 300})

    async def test_size_of_file(self) -> None:
        """The size of an image that can be seen here need not be said."""
        image = self.directory / "disk image.img"
        image.write_bytes(bytes(4096))
        self.fake.reply(f"PUT /tickets/{ID}", Reply())
        url = f"file://{image}".replace(" ", "%20")
        ran = await self.run_it("ticket", "add", "--id", ID, "--url", url)
        self.assertEqual(ran.code, 0)
        self.assertEqual(self.fake.asked[0].body["size"], 4096)

    async def test_refused(self) -> None:
        """What the gateway refuses is said in one line, and the exit status is 1."""
        self.fake.reply(f"PUT /tickets/{ID}", Reply(status=400, text="Invalid ticket: no \x1b[2Jpeer\nmore"))
        ran = await self.run_it("ticket", "add", "--id", ID, "--url", "file:///x", "--size", "1M")
        self.assertEqual(
            (ran.code, ran.out, ran.err), (1, "", "gatewayctl: Invalid ticket: no \\x1b[2Jpeer\n")
        )

    async def test_not_sent(self) -> None:
        """What cannot be a ticket is not sent: no target, no size, no JSON, no file, no id."""
        for code, arguments, stdin in (
            (2, (), ""),
            (1, ("--url", "https://h:1/images/x"), ""),
            (1, ("-",), "[]"),
            (1, ("-",), '{"uuid": "../status", "size": 1}'),
            (1, (str(self.directory / "none.json"),), ""),
            (2, ("--id", "..", "--url", "file:///x"), ""),
            (2, ("--size", "big", "--url", "file:///x"), ""),
            (2, ("--kind", "bread", "--url", "file:///x"), ""),
        ):
            ran = await self.run_it("ticket", "add", *arguments, stdin=stdin)
            self.assertEqual((ran.code, ran.out, ran.err.count("\n")), (code, "", 1), (arguments, ran))
        self.assertEqual(self.fake.asked, [])


class Looking(ControlTestCase):
    async def test_show(self) -> None:
        """A ticket is shown with its times as ages and its sizes in words; as JSON, unchanged."""
        ticket = {**SUMMARY, "size": 1536 << 20, "transferred": 5, "uuid": ID}
        self.fake.reply(f"GET /tickets/{ID}", Reply(ticket))
        ran = await self.run_it("ticket", "show", ID)
        self.assertEqual(ran.code, 0)
        for text in ("1610612736 (1.5 GiB)", "(30s ago)", "(left: 3m12s)", "alice"):
            self.assertIn(text, ran.out)
        self.assertEqual((await self.run_it("ticket", "--json", "show", ID)).document, ticket)

    async def test_unknown(self) -> None:
        """The gateway's own words for an unknown ticket are repeated."""
        self.fake.reply(f"GET /tickets/{ID}", Reply(status=404, text=f"No such ticket '{ID}'\n"))
        ran = await self.run_it("ticket", "show", ID)
        self.assertEqual((ran.code, ran.err), (1, f"gatewayctl: No such ticket '{ID}'\n"))

    async def test_list_pages(self) -> None:
        """All pages of a list are read, and the filters go along with each."""
        second = {**SUMMARY, "ticket": "4fa9c1d2e4b7", "principal": "bob\x1b[2J"}
        self.fake.reply(
            "GET /tickets/",
            Reply({"tickets": [SUMMARY], "next": "3fa9c1d2e4b7"}),
            Reply({"tickets": [second], "next": None}),
        )
        ran = await self.run_it("ticket", "list", "--kind", "image", "--state=active", "-P", "a&b")
        self.assertEqual([asked.query.get("after") for asked in self.fake.asked], [None, "3fa9c1d2e4b7"])
        self.assertEqual(self.fake.asked[1].query["principal"], "a&b")
        lines = ran.out.splitlines()
        self.assertEqual(lines[0].split()[:3], ["TICKET", "KIND", "STATE"])
        words = lines[1].split()
        self.assertEqual(words, ["3fa9c1d2e4b7", "image", "active", "alice", "-", "1", "1", "30s", "3m12s"])
        self.assertIn("bob\\x1b[2J", lines[2])

    async def test_list_json(self) -> None:
        """As JSON, a list of several pages is still one document."""
        self.fake.reply(
            "GET /tickets/", Reply({"tickets": [SUMMARY], "next": "x"}), Reply({"tickets": [], "next": None})
        )
        self.assertEqual((await self.run_it("-j", "ticket", "list")).document, {"tickets": [SUMMARY]})

    async def test_list_fits(self) -> None:
        """On a terminal no line is wider than it."""
        self.fake.reply(
            "GET /tickets/", Reply({"tickets": [{**SUMMARY, "principal": "p" * 90}], "next": None})
        )
        ran = await self.run_it("ticket", "list", tty=True, environ={"COLUMNS": "90"})
        self.assertEqual(max(map(len, ran.out.splitlines())), 90)


class Ending(ControlTestCase):
    async def test_renew(self) -> None:
        """A ticket is renewed by what is asked, or by what it had at first."""
        self.fake.reply(f"GET /tickets/{ID}", Reply({"timeout": 300}))
        self.fake.reply(f"PATCH /tickets/{ID}", Reply())
        self.assertEqual((await self.run_it("ticket", "renew", ID, "--timeout", "1h")).code, 0)
        ran = await self.run_it("ticket", "renew", ID, "--json")
        self.assertEqual(ran.document, {"renewed": {ID: 300}})
        bodies = [asked.body for asked in self.fake.asked if asked.method == "PATCH"]
        self.assertEqual(bodies, [{"timeout": 3600}, {"timeout": 300}])
        url = "spice://host2.invalid:5900"
        self.assertEqual((await self.run_it("ticket", "renew", ID, "-t", "9s", "--url", url)).code, 0)
        self.assertEqual(self.fake.asked[-1].body, {"timeout": 9, "urls": [url]})

    async def test_revoke(self) -> None:
        """Each ticket named is revoked, also after one that cannot be; that one is reported."""
        self.fake.reply("DELETE /tickets/a", Reply(status=409, text="Timeout"))
        self.fake.reply("DELETE /tickets/b", Reply(status=204))
        ran = await self.run_it("ticket", "revoke", "a", "b", "--json")
        self.assertEqual(ran.code, 1)
        self.assertEqual(ran.document["revoked"], ["b"])
        self.assertEqual(ran.err, "gatewayctl: a: Timeout; try again in a while\n")

    async def test_revoke_all(self) -> None:
        """All tickets go only for --all, which takes no id; nothing at all is a mistake."""
        self.fake.reply("DELETE /tickets/", Reply(status=204))
        for arguments in (("revoke",), ("revoke", "--all", "x"), ("revoke", ""), ("revoke", "a/..")):
            self.assertEqual((await self.run_it("ticket", *arguments)).code, 2)
        self.assertEqual(self.fake.asked, [])
        self.assertEqual((await self.run_it("ticket", "revoke", "--all")).code, 0)
        self.assertEqual([asked.path for asked in self.fake.asked], ["/tickets/"])


class Place(ControlTestCase):
    async def test_nobody(self) -> None:
        """Without a gateway one line says what to do."""
        ran = await self.run_it("status", "--control", str(self.directory / "no.sock"))
        self.assertEqual((ran.code, ran.out, ran.err.count("\n")), (1, "", 1))
        self.assertIn("twistd gateway", ran.err)
        self.assertIn("no.sock", ran.err)

    async def test_hung_up(self) -> None:
        """A gateway that hangs up is said to."""
        self.fake.reply("GET /status", Reply(status=0))
        ran = await self.run_it("status")
        self.assertEqual((ran.code, ran.err.count("\n")), (1, 1))
        self.assertIn("hung up", ran.err)

    async def test_no_gateway(self) -> None:
        """Something else that answers is not taken for a gateway."""
        self.fake.reply("GET /status", Reply(text="<html>"))
        ran = await self.run_it("status")
        self.assertEqual(ran.code, 1)
        self.assertIn("no gateway", ran.err)

    async def test_tcp(self) -> None:
        """The control listener may be a loopback port, and an option beats the environment."""
        from twisted.web.server import Site

        port = self.reactor.listenTCP(0, Site(self.fake), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.fake.reply("GET /status", Reply({"version": "9"}))
        place = f"http://127.0.0.1:{port.getHost().port}"
        ran = await self.run_it("--control", place, "status", "--json", environ={"GATEWAY_CONTROL": "/none"})
        self.assertEqual(ran.document, {"version": "9"})

    async def test_other_schemes(self) -> None:
        """A place that is neither a path nor plain HTTP is a mistake."""
        for place in ("https://h:1", "http://user@h:1", "ftp://x", "http://h:1/path"):
            self.assertEqual((await self.run_it("status", "-c", place)).code, 2, place)

    def test_socket(self) -> None:
        """The tests talk over a real socket."""
        self.assertTrue(stat.S_ISSOCK(os.stat(self.path).st_mode))
