"""What ``make run`` and ``twistd gateway`` promise to whoever starts them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from configparser import ConfigParser
from functools import partial
from pathlib import Path

from cryptography import x509
from twisted.trial.unittest import SynchronousTestCase

from gateway.core import dev_pki
from tests.functional.case import PYTEST_ONLY, GatewayCase
from tests.functional.commands import curl, need
from tests.functional.console_client import Console
from tests.functional.peers import DEADLINE, HOST, MIB, Gateway, free_port, short_directory, wait_for
from tests.functional.tunnel_case import screenshot

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

PORTS = (54323, 6100, 54324, 9464, 16515, 3128, 3129)
EX_CONFIG = 78


def listens(port: int) -> bool:
    """Whether somebody accepts connections on *port*."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def takes(port: int) -> bool:
    """Whether *port* could be had; nobody gets it by chance then."""
    try:
        return not listens(port) and free_port(port) == port
    except OSError:
        return False


class Demonstration:
    """``python -m gateway.ctl.demo`` in a directory, as ``make run`` starts it."""

    def __init__(self, directory: Path, path: str | None = None) -> None:
        """:param path: where programs are looked for, by default where they always are."""
        self.directory = directory
        self.out, self.err = directory / "out", directory / "err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway.ctl.demo", "var"],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, "PATH": path or os.environ["PATH"]},
            )

    def wait_until_up(self) -> None:
        wait_for(
            lambda: self.process.poll() is not None or "Ctrl-C stops it" in self.out.read_text(), "links"
        )
        assert self.process.poll() is None, self.err.read_text() + self.out.read_text()

    def link(self, word: str) -> str:
        """The printed link that stands after *word*."""
        found = re.search(rf"^ +{word} +(https://\S+)$", self.out.read_text(), re.MULTILINE)
        assert found is not None, self.out.read_text()
        return found[1]

    def children(self) -> list[int]:
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def end(self) -> int:
        """Interrupt it if it runs, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            for child in self.children():
                os.kill(child, signal.SIGKILL)
            self.process.kill()
            self.process.wait()
            raise


class RunTests(SynchronousTestCase):
    """``make run``."""

    def setUp(self) -> None:
        for port in PORTS:
            # Connections that others had from it keep it for a minute, and a test beside us may have it.
            wait_for(partial(takes, port), f"port {port} of `make run`, which something else has", 120.0)
        self.directory = short_directory()
        # As root, libvirtd is somebody else.
        self.directory.chmod(0o755)
        self.addCleanup(shutil.rmtree, self.directory)

    def test_links_work(self) -> None:
        """The printed links work as they stand, and an interrupt ends all within seconds."""
        run = Demonstration(self.directory)
        self.addCleanup(run.end)
        run.wait_until_up()
        ca = self.directory / "var" / "pki" / "ca.pem"
        source, target = self.directory / "source", self.directory / "target"
        source.write_bytes(os.urandom(64 * MIB))
        self.assertIn(f"curl --cacert var/pki/ca.pem -T FILE {run.link('upload')}", run.out.read_text())
        curl("--cacert", ca, "-T", source, run.link("upload"))
        curl("--cacert", ca, "-o", target, run.link("download"))
        self.assertTrue(source.read_bytes() == target.read_bytes(), "the file came back different")
        page = curl("--cacert", ca, run.link("in a page"))
        self.assertIn(b"transfer.js", page)
        self.assertIn(b"gateway_", curl(f"http://localhost:{PORTS[3]}/metrics"))

        children = run.children()
        # The gateway, what has a console, and libvirtd.
        self.assertEqual(len(children), 3)
        asked = time.monotonic()
        self.assertEqual(run.end(), 0)
        self.assertLess(time.monotonic() - asked, 10)
        self.assertEqual([child for child in children if Path(f"/proc/{child}").exists()], [])
        self.assertEqual([port for port in PORTS if listens(port)], [])
        self.assertNotIn("Traceback", run.err.read_text() + run.out.read_text())

    def test_viewer(self) -> None:
        """There is a file for remote-viewer, which leads through the tunnel to the picture of the machine."""
        run = Demonstration(self.directory)
        self.addCleanup(run.end)
        run.wait_until_up()
        self.assertIn("\n  remote-viewer var/run/demo.vv\n", run.out.read_text())
        file, picture = self.directory / "var" / "run" / "demo.vv", self.directory / "demo.ppm"
        self.assertEqual(file.stat().st_mode & 0o777, 0o600)
        keys = ConfigParser(interpolation=None)
        keys.read(file)
        said = keys["virt-viewer"]
        self.assertEqual(screenshot(picture, "-h", said["host"], "-p", said["port"], proxy=said["proxy"]), 0)
        self.assertTrue(picture.read_bytes().startswith(b"P6"))
        counted = curl(f"http://localhost:{PORTS[3]}/metrics")
        self.assertIn(b'gateway_tunnels_total{channel="display"}', counted)

    def test_console(self) -> None:
        """There is a console to try, of QEMU or else of our own, and nothing of it is left at the end."""
        for path, name in ((None, b"QEMU (Demonstration)"), (str(self.directory), b"Demonstration")):
            with self.subTest(name=name):
                run = Demonstration(self.directory, path)
                self.addCleanup(run.end)
                run.wait_until_up()
                ca = self.directory / "var" / "pki" / "ca.pem"
                link = run.link("console")
                self.assertIn(b"console.js", curl("--cacert", ca, link))
                console = Console(PORTS[1], ca, f"/console/{link.partition('#')[2]}")
                try:
                    for expected, answer in ((12, b"RFB 003.008\n"), (2, b"\1"), (4, b"\1"), (24, b"")):
                        said = console.read(expected)
                        console.send(answer)
                    self.assertEqual(console.read(int.from_bytes(said[20:])), name)
                finally:
                    console.line.close()
                children = run.children()
                self.assertEqual(run.end(), 0)
                self.assertEqual([child for child in children if Path(f"/proc/{child}").exists()], [])

    def test_hypervisor(self) -> None:
        """The printed command lists the machines of a libvirtd that ends with us."""
        need("libvirtd", "apt install libvirt-daemon")
        run = Demonstration(self.directory)
        self.addCleanup(run.end)
        run.wait_until_up()
        found = re.search(r"^  \S+/gatewayctl (.* list-domains)$", run.out.read_text(), re.MULTILINE)
        assert found is not None, run.out.read_text()
        command = [sys.executable, "-m", "gateway.ctl", *found[1].split()]
        done = subprocess.run(
            command, cwd=self.directory, capture_output=True, text=True, timeout=DEADLINE, check=False
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertRegex(done.stdout, r"(?m)^test .* running$")
        children = run.children()
        self.assertEqual(run.end(), 0)
        self.assertEqual([child for child in children if Path(f"/proc/{child}").exists()], [])

    def test_again(self) -> None:
        """What an earlier run made is used again: its CA, its configuration, the bytes of its image."""
        ca = self.directory / "var" / "pki" / "ca.pem"
        first = Demonstration(self.directory)
        self.addCleanup(first.end)
        first.wait_until_up()
        before = ca.read_bytes()
        (self.directory / "note").write_bytes(b"kept")
        curl("--cacert", ca, "-T", self.directory / "note", first.link("upload"))
        self.assertEqual(first.end(), 0)
        again = Demonstration(self.directory)
        self.addCleanup(again.end)
        again.wait_until_up()
        self.assertEqual(ca.read_bytes(), before)
        self.assertEqual(curl("--cacert", ca, again.link("download")), b"kept")
        self.assertEqual(again.end(), 0)

    def test_second(self) -> None:
        """A second one beside the first says in one line why not, and leaves the first alone."""
        first = Demonstration(self.directory)
        self.addCleanup(first.end)
        first.wait_until_up()
        for name in ("var", "other"):
            command = [sys.executable, "-m", "gateway.ctl.demo", name]
            second = subprocess.run(
                command, cwd=self.directory, capture_output=True, text=True, timeout=DEADLINE, check=False
            )
            self.assertEqual(second.returncode, 1)
            self.assertEqual(second.stdout, "")
            self.assertRegex(second.stderr, r"\Agateway: port 54323[^\n]* is taken[^\n]*\n\Z")
        self.assertFalse((self.directory / "other").exists())
        ca = self.directory / "var" / "pki" / "ca.pem"
        curl("--cacert", ca, "-o", "/dev/null", first.link("download"))
        self.assertEqual(first.end(), 0)


class OptionTests(SynchronousTestCase):
    """``twistd gateway`` with options that start nothing."""

    def setUp(self) -> None:
        self.directory = short_directory()
        self.addCleanup(shutil.rmtree, self.directory)
        self.gateway = Gateway(self.directory)

    def twistd(self, *options: str) -> subprocess.CompletedProcess[str]:
        program = need("twistd", "pip install -e .")
        command = [program, "--nodaemon", "--pidfile=", "gateway", "--config", str(self.gateway.config_file)]
        return subprocess.run(
            [*command, *options],
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

    def test_check(self) -> None:
        """A good configuration is printed, and nothing is started."""
        done = self.twistd("--check")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn("[images]", done.stdout)
        self.assertIn(str(self.gateway.certificate), done.stdout)
        self.assertFalse((self.directory / "run").exists())

    def test_check_refuses(self) -> None:
        """All that is wrong is said at once, with file, section and key; the status is 78."""
        text = self.gateway.config_file.read_text()
        text = text.replace("drain_timeout = 1s", "drain_timeout = soon")
        text = text.replace("file_roots = images", "file_roots = images\nfile_rots = images")
        self.gateway.config_file.write_text(text)
        for options in (("--check",), ("--show-config",), ()):
            done = self.twistd(*options)
            self.assertEqual((done.returncode, done.stdout), (EX_CONFIG, ""), options)
            for words in (("[gateway]", "drain_timeout"), ("[images]", "file_rots")):
                found = [line for line in done.stderr.splitlines() if all(word in line for word in words)]
                self.assertEqual(len(found), 1, done.stderr)
                self.assertIn(str(self.gateway.config_file), found[0])
            self.assertNotIn("Traceback", done.stderr)

    def test_check_opens_files(self) -> None:
        """A file that is named and not there is a problem of the configuration."""
        self.gateway.key.unlink()
        done = self.twistd("--check")
        self.assertEqual(done.returncode, EX_CONFIG)
        self.assertIn("[tls] key", done.stderr)

    def test_show_config(self) -> None:
        """The effective configuration is one JSON document, defaults included."""
        done = self.twistd("--show-config")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        shown = json.loads(done.stdout)
        self.assertIn(f"tcp:{self.gateway.port}", json.dumps(shown["images"]["listen"]))
        self.assertIn("minimum", shown["tls"])


class ReloadTests(GatewayCase):
    """SIGHUP to a running gateway."""

    text: str

    def setUp(self) -> None:
        self.text = self.gateway.config_file.read_text()
        self.addCleanup(self.gateway.config_file.write_text, self.text)

    def hang_up(self, expected: str) -> str:
        """Send SIGHUP; return what was logged until *expected* was."""
        before = len(self.gateway.log())
        os.kill(self.gateway.pid, signal.SIGHUP)
        wait_for(lambda: expected in self.gateway.log()[before:], f"{expected!r} in the log")
        return self.gateway.log()[before:]

    def serial(self) -> int:
        """Of the certificate that new connections get."""
        with self.gateway.connect() as connection:
            found = connection.getpeercert(binary_form=True)
        assert found is not None
        return x509.load_der_x509_certificate(found).serial_number

    def test_broken(self) -> None:
        """A broken configuration is reported with file, section and key, and everything stays as it was."""
        before = self.serial()
        self.gateway.config_file.write_text(self.text.replace("drain_timeout = 1s", "drain_timeout = soon"))
        said = self.hang_up("not reloaded")
        for part in (str(self.gateway.config_file), "[gateway]", "drain_timeout"):
            self.assertIn(part, said)
        self.assertNotIn("Traceback", said)
        self.assertEqual(self.gateway.ask("GET", "/info/").status, 200)
        self.assertEqual(self.serial(), before)

    def test_mismatched_key(self) -> None:
        """A key that does not belong to the certificate changes nothing either."""
        other = dev_pki.make(self.home / "other")
        before = self.serial()
        key = self.text.replace(f"key = {self.gateway.key}", f"key = {other.gateway_key}")
        self.gateway.config_file.write_text(key)
        self.assertNotIn("Traceback", self.hang_up("not reloaded"))
        self.assertEqual(self.serial(), before)

    def test_new_certificate(self) -> None:
        """New connections get the new certificate; those that live keep on working."""
        old = self.gateway.client()
        self.addCleanup(old.close)
        old.request("GET", "/info/")
        old.getresponse().read()
        other = dev_pki.make(self.home / "new")
        text = self.text.replace(str(self.gateway.certificate), str(other.gateway))
        self.gateway.config_file.write_text(text.replace(str(self.gateway.key), str(other.gateway_key)))
        self.hang_up("reloaded ")
        with self.assertRaises(ssl.SSLCertVerificationError):
            self.gateway.connect()
        first, self.gateway.ca = self.gateway.ca, other.ca
        try:
            wanted = x509.load_pem_x509_certificate(other.gateway.read_bytes()).serial_number
            self.assertEqual(self.serial(), wanted)
        finally:
            self.gateway.ca = first
        old.request("GET", "/info/")
        self.assertEqual(old.getresponse().status, 200)
        self.gateway.config_file.write_text(self.text)
        self.hang_up("reloaded ")
        self.serial()
