"""The viewers that the console page is made of: which files of their npm packages are served, and where.

``npm ci`` puts the packages beside this module by the lock file in ``npm/``; they are in no repository. Only
what matches here is ever read. Without them the gateway works, and the console page says what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from attrs import frozen


@frozen
class Viewer:
    """Files of one package.

    :ivar name: the directory below ``/ui/``.
    :ivar package: its name in the registry of npm.
    :ivar patterns: of the files that are served, below the directory of the package.
    """

    name: str
    package: str
    patterns: tuple[str, ...]


VIEWERS = (
    Viewer("novnc", "@novnc/novnc", ("core/**/*.js", "vendor/pako/lib/**/*.js")),
    Viewer("spice", "@spice-project/spice-html5", ("src/*.js", "src/thirdparty/*.js")),
    Viewer("xterm", "@xterm/xterm", ("lib/xterm.mjs", "css/xterm.css")),
    Viewer("xterm-fit", "@xterm/addon-fit", ("lib/addon-fit.mjs",)),
)


def installed() -> Iterator[tuple[str, Path]]:
    """Path below ``/ui/`` and place of every file of a viewer; of those that are missing nothing."""
    packages = Path(str(files("gateway.web"))) / "npm" / "node_modules"
    for viewer in VIEWERS:
        root = packages / viewer.package
        for pattern in viewer.patterns:
            for file in sorted(root.glob(pattern)):
                if file.is_file():
                    yield f"{viewer.name}/{file.relative_to(root).as_posix()}", file
