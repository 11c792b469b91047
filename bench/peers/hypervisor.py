"""The hypervisor that everybody calls: libvirtd's own test driver, with guests that only seem to run."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import ssl
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path

from OpenSSL import SSL

from bench import machine
from bench.callers import GUESTS, POOL, UPLOAD, VOLUME, Caller
from bench.peers.base import Backends, Pki, Program
from bench.peers.nginx import accepts
from gateway import __version__
from tests.functional.libvirt_daemon import Libvirtd
from tests.functional.processes import free_port

_GUEST = (
    "<domain type='test'><name>guest{number}</name><uuid>{uuid}</uuid>"
    "<memory>65536</memory><os><type>hvm</type></os></domain>"
)


class Hypervisor(Libvirtd):
    """A libvirtd; each connection to it has guests of its own."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        guests = [_GUEST.format(number=number, uuid=uuid.UUID(int=number + 1)) for number in range(GUESTS)]
        self._guests = self.home / "node.xml"
        self._guests.write_text(f"<node>{''.join(guests)}</node>")
        self._guests.chmod(0o644)

    def start(self) -> None:
        super().start()
        self.pool(POOL)
        self.virsh("vol-create-as", POOL, VOLUME, str(UPLOAD))

    def urls(self) -> Mapping[str, str]:
        """By transport; with ``qemu-`` before it where there is a pool."""
        ways = ("unix", "tls")
        guests = {way: self.url("test", way).replace("/default", str(self._guests)) for way in ways}
        return guests | {f"qemu-{way}": self.url("qemu", way) for way in ways}


def libvirt_python(directory: Path, pki: Pki, backends: Backends) -> Caller:
    """libvirt-python in the threads of Twisted."""
    urls = json.dumps(backends.hypervisor)
    return Caller(directory, "libvirt-python", "threads", urls, version=_libvirt, openssl=_gnutls)


def connection(directory: Path, pki: Pki, backends: Backends) -> Caller:
    """One of our connections, and nothing around it."""
    urls = json.dumps(backends.hypervisor)
    return Caller(directory, "connection", "native", "connection", urls, version=_ours, openssl=_openssl)


def bare(directory: Path, pki: Pki, backends: Backends) -> Caller:
    """A socket that blocks, and nothing else."""
    urls = json.dumps(backends.hypervisor)
    return Caller(directory, "bare-socket", "bare", urls, version=_python, openssl=_ssl)


class Stock(Program):
    """The same behind AMP: Twisted's, over TLS; see :mod:`bench.callers.stock`."""

    name = "amp-libvirt-python"

    def __init__(self, directory: Path, pki: Pki, backends: Backends) -> None:
        super().__init__(directory)
        self.port = free_port()
        self._command = [sys.executable, "-m", "bench.callers.stock", "serve", str(self.port)]
        self._command += [str(pki.certificate), str(pki.key), json.dumps(backends.hypervisor)]

    def start(self) -> None:
        self.spawn(self._command, lambda: accepts(self.port))

    def version(self) -> str:
        return f"Twisted {importlib.metadata.version('Twisted')}"

    def openssl(self) -> str:
        return _openssl()


def _openssl() -> str:
    return machine.short(SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode("ascii"))


def _gnutls() -> str:
    return "none, but GnuTLS"


def _python() -> str:
    return f"Python {platform.python_version()}"


def _ssl() -> str:
    return machine.short(ssl.OPENSSL_VERSION)


def _ours() -> str:
    return __version__


def _libvirt() -> str:
    library = machine.said("pkg-config", "--modversion", "libvirt").strip()
    return f"{importlib.metadata.version('libvirt-python')}, libvirt {library}"
