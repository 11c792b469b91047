"""A gateway that cannot start says why in one line."""

from __future__ import annotations

import shutil
import subprocess

from twisted.trial.unittest import SynchronousTestCase

from tests.functional.case import PYTEST_ONLY
from tests.functional.commands import need
from tests.functional.peers import Gateway, Sections
from tests.functional.processes import DEADLINE, short_directory

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)


class StartTests(SynchronousTestCase):
    """What even root cannot write, and what no check can know before."""

    def refused(self, sections: Sections) -> str:
        """Try to start with *sections*; return what is said last."""
        home = short_directory()
        self.addCleanup(shutil.rmtree, home, ignore_errors=True)
        gateway = Gateway(home, sections)
        command = [need("twistd", "pip install -e ."), "--nodaemon", "--pidfile=", "gateway", "--config"]
        done = subprocess.run(
            [*command, str(gateway.config_file)], cwd=home, capture_output=True, timeout=DEADLINE, check=False
        )
        said = (done.stdout + done.stderr).decode("utf-8")
        self.assertNotEqual(done.returncode, 0)
        self.assertNotIn("Traceback", said)
        return said.splitlines()[-1]

    def test_directory(self) -> None:
        """A directory that cannot be made is named."""
        said = self.refused({"gateway": {"state_dir": "/proc/none/state"}})
        self.assertIn("cannot make /proc/none/state: No such file or directory", said)

    def test_audit(self) -> None:
        """A trail that cannot be written is no reason to go without one."""
        said = self.refused({"log": {"audit": "/proc/audit.log"}})
        self.assertIn("/proc/audit.log cannot be written", said)
