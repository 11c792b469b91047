"""Every transport to a real libvirtd, through a real sshd and real programs; and what goes wrong there."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from attrs import evolve
from cryptography.x509 import load_pem_x509_certificate
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from gateway.core import dev_pki
from gateway.core.clock import wall
from gateway.core.dial import Dialer
from gateway.core.policy import Policy, parse_rule
from gateway.errors import Forbidden, GatewayError, Interrupted, UpstreamFailed
from gateway.rpc.connection import LibvirtConnection
from gateway.rpc.transports import Transports
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_schema import procedure
from gateway.wire.libvirt_url import LibvirtUrl, parse_url
from tests.core.test_dial import Names
from tests.functional.case import PYTEST_ONLY
from tests.functional.daemon_case import daemon_of
from tests.functional.libvirt_daemon import Libvirtd
from tests.functional.processes import HOST, short_directory
from tests.functional.ssh_server import Sshd
from tests.support import ReactorTestCase

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

HOSTNAME, URI = procedure("CONNECT_GET_HOSTNAME"), procedure("CONNECT_GET_URI")


class TransportsTest(ReactorTestCase):
    """One libvirtd and one sshd for all tests."""

    home: ClassVar[Path]
    daemon: ClassVar[Libvirtd]
    sshd: ClassVar[Sshd]
    timeout = 200.0

    @classmethod
    def setUpClass(cls) -> None:
        cls.daemon = daemon_of(cls)
        cls.home = cls.daemon.directory
        # A daemon without privileges has no socket for readers; that of the whole machine has one.
        cls.daemon.socket.with_name("libvirt-sock-ro").symlink_to(cls.daemon.socket)
        cls.sshd = Sshd(cls.home, cls.daemon.socket.parent)
        cls.addClassCleanup(cls.sshd.stop)
        cls.sshd.start()

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.events: list[Any] = []
        observer: Any = self.events.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def tearDown(self) -> Deferred[None]:  # type: ignore[override]  # trial waits for it
        return Deferred.fromCoroutine(self.alone())

    def transports(self, patience: float = 15.0, names: Names | None = None) -> Transports:
        rules = [parse_rule("libvirt://127.0.0.0/8:*"), parse_rule("libvirt://[::1]:*")]
        dialer = Dialer(self.reactor, Policy(rules), names)  # type: ignore[arg-type]  # a double
        return Transports(self.reactor, dialer, wall, patience=patience)

    async def open(
        self, text: str | LibvirtUrl, transports: Transports | None = None, *, readonly: bool = False
    ) -> LibvirtConnection:
        """A connection on which the hypervisor is open."""
        url = parse_url(text) if isinstance(text, str) else text
        connection = LibvirtConnection(self.reactor, tls=url.transport == "tls")
        lost: Deferred[str] = Deferred()
        connection.lost = lost.callback
        await (transports or self.transports()).connect(url, connection, readonly=readonly)
        try:
            await connection.open(url.name, readonly=readonly)
        except BaseException:
            if connection.alive:
                connection.abort("test")
            await lost
            raise
        self.lost = lost
        return connection

    async def answers(self, connection: LibvirtConnection, uri: str = "test:///default") -> None:
        """It does what it is there for; then it is closed."""
        self.assertEqual((await connection.call(HOSTNAME))["hostname"], os.uname().nodename)
        self.assertEqual((await connection.call(URI))["uri"], uri)
        connection.close()
        await self.lost

    async def fails(
        self, kind: type[GatewayError], text: str | LibvirtUrl, transports: Transports | None = None
    ) -> GatewayError:
        failed: Any = self.assertFailure(Deferred.fromCoroutine(self.open(text, transports)), kind)
        failure: GatewayError = await failed
        return failure

    async def alone(self) -> None:
        """No process that a connection has started is left, nor anything that waits for one."""
        known = {self.daemon.pid, self.sshd.pid}
        await self.until(lambda: not children() - known)
        await self.until(lambda: not any("_Helper" in repr(it.func) for it in self.reactor.getDelayedCalls()))

    async def hears(self, words: str) -> None:
        """The log has *words* of a program."""
        await self.until(lambda: any(words in str(it["said"]) for it in self.events if "said" in it))

    def program(self, text: str) -> str:
        path = self.home / "hop"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return f"test+ext:///default?command={path}"

    def pki(self, *names: str) -> Path:
        """A directory with some of the client's files."""
        path = self.home / self.id().rpartition(".")[2]
        path.mkdir(exist_ok=True)
        for name in names:
            shutil.copy(self.daemon.client_pki / name, path / name)
        return path

    async def test_every_transport(self) -> None:
        """All five open and answer, and so do the other names of ssh."""
        relay = self.program(f"exec nc -U {self.daemon.socket}")
        ssh = self.sshd.url(socket=self.daemon.socket)
        for text in (
            self.daemon.url(),
            self.daemon.url(transport="tcp"),
            self.daemon.url(transport="tls"),
            self.daemon.url(transport="tls").replace("localhost", HOST).replace("test+tls", "test"),
            self.daemon.url(transport="tls", verify_address="1"),
            self.daemon.url(transport="tls", tls_priority="NORMAL:-VERS-TLS1.3"),
            relay,
            ssh,
            ssh.replace(HOST, "localhost"),
            ssh.replace("+ssh:", "+libssh2:"),
            self.sshd.url(netcat="/usr/bin/nc"),
            self.sshd.url(proxy="native"),
            self.sshd.url(),
        ):
            await self.answers(await self.open(text))
        await self.answers(await self.open(self.daemon.url("qemu")), "qemu:///session")
        await self.answers(await self.open(self.daemon.url("remote", name="test:///default")))

    async def test_readonly(self) -> None:
        """Who only wants to read gets no more, on any transport."""
        destroy = procedure("DOMAIN_DESTROY")
        find = procedure("DOMAIN_LOOKUP_BY_NAME")
        for text in (
            self.daemon.url(),
            self.daemon.url(transport="tls"),
            self.sshd.url(proxy="netcat"),
            self.sshd.url(proxy="native"),
        ):
            connection = await self.open(text, readonly=True)
            domain = (await connection.call(find, {"name": "test"}))["dom"]
            failed: Any = self.assertFailure(connection.call(destroy, {"dom": domain}), LibvirtError)
            self.assertIn("read only access", (await failed).text)
            await self.answers(connection)

    async def test_many_calls(self) -> None:
        """A child process carries many calls at a time, as a socket does."""
        for text in (self.sshd.url(), self.program(f"exec nc -U {self.daemon.socket}")):
            connection = await self.open(text)
            found = await gatherResults([connection.call(URI) for _ in range(300)])
            self.assertEqual({it["uri"] for it in found}, {"test:///default"})
            await self.answers(connection)

    async def test_no_verify(self) -> None:
        """A certificate of another CA will do then, and the log says so each time."""
        pki = self.pki("clientcert.pem", "clientkey.pem")
        url = self.daemon.url(transport="tls", pkipath=pki)
        await self.fails(UpstreamFailed, url)
        for count in (1, 2):
            await self.answers(await self.open(url + "&no_verify=1"))
            told = [it for it in self.events if "no_verify" in it.get("log_format", "")]
            self.assertEqual([it["host"] for it in told], ["localhost"] * count)

    async def test_wrong_authority(self) -> None:
        """A CA of the same name is not the same CA."""
        pki = self.pki("clientcert.pem", "clientkey.pem")
        (pki / "cacert.pem").write_bytes(dev_pki.authority(datetime.now(UTC), "Test CA").pem)
        failure = await self.fails(UpstreamFailed, self.daemon.url(transport="tls", pkipath=pki))
        self.assertEqual(failure.reason, "tls")

    async def test_wrong_name(self) -> None:
        """The right machine under a name that its certificate does not have is the wrong one."""
        url = self.daemon.url(transport="tls").replace("localhost", "other.invalid")
        failure = await self.fails(UpstreamFailed, url, self.transports(names=Names(["127.0.0.1"])))
        self.assertEqual(failure.reason, "tls")

    async def test_revoked(self) -> None:
        """A hypervisor whose certificate was revoked is refused; another list lets it pass."""
        pki = self.pki("cacert.pem", "clientcert.pem", "clientkey.pem")
        now = datetime.now(UTC)
        server = load_pem_x509_certificate((self.daemon.server_pki / "servercert.pem").read_bytes())
        url = self.daemon.url(transport="tls", pkipath=pki)
        (pki / "cacrl.pem").write_bytes(self.daemon.authority.revoke([], now=now))
        await self.answers(await self.open(url))
        (pki / "cacrl.pem").write_bytes(self.daemon.authority.revoke([server], now=now))
        self.assertEqual((await self.fails(UpstreamFailed, url)).reason, "tls")

    async def test_our_certificate(self) -> None:
        """Without a certificate of ours the hypervisor does not want us, and that is what we hear."""
        failure = await self.fails(
            UpstreamFailed, self.daemon.url(transport="tls", pkipath=self.pki("cacert.pem"))
        )
        self.assertEqual(failure.reason, "tls")
        self.assertIn("did not accept our certificate", failure.text)

    async def test_hostile_hosts(self) -> None:
        """A host that is an option, or more than a host, gets nowhere, however the URL was made."""
        trace = self.home / "trace"
        for host in (
            f"-oProxyCommand=touch {trace}",
            f"-oLocalCommand=touch${{IFS}}{trace}",
            f"$(touch {trace})",
        ):
            for user in ("", f"-oProxyCommand=touch {trace}"):
                url = LibvirtUrl(driver="test", transport="ssh", user=user, host=host, path="/default")
                await self.fails(Forbidden, url)
        url = LibvirtUrl(driver="test", transport="ssh", user=f"-oProxyCommand=touch {trace}", host=HOST)
        self.assertEqual((await self.fails(UpstreamFailed, url)).reason, "url")
        for path in (f"/x;touch {trace}", f"/$(touch {trace})", "relative", f"/x' touch {trace} '"):
            for name in ("socket", "netcat"):
                url = evolve(parse_url(self.sshd.url()), **{name: path})  # type: ignore[arg-type]  # both are texts
                self.assertEqual((await self.fails(UpstreamFailed, url)).reason, "url")
        # One that may be said, but not run.
        text = self.sshd.url(proxy="native", name=f"test:///x'%24(touch%20{trace})'%60touch%20{trace}%60")
        await self.fails(Interrupted, text)
        self.assertFalse(trace.exists())

    async def test_dies(self) -> None:
        """A program that ends takes the connection with it; the log has its last words."""
        await self.fails(Interrupted, self.program("echo no way through >&2; exit 3"))
        await self.alone()
        await self.hears("no way through")
        other = self.home / "known"
        other.write_text("")
        await self.fails(Interrupted, self.sshd.url(known_hosts=other))
        await self.alone()
        await self.hears("Host key verification failed")
        await self.fails(Interrupted, self.sshd.url(socket="/nonexistent/sock"))
        await self.alone()
        await self.hears("/nonexistent/sock")
        key = self.home / "key"
        dev_pki.authority(datetime.now(UTC)).write(self.home, "key")
        await self.fails(Interrupted, self.sshd.url(keyfile=key))
        await self.alone()
        await self.hears("Permission denied")

    async def test_hangs(self) -> None:
        """A program that says nothing is given up in time, with all that it has started."""
        began = self.reactor.seconds()
        await self.fails(Interrupted, self.program("sleep 100 & sleep 100"), self.transports(patience=0.5))
        self.assertLess(self.reactor.seconds() - began, 10)

    async def test_garbage(self) -> None:
        """A program that speaks something else is told from a hypervisor at once, if it never ends, too."""
        for text in ("echo SSH-2.0-nonsense; sleep 100", "exec yes", "exec cat /dev/urandom", "exec cat"):
            await self.fails(Interrupted, self.program(text))

    async def test_killed(self) -> None:
        """When the daemon dies every transport notices, and goes through again once it is back."""
        texts = (
            self.daemon.url(),
            self.daemon.url(transport="tls"),
            self.sshd.url(),
            self.daemon.url(transport="tcp"),
        )
        lost = []
        for text in texts:
            await self.open(text)
            lost.append(self.lost)
        self.daemon.kill()
        await gatherResults(lost)
        failure = await self.fails(UpstreamFailed, self.daemon.url(transport="tcp"))
        self.assertEqual(failure.reason, "refused")
        await self.fails(UpstreamFailed, self.daemon.url())
        self.daemon.start()
        for text in texts:
            await self.answers(await self.open(text))


class DaemonTest(SynchronousTestCase):
    """What the other tests start their daemons with."""

    def test_guests(self) -> None:
        """Guests outlive their daemon however it ends, and nothing outlives the test."""
        home = short_directory()
        self.addCleanup(shutil.rmtree, home, ignore_errors=True)
        daemon, other = Libvirtd(home), Libvirtd(home, "l2")
        for it in (daemon, other):
            self.addCleanup(it.stop)
            it.start()
        uuid = daemon.tiny()
        (guest,) = daemon.guests()
        daemon.restart()
        daemon.restart(signal.SIGKILL)
        self.assertEqual(daemon.guests(), [guest])
        self.assertEqual(daemon.virsh("domuuid", "tiny").strip(), uuid)
        self.assertEqual(other.virsh("list", "--all").strip(), "")
        self.assertTrue(daemon.pool().is_dir())
        daemon.kill()
        daemon.stop()
        self.assertEqual(daemon.guests(), [])

    def test_stuck_guest(self) -> None:
        """A guest that is stopped, which a daemon waits for, does not keep either of them."""
        home = short_directory()
        self.addCleanup(shutil.rmtree, home, ignore_errors=True)
        daemon = Libvirtd(home)
        self.addCleanup(daemon.stop)
        daemon.start()
        daemon.tiny()
        (guest,) = daemon.guests()
        os.kill(guest, signal.SIGSTOP)
        waiting = subprocess.Popen(
            ["virsh", "-q", "-c", daemon.url("qemu"), "qemu-monitor-command", "tiny", "--hmp", "info status"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.addCleanup(waiting.wait)
        self.addCleanup(waiting.kill)
        daemon.stop()
        self.assertEqual(daemon.guests(), [])


def children() -> set[int]:
    """Process ids of our children."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            found |= set(map(int, (task / "children").read_text().split()))
    return found
