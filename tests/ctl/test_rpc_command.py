"""``gatewayctl rpc`` against a small endpoint over TLS, and a fake control listener."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from gateway import errors
from gateway.core import dev_pki
from gateway.rpc import commands
from gateway.rpc.amp import BoundedAMP, Table, table
from tests.ctl.fake_control import ControlTestCase, Ran, Reply
from tests.rpc.small_endpoint import CA, NOW, Endpoint


class _Endpoint(Endpoint):
    """Targets there are, and handles that are closed."""

    def __init__(self, reactor: Any, directory: Path) -> None:
        super().__init__(reactor, directory)
        self.names = ["lab"]
        self.closed: list[str] = []
        self.gone = 0

    def _inside(self, side: BoundedAMP) -> Table:
        mine = table(
            (commands.Targets, self._targets),
            (commands.Close, self._close),
            (commands.GetNodeInfo, self._node),
        )
        return {**super()._inside(side), **mine}

    async def _targets(self) -> dict[str, Any]:
        rest = {"driver": "test", "state": "up", "latency": None, "version": "9.0.0"}
        return {"targets": [{"name": name, **rest} for name in self.names]}

    async def _close(self, handle: str) -> dict[str, Any]:
        self.closed.append(handle)
        return {}

    async def _node(self, handle: str) -> dict[str, Any]:
        if self.gone:
            self.gone -= 1
            raise errors.NoHandle
        counts = dict.fromkeys(("cpus", "mhz", "nodes", "sockets", "cores", "threads"), 1)
        return {"model": "x86_64", "memory": 1 << 30, **counts}


class RpcCase(ControlTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.endpoint = _Endpoint(self.reactor, self.directory)
        self.endpoint.listen()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.stop()))
        self.ca = self.directory / "ca.pem"
        CA.write(self.directory, "ca")
        self.token = self.directory / "token"
        self.token.write_text("good\n")

    async def stop(self) -> None:
        await self.endpoint.stop()
        while self.endpoint.sides:
            await deferLater(self.reactor, 0.005)
        await deferLater(self.reactor, 0.02)

    async def happen(self, *kinds: str) -> None:
        while not self.endpoint.subs:
            await deferLater(self.reactor, 0.01)
        self.endpoint.happen(*kinds)

    async def rpc(self, *arguments: str, **more: Any) -> Ran:
        """Run it with a token that is good, unless something else is said."""
        environ = {
            "GATEWAY_RPC": f"127.0.0.1:{self.endpoint.number}",
            "GATEWAY_CA": str(self.ca),
            **more.pop("environ", {}),
        }
        if not {"-T", "-e"} & set(arguments) and not more.pop("ours", False):
            arguments = ("-T", str(self.token), *arguments)
        return await self.run_it("rpc", *arguments, environ=environ, **more)


class OneShot(RpcCase):
    async def test_table(self) -> None:
        """A command without a target goes to the only one there is; all pages are one table."""
        ran = await self.rpc("list-domains")
        self.assertEqual((ran.code, ran.err), (0, ""))
        self.assertEqual(len(ran.out.splitlines()), 8)

    async def test_json(self) -> None:
        """With --json there is one document, of all pages."""
        ran = await self.rpc("list-domains", "--json")
        self.assertEqual([it["name"] for it in ran.document["domains"]], [f"vm{n}" for n in range(7)])

    async def test_limit(self) -> None:
        """Who asks for a page gets a page, and where to go on."""
        ran = await self.rpc("list-domains", "limit=3", "--json")
        self.assertEqual((len(ran.document["domains"]), ran.document["cursor"]), (3, "3"))

    async def test_json_pages(self) -> None:
        """Tickets come in pages, too, as one array."""
        self.assertEqual(
            (await self.rpc("list-tickets", "--json")).document["tickets"], [{"ticket": "a"}, {"ticket": "b"}]
        )

    async def test_keyword(self) -> None:
        """The first record of a trail is said by its name on the wire."""
        self.assertEqual((await self.rpc("audit", "from=5", "--json")).document["records"][0]["seq"], 5)

    async def test_by_name(self) -> None:
        """A domain goes by its name; what was opened is closed again."""
        ran = await self.rpc("start", "web", "request_id=r1")
        self.assertEqual((ran.code, ran.out.split()), (0, ["id", "1"]))
        self.assertIn(("Start", {"dom": "d-web", "flags": None, "request_id": "r1"}), self.endpoint.asked)
        self.assertEqual(self.endpoint.closed, ["h1"])

    async def test_number_as_name(self) -> None:
        """A number that is no id may still be a name; the hypervisor's refusal is told with its code."""
        ran = await self.rpc("start", "7")
        self.assertEqual(ran.code, 1)
        self.assertIn("Domain not found", ran.err)
        self.assertIn("code 42", ran.err)

    async def test_file(self) -> None:
        """``@FILE`` is sent as it is."""
        (self.directory / "xml").write_text("x" * 100_000)
        ran = await self.rpc("define", f"@{self.directory / 'xml'}", "--json")
        self.assertEqual(ran.document["name"], "100000")
        ran = await self.rpc("define", "@/nonexistent")
        self.assertEqual(
            (ran.code, ran.err), (1, "gatewayctl: /nonexistent cannot be read: No such file or directory\n")
        )

    async def test_targets(self) -> None:
        """Several targets want one to be said; one that is not there names the others."""
        self.endpoint.names = ["lab", "far"]
        ran = await self.rpc("get-node-info")
        self.assertEqual(ran.code, 1)
        self.assertIn("there are: lab, far", ran.err)
        ran = await self.rpc("-t", "moon", "get-node-info")
        self.assertIn("no target 'moon'; there are: lab, far", ran.err)
        for more in ({"environ": {"GATEWAY_TARGET": "lab"}}, {}):
            arguments = ("get-node-info",) if more else ("--target", "lab", "get-node-info")
            self.assertIn("1.0 GiB", (await self.rpc(*arguments, **more)).out)

    async def test_handle_ended(self) -> None:
        """A handle that has ended is opened again, once."""
        self.endpoint.gone = 1
        self.assertEqual((await self.rpc("get-node-info")).code, 0)
        self.endpoint.gone = 2
        self.assertIn("open the target again", (await self.rpc("get-node-info")).err)

    async def test_usage(self) -> None:
        """What makes no sense never reaches the gateway."""
        for arguments in (("bread",), ("-e", "x", "targets")):
            self.assertEqual((await self.rpc(*arguments)).code, 2)
        self.assertEqual(
            (await self.rpc("start")).err,
            "gatewayctl: dom is missing: start DOM [flags=NAMES] [request_id=TEXT]\n",
        )
        self.assertEqual(self.endpoint.asked, [])

    async def test_help(self) -> None:
        """Help needs no gateway."""
        await self.endpoint.stop()
        self.assertIn("list-domains", (await self.rpc("help")).out)
        self.assertIn("Flags: graceful", (await self.rpc("help", "destroy")).out)
        self.assertEqual((await self.rpc("help", "bread")).code, 1)

    async def test_watch(self) -> None:
        """Events are printed as they happen, as many as were asked for."""
        happening = Deferred.fromCoroutine(self.happen("lifecycle", "reboot", "rtc"))
        ran = await self.rpc("watch", "count=2", "--json")
        await happening
        self.assertEqual(ran.code, 0)
        kinds = [json.loads(line)["kind"] for line in ran.out.splitlines()]
        self.assertEqual(kinds, ["lifecycle", "reboot"])
        self.assertEqual((await self.rpc("watch", "count=few")).code, 1)


class Entering(RpcCase):
    async def test_own_ticket(self) -> None:
        """Without a token there is a ticket for everything, and none at the end."""
        self.fake.reply("GET /status", Reply({"public_url": "https://elsewhere.invalid", "listeners": []}))

        def adopt(asked: Any) -> None:
            if asked.method == "PUT":
                self.endpoint.token = asked.body["uuid"]
                for method, reply in (("PUT", Reply({})), ("DELETE", Reply(status=204))):
                    self.fake.reply(f"{method} {asked.path}", reply)

        self.fake.before = adopt
        for arguments, code in ((("list-domains",), 0), (("start", "nothing"), 1)):
            self.fake.asked.clear()
            ran = await self.rpc(*arguments, ours=True)
            self.assertEqual(ran.code, code, ran.err)
            self.assertEqual([it.method for it in self.fake.asked], ["GET", "PUT", "DELETE"])
            (ticket,) = [it.body for it in self.fake.asked if it.method == "PUT"]
            self.assertEqual(
                (ticket["kind"], ticket["ops"], ticket["targets"]), ("rpc", ["call", "admin"], ["*"])
            )
            self.assertNotIn(ticket["uuid"], ran.out + ran.err)

    async def test_what_the_gateway_says(self) -> None:
        """Where nobody says so, the gateway tells where its endpoint is, and who vouches for it."""
        listener = {"service": "rpc", "listen": f"tcp:{self.endpoint.number}:interface=127.0.0.1"}
        status = {"public_url": "https://127.0.0.1:1", "listeners": [listener], "ca": str(self.ca)}
        self.fake.reply("GET /status", Reply(status))

        def adopt(asked: Any) -> None:
            if asked.method == "PUT":
                self.endpoint.token = asked.body["uuid"]
                self.fake.reply(f"PUT {asked.path}", Reply({}))

        self.fake.before = adopt
        ran = await self.run_it("rpc", "list-domains")
        self.assertEqual(ran.code, 0, ran.err)

    async def test_no_control(self) -> None:
        """Without a control listener it says what else there is."""
        ran = await self.rpc("targets", ours=True, environ={"GATEWAY_CONTROL": "/nonexistent"})
        self.assertEqual(ran.code, 1)
        self.assertIn("--token-file", ran.err)

    async def test_refused(self) -> None:
        """A bad token, a wrong authority, a wrong name, a port that is closed: each says what it is."""
        self.token.write_text("bad")
        self.assertIn("Log in first", (await self.rpc("targets")).err)
        dev_pki.authority(NOW, "another").write(self.directory, "other")
        ran = await self.rpc("--ca", str(self.directory / "other.pem"), "targets")
        self.assertIn("cannot prove itself", ran.err)
        ran = await self.rpc("--connect", f"localhost.localdomain:{self.endpoint.number}", "targets")
        self.assertEqual(ran.code, 1)
        ran = await self.rpc("--connect", "127.0.0.1:1", "targets")
        self.assertIn("no gateway answers at 127.0.0.1:1", ran.err)
        ran = await self.rpc("--ca", "/nonexistent", "targets")
        self.assertIn("/nonexistent: No such file", ran.err)


class Piping(RpcCase):
    async def test_script(self) -> None:
        """Lines of a pipe are done one after the other; quit ends it, and so does the end."""
        for rest in ("", "quit\nbread\n"):
            ran = await self.rpc(stdin=f"# a comment\n\nget-node-info\nstart 'web'\n{rest}")
            self.assertEqual((ran.code, ran.err), (0, ""))
            self.assertIn("x86_64", ran.out)

    async def test_mistake(self) -> None:
        """A script ends where it goes wrong, and says where."""
        for line, text in (("bread", "no command"), ("start nothing", "code 42"), ("start 'x", "quotation")):
            ran = await self.rpc(stdin=f"get-node-info\n{line}\nstart web\n")
            self.assertEqual(ran.code, 1)
            self.assertTrue(ran.err.startswith("gatewayctl: line 2: "), ran.err)
            self.assertIn(text, ran.err)
        self.assertNotIn("Start", [name for name, _ in self.endpoint.asked])

    async def test_documents(self) -> None:
        """With --json each line is answered by one document."""
        ran = await self.rpc("--json", stdin="get-node-info\nlist-domains\n")
        decoder, text, found = json.JSONDecoder(), ran.out, []
        while text.strip():
            document, at = decoder.raw_decode(text.lstrip())
            text = text.lstrip()[at:]
            found.append(document)
        self.assertEqual([sorted(it)[0] for it in found], ["cores", "cursor"])

    async def test_lost(self) -> None:
        """A gateway that is lost during a script is found again, and what was watched goes on."""

        async def lost() -> None:
            while not self.endpoint.subs:
                await deferLater(self.reactor, 0.01)
            self.endpoint.cut()
            while self.endpoint.logins < 2:
                await deferLater(self.reactor, 0.01)
            await self.happen("lifecycle")

        losing = Deferred.fromCoroutine(lost())
        ran = await self.rpc("--json", stdin="watch count=1\nget-node-info\n")
        await losing
        self.assertEqual((ran.code, self.endpoint.logins), (0, 2))
