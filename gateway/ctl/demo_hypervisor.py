"""A hypervisor to try out: libvirtd with its test driver, whose machines are none; all in one directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from urllib.parse import quote

#: Whom libvirtd runs as when we are root: as root it would be the host's own, and write all over it.
_NOBODY = 65534
#: Bytes of a unix socket's path, and seconds until it is there.
_LONGEST = 107
_START_TIME = 10.0
_CONFIG = """\
unix_sock_dir = "{sockets}"
auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "3:file:{home}/libvirtd.log"
"""


def socket_of(directory: Path) -> Path:
    """Where it listens."""
    return directory.absolute() / "libvirt" / "s" / "libvirt-sock"


def url_of(directory: Path) -> str:
    """How the gateway reaches it."""
    return f"test+unix:///default?socket={quote(str(socket_of(directory)))}"


def start(directory: Path) -> tuple[subprocess.Popen[bytes] | None, str]:
    """Start it; return its process, or None and why there is none."""
    program = shutil.which("libvirtd") or shutil.which("libvirtd", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        return None, "libvirtd is missing, so there is no hypervisor: apt-get install libvirt-daemon"
    socket = socket_of(directory)
    if len(os.fsencode(socket)) > _LONGEST:
        return None, f"there is no hypervisor, for the name of its socket would be too long: {socket}"
    home = socket.parent.parent
    for path in (socket.parent, home / "run", home / "home"):
        path.mkdir(parents=True, exist_ok=True)
    socket.unlink(missing_ok=True)
    (home / "libvirtd.conf").write_text(_CONFIG.format(sockets=socket.parent, home=home), "utf-8")
    command = [program, "-f", str(home / "libvirtd.conf"), "-p", str(home / "libvirtd.pid")]
    if os.geteuid() == 0:
        command = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", *command]
        for path in (home, *home.rglob("*")):
            os.chown(path, _NOBODY, _NOBODY, follow_symlinks=False)
    environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(home / "home")}
    environ |= {"XDG_RUNTIME_DIR": str(home / "run")}
    quiet = subprocess.DEVNULL
    try:
        child = subprocess.Popen(  # noqa: S603 (the system's own program)
            command, env=environ, stdin=quiet, stdout=quiet, stderr=quiet, cwd=home, process_group=0
        )
    except OSError as error:
        return None, f"there is no hypervisor, for {command[0]} cannot be started: {error.strerror}"
    until = time.monotonic() + _START_TIME
    while child.poll() is None and not socket.exists() and time.monotonic() < until:
        time.sleep(0.05)
    if child.poll() is not None or not socket.exists():
        stop(child)
        return None, f"there is no hypervisor, for libvirtd does not start here; {home} may say why"
    return child, ""


def stop(child: subprocess.Popen[bytes] | None) -> None:
    """End it, and wait until it is gone."""
    if child is None:
        return
    child.terminate()
    try:
        child.wait(5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
