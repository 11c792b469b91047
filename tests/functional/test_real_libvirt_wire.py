"""Our words and those of a real libvirtd, byte by byte; and what is large, fast, or a descriptor."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from gateway import errors
from gateway.rpc.connection import LibvirtConnection
from gateway.rpc.stream import Stream
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_message import (
    KEEPALIVE,
    Message,
    MessageReader,
    Status,
    Type,
    pack_error,
    read_error,
)
from gateway.wire.libvirt_schema import PROCEDURES, procedure, record
from tests.functional import libvirt_burst
from tests.functional.case import PYTEST_ONLY
from tests.functional.commands import need
from tests.functional.daemon_case import daemon_of
from tests.functional.libvirt_daemon import PACKAGES, Libvirtd
from tests.functional.processes import DEADLINE, MIB
from tests.functional.recording_tap import Recorded, Tap
from tests.support import ReactorTestCase

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

#: Of the test driver; a semicolon separates two commands in one connection.
TEST_WORDS = """
    version; uri; hostname; sysinfo; capabilities; domcapabilities; nodeinfo; nodememstats; nodecpustats
    nodesuspend mem 60; maxvcpus; freecell --all; freepages --all; cpu-models x86_64; node-memory-tune
    list --all; list --id --inactive; dominfo test; domstate test --reason; domstats; domid test; domuuid 1
    dumpxml test; dumpxml test --inactive --security-info; domblklist test; domiflist test; vcpuinfo test
    vcpucount test; vcpupin test; emulatorpin test; domblkstat test vda; domifstat test eth0
    dommemstat test; schedinfo test; memtune test; numatune test; blkiotune test; domjobinfo test
    domifaddr test; domhostname test; desc test; desc test new description
    metadata test http://example.invalid/; domtime test; domfsinfo test; guestinfo test; domdisplay test
    domcontrol test; domrename test other; domrename other test; suspend test; resume test; reboot test
    shutdown test; start test; managedsave test; start test; destroy test; start test --paused; resume test
    setmem test 1048576; setmaxmem test 4194304; setvcpus test 2; autostart test; autostart test --disable
    snapshot-create-as test s1 words; snapshot-create-as test s2; snapshot-list test --tree
    snapshot-info test s1; snapshot-current test; snapshot-dumpxml test s1; snapshot-parent test s2
    snapshot-revert test s1; snapshot-delete test s1; snapshot-delete test s2; checkpoint-list test
    dominfo nobody; net-list --all; net-info default; net-dumpxml default; net-destroy default
    net-start default; net-autostart default; net-dhcp-leases default; net-port-list default
    net-uuid default; iface-list --all; iface-dumpxml eth1; iface-mac eth1; pool-list --all --details
    pool-info default-pool; pool-dumpxml default-pool; vol-list default-pool
    vol-create-as default-pool v1 1M; vol-info v1 default-pool; vol-dumpxml v1 default-pool
    vol-path v1 default-pool; vol-key v1 default-pool; vol-pool /default-pool/v1
    vol-clone v1 v2 default-pool; vol-delete v1 default-pool; pool-destroy default-pool
    pool-start default-pool; pool-refresh default-pool; pool-uuid default-pool
    find-storage-pool-sources dir; nodedev-list; nodedev-list --tree; secret-list; nwfilter-list
    nwfilter-binding-list; send-key test KEY_A; send-process-signal test 1 term; inject-nmi test
    attach-disk test /x vdx; detach-disk test vda; qemu-monitor-command test x; qemu-agent-command test x
    migrate-setmaxdowntime test 5; migrate-getspeed test; blockjob test vda; blockresize test vda 1M
    domfstrim test; domfsfreeze test; set-user-password test a b; perf test; iothreadinfo test
    iothreadadd test 1; event --all --timeout 1; undefine test; lxc-enter-namespace test /bin/true
"""
LIVE_WORDS = """
    list --all; dominfo tiny; domstate tiny --reason; dumpxml tiny; domstats; domstats --raw tiny
    vncdisplay tiny; vcpuinfo tiny; vcpucount tiny; vcpupin tiny; emulatorpin tiny; iothreadinfo tiny
    dommemstat tiny; domdisplay tiny; domjobinfo tiny; domcontrol tiny; guestvcpus tiny; schedinfo tiny
    cpu-stats tiny; suspend tiny; resume tiny; reset tiny; send-key tiny KEY_ENTER
    snapshot-create-as tiny s1; snapshot-list tiny; ttyconsole tiny; blkdeviotune tiny vda
    domblkstat tiny vda; domblkinfo tiny --all; domblkerror tiny; domblklist tiny
    screenshot tiny {home}/shot; qemu-monitor-command tiny --hmp info version; qemu-agent-command tiny x
    capabilities; domcapabilities; nodeinfo; nodedev-list; secret-list; nwfilter-list; iface-list
    net-list --all; pool-list --all --details; pool-info p1; pool-dumpxml p1
    vol-create-as p1 v1 4M --format raw; vol-list p1 --details; vol-upload v1 {home}/up --pool p1
    vol-download v1 {home}/down --pool p1; vol-info v1 p1; vol-dumpxml v1 p1
    vol-upload v1 {home}/up --pool p1 --sparse; vol-download v1 {home}/sparse --pool p1 --sparse
    vol-wipe v1 p1; vol-resize v1 8M --pool p1; vol-clone v1 v2 p1; vol-delete v2 p1; pool-refresh p1
    event --all --timeout 1; metadata tiny http://example.invalid/; desc tiny words; autostart tiny
    managedsave-dumpxml tiny; checkpoint-list tiny; domtime tiny; domfsinfo tiny; guestinfo tiny
    domifaddr tiny; set-user-password tiny a b; domdirtyrate-calc tiny; start tiny; destroy tiny; start tiny
    console nobody
"""


def commands(text: str) -> list[str]:
    """One command each."""
    return [" ".join(each.split()) for each in text.replace("\n", ";").split(";") if each.strip()]


class LibvirtCase(ReactorTestCase):
    """One libvirtd for all tests of a class."""

    timeout = 150.0
    home: ClassVar[Path]
    daemon: ClassVar[Libvirtd]

    @classmethod
    def setUpClass(cls) -> None:
        cls.daemon = daemon_of(cls)
        cls.home = cls.daemon.directory

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor

    def on(self, url: str, act: Callable[[LibvirtConnection], Awaitable[None]]) -> Deferred[None]:
        """Have *act* done on a connection."""

        async def whole() -> None:
            connection = await libvirt_burst.connect(self.reactor, url)
            lost: Deferred[str] = Deferred()
            connection.lost = lost.callback
            try:
                await act(connection)
            finally:
                connection.abort("over")
                await lost

        return Deferred.fromCoroutine(whole())

    def check(self, connections: list[Recorded]) -> Counter[str]:
        """Every message is read by our schema and has the same bytes again; count them by name and kind."""
        seen: Counter[str] = Counter()
        for connection in connections:
            for data in (connection.said, connection.heard):
                reader, again = MessageReader(), bytearray()
                for message in reader.feed(bytes(data)):
                    seen[self.one(message)] += 1
                    again += message.pack() + bytes(message.descriptors)
                self.assertEqual(reader.held, 0)
                self.assertEqual(again, data)
        return seen

    def one(self, message: Message) -> str:
        payload = message.payload
        if message.program == KEEPALIVE:
            self.assertEqual(payload, b"")
            return "keepalive"
        known = PROCEDURES[message.program, message.procedure]
        if message.status == Status.ERROR:
            if payload or message.type != Type.STREAM:
                self.assertEqual(pack_error(read_error(payload)), payload)
            return "error"
        if message.type == Type.STREAM:
            return "stream"
        codec = known.results if message.type in (Type.REPLY, Type.REPLY_WITH_FDS) else known.arguments
        if message.type == Type.HOLE:
            codec = record("{hole}")
        values = codec.unpack(payload)
        self.assertEqual(codec.pack(values), payload, known.name)
        return f"{known.name} {Type(message.type).name.lower()}"


class GoldenTest(LibvirtCase):
    """What stock virsh and the daemon say to each other."""

    def recorded(self, driver: str, text: str) -> list[Recorded]:
        """Have virsh say *text* through a tap."""
        path = self.home / f"{driver}.tap"
        tap = Tap(path, self.daemon.socket)
        url = self.daemon.url(driver, socket=path)
        try:
            # Each line is one virsh; what it cannot do, it says and goes on.
            for line in text.strip().splitlines():
                words = [need("virsh", PACKAGES), "-k", "1", "-K", "5", "-c", url, line.strip().strip(";")]
                done = subprocess.run(
                    words, stdin=subprocess.DEVNULL, capture_output=True, timeout=150, check=False
                )
                self.assertNotIn(b"unknown command", done.stderr)
        finally:
            tap.stop()
        return tap.connections

    def test_test_driver(self) -> None:
        """Many commands on the test driver."""
        # Its state is shared, and lasts as long as a connection does.
        holder = subprocess.Popen(
            [need("virsh", PACKAGES), "-q", "-c", self.daemon.url("test")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert holder.stdin is not None and holder.stdout is not None
            holder.stdin.write(b"uri\n")
            holder.stdin.flush()
            while b"://" not in (line := holder.stdout.readline()):
                self.assertTrue(line, "virsh has ended")
            seen = self.check(self.recorded("test", TEST_WORDS))
        finally:
            holder.communicate(b"quit\n", timeout=DEADLINE)
        replies = [name for name in seen if name.endswith(" reply")]
        self.assertGreater(len(replies), 100)
        self.assertGreater(seen["error"], 10)
        self.assertIn("DOMAIN_SNAPSHOT_CREATE_XML reply", seen)

    def test_live_guest(self) -> None:
        """Many commands on a real guest, its volumes and its events."""
        self.daemon.tiny()
        self.addCleanup(self.daemon.virsh, "destroy", "tiny")
        self.daemon.pool()
        up = self.home / "up"
        up.write_bytes(os.urandom(MIB))
        os.truncate(up, 4 * MIB)
        seen = self.check(self.recorded("qemu", LIVE_WORDS.format(home=self.home)))
        for name in (
            "DOMAIN_SCREENSHOT reply",
            "STORAGE_VOL_UPLOAD call",
            "STORAGE_VOL_UPLOAD hole",
            "stream",
        ):
            self.assertIn(name, seen)
        self.assertEqual((self.home / "down").read_bytes(), up.read_bytes())


class LimitsTest(LibvirtCase):
    """What is fast, large or long."""

    def test_bursts(self) -> None:
        """Sixteen calls at once over TLS, again and again, are all answered; with either TLS of ours."""
        for fast in ("on", "off"):
            environment = {**os.environ, "GATEWAY_FAST": fast}
            command = [sys.executable, "-m", "tests.functional.libvirt_burst", self.daemon.url("test", "tls")]
            done = subprocess.run(
                [*command, "16", "100"], env=environment, capture_output=True, timeout=100, check=False
            )
            self.assertEqual(done.stdout.decode().strip(), "1600", done.stderr.decode())

    async def test_bursts_elsewhere(self) -> None:
        """So they are without TLS."""
        for transport in ("unix", "tcp"):
            answered = await libvirt_burst.bursts(self.reactor, self.daemon.url("test", transport), 16, 50)
            self.assertEqual(answered, 800)

    def test_large_description(self) -> Deferred[None]:
        """XML of nearly 4 MiB goes and comes; of 8 MiB it is refused here, and the connection lives on."""

        async def act(connection: LibvirtConnection) -> None:
            define, read = procedure("DOMAIN_DEFINE_XML_FLAGS"), procedure("DOMAIN_GET_XML_DESC")
            template = (
                "<domain type='test'><name>big</name><memory>1024</memory><description>{}</description>"
            )
            template += "<os><type>hvm</type></os></domain>"
            words = "x" * (4 * MIB - 4096)
            dom = (await connection.call(define, {"xml": template.format(words), "flags": 0}))["dom"]
            xml = (await connection.call(read, {"dom": dom, "flags": 0}))["xml"]
            self.assertIn(words, xml)
            with self.assertRaises(errors.BadArguments) as caught:
                await connection.call(define, {"xml": template.format(words * 2), "flags": 0})
            self.assertEqual(caught.exception.path, "xml")
            # What grows beyond it on the way back is refused there, for that call alone.
            grows = template.format(">" * (2 * MIB)).replace("big", "grows")
            dom = (await connection.call(define, {"xml": grows, "flags": 0}))["dom"]
            with self.assertRaises(LibvirtError):
                await connection.call(read, {"dom": dom, "flags": 0})
            self.assertEqual((await connection.call(procedure("CONNECT_GET_TYPE")))["type"].upper(), "TEST")

        return self.on(self.daemon.url("test"), act)

    def test_large_message(self) -> Deferred[None]:
        """8 MiB of XML in one message, in parts that each are short enough, arrives whole."""

        async def act(connection: LibvirtConnection) -> None:
            dom = (await connection.call(procedure("DOMAIN_LOOKUP_BY_NAME"), {"name": "test"}))["dom"]
            text = "y" * (4 * MIB - 64)
            arguments: Mapping[str, object] = {
                "dom": dom,
                "type": 2,
                "metadata": f"<a>{text}</a>",
                "key": "k",
            }
            arguments = {**arguments, "uri": "http://example.invalid/" + "u" * (4 * MIB - 64), "flags": 0}
            await connection.call(procedure("DOMAIN_SET_METADATA"), arguments)

        return self.on(self.daemon.url("test"), act)

    def test_silence(self) -> Deferred[None]:
        """Keepalive goes both ways: with a daemon that asks every second, an idle connection lives."""
        other = Libvirtd(self.home, "ask", settings={"keepalive_interval": 1, "keepalive_count": 4})
        self.addCleanup(other.stop)
        other.start()

        async def act(connection: LibvirtConnection) -> None:
            # Who does not answer is cut after five seconds.
            await deferLater(self.reactor, 8.0)
            self.assertTrue(connection.alive)
            await connection.call(procedure("CONNECT_GET_TYPE"))

        return self.on(other.url("test"), act)


class GuestTest(LibvirtCase):
    """A real guest, its console and its volumes."""

    dom: ClassVar[dict[str, Any]]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        uuid = cls.daemon.tiny()
        cls.dom = {"name": "", "uuid": uuid, "id": -1}
        cls.daemon.pool()
        cls.daemon.virsh("vol-create-as", "p1", "v1", "16M", "--format", "raw")

    def stream(
        self,
        name: str,
        arguments: Mapping[str, object],
        transport: str,
        use: Callable[[Stream], Awaitable[None]],
    ) -> Deferred[None]:
        async def act(connection: LibvirtConnection) -> None:
            _, stream = await connection.stream(procedure(name), arguments)
            await use(stream)

        return self.on(self.daemon.url("qemu", transport), act)

    async def volume(self) -> dict[str, Any]:
        found: list[dict[str, Any]] = []

        async def act(connection: LibvirtConnection) -> None:
            pool = (await connection.call(procedure("STORAGE_POOL_LOOKUP_BY_NAME"), {"name": "p1"}))["pool"]
            arguments = {"pool": pool, "name": "v1"}
            found.append((await connection.call(procedure("STORAGE_VOL_LOOKUP_BY_NAME"), arguments))["vol"])

        await self.on(self.daemon.url("qemu"), act)
        return {"vol": found[0], "offset": 0, "length": 0, "flags": 0}

    async def test_volume(self) -> None:
        """What is uploaded is what is downloaded, over a socket and over TLS."""
        arguments = await self.volume()
        for transport in ("unix", "tls"):
            data = os.urandom(16 * MIB)
            got: list[bytes] = []

            async def upload(stream: Stream, data: bytes = data) -> None:
                # In one go, for the transport to queue, and in pieces that fit no message.
                half = len(data) // 2
                stream.write(data[:half])
                for at in range(half, len(data), 300_001):
                    stream.write(memoryview(data)[at : at + 300_001])
                await stream.finish()

            async def download(stream: Stream, got: list[bytes] = got) -> None:
                def take(piece: bytes) -> None:
                    got.append(piece)
                    if len(got) % 10 == 0:
                        stream.pauseProducing()
                        self.reactor.callLater(0.001, stream.resumeProducing)

                await stream.deliver(take)

            await self.stream("STORAGE_VOL_UPLOAD", arguments, transport, upload)
            await self.stream("STORAGE_VOL_DOWNLOAD", arguments, transport, download)
            self.assertEqual(b"".join(got), data)

    async def test_full(self) -> None:
        """An upload beyond the volume's end fails in the hypervisor's words."""

        async def use(stream: Stream) -> None:
            stream.write(bytes(2 * MIB))
            with self.assertRaises(LibvirtError):
                await stream.finish()

        arguments = await self.volume() | {"length": MIB}
        await self.stream("STORAGE_VOL_UPLOAD", arguments, "unix", use)

    def test_abort(self) -> Deferred[None]:
        """A download is given up, and the connection is good for more."""

        async def act(connection: LibvirtConnection) -> None:
            arguments = await self.volume()
            _, stream = await connection.stream(procedure("STORAGE_VOL_DOWNLOAD"), arguments)
            got: list[bytes] = []

            def take(data: bytes) -> None:
                got.append(data)
                stream.stopProducing()

            done = stream.deliver(take)
            with self.assertRaises(errors.Interrupted):
                await done
            self.assertEqual(len(got), 1)
            self.assertEqual((await connection.call(procedure("CONNECT_GET_TYPE")))["type"], "QEMU")

        return self.on(self.daemon.url("qemu"), act)

    def test_console(self) -> Deferred[None]:
        """The firmware's words come through a console, and ours go there."""
        heard: Deferred[None] = Deferred()
        got = bytearray()

        def take(data: bytes) -> None:
            got.extend(data)
            if b"SeaBIOS" in got and not heard.called:
                heard.callback(None)

        async def act(connection: LibvirtConnection) -> None:
            arguments = {"dom": self.dom, "dev_name": None, "flags": 1}
            _, stream = await connection.stream(procedure("DOMAIN_OPEN_CONSOLE"), arguments)
            done = stream.deliver(take)
            stream.write(b"x")
            await self.on(self.daemon.url("qemu"), reset)
            await heard
            await stream.finish()
            await done

        async def reset(connection: LibvirtConnection) -> None:
            await connection.call(procedure("DOMAIN_RESET"), {"dom": self.dom, "flags": 0})

        return self.on(self.daemon.url("qemu"), act)

    def test_console_of_virsh(self) -> None:
        """What stock virsh says and hears on a console has the same bytes with us."""
        tap = Tap(self.home / "console.tap", self.daemon.socket)
        master, slave = os.openpty()
        url = self.daemon.url("qemu", socket=tap.path)
        command = [need("virsh", PACKAGES), "-c", url, "console", self.dom["uuid"], "--force"]
        shell = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        try:
            got, again = b"", True
            while b"SeaBIOS" not in got:
                # It says that before it listens, and may have missed what the firmware said.
                if select.select([master], [], [], 5.0)[0]:
                    got += os.read(master, 4096)
                else:
                    again = True
                if again and b"Escape character" in got:
                    self.daemon.virsh("reset", self.dom["uuid"])
                    again = False
            # The key that leaves it, which counts as such at the beginning of a read.
            while shell.poll() is None:
                os.write(master, b"\x1d")
                time.sleep(0.1)
        finally:
            shell.kill()
            shell.wait()
            tap.stop()
            os.close(master)
            os.close(slave)
        seen = self.check(tap.connections)
        self.assertGreater(seen["stream"], 2)
        self.assertIn("DOMAIN_OPEN_CONSOLE reply", seen)

    def test_screenshot(self) -> Deferred[None]:
        """A picture of the screen, and what kind it is."""

        async def act(connection: LibvirtConnection) -> None:
            arguments = {"dom": self.dom, "screen": 0, "flags": 0}
            values, stream = await connection.stream(procedure("DOMAIN_SCREENSHOT"), arguments)
            got: list[bytes] = []
            await stream.deliver(got.append)
            self.assertEqual(values, {"mime": "image/png"})
            self.assertTrue(b"".join(got).startswith(b"\x89PNG"))

        return self.on(self.daemon.url("qemu"), act)

    def test_descriptor(self) -> Deferred[None]:
        """The screen as a connected socket: RFB greets us on it, again and again."""

        async def act(connection: LibvirtConnection) -> None:
            for _ in range(5):
                arguments = {"dom": self.dom, "idx": 0, "flags": 1}
                got = await connection.descriptor(procedure("DOMAIN_OPEN_GRAPHICS_FD"), arguments)
                screen = socket.socket(fileno=got)
                screen.settimeout(20)
                with screen:
                    self.assertEqual(screen.recv(12), b"RFB 003.008\n")
            with self.assertRaises(LibvirtError):
                arguments = {"dom": self.dom, "idx": 9, "flags": 1}
                await connection.descriptor(procedure("DOMAIN_OPEN_GRAPHICS_FD"), arguments)

        return self.on(self.daemon.url("qemu"), act)
