"""Programs of others that the functional tests run: qemu-img, curl, the image client, pip.

A missing one is a failure that says what to install: a run without the peers proves nothing.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO


def need(program: str, install: str) -> str:
    """The path of *program*, of our virtual environment or of the system.

    :raises AssertionError: it is missing, and *install* says what would bring it.
    """
    found = shutil.which(program, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        raise AssertionError(f"{program} is missing: {install}")
    return found


def need_imageio() -> str:
    """The path of the image daemon."""
    if importlib.util.find_spec("ovirt_imageio") is None:
        raise AssertionError("ovirt_imageio is missing: pip install ovirt-imageio (needs gcc, python3-dev)")
    return need("ovirt-imageio", "pip install ovirt-imageio (needs gcc and python3-dev)")


def qemu_img(*arguments: str | Path) -> bytes:
    """Run qemu-img; return what it writes."""
    return run([need("qemu-img", "apt install qemu-utils"), *map(str, arguments)])


def curl(*arguments: str | Path, stdin: IO[bytes] | None = None) -> bytes:
    """Run curl, which fails on statuses of 400 and more; return what it writes."""
    program = need("curl", "apt install curl")
    return run([program, "-sS", "--fail-with-body", "--max-time", "60", *map(str, arguments)], stdin=stdin)


def imageio_client(script: str, *arguments: str | Path) -> bytes:
    """Run *script* with the real client library, in a process of its own: its licence is not ours."""
    need_imageio()
    need("qemu-img", "apt install qemu-utils")
    need("qemu-nbd", "apt install qemu-utils")
    return run([sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)])


def run(command: Sequence[str], stdin: IO[bytes] | None = None, timeout: float = 90.0) -> bytes:
    """Run *command* to its end; return what it writes.

    :raises AssertionError: it fails.
    """
    done = subprocess.run(command, stdin=stdin, capture_output=True, timeout=timeout, check=False)
    if done.returncode != 0:
        output = (done.stdout[-4000:] + done.stderr[-4000:]).decode("utf-8", "replace")
        raise AssertionError(f"{command[0]} exited with {done.returncode}\n{output}")
    return done.stdout
