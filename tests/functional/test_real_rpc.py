"""Every command of the endpoint on a real libvirtd: what it does is looked up by virsh on the daemon."""

from __future__ import annotations

import json
import re
import time
from base64 import b64decode
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

from gateway import errors
from gateway.rpc import commands
from gateway.rpc.client import Domain, Event
from gateway.rpc.command import Command
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_schema import procedure
from tests.functional.case import PYTEST_ONLY
from tests.functional.commands import need, run
from tests.functional.console_client import Console
from tests.functional.libvirt_daemon import tiny
from tests.functional.processes import MIB
from tests.functional.rpc_case import RpcCase

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

Test = TypeVar("Test", bound=Callable[[Any], Awaitable[None]])
#: The commands that a test of this module tries. :mod:`tests.functional.test_real_rpc_access` has the rest.
TRIED: set[type[Command]] = set()
ELSEWHERE = {
    *(commands.Login, commands.Cancel),
    *(commands.AddTicket, commands.RenewTicket, commands.RevokeTicket, commands.GetTicket),
    *(commands.ListTickets, commands.Sessions, commands.EndSession, commands.Drain, commands.Reload),
    commands.Audit,
}

GUEST = """<domain type='test'><name>{name}</name><uuid>{uuid}</uuid><description>{text}</description>
<memory>65536</memory><os><type>hvm</type></os><on_reboot>destroy</on_reboot></domain>"""
NETWORK = "<network><name>{}</name><bridge name='gwbr9'/></network>"
POOL = "<pool type='dir'><name>{}</name><target><path>{}</path></target></pool>"
VOLUME = "<volume><name>{}</name><capacity>{}</capacity><target><format type='raw'/></target></volume>"


def tries(*tried: type[Command]) -> Callable[[Test], Test]:
    """The test tries these commands."""
    TRIED.update(tried)
    return lambda test: test


def guest(name: str, uuid: str = "", text: str = "") -> str:
    """XML for the test driver; it is stopped by a reboot."""
    return GUEST.format(name=name, uuid=uuid or uuid4(), text=text)


def facts(text: str) -> dict[str, str]:
    """What virsh says in lines of ``name: value``."""
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


class TableTests(RpcCase):
    """That nothing is forgotten."""

    @classmethod
    def setUpClass(cls) -> None:
        """It needs nobody."""

    def test_all(self) -> None:
        """Every command of the table is tried here or there."""
        self.assertEqual(TRIED | ELSEWHERE, set(commands.COMMANDS.values()))
        self.assertEqual(TRIED & ELSEWHERE, set())


class HypervisorTests(RpcCase):
    """Targets, handles, and the hypervisor behind one."""

    @tries(commands.Version, commands.Targets, commands.Open)
    async def test_targets(self) -> None:
        """Targets are told as they are: idle before somebody opens one, and up afterwards."""
        client = await self.client(self.grant(targets=("q*",)))
        self.assertEqual((await client.version())[1], 1)
        (known,) = await client.targets()
        self.assertEqual((known.name, known.driver), ("qemu", "qemu"))
        host = await client.open("qemu")
        (known,) = await client.targets()
        self.assertEqual((known.state, known.version), ("up", "9.0.0"))
        self.assertLess(known.latency or 9.0, 5.0)
        self.assertEqual(host.uri, "qemu:///session")

    @tries(commands.Renew, commands.Close, commands.Handles)
    async def test_handles(self) -> None:
        """A handle is good on every connection of its principal, until it is closed or its time is over."""
        client = await self.client(self.grant(principal="bob"))
        host = await client.open("test", ttl=60)
        brief = await client.open("test", ttl=1)
        self.assertGreater((await host.renew(120)).timestamp(), time.time() + 100)
        other = await self.client(self.grant(principal="bob"))
        known = await other.handles()
        self.assertEqual(
            [(it.target, it.in_use, it.expires) for it in known[:1]], [("test", True, host.expires)]
        )
        self.assertEqual(await other.host(host.handle).get_type(), "TEST")
        stranger = await self.client(self.grant(principal="eve"))
        self.assertEqual(await stranger.handles(), [])
        await self.raises(errors.NoHandle, stranger.host(host.handle).get_type())
        await self.sleep(1.1)
        await self.raises(errors.NoHandle, brief.get_type())
        await host.close()
        await self.raises(errors.NoHandle, host.get_type())
        self.assertEqual(await client.handles(), [])

    async def test_renewed_ticket(self) -> None:
        """Without a renewal a handle ends with its ticket; when that is renewed it goes on."""
        token = self.grant(timeout=8)
        client = await self.client(token)
        host, brief = await client.open("test"), await client.open("test", ttl=1)
        self.assertEqual(self.gateway.renew(token, 60).status, 200)
        await self.sleep(8.2)
        self.assertEqual(await host.get_type(), "TEST")
        await self.raises(errors.NoHandle, brief.get_type())

    @tries(commands.GetVersion, commands.GetType, commands.GetHostname, commands.GetUri)
    @tries(commands.GetNodeInfo, commands.GetCapabilities)
    async def test_hypervisor(self) -> None:
        """What is told about a hypervisor is what it says itself."""
        for driver in ("test", "qemu"):
            host = await self.host(driver)
            versions = await host.get_version()
            self.assertEqual(versions.library, 9_000_000)
            dotted = ".".join(str(versions.version // unit % 1000) for unit in (1_000_000, 1000, 1))
            self.assertIn(f" {dotted}\n", self.virsh("version", driver=driver))
            self.assertEqual(await host.get_type(), driver.upper())
            self.assertEqual(await host.get_hostname(), self.virsh("hostname", driver=driver).strip())
            self.assertEqual(
                await host.get_uri(), f"{driver}:///" + ("default" if driver == "test" else "session")
            )
            self.assertEqual(
                await host.get_capabilities(), self.virsh("capabilities", driver=driver).rstrip("\n") + "\n"
            )
            info, said = await host.get_node_info(), facts(self.virsh("nodeinfo", driver=driver))
            self.assertEqual(
                [
                    info.model,
                    str(info.cpus),
                    f"{info.mhz} MHz",
                    f"{info.memory // 1024} KiB",
                    str(info.nodes),
                ],
                [said[it] for it in ("CPU model", "CPU(s)", "CPU frequency", "Memory size", "NUMA cell(s)")],
            )
            rest = [said[it] for it in ("CPU socket(s)", "Core(s) per socket", "Thread(s) per core")]
            self.assertEqual([str(it) for it in (info.sockets, info.cores, info.threads)], rest)


class StatusTests(RpcCase):
    """How hypervisors are, for those who run the gateway."""

    def status(self) -> dict[str, dict[str, Any]]:
        return {it["target"]: it for it in self.gateway.control("GET", "/status").json()["targets"]}

    async def test_status(self) -> None:
        """The status tells of each target; one that is down leaves the gateway as ready as it was."""
        self.assertEqual([it["state"] for it in self.status().values()], ["idle", "idle"])
        host = await self.host()
        told = self.status()["test"]
        self.assertEqual((told["state"], told["generation"], told["error"]), ("up", 1, ""))
        self.assertGreater(told["latency"], 0)
        self.daemon.kill()
        await self.raises(errors.GatewayError, host.get_hostname())
        await self.until(lambda: self.status()["test"]["state"] == "down", "the loss")
        self.assertTrue(self.status()["test"]["error"])
        self.assertTrue(self.gateway.is_ready())
        control = ["--control", str(self.gateway.control_socket), "status"]
        before = self.status()["test"]["error"]
        shown = run([need("gatewayctl", "pip install -e ."), *control]).decode()
        # It tries again all the time, and may fail in another way.
        either = "|".join(map(re.escape, (before, self.status()["test"]["error"])))
        self.assertRegex(shown, rf"test +down .*({either})")
        self.assertRegex(shown, r"qemu +idle +- +0")
        self.daemon.start()
        await self.until(lambda: self.status()["test"]["state"] == "up", "the way back", 30)
        self.assertEqual(self.status()["test"]["generation"], 2)


class DomainTests(RpcCase):
    """Domains of the test driver, which does at once what it is asked."""

    def state(self, name: str) -> str:
        return self.virsh("domstate", name).strip()

    @tries(commands.Define, commands.Undefine, commands.Lookup)
    async def test_define(self) -> None:
        """A definition is there, is found by name, uuid and id, may be changed, and gone when forgotten."""
        host, uuid = await self.host(), str(uuid4())
        made = await host.define(guest("web", uuid))
        self.assertEqual((made.name, made.uuid), ("web", uuid))
        self.assertEqual(self.virsh("domuuid", "web").strip(), uuid)
        await host.define(guest("web", uuid, "changed"))
        self.assertEqual(self.virsh("desc", "web").strip(), "changed")
        number = await made.start()
        for wanted in ({"name": "web"}, {"uuid": uuid}, {"id": number}):
            found = await host.lookup(**wanted)
            self.assertEqual(
                (found.name, found.uuid, found.id, found.state), ("web", uuid, number, "running")
            )
            self.assertEqual(found.dom, made.dom)
        await made.destroy()
        self.assertEqual((await host.lookup(name="web")).state, "shutoff")
        await made.undefine()
        self.assertNotIn("web", self.virsh("list", "--all", "--name"))
        for wanted in ({"name": "web"}, {"uuid": uuid}, {"id": number}):
            error = await self.raises(LibvirtError, host.lookup(**wanted))
            self.assertEqual(error.code, 42)
        self.assertEqual((await self.raises(LibvirtError, made.get_info())).code, 42)

    @tries(commands.Create, commands.Start, commands.Suspend, commands.Resume, commands.Shutdown)
    @tries(commands.Destroy, commands.Reboot)
    async def test_life(self) -> None:
        """A domain does what it is told, and nothing else does."""
        host = await self.host()
        created = await host.create(guest("passing"))
        self.assertEqual(
            (self.state("passing"), facts(self.virsh("dominfo", "passing"))["Persistent"]), ("running", "no")
        )
        await created.destroy()
        self.assertNotIn("passing", self.virsh("list", "--all", "--name"))
        dom = await host.define(guest("db"))
        for act, state in (
            (dom.start, "running"),
            (dom.suspend, "paused"),
            (dom.resume, "running"),
            (dom.shutdown, "shut off"),
            (dom.start, "running"),
            (dom.reboot, "shut off"),
            (dom.start, "running"),
            (dom.destroy, "shut off"),
        ):
            await act()
            self.assertEqual(self.state("db"), state, act)
        number = await dom.start()
        self.assertEqual(self.virsh("domid", "db").strip(), str(number))
        await dom.destroy()
        await dom.undefine()

    @tries(commands.SetAutostart, commands.GetAutostart)
    async def test_autostart(self) -> None:
        """A domain that is to start with its host is one to the daemon, too."""
        dom = await (await self.host()).lookup(name="test")
        for on, word in ((True, "enable"), (False, "disable")):
            await dom.set_autostart(on)
            self.assertEqual(facts(self.virsh("dominfo", "test"))["Autostart"], word)
            self.assertEqual(await dom.get_autostart(), on)

    @tries(commands.GetInfo, commands.GetState, commands.GetXml, commands.GetInterfaces)
    async def test_reads(self) -> None:
        """What is told about a domain is what the daemon says."""
        dom = await (await self.host()).lookup(name="test")
        info, said = await dom.get_info(), facts(self.virsh("dominfo", "test"))
        self.assertEqual((info.state, said["State"]), ("running", "running"))
        self.assertEqual(
            [said["Max memory"], said["Used memory"]],
            [f"{it // 1024} KiB" for it in (info.max_memory, info.memory)],
        )
        self.assertEqual(said["CPU(s)"], str(info.cpus))
        self.assertLess(abs(float(said["CPU time"].rstrip("s")) - info.cpu_time), 60.0)
        state = await dom.get_state()
        self.assertIn(
            f"running ({state.reason})", self.virsh("domstate", "test", "--reason").replace("\n", "")
        )
        self.assertEqual(await dom.get_xml(), self.virsh("dumpxml", "test").rstrip("\n") + "\n")
        self.assertEqual(
            await dom.get_xml(2), self.virsh("dumpxml", "test", "--inactive").rstrip("\n") + "\n"
        )
        (interface,) = await dom.get_interfaces()
        (line,) = self.virsh("domifaddr", "test").splitlines()
        self.assertEqual(line.split(), [interface.name, interface.mac, "ipv4", *interface.addresses])
        error = await self.raises(errors.BadArguments, dom.get_interfaces("guess"))
        self.assertEqual(error.path, "source")

    @tries(commands.GetStats)
    async def test_stats(self) -> None:
        """Counters are those of the daemon, by their names; one that does not exist has none."""
        host = await self.host()
        dom = await host.lookup(name="test")
        self.assertEqual(await dom.get_stats(1), {"state.state": 1, "state.reason": 0})
        made = await host.define(guest("counted"))
        await made.undefine()
        self.assertEqual((await self.raises(LibvirtError, made.get_stats())).code, 42)

    @tries(commands.ListSnapshots, commands.GetSnapshotXml, commands.CreateSnapshot, commands.RevertSnapshot)
    @tries(commands.DeleteSnapshot)
    async def test_snapshots(self) -> None:
        """A snapshot is taken, found, returned to, and deleted."""
        host = await self.host()
        dom = await host.define(guest("saved"))
        names = [
            await dom.create_snapshot(f"<domainsnapshot><name>s{n}</name></domainsnapshot>") for n in range(5)
        ]
        self.assertEqual(self.virsh("snapshot-list", "saved", "--name").split(), names)
        self.assertEqual(await dom.list_snapshots(), names)
        answer = await self.ask(host, commands.ListSnapshots, dom=dom.dom, limit=2)
        self.assertEqual(([it["name"] for it in answer["snapshots"]], answer["cursor"]), (["s0", "s1"], "s1"))
        answer = await self.ask(host, commands.ListSnapshots, dom=dom.dom, limit=2, cursor="s3")
        self.assertEqual(([it["name"] for it in answer["snapshots"]], answer["cursor"]), (["s4"], ""))
        self.assertEqual(
            await dom.get_snapshot_xml("s1"),
            self.virsh("snapshot-dumpxml", "saved", "s1").rstrip("\n") + "\n",
        )
        await dom.start()
        await dom.revert_snapshot("s1")
        self.assertEqual(self.state("saved"), "shut off")
        self.assertEqual(self.virsh("snapshot-current", "saved", "--name").strip(), "s1")
        for name in names:
            await dom.delete_snapshot(name)
        self.assertEqual(self.virsh("snapshot-list", "saved", "--name").split(), [])
        own = await dom.create_snapshot()
        self.assertEqual(self.virsh("snapshot-list", "saved", "--name").split(), [own])
        await dom.delete_snapshot(own)
        await dom.undefine()

    async def ask(self, host: Any, command: type[Command], **arguments: Any) -> dict[str, Any]:
        """A command as it stands in the table, by the client of *host*."""
        answer: dict[str, Any] = await self._clients[-1].ask(command, **arguments)
        return answer

    @tries(commands.ListDomains)
    async def test_pages(self) -> None:
        """A long list comes in pages, each thing once, also on another connection and while it changes."""
        host = await self.host()
        made = [await host.define(guest(f"many{n}")) for n in range(300)]
        whole = sorted(self.virsh("list", "--all", "--uuid").split())
        self.assertEqual([it.uuid for it in await host.list_domains()], whole)
        found: list[str] = []
        cursor = None
        while cursor != "":
            client = await self.client()
            answer = await client.ask(commands.ListDomains, handle=host.handle, limit=70, cursor=cursor)
            found += [it["uuid"] for it in answer["domains"]]
            cursor = answer["cursor"]
            self.assertEqual(cursor, found[-1] if len(found) < len(whole) else "")
            if len(found) == 70:
                gone = next(it for it in made if it.uuid > found[-1])
                await gone.undefine()
                whole.remove(gone.uuid)
        self.assertEqual(found, whole)
        off = await host.list_domains(2)
        self.assertEqual({it.state for it in off}, {"shutoff"})
        self.assertEqual(
            sorted(it.name for it in off), sorted(self.virsh("list", "--inactive", "--name").split())
        )
        for dom in off:
            await dom.undefine()

    async def test_big(self) -> None:
        """XML of 3 MiB goes, and comes, whole; what is too large is refused, and the connection stays."""
        host, text = await self.host(token=self.unchecked()), "täxt 64 " * (3 * MIB // 9)
        dom = await host.define(guest("big", text=text))
        xml = await dom.get_xml()
        self.assertGreater(len(xml.encode()), 3 * MIB * 0.95)
        self.assertEqual(xml, self.virsh("dumpxml", "big").rstrip("\n") + "\n")
        error = await self.raises(errors.TooLarge, host.define(guest("big", text=text * 2)))
        self.assertEqual(error.details["limit"], 4 * MIB)
        self.assertEqual((await host.lookup(name="big")).uuid, dom.uuid)
        await dom.undefine()

    @tries(commands.Call)
    async def test_call(self) -> None:
        """Every other procedure can be called by name, with what the daemon says as its answer."""
        host = await self.host()
        dom = await host.lookup(name="test")
        ref = {"name": dom.name, "uuid": dom.uuid, "id": dom.id}
        every = {"need_results": 1, "flags": 0}
        for name, arguments, wanted in (
            ("CONNECT_GET_MAX_VCPUS", {"type": None}, {"max_vcpus": int(self.virsh("maxvcpus"))}),
            ("CONNECT_NUM_OF_DOMAINS", {}, {"num": 1}),
            ("CONNECT_LIST_DOMAINS", {"maxids": 10}, {"ids": [1]}),
            (
                "CONNECT_LIST_ALL_INTERFACES",
                every,
                {"ifaces": [{"name": "eth1", "mac": "aa:bb:cc:dd:ee:ff"}], "ret": 1},
            ),
            ("NODE_GET_FREE_MEMORY", {}, {"freeMem": 1024 * int(self.virsh("freecell").split()[1])}),
            ("NODE_GET_CELLS_FREE_MEMORY", {"startCell": 0, "maxcells": 4}, {"cells": [2097152, 4194304]}),
            ("CONNECT_GET_SYSINFO", {"flags": 0}, {"sysinfo": self.virsh("sysinfo").rstrip("\n") + "\n"}),
            ("DOMAIN_GET_MAX_VCPUS", {"dom": ref}, {"num": 2}),
            ("DOMAIN_IS_ACTIVE", {"dom": ref}, {"active": 1}),
            ("DOMAIN_GET_OS_TYPE", {"dom": ref}, {"type": "linux"}),
            ("DOMAIN_GET_SCHEDULER_TYPE", {"dom": ref}, {"type": "fair", "nparams": 1}),
            ("DOMAIN_HAS_CURRENT_SNAPSHOT", {"dom": ref, "flags": 0}, {"result": 0}),
            (
                "INTERFACE_LOOKUP_BY_NAME",
                {"name": "eth1"},
                {"iface": {"name": "eth1", "mac": "aa:bb:cc:dd:ee:ff"}},
            ),
        ):
            self.assertEqual(await host.call(name, arguments), wanted, name)
            call = procedure(name)
            answer = await host.call_xdr(name, call.arguments.pack(arguments))
            self.assertEqual(json.loads(json.dumps(call.results.unpack(answer))), wanted, name)
        title = {"dom": ref, "type": 1, "metadata": "a title", "key": None, "uri": None, "flags": 0}
        self.assertEqual(await host.call("DOMAIN_SET_METADATA", title), {})
        self.assertEqual(self.virsh("desc", "test", "--title").strip(), "a title")
        seconds = {"dom": ref, "params": [{"field": "weight", "type": "uint", "value": 77}], "flags": 0}
        await host.call("DOMAIN_SET_SCHEDULER_PARAMETERS_FLAGS", seconds)
        cpus = await host.call("DOMAIN_GET_VCPUS", {"dom": ref, "maxinfo": 2, "maplen": 1})
        self.assertEqual((len(cpus["info"]), b64decode(cpus["cpumaps"])), (2, b"\xff\xff"))

    async def test_call_refused(self) -> None:
        """What does not fit its schema says where; streams, descriptors, events and others' are refused."""
        host = await self.host()
        for name, arguments, path in (
            ("DOMAIN_GET_INFO", {"dom": {"name": "test", "uuid": "xx", "id": 1}}, "dom.uuid"),
            ("DOMAIN_GET_INFO", {"dom": {"name": "test"}}, "dom.uuid"),
            (
                "DOMAIN_SET_MEMORY",
                {"dom": {"name": "t", "uuid": str(uuid4()), "id": 1}, "memory": -1},
                "memory",
            ),
            ("NODE_GET_FREE_MEMORY", {"more": 1}, "more"),
            ("NO_SUCH_PROCEDURE", {}, "proc"),
            ("DOMAIN_OPEN_CONSOLE", {}, "proc"),
            ("DOMAIN_EVENT_LIFECYCLE", {}, "proc"),
        ):
            error = await self.raises(errors.BadArguments, host.call(name, arguments))
            self.assertEqual(error.details["path"], path, name)
        ref = {"name": "test", "uuid": str(uuid4()), "id": 1}
        await self.raises(
            errors.BadArguments, host.call("DOMAIN_OPEN_GRAPHICS_FD", {"dom": ref, "idx": 0, "flags": 0})
        )
        await self.raises(errors.BadArguments, host.call_xdr("DOMAIN_GET_INFO", b"\xff" * 30))
        for name in ("CONNECT_CLOSE", "CONNECT_OPEN", "AUTH_LIST", "CONNECT_DOMAIN_EVENT_REGISTER"):
            values = {"name": None, "flags": 0} if name == "CONNECT_OPEN" else {}
            self.assertEqual((await self.raises(errors.Denied, host.call(name, values))).permission, name)
        self.assertEqual(await host.get_type(), "TEST")


class ObjectTests(RpcCase):
    """Networks of the test driver; pools and volumes of a directory."""

    @tries(commands.ListNetworks, commands.LookupNetwork, commands.GetNetworkXml, commands.DefineNetwork)
    @tries(commands.UndefineNetwork, commands.NetworkStart, commands.NetworkStop, commands.GetLeases)
    async def test_networks(self) -> None:
        """A network is defined, started, listed, stopped and forgotten."""
        host = await self.host(token=self.unchecked())
        made = await host.define_network(NETWORK.format("inner"))
        self.assertEqual(self.virsh("net-uuid", "inner").strip(), made.uuid)

        def said() -> dict[str, bool]:
            rows = (line.split() for line in self.virsh("net-list", "--all").splitlines())
            return {row[0]: row[1] == "active" for row in rows if row}

        for act, active in ((None, False), (made.network_start, True), (made.network_stop, False)):
            if act is not None:
                await act()
            self.assertEqual(said(), {"default": True, "inner": active})
            self.assertEqual({it.name: it.active for it in await host.list_networks()}, said())
            for found in (await host.lookup_network(name="inner"), await host.lookup_network(uuid=made.uuid)):
                self.assertEqual((found.net, found.active), (made.net, active))
        self.assertEqual(await made.get_network_xml(), self.virsh("net-dumpxml", "inner").rstrip("\n") + "\n")
        self.assertEqual([it.name for it in await host.list_networks(2)], ["default"])
        # The test driver knows of no leases.
        self.assertEqual((await self.raises(LibvirtError, made.get_leases())).code, 3)
        await made.undefine_network()
        self.assertEqual(said(), {"default": True})
        self.assertEqual((await self.raises(LibvirtError, host.lookup_network(name="inner"))).code, 43)
        self.assertEqual((await self.raises(LibvirtError, made.get_network_xml())).code, 43)
        error = await self.raises(errors.BadArguments, host.lookup_network())
        self.assertIn("exactly one of", error.text)

    @tries(commands.ListPools, commands.LookupPool, commands.GetPoolInfo, commands.GetPoolXml)
    @tries(commands.DefinePool, commands.UndefinePool, commands.PoolStart, commands.PoolStop)
    @tries(commands.PoolRefresh, commands.ListVolumes)
    async def test_pools(self) -> None:
        """A pool is defined, started, looked through, stopped and forgotten."""
        host = await self.host("qemu", self.unchecked())
        path = self.daemon.pool("second")
        self.virsh("pool-destroy", "second", driver="qemu")
        made = await host.define_pool(POOL.format("second", path))
        self.assertEqual(self.virsh("pool-uuid", "second", driver="qemu").strip(), made.uuid)

        def said() -> dict[str, bool]:
            rows = (line.split() for line in self.virsh("pool-list", "--all", driver="qemu").splitlines())
            return {row[0]: row[1] == "active" for row in rows if row}

        for act, active in ((made.pool_start, True), (made.pool_stop, False), (made.pool_start, True)):
            await act()
            self.assertEqual(said(), {"second": active})
            self.assertEqual({it.name: it.active for it in await host.list_pools()}, said())
            self.assertEqual((await host.lookup_pool(uuid=made.uuid)).active, active)
            self.assertEqual((await made.get_pool_info()).state, "running" if active else "inactive")
        info = await made.get_pool_info()
        said_xml = self.virsh("pool-dumpxml", "second", driver="qemu")
        self.assertIn(f"<capacity unit='bytes'>{info.capacity}<", said_xml)
        self.assertEqual(info.capacity, info.allocation + info.available)
        self.assertEqual(_steady(await made.get_pool_xml()), _steady(said_xml.rstrip("\n") + "\n"))
        (path / "late.img").write_bytes(bytes(1024))
        (path / "k\xf6nig.img".encode("latin-1").decode("utf-8", "surrogateescape")).write_bytes(b"")
        self.assertEqual(await made.list_volumes(), [])
        await made.pool_refresh()
        self.assertEqual(await made.list_volumes(), ["k\ufffdnig.img", "late.img"])
        await made.pool_stop()
        await made.undefine_pool()
        self.assertEqual(said(), {})
        self.assertEqual((await self.raises(LibvirtError, made.get_pool_info())).code, 49)

    @tries(commands.GetVolumeInfo, commands.GetVolumeXml, commands.CreateVolume, commands.DeleteVolume)
    @tries(commands.ResizeVolume, commands.VolUpload, commands.VolDownload)
    async def test_volumes(self) -> None:
        """A volume is made, filled and read by its tickets, made larger, and deleted."""
        host, path = await self.host("qemu"), self.daemon.pool("store")
        pool = await host.lookup_pool(name="store")
        for name in ("disk", "a b&c"):
            self.assertEqual(await pool.create_volume(VOLUME.format(name.replace("&", "&amp;"), MIB)), name)
        self.assertEqual(await pool.list_volumes(), ["a b&c", "disk"])
        info = await pool.get_volume_info("disk")
        self.assertEqual((info.type, info.capacity, info.path), ("file", MIB, str(path / "disk")))
        said = self.virsh("vol-dumpxml", "disk", "--pool", "store", driver="qemu").rstrip("\n") + "\n"
        self.assertEqual(await pool.get_volume_xml("disk"), said)
        await pool.resize_volume("disk", 2 * MIB)
        self.assertEqual((path / "disk").stat().st_size, 2 * MIB)
        for name in ("disk", "a b&c"):
            data = name.encode() * 1000
            link = await pool.vol_upload(name, len(data))
            self.assertEqual(self.gateway.ask("PUT", urlsplit(link.url).path, data).status, 200)
            self.assertEqual((path / name).read_bytes()[: len(data)], data)
            link = await pool.vol_download(name)
            whole = await self.download(link.url)
            self.assertEqual(whole, (path / name).read_bytes())
        self.assertEqual(self.gateway.ask("PUT", urlsplit(link.url).path, b"x").status, 403)
        await pool.delete_volume("disk")
        self.assertEqual(self.virsh("vol-list", "store", driver="qemu").split()[:2], ["a", "b&c"])
        self.assertEqual((await self.raises(LibvirtError, pool.get_volume_info("disk"))).code, 50)
        self.assertFalse((path / "disk").exists())

    async def download(self, url: str) -> bytes:
        answer = self.gateway.ask("GET", urlsplit(url).path)
        self.assertEqual(answer.status, 200)
        return answer.body


def _steady(xml: str) -> str:
    """Without what others on this machine change."""
    return re.sub(r"<(allocation|available) unit='bytes'>\d+<", r"<\1 unit='bytes'><", xml)


class GuestTests(RpcCase):
    """A guest that truly runs."""

    async def guest(self, name: str) -> Domain:
        dom = await (await self.host("qemu")).define(tiny(name))
        self.addCleanup(self.forget, name)
        return dom

    def forget(self, name: str) -> None:
        if name in self.virsh("list", "--name", driver="qemu").split():
            self.virsh("destroy", name, driver="qemu")
        self.virsh("undefine", name, driver="qemu")

    @tries(commands.Subscribe, commands.Unsubscribe, commands.Ack, commands.Event, commands.Reset)
    async def test_events(self) -> None:
        """Events come in order, as long as they are acknowledged, and stop when they are not wanted."""
        dom = await self.guest("loud")
        host = await self.host("qemu")
        told: list[Event] = []
        subscription = await host.subscribe(["lifecycle", "reboot"], told.append, dom=None)
        await dom.start()
        await dom.reset()
        await self.until(lambda: "reboot" in [it.kind for it in told], f"{told}")
        started = [it for it in told if it.payload.get("event") == "started"]
        self.assertEqual([it.payload["dom"]["uuid"] for it in started], [dom.uuid])
        self.assertEqual(started[0].payload["state"], "running")
        self.assertEqual(started[0].dom, (await host.lookup(uuid=dom.uuid)).dom)
        # More than may be unacknowledged.
        for _ in range(150):
            await dom.suspend()
            await dom.resume()
        await self.until(lambda: len(told) > 300, "more events than fit in a window")
        numbers = [it.seq for it in told]
        self.assertEqual(numbers, sorted(set(numbers)))
        await subscription.unsubscribe()
        seen = len(told)
        await dom.destroy()
        await host.get_type()
        await self.sleep(0.2)
        self.assertEqual(len(told), seen)

    @tries(commands.Console, commands.Graphics, commands.Screenshot)
    async def test_planes(self) -> None:
        """The serial line, the screen and a picture of it are where their tickets lead."""
        dom = await self.guest("seen")
        await dom.start()
        self.daemon.rest("seen")
        link = await dom.console()
        line = self.look(link.url)
        await self.hear(line, dom)
        screen = self.look((await dom.graphics()).url)
        self.assertEqual(screen.read(12), b"RFB 003.008\n")
        picture = self.gateway.ask("GET", urlsplit((await dom.screenshot()).url).path)
        self.assertEqual((picture.status, picture.body[:2]), (200, b"\x89P"))
        self.assertEqual(self.gateway.get(link.ticket).json()["principal"], "alice")

    async def hear(self, line: Console, dom: Domain) -> None:
        """What the firmware writes first; the line may be there only after that was written."""
        line.line.settimeout(12)
        for _ in range(8):
            await dom.reset()
            try:
                line.until(b"SeaBIOS")
            except TimeoutError:
                continue
            return
        self.fail("nothing was written")

    def look(self, url: str) -> Console:
        console = Console(
            self.consoles, self.gateway.ca, urlsplit(url).path, "Sec-WebSocket-Protocol: binary"
        )
        self.addCleanup(console.line.close)
        return console
