"""``make run``: a gateway of its own in one directory, in the foreground, with ready-made links."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from http.client import HTTPConnection
from importlib.resources import files
from pathlib import Path
from typing import Any

from gateway.core import dev_pki
from gateway.ctl import demo_hypervisor
from gateway.wire.viewer_file import SUFFIX, ViewerFile

_CONFIG = """\
# Written by `make run`, once; yours to change.

[gateway]
state_dir = state
run_dir = run
public_url = https://localhost:54323

[tls]
certificate = pki/gateway.pem
key = pki/gateway.key

[tokens]
engine_certificate = pki/engine.pem
engine_ca = pki/ca.pem

[policy]
allow = *://127.0.0.0/8:*, *://[::1]/128:*

[control]
listen = unix:run/control.sock:mode=660
tcp = tcp:54324:interface=127.0.0.1

[images]
listen = tcp:54323:interface=127.0.0.1
upstream_ca = pki/ca.pem
file_roots = images

[consoles]
listen = tcp:6100:interface=127.0.0.1

[tunnel]
listen = tcp:3128:interface=127.0.0.1
tls_listen = tcp:3129:interface=127.0.0.1

[web]
listen = tcp:54323:interface=127.0.0.1

[metrics]
listen = tcp:9464:interface=127.0.0.1

[rpc]
listen = tcp:16515:interface=127.0.0.1

[target demo]
uri = {hypervisor}
"""
_PORTS = (54323, 6100, 54324, 9464, 16515, 3128, 3129)
_PUBLIC = "https://localhost:54323"
#: A virtual machine without a disk: it waits at its firmware, where Escape opens a menu.
_QEMU = "qemu-system-x86_64"
_MACHINE = (
    *("-name", "Demonstration", "-machine", "pc,accel=tcg", "-m", "64", "-display", "none", "-nic", "none"),
    *("-boot", "menu=on,splash-time=65000", "-no-user-config"),
)
#: Bytes that the demonstration image may grow to, and seconds its ticket lasts unused.
_SIZE = 1 << 40
_LIFE = 86_400
_START_TIME = 30.0


def _taken() -> list[int]:
    """Which of our ports somebody else listens on."""
    found = []
    for port in _PORTS:
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                found.append(port)
    return found


def _control(method: str, path: str, body: object = None) -> None:
    connection = HTTPConnection("127.0.0.1", 54324, timeout=5)
    connection.request(method, path, None if body is None else json.dumps(body))
    answer = connection.getresponse()
    text = answer.read().decode("utf-8", "replace")
    connection.close()
    if answer.status >= 300:
        raise SystemExit(f"the gateway refused the demonstration ticket: {text}")


def _status() -> dict[str, Any]:
    """What the gateway says of itself.

    :raises OSError, ValueError: it does not, or not yet.
    """
    connection = HTTPConnection("127.0.0.1", 54324, timeout=5)
    connection.request("GET", "/status")
    status: dict[str, Any] = json.loads(connection.getresponse().read())
    return status


def _is_ready(pid: int) -> bool:
    """Whether it is our own child that answers, not another gateway on the same ports."""
    try:
        status = _status()
    except (OSError, ValueError):
        return False
    return bool(status.get("pid") == pid and status.get("ready"))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _console() -> tuple[subprocess.Popen[bytes], int, int]:
    """Start something with a console: QEMU, or a picture of ours.

    :returns: its process, its VNC port, and that of SPICE, 0 for none.
    """
    port, spice = _free_port(), 0
    qemu = shutil.which(_QEMU)
    if qemu is not None:
        command = [qemu, *_MACHINE, "-vnc", f"127.0.0.1:{port - 5900}"]
        if _speaks_spice(qemu):
            spice = _free_port()
            where = f"addr=127.0.0.1,port={spice},disable-ticketing=on"
            command += ["-vga", "qxl", "-spice", where]
    else:
        command = [sys.executable, "-m", "gateway.ctl.demo_screen", str(port)]
    # What it has to say, of sound and the like, is of no interest here.
    quiet = subprocess.DEVNULL
    child = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, process_group=0)  # noqa: S603 (our own words)
    return child, port, spice


def _speaks_spice(qemu: str) -> bool:
    """Whether it was made with SPICE; else it would not even start."""
    asked = subprocess.run([qemu, "-spice", "help"], capture_output=True, check=False)  # noqa: S603 (found above)
    return b"disable-ticketing" in asked.stdout


def _console_link(port: int) -> str:
    """Make a ticket for the console at *port*, and say how to see it."""
    base = _status().get("console_url")
    if base is None:
        return (
            "  (the configuration has no [consoles]: they came later; remove var/gateway.conf for a new one)"
        )
    if not (files("gateway.web") / "npm" / "node_modules" / "@novnc").is_dir():
        return "  (npm is missing, so there are no consoles in the browser: apt-get install npm)"
    name = str(uuid.uuid4())
    ticket = {"uuid": name, "kind": "console", "url": f"vnc://127.0.0.1:{port}", "ops": ["view", "control"]}
    _control("PUT", f"/tickets/{name}", {**ticket, "timeout": _LIFE, "shared": True})
    return f"  console     {base}/ui/console#{name}"


def _spice_line(directory: Path, port: int) -> str:
    """Write a file for remote-viewer with a ticket for the console at *port*, and say how to open it."""
    if not port:
        return "  (there is no QEMU with SPICE: apt-get install qemu-system-x86)"
    proxies = _status().get("proxy_urls") or []
    if not proxies:
        return "  (the configuration has no [tunnel]: it came later; remove var/gateway.conf for a new one)"
    name = str(uuid.uuid4())
    ticket = {"uuid": name, "kind": "tunnel", "urls": [f"spice://127.0.0.1:{port}"], "ops": ["connect"]}
    _control("PUT", f"/tickets/{name}", {**ticket, "timeout": _LIFE})
    scheme, _, place = proxies[0].partition("://")
    viewer = ViewerFile(
        "127.0.0.1", port, proxy=f"{scheme}://ticket:{name}@{place}", title="Demonstration", delete=False
    )
    file = directory / "run" / f"demo{SUFFIX}"
    file.unlink(missing_ok=True)
    file.touch(0o600)
    file.write_text(viewer.text(), "utf-8")
    return f"  remote-viewer {os.path.relpath(file)}"


def _hypervisor_line(directory: Path, why: str) -> str:
    """Say how to ask the hypervisor, or *why* there is none."""
    if why:
        return f"  ({why})"
    if not any(listener["service"] == "rpc" for listener in _status()["listeners"]):
        return "  (the configuration has no [rpc]: it came later; remove var/gateway.conf for a new one)"
    control, ca = (os.path.relpath(directory / name) for name in ("run/control.sock", "pki/ca.pem"))
    return f"  .venv/bin/gatewayctl --control {control} rpc --ca {ca} --target demo list-domains"


def _links(directory: Path, console: str, spice: str, hypervisor: str) -> str:
    """Make an empty image and tickets for it, and say how to use them.

    :param console: what to say of that, and likewise of the one of *spice* and of the *hypervisor*.
    """
    image = directory / "images" / "demo.raw"
    image.touch()
    ids = {}
    for name, ops in (("upload", ["read", "write"]), ("download", ["read"])):
        ids[name] = str(uuid.uuid4())
        ticket = {
            "uuid": ids[name],
            "size": _SIZE,
            "url": image.absolute().as_uri(),
            "timeout": _LIFE,
            "ops": ops,
            "filename": "demo.raw",
            "transfer_id": f"demo-{name}",
        }
        _control("PUT", f"/tickets/{ids[name]}", ticket)
    ca = os.path.relpath(directory / "pki" / "ca.pem")
    control = os.path.relpath(directory / "run" / "control.sock")
    return f"""
  The gateway is up. Its own CA is {ca}.

  upload      {_PUBLIC}/images/{ids["upload"]}
  download    {_PUBLIC}/images/{ids["download"]}
  in a page   {_PUBLIC}/ui/transfer#{ids["upload"]}
{console}

  curl --cacert {ca} -T FILE {_PUBLIC}/images/{ids["upload"]}
  curl --cacert {ca} -o FILE {_PUBLIC}/images/{ids["download"]}

{spice}

{hypervisor}

  look inside: .venv/bin/gatewayctl --control {control} status     in a page: http://localhost:54324/ui/status
  metrics:     http://localhost:9464/metrics
  Ctrl-C stops it.
"""


def main(arguments: list[str]) -> int:
    """Prepare the directory, run ``twistd gateway`` in it, and stop with it."""
    directory = Path(arguments[0] if arguments else "var")
    taken = _taken()
    if taken:
        ports = ", ".join(map(str, taken))
        print(
            f"gateway: port {ports} is taken: stop what listens there, or the other gateway", file=sys.stderr
        )
        return 1
    for name in ("images", "state", "run"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    dev_pki.make(directory / "pki")
    config = directory / "gateway.conf"
    if not config.exists():
        config.write_text(_CONFIG.format(hypervisor=demo_hypervisor.url_of(directory)), "utf-8")
    twistd = Path(sys.executable).with_name("twistd")
    command = [str(twistd), "--nodaemon", "--pidfile=", "gateway", "--config", str(config)]
    # In a group of its own: one Ctrl-C must reach it once, for the second one cuts transfers.
    child = subprocess.Popen(command, process_group=0)  # noqa: S603 (our own program)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: child.send_signal(number))
    machine, port, spice = _console()
    hypervisor, why = demo_hypervisor.start(directory)
    try:
        until = time.monotonic() + _START_TIME
        while child.poll() is None and time.monotonic() < until:
            if _is_ready(child.pid):
                line = _hypervisor_line(directory, why)
                viewer = _spice_line(directory, spice)
                print(_links(directory, _console_link(port), viewer, line), flush=True)
                break
            time.sleep(0.1)
        return child.wait()
    finally:
        machine.kill()
        machine.wait()
        demo_hypervisor.stop(hypervisor)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
