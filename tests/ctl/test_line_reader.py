from __future__ import annotations

import json
import os
import select
import shutil
import signal
import stat
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from gateway.ctl import line_reader
from tests.ctl.terminal import DEADLINE, Terminal


class LineReaderTests(SynchronousTestCase):
    """The program in a terminal, and we are the shell."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)
        self.history = self.directory / "state" / "gatewayctl" / "history"

    def start(self) -> Terminal:
        theirs, ours = os.pipe()
        self.orders = os.fdopen(ours, "w")
        answers, there = os.pipe()
        self.answers = os.fdopen(answers)
        command = [sys.executable, "-I", line_reader.__file__, str(self.history)]
        terminal = Terminal(command, {}, more={3: theirs, 4: there})
        self.addCleanup(terminal.close)
        for each in (self.orders, self.answers):
            self.addCleanup(each.close)
        os.close(theirs)
        os.close(there)
        return terminal

    def tell(self, **order: Any) -> None:
        self.orders.write(json.dumps(order) + "\n")
        self.orders.flush()

    def told(self) -> Any:
        self.assertTrue(select.select([self.answers], [], [], DEADLINE)[0], "it says nothing")
        return json.loads(self.answers.readline())

    def test_lines(self) -> None:
        """Lines are read with a prompt, and Ctrl-D is the end."""
        terminal = self.start()
        self.tell(prompt="lab> ")
        terminal.until("lab> ")
        terminal.type("list ü\n")
        self.assertEqual(self.told(), {"line": "list ü"})
        self.tell(prompt="lab> ")
        terminal.until("lab> ")
        terminal.type("\x04")
        self.assertEqual(self.told(), {"end": True})
        self.orders.close()
        self.assertEqual(terminal.process.wait(DEADLINE), 0)

    def test_interrupt(self) -> None:
        """Ctrl-C forgets the line, and between two lines it is somebody else's."""
        terminal = self.start()
        self.tell(prompt="lab> ")
        terminal.until("lab> ")
        terminal.type("garbage")
        terminal.until("garbage")
        terminal.type("\x03")
        self.assertEqual(self.told(), {"line": ""})
        terminal.type("\x03")
        terminal.until("^C")
        self.tell(prompt="far> ")
        terminal.until("far> ")
        terminal.type("good\n")
        self.assertEqual(self.told(), {"line": "good"})

    def test_complete(self) -> None:
        """Tab asks what the last word may become, also one with a blank in it."""
        terminal = self.start()
        self.tell(prompt="> ")
        terminal.until("> ")
        terminal.type("start my\\ v\t")
        self.assertEqual(self.told(), {"complete": "start my\\ v"})
        self.tell(found=["my\\ vm "], at=6)
        terminal.until("vm ")
        terminal.type("\n")
        self.assertEqual(self.told(), {"line": "start my\\ vm "})

    def test_history(self) -> None:
        """What is kept comes back in the next shell; nobody else may read it."""
        terminal = self.start()
        self.tell(keep="start web")
        self.tell(prompt="> ")
        terminal.until("> ")
        terminal.type("\x1b[A\n")
        self.assertEqual(self.told(), {"line": "start web"})
        self.assertEqual(stat.S_IMODE(self.history.stat().st_mode), 0o600)
        self.history.chmod(0o644)
        self.tell(keep="stop")
        self.orders.close()
        terminal.process.wait(DEADLINE)
        self.assertEqual(self.history.read_text(), "start web\nstop\n")
        self.assertEqual(stat.S_IMODE(self.history.stat().st_mode), 0o600)
        terminal = self.start()
        self.tell(prompt="> ")
        terminal.until("> ")
        terminal.type("\x1b[A\x1b[A\n")
        self.assertEqual(self.told(), {"line": "start web"})

    def test_history_is_bounded(self) -> None:
        """A history that has grown long is cut; a symbolic link is none."""
        self.history.parent.mkdir(parents=True)
        self.history.write_text("".join(f"line {n}\n" for n in range(2500)))
        terminal = self.start()
        self.tell(prompt="> ")
        terminal.until("> ")
        self.assertEqual(self.history.read_text().splitlines(), [f"line {n}" for n in range(1500, 2500)])
        other = self.directory / "other"
        other.write_text("mine\n")
        self.history.unlink()
        self.history.symlink_to(other)
        terminal.type("\n")
        self.told()
        self.tell(keep="stop")
        self.orders.close()
        terminal.process.wait(DEADLINE)
        self.assertEqual(other.read_text(), "mine\n")

    def test_terminated(self) -> None:
        """Whoever is told to end while it reads leaves the terminal in order."""
        terminal = self.start()
        self.tell(prompt="> ")
        terminal.until("> ")
        self.assertFalse(terminal.restored)
        while terminal.process.poll() is None:
            terminal.process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
        self.assertEqual(terminal.process.returncode, 0)
        self.assertTrue(terminal.restored)
