"""``gatewayctl link viewer``."""

from __future__ import annotations

import os
from typing import Any

from tests.ctl.fake_control import Asked, ControlTestCase, Reply
from tests.wire.test_viewer_file import PEM, read

STATUS = {"proxy_urls": ["http://gw.invalid:3128", "https://gw.invalid:3129"]}
URL = "spice://vm.invalid:5900?tls-port=5901"


class Viewers(ControlTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.fake.reply("GET /status", Reply(STATUS))
        self.tickets: list[Any] = []
        self.status = 200
        self.fake.before = self.accept
        self.file = self.directory / "console.vv"

    def accept(self, asked: Asked) -> None:
        if asked.method == "PUT":
            self.tickets.append(asked.body)
            text = None if self.status == 200 else "no\n"
            self.fake.reply(f"PUT {asked.path}", Reply(status=self.status, text=text))

    async def test_printed(self) -> None:
        """The ticket leads to both ports of the machine, and the file has it as the proxy's password."""
        ran = await self.run_it("link", "viewer", URL)
        self.assertEqual((ran.code, ran.err), (0, ""))
        (ticket,) = self.tickets
        uuid = ticket.pop("uuid")
        self.assertEqual(ticket, {"kind": "tunnel", "urls": [URL], "ops": ["connect"], "timeout": 300})
        self.assertEqual(
            read(ran.out),
            {
                "type": "spice",
                "host": "vm.invalid",
                "port": "5900",
                "tls-port": "5901",
                "proxy": f"http://ticket:{uuid}@gw.invalid:3128",
                "delete-this-file": "1",
            },
        )

    async def test_file(self) -> None:
        """A new file that nobody else may read; its name is printed, and no secret."""
        ca, secret = self.directory / "ca.pem", self.directory / "secret"
        ca.write_text(PEM)
        secret.write_text("sekret12\n")
        self.addCleanup(os.umask, os.umask(0))
        ran = await self.run_it(
            "link", "viewer", URL, "-o", str(self.file), "-c", str(ca), "-S", str(secret), "-T", "VM one",
            "--host-subject", "O=a,CN=b", "--tls", "-1", "-k", "-P", "alice", "-t", "1h",
        )  # fmt: skip
        self.assertEqual((ran.code, ran.out, ran.err), (0, f"{self.file}\n", ""))
        self.assertEqual(self.file.stat().st_mode & 0o777, 0o600)
        found = read(self.file.read_text())
        uuid = self.tickets[0]["uuid"]
        self.assertEqual(found["proxy"], f"https://ticket:{uuid}@gw.invalid:3129")
        self.assertEqual((found["ca"], found["password"], found["title"]), (PEM, "sekret12", "VM one"))
        self.assertNotIn("delete-this-file", found)
        self.assertEqual([self.tickets[0][it] for it in ("uses", "principal", "timeout")], [1, "alice", 3600])
        self.assertNotIn("sekret12", str(self.tickets))

    async def test_refused_by_policy(self) -> None:
        """Nothing is made when the gateway may reach neither port, and one of them is warned about."""
        plain = {"target": "spice://vm.invalid:5900", "allowed": False, "rules": ["spice://192.0.2.1:5900"]}
        secure = {"target": "spice://vm.invalid:5901", "allowed": False, "rules": ["spice://192.0.2.1:5901"]}
        self.fake.reply("POST /policy", Reply({"targets": [plain, secure]}))
        ran = await self.run_it("link", "viewer", URL, "-o", str(self.file))
        self.assertEqual((ran.code, self.tickets, self.file.exists()), (1, [], False))
        self.assertIn("spice://192.0.2.1:5901", ran.err)
        self.fake.reply("POST /policy", Reply({"targets": [plain, {**secure, "allowed": True}]}))
        ran = await self.run_it("link", "viewer", URL)
        self.assertEqual((ran.code, len(self.tickets)), (0, 1))
        self.assertIn("spice://192.0.2.1:5900", ran.err)

    async def test_never_over_another(self) -> None:
        """A file that is there stays as it is, and so does what a link leads to; no ticket is made."""
        elsewhere = self.directory / "elsewhere"
        for make in (lambda: self.file.write_text("mine"), lambda: self.file.symlink_to(elsewhere)):
            make()
            ran = await self.run_it("link", "viewer", URL, "-o", str(self.file))
            self.assertEqual((ran.code, self.tickets), (1, []))
            self.assertIn("console.vv", ran.err)
            self.file.unlink()
        self.assertFalse(elsewhere.exists())

    async def test_refused(self) -> None:
        """Without a ticket there is no file."""
        self.status = 400
        ran = await self.run_it("link", "viewer", URL, "-o", str(self.file))
        self.assertNotEqual(ran.code, 0)
        self.assertFalse(self.file.exists())

    async def test_no_proxy(self) -> None:
        """Where the gateway has no such port the user is told what to do, and can say it."""
        for known, more in (([], ()), (["http://gw.invalid:3128"], ("--tls",)), (["http://a_b:1"], ())):
            self.fake.reply("GET /status", Reply({"proxy_urls": known}))
            ran = await self.run_it("link", "viewer", URL, *more)
            self.assertEqual((ran.code, self.tickets), (1, []))
            self.assertIn("--proxy", ran.err)
        ran = await self.run_it("link", "viewer", URL, "--proxy", "https://[2001:db8::1]:3129/")
        uuid = self.tickets[0]["uuid"]
        self.assertEqual(read(ran.out)["proxy"], f"https://ticket:{uuid}@[2001:db8::1]:3129")

    async def test_wrong(self) -> None:
        """What is no SPICE URL, or no URL of a proxy, is refused before anything is asked."""
        for words in (
            (), ("vm.invalid:5900",), ("vnc://vm.invalid:5900",), ("spice://vm.invalid",), (URL, URL),
            ("spice://vm.invalid:5900\nproxy=x",), (URL, "--proxy", "gw.invalid:3128"),
            (URL, "--proxy", "http://u:p@gw.invalid"), (URL, "--proxy", "http://gw.invalid/x"),
            (URL, "--proxy", "socks5://gw.invalid"), (URL, "--proxy", "http://gw.invalid\nx"),
        ):  # fmt: skip
            ran = await self.run_it("link", "viewer", *words)
            self.assertEqual((ran.code, self.fake.asked), (2, []), words)
        ran = await self.run_it("link", "viewer", URL, "--title", "a\x1bb")
        self.assertEqual((ran.code, self.tickets), (1, []))
