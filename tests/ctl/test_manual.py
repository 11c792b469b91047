from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from gateway.ctl.completion import walk
from gateway.ctl.tree import Gatewayctl

MANUAL = Path(__file__).parents[2] / "docs" / "man"


def read(name: str) -> str:
    """A page without the escapes of roff."""
    return (MANUAL / name).read_text("utf-8").replace("\\-", "-")


class Manual(SynchronousTestCase):
    def test_every_command(self) -> None:
        """The manual knows every command, and each option with both its spellings."""
        text = read("gatewayctl.1")
        shared, *parts = text.split(".SS gatewayctl ")
        for path, command in walk(Gatewayctl):
            if command.commands():
                continue
            name = path.removeprefix("gatewayctl ")
            (index,) = [number for number, part in enumerate(parts) if part.startswith(name)]
            # Commands with the same options have their headings together.
            part = next(part for part in parts[index:] if part.count("\n") > 1)
            for option in command.options():
                for spelling in option.spellings:
                    self.assertIn(spelling, shared + part, path)
