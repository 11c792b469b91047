"""Domain cookies: good for one domain of one handle, made by nobody else."""

from __future__ import annotations

import os
import shutil
from base64 import urlsafe_b64decode, urlsafe_b64encode
from pathlib import Path
from tempfile import mkdtemp

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.rpc import cookies
from gateway.rpc.cookies import Cookies
from gateway.rpc.handle import ID, hash_handle

UUID = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0"
HANDLE = hash_handle("a" * 32)


class CookieTests(SynchronousTestCase):
    """Cookies as such."""

    def setUp(self) -> None:
        self.cookies = Cookies(bytes(range(32)))
        self.cookie = self.cookies.make(HANDLE, UUID)

    @settings(max_examples=100, deadline=None)
    @given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), st.uuids())
    def test_round_trip(self, key: bytes, handle: bytes, uuid: object) -> None:
        """A cookie names its handle and its domain, and fits in 64 characters."""
        made = Cookies(key).make(handle, str(uuid).upper())
        self.assertEqual(len(made), 64)
        self.assertEqual(Cookies(key).handle_id(made), handle[:ID])
        self.assertEqual(Cookies(key).check(handle, made), str(uuid))

    def test_each_bit_counts(self) -> None:
        """No bit of a cookie may be changed: not of the handle, of the domain, of the signature."""
        data = urlsafe_b64decode(self.cookie)
        for place in range(len(data) * 8):
            forged = bytearray(data)
            forged[place // 8] ^= 1 << place % 8
            text = urlsafe_b64encode(forged).decode()
            self.assertRaises(errors.NoHandle, self.cookies.check, HANDLE, text)

    def test_other_handle(self) -> None:
        """A cookie of one handle is none of another, even of one whose hash begins alike."""
        self.assertRaises(errors.NoHandle, self.cookies.check, hash_handle("b" * 32), self.cookie)
        alike = HANDLE[:ID] + bytes(32 - ID)
        self.assertRaises(errors.NoHandle, self.cookies.check, alike, self.cookie)

    def test_other_kind(self) -> None:
        """What was good a moment ago for one kind of thing is good for no other."""
        self.assertEqual(self.cookies.check(HANDLE, self.cookie, "dom"), UUID)
        for _ in range(2):
            self.assertRaises(errors.NoHandle, self.cookies.check, HANDLE, self.cookie, "net")
        self.assertEqual(self.cookies.check(HANDLE, self.cookie, "dom"), UUID)

    def test_other_key(self) -> None:
        """Who has another key makes no cookies of ours."""
        self.assertRaises(errors.NoHandle, Cookies(bytes(32)).check, HANDLE, self.cookie)

    def test_one_form(self) -> None:
        """Padding, other alphabets, blanks and other lengths are refused."""
        plus = Cookies(b"k" * 32).make(b"\xff" * 32, UUID).replace("_", "/")
        for text in (
            "",
            "=",
            self.cookie[:-1],
            self.cookie + "=",
            self.cookie + "\n",
            " " + self.cookie,
            plus,
        ):
            self.assertRaises(errors.NoHandle, self.cookies.check, HANDLE, text)
            self.assertRaises(errors.NoHandle, self.cookies.handle_id, text)
        self.assertRaises(errors.NoHandle, self.cookies.check, HANDLE, "é" * 64)

    @settings(max_examples=200, deadline=None)
    @given(st.text(max_size=80) | st.text("AZaz09-_", min_size=64, max_size=64))
    def test_anything(self, text: str) -> None:
        """Whatever is sent in place of a cookie is no handle."""
        self.assertRaises(errors.NoHandle, self.cookies.check, HANDLE, text)

    def test_key_is_not_shown(self) -> None:
        """The key is not part of what is printed."""
        self.assertNotIn("key", repr(self.cookies))


class KeyTests(SynchronousTestCase):
    """The file of the key."""

    def setUp(self) -> None:
        self.directory = Path(mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)
        self.path = self.directory / "rpc.key"

    def test_made_once(self) -> None:
        """The key is made at the first start, is for its owner only, and stays the same."""
        cookie = cookies.load(self.path).make(HANDLE, UUID)
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)
        self.assertEqual(self.path.stat().st_size, 32)
        self.assertEqual(cookies.load(self.path).check(HANDLE, cookie), UUID)
        self.assertEqual([file.name for file in self.directory.iterdir()], ["rpc.key"])

    def test_two_gateways_differ(self) -> None:
        """Two gateways have two keys."""
        first = cookies.load(self.path).make(HANDLE, UUID)
        other = cookies.load(self.directory / "other.key")
        self.assertRaises(errors.NoHandle, other.check, HANDLE, first)

    def test_mode_is_mended(self) -> None:
        """A key that others may read is theirs no longer."""
        cookies.load(self.path)
        self.path.chmod(0o644)
        cookies.load(self.path)
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)

    def test_damaged(self) -> None:
        """A key cut short is replaced: a short key must sign nothing."""
        for content in (b"", b"short", b"x" * 33):
            self.path.write_bytes(content)
            cookies.load(self.path)
            self.assertEqual(self.path.stat().st_size, 32)
            self.assertNotEqual(self.path.read_bytes()[:5], content[:5] or b"short")

    def test_no_way(self) -> None:
        """A link or a directory in its place is a mistake of the configuration, said so."""
        os.symlink("/dev/zero", self.path)
        self.assertRaises(errors.ConfigError, cookies.load, self.path)
        self.assertRaises(errors.ConfigError, cookies.load, self.directory)
        self.assertRaises(errors.ConfigError, cookies.load, self.directory / "none" / "rpc.key")
