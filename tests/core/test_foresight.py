"""What the policy will say, said before."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.core.dial import Dialer
from gateway.core.foresight import Foresight, Place
from gateway.core.policy import Policy, parse_rule
from gateway.wire.ticket_json import Grant, Kind
from tests.core.test_dial import Names


def places(grant: Grant) -> Iterable[Place]:
    """The urls of these tests are ``scheme host port``."""
    for url in grant.urls:
        scheme, host, port = url.split()
        yield scheme, host, int(port)


class ForesightTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        rules = map(
            parse_rule, ("vnc://192.0.2.0/24:5900", "vnc://*.good.invalid:*", "*://[2001:db8::]/32:*")
        )
        self.names = Names()
        policy = Policy(rules, [parse_rule("*://192.0.2.66:*")])
        resolver: Any = self.names
        self.dialer = Dialer(self.clock, policy, resolver, dns_timeout=5)
        self.foresight = Foresight(self.dialer, {Kind.CONSOLE: places})

    def say(self, *urls: str, kind: Kind = Kind.CONSOLE) -> list[tuple[object, ...]]:
        asked = Deferred.fromCoroutine(self.foresight.of(Grant(kind, "x", urls=urls)))
        self.clock.advance(5)
        found = self.successResultOf(asked)
        return [(it["target"], it["allowed"], it["rules"]) for it in found]

    def test_addresses(self) -> None:
        """What a rule allows passes; for all else there is the rule that would let it pass."""
        for url, target, allowed in (
            ("vnc 192.0.2.7 5900", "vnc://192.0.2.7:5900", True),
            ("vnc 192.0.2.7 5901", "vnc://192.0.2.7:5901", False),
            ("spice 192.0.2.7 5900", "spice://192.0.2.7:5900", False),
            ("vnc 192.0.2.66 5900", "vnc://192.0.2.66:5900", False),
            ("vnc 127.0.0.1 5900", "vnc://127.0.0.1:5900", False),
            ("vnc 2001:db8::1 1", "vnc://[2001:db8::1]:1", True),
            ("vnc fe80::1 1", "vnc://[fe80::1]:1", False),
        ):
            self.assertEqual(self.say(url), [(target, allowed, [] if allowed else [target])], url)
            [(scheme, host, port)] = places(Grant(Kind.CONSOLE, "x", urls=(url,)))
            Policy([parse_rule(target)]).judge(scheme, host, host, port)

    def test_names(self) -> None:
        """Every address of a name counts; loopback needs a rule even if the name has one."""
        self.names.answers = [["192.0.2.7", "198.51.100.7"], ["198.51.100.7"], ["127.0.0.1"], []]
        self.assertEqual(
            self.say(
                "vnc a.invalid 5900", "vnc a.good.invalid 1", "vnc b.good.invalid 2", "vnc gone.invalid 1"
            ),
            [
                ("vnc://a.invalid:5900", False, ["vnc://198.51.100.7:5900"]),
                ("vnc://a.good.invalid:1", True, []),
                ("vnc://b.good.invalid:2", False, ["vnc://127.0.0.1:2"]),
                ("vnc://gone.invalid:1", None, []),
            ],
        )

    def test_silent_resolver(self) -> None:
        """A resolver that does not answer is not waited for; nothing is dialed, and nothing left."""
        self.assertEqual(self.say("vnc a.invalid 1"), [("vnc://a.invalid:1", None, [])])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_now(self) -> None:
        """The policy as it is at that moment decides, and nothing is said of kinds that nobody judges."""
        self.assertFalse(self.say("vnc 198.51.100.7 1")[0][1])
        self.dialer.policy = Policy([parse_rule("*://*:*")])
        self.assertTrue(self.say("vnc 198.51.100.7 1")[0][1])
        self.assertEqual(self.say("vnc 198.51.100.7 1", kind=Kind.IMAGE), [])

    def test_no_host(self) -> None:
        """What is neither a name nor an address is said to be wrong."""
        asked = Deferred.fromCoroutine(self.foresight.of(Grant(Kind.CONSOLE, "x", urls=("vnc a%b 1",))))
        self.failureResultOf(asked, errors.BadRequest)
