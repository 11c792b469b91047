"""The table of threats in ``tests/README.md`` names tests that exist, and every threat has some."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

TESTS = Path(__file__).resolve().parent
_ROW = re.compile(r"\| \*\*(?P<threat>[^*|]+)\*\* \| (?P<what>[^|]+) \| (?P<tests>[^|]+) \|")
_NAME = re.compile(r"`([\w.]+)\.(\w+)\.(\w+)`")
#: How many there are of each group.
GROUPS = {
    "wire": 10,
    "ticket": 14,
    "http": 13,
    "relay": 10,
    "console": 10,
    "hole": 10,
    "envelope": 10,
    "tunnel": 6,
    "rpc": 10,
}


def rows() -> dict[str, list[tuple[str, str, str]]]:
    """The threats, and the module, class and method of each test that holds one."""
    text = (TESTS / "README.md").read_text("utf-8")
    return {row["threat"]: _NAME.findall(row["tests"]) for row in _ROW.finditer(text)}


@cache
def class_statements(module: str) -> dict[str, ast.ClassDef]:
    """The classes of a module, by their names; none when there is no such module."""
    path = TESTS.joinpath(*module.split(".")).with_suffix(".py")
    if not path.exists():
        return {}
    return {it.name: it for it in ast.parse(path.read_text("utf-8")).body if isinstance(it, ast.ClassDef)}


@cache
def methods(module: str, class_name: str) -> frozenset[str]:
    """The names of the tests of a class, those of its bases in the same module included."""
    classes = class_statements(module)
    found: set[str] = set()
    wanted = [class_name]
    while wanted:
        node = classes.get(wanted.pop())
        if node is not None:
            found |= {it.name for it in node.body if isinstance(it, ast.FunctionDef | ast.AsyncFunctionDef)}
            wanted += [base.id for base in node.bases if isinstance(base, ast.Name)]
    return frozenset(found)


class ThreatsTests(SynchronousTestCase):
    """A defence whose test was renamed or removed is noticed."""

    def test_tests_exist(self) -> None:
        """Every test that is named exists, and every threat names at least one."""
        for threat, tests in rows().items():
            self.assertNotEqual(tests, [], f"nothing holds: {threat}")
            for module, class_name, method in tests:
                self.assertIn(method, methods(module, class_name), f"{threat}: {module}.{class_name}")

    def test_complete(self) -> None:
        """No row has left the table."""
        counts = dict.fromkeys(GROUPS, 0)
        for threat in rows():
            counts[threat.partition(" ")[0]] += 1
        self.assertEqual(counts, GROUPS)
