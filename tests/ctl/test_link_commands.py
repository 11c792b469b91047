from __future__ import annotations

import shlex
from typing import Any

from tests.ctl.fake_control import Asked, ControlTestCase, Ran, Reply

STATUS = {
    "public_url": "https://gw.invalid:54323/",
    "console_url": "https://gw.invalid:6100",
    "ca": "/etc/gateway/my ca.pem",
}


class Links(ControlTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.fake.reply("GET /status", Reply(STATUS))
        self.tickets: list[Any] = []
        self.looks: list[Reply] = []
        self.fake.before = self.accept
        self.image = self.directory / "disk.img"
        self.image.write_bytes(bytes(3000))

    def accept(self, asked: Asked) -> None:
        """Take any ticket, and show what the test wants of it."""
        if asked.method == "PUT":
            self.tickets.append(asked.body)
            self.fake.reply(f"PUT {asked.path}", Reply())
            if self.looks:
                self.fake.reply(f"GET {asked.path}", *self.looks)

    def link(self, ran: Ran) -> str:
        """The URL that was printed, which has to be that of the ticket added."""
        self.assertEqual((ran.code, ran.err), (0, ""))
        link = f"https://gw.invalid:54323/images/{self.tickets[-1]['uuid']}"
        self.assertIn(link, ran.out)
        return link

    async def test_download_file(self) -> None:
        """A path becomes a file URL with the file's own size, read-only."""
        ran = await self.run_it("link", "download", str(self.image), "--uses", "1", "--principal", "alice")
        self.assertEqual(ran.out, self.link(ran) + "\n")
        ticket = self.tickets[0]
        ticket.pop("uuid")
        self.assertEqual(
            ticket,
            {
                "url": f"file://{self.image}",
                "size": 3000,
                "ops": ["read"],
                "timeout": 3600,
                "uses": 1,
                "principal": "alice",
            },
        )

    async def test_upload_url(self) -> None:
        """The URL of an image host goes through as it is; its size has to be said."""
        url = "https://host.invalid:54322/images/x"
        ran = await self.run_it("link", "upload", url)
        self.assertEqual((ran.code, self.tickets), (1, []))
        self.assertIn("--size", ran.err)
        self.link(await self.run_it("link", "upload", url, "--size", "10G", "--timeout", "15m"))
        ticket = self.tickets[0]
        self.assertEqual((ticket["url"], ticket["size"], ticket["ops"]), (url, 10 << 30, ["write"]))
        self.assertEqual(ticket["timeout"], 900)

    async def test_curl(self) -> None:
        """The command line of curl is whole and quoted, with the authority of the gateway."""
        ran = await self.run_it("link", "download", str(self.image), "--curl", "--filename", "a b.img")
        self.assertEqual(
            shlex.split(ran.out),
            ["curl", "--fail", "--cacert", "/etc/gateway/my ca.pem", "--output", "a b.img", self.link(ran)],
        )
        target = "/srv/new.img"
        ran = await self.run_it("link", "upload", target, "--source", str(self.image), "--curl")
        self.assertEqual(shlex.split(ran.out)[-3:], ["--upload-file", str(self.image), self.link(ran)])
        self.assertEqual((self.tickets[-1]["url"], self.tickets[-1]["size"]), (f"file://{target}", 3000))

    async def test_relative(self) -> None:
        """A relative path is relative to where the command runs."""
        ran = await self.run_it("link", "upload", "x/../new.img", "-s", "1", "--json")
        self.assertTrue(self.tickets[0]["url"].startswith("file:///"))
        self.assertTrue(self.tickets[0]["url"].endswith("/new.img"))
        self.assertEqual(ran.document["url"], self.link(ran))
        self.assertIn("--upload-file new.img", ran.document["curl"])

    async def test_console(self) -> None:
        """A console's URL becomes a ticket that does what was asked, and the address of its page."""
        secret = self.directory / "password"
        secret.write_text("s3cret\n")
        ran = await self.run_it("link", "console", "vnc://192.0.2.1:5901")
        self.assertEqual((ran.code, ran.err), (0, ""))
        plain = self.tickets[0]
        self.assertEqual(ran.out, f"https://gw.invalid:6100/ui/console#{plain.pop('uuid')}\n")
        wanted = {
            "kind": "console",
            "url": "vnc://192.0.2.1:5901",
            "ops": ["view", "control"],
            "timeout": 3600,
        }
        self.assertEqual(plain, wanted)
        options = ("--view", "--one-time", "--shared", "--record", "-t", "10m", "-P", "bob", "--json")
        ran = await self.run_it("link", "console", "vnc://h:1", "--secret-file", str(secret), *options)
        ticket = self.tickets[1]
        self.assertTrue(ran.document["url"].endswith(f"/ui/console#{ticket['uuid']}"))
        self.assertEqual((ticket["ops"], ticket["uses"], ticket["secret"]), (["view"], 1, "s3cret"))
        self.assertEqual((ticket["shared"], ticket["record"], ticket["principal"]), (True, True, "bob"))
        self.assertNotIn("s3cret", ran.out)
        await self.run_it("link", "console", "vnc+tls://h:1", "-S", str(secret), "-u", "root", "-P", "bob")
        ticket = self.tickets.pop()
        self.assertEqual((ticket["user"], ticket["principal"], ticket["secret"]), ("root", "bob", "s3cret"))
        await self.run_it("link", "console", "vnc://h:1", "--takeover")
        self.assertEqual(self.tickets[2]["ops"], ["view", "control", "takeover"])
        for wrong in ((), ("no-url",), ("vnc://a:1", "vnc://b:2"), ("vnc://a:1", "--view", "--takeover")):
            self.assertNotEqual((await self.run_it("link", "console", *wrong)).code, 0)
        self.assertEqual(len(self.tickets), 3)

    async def test_no_console_page(self) -> None:
        """Where there is no page, no ticket is made, and what to set is said."""
        self.fake.reply("GET /status", Reply({"public_url": "https://gw.invalid", "console_url": None}))
        ran = await self.run_it("link", "console", "vnc://192.0.2.1:5901")
        self.assertEqual((ran.code, self.tickets), (1, []))
        self.assertIn("[web]", ran.err)

    async def test_refused_by_policy(self) -> None:
        """Where the gateway may not go no link is made, and what to set is said; a password is not told."""
        secret = self.directory / "password"
        secret.write_text("s3cret\n")
        rules = ["vnc://192.0.2.1:1", "vnc://192.0.2.2:1"]
        self.policy({"target": "vnc://h:1", "allowed": False, "rules": rules})
        ran = await self.run_it("link", "console", "vnc://h:1", "--secret-file", str(secret), "--user", "x")
        self.assertEqual((ran.code, ran.out, self.tickets), (1, "", []))
        for part in ("reach vnc://h:1", "add vnc://192.0.2.1:1, vnc://192.0.2.2:1 to allow in [policy]"):
            self.assertIn(part, ran.err)
        asked = self.fake.asked[-1]
        self.assertEqual((asked.path, asked.body["url"]), ("/policy", "vnc://h:1"))
        self.assertFalse({"secret", "user"} & set(asked.body))
        wrong = "Invalid ticket: Unsupported url scheme: x\n"
        self.fake.reply("POST /policy", Reply(text=wrong, status=400))
        ran = await self.run_it("link", "console", "x://h:1")
        self.assertEqual((ran.code, self.tickets), (1, []))
        self.assertIn("Unsupported url scheme: x", ran.err)

    async def test_unknown_host(self) -> None:
        """A link to a host that nobody knows yet is made, with a warning; where all is well there is none."""
        for allowed, said in ((None, "nobody knows the host of vnc://h:1 yet"), (True, "")):
            self.policy({"target": "vnc://h:1", "allowed": allowed, "rules": []})
            ran = await self.run_it("link", "console", "vnc://h:1")
            self.assertEqual((ran.code, bool(ran.err)), (0, bool(said)))
            self.assertIn(said, ran.err)
            self.assertIn(self.tickets[-1]["uuid"], ran.out)

    def policy(self, *judged: object) -> None:
        self.fake.reply("POST /policy", Reply({"targets": judged}))

    async def test_no_public_url(self) -> None:
        """Without public_url no ticket is made, and what to set is said."""
        self.fake.reply("GET /status", Reply({"public_url": None}))
        ran = await self.run_it("link", "download", str(self.image))
        self.assertEqual((ran.code, self.tickets), (1, []))
        self.assertIn("public_url", ran.err)

    async def test_wait(self) -> None:
        """Waiting shows how far the transfer is, and ends when it is complete and nobody is at it."""
        self.looks = [
            Reply({"active": False, "transferred": 0, "state": "issued"}),
            Reply({"active": True, "transferred": 1500, "state": "active"}),
            Reply({"active": True, "transferred": 3000, "state": "active"}),
            Reply({"active": False, "transferred": 3000, "state": "used_up"}),
        ]
        ran = await self.run_it("link", "download", str(self.image), "--wait")
        self.assertEqual(ran.code, 0)
        self.assertEqual(len([asked for asked in self.fake.asked if asked.path.startswith("/tickets/")]), 5)
        self.assertIn("50%", ran.err)
        self.assertIn("complete: 2.9 KiB", ran.err)
        self.assertEqual(ran.out.count("\n"), 1)

    async def test_wait_on_terminal(self) -> None:
        """On a terminal there is one line that is drawn over itself."""
        self.looks = [
            Reply({"active": True, "transferred": 1500}),
            Reply({"active": False, "transferred": 3000}),
        ]
        ran = await self.run_it("link", "download", str(self.image), "--wait", tty=True)
        self.assertEqual(ran.err.count("\r["), 2)

    async def test_wait_fails(self) -> None:
        """A ticket that ends too early is a failure that says how far it came."""
        for state, word in (("expired", "expired"), ("revoked", "revoked"), ("used_up", "no uses left")):
            self.looks = [Reply({"active": False, "transferred": 1500, "state": state})]
            ran = await self.run_it("link", "download", str(self.image), "--wait", "--json")
            self.assertEqual(ran.code, 1)
            self.assertIn("url", ran.document)
            self.assertIn(word, ran.err)
            self.assertIn("1.5 KiB of 2.9 KiB", ran.err)

    async def test_gone(self) -> None:
        """A ticket that is not there any more is a failure, too."""
        ran = await self.run_it("link", "download", str(self.image), "--wait")
        self.assertEqual(ran.code, 1)

    async def test_usage(self) -> None:
        """Exactly one image has a link."""
        for arguments in (("link", "download"), ("link", "upload", "a", "b"), ("link",), ("link", "console")):
            self.assertEqual((await self.run_it(*arguments)).code, 2)
