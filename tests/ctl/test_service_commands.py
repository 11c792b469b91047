from __future__ import annotations

from gateway.ctl.service_commands import describe
from tests.ctl.fake_control import ControlTestCase, Reply

STATUS = {
    "version": "0.1.0",
    "pid": 4711,
    "started": "2025-12-31T20:00:00.000Z",
    "uptime": 14400.5,
    "draining": False,
    "ready": True,
    "checks": {"listeners": {"ok": True, "text": ""}, "tls": {"ok": False, "text": "expired"}},
    "public_url": "https://gw.invalid:54323",
    "ca": None,
    "targets": [
        {"target": "lab", "state": "up", "latency": 0.0012, "generation": 3, "error": ""},
        {"target": "far", "state": "down", "latency": 0.0, "generation": 0, "error": "refused"},
    ],
    "listeners": [{"service": "images", "listen": "tcp:54323", "tls": True}],
    "tickets": {"image": {"issued": 1, "active": 2}},
    "sessions": {"image": 2},
    "bytes_in": 1536 << 20,
    "bytes_out": 0,
    "certificates": [{"file": "/etc/gateway/gw.pem", "not_after": "2026-02-01T00:00:00Z", "days_left": 31.5}],
    "config": {"file": "/etc/gateway/gateway.conf", "warnings": ["[web] service not available"]},
}


class Service(ControlTestCase):
    async def test_status(self) -> None:
        """The status is readable, and complete as JSON."""
        self.fake.reply("GET /status", Reply(STATUS))
        ran = await self.run_it("status")
        words = (
            "ready",
            "4h00m",
            "1.5 GiB",
            "image: 1 issued, 2 active",
            "tcp:54323",
            "31",
            "warning: [web]",
            "lab     up      1.2 ms           3  -",
            "far     down         -           0  refused",
        )
        self.assertIn("listeners ok, tls FAILED (expired)", ran.out)
        for text in words:
            self.assertIn(text, ran.out)
        self.assertEqual((await self.run_it("status", "--json")).document, STATUS)

    def test_sparse_status(self) -> None:
        """A gateway that tells less than we know of is shown all the same."""
        self.assertIn("not ready", describe({}, 80))

    async def test_drain(self) -> None:
        """Draining says how many sessions are left."""
        self.fake.reply("POST /drain", Reply({"draining": True, "sessions": 3}))
        ran = await self.run_it("drain")
        self.assertEqual((ran.code, ran.out), (0, "draining, 3 sessions are left\n"))

    async def test_drain_wait(self) -> None:
        """Waiting ends when no session is left."""
        self.fake.reply("POST /drain", Reply({"draining": True, "sessions": 3}))
        self.fake.reply(
            "GET /status",
            Reply({"sessions": {"image": 2, "console": 1}}),
            Reply({"sessions": {"image": 1}}),
            Reply({"sessions": {}}),
        )
        ran = await self.run_it("drain", "--wait")
        self.assertEqual(ran.err.splitlines(), ["3 sessions left", "1 sessions left"])
        self.assertEqual((ran.code, ran.out), (0, "drained, no session is left\n"))

    async def test_drained_and_gone(self) -> None:
        """A gateway that stops once it is drained has drained."""
        self.fake.reply("POST /drain", Reply({"draining": True, "sessions": 1}))
        self.fake.reply("GET /status", Reply(status=0))
        ran = await self.run_it("drain", "--wait", tty=True)
        self.assertEqual(ran.code, 0)
        self.assertIn("1 sessions left", ran.err)

    async def test_reload(self) -> None:
        """A reload tells the warnings of the new configuration."""
        self.fake.reply("POST /reload", Reply({"reloaded": True, "warnings": ["[web] x"]}))
        self.assertEqual((await self.run_it("reload")).out, "reloaded\nwarning: [web] x\n")

    async def test_reload_refused(self) -> None:
        """Every problem of a bad configuration is told, and that the old one stays."""
        problem = {"title": "bad", "status": 400, "problems": ["a.conf: [tls] key: x", "a.conf: [web] y"]}
        self.fake.reply("POST /reload", Reply(problem, 400, kind="application/problem+json"))
        ran = await self.run_it("reload", "--json")
        self.assertEqual(ran.code, 1)
        self.assertEqual(ran.document, {"reloaded": False, "problems": problem["problems"]})
        self.assertEqual(len(ran.err.splitlines()), 3)
        self.assertIn("old configuration stays", ran.err)

    async def test_no_arguments(self) -> None:
        """What takes no arguments gets none."""
        for word in ("status", "drain", "reload", "check"):
            self.assertEqual((await self.run_it(word, "now")).code, 2)
        self.assertEqual(self.fake.asked, [])


class Check(ControlTestCase):
    async def test_good(self) -> None:
        """A good configuration is said to be, without asking any gateway."""
        file = self.directory / "gateway.conf"
        file.write_text(f"[gateway]\nstate_dir = {self.directory}\nrun_dir = {self.directory}\n[control]\n")
        ran = await self.run_it("check", "--config", str(file))
        self.assertEqual((ran.code, ran.out, ran.err), (0, f"{file}: good\n", ""))
        self.assertEqual(self.fake.asked, [])

    async def test_bad(self) -> None:
        """Every problem is told with file, section and key; those of missing files as well."""
        file = self.directory / "gateway.conf"
        file.write_text("[gateway]\nstate_dirr = /x\n[brad]\n")
        ran = await self.run_it("check", "--config", str(file), "--json")
        self.assertEqual((ran.code, len(ran.document["problems"])), (1, 2))
        self.assertEqual(len(ran.err.splitlines()), 2)
        self.assertIn("[gateway] state_dirr", ran.err)
        file.write_text("[tls]\ncertificate = none.pem\nkey = none.key\n")
        ran = await self.run_it("check", "-C", str(file))
        self.assertEqual(ran.code, 1)
        self.assertIn("[tls] certificate", ran.err)
