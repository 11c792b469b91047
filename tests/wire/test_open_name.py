"""The name in the open call: hints for us, and never a way to anywhere."""

from __future__ import annotations

from urllib.parse import quote

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.wire.open_name import OpenName, is_target, parse_open_name

_TARGETS = st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True)


class OpenNameTests(SynchronousTestCase):
    """What a client says it wants to open."""

    def test_read(self) -> None:
        """The driver and our own variables are read, in either case, the last of each; others are ignored."""
        for text, name in (
            ("", OpenName()),
            ("test:///default", OpenName("test")),
            ("qemu:/system", OpenName("qemu")),
            ("qemu:", OpenName("qemu")),
            ("?target=lab", OpenName("", "lab")),
            ("qemu:///system?target=lab", OpenName("qemu", "lab")),
            ("qemu:///system?TARGET=lab&x=y;ticket=a%2Eb", OpenName("qemu", "lab", "a.b")),
            ("qemu:///system?target=a&target=b", OpenName("qemu", "b")),
            ("qemu:///system?target", OpenName("qemu")),
            ("qemu:///system?ticket=a=b&&;", OpenName("qemu", "", "a=b")),
            ("qemu:///system?command=/bin/sh&socket=/x", OpenName("qemu")),
            ("qemu:///system%3Ftarget=lab&ticket=a%2Eb", OpenName("qemu", "lab", "a.b")),
            ("qemu:///system%3ftarget=lab", OpenName("qemu", "lab")),
            ("qemu:///system%3Ftarget=lab?target=other", OpenName("qemu", "other")),
        ):
            self.assertEqual(parse_open_name(text), name, text)

    def test_refused(self) -> None:
        """A host, a user, a transport, a fragment, a control character or too much of anything is refused."""
        for text in (
            "test://host/default",
            "test:////host/default",
            "test://user@host/default",
            "test://[::1]/default",
            "test+ssh:///default",
            "test+ext:///default?command=/bin/sh",
            "test:///default#x",
            "/default",
            "default",
            "://",
            "test:///a\nb?target=../x",
            "test:///default%3Ftarget=../x",
            "test:///" + "a" * 1025 + "%3F" + "a" * 1025,
            "test:///default?target=../x",
            "test:///default?target=a%00",
            "test:///default?target=a%2Fb",
            "test:///default?target=qemu+ssh:%2F%2Fh%2F",
            "test:///default?target=" + "a" * 65,
            "t" * 65 + ":///",
            "test:///" + "a" * 2000,
            "test:///?" + "a" * 5000,
        ):
            self.assertRaises(ValueError, parse_open_name, text)

    def test_no_secret_shown(self) -> None:
        """The ticket does not show where a name is printed."""
        self.assertNotIn("secret", repr(parse_open_name("?ticket=secret")))

    @given(st.text(max_size=60) | st.from_regex(r"[a-z+]{0,4}:?/{0,4}[a-z@:#/]{0,8}(\?[a-z%&;=0-9]{0,30})?"))
    @settings(max_examples=300, deadline=None)
    def test_anything(self, text: str) -> None:
        """Whatever comes is refused, or names at most one target that could be one, and no host."""
        try:
            name = parse_open_name(text)
        except ValueError:
            return
        self.assertTrue(name.target == "" or is_target(name.target))
        self.assertNotIn("+", name.driver)
        self.assertFalse(text.partition("?")[0].partition(":")[2].removeprefix("//").startswith("//"))

    @given(_TARGETS, st.text(min_size=1, max_size=40), st.permutations([0, 1, 2]))
    @settings(max_examples=100, deadline=None)
    def test_what_a_client_sends(self, target: str, ticket: str, order: list[int]) -> None:
        """A target and a ticket come out as they were written, in whatever order they stand."""
        parts = [f"target={quote(target, safe='')}", f"ticket={quote(ticket, safe='')}", "x=1"]
        query = "&".join(parts[at] for at in order)
        self.assertEqual(parse_open_name(f"qemu:///system?{query}"), OpenName("qemu", target, ticket))
