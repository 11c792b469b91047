"""Programs whose standard input and output are a connection."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from gateway.errors import UpstreamFailed
from gateway.rpc.helper_process import HelperEnded, environment_of, start_helper
from tests.functional.processes import short_directory
from tests.support import ReactorTestCase

PATH = {"PATH": os.environ["PATH"]}


class Ear(Protocol):
    """Remembers what it hears."""

    def __init__(self) -> None:
        self.heard = b""
        self.lost: Deferred[list[Failure]] = Deferred()
        self.running = True

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback([reason])

    # As a producer.

    def pauseProducing(self) -> None:
        self.running = False

    def resumeProducing(self) -> None:
        self.running = True

    def stopProducing(self) -> None:
        self.running = False


class HelperTest(ReactorTestCase):
    """A program lives as long as its connection, and no longer."""

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.directory = short_directory()
        self.addCleanup(shutil.rmtree, self.directory)

    def script(self, text: str) -> str:
        path = self.directory / "hop"
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)
        return str(path)

    def start(self, text: str, patience: float = 10.0, environment: dict[str, str] | None = None) -> Any:
        ear = Ear()
        start_helper(
            self.reactor,
            [self.script(text)],
            ear,
            environment=PATH if environment is None else environment,
            patience=patience,
        )
        return ear

    async def gone(self, *pids: int) -> None:
        """They have ended, and somebody has waited for those that are ours."""
        await self.until(lambda: not any(Path(f"/proc/{pid}").exists() and not orphan(pid) for pid in pids))
        # The timer that waits for them has gone, too.
        await self.until(lambda: not any("_Helper" in repr(it.func) for it in self.reactor.getDelayedCalls()))

    async def close(self, ear: Any) -> None:
        ear.transport.loseConnection()
        (reason,) = await ear.lost
        self.assertIs(reason.type, error.ConnectionDone)

    async def test_speaks(self) -> None:
        """Bytes go both ways, and the program ends with the connection."""
        ear = self.start("echo $$\nexec cat\n")
        await self.until(lambda: ear.heard.endswith(b"\n"))
        pid = int(ear.heard)
        ear.transport.write(b"x" * 100_000)
        await self.until(lambda: ear.heard.endswith(b"x" * 100_000))
        await self.close(ear)
        await self.gone(pid)

    async def test_alone(self) -> None:
        """It gets no arguments, no descriptor of ours, a session of its own and only its environment."""
        leak, other = os.pipe()
        self.addCleanup(os.close, leak)
        self.addCleanup(os.close, other)
        os.set_inheritable(other, True)
        ear = self.start(
            f"echo $# args; ls -l /proc/$$/fd > {self.directory}/fds\n"
            "cut -d' ' -f1,5,6 /proc/$$/stat; env; echo over; cat",
            environment=environment_of(
                {**PATH, "HOME": "/h", "SSH_ASKPASS": "/a", "TOKEN": "t", "LC_ALL": "x"}
            ),
        )
        await self.until(lambda: b"over" in ear.heard)
        lines = ear.heard.decode().splitlines()
        self.assertEqual(lines[0], "0 args")
        files = (self.directory / "fds").read_text()
        self.assertIn("socket:", files)
        self.assertNotIn(os.readlink(f"/proc/self/fd/{other}"), files)
        self.assertEqual(len(set(lines[1].split())), 1, lines[1])
        names = {line.partition("=")[0] for line in lines[2:-1]}
        self.assertEqual(names - {"PWD", "OLDPWD", "SHLVL", "_"}, {"PATH", "HOME", "LC_ALL"})
        self.assertIn("LC_ALL=C", lines)
        await self.close(ear)
        await self.gone()

    async def test_group(self) -> None:
        """What it has started ends with it, even what ignores signals."""
        ear = self.start("trap '' TERM HUP\n(sleep 60 & echo $! $$; wait) & \nsleep 60\n")
        await self.until(lambda: ear.heard.endswith(b"\n"))
        pids = list(map(int, ear.heard.split()))
        await self.close(ear)
        await self.gone(*pids)

    async def test_dies(self) -> None:
        """The reason holds the last lines of its complaints, fit for a log: short, printable, no secrets."""
        ear = self.start(
            "echo $$; yes noise | head -c 30000 >&2; printf 'no\\033[2J way\\npassword=hunter2\\n' >&2"
        )
        (reason,) = await ear.lost
        self.assertIs(reason.type, HelperEnded)
        self.assertTrue(reason.check(error.ConnectionLost))
        text = str(reason.value)
        self.assertIn("hop has ended: noise; noise; no", text)
        self.assertIn("password=***", text)
        self.assertTrue(text.isprintable())
        self.assertLess(len(text), 400)
        await self.gone(int(ear.heard))

    async def test_hangs(self) -> None:
        """One that says nothing is given up in time."""
        file = self.directory / "pid"
        ear = self.start(f"echo $$ > {file}; echo hm >&2; sleep 60", patience=2)
        (reason,) = await ear.lost
        self.assertIs(reason.type, HelperEnded)
        self.assertIn("nothing was heard of hop: hm", str(reason.value))
        await self.gone(int(file.read_text()))

    async def test_patient(self) -> None:
        """One that has spoken may be silent as long as it likes."""
        ear = self.start("echo $$; sleep 60", patience=2)
        await deferLater(self.reactor, 2.5)
        self.assertFalse(ear.lost.called)
        await self.close(ear)
        await self.gone(int(ear.heard))

    async def test_pressure(self) -> None:
        """A program that does not read makes a producer wait."""
        ear = self.start("echo $$; sleep 60")
        await self.until(lambda: ear.heard)
        ear.transport.registerProducer(ear, True)
        sent = 0
        while ear.running and sent < 64 << 20:
            ear.transport.write(b"x" * 65536)
            sent += 65536
            await deferLater(self.reactor, 0)
        self.assertLess(sent, 8 << 20)
        ear.transport.unregisterProducer()
        ear.transport.abortConnection()
        await ear.lost
        await self.gone(int(ear.heard))

    async def test_noise(self) -> None:
        """Complaints without end cost little, and do not keep the reactor busy."""
        ear = self.start("echo $$; exec yes >&2")
        await self.until(lambda: ear.heard)
        pid = int(ear.heard)
        await deferLater(self.reactor, 0.5)
        written = int(Path(f"/proc/{pid}/io").read_text().split("wchar: ")[1].split()[0])
        self.assertLess(written, 65536 + 4096 * 10)
        await self.close(ear)
        await self.gone(pid)

    async def test_cannot_start(self) -> None:
        """A program that is not there, or none, is told, and leaves no descriptor."""
        before = set(os.listdir("/proc/self/fd"))
        for path in ("/nonexistent", str(self.directory), "nul\0"):
            with self.assertRaises(UpstreamFailed) as caught:
                start_helper(self.reactor, [path], Ear(), environment=PATH, patience=1)
            self.assertEqual(caught.exception.reason, "helper")
            self.assertNotIn(path, caught.exception.text)
        self.assertEqual(set(os.listdir("/proc/self/fd")), before)


def orphan(pid: int) -> bool:
    """Whether *pid* has ended and only its new parent must take note."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return True
    return state == "Z" and int(parent) != os.getpid()
