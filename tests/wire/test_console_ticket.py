from __future__ import annotations

import json
from urllib.parse import quote

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.wire.console_ticket import ConsolePayload, console_payload
from gateway.wire.ovirt_ticket import BadTicket, image_payload
from gateway.wire.ticket_url import check_url

GOOD = {"host": "192.0.2.7", "port": "5900", "ssl_target": False}
#: What the encoder of the engine's pages leaves as it is.
GWT = ";,/?:@&=+$-_.!~*'()#"


def read(safe: str = "", **change: object) -> ConsolePayload:
    members = {name: value for name, value in (GOOD | change).items() if value is not ...}
    return console_payload(quote(json.dumps(members), safe=safe))


class PayloadTests(SynchronousTestCase):
    """:func:`console_payload`."""

    def refused(self, reason: str, data: str) -> None:
        self.assertEqual(self.assertRaises(BadTicket, console_payload, data).reason, reason, data)

    def no(self, reason: str, **change: object) -> None:
        self.assertEqual(self.assertRaises(BadTicket, read, **change).reason, reason, change)

    def test_engine(self) -> None:
        """What engines write is read: all of it encoded, or what a page's encoder leaves, or nothing."""
        expected = ConsolePayload("192.0.2.7", 5900, False)
        for safe in ("", "/", GWT, GWT + '{}[]" '):
            self.assertEqual(read(safe), expected)
            self.assertEqual(read(safe, path=None, token=None), expected)
        written = "%7B%22host%22:%22h1.invalid%22,%22port%22:%225901%22,%22ssl_target%22:true%7D"
        self.assertEqual(console_payload(written), ConsolePayload("h1.invalid", 5901, True))

    def test_port(self) -> None:
        """A port is digits or a number, and a port."""
        self.assertEqual([read(port=port).port for port in (1, 65535, "1", "65535")], [1, 65535, 1, 65535])
        for port in (0, 65536, -1, 1 << 70, "65536", "99999"):
            self.no("purpose" if port == 1 << 70 else "target", port=port)
        for port in ("", "0", "05900", "+5900", " 5900", "5900 ", "5_900", "0x17", "59.0", "٥٩٠٠", "123456"):
            self.no("purpose", port=port)
        for other in (True, None, 5900.0, ["5900"], ...):
            self.no("purpose", port=other)

    def test_host(self) -> None:
        """A host is a name or an address in one spelling; shorthand, zones, user-info and blanks are none."""
        for host, same in (
            ("h", "h"),
            ("Host-1.example.invalid", "Host-1.example.invalid"),
            ("2001:DB8:0:0::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("3com.invalid", "3com.invalid"),
        ):
            self.assertEqual(read(host=host).host, same)
        for host in (
            "", ".", "h.", "-h", "h-", "h..i", "a_b", "127.1", "0x7f000001", "2130706433", "127.0.0.01",
            "fe80::1%eth0", "fe80::1%25eth0", "[192.0.2.1]", "[::1", "::1]", "u@h", "h:80", "h/x", "h?x",
            "h#x", " h", "h ", "h\n", "h\0", "hé", "ｈ", "x" * 64, "a." * 127 + "b", "[h]", "1.2.3.4.5",
        ):  # fmt: skip
            self.no("target", host=host)
        for other in (None, 1, True, ["h"], ...):
            self.no("purpose", host=other)

    def test_types(self) -> None:
        """Every member has its type, and there are no others."""
        for value in ("true", 1, 0, None, "", ...):
            self.no("purpose", ssl_target=value)
        for change in ({"x": 1}, {"Host": "h"}, {"imaged-uri": "https://h:1"}, {"exp": 1}):
            self.no("purpose", **change)

    def test_websocket(self) -> None:
        """The websocket of a cluster is read with its token, which is in no representation."""
        found = read(path="/apis/x/vnc", token="ab+/=")
        self.assertEqual((found.path, found.token), ("/apis/x/vnc", "ab+/="))
        self.assertNotIn("ab+/=", repr(found))
        self.assertEqual(read(path="/x").token, None)
        for change in (
            {"path": "x"}, {"path": ""}, {"path": "/a b"}, {"path": "/a\r\nb"}, {"path": 1},
            {"path": "/" * 2000}, {"token": "t"}, {"path": "/", "token": ""}, {"path": "/", "token": "a b"},
            {"path": "/", "token": "a\r\nb"}, {"path": "/", "token": "é"}, {"path": "/", "token": 1},
        ):  # fmt: skip
            self.no("purpose", **change)

    def test_plus(self) -> None:
        """A plus sign is no blank: a token that holds one is not broken by reading it."""
        data = quote(json.dumps({**GOOD, "path": "/x", "token": "a+b"}), safe="+")
        self.assertEqual(console_payload(data).token, "a+b")

    def test_encoding(self) -> None:
        """Encoded once, in ASCII, as UTF-8; members once; one object and nothing after it."""
        plain = json.dumps(GOOD)
        self.refused("purpose", quote(quote(plain)))
        for data in (
            "", "%", "%7", "%7B%22", "%GG", "[]", "null", '"x"', plain + "x", plain + plain, "é", "\ud800",
            quote(plain)[:-1], quote(plain) + "%00", "%FF", "%7B%22host%22%3A%22h%22%7D",
            quote('{"host":"a","host":"b","port":"1","ssl_target":true}'), "%20" * 6000,
            quote(json.dumps({**GOOD, "host": {"x": "y"}})), "\n" + quote(plain), "[" * 10000,
        ):  # fmt: skip
            self.refused("purpose", data)

    def test_no_image(self) -> None:
        """A console's payload is no image's, and an image's no console's."""
        self.assertRaises(BadTicket, image_payload, json.dumps(GOOD))
        self.assertRaises(BadTicket, image_payload, quote(json.dumps(GOOD)))
        image = {"nbf": 1, "exp": 2, "imaged-uri": "https://h:1", "transfer-ticket": "x"}
        self.refused("purpose", json.dumps(image))
        self.refused("purpose", quote(json.dumps(image)))

    @settings(max_examples=300, deadline=None)
    @given(st.text(max_size=60) | st.from_regex(r"(%[0-9A-Fa-f]{2}|[ -~]){0,60}", fullmatch=True))
    def test_fuzz(self, data: str) -> None:
        """Whatever it is, it is refused with a reason, or is a target whose URL a ticket may hold."""
        for text in (
            data,
            quote(json.dumps({**GOOD, "host": data})),
            quote(json.dumps({**GOOD, "port": data})),
        ):
            try:
                found = console_payload(text)
            except BadTicket as error:
                self.assertIn(error.reason, ("purpose", "target"))
            else:
                check_url(f"vnc://{found.authority}", ["vnc"])
