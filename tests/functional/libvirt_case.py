"""The test case of stock libvirt clients: a real libvirtd, a gateway before it, tickets, and virsh.

The clients block, and are processes of their own; the gateway and the daemon are, too.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway.core import dev_pki
from tests.functional.commands import need
from tests.functional.daemon_case import DaemonCase
from tests.functional.libvirt_daemon import PACKAGES
from tests.functional.peers import Gateway, Sections
from tests.functional.processes import DEADLINE, HOST, free_port

#: The one domain of the test driver.
TEST = "6695eb01-f6a4-8304-79aa-97f2502e193f"

#: What opens which target's driver.
PATHS = {"test": "default", "qemu": "session"}


class LibvirtCase(DaemonCase):
    """One libvirtd, and one gateway with it as two targets: ``test``, its test driver, and ``qemu``.

    :cvar guests: that run at the beginning, of 16 MiB each; ``uuids`` has theirs by their names.
    :cvar more: keys of ``[libvirt]`` beside the usual; ``targets`` those of both targets.
    :cvar port: where clients connect, with TLS.
    :cvar trust: a ``pkipath`` with the gateway's CA, and no certificate of a client.
    """

    guests: ClassVar[Sequence[str]] = ("tiny",)
    more: ClassVar[Mapping[str, str]] = {}
    targets: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    uuids: ClassVar[dict[str, str]]
    port: ClassVar[int]
    trust: ClassVar[Path]
    _read: ClassVar[int]
    _records: ClassVar[list[dict[str, Any]]]

    @classmethod
    def setUpClass(cls) -> None:
        cls._read, cls._records = 0, []
        cls.start_daemon()
        cls._keep()
        cls.uuids = {name: cls.daemon.tiny(name) for name in cls.guests}
        cls.port = free_port()
        cls.gateway = Gateway(cls.home, cls.configuration())
        cls.addClassCleanup(cls.gateway.stop)
        cls.gateway.start(cls.descriptors)
        cls.trust = cls.pki("trust")

    @classmethod
    def configuration(cls) -> Sections:
        """What the configuration has beside the usual; the daemon runs by now."""
        targets = {
            f"target {name}": {"uri": cls.daemon.url(name), **cls.targets.get(name, {})}
            for name in ("test", "qemu")
        }
        return {
            "libvirt": {"listen": f"tcp:{cls.port}:interface={HOST}", **cls.more},
            "log": {"format": "json", "level": "debug", "audit": "audit.log"},
            **targets,
            **cls.sections,
        }

    @classmethod
    def _keep(cls) -> None:
        """Keep the test driver open: it forgets everything with its last connection."""
        command = [need("virsh", PACKAGES), "-q", "-c", cls.daemon.url("test")]
        keeper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        cls.addClassCleanup(keeper.wait, 10)
        cls.addClassCleanup(keeper.communicate, b"quit\n")
        assert keeper.stdin is not None and keeper.stdout is not None
        keeper.stdin.write(b"uri\n")
        keeper.stdin.flush()
        while b"://" not in (line := keeper.stdout.readline()):
            assert line, "virsh has ended"

    # Who comes, and with what.

    @classmethod
    def pki(
        cls, name: str, subject: str = "", addresses: Sequence[str] = (), names: Sequence[str] = ()
    ) -> Path:
        """A ``pkipath``; with a *subject* it holds a certificate of the same CA for it."""
        path = cls.home / name
        path.mkdir()
        shutil.copy(cls.gateway.ca, path / "cacert.pem")
        if subject:
            key = load_pem_private_key(cls.gateway.ca.with_suffix(".key").read_bytes(), None)
            assert isinstance(key, dev_pki.Key)
            authority = dev_pki.Issued(x509.load_pem_x509_certificate(cls.gateway.ca.read_bytes()), key)
            made = authority.issue(
                subject,
                now=datetime.now(UTC),
                names=names,
                addresses=addresses,
                usages=[ExtendedKeyUsageOID.CLIENT_AUTH],
            )
            (path / "clientcert.pem").write_bytes(made.pem)
            (path / "clientkey.pem").write_bytes(made.key_pem)
        return path

    def login(self, token: str, user: str = "alice", host: str = "localhost") -> Path:
        """A file of credentials, for ``authfile``."""
        path = self.home / f"{uuid4()}.conf"
        path.write_text(
            f"[credentials-t]\nauthname={user}\npassword={token}\n\n[auth-libvirt-{host}]\ncredentials=t\n"
        )
        return path

    def uri(
        self,
        target: str = "qemu",
        *,
        token: str = "",
        user: str = "alice",
        port: int = 0,
        named: bool = True,
        **variables: str | Path,
    ) -> str:
        """The URI of a target behind the gateway, over TLS.

        :param token: comes from a file of credentials, with the name *user*; without one virsh asks.
        :param named: whether ``?target=`` says which.
        """
        usual: dict[str, str | Path] = {"target": target} if named else {}
        usual["pkipath"] = self.trust
        if token:
            usual["authfile"] = self.login(token, user)
        query = "&".join(f"{name}={value}" for name, value in {**usual, **variables}.items())
        driver = target if target in PATHS else "qemu"
        return f"{driver}+tls://localhost:{port or self.port}/{PATHS[driver]}?{query}"

    # What it does.

    def command(self, uri: str, *arguments: str | Path) -> list[str]:
        """The command line of virsh at *uri*."""
        return [need("virsh", PACKAGES), "-q", "-c", uri, *map(str, arguments)]

    @property
    def environment(self) -> dict[str, str]:
        """Of clients: nothing of this user's own is read or written."""
        return {"PATH": os.environ["PATH"], "HOME": str(self.home), "LC_ALL": "C.UTF-8"}

    def run_client(
        self, command: Sequence[str], said: str = "", *, timeout: float = DEADLINE, together: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run a client to its end.

        :param said: what it reads.
        :param timeout: seconds.
        :param together: what it complains of is among what it says.
        """
        return subprocess.run(
            command,
            input=said,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if together else subprocess.PIPE,
            text=True,
            timeout=timeout,
            check=False,
            env=self.environment,
        )

    def run_virsh(self, uri: str, *arguments: str | Path, timeout: float = DEADLINE) -> tuple[int, str, str]:
        """Run virsh to its end; return its exit code, and what it says and complains of."""
        done = self.run_client(self.command(uri, *arguments), timeout=timeout)
        return done.returncode, done.stdout, done.stderr

    def virsh(self, *arguments: str | Path, target: str = "qemu", token: str = "", uri: str = "") -> str:
        """Run virsh through the gateway, by default with a token that permits everything.

        :raises AssertionError: it fails.
        """
        code, output, problem = self.run_virsh(
            uri or self.uri(target, token=token or self.grant()), *arguments
        )
        self.assertEqual((code, problem), (0, ""), arguments)
        return output

    def refused(self, *arguments: str | Path, target: str = "qemu", token: str = "", uri: str = "") -> str:
        """Run what shall fail as :meth:`virsh` does; return the complaint.

        :raises AssertionError: it does not.
        """
        code, output, problem = self.run_virsh(
            uri or self.uri(target, token=token or self.grant()), *arguments
        )
        self.assertEqual((code, output.strip()), (1, ""), arguments)
        return problem

    def direct(self, *arguments: str | Path, target: str = "qemu") -> str:
        """What the daemon itself says, or does, without the gateway."""
        return self.daemon.virsh(*arguments, driver=target)

    # What is left of it.

    def trail(self, event: str = "libvirt.call") -> list[dict[str, Any]]:
        """What the audit trail says."""
        # Read once only: whoever waits for something asks often.
        with (self.home / "audit.log").open("rb") as file:
            file.seek(self._read)
            *lines, rest = file.read().split(b"\n")
            type(self)._read = file.tell() - len(rest)
        self._records.extend(map(json.loads, lines))
        return [record for record in self._records if record.get("event") == event]

    def calls(self, token: str) -> list[tuple[str, str]]:
        """The procedures called under a ticket, and how each ended."""
        ticket = self.gateway.get(token).json()["ticket"]
        mine = [record for record in self.trail() if record.get("ticket") == ticket]
        return [(record["kind"], record.get("reason") or record["result"]) for record in mine]
