"""A libvirtd that wants a name and a password, by each mechanism of Cyrus SASL that we know."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any, ClassVar

from twisted.internet import reactor as _reactor

from gateway.core.clock import wall
from gateway.core.dial import Dialer
from gateway.core.policy import Policy, parse_rule
from gateway.rpc.connector import dialing
from gateway.rpc.transports import Transports
from gateway.wire.libvirt_url import parse_url
from tests.functional.case import PYTEST_ONLY
from tests.functional.commands import need
from tests.functional.libvirt_daemon import NOBODY
from tests.functional.processes import DEADLINE
from tests.functional.test_real_targets import RealTargetCase

reactor: Any = _reactor
testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

_FILE = """\
[credentials-one]
authname={user}
password={password}
[auth-libvirt-localhost]
credentials=one
"""


class SaslTest(RealTargetCase):
    """Users of a database of Cyrus SASL, over a unix socket and over TLS."""

    settings: ClassVar[dict[str, str | int]] = {
        "auth_unix_rw": '"sasl"',
        "auth_tls": '"sasl"',
        "auth_tcp": '"sasl"',
    }

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.offer("PLAIN SCRAM-SHA-256 SCRAM-SHA-1")

    @classmethod
    def offer(cls, mechanisms: str) -> None:
        """Let the daemon offer these, to one user."""
        home = cls.daemon.home
        (home / "libvirt.conf").write_text(
            f"mech_list: {mechanisms}\npwcheck_method: auxprop\nauxprop_plugin: sasldb\n"
            f"sasldb_path: {home}/users.db\n"
        )
        add = [
            need("saslpasswd2", "apt install sasl2-bin"),
            "-p",
            "-f",
            f"{home}/users.db",
            "-a",
            "libvirt",
            "alice",
        ]
        subprocess.run(add, input=b"secret", check=True, timeout=DEADLINE)
        os.chown(home / "users.db", NOBODY, NOBODY)
        cls.daemon.restart()  # it reads this once

    async def said(
        self, transport: str, user: str = "alice", password: str = "secret", **more: str | Path
    ) -> str:
        """What becomes of a login: nothing, or why there is none."""
        file = self.daemon.home / "auth.conf"
        file.write_text(_FILE.format(user=user, password=password))
        return await self.opened(transport, authfile=file, **more)

    async def opened(self, transport: str, **variables: str | Path) -> str:
        url = parse_url(self.daemon.url("test", transport, **variables))
        dialer = Dialer(reactor, Policy([parse_rule("*://127.0.0.0/8:*"), parse_rule("*://[::1]:*")]))
        connection = await dialing(Transports(reactor, dialer, wall).connect, url, reactor, {})(False)
        error = await self.caught(connection.open(url.name))
        connection.abort("done")
        return "" if error is None else error.reason

    async def test_mechanisms(self) -> None:
        """Each of them lets us in, over a socket and over TLS; a wrong name or password does not."""
        for mechanism in ("", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-1"):
            wanted = {"auth": f"sasl.{mechanism}"} if mechanism else {}
            for transport in ("unix", "tls"):
                self.assertEqual(await self.said(transport, **wanted), "", (mechanism, transport))
            self.assertEqual(await self.said("unix", password="wrong", **wanted), "auth")
            self.assertEqual(await self.said("unix", "mallory", **wanted), "auth")

    async def test_missing(self) -> None:
        """Without credentials, with a mechanism that is not offered, or over plain tcp there is no way in."""
        self.assertEqual(await self.said("unix", auth="sasl.SCRAM-SHA-512"), "auth")
        self.assertEqual(await self.said("unix", auth="polkit"), "auth")
        self.assertEqual(await self.opened("unix"), "auth")
        self.assertEqual(await self.said("tcp"), "auth")
