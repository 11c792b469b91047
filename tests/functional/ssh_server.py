"""A real sshd on loopback, which lets in whoever runs the tests, by a key."""

from __future__ import annotations

import getpass
from pathlib import Path

from tests.functional.commands import need, run
from tests.functional.processes import HOST, Peer, free_port

PACKAGES = "apt install openssh-server openssh-client"


#: Its users see a machine of their own, as far as sockets of daemons go; only root may do that.
_OWN_RUN = 'mount -t tmpfs tmpfs /run && mkdir /run/sshd && ln -s "$0" /run/libvirt && exec "$@"'


class Sshd(Peer):
    """One sshd.

    :param sockets: what its users find as ``/run/libvirt``.
    :ivar user: who may log in; ``key`` is the private key for that.
    :ivar known_hosts: a file that holds its own key, under ``127.0.0.1`` and ``localhost``.
    """

    name = "sshd"

    def __init__(self, directory: Path, sockets: Path) -> None:
        super().__init__(directory)
        self._sockets = sockets
        self.home = directory / "ssh"
        self.home.mkdir()
        self.user = getpass.getuser()
        self.port = free_port()
        self.key, self.known_hosts = self.home / "id", self.home / "known_hosts"
        for name in ("host", "id"):
            program = need("ssh-keygen", PACKAGES)
            run([program, "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(self.home / name)])
        public = " ".join((self.home / "host.pub").read_text().split()[:2])
        names = [f"[{HOST}]:{self.port}", f"[localhost]:{self.port}"]
        self.known_hosts.write_text("".join(f"{name} {public}\n" for name in names))

    def start(self) -> None:
        """Start it and wait until it listens."""
        lines = [
            f"Port {self.port}",
            f"ListenAddress {HOST}",
            f"HostKey {self.home / 'host'}",
            "PidFile none",
        ]
        lines += [f"AuthorizedKeysFile {self.home / 'id.pub'}", "StrictModes no", "UsePAM no"]
        lines += ["PasswordAuthentication no", "KbdInteractiveAuthentication no", "PermitRootLogin yes"]
        (self.home / "sshd_config").write_text("\n".join(lines) + "\n")
        program = need("sshd", PACKAGES)
        before = len(self.log()) if self.log_file.exists() else 0
        command = ["unshare", "-m", "sh", "-c", _OWN_RUN, str(self._sockets)]
        command += [program, "-D", "-e", "-f", str(self.home / "sshd_config")]
        self.spawn(command, lambda: "Server listening" in self.log()[before:])

    def url(self, driver: str = "test", path: str = "/default", **variables: str | Path) -> str:
        """A URL that leads through it, without questions."""
        known = {"keyfile": self.key, "known_hosts": self.known_hosts, "no_tty": "1"}
        query = "&".join(f"{name}={value}" for name, value in {**known, **variables}.items())
        return f"{driver}+ssh://{self.user}@{HOST}:{self.port}{path}?{query}"
