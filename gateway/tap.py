"""``twistd gateway``: reads the configuration and composes the process; see :mod:`gateway.appliance`."""

from __future__ import annotations

import json
import sys
from typing import ClassVar

from twisted.application.service import IService
from twisted.python import usage

from gateway import __version__
from gateway.core import clock, config, dispatch
from gateway.errors import ConfigError

#: Exit status for a configuration that cannot be used. Source: sysexits.h, EX_CONFIG.
EX_CONFIG = 78


class Options(usage.Options):
    """Options of ``twistd gateway``."""

    synopsis = "[--config PATH] [--check | --show-config]"
    longdesc = (
        "The door between the users of virtual machines and the hypervisors. "
        "Try 'make run' in a checkout for a demonstration, and gatewayctl(1) to talk to a running one."
    )
    optParameters: ClassVar = [["config", "c", "/etc/gateway/gateway.conf", "the configuration file"]]
    optFlags: ClassVar = [
        ["check", None, "check the configuration and every file it names, print it, and exit"],
        ["show-config", None, "print the effective configuration as JSON, and exit"],
    ]
    compData: ClassVar = usage.Completions(optActions={"config": usage.CompleteFiles("*.conf")})

    def opt_version(self) -> None:
        """Print the version and exit."""
        print(f"gateway {__version__}")
        sys.exit(0)

    def postOptions(self) -> None:
        """Read the configuration; what is wrong with it is said at once, and nothing is started."""
        from gateway.consoles import origins

        try:
            opened = bool(self["check"] or not self["show-config"])
            self.loaded = loaded = config.load(self["config"], opened=opened)
            origins(loaded)
        except ConfigError as error:
            for problem in error.problems:
                print(f"gateway: {problem}", file=sys.stderr)
            sys.exit(EX_CONFIG)
        for warning in loaded.warnings:
            print(f"gateway: warning: {warning}", file=sys.stderr)
        if self["check"]:
            print(config.render(loaded))
        elif self["show-config"]:
            print(json.dumps(config.show(loaded), indent=2))
        if self["check"] or self["show-config"]:
            sys.exit(0)


def makeService(options: Options) -> IService:
    """Compose everything that the configuration asks for."""
    from twisted.internet import reactor

    from gateway.appliance import Appliance

    clock.use_monotonic(reactor)
    dispatch.without_context()
    return Appliance(reactor, options.loaded)
