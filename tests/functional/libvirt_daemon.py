"""A real libvirtd, run by hand: no init system, no bus, no KVM, no privileges.

The test driver (``test:///default``) answers at once; the QEMU driver runs :func:`tiny`, whose firmware
writes to the serial line in half a second. Guests outlive the daemon, until :meth:`Libvirtd.stop`.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from uuid import UUID, uuid4

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gateway.core import dev_pki
from tests.functional.commands import need, run
from tests.functional.processes import HOST, Peer, free_port, wait_for

#: Whom the daemon runs as when we are root.
NOBODY = 65534
PACKAGES = "apt install libvirt-daemon libvirt-clients gnutls-bin netcat-openbsd"

#: Of every client certificate that is made here.
CLIENT_DN = "C=GB,O=Test,CN=client1"

_TEMPLATES = {
    "ca": 'cn = "Test CA"\nca\ncert_signing_key\ncrl_signing_key\nexpiration_days = 7\n',
    "server": 'cn = "localhost"\ndns_name = "localhost"\nip_address = "127.0.0.1"\n'
    "tls_www_server\nencryption_key\nsigning_key\nexpiration_days = 7\n",
    "client": 'country = GB\norganization = "Test"\ncn = "client1"\n'
    "tls_www_client\nencryption_key\nsigning_key\nexpiration_days = 7\n",
}

_TINY = """\
<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>16</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <bios useserial='yes'/>
  </os>
  <devices>
    <serial type='pty'><target port='0'/></serial>
    <console type='pty'><target type='serial' port='0'/></console>
    <graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1'/>
    <video><model type='vga' vram='16384'/></video>
    <memballoon model='none'/>
{devices}  </devices>
</domain>
"""


def tiny(name: str = "tiny", uuid: UUID | str = "", devices: str = "") -> str:
    """The XML of a guest of 16 MiB without a disk; *devices* is XML of more of them."""
    return _TINY.format(name=name, uuid=uuid or uuid4(), devices=devices)


class Libvirtd(Peer):
    """One libvirtd on free ports of loopback, with sockets and certificates of its own.

    Several may run at once, in one directory under different names.

    :param directory: short (a socket's path has 107 bytes at most), and passable to others: its mode
        becomes 755.
    :param settings: keys of ``libvirtd.conf`` to add or to replace, as they stand in the file.
    :ivar port: of TLS; :ivar tcp_port: without TLS and without a login.
    :ivar socket: the unix socket; like every daemon of a user it has none for readers.
    :ivar client_pki: ``pkipath`` of a client: its certificate, its key, and the CA's certificate.
    :ivar server_pki: of the daemon, and ``cakey.pem`` as well.
    """

    def __init__(
        self, directory: Path, name: str = "lv", *, settings: Mapping[str, str | int] | None = None
    ) -> None:
        self.name = name
        super().__init__(directory)
        directory.chmod(0o755)
        self.home = directory / name
        self.port, self.tcp_port = free_port(), free_port()
        self.socket = self.home / "sock" / "libvirt-sock"
        self.server_pki, self.client_pki = self.home / "pki", self.home / "client"
        self._runtime = self.home / "xdg" / "run"
        self._settings = dict(settings or {})
        self._lay_out()

    # Where it is found.

    def url(self, driver: str = "test", transport: str = "unix", **variables: str | Path) -> str:
        """A URL for virsh and for us: ``test:///default`` or ``qemu:///session``, by *transport*."""
        host = {"tcp": f"{HOST}:{self.tcp_port}", "tls": f"localhost:{self.port}"}.get(transport, "")
        path = {"test": "default", "qemu": "session"}.get(driver, "")
        usual = {"unix": {"socket": self.socket}, "tls": {"pkipath": self.client_pki}}.get(transport, {})
        query = "&".join(f"{name}={value}" for name, value in {**usual, **variables}.items())
        return f"{driver}+{transport}://{host}/{path}" + (f"?{query}" if query else "")

    @cached_property
    def authority(self) -> dev_pki.Issued:
        """The CA: issues more certificates, and revokes them."""
        certificate = x509.load_pem_x509_certificate((self.server_pki / "cacert.pem").read_bytes())
        key = load_pem_private_key((self.server_pki / "cakey.pem").read_bytes(), None)
        assert isinstance(key, dev_pki.Key)
        return dev_pki.Issued(certificate, key)

    # Its life.

    def start(self) -> None:
        """Start it, on its former ports, and wait until its sockets answer."""
        for stale in (self.socket, self.home / "libvirtd.pid"):
            stale.unlink(missing_ok=True)
        (self.home / "libvirtd.conf").write_text(self._config())
        program = need("libvirtd", PACKAGES)
        command = [program, "--listen", "-f", str(self.home / "libvirtd.conf")]
        command += ["-p", str(self.home / "libvirtd.pid")]
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.home / "xdg"),
            "XDG_RUNTIME_DIR": str(self._runtime),
            "SASL_CONF_PATH": str(self.home),
        }
        self.spawn([*_unprivileged(), *command], self._is_ready, environment)

    def restart(self, number: int = signal.SIGTERM) -> None:
        """End it by a signal, SIGKILL for the hard way, and start it again; guests run on."""
        self.end(number)
        self.start()

    def stop(self) -> None:
        """End its guests, and then itself; for a daemon that was killed only the guests are left to end."""
        try:
            # First of all, for it may wait for one of them that does not answer.
            self._end_guests()
            self.end()
        finally:
            self._end_guests()
            self._claim.close()

    def _end_guests(self) -> None:
        for guest in [*self.guests(), *self._probes()]:
            with suppress(ProcessLookupError):
                os.kill(guest, signal.SIGKILL)
        wait_for(lambda: not self.guests() and not self._probes(), "the end of all guests")

    def guests(self) -> Sequence[int]:
        """Process ids of the QEMU guests that run."""
        return _pids((self._runtime / "libvirt" / "qemu" / "run").glob("*.pid"))

    def _probes(self) -> Sequence[int]:
        """Those that it asked what QEMU can do; a daemon that is killed leaves them behind."""
        return _pids((self.home / "xdg" / ".config" / "libvirt" / "qemu" / "lib").glob("qmp-*/qmp.pid"))

    # What it is told.

    def virsh(self, *arguments: str | Path, driver: str = "qemu", url: str = "") -> str:
        """Run virsh on it; return what it writes."""
        command = [need("virsh", PACKAGES), "-q", "-c", url or self.url(driver), *map(str, arguments)]
        return run(command).decode("utf-8")

    def define(self, xml: str, *, driver: str = "qemu") -> None:
        """Define a domain, network or pool (by its first tag)."""
        kind = xml.lstrip()[1:].split(">", 1)[0].split()[0]
        verb = {"domain": "define", "network": "net-define", "pool": "pool-define"}[kind]
        file = self.home / f"{uuid4()}.xml"
        file.write_text(xml)
        try:
            self.virsh(verb, file, driver=driver)
        finally:
            file.unlink()

    def tiny(self, name: str = "tiny", *, devices: str = "", start: bool = True) -> str:
        """Define :func:`tiny`, and start it; return its uuid."""
        uuid = str(uuid4())
        self.define(tiny(name, uuid, devices))
        if start:
            self.virsh("start", name)
            self.rest(name)
        return uuid

    def rest(self, name: str) -> None:
        """Wait until the firmware of a guest has found nothing to boot, and rests.

        QEMU's hangs for good, through all further resets, when it is reset in its first moments. Source: seen
        with QEMU 7.2 and SeaBIOS 1.16, in one of ten runs on a busy machine, its processor at f000:f5b1.
        """
        registers = "qemu-monitor-command", name, "--hmp", "info registers"
        wait_for(lambda: "HLT=1" in self.virsh(*registers), f"the firmware of {name} rests")

    def pool(self, name: str = "p1") -> Path:
        """Make a pool; return the directory of its volumes."""
        path = self.home / "pool" / name
        path.mkdir()
        self._give_away(path)
        self.virsh("pool-create-as", name, "dir", "--target", path)
        return path

    # How it is built.

    def _lay_out(self) -> None:
        for path in (self.server_pki, self.client_pki, self.socket.parent, self._runtime):
            path.mkdir(parents=True)
        (self.home / "pool").mkdir()
        settings = self.home / "xdg" / ".config" / "libvirt" / "qemu.conf"
        settings.parent.mkdir(parents=True)
        low = self._window()
        settings.write_text(
            f'stdio_handler = "file"\nremote_display_port_min = {low}\nremote_display_port_max = {low + 98}\n'
        )
        make_pki(self.server_pki)
        for name in ("cacert.pem", "clientcert.pem", "clientkey.pem"):
            shutil.copy(self.server_pki / name, self.client_pki / name)
        self._give_away(self.home, *self.home.rglob("*"))

    def _window(self) -> int:
        """The first of 99 ports that are this daemon's alone, below those that the kernel gives away."""
        self._claim = socket.socket()
        # Who is bound to the last one of a hundred has all of them.
        for low in random.sample(range(17000, 31900, 100), 100):
            with suppress(OSError):
                self._claim.bind((HOST, low + 99))
                return low
        raise AssertionError("no ports are left for screens")

    def _give_away(self, *paths: Path) -> None:
        if os.geteuid() == 0:
            for path in paths:
                os.chown(path, NOBODY, NOBODY, follow_symlinks=False)

    def _config(self) -> str:
        values: dict[str, str | int] = {
            "listen_tls": 1,
            "listen_tcp": 1,
            "tls_port": f'"{self.port}"',
            "tcp_port": f'"{self.tcp_port}"',
            "listen_addr": f'"{HOST}"',
            "unix_sock_dir": f'"{self.socket.parent}"',
            "auth_unix_ro": '"none"',
            "auth_unix_rw": '"none"',
            "auth_tcp": '"none"',
            "auth_tls": '"none"',
            "ca_file": f'"{self.server_pki / "cacert.pem"}"',
            "cert_file": f'"{self.server_pki / "servercert.pem"}"',
            "key_file": f'"{self.server_pki / "serverkey.pem"}"',
            "log_outputs": '"3:stderr"',
            "host_uuid": f'"{uuid4()}"',
        }
        return "".join(f"{key} = {value}\n" for key, value in {**values, **self._settings}.items())

    def _is_ready(self) -> bool:
        return self.socket.exists() and all(map(_answers, (self.port, self.tcp_port)))


def make_pki(directory: Path) -> None:
    """Make a CA, and certificates of a server (localhost, 127.0.0.1) and a client, named as libvirt does."""
    program = need("certtool", PACKAGES)
    for name, template in _TEMPLATES.items():
        key, certificate = directory / f"{name}key.pem", directory / f"{name}cert.pem"
        (directory / f"{name}.tmpl").write_text(template)
        run([program, "--generate-privkey", "--key-type=rsa", "--bits=2048", "--outfile", str(key)])
        how = ["--generate-self-signed"]
        if name != "ca":
            how = ["--generate-certificate", "--load-ca-certificate", str(directory / "cacert.pem")]
            how += ["--load-ca-privkey", str(directory / "cakey.pem")]
        how += ["--load-privkey", str(key), "--template", str(directory / f"{name}.tmpl")]
        run([program, *how, "--outfile", str(certificate)])


def _unprivileged() -> Sequence[str]:
    if os.geteuid() != 0:
        return ()
    return (
        need("setpriv", "apt install util-linux"),
        f"--reuid={NOBODY}",
        f"--regid={NOBODY}",
        "--clear-groups",
    )


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _pids(files: Iterable[Path]) -> Sequence[int]:
    """The processes that run, of those whose ids are in *files*."""
    texts = []
    for file in files:
        with suppress(FileNotFoundError):
            texts.append(file.read_text().strip())
    return [int(text) for text in texts if text.isdigit() and _is_guest(int(text))]


def _is_guest(pid: int) -> bool:
    """Whether *pid* is a QEMU that runs; one that has ended has no command line."""
    try:
        return b"qemu" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
