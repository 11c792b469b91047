from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from gateway.ctl.completion import script, walk
from gateway.ctl.tree import Gatewayctl

#: Completes what its arguments say, as bash does after Tab; the last one is the word under the cursor.
DRIVER = """
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
COMP_LINE="$*"
_gatewayctl
printf '%s\\n' "${COMPREPLY[@]}"
"""


class Bash(SynchronousTestCase):
    script = script(Gatewayctl, "bash")

    def complete(self, *words: str, cwd: str | None = None) -> set[str]:
        """What bash offers for the last of *words*."""
        ran = subprocess.run(
            ["bash", "-c", self.script + DRIVER, "bash", "gatewayctl", *words],
            capture_output=True,
            check=True,
            text=True,
            cwd=cwd,
        )
        self.assertEqual(ran.stderr, "")
        return set(ran.stdout.split("\n")) - {""}

    def test_syntax(self) -> None:
        """Bash can read the script."""
        ran = subprocess.run(["bash", "-n"], input=self.script.encode(), capture_output=True, check=False)
        self.assertEqual((ran.returncode, ran.stderr), (0, b""))

    def test_commands(self) -> None:
        """Commands are offered at every level, also behind options with values."""
        self.assertIn("ticket", self.complete("t"))
        self.assertNotIn("status", self.complete("t"))
        self.assertEqual(self.complete("ticket", ""), {"add", "show", "list", "renew", "revoke"})
        self.assertEqual(
            self.complete("--json", "--control", "ticket", "link", ""),
            {"upload", "download", "console", "viewer", "recording"},
        )
        self.assertEqual(self.complete("--control", "=", "x", "link", "u"), {"upload"})
        self.assertEqual(self.complete("completion", ""), {"bash", "zsh"})

    def test_every_option(self) -> None:
        """Every option of every command is offered, and no other."""
        for path, command in walk(Gatewayctl):
            found = self.complete(*path.split()[1:], "--")
            self.assertEqual(found, {f"--{option.name}" for option in command.options()}, path)

    def test_values(self) -> None:
        """The words an option knows are offered as its value, in both spellings."""
        self.assertEqual(self.complete("ticket", "list", "--kind", "c"), {"console"})
        self.assertEqual(self.complete("ticket", "list", "--kind", "=", "im"), {"image"})
        self.assertIn("tunnel", self.complete("ticket", "list", "--kind", "="))
        self.assertEqual(self.complete("token", "issue", "-g", ""), {"A", "B", "C"})
        self.assertEqual(self.complete("ticket", "add", "--principal", ""), set())

    def test_files(self) -> None:
        """Names of files are offered whole, whatever is in them."""
        directory = tempfile.mkdtemp()
        self.addCleanup(Path(directory).rmdir)
        file = Path(directory, "my $(touch owned) disk.img")
        file.touch()
        self.addCleanup(file.unlink)
        for words in (("link", "download", "my"), ("token", "issue", "--key", "my"), ("-c", "my")):
            self.assertEqual(self.complete(*words, cwd=directory), {file.name})


class Zsh(SynchronousTestCase):
    def test_every_option(self) -> None:
        """There is a function for each command, with each of its options and members."""
        text = script(Gatewayctl, "zsh")
        self.assertTrue(text.startswith("#compdef gatewayctl\n"))
        for path, command in walk(Gatewayctl):
            name = "_" + path.replace(" ", "_")
            body = text.partition(f"\n{name}() {{\n")[2].partition("\n}")[0]
            for option in command.options():
                for spelling in option.spellings:
                    self.assertIn(f"){spelling}", body)
            for member, *_ in command.commands():
                self.assertIn(f"{member}) {name}_{member} ;;", body)

    def test_quotes(self) -> None:
        """All quotes are closed: to a POSIX shell the script has the same words."""
        import shlex

        self.assertTrue(shlex.split(script(Gatewayctl, "zsh").replace("#compdef", ""), comments=True))
