"""What commands make of answers that no test driver gives: leases, domains that vanish, few rights."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from gateway import errors
from gateway.core.tickets import Rights
from gateway.rpc import answers_base, answers_domains, answers_objects, commands
from gateway.rpc.command import Command
from gateway.rpc.seat import Seat
from gateway.wire.libvirt_error import LibvirtError
from tests.rpc.desk_case import DeskCase, domain

NET = {"name": "inner", "uuid": domain(7)["uuid"]}
RESPONDERS = {**answers_base.RESPONDERS, **answers_domains.RESPONDERS, **answers_objects.RESPONDERS}


class AnswerTests(DeskCase):
    def open(self, **ticket: Any) -> tuple[Seat, str]:
        seat = self.seat(self.caller(**ticket))
        given = {"target": "lab", "name": None, "readonly": None, "ttl": None, "uri": None}
        return seat, self.do(RESPONDERS[commands.Open](seat, **given))["handle"]

    def ask(self, command: type[Command], seat: Seat, **arguments: Any) -> Any:
        """Begin what a command does, all that may be left out left out; what it gives must be its answer."""
        every = {key.decode(): None for key, _ in command.arguments}
        begun = self.begin(RESPONDERS[command](seat, **(every | arguments)))
        begun.addCallback(lambda answer: command.parseResponse(command.makeResponse(answer)))
        return begun

    def cookie(self, seat: Seat, handle: str, kind: str, uuid: str) -> str:
        return seat.cookie(seat.opened(handle), kind, uuid)

    def test_leases(self) -> None:
        """A lease has an end or none; what is not known of it is empty."""
        seat, handle = self.open()
        self.daemon.answers["NETWORK_LOOKUP_BY_UUID"] = {"net": NET}
        net = self.cookie(seat, handle, "net", NET["uuid"])
        begun = self.ask(commands.GetLeases, seat, net=net, mac="52:54:00:00:00:01")
        known = {
            "type": 0,
            "iaid": None,
            "clientid": None,
            "ipaddr": "192.0.2.9",
            "prefix": 24,
            "iface": "br0",
        }
        lease = {**known, "expirytime": 60, "mac": "52:54:00:00:00:01", "hostname": "web"}
        asked = self.answer(
            "NETWORK_GET_DHCP_LEASES",
            leases=[lease, {**known, "expirytime": 0, "mac": None, "hostname": None}],
            ret=2,
        )
        self.assertEqual((asked["mac"], asked["net"]), ("52:54:00:00:00:01", NET))
        first, second = self.successResultOf(begun)["leases"]
        self.assertEqual(
            (first["address"], first["interface"], first["hostname"]), ("192.0.2.9/24", "br0", "web")
        )
        self.assertEqual(first["expires"], datetime(1970, 1, 1, 0, 1, tzinfo=UTC))
        self.assertEqual((second["mac"], second["hostname"], second["expires"]), ("", "", None))

    def test_too_many(self) -> None:
        """What one answer cannot hold is too large, and not a bug of ours."""
        seat, handle = self.open()
        self.daemon.answers["NETWORK_LOOKUP_BY_UUID"] = {"net": NET}
        begun = self.ask(commands.GetLeases, seat, net=self.cookie(seat, handle, "net", NET["uuid"]))
        lease = {
            "type": 0,
            "iaid": None,
            "clientid": None,
            "ipaddr": "192.0.2.9",
            "prefix": 24,
            "iface": "br0",
        }
        lease |= {"expirytime": 60, "mac": None, "hostname": None}
        self.answer("NETWORK_GET_DHCP_LEASES", leases=[lease] * 1000, ret=1000)
        self.assertEqual(self.failureResultOf(begun, errors.TooLarge).value.details["limit"], 65535)

    def test_interfaces(self) -> None:
        """An interface may have no address of either kind."""
        seat, handle = self.open()
        dom = self.cookie(seat, handle, "dom", domain(1)["uuid"])
        begun = self.ask(commands.GetInterfaces, seat, dom=dom, source="agent")
        asked = self.answer(
            "DOMAIN_INTERFACE_ADDRESSES", ifaces=[{"name": "lo", "hwaddr": None, "addrs": []}]
        )
        self.assertEqual(asked["source"], 1)
        self.assertEqual(
            self.successResultOf(begun), {"interfaces": [{"name": "lo", "mac": "", "addresses": []}]}
        )

    def test_vanished(self) -> None:
        """A domain that goes away while the list is made stands there without a state."""
        self.daemon.answers.pop("CONNECT_GET_ALL_DOMAIN_STATS")
        seat, handle = self.open()
        begun = self.ask(commands.ListDomains, seat, handle=handle)
        for dom in self.transports.doms:
            (asked,) = [
                it for it in self.daemon.asked if it.name == "DOMAIN_GET_STATE" and it.arguments["dom"] == dom
            ]
            if dom["id"] == 1:
                asked.answer(state=3, reason=1)
            else:
                asked.refuse(42)
            self.turn()
        rows = self.successResultOf(begun)["domains"]
        self.assertEqual(
            [(it["name"], it["state"]) for it in rows], [("vm-1", "paused"), ("vm-2", "nostate")]
        )

    def test_other_trouble(self) -> None:
        """Any other refusal is that of the list."""
        self.daemon.answers.pop("CONNECT_GET_ALL_DOMAIN_STATS")
        seat, handle = self.open()
        begun = self.ask(commands.ListDomains, seat, handle=handle)
        next(it for it in self.daemon.asked if it.name == "DOMAIN_GET_STATE").refuse(38)
        self.turn()
        self.assertEqual(self.failureResultOf(begun, LibvirtError).value.code, 38)

    def test_known_states(self) -> None:
        """States that events tell of are not asked for, and nobody is told one who may not read."""
        seat, handle = self.open()
        (state,) = {
            it["state"]
            for it in self.successResultOf(self.ask(commands.ListDomains, seat, handle=handle))["domains"]
        }
        self.assertEqual(state, "running")
        self.ticket(rights=Rights(("connect:search_domains", "domain:getattr")))
        rows = self.successResultOf(self.ask(commands.ListDomains, seat, handle=handle))["domains"]
        self.assertEqual([(it["name"], it["state"]) for it in rows], [("vm-1", ""), ("vm-2", "")])
        self.daemon.answers["DOMAIN_LOOKUP_BY_NAME"] = {"dom": domain(1)}
        found = self.successResultOf(self.ask(commands.Lookup, seat, handle=handle, name="vm-1"))
        self.assertEqual((found["uuid"], found["state"]), (domain(1)["uuid"], ""))
        self.assertEqual(self.daemon.asked, [])

    def test_no_stats(self) -> None:
        """Counters of a domain that is not there are not none: it is said that it is not there."""
        seat, handle = self.open()
        dom = self.cookie(seat, handle, "dom", domain(9)["uuid"])
        self.daemon.answers["CONNECT_GET_ALL_DOMAIN_STATS"] = {"retStats": []}
        begun = self.ask(commands.GetStats, seat, dom=dom)
        self.daemon.asked[0].refuse(42)
        self.turn()
        self.absent(self.failureResultOf(begun, LibvirtError).value)

    def test_flags(self) -> None:
        """Flags for what has none are not passed over."""
        seat, handle = self.open()
        dom = self.cookie(seat, handle, "dom", domain(1)["uuid"])
        error = self.failureResultOf(self.ask(commands.Suspend, seat, dom=dom, flags=1), errors.BadArguments)
        self.assertEqual(error.value.path, "flags")
        begun = self.ask(commands.Suspend, seat, dom=dom, flags=0)
        self.answer("DOMAIN_SUSPEND")
        self.successResultOf(begun)

    def test_active(self) -> None:
        """Which networks are active takes one question, however many there are."""
        seat, handle = self.open()
        nets = [{"name": f"n{number}", "uuid": domain(number)["uuid"]} for number in range(1, 50)]
        self.daemon.answers["CONNECT_LIST_ALL_NETWORKS"] = lambda asked: {
            "nets": nets[:2] if asked["flags"] == 2 else nets,
            "ret": 2 if asked["flags"] == 2 else 49,
        }
        rows = self.successResultOf(self.ask(commands.ListNetworks, seat, handle=handle))["networks"]
        self.assertEqual([it["name"] for it in rows if it["active"]], ["n1", "n2"])
        self.assertEqual(
            (len(rows), [end for name, end in self.seen if "NETWORKS" in name]), (49, ["ok"] * 2)
        )
