"""A screen in memory for programs with windows, and remote-viewer on it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.functional.commands import need, run
from tests.functional.hypervisor import Screen
from tests.functional.processes import DEADLINE, Peer, wait_for


class Desktop(Peer):
    """An X server without a window manager.

    :ivar display: what programs are told.
    """

    name = "xvfb"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.display = ""

    def start(self) -> None:
        program = need("Xvfb", "apt install xvfb")
        command = [program, "-displayfd", "2", "-screen", "0", "1024x768x24", "-nolisten", "tcp"]
        self.spawn(command, lambda: self._number().isdigit())
        self.display = f":{self._number()}"

    def _number(self) -> str:
        # Complaints may stand before and after it.
        return next((line for line in map(str.strip, self.log().splitlines()) if line.isdigit()), "")

    def environment(self) -> dict[str, str]:
        """For programs that show something; they keep nothing, and have no session bus."""
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG")}
        own = {"HOME": str(self.directory), "GSETTINGS_BACKEND": "memory", "NO_AT_BRIDGE": "1"}
        return {**kept, **own, "DISPLAY": self.display, "G_ENABLE_DIAGNOSTIC": "0"}

    def shot(self, file: Path) -> Screen:
        """What is shown now; *file* is a PNG of it."""
        image = ["-window", "root", str(file)]
        self._run(need("import", "apt install imagemagick"), *image)
        data = run([need("convert", "apt install imagemagick"), str(file), "-depth", "8", "ppm:-"])
        _, size, _, rgb = data.split(b"\n", 3)
        width, height = map(int, size.split())
        return Screen(width, height, rgb)

    def windows(self, title: str) -> list[str]:
        """The windows with a title like this."""
        done = self._run(need("xdotool", "apt install xdotool"), "search", "--onlyvisible", "--name", title)
        return done.stdout.decode().split()

    def focus(self, window: str) -> None:
        """Have what is typed go to *window*; wait until it does."""
        program = need("xdotool", "apt install xdotool")
        self._run(program, "windowfocus", window)
        wait_for(
            lambda: self._run(program, "getwindowfocus", "-f").stdout.split() == [window.encode()],
            "the focus",
        )

    def keys(self, *words: str) -> None:
        """Type, as ``xdotool`` understands it: ``type TEXT``, ``key Tab``."""
        self._run(need("xdotool", "apt install xdotool"), *words)

    def shows(self, screen: Screen, file: Path) -> bool:
        """Whether a guest's *screen* is somewhere on this one, pixel for pixel."""
        mine = self.shot(file)
        line, wide = screen.width * 3, mine.width * 3
        lines = [screen.rgb[at : at + line] for at in range(0, len(screen.rgb), line)]
        first = next((y for y, it in enumerate(lines) if len(set(it)) > 1), 0)
        at = mine.rgb.find(lines[first])
        while at >= 0:
            begin = at - first * wide
            if begin >= 0 and all(
                mine.rgb[begin + y * wide : begin + y * wide + line] == it for y, it in enumerate(lines)
            ):
                return True
            at = mine.rgb.find(lines[first], at + 1)
        return False

    def _run(self, *command: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            command, env=self.environment(), capture_output=True, timeout=DEADLINE, check=False
        )


class Viewer(Peer):
    """remote-viewer with a file."""

    name = "viewer"

    def start(self, desktop: Desktop, file: Path, *wrapped: str) -> None:
        """Start it; *wrapped* is a command that runs it."""
        program = need("remote-viewer", "apt install virt-viewer")
        command = [*wrapped, program, "--debug", str(file)]
        self.spawn(command, lambda: "Opening" in self.log() or len(self.log()) > 200, desktop.environment())

    def opened(self) -> None:
        """Wait until it has a console."""
        wait_for(lambda: "main channel: opened" in self.log(), f"a console\n{self.log()[-3000:]}")


def console_file(file: Path, **keys: object) -> Path:
    """Write a ``.vv`` file."""
    lines = [f"{name.replace('_', '-')}={value}" for name, value in {"type": "spice", **keys}.items()]
    file.write_text("\n".join(["[virt-viewer]", *lines, ""]))
    return file
