"""A ticket is read exactly, or refused with a text that says what is wrong and repeats nothing."""

from __future__ import annotations

import json
from ipaddress import ip_network

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.wire.ticket_json import Grant, Kind, Renewal, Rights, grant_from, parse_patch, parse_ticket

UUID = "11111111-1111-4111-8111-111111111111"
IMAGE: dict[str, object] = {
    "uuid": UUID,
    "size": 2**30,
    "url": "https://host.invalid:54322/images/x",
    "timeout": 300,
    "ops": ["read", "write"],
}
CONSOLE: dict[str, object] = {
    "uuid": UUID,
    "kind": "console",
    "url": "vnc://127.0.0.1:5971",
    "timeout": 300,
    "ops": ["view", "control"],
}

IMAGE_URLS = (
    "file:///tmp/foo.img", "file:///tmp/a name\u00e9", "nbd:unix:/run/nbd.sock", "nbd:unix:/r:exportname=a b",
    "nbd:host.invalid:10809", "nbd:host.invalid:10809:exportname=sda", "nbd://[2001:db8::1]:10809/export",
    "http://host.invalid/images/1", "https://127.0.0.1:54322/images/1?x=y",
    "http+unix://%2Frun%2Fimageio%2Fsock/images/1", "http+unix://%00name/images/1", "libvirt://lab/pool/a b",
    "libvirt://lab/pool/a%2Fb",
)  # fmt: skip
CONSOLE_URLS = (
    "vnc://127.0.0.1:5900", "vnc+tls://host.invalid:5900", "vnc+unix:/run/vnc", "spice://[::1]:5900?tls-port=5901",
    "spice://host.invalid?tls-port=5901", "serial://192.0.2.1:4555", "serial+unix:///run/serial",
    "serial+tls://host.invalid:1", "tcp://host.invalid:1", "unix:/run/x",
    f"libvirt://lab/{UUID}/console/serial0", f"libvirt://lab/{UUID}/graphics/0",
)  # fmt: skip
BAD_URLS = (
    "", ":", "http", "//host/x", "http://[1.2.3.4:33", "http://[1.2.3.4]:33/", "http://[::1", "http://[zz::1]/x",
    "http:///images/1", "http://user@host.invalid/x", "http://good.invalid\t.evil.invalid/", "http://a b/",
    "http://h\u00f6st.invalid/", "http://host.invalid:0/", "http://host.invalid:65536/", "http://host.invalid:/",
    "http://host.invalid:\u0661/", "http://%31.invalid/", "http://[fe80::1%25eth0]/", "http://host.invalid/#x",
    "http://host.invalid/%zz", "http://host.invalid/\r\nx", "HTTP://host.invalid/", "file:relative",
    "file://host/x", "file:///a\0b", "nbd:", "nbd:host.invalid", "nbd:host.invalid:99999", "http+unix:///run/x",
    "http+unix://host.invalid/x", "libvirt://lab/pool", "libvirt://lab/pool/a/b", "libvirt://l/p/%00", "vnc://127.0.0.1:5900",
    "notsupported:path", "javascript:alert(1)",
)  # fmt: skip


def ticket(base: dict[str, object] = IMAGE, /, **members: object) -> bytes:
    return json.dumps(base | members).encode()


def without(name: str, base: dict[str, object] = IMAGE) -> bytes:
    return json.dumps({key: value for key, value in base.items() if key != name}).encode()


class TicketTests(SynchronousTestCase):
    """What the engine may write."""

    def refuse(self, body: bytes, text: str = "") -> None:
        error = self.assertRaises(errors.BadRequest, parse_ticket, body)
        self.assertSubstring(text, error.text)

    def test_plain_image(self) -> None:
        """The five members of imageio are enough, and the rest has imageio's defaults."""
        self.assertEqual(
            parse_ticket(ticket()),
            Grant(
                Kind.IMAGE,
                UUID,
                "https://host.invalid:54322/images/x",
                ("https://host.invalid:54322/images/x",),
                ("read", "write"),
                300,
                2**30,
                60,
                "(ticket/11111111-1111-4111)",
            ),
        )

    def test_optional(self) -> None:
        """Every optional member of imageio is taken as it stands."""
        grant = parse_ticket(
            ticket(inactivity_timeout=120, transfer_id="t", filename='a "b"', sparse=True, dirty=True)
        )
        self.assertEqual(
            (grant.inactivity_timeout, grant.transfer_id, grant.filename, grant.sparse, grant.dirty),
            (120, "t", 'a "b"', True, True),
        )

    def test_additions(self) -> None:
        """What other kinds need is read, too."""
        grant = parse_ticket(
            ticket(
                CONSOLE,
                urls=["vnc://127.0.0.1:5971", "spice://127.0.0.1:1"],
                uses=1,
                peer="192.0.2.0/24",
                principal="alice",
                secret="sekret12",
                targets=["lab"],
                rights={"allow": ["domain:start"], "domains": ["web*"]},
            )
        )
        self.assertEqual(grant.urls, ("vnc://127.0.0.1:5971", "spice://127.0.0.1:1"))
        self.assertEqual((grant.uses, grant.peer), (1, ip_network("192.0.2.0/24")))
        self.assertEqual((grant.principal, grant.secret, grant.targets), ("alice", "sekret12", ("lab",)))
        self.assertEqual(grant.rights, Rights(("domain:start",), ("web*",)))

    def test_user(self) -> None:
        """A console may be told another user than the principal, where it is told one at all."""
        good = {"url": "vnc+tls://127.0.0.1:1", "secret": "sekret12"}
        self.assertIsNone(parse_ticket(ticket(CONSOLE, **good)).user)
        for name in ("bob", "b", "B\u00f6b, Dr. @ x", "b" * 255):
            self.assertEqual(parse_ticket(ticket(CONSOLE, **good, user=name)).user, name)
        grant = grant_from({**CONSOLE, **good, "user": "hidden-one"})
        self.assertNotIn("hidden-one", repr(grant))
        for name in ("", "a\0b", "a\nb", "a\x7f", "\x85", "b" * 256):
            self.refuse(ticket(CONSOLE, **good, user=name), "Invalid value for 'user': 1 to 255")
        lone = {**CONSOLE, **good, "user": "\ud800"}
        self.assertRaises(errors.BadRequest, grant_from, lone)
        plain, spice = "vnc://127.0.0.1:1", "spice+tls://127.0.0.1:1"
        for body in (
            ticket(CONSOLE, url=good["url"], user="bob"),
            ticket(CONSOLE, url=plain, secret="x", user="bob"),
            ticket(CONSOLE, url=spice, secret="x", user="bob"),
            ticket(CONSOLE, **good, urls=[good["url"], plain], user="bob"),
            ticket(CONSOLE, url=f"libvirt://lab/{UUID}/graphics/0", secret="x", user="bob"),
            ticket(secret="x", user="bob"),
        ):
            self.refuse(body, "Invalid value for 'user': only a console of vnc+tls")

    def test_shared_and_record(self) -> None:
        """Consoles can be shared and recorded where somebody can do it; else it is refused, not ignored."""
        grant = parse_ticket(ticket(CONSOLE))
        self.assertEqual((grant.shared, grant.record), (False, False))
        grant = parse_ticket(ticket(CONSOLE, shared=True, record=True))
        self.assertEqual((grant.shared, grant.record), (True, True))
        self.assertTrue(parse_ticket(ticket(CONSOLE, url="serial://127.0.0.1:1", record=True)).record)
        line, screen = f"libvirt://lab/{UUID}/console", f"libvirt://lab/{UUID}/graphics/0"
        self.assertTrue(parse_ticket(ticket(CONSOLE, url=screen, shared=True, record=True)).shared)
        self.assertTrue(parse_ticket(ticket(CONSOLE, url=line, record=True)).record)
        both = {"urls": ["vnc://127.0.0.1:5971", "spice://127.0.0.1:1"]}
        for name, body in (
            ("shared", ticket(shared=True)),
            ("record", ticket(record=True)),
            ("shared", ticket(CONSOLE, url="serial://127.0.0.1:1", shared=True)),
            ("shared", ticket(CONSOLE, url=line, shared=True)),
            ("record", ticket(CONSOLE, url="spice://127.0.0.1:1", record=True)),
            ("shared", ticket(CONSOLE, **both, shared=True)),
            ("record", ticket(CONSOLE, **both, record=True)),
        ):
            self.refuse(body, f"Invalid ticket: Invalid value for '{name}': only consoles")
        self.assertFalse(parse_ticket(ticket(shared=False, record=False)).shared)

    def test_size_and_url_only_where_needed(self) -> None:
        """Size is for images only; a url is not needed beside urls, nor for rpc."""
        self.assertEqual(parse_ticket(ticket(CONSOLE)).size, 0)
        grant = parse_ticket(
            json.dumps({**CONSOLE, "kind": "tunnel", "urls": ["spice://127.0.0.1:5972"]} | {"url": "tcp://[::1]:1"})
            .encode()
        )  # fmt: skip
        self.assertEqual(
            (grant.url, grant.urls), ("tcp://[::1]:1", ("tcp://[::1]:1", "spice://127.0.0.1:5972"))
        )
        body = without("url", CONSOLE | {"urls": ["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"]})
        self.assertEqual(parse_ticket(body).url, "tcp://127.0.0.1:1")
        self.assertEqual(parse_ticket(without("url", CONSOLE | {"kind": "rpc"})).url, "")
        self.refuse(without("url", CONSOLE), "Required ticket parameter is missing: url")

    def test_missing(self) -> None:
        """A missing member is named, in the words of imageio."""
        for name in IMAGE:
            self.refuse(without(name), f"Invalid ticket: Required ticket parameter is missing: {name}")

    def test_not_json(self) -> None:
        """What is no JSON object, or one with two readings, is said to be none."""
        for body in (
            b"",
            b"{invalid}",
            b"[]",
            b"null",
            b"\xff",
            b'{"uuid": "a", "uuid": "b"}',
            b'{"size": NaN}',
        ):
            self.refuse(body, "Ticket is not in a json format: ")

    def test_types(self) -> None:
        """Each member has one type; a boolean is no number and a number no boolean."""
        wrong: dict[str, tuple[object, ...]] = {
            "uuid": (1, None, [], ""),
            "size": (1.5, "1", True, None, -1),
            "timeout": (1.5, "invalid", False, -1, 2**31, None),
            "inactivity_timeout": (1.5, True, -1, None),
            "url": (1, None, ["x"]),
            "urls": ("vnc://127.0.0.1:1", [1]),
            "ops": ("read", {}, [1], None),
            "transfer_id": (1, None),
            "filename": (1, None),
            "sparse": (1, "yes", None),
            "dirty": (0, None),
            "shared": (0, 1, "true", None, []),
            "record": (0, 1, "true", None, []),
            "kind": ("disk", 1, "IMAGE"),
            "uses": (0, -1, True, 1.0, None),
            "peer": (1, "", "host.invalid", "192.0.2.1/24", "192.0.2.0/33", "0x7f.1", "fe80::1%eth0"),
            "principal": (1, None),
            "secret": (1, None),
            "user": (1, None, ["x"]),
            "targets": ("lab", [None]),
            "rights": ([], None, "*", {"allow": "*"}, {"domains": [1]}, {"deny": ["*"]}),
        }
        for name, values in wrong.items():
            for value in values:
                self.refuse(ticket(**{name: value}), f"Invalid ticket: Invalid value for '{name}")

    def test_sizes(self) -> None:
        """A size may be anything from nothing to 2**64, which is what the engine's own tests use."""
        for size in (0, 1, 2**63, 2**64):
            self.assertEqual(parse_ticket(ticket(size=size)).size, size)
        self.assertRaises(errors.BadRequest, grant_from, IMAGE | {"size": 2**64 + 1})

    def test_lenient(self) -> None:
        """Unknown members are ignored, and no operation at all is a ticket of little use."""
        self.assertEqual(parse_ticket(ticket(future={"a": [1]}, ops=[])).ops, ())

    def test_ids(self) -> None:
        """An id needs no escaping anywhere, so that it is one text in every place it may be shown."""
        for uuid in ("a", "a" * 128, "A.z_0~9-"):
            self.assertEqual(parse_ticket(ticket(uuid=uuid)).uuid, uuid)
        for uuid in ("a" * 129, "a/b", "a b", "a%20", "a\n", "\u00e9", "a,b"):
            self.refuse(ticket(uuid=uuid), "'uuid'")

    def test_transfer_id_is_half_of_the_id(self) -> None:
        """The name a ticket has in logs by default never gives away more than half of its id."""
        self.assertEqual(parse_ticket(ticket(uuid="abcdef")).transfer_id, "(ticket/abc)")

    def test_urls(self) -> None:
        """Each kind takes the urls it can serve and no others."""
        for kind, good in (("image", IMAGE_URLS), ("console", CONSOLE_URLS)):
            for url in good:
                self.assertEqual(parse_ticket(ticket(kind=kind, url=url)).url, url)
        for kind, bad in (("console", IMAGE_URLS), ("image", CONSOLE_URLS), ("image", BAD_URLS)):
            for url in bad:
                self.refuse(ticket(kind=kind, url=url), "Invalid ticket: Invalid value for 'url': ")
        for url in ("vnc://127.0.0.1", "tcp://host.invalid/", "spice://host.invalid"):
            self.refuse(ticket(CONSOLE, url=url), "needs a port")
        self.refuse(ticket(url="notsupported:path"), "Unsupported url scheme: notsupported")
        self.refuse(ticket(kind="tunnel", url="vnc://127.0.0.1:1"), "Unsupported url scheme: vnc")
        self.refuse(ticket(CONSOLE, urls=["tcp://127.0.0.1:1", "x:y"]), "'urls'")

    def test_mapped_peer(self) -> None:
        """An IPv4 network in IPv6 clothes is an IPv4 network."""
        self.assertEqual(parse_ticket(ticket(peer="::ffff:192.0.2.1")).peer, ip_network("192.0.2.1"))

    def test_keeps_its_secrets(self) -> None:
        """Neither the representation of a grant nor the text of an error shows id, secret or url."""
        grant = parse_ticket(ticket(secret="sekret12"))
        for hidden in (UUID, "sekret12", "host.invalid"):
            self.assertNotIn(hidden, repr(grant))
        error = self.assertRaises(
            errors.BadRequest, parse_ticket, ticket(uuid="sekret12/", secret=["sekret12"])
        )
        self.assertNotIn("sekret12", error.text)

    @settings(max_examples=300, deadline=None)
    @given(
        st.sampled_from(
            [*IMAGE, "kind", "urls", "uses", "peer", "rights", "targets", "secret", "user", "shared"]
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
            ),
            max_leaves=5,
        ),
    )
    def test_any_member(self, name: str, value: object) -> None:
        """Whatever a member holds, the ticket is taken or refused as a bad request; nothing else."""
        try:
            grant_from(IMAGE | {name: value})
        except errors.BadRequest:
            pass


class PatchTests(SynchronousTestCase):
    """What the engine may change."""

    def test_timeout(self) -> None:
        """The timeout is read, and zero is one; other members do not matter."""
        self.assertEqual(parse_patch(b'{"timeout": 300}'), Renewal(300))
        self.assertEqual(parse_patch(b'{"timeout": 0, "size": 5}'), Renewal(0))
        urls = ("spice://h.invalid:5900?tls-port=5901", "tcp://h.invalid:1")
        self.assertEqual(
            parse_patch(b'{"timeout": 1, "urls": ["%s", "%s"]}' % tuple(it.encode() for it in urls)),
            Renewal(1, urls),
        )

    def test_refused(self) -> None:
        """Anything else is refused in the words of imageio."""
        for body, text in (
            (b"{invalid}", "Invalid patch: "),
            (b"[]", "Invalid patch: "),
            (b'{"not-a-timeout": 300}', "Missing required value for 'timeout'"),
            (b'{"timeout": "5"}', "Integer required '5'"),
            (b'{"timeout": true}', "Integer required 'True'"),
            (b'{"timeout": 1.5}', "Integer required '1.5'"),
            (b'{"timeout": -1}', "Invalid value -1 < 0"),
            (b'{"timeout": 2147483648}', "Invalid value 2147483648 > 2147483647"),
            (b'{"timeout": 1, "urls": "tcp://h.invalid:1"}', "'urls': an array of strings"),
            (b'{"timeout": 1, "urls": ["file:///etc/passwd"]}', "Invalid value for 'urls'"),
        ):
            self.assertSubstring(text, self.assertRaises(errors.BadRequest, parse_patch, body).text)
