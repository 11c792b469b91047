"""File names on their way into a header field."""

from __future__ import annotations

import re
from urllib.parse import unquote

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.images.disposition import attachment, parse_disposition
from gateway.wire.http_head import check_field

BARE = re.compile(r"attachment; filename=[^\s\";,/\\]+")
QUOTED = re.compile(r"attachment; filename=\"[^\"\\/]*\"(; filename\*=UTF-8''[A-Za-z0-9%!#$&+.^_`|~-]+)?")
NASTY = st.text(alphabet=st.sampled_from("\r\n\0\x7f\x85\"';\\/.% aZ\u05d0\u2028\u202e\U0001f600\ud800"))


class DispositionTests(SynchronousTestCase):
    """H2: whatever the name, one header field that saves into the client's own directory."""

    @settings(max_examples=300, deadline=None)
    @given(st.text(max_size=300) | NASTY)
    def test_any_name(self, name: str) -> None:
        """The value fits into one field, has one of two forms, and names no other directory."""
        value = attachment(name)
        check_field(b"content-disposition", value)
        text = value.decode("utf-8")
        if name:
            self.assertTrue(BARE.fullmatch(text) or QUOTED.fullmatch(text), text)
        for saved in (parse_disposition(value), *map(unquote, re.findall(r"filename\*=UTF-8''(.*)", text))):
            self.assertNotIn(saved, ("", ".", ".."))
            if saved is not None:
                self.assertNotRegex(saved, r"[\x00-\x1f\x7f-\x9f/\\]")
                self.assertFalse(saved.startswith((".", " ")), saved)
                self.assertLessEqual(len(saved), 255)

    @settings(max_examples=300, deadline=None)
    @given(st.text(max_size=60) | NASTY)
    def test_through_two_gateways(self, name: str) -> None:
        """What one gateway wrote the next one reads, and writes the same again."""
        saved = parse_disposition(attachment(name))
        self.assertEqual(attachment(saved), attachment(attachment_name(name)))

    def test_bare(self) -> None:
        """A name that needs no quotes stands bare, in UTF-8: the image daemon's clients compare so."""
        self.assertEqual(attachment("disk.raw"), b"attachment; filename=disk.raw")
        self.assertEqual(attachment("\u05d0.raw"), b"attachment; filename=\xd7\x90.raw")

    def test_quoted(self) -> None:
        """Blanks, quotes and semicolons need quotes; what is not ASCII is given twice then."""
        self.assertEqual(attachment("my disk.raw"), b'attachment; filename="my disk.raw"')
        self.assertEqual(attachment("a;b"), b'attachment; filename="a;b"')
        quoted = b"attachment; filename=\"a'b\"; filename*=UTF-8''a%22b"
        self.assertEqual(attachment('a"b'), quoted)
        both = b"attachment; filename=\"_ x\"; filename*=UTF-8''%D7%90%20x"
        self.assertEqual(attachment("\u05d0 x"), both)

    def test_no_way_out(self) -> None:
        """No name leaves the field, or the client's directory."""
        for name, expected in {
            "a\r\nset-cookie: b=c": b'attachment; filename="a__set-cookie: b=c"',
            "../../etc/passwd": b"attachment; filename=_.._etc_passwd",
            "..": b"attachment; filename=download",
            " ..": b"attachment; filename=download",
            ".bashrc": b"attachment; filename=bashrc",
            "C:\\x": b'attachment; filename="C:_x"',
        }.items():
            self.assertEqual(attachment(name), expected, name)

    def test_none(self) -> None:
        """Without a name it is just an attachment."""
        self.assertEqual((attachment(None), attachment("")), (b"attachment", b"attachment"))

    def test_parse(self) -> None:
        """The names of hosts are read in every form they come in; the extended one counts."""
        for value, expected in {
            b"attachment": None,
            b"attachment; filename=": None,
            b'attachment; filename=""': None,
            b"attachment; filename=my disk.raw": "my disk.raw",
            b'attachment; filename="a \\" b"': 'a " b',
            b"attachment; FileName=\xd7\x90": "\u05d0",
            b"attachment; filename=x; filename*=UTF-8''%D7%90": "\u05d0",
            b"attachment; filename=\xff": "\ufffd",
        }.items():
            self.assertEqual(parse_disposition(value), expected, value)
        self.assertIsNone(parse_disposition(None))


def attachment_name(name: str) -> str | None:
    """The name under which *name* is saved."""
    return parse_disposition(attachment(name))
