"""Tests for gateway.core.heap."""

from __future__ import annotations

import os
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

#: As two reads of a stream make a message: how many page faults that costs.
_PROGRAM = """
import resource, sys
from gateway.core import heap
if sys.argv[1] == "keep":
    heap.keep()

def message():
    held = bytearray()
    for _ in range(2):
        held += bytes(131072)
    return bytes(held) + b"."

for _ in range(20):
    message()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    message()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


class HeapTests(SynchronousTestCase):
    """What it is for."""

    def faults(self, word: str, **more: str) -> int:
        """Page faults of a hundred messages in a process of their own."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC")}
        command = [sys.executable, "-c", _PROGRAM, word]
        done = subprocess.run(
            command, env=environ | more, cwd=os.path.dirname(os.path.dirname(os.path.dirname(__file__))),
            capture_output=True, check=True, timeout=60,
        )  # fmt: skip
        return int(done.stdout)

    def test_faults(self) -> None:
        """Blocks that come and go cost page faults no more."""
        self.assertLess(self.faults("keep"), 500)

    def test_operator(self) -> None:
        """Whoever has set up the allocator by its variables is not overruled."""
        self.assertGreater(
            self.faults("keep", MALLOC_TRIM_THRESHOLD_="1", MALLOC_MMAP_THRESHOLD_="65536"), 5000
        )
