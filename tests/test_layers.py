"""The layers of the design, and what no module may use."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from gateway.rpc import arguments
from gateway.rpc.commands import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
#: From the lowest; a layer may import itself and those below. Packages of one layer are strangers.
LAYERS = (
    {"_version"},
    {"errors"},
    {"wire"},
    {"core"},
    {"images", "control", "consoles", "rpc", "tunnel", "portal", "imagelist", "enroll", "web"},
    {"tap", "appliance"},
)
#: The command line talks to a running gateway, over the control socket and as a client of the AMP endpoint.
CTL_MAY = {"errors", "wire", "core", "ctl", "_version"}
CLIENT = {f"gateway.rpc.{name}" for name in ("client", "commands", "command", "arguments")} | {"gateway.rpc"}
BANNED_NAMES = {"optionsForClientTLS", "eval", "exec", "pickle", "marshal"}
#: What makes objects, or code, of bytes: nobody who sends some shall say what they become.
DESERIALIZERS = {"copyreg", "dill", "jsonpickle", "marshal", "pickle", "ruamel", "shelve", "xmlrpc", "yaml"}
MAKERS_OF_CODE = {"eval", "exec", "compile", "__import__"}
#: Kinds of AMP arguments that open files, or bring them.
AMP_FILES = {"Path", "Descriptor"}
BANNED_CALLS = {("time", "time"), ("os", "system")}


def _modules() -> Iterator[tuple[str, Path, ast.Module]]:
    for path in sorted((ROOT / "gateway").rglob("*.py")):
        parts = path.relative_to(ROOT / "gateway").with_suffix("").parts
        if parts != ("__init__",):
            yield parts[0], path, ast.parse(path.read_text("utf-8"))


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            if node.module == "gateway":
                yield from (f"gateway.{alias.name}" for alias in node.names)
            else:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _full(tree: ast.Module) -> Iterator[str]:
    """The modules of ours that are imported, by their whole names."""
    for name in _imports(tree):
        if name == "gateway.rpc":
            continue
        yield name
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "gateway.rpc":
            yield from (f"gateway.rpc.{alias.name}" for alias in node.names)


def _parts(tree: ast.Module) -> Iterator[str]:
    for name in _imports(tree):
        first, _, rest = name.partition(".")
        part = rest.partition(".")[0]
        if first == "gateway" and part not in ("", "__version__"):
            yield part


class LayersTest(SynchronousTestCase):
    """Imports point one way."""

    def test_direction(self) -> None:
        """No module imports from a layer above its own, nor a package beside its own."""
        level = {name: number for number, names in enumerate(LAYERS) for name in names}
        for own, path, tree in _modules():
            for other in _parts(tree):
                where = f"{path.relative_to(ROOT)} imports gateway.{other}"
                if own == "ctl" and other == "rpc":
                    self.assertLessEqual(
                        {it for it in _full(tree) if it.startswith("gateway.rpc")}, CLIENT, where
                    )
                elif own == "ctl":
                    self.assertIn(other, CTL_MAY, where)
                elif level[own] == len(LAYERS) - 1:
                    continue
                elif own != other:
                    self.assertLess(level[other], level[own], where)

    def test_wire_without_network(self) -> None:
        """``wire`` does no I/O: it knows no Twisted, no socket and no file."""
        for own, path, tree in _modules():
            if own == "wire":
                for name in _imports(tree):
                    first = name.partition(".")[0]
                    self.assertNotIn(first, {"twisted", "socket", "asyncio", "ssl", "os"}, str(path))

    def test_banned_names(self) -> None:
        """What invites mistakes of the dangerous kind is not used anywhere."""
        for _, path, tree in _modules():
            where = str(path.relative_to(ROOT))
            for node in ast.walk(tree):
                if isinstance(node, ast.Name):
                    self.assertNotIn(node.id, BANNED_NAMES, where)
                elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    called = (node.value.id, node.attr)
                    if where != "gateway/core/clock.py":
                        self.assertNotIn(called, BANNED_CALLS, where)
                elif isinstance(node, ast.keyword):
                    banned = node.arg == "shell" and getattr(node.value, "value", False) is True
                    self.assertFalse(banned, f"{where}: shell=True")
                elif isinstance(node, ast.Import | ast.ImportFrom):
                    for alias in node.names:
                        self.assertNotIn(alias.name, BANNED_NAMES, where)

    def test_no_code_from_bytes(self) -> None:
        """Nothing that arrives becomes an object of its own choice, code, or a file: JSON and XDR only."""
        for _, path, tree in _modules():
            where = str(path.relative_to(ROOT))
            imported = {name.partition(".")[0] for name in _imports(tree)}
            self.assertFalse(imported & DESERIALIZERS, where)
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    self.assertNotIn(node.func.id, MAKERS_OF_CODE, where)
                elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    if node.value.id == "amp":
                        self.assertNotIn(node.attr, AMP_FILES, where)
                elif isinstance(node, ast.ImportFrom) and node.module == "twisted.protocols.amp":
                    self.assertFalse({alias.name for alias in node.names} & (AMP_FILES | {"*"}), where)

    def test_no_files_in_commands(self) -> None:
        """Arguments of commands are of our own strict types, all the way down."""
        for command in COMMANDS.values():
            for _, it in (*command.arguments, *command.response):
                self._ours(command.__name__, it)

    def _ours(self, where: str, it: object) -> None:
        self.assertIsInstance(it, arguments.Argument, where)
        self.assertEqual(type(it).__module__, arguments.__name__, where)
        if isinstance(it, arguments.ListOf):
            self._ours(where, it.element)
        elif isinstance(it, arguments.AmpList):
            for inner in it.fields.values():
                self._ours(where, inner)

    def test_size(self) -> None:
        """A module is about one thing, which rarely takes more than 400 lines."""
        for _, path, _ in _modules():
            lines = len(path.read_text("utf-8").splitlines())
            self.assertLessEqual(lines, 420, str(path.relative_to(ROOT)))
