from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred

from gateway.ctl.control import Control, Unreachable, segment
from tests.ctl.fake_control import ControlTestCase, Reply


class Talking(ControlTestCase):
    def control(self) -> Control:
        """The gateway on the socket."""
        return Control.at(self.reactor, self.path)

    async def test_silent(self) -> None:
        """A gateway that does not answer is not waited for without end."""
        self.fake.reply("GET /status", Reply(status=-1))
        control = self.control()
        control.patience = 0.1
        with self.assertRaisesRegex(Unreachable, "does not answer"):
            await control.get("/status")

    async def test_interrupted(self) -> None:
        """Who interrupts a request is not told that the gateway failed."""
        self.fake.reply("GET /status", Reply(status=-1))
        asking = Deferred.fromCoroutine(self.control().get("/status"))
        arrived: Deferred[None] = Deferred()
        self.fake.before = lambda asked: self.reactor.callLater(0, arrived.callback, None)
        await arrived
        asking.cancel()
        with self.assertRaises(CancelledError):
            await asking

    async def test_redirects(self) -> None:
        """An answer that leads elsewhere is refused, not followed."""
        self.fake.reply("GET /status", Reply(status=302, text="elsewhere"))
        ran = await self.run_it("status")
        self.assertEqual((ran.code, ran.err, len(self.fake.asked)), (1, "gatewayctl: elsewhere\n", 1))

    async def test_nameless_error(self) -> None:
        """An error without a text for people has at least its status."""
        self.fake.reply("GET /status", Reply(["x"], 500), Reply(None, 503, kind="text/html"))
        for status in ("500", "503"):
            self.assertIn(f"status {status}", (await self.run_it("status")).err)

    async def test_endless_pages(self) -> None:
        """A list that names the same page again and again comes to an end."""
        self.fake.reply("GET /tickets/", Reply({"tickets": [{}], "next": "a"}))
        found = [item async for item in self.control().pages("/tickets/", "tickets", {})]
        self.assertEqual(len(found), 2)

    def test_segment(self) -> None:
        """No text is more than one segment of a path."""
        self.assertEqual(segment("a/b?c#d%2F ~"), "a%2Fb%3Fc%23d%252F%20~")
