from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.utils import getProcessOutputAndValue

from gateway import __version__
from gateway.ctl.completion import walk
from gateway.ctl.tree import Gatewayctl
from tests.ctl.fake_control import ControlTestCase, Reply

COMMANDS = [path.split()[1:] for path, _ in walk(Gatewayctl)]


class Help(ControlTestCase):
    async def test_every_level(self) -> None:
        """Every command has a help that names all its options, members, and an example that is right."""
        for (path, command), words in zip(walk(Gatewayctl), COMMANDS, strict=True):
            ran = await self.run_it(*words, "--help")
            self.assertEqual((ran.code, ran.err), (0, ""), path)
            self.assertTrue(ran.out.startswith(f"Usage: {path}"), ran.out)
            for option in command.options():
                self.assertIn(f"--{option.name}", ran.out)
            for name, *_ in command.commands():
                self.assertIn(name, ran.out)
            self.assertIn("\nExample:\n  gatewayctl ", ran.out)
            self.assertNotRegex(ran.out, r"\[default:[^]]*\]\s+\[default:", path)

    async def test_groups(self) -> None:
        """A group of commands alone, and one that is not there, are mistakes with a hint."""
        for arguments in ((), ("ticket",), ("bread",), ("ticket", "bread"), ("status", "--bread")):
            ran = await self.run_it(*arguments)
            self.assertEqual((ran.code, ran.out, ran.err.count("\n")), (2, "", 1))
            self.assertIn("--help", ran.err)

    async def test_version(self) -> None:
        """The version is ours."""
        self.assertEqual((await self.run_it("--version")).out, f"gatewayctl {__version__}\n")

    async def test_options_anywhere(self) -> None:
        """Options common to all may stand at any level, and behind arguments."""
        self.fake.reply("DELETE /tickets/a", Reply(status=204))
        for arguments in (
            ("--json", "ticket", "revoke", "a"),
            ("ticket", "--json", "revoke", "a"),
            ("ticket", "revoke", "a", "--json"),
        ):
            ran = await self.run_it(*arguments)
            self.assertEqual(ran.document, {"revoked": ["a"], "failed": {}})


class _Ended(ProcessProtocol):
    """Tells when something is printed, and when all is over."""

    def __init__(self) -> None:
        self.printed: Deferred[None] = Deferred()
        self.ended: Deferred[int | None] = Deferred()

    def outReceived(self, data: bytes) -> None:
        if not self.printed.called:
            self.printed.callback(None)

    def processEnded(self, reason: Any) -> None:
        self.ended.callback(reason.value.exitCode)


class Process(ControlTestCase):
    async def spawn(self, *arguments: str) -> tuple[int, str, str]:
        """Run ``gatewayctl`` as users do."""
        out, err, code = await getProcessOutputAndValue(
            sys.executable, ["-m", "gateway.ctl", *arguments], {**os.environ, "GATEWAY_CONTROL": self.path}
        )
        return code, out.decode(), err.decode()

    async def test_statuses(self) -> None:
        """A process exits with 0, 1 or 2, and prints nothing but what it should."""
        self.fake.reply("GET /status", Reply({"version": "9"}))
        self.assertEqual(await self.spawn("status", "-j"), (0, '{\n  "version": "9"\n}\n', ""))
        code, out, err = await self.spawn("reload")
        self.assertEqual((code, out), (1, ""))
        self.assertTrue(err.startswith("gatewayctl: Not found\n"))
        code, out, err = await self.spawn("tickets")
        self.assertEqual((code, out, err.count("\n")), (2, "", 1))

    async def test_interrupted(self) -> None:
        """Ctrl-C ends a watch without a traceback, with the status a shell knows."""
        self.fake.reply("GET /sessions/", Reply({"sessions": []}))
        protocol = _Ended()
        environment = {**os.environ, "GATEWAY_CONTROL": self.path}
        process = self.reactor.spawnProcess(
            protocol,
            sys.executable,
            [sys.executable, "-m", "gateway.ctl", "session", "watch"],
            environment,
            childFDs={1: "r", 2: "r"},
        )
        await protocol.printed
        process.signalProcess("INT")
        self.assertEqual(await protocol.ended, 128 + signal.SIGINT)

    def test_closed_pipe(self) -> None:
        """Whoever stops reading gets no traceback."""
        ran = subprocess.run(
            ["bash", "-c", f"{sys.executable} -m gateway.ctl completion bash | true"],
            capture_output=True,
            check=False,
        )
        self.assertEqual(ran.stderr, b"")
