"""An X server that others look at by VNC: TigerVNC, an implementation of VeNCrypt that is not QEMU's.

It asks for the name and the password of a user, and has PAM decide.
"""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from tests.functional.commands import need
from tests.functional.hypervisor import Credentials
from tests.functional.processes import HOST, Peer, free_port

USER, USER_PASSWORD = "alice", "a päss word"
#: Longer than the eight characters that a password of VNC itself may have.
_CHECK = f"""#!/bin/sh
read -r password || true
echo "$PAM_USER" >> "${{0%/*}}/asked"
[ "$PAM_USER" = {USER} ] && [ "$password" = {shlex.quote(USER_PASSWORD)} ]
"""
_SERVICE = "auth required pam_exec.so quiet expose_authtok {check}\naccount required pam_permit.so\n"
#: PAM reads one directory; that of this host stays as it is for everybody else.
_OWN_PAM = 'mount --bind "$0" /etc/pam.d && exec "$@"'
_PACKAGES = "apt install tigervnc-standalone-server"


class XServer(Peer):
    """One desktop, to which :data:`USER` is let in by :data:`USER_PASSWORD`, within TLS.

    :param security: the types it offers, as TigerVNC calls them.
    :ivar port: of VNC.
    """

    name = "xvnc"

    def __init__(self, directory: Path, credentials: Credentials, security: str = "X509Plain") -> None:
        super().__init__(directory)
        self.port = free_port()
        self._security = security
        self._tls = credentials.ca.parent
        self._pam = directory / "pam"

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self._pam.mkdir()
        check = self._pam / "check"
        check.write_text(_CHECK)
        check.chmod(0o755)
        (self._pam / "gateway-test").write_text(_SERVICE.format(check=check))
        command = ["unshare", "--map-root-user", "--mount", "sh", "-c", _OWN_PAM, str(self._pam)]
        command += [need("Xtigervnc", _PACKAGES), f":{self.port}", "-rfbport", str(self.port)]
        command += ["-interface", HOST, "-nolisten", "tcp", "-geometry", "640x480", "-AlwaysShared"]
        command += ["-SecurityTypes", self._security, "-PlainUsers", USER, "-PAMService", "gateway-test"]
        command += ["-X509Cert", str(self._tls / "server-cert.pem")]
        command += ["-X509Key", str(self._tls / "server-key.pem")]
        self.spawn(command, lambda: "Listening for VNC" in self.log())

    def asked(self) -> list[str]:
        """Who was said to come, each time that a name and a password were shown."""
        file = self._pam / "asked"
        return file.read_text().split() if file.exists() else []

    def stop(self) -> None:
        self.end()
        shutil.rmtree(self._pam, ignore_errors=True)
