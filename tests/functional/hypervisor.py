"""A hypervisor with one virtual machine: real QEMU, without KVM, disk or network.

Its guest is a boot sector that echoes what arrives on the serial line, and shows what is typed, there or on
the keyboard. The first screen is drawn about two seconds after the start; then it uses almost no CPU.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attrs import frozen
from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway.core import dev_pki
from tests.functional.commands import need
from tests.functional.processes import DEADLINE, HOST, Peer, free_port, wait_for

PASSWORD = "sekret12"
#: What the guest shows and sends first.
GREETING = b"ready\r\n"
#: Seconds without a change after which a screen stays as it is.
_STEADY = 0.15

#: 16-bit code for address 7C00h; what it shows first, and sends, follows it.
_GUEST = bytes.fromhex(
    "31c0 8ed8 8ed0 bc007c fb"  #           no segments, a stack, interrupts on
    "b81200 cd10"  #                        640 * 480 pixels, 16 colors
    "be537c ac 84c0 7409"  #                greet: all bytes up to a zero
    "e82a00 baf803 ee ebf2"  #              show it, and send it
    "bafd03 ec a801 740a"  #                main: is there a byte on the line?
    "baf803 ec ee e81400 ebee"  #           yes: send it back, and show it
    "b401 cd16 7409"  #                     is there a key?
    "30e4 cd16 e80500 ebdf"  #              yes: show it
    "f4 ebdc"  #                            neither: sleep until the next tick
    "50 b40e 88c3 83e307 80cb08 cd10 58 c3"  # show: each character has a bright color of its own
)


@frozen
class Credentials:
    """Files of the hypervisor's authority.

    :ivar ca: who issues the certificates of hypervisors, and those of their clients.
    :ivar certificate: of a client, with its ``key``.
    """

    ca: Path
    certificate: Path
    key: Path


@frozen
class Screen:
    """What the guest shows.

    :ivar rgb: three bytes for each pixel, row by row.
    """

    width: int
    height: int
    rgb: bytes

    @property
    def lit(self) -> int:
        """How many bytes are not black."""
        return len(self.rgb) - self.rgb.count(0)

    def is_written(self, row: int) -> bool:
        """Whether there is text in this row of a text screen."""
        line = self.rgb[self.width * 16 * row * 3 : self.width * 16 * (row + 1) * 3]
        return self.height == 400 and len(line) // 3 - line.count(b"\0\0\0") > 100


class Qemu(Peer):
    """One virtual machine.

    :ivar vnc_port: 0 as long as there is none; likewise ``spice_port`` and ``spice_tls_port``.
    :ivar serial: port or unix socket of the serial line.
    """

    name = "qemu"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.vnc_port = self.spice_port = self.spice_tls_port = 0
        self.serial: int | Path = 0
        self._options: list[str] = []
        self._credentials: Credentials | None = None
        self._monitor: socket.socket | None = None
        self._answers: Any = None

    def vnc(self, *, password: str = "", tls: bool = False, verify_peer: bool = False) -> Qemu:
        """Offer VNC: security type None or VNC, and inside VeNCrypt with *tls*.

        :param verify_peer: demand a certificate of the client.
        """
        self.vnc_port = free_port()
        where = f"{HOST}:{self.vnc_port - 5900}"
        if tls:
            where += f",tls-creds={self._tls(verify_peer)}"
        if password:
            where += f",password-secret={self._secret('vnc', password)}"
        self._options += ["-vnc", where]
        return self

    def spice(self, *, password: str = "", tls: bool = False) -> Qemu:
        """Offer SPICE, with *tls* on a second port as well."""
        self.spice_port = free_port()
        where = f"addr={HOST},port={self.spice_port}"
        if tls:
            self.spice_tls_port = free_port()
            self._certificates()
            where += f",tls-port={self.spice_tls_port},x509-dir={self.directory / 'tls'}"
        if password:
            where += f",password-secret={self._secret('spice', password)}"
        else:
            where += ",disable-ticketing=on"
        self._options += ["-vga", "qxl", "-spice", where]
        return self

    def serial_tcp(self) -> Qemu:
        """Offer the serial line on a port, :attr:`serial`."""
        self.serial = free_port()
        self._options += ["-serial", f"tcp:{HOST}:{self.serial},server=on,wait=off"]
        return self

    def serial_unix(self) -> Qemu:
        """Offer the serial line on a unix socket, :attr:`serial`."""
        self.serial = self.directory / "serial.sock"
        self._options += ["-serial", f"unix:{self.serial},server=on,wait=off"]
        return self

    @property
    def credentials(self) -> Credentials:
        """What a client of VNC or SPICE with TLS needs."""
        return self._certificates()

    def start(self, *more: str, boot: bool = True) -> None:
        """Start it, and wait until QMP answers.

        :param more: options beside those that the other methods have collected.
        :param boot: run the guest; the firmware finds nothing to boot otherwise.
        """
        qmp = self.directory / "qmp.sock"
        qmp.unlink(missing_ok=True)
        command = [need("qemu-system-x86_64", "apt install qemu-system-x86"), "-machine", "pc,accel=tcg"]
        command += ["-m", "64", "-display", "none", "-nic", "none", "-no-user-config"]
        command += ["-qmp", f"unix:{qmp},server=on,wait=off"]
        if boot:
            disk = self.directory / "guest.img"
            disk.write_bytes(boot_sector())
            command += ["-drive", f"file={disk},format=raw,if=ide,snapshot=on"]
        self._monitor = monitor = socket.socket(socket.AF_UNIX)
        monitor.settimeout(DEADLINE)
        # The socket is there a moment before anybody listens on it.
        self.spawn([*command, *self._options, *more], lambda: monitor.connect_ex(str(qmp)) == 0)
        self._answers = monitor.makefile("rb")
        self._answers.readline()
        self.qmp("qmp_capabilities")

    def end(self, *arguments: Any) -> int | None:
        if self._monitor is not None:
            if self._answers is not None:
                self._answers.close()
            self._monitor.close()
            self._monitor = self._answers = None
        return super().end(*arguments)

    def qmp(self, command: str, **arguments: Any) -> Any:
        """Ask the machine's monitor; return what it answers.

        :raises AssertionError: it fails.
        """
        assert self._monitor is not None
        self._monitor.sendall(json.dumps({"execute": command, "arguments": arguments}).encode("ascii"))
        while True:
            answer = json.loads(self._answers.readline() or b'{"error": "it is gone"}')
            if "error" in answer:
                raise AssertionError(f"{command}: {answer['error']}\n{self.log()[-4000:]}")
            if "return" in answer:
                return answer["return"]

    def screen(self) -> Screen:
        """What is shown right now."""
        path = self.directory / "screen.ppm"
        self.qmp("screendump", filename=str(path))
        magic, size, depth, rgb = path.read_bytes().split(b"\n", 3)
        assert (magic, depth) == (b"P6", b"255")
        width, height = map(int, size.split())
        return Screen(width, height, rgb)

    def _rests(self) -> bool:
        """Whether its processor has nothing to do; one that has to wait for ours may look as still."""
        said: str = self.qmp("human-monitor-command", **{"command-line": "info registers"})
        return "HLT=1" in said

    def wait_for_screen(self) -> Screen:
        """Wait until the guest has greeted, and its screen stays."""
        last, since = Screen(0, 0, b""), 0.0

        def steady() -> bool:
            nonlocal last, since
            rests, now = self._rests(), self.screen()
            if now != last:
                last, since = now, time.monotonic()
            line = now.rgb[: now.width * 16 * 3]
            colors = {line[at : at + 3] for at in range(0, len(line), 3)}
            greeted = now.height == 480 and len(colors) >= len(set(GREETING)) - 2
            return rests and greeted and time.monotonic() - since > _STEADY

        wait_for(steady, "a steady screen")
        return last

    def wait_for_offer(self) -> Screen:
        """Wait until the firmware has offered its menu; it forgets what was typed before that."""
        last, since = Screen(0, 0, b""), 0.0

        def offered() -> bool:
            nonlocal last, since
            rests, now = self._rests(), self.screen()
            # A cursor blinks.
            if not now.is_written(2) or abs(now.lit - last.lit) > 500:
                last, since = now, time.monotonic()
            return rests and time.monotonic() - since > _STEADY

        wait_for(offered, "the offer of a menu")
        return last

    def type(self, *keys: str) -> None:
        """Press keys, named as QEMU does: ``a``, ``ret``, ``esc``."""
        for key in keys:
            self.qmp("send-key", keys=[{"type": "qcode", "data": key}])

    def vnc_clients(self) -> Sequence[Any]:
        """Who is connected to VNC, as the machine sees it."""
        clients: Sequence[Any] = self.qmp("query-vnc")["clients"]
        return clients

    def spice_channels(self) -> Sequence[Any]:
        """Likewise of SPICE: an item for each channel."""
        channels: Sequence[Any] = self.qmp("query-spice").get("channels", [])
        return channels

    def set_password(self, protocol: str, password: str) -> None:
        """Another password for ``vnc`` or ``spice``, good from now on; there must have been one."""
        self.qmp("set_password", protocol=protocol, password=password)

    def vanish(self) -> None:
        """End at once, as when a hypervisor dies."""
        self.kill()

    def _secret(self, name: str, password: str) -> str:
        self._options += ["-object", f"secret,id={name},data={password}"]
        return name

    def _tls(self, verify_peer: bool) -> str:
        self._certificates()
        verify = "on" if verify_peer else "off"
        where = f"dir={self.directory / 'tls'},endpoint=server,verify-peer={verify}"
        self._options += ["-object", f"tls-creds-x509,id=tls,{where}"]
        return "tls"

    def _certificates(self) -> Credentials:
        """Make them, named as QEMU expects."""
        if self._credentials is None:
            directory = self.directory / "tls"
            directory.mkdir()
            now = datetime.now(UTC)
            ca = dev_pki.authority(now, "hypervisors")
            server = ca.issue(
                "hypervisor",
                now=now,
                names=["localhost"],
                addresses=[HOST],
                usages=[ExtendedKeyUsageOID.SERVER_AUTH],
                key=dev_pki.rsa_key(),
            )
            client = ca.issue("gateway", now=now, usages=[ExtendedKeyUsageOID.CLIENT_AUTH])
            for name, data in (
                ("ca-cert.pem", ca.pem),
                ("server-cert.pem", server.pem),
                ("server-key.pem", server.key_pem),
            ):
                (directory / name).write_bytes(data)
            certificate, key = client.write(directory, "client")
            self._credentials = Credentials(directory / "ca-cert.pem", certificate, key)
        return self._credentials


def boot_sector() -> bytes:
    """The guest: one sector."""
    return (_GUEST + GREETING).ljust(510, b"\0") + b"\x55\xaa"
