"""The cases of the Autobahn test suite against our websockets, by somebody else's runner.

Cases 12 and 13 are about compression, which is declined. As a program it runs all others, and exits with
1 when one fails; the report is left in the directory that is named.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.functional.commands import need
from tests.functional.processes import HOST, Peer, free_port

ROOT = Path(__file__).parents[2]
COMPRESSION = ("12.*", "13.*")
#: Limits and performance, which take longer than all others.
LIMITS = "9.*"
#: What is no failure: NON-STRICT is a choice the standard leaves, INFORMATIONAL expects nothing.
GOOD = {"OK", "NON-STRICT", "INFORMATIONAL"}
WAYS = ("fast", "stock")
#: How often.
AGAIN = 3


class Server(Peer):
    """Gives messages back."""

    name = "websocket_echo"

    def __init__(self, directory: Path, way: str) -> None:
        super().__init__(directory)
        self.port = free_port()
        command = [sys.executable, "-m", "tests.functional.websocket_echo", way, str(self.port)]
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self.spawn(command, self.listens, env={**os.environ, "PYTHONPATH": path})

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self.port)) == 0


def run(way: str, directory: Path, exclude: Sequence[str]) -> dict[str, str]:
    """Run the cases; return how the server behaved in each, its goodbye included.

    The runner waits for a second only: what is not good is asked again, alone, and keeps to its answer unless
    it was late.

    :param way: of :data:`WAYS`, to frame.
    """
    found = _run(way, directory, "-p", "8", *(word for case in exclude for word in ("-x", case)))
    for number in range(AGAIN):
        if bad := [name for name, it in found.items() if it not in GOOD]:
            again = directory / f"again-{number}"
            found |= _run(way, again, *(word for case in bad for word in ("-i", case)))
    return found


def _run(way: str, directory: Path, *chosen: str) -> dict[str, str]:
    program = need("kosoku", "pip install kosoku")
    directory.mkdir(parents=True, exist_ok=True)
    server = Server(directory, way)
    report = directory / "report"
    try:
        command = [program, "-m", "fuzzingclient", *chosen, "-o", str(report)]
        done = subprocess.run(
            [*command, f"{HOST}:{server.port}"], capture_output=True, timeout=300, check=False
        )
    finally:
        server.stop()
    index = report / "index.json"
    if not index.exists():
        raise AssertionError(
            f"kosoku exited with {done.returncode}\n{done.stderr.decode('utf-8', 'replace')}"
        )
    (cases,) = json.loads(index.read_text()).values()
    return {name: it["behavior"] for name, it in cases.items()}


def main(directory: Path) -> int:
    """Run all cases both ways; return how many failed."""
    failed = 0
    for way in WAYS:
        cases = run(way, directory / way, COMPRESSION)
        bad = {name: behavior for name, behavior in cases.items() if behavior not in GOOD}
        sys.stdout.write(f"{way}: {len(cases)} cases, {len(bad)} failed {bad or ''}\n")
        failed += len(bad)
    return failed


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()) > 0)
