"""Target rules."""

from __future__ import annotations

import ipaddress
import socket
from ipaddress import ip_address
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.core.policy import BUILTIN, Policy, Rule, allows_path, forms, parse_host, parse_rule
from gateway.errors import Forbidden

NET = ipaddress.ip_network
ANY = parse_rule("*://*:*")

#: Addresses no tenant has any business with, in every disguise.
FOREVER = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "0.1.2.3",
    "169.254.169.254",
    "169.254.1.1",
    "100.64.0.1",
    "100.127.255.255",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1",
    "febf::1",
    "fec0::1",
    "ff02::1",
    "fd00:ec2::254",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::7f00:1",
    "64:ff9b:1::a00:1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "::127.0.0.1",
    "::169.254.169.254",
]


class Judge(SynchronousTestCase):
    """:meth:`Policy.judge`."""

    def allowed(
        self, policy: Policy, address: str, port: int = 443, scheme: str = "https", host: str = ""
    ) -> bool:
        try:
            policy.judge(scheme, host or "host.invalid", address, port)
        except Forbidden as error:
            self.assertEqual(error.reason, "target")
            self.assertNotIn(address, error.text)
            return False
        return True

    def test_default(self) -> None:
        """Without rules nothing is allowed."""
        self.assertFalse(self.allowed(Policy(), "192.0.2.1"))

    def test_builtin(self) -> None:
        """Inner addresses are refused in every disguise, although anything is allowed."""
        wide = Policy([ANY, parse_rule("*://0.0.0.0/0:*"), parse_rule("*://[::]/0:*")])
        for address in FOREVER:
            for policy in (Policy([ANY]), wide):
                self.assertFalse(self.allowed(policy, address), address)

    def test_builtin_neighbours(self) -> None:
        """What lies beside the refused networks passes."""
        for address in [
            "1.0.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "100.63.255.255",
        ]:
            self.assertTrue(self.allowed(Policy([ANY]), address), address)
        for address in ["100.128.0.0", "223.255.255.255", "2001:db8::1", "fc00::1", "64:ff9b::c000:201"]:
            self.assertTrue(self.allowed(Policy([ANY]), address), address)

    def test_listed(self) -> None:
        """A rule that lists an inner network lifts its denial, for that scheme and those ports."""
        policy = Policy([parse_rule("vnc://127.0.0.0/8:5900-5910"), parse_rule("*://[::1]/128:*")])
        self.assertTrue(self.allowed(policy, "127.0.0.1", 5900, "vnc"))
        self.assertFalse(self.allowed(policy, "127.0.0.1", 5911, "vnc"))
        self.assertFalse(self.allowed(policy, "127.0.0.1", 5900, "spice"))
        self.assertTrue(self.allowed(policy, "::1", 80))
        self.assertFalse(self.allowed(policy, "::ffff:127.0.0.1", 5900, "vnc"))

    def test_listed_both(self) -> None:
        """An address within an address passes when both are listed."""
        inner, outer = parse_rule("*://127.0.0.1:*"), parse_rule("*://[::ffff:0:0]/96:*")
        self.assertFalse(self.allowed(Policy([inner]), "::ffff:127.0.0.1"))
        self.assertFalse(self.allowed(Policy([outer]), "::ffff:127.0.0.1"))
        self.assertTrue(self.allowed(Policy([inner, outer]), "::ffff:127.0.0.1"))

    def test_metadata_is_not_just_link_local(self) -> None:
        """Who lists link-local addresses has not listed the metadata service."""
        policy = Policy([parse_rule("*://169.254.0.0/16:*")])
        self.assertTrue(self.allowed(policy, "169.254.1.1"))
        self.assertFalse(self.allowed(policy, "169.254.169.254"))
        self.assertTrue(
            self.allowed(
                Policy([parse_rule("*://169.254.169.254:80"), parse_rule("*://169.254.0.0/16:*")]),
                "169.254.169.254",
                80,
            )
        )

    def test_name_does_not_list(self) -> None:
        """A name in a rule lifts no denial, whatever it resolves to."""
        policy = Policy([parse_rule("*://good.invalid:*")])
        self.assertTrue(self.allowed(policy, "192.0.2.1", host="good.invalid"))
        self.assertFalse(self.allowed(policy, "127.0.0.1", host="good.invalid"))

    def test_names(self) -> None:
        """A name is exact, or everything below a suffix but not the suffix; case is nothing."""
        policy = Policy([parse_rule("*://Good.invalid:*"), parse_rule("*://*.hosts.invalid:*")])
        for host in ("good.invalid", "GOOD.invalid", "a.hosts.invalid", "a.b.hosts.invalid"):
            self.assertTrue(self.allowed(policy, "192.0.2.1", host=host), host)
        for host in ("xgood.invalid", "a.good.invalid", "hosts.invalid", "xhosts.invalid", "192.0.2.1"):
            self.assertFalse(self.allowed(policy, "192.0.2.1", host=host), host)

    def test_deny_wins(self) -> None:
        """What is denied stays so, whatever allows it, and in each of its forms."""
        policy = Policy([ANY, parse_rule("*://192.0.2.0/24:*")], [parse_rule("*://192.0.2.7:*")])
        self.assertTrue(self.allowed(policy, "192.0.2.8"))
        self.assertFalse(self.allowed(policy, "192.0.2.7"))
        self.assertFalse(self.allowed(policy, "::ffff:192.0.2.7"))
        policy = Policy([ANY], [parse_rule("*://*.bad.invalid:*")])
        self.assertFalse(self.allowed(policy, "192.0.2.7", host="x.BAD.invalid"))

    def test_scheme_and_port(self) -> None:
        """A rule is for its scheme and its ports alone."""
        policy = Policy([parse_rule("https://192.0.2.0/24:54322")])
        self.assertTrue(self.allowed(policy, "192.0.2.1", 54322))
        self.assertTrue(self.allowed(policy, "192.0.2.1", 54322, "HTTPS"))
        self.assertFalse(self.allowed(policy, "192.0.2.1", 54323))
        self.assertFalse(self.allowed(policy, "192.0.2.1", 54322, "http"))
        self.assertFalse(self.allowed(policy, "192.0.3.1", 54322))
        self.assertFalse(self.allowed(Policy([ANY]), "192.0.2.1", 0))
        self.assertFalse(self.allowed(Policy([ANY]), "192.0.2.1", 65536))

    def test_own(self) -> None:
        """Our own listeners are no targets, unless a rule names address and port."""
        own = [("192.0.2.1", 54323), ("127.0.0.1", 54323)]
        policy = Policy([ANY, parse_rule("*://127.0.0.0/8:*")], own=own)
        self.assertFalse(self.allowed(policy, "192.0.2.1", 54323))
        self.assertFalse(self.allowed(policy, "127.0.0.1", 54323))
        self.assertTrue(self.allowed(policy, "192.0.2.1", 54324))
        policy = Policy([parse_rule("*://192.0.2.1:54323")], own=own)
        self.assertTrue(self.allowed(policy, "192.0.2.1", 54323))

    def test_own_everywhere(self) -> None:
        """What listens on all addresses is out of reach by each one that this machine has, and no other's."""
        mine = {ip_address(it) for it in ("10.9.0.1", "127.0.0.5", "2001:db8::1")}
        own = [("0.0.0.0", 3128), ("::", 3129)]
        rules = [ANY, parse_rule("*://127.0.0.0/8:*")]
        policy = Policy(rules, own=own, local=mine.__contains__)
        for address in (*map(str, mine), "::ffff:10.9.0.1", "64:ff9b::a09:1"):
            self.assertFalse(self.allowed(policy, address, 3128), address)
            self.assertFalse(self.allowed(policy, address, 3129), address)
            self.assertTrue(self.allowed(policy, address, 3130), address)
        self.assertTrue(self.allowed(policy, "10.9.0.2", 3128))
        policy = Policy([parse_rule("*://10.9.0.1:3128")], own=own, local=mine.__contains__)
        self.assertTrue(self.allowed(policy, "10.9.0.1", 3128), "unless a rule names address and port")

    def test_zone(self) -> None:
        """An address with a zone, or one that is none, is refused."""
        policy = Policy([ANY, parse_rule("*://[fe80::]/10:*")])
        self.assertTrue(self.allowed(policy, "fe80::1"))
        for address in ("fe80::1%eth0", "host.invalid", "127.1", "x"):
            self.assertFalse(self.allowed(policy, address), address)

    def test_half_addresses(self) -> None:
        """``127.1`` and its kin are names, and what the resolver makes of them is refused."""
        for text in ("127.1", "0x7f000001", "2130706433", "0177.0.0.1", "0"):
            self.assertEqual(parse_host(text), text)
            found = {it[4][0] for it in socket.getaddrinfo(text, 80, type=socket.SOCK_STREAM)}
            for address in found:
                self.assertFalse(self.allowed(Policy([ANY]), str(address), host=text), text)

    @settings(max_examples=300, deadline=None)
    @given(st.ip_addresses(v=4), st.sampled_from(["::ffff:0:0", "64:ff9b::", "::", "2002::"]))
    def test_disguise(self, inner: ipaddress.IPv4Address, prefix: str) -> None:
        """No disguise lets an address pass that is refused bare."""
        shift = 80 if prefix == "2002::" else 0
        outer = ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) | int(inner) << shift)
        if int(outer) > 1:
            self.assertIn(inner, list(forms(outer)))
        if not self.allowed(Policy([ANY]), str(inner)):
            self.assertFalse(self.allowed(Policy([ANY]), str(outer)))

    @settings(max_examples=300, deadline=None)
    @given(st.ip_addresses())
    def test_anything(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
        """Of all addresses, only those of the public or of a site are ever allowed."""
        if self.allowed(Policy([ANY]), str(address)):
            for it in forms(address):
                self.assertFalse(
                    it.is_loopback or it.is_link_local or it.is_multicast or it.is_unspecified, it
                )


class Grammar(SynchronousTestCase):
    """:func:`parse_rule` and :func:`parse_host`."""

    def test_rules(self) -> None:
        """All forms of a rule are read as what they mean."""
        for text, rule in {
            "*://*:*": Rule(),
            "https://192.0.2.0/24:54322": Rule("https", NET("192.0.2.0/24"), None, (54322,) * 2),
            "*://[::1]/128:*": Rule(network=NET("::1")),
            "*://[::1]:*": Rule(network=NET("::1")),
            "*://[2001:db8::/32]:1-9": Rule(network=NET("2001:db8::/32"), ports=(1, 9)),
            "nbd+tls://h.invalid:10809": Rule("nbd+tls", None, "h.invalid", (10809, 10809)),
            "VNC://*.H.invalid:5900-5999": Rule("vnc", None, ".h.invalid", (5900, 5999)),
        }.items():
            self.assertEqual(parse_rule(text), rule, text)

    def test_bad_rules(self) -> None:
        """Everything else is refused with what would be right."""
        for text in [
            "x",
            "https://h.invalid",
            "h.invalid:80",
            "https://h.invalid:0",
            "https://h.invalid:65536",
            "https://h:9-8",
            "https://h.invalid:http",
            "https://h.invalid:",
            "://h:1",
            "https://:1",
            "https://192.0.2.1/24:1",
            "https://192.0.2.0/33:1",
            "https://::1:80",
            "https://[192.0.2.1]:80",
            "https://[::1:80",
            "https://h*.invalid:80",
            "https://*.*.invalid:80",
            "https://h.invalid.:80",
            "https://a@h:80",
            "https://h%00:80",
            "https://[fe80::1%eth0]:80",
            "https://h.invalid:٨٠",
            "https://127.1:80",
            "https://host/8:1",
            "9x://h:1",
            "https://[]:1",
            "https://h:1:2",
            "",
            "https://h.invalid:80 ",
            "https://h.invalid:80\n",
        ]:
            with self.assertRaises(ValueError, msg=text) as caught:
                parse_rule(text)
            self.assertRegex(str(caught.exception), "use|write|network|brackets")

    def test_hosts(self) -> None:
        """Names and addresses come out in one form."""
        for text, host in {
            "H.Invalid": "h.invalid",
            "192.0.2.1": "192.0.2.1",
            "2001:DB8:0::1": "2001:db8::1",
            "xn--bcher-kva.invalid": "xn--bcher-kva.invalid",
            "a" * 63: "a" * 63,
            ".".join(["a" * 49] * 5): ".".join(["a" * 49] * 5),
        }.items():
            self.assertEqual(parse_host(text), host)

    def test_bad_hosts(self) -> None:
        """No trick with dots, zones, user-info, percent, scripts or length gets through."""
        for text in (
            "",
            ".",
            "h.invalid.",
            ".h",
            "a..b",
            "-a",
            "a-",
            "a_b",
            "a b",
            "a\tb",
            "h\n",
            "u@h",
            "h:80",
            "h%41",
            "[::1]",
            "fe80::1%eth0",
            "fe80::1%1",
            "büch",
            "ｈ.invalid",
            "127。0.0.1",
            "a" * 64,
            "1" * 64,
            "*.h",
            ".".join(["a" * 50] * 5),
            "h/x",
            "h?x",
            "h#x",
            "h\0",
            "::1::",
            "https://h",
        ):
            self.assertRaises(ValueError, parse_host, text)

    @settings(max_examples=300, deadline=None)
    @given(st.one_of(st.text(max_size=40), st.from_regex(r"[a-zA-Z0-9.:%\[\]-]{1,40}", fullmatch=True)))
    def test_host_property(self, text: str) -> None:
        """Whatever is accepted is plain ASCII, and accepted again as the same."""
        try:
            host = parse_host(text)
        except ValueError:
            return
        self.assertRegex(host, r"\A[a-z0-9.:-]{1,253}\Z")
        self.assertEqual(parse_host(host), host)

    @settings(max_examples=300, deadline=None)
    @given(
        st.sampled_from(["*", "https", "spice"]),
        st.one_of(
            st.just("*"),
            st.ip_addresses(v=4).map(str),
            st.ip_addresses(v=6).map("[{}]".format),
            st.from_regex(r"(\*\.)?[a-z]{1,9}(\.[a-z]{1,9}){0,3}", fullmatch=True),
        ),
        st.one_of(st.just("*"), st.integers(1, 65535).map(str)),
    )
    def test_rule_property(self, scheme: str, host: str, ports: str) -> None:
        """A well-formed rule is read, and covers what it says."""
        rule = parse_rule(f"{scheme}://{host}:{ports}")
        port = 1 if ports == "*" else int(ports)
        name = "x" + host[1:] if host.startswith("*.") else "x.invalid" if host == "*" else host.strip("[]")
        address = rule.network.network_address if rule.network else ipaddress.ip_address("192.0.2.1")
        self.assertTrue(rule.covers("https" if scheme == "*" else scheme, name, address, port))

    @settings(max_examples=300, deadline=None)
    @given(
        st.one_of(
            st.text(max_size=40), st.from_regex(r"[a-z*]{1,5}://[a-z0-9.*\[\]:/-]{1,30}", fullmatch=True)
        )
    )
    def test_rule_garbage(self, text: str) -> None:
        """Nothing but ValueError comes of garbage."""
        try:
            parse_rule(text)
        except ValueError:
            pass

    def test_builtin_is_listed(self) -> None:
        """Each builtin denial is lifted by the rule that lists just it and what is inside of it."""
        for rule in BUILTIN:
            self.assertTrue(rule.within(rule))
            self.assertFalse(ANY.within(rule))


class Paths(SynchronousTestCase):
    """:func:`allows_path`."""

    def setUp(self) -> None:
        self.base = Path(self.mktemp()).absolute()
        self.root = self.base / "root"
        self.root.mkdir(parents=True)
        (self.root / "disk").write_bytes(b"")
        (self.base / "secret").write_bytes(b"")
        (self.base / "rootless").write_bytes(b"")

    def test_inside(self) -> None:
        """A file below a root is allowed, existing or not, and comes back resolved."""
        (self.root / "link").symlink_to("disk")
        real = (self.root / "disk").resolve()
        self.assertEqual(allows_path(self.root / "disk", [self.root]), real)
        self.assertEqual(allows_path(str(self.root / "link"), ["/nowhere", self.root]), real)
        self.assertIsNotNone(allows_path(self.root / "new", [self.root]))

    def test_root_is_link(self) -> None:
        """A root may itself be a symbolic link."""
        (self.base / "alias").symlink_to(self.root)
        self.assertIsNotNone(allows_path(self.base / "alias" / "disk", [self.base / "alias"]))

    def test_outside(self) -> None:
        """Neither dots, links, likeness of names nor relative paths lead out of it."""
        (self.root / "file").symlink_to(self.base / "secret")
        (self.root / "up").symlink_to(self.base)
        (self.root / "loop").symlink_to("loop")
        for path in (
            self.base / "secret",
            self.base / "rootless",
            f"{self.root}/../secret",
            f"{self.root}/sub/../disk",
            self.root / "file",
            self.root / "up" / "secret",
            "root/disk",
            "",
            f"{self.root}/disk\0",
            "\0abstract",
        ):
            self.assertIsNone(allows_path(path, [self.root]), path)
        self.assertIsNone(allows_path(self.root / "disk", []))
