"""What test cases before a real libvirtd share: the daemon, and tickets for calls to it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from unittest import TestCase
from uuid import uuid4

from tests.functional.case import GatewayCase
from tests.functional.libvirt_daemon import Libvirtd
from tests.functional.processes import short_directory


def daemon_of(case: type[TestCase], settings: Mapping[str, str | int] | None = None) -> Libvirtd:
    """One that runs for all tests of a class, in a directory of its own."""
    directory = short_directory()
    case.addClassCleanup(shutil.rmtree, directory, ignore_errors=True)
    daemon = Libvirtd(directory, settings=settings)
    case.addClassCleanup(daemon.stop)
    daemon.start()
    return daemon


class DaemonCase(GatewayCase):
    """A gateway before a hypervisor.

    :cvar daemon: the hypervisor; its guests and their state are those of all tests of the class.
    """

    daemon: ClassVar[Libvirtd]

    @classmethod
    def start_daemon(cls) -> None:
        """Start it, in the directory that is the gateway's, too."""
        cls.daemon = daemon_of(cls)
        cls.home = cls.daemon.directory

    def grant(
        self,
        allow: Sequence[str] = ("*",),
        domains: Sequence[str] = ("*",),
        *,
        targets: Sequence[str] = ("*",),
        principal: str = "alice",
        **more: Any,
    ) -> str:
        """Install a ticket for calls; return its id."""
        name = str(uuid4())
        ticket = {"uuid": name, "kind": "rpc", "timeout": 300, "ops": ["call"], "targets": list(targets)}
        rights = {"allow": list(allow), "domains": list(domains)}
        self.gateway.put({**ticket, "principal": principal, "rights": rights, **more})
        return name
