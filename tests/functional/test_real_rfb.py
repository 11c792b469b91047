"""Our RFB against the VNC server of real QEMU: every kind of security, and the same pixels."""

from __future__ import annotations

import shutil
import socket
import ssl
from collections.abc import Callable, Collection
from functools import partial
from struct import pack

from twisted.trial.unittest import SynchronousTestCase

from gateway.errors import UpstreamFailed
from gateway.wire.rfb import Security
from gateway.wire.rfb_encodings import Shelf
from gateway.wire.rfb_framebuffer import Rectangle
from gateway.wire.rfb_handshake import ServerSide
from gateway.wire.rfb_messages import ClientFilter
from gateway.wire.rfb_server import ServerMessages
from gateway.wire.rfb_viewer import ViewerEncoder
from tests.functional.case import PYTEST_ONLY
from tests.functional.hypervisor import PASSWORD, Credentials, Qemu, Screen
from tests.functional.processes import DEADLINE, HOST, short_directory, wait_for
from tests.wire.rfb_peers import Client

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

RAW, TIGHT, ZRLE, SIZE, CURSOR = 0, 7, 16, -223, -239
ASK = pack(">BBHHHH", 3, 1, 0, 0, 65535, 65535)


def context(credentials: Credentials, *, certificate: bool = False) -> ssl.SSLContext:
    """TLS that trusts the hypervisor's authority alone."""
    out = ssl.create_default_context(cafile=str(credentials.ca))
    if certificate:
        out.load_cert_chain(credentials.certificate, credentials.key)
    return out


class Console:
    """A connection to a hypervisor, through our handshake, and the screen behind it.

    :param version: what we make believe that the server speaks.
    """

    def __init__(
        self,
        port: int,
        allowed: Collection[Security],
        *,
        password: str = "",
        tls: ssl.SSLContext | None = None,
        version: bytes = b"",
    ) -> None:
        self.handshake = ServerSide(allowed, password=password.encode() or None)
        self.line: socket.socket = socket.create_connection((HOST, port), DEADLINE)
        try:
            self._open(tls, version)
        except BaseException:
            self.line.close()
            raise

    def _open(self, tls: ssl.SSLContext | None, version: bytes) -> None:
        handshake = self.handshake
        while not handshake.done:
            if handshake.tls_wanted:
                assert tls is not None
                self.line = tls.wrap_socket(self.line, server_hostname="localhost")
                said = handshake.secured()
            elif handshake.init_wanted:
                said = handshake.initialize()
            else:
                data = self._read()
                if version and data.startswith(b"RFB "):
                    data = version + data[12:]
                said = handshake.receive(data)
            self.line.sendall(said)
        assert handshake.init is not None
        self.screen = ServerMessages(handshake.init)
        self.screen.receive(handshake.rest)
        self.line.sendall(self.screen.start())

    def _read(self) -> bytes:
        try:
            data = self.line.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            raise self.handshake.lost()
        return data

    def look(self) -> Screen:
        """The screen after one more update, or after half a second without one."""
        self.line.sendall(self.screen.request())
        self.line.settimeout(0.5)
        try:
            while self.screen.asked:
                self.screen.receive(self._read())
        except TimeoutError:
            pass
        framebuffer = self.screen.framebuffer
        pixels = framebuffer.get(Rectangle(0, 0, framebuffer.width, framebuffer.height))
        rgb = bytearray(len(pixels) // 4 * 3)
        for color in range(3):
            rgb[color::3] = pixels[color::4]
        return Screen(framebuffer.width, framebuffer.height, bytes(rgb))


class _Case(SynchronousTestCase):
    """One virtual machine."""

    def setUp(self) -> None:
        self.directory = short_directory()
        self.addCleanup(shutil.rmtree, self.directory)
        self.qemu = Qemu(self.directory)
        self.addCleanup(self.qemu.stop)

    def open(
        self,
        *allowed: Security,
        password: str = "",
        tls: ssl.SSLContext | None = None,
        version: bytes = b"",
    ) -> Console:
        console = Console(self.qemu.vnc_port, allowed, password=password, tls=tls, version=version)
        self.addCleanup(console.line.close)
        return console

    def assert_same_picture(self, console: Console) -> None:
        """The framebuffer is what the machine says that it shows, to the pixel."""
        wait_for(lambda: console.look() == self.qemu.wait_for_screen(), "the same picture")

    def assert_refused(self, words: str, attempt: Callable[[], object]) -> None:
        self.assertIn(words, self.assertRaises(UpstreamFailed, attempt).text)
        wait_for(lambda: not self.qemu.vnc_clients(), "nobody connected")


class NoneTests(_Case):
    """Without a password."""

    def test_picture(self) -> None:
        """From its first screen on, what the guest draws is what we have; the resize in between too."""
        self.qemu.vnc().start()
        console = self.open(Security.NONE)
        self.assert_same_picture(console)
        before = console.look()
        self.qemu.type("h", "e", "l", "l", "o")
        wait_for(lambda: console.look() != before, "what was typed")
        self.assert_same_picture(console)

    def test_versions(self) -> None:
        """Its old dialects get us in as well."""
        self.qemu.vnc().start()
        for version in (b"RFB 003.003\n", b"RFB 003.007\n", b"RFB 003.008\n"):
            self.open(Security.NONE, version=version).line.close()

    def test_minimum(self) -> None:
        """Where a password or more is configured, a console without one is refused."""
        self.qemu.vnc().start()
        for allowed in ({Security.VNC}, set(Security) - {Security.NONE}):
            self.assert_refused("no security type", partial(self.open, *allowed, password=PASSWORD))


class PasswordTests(_Case):
    """With a password alone."""

    def test_password(self) -> None:
        """The right one gets us in, in every dialect; a wrong one does not, and is told as such."""
        self.qemu.vnc(password=PASSWORD).start()
        for version in (b"RFB 003.003\n", b"RFB 003.007\n"):
            self.open(Security.VNC, password=PASSWORD, version=version).line.close()
            wrong = partial(self.open, Security.VNC, password="wrong", version=version)
            self.assert_refused("refuses the password", wrong)
        self.assert_refused("refuses the password", lambda: self.open(Security.VNC, password="wrong"))
        self.assert_same_picture(self.open(Security.NONE, Security.VNC, password=PASSWORD))


class CertificateTests(_Case):
    """With VeNCrypt."""

    def test_none(self) -> None:
        """X509None: inside TLS, with the server's certificate verified."""
        self.qemu.vnc(tls=True).start()
        tls = context(self.qemu.credentials)
        console = self.open(*Security, tls=tls)
        self.assertIs(console.handshake.security, Security.X509_NONE)
        self.assert_same_picture(console)
        console.line.close()
        self.assert_refused("no security type", lambda: self.open(Security.NONE, Security.X509_VNC, tls=tls))
        with self.assertRaises(ssl.SSLCertVerificationError):
            self.open(*Security, tls=ssl.create_default_context())
        wait_for(lambda: not self.qemu.vnc_clients(), "nobody connected")

    def test_password(self) -> None:
        """X509Vnc with a certificate of ours demanded: neither it nor the password can be left out."""
        self.qemu.vnc(tls=True, password=PASSWORD, verify_peer=True).start()
        credentials = self.qemu.credentials
        tls = context(credentials, certificate=True)
        console = self.open(*Security, password=PASSWORD, tls=tls)
        self.assertIs(console.handshake.security, Security.X509_VNC)
        self.assert_same_picture(console)
        console.line.close()
        self.assert_refused("refuses the password", lambda: self.open(*Security, password="wrong", tls=tls))
        bare = context(credentials)
        try:
            self.open(*Security, password=PASSWORD, tls=bare)
        except (UpstreamFailed, ssl.SSLError) as error:
            # Whether the server's alert is seen before its end is a matter of time.
            self.assertRegex(str(error), "certificate")
        else:
            self.fail("let in without a certificate")


class SharedTests(_Case):
    """Several viewers of one console."""

    def test_viewers(self) -> None:
        """All see the same, whenever they come; who may only look cannot type; QEMU sees one client."""
        self.qemu.vnc().start()
        console = self.open(Security.NONE)
        self.assert_same_picture(console)
        shelf = Shelf()
        viewers: list[tuple[ViewerEncoder, ClientFilter, Client]] = []

        def join(encoding: int, view_only: bool) -> None:
            encoder = ViewerEncoder(console.screen, shelf)
            inward = ClientFilter(view_only, local=encoder.receive)
            client = Client(console.screen.framebuffer.width, console.screen.framebuffer.height)
            say(inward, pack(">BxH3i", 2, 3, encoding, SIZE, CURSOR))
            viewers.append((encoder, inward, client))

        def say(inward: ClientFilter, data: bytes) -> None:
            console.line.sendall(inward.receive(data)[0])

        def see(wanted: Screen) -> bool:
            console.look()
            for encoder, inward, client in viewers:
                say(inward, ASK)
                client.receive(encoder.update())
            return all(bytes(it[2].screen) == wanted.rgb for it in viewers)

        def key(symbol: int) -> bytes:
            return b"".join(pack(">BBxxI", 4, down, symbol) for down in (1, 0))

        join(RAW, False)
        join(ZRLE, True)
        before = self.qemu.screen()
        wait_for(lambda: see(before), "the same picture for two")
        say(viewers[1][1], key(0x78))
        say(viewers[0][1], key(0x61))
        wait_for(lambda: self.qemu.screen() != before, "what was typed")
        join(TIGHT, False)
        after = self.qemu.wait_for_screen()
        wait_for(lambda: see(after), "the same picture for three")
        self.assertEqual(len(self.qemu.vnc_clients()), 1)
        self.assert_one_letter(before, after)

    def assert_one_letter(self, before: Screen, after: Screen) -> None:
        """Nothing but one character, eight pixels wide, has changed."""
        changed = {at // 3 % after.width for at in range(len(after.rgb)) if before.rgb[at] != after.rgb[at]}
        self.assertTrue(changed)
        self.assertLess(max(changed) - min(changed), 8)


class SerialTests(_Case):
    """The serial line of the peer itself, which other tests rely on."""

    def test_echo(self) -> None:
        """What is sent comes back, on a port and on a unix socket."""
        for number in range(2):
            qemu = Qemu(self.directory)
            self.addCleanup(qemu.stop)
            if number:
                qemu.serial_tcp().vnc().start()
                line: socket.socket = socket.create_connection((HOST, int(str(qemu.serial))), DEADLINE)
            else:
                qemu.serial_unix().vnc().start()
                line = socket.socket(socket.AF_UNIX)
                line.settimeout(DEADLINE)
                line.connect(str(qemu.serial))
            with line, line.makefile("rb") as said:
                qemu.wait_for_screen()
                line.sendall(b"echo\n")
                while (answer := said.readline()) and answer != b"echo\n":
                    pass
                self.assertEqual(answer, b"echo\n")
            qemu.stop()
