"""Somebody else's idea of RFC 6455, case by case."""

from __future__ import annotations

import shutil

from twisted.trial.unittest import SynchronousTestCase

from tests.functional import conformance
from tests.functional.case import PYTEST_ONLY
from tests.functional.processes import short_directory

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)


class ConformanceTests(SynchronousTestCase):
    """All cases but those of compression, and of size; ``make conformance`` has the latter."""

    def check(self, way: str) -> None:
        directory = short_directory()
        self.addCleanup(shutil.rmtree, directory, ignore_errors=True)
        cases = conformance.run(way, directory, [*conformance.COMPRESSION, conformance.LIMITS])
        self.assertGreater(len(cases), 240)
        self.assertEqual({name: it for name, it in cases.items() if it not in conformance.GOOD}, {})

    def test_fast(self) -> None:
        """Our own framing keeps the standard."""
        self.check("fast")

    def test_stock(self) -> None:
        """So does the class with autobahn's, with what it changes."""
        self.check("stock")
