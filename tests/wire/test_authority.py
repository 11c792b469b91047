"""The target of a CONNECT: what real clients write, and nothing else."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.errors import BadRequest
from gateway.wire.authority import LONGEST_NAME, LONGEST_WORDS, Authority, parse_authority

TICKET = "11111111-2222-4333-8444-555555555555"

#: What is written, and the host and port that it means.
ACCEPTED: dict[bytes, tuple[str, int]] = {
    b"host.invalid:5900": ("host.invalid", 5900),
    b"HOST.Invalid:5900": ("host.invalid", 5900),
    b"127.0.0.1:5900": ("127.0.0.1", 5900),
    b"[::1]:5900": ("::1", 5900),
    b"::1:5900": ("::1", 5900),
    b"2001:DB8:0:0:0:0:0:1:5900": ("2001:db8::1", 5900),
    b"[2001:db8::0001]:5900": ("2001:db8::1", 5900),
    b"[::ffff:192.0.2.1]:5900": ("::ffff:c000:201", 5900),
    b"h:1": ("h", 1),
    b"h:65535": ("h", 65535),
    b"h:05900": ("h", 5900),
    b"h:00080": ("h", 80),
    # Half an address is a name: it counts what it resolves to.
    b"127.1:80": ("127.1", 80),
    b"2130706433:80": ("2130706433", 80),
    b"a" * LONGEST_NAME + b":1": ("a" * LONGEST_NAME, 1),
}

#: Name tricks, and what is no target at all.
REFUSED = (
    b"", b":", b"::", b"host", b"host:", b":80", b"host.invalid", b"::1", b"[::1]", b"[::1]:", b"[::1]5900",
    b"h:0", b"h:00000", b"h:65536", b"h:99999", b"h:100000", b"h:000080", b"h:-1", b"h:+80", b"h: 80",
    b"h:80 ", b"h:8_0", b"h:0x50", b"h:\xb2", b"h:80/", b"h:80?x", b"h:80#x", b"http://h:80", b"//h:80",
    b"/h:80",
    b"user@h:80", b"user:pass@h:80", b"h@169.254.169.254:80", b"@h:80", b"h%00:80", b"h%2e:80", b"%68:80",
    b"fe80::1%eth0:80", b"[fe80::1%eth0]:80", b"[fe80::1%25eth0]:80", b"[::1%]:80", b"[127.0.0.1]:80",
    b"[h]:80", b"[]:80", b"[::1:80", b"::1]:80", b"[[::1]]:80", b"[::1]]:80", b"[::g]:80", b"[v1.x]:80",
    b"h\0:80", b"h\r\n:80", b"h\n:80", b"h\r\nX: y:80", b"h\t:80", b" h:80", b"h h:80", b"h\x7f:80",
    b"h,i:80", b"h;i:80", b"h*:80", b"h_i:80", b"h\\i:80", b'"h":80', b"h\xe9:80", "h\u0660:80".encode(),
    "ｈ:80".encode(), "h．invalid:80".encode(), "h:８０".encode(), b"xn--\xff:80",
    b"a" * (LONGEST_NAME + 1) + b":1", b"a:" + b"b" * LONGEST_WORDS + b":1", b"*:80", b"a:b@c:80",
    b"a:b c:80",
)  # fmt: skip


def means(target: bytes) -> Authority | None:
    try:
        return parse_authority(target)
    except BadRequest:
        return None


class AuthorityTests(SynchronousTestCase):
    """:func:`parse_authority`."""

    def test_accepted(self) -> None:
        """Names in lower case, addresses in their shortest form, with brackets or without."""
        for target, (host, port) in ACCEPTED.items():
            self.assertEqual(means(target), Authority(host, port), target)

    def test_refused(self) -> None:
        """No user-info, zone, percent sign, other script, line end or excess, and always a port."""
        for target in REFUSED:
            error = self.assertRaises(BadRequest, parse_authority, target)
            self.assertEqual(error.reason, "authority", target)
            self.assertNotIn(target.decode("latin-1") or "\0", error.text)

    def test_words(self) -> None:
        """What has more colons and is no address is words, in lower case; none of them is shown."""
        found = parse_authority(f"pve:{TICKET.upper()}:100:node::5900".encode())
        self.assertEqual(found.words, ("pve", TICKET, "100", "node"))
        self.assertEqual((found.host, found.port, str(found)), ("", 5900, "ticket:5900"))
        self.assertNotIn(TICKET, repr(found))

    def test_text(self) -> None:
        """Written out, it is read back as the same."""
        for target in ACCEPTED:
            found = parse_authority(target)
            self.assertEqual(parse_authority(str(found).encode()), found)

    @settings(max_examples=200, deadline=None)
    @given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), st.integers(1, 65535), st.booleans())
    def test_addresses(self, address: IPv4Address | IPv6Address, port: int, long: bool) -> None:
        """Every address in every spelling is that address."""
        text = (address.exploded.upper() if long else str(address)).partition("%")[0]
        wanted = Authority(str(address), port)
        if address.version == 6:
            self.assertEqual(means(f"[{text}]:{port}".encode()), wanted)
        self.assertEqual(means(f"{text}:{port}".encode()), wanted)

    @settings(max_examples=500, deadline=None)
    @given(
        st.one_of(
            st.binary(max_size=40),
            st.text("aZ09.-:[]%@_~\0\r\n é", max_size=30).map(lambda it: it.encode("latin-1")),
            st.text("0123456789abcdef:.[]%", max_size=30).map(str.encode),
        )
    )
    def test_any_bytes(self, target: bytes) -> None:
        """Whatever passes is a plain name, an address or words, and a port; all else is a bad request."""
        found = means(target)
        if found is None:
            return
        self.assertTrue(1 <= found.port <= 65535)
        self.assertTrue(target.endswith(str(found.port).encode()))
        if found.words:
            self.assertEqual(found.host, "")
        for text in (found.host, *found.words):
            self.assertRegex(text, r"\A[a-z0-9._~:-]*\Z")
        if ":" in found.host:
            self.assertEqual(str(IPv6Address(found.host)), found.host)
            self.assertNotIn("%", found.host)
