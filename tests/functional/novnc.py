"""noVNC as its users get it, from npm by the lock file in ``node/``, and a page that shows one console."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from tests.functional.commands import need

_LOCKED = Path(__file__).parent / "node"
#: Installed once for all runs.
_INSTALLED = Path(__file__).parents[2] / "var" / "node"
_PAGE = """\
<!doctype html><title>console</title><style>body { margin: 0 }</style>
<div id="screen"></div><p id="state">new</p>
<script type="module">
import RFB from "./novnc/core/rfb.js";
const state = document.getElementById("state");
const socket = new WebSocket(URL_HERE, PROTOCOLS_HERE);
socket.addEventListener("close", (event) => { state.textContent = `${event.code} ${event.reason}`; });
const rfb = window.rfb = new RFB(document.getElementById("screen"), socket);
rfb.addEventListener("connect", () => { state.textContent = "connected"; });
rfb.addEventListener("credentialsrequired", () => { state.textContent = "asked"; });
</script>
"""


def install() -> Path:
    """See to it that noVNC is installed; return its directory."""
    found = _INSTALLED / "node_modules" / "@novnc" / "novnc"
    if not (found / "package.json").exists():
        _INSTALLED.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(_LOCKED / name, _INSTALLED)
        command = [need("npm", "apt install npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(command, cwd=_INSTALLED, check=True, capture_output=True, timeout=120)
    return found


def write_page(directory: Path, name: str, url: str, protocols: list[str]) -> None:
    """Write a page into *directory* that opens the console at *url*."""
    link = directory / "novnc"
    if not link.exists():
        link.symlink_to(install())
    page = _PAGE.replace("URL_HERE", json.dumps(url)).replace("PROTOCOLS_HERE", json.dumps(protocols))
    (directory / name).write_text(page)
