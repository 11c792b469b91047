from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.ctl import rpc_words as words
from gateway.rpc import commands


def no_file(name: str) -> bytes:
    raise AssertionError(name)


class Reading(SynchronousTestCase):
    def read(self, line: str, **files: bytes) -> dict[str, object]:
        word, *rest = line.split()
        return words.read(words.WORDS[word], rest, lambda name: files[name])

    def refused(self, line: str) -> str:
        return str(self.assertRaises(words.Mistyped, self.read, line))

    def test_every_command(self) -> None:
        """Whatever the endpoint offers can be typed, has a summary on one line, and a guide."""
        self.assertEqual(words.word_of(commands.VolUpload), "vol-upload")
        for word, command in words.WORDS.items():
            self.assertRegex(word, r"\A[a-z]+(-[a-z]+)*\Z")
            self.assertNotEqual(words.summary(command), "")
            self.assertTrue(words.guide(command).startswith(word))
        for command in (commands.Login, commands.Event, commands.Subscribe):
            self.assertNotIn(words.word_of(command), words.WORDS)

    def test_order_and_names(self) -> None:
        """Arguments come in their order, by name, or mixed."""
        expected = {"dom": "web", "on": True}
        for line in ("web yes", "on=on web", "web on=TRUE", "dom=web yes"):
            self.assertEqual(self.read(f"set-autostart {line}"), expected)

    def test_mistakes(self) -> None:
        """What is missing, too much, given twice or of another type is named, with what would be right."""
        self.assertIn("dom is missing: start DOM", self.refused("start"))
        self.assertIn("too much: 'x'", self.refused("get-state web 0 x"))
        self.assertIn("twice", self.refused("start dom=a dom=b"))
        self.assertIn("yes|no is expected", self.refused("set-autostart web perhaps"))
        self.assertIn("NUMBER is expected", self.refused("list-volumes p1 limit=many"))

    def test_equals(self) -> None:
        """An equals sign in something that is no name of an argument belongs to the value."""
        self.assertEqual(self.read("lookup a=b"), {"name": "a=b"})
        self.assertEqual(self.read("lookup name=a=b"), {"name": "a=b"})

    def test_files(self) -> None:
        """``@FILE`` is what the file holds, as text or as bytes; elsewhere it is what it is."""
        self.assertEqual(self.read("define @f", f=b"<domain>\xff"), {"xml": "<domain>\udcff"})
        self.assertEqual(self.read("call P xdr=@f", f=b"\x00\xff"), {"proc": "P", "xdr": b"\x00\xff"})
        self.assertEqual(self.read("start @f"), {"dom": "@f"})

    def test_flags(self) -> None:
        """Flags go by their names, as numbers, or both, each counted once; a strange one lists the others."""
        for text, number in (("secure", 1), ("secure,inactive", 3), ("3,secure", 3), ("0x4", 4)):
            self.assertEqual(self.read(f"get-xml web {text}")["flags"], number)
        self.assertIn("there are: paused, autodestroy", self.refused("start web soft"))

    def test_bits(self) -> None:
        """Names of flags stand for libvirt's own numbers (libvirt-domain.h)."""
        for line, number in (
            ("list-domains shutoff", 64),
            ("list-domains no-snapshot", 8192),
            ("undefine web keep-nvram", 8),
            ("shutdown web agent", 2),
            ("destroy web graceful", 1),
            ("start web force-boot", 8),
            ("get-xml web migratable", 8),
        ):
            self.assertEqual(self.read(line)["flags"], number, line)

    def test_options(self) -> None:
        """Members of the options may be given by themselves, and not in both ways at once."""
        values = self.read("graphics web view=yes index=1 timeout=60")
        self.assertEqual(json.loads(str(values["options"])), {"view": True, "index": 1, "timeout": 60})
        self.assertEqual(self.read("console web device=serial0")["options"], '{"device": "serial0"}')
        self.assertIn("twice", self.refused("graphics web options={} view=yes"))

    def test_python_names(self) -> None:
        """An argument that Python could not name goes by what the library calls it."""
        self.assertEqual(self.read("audit from=5"), {"from_": 5})

    def test_lists(self) -> None:
        """A list has commas."""
        command = commands.Subscribe
        self.assertEqual(words.read(command, ["a,b"], no_file), {"kinds": ["a", "b"]})
        one, two = "spice://h2.invalid:5900?tls-port=5901", "tcp://h2.invalid:1"
        told = {"id": "4444", "timeout": 60.0, "urls": [one, two]}
        self.assertEqual(self.read(f"renew-ticket 4444 60 urls={one},{two}"), told)

    @given(st.text(max_size=40))
    @settings(max_examples=100, deadline=None)
    def test_any_text(self, text: str) -> None:
        """Whatever is typed is understood or refused in words."""
        for word in ("start", "graphics", "set-autostart", "call"):
            try:
                words.read(words.WORDS[word], ["a", text], lambda name: b"")
            except words.Mistyped:
                pass


class Looking(SynchronousTestCase):
    def test_uuid(self) -> None:
        """A uuid is a uuid; a number is an id, and then a name; anything else is a name."""
        uuid = "6695eb01-f6a4-8304-79aa-97f2502e193f"
        self.assertEqual(words.lookups("dom", uuid), [{"uuid": uuid}])
        self.assertEqual(words.lookups("dom", "7"), [{"id": 7}, {"name": "7"}])
        self.assertEqual(words.lookups("net", "7"), [{"name": "7"}])
        self.assertEqual(words.lookups("dom", "9" * 30), [{"name": "9" * 30}])

    def test_secrets(self) -> None:
        """Lines with ids of tickets or passwords are known."""
        for line in (
            "renew-ticket 4444 60",
            "add-ticket @t",
            "define '<graphics passwd=\"x\"/>'",
            "  GET-TICKET x",
        ):
            self.assertTrue(words.is_secret(line), line)
        self.assertFalse(words.is_secret("list-tickets"))
        self.assertFalse(words.is_secret("start web"))
