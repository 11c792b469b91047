"""Files of credentials for hypervisors."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from gateway.errors import ConfigError
from gateway.rpc.auth_file import find_credentials
from gateway.wire.libvirt_url import parse_url

FILE = """\
[credentials-one]
authname=alice
password=a %p;#
[credentials-two]
username=bob
password=b
[credentials-half]
authname=carol
[auth-libvirt-h1]
credentials=one
[auth-libvirt-default]
credentials=two
[auth-libvirt-half]
credentials=half
[auth-libvirt-none]
credentials=nowhere
[auth-vnc-h4]
credentials=one
"""


class AuthFileTests(SynchronousTestCase):
    """Who to log in as."""

    def write(self, text: str = FILE) -> Path:
        path = Path(self.mktemp())
        path.write_text(text)
        return path.absolute()

    def found(self, host: str, text: str = FILE) -> tuple[str, str] | None:
        who = find_credentials(parse_url(f"qemu+tls://{host}/system?authfile={self.write(text)}"), {})
        return None if who is None else (who.user, who.password)

    def test_hosts(self) -> None:
        """A host has its own section, or that of all others; what is in the file is taken as it is."""
        self.assertEqual(self.found("h1"), ("alice", "a %p;#"))
        self.assertEqual(self.found("h2"), ("bob", "b"))
        self.assertIsNone(self.found("h2", FILE.replace("libvirt-default", "libvirt-other")))

    def test_bad(self) -> None:
        """A file that is missing, is none, or leads nowhere is said to be so, without what is in it."""
        for host, text in (("half", FILE), ("none", FILE), ("h1", "password=secret"), ("h1", "[x\nsecret")):
            error = self.assertRaises(ConfigError, self.found, host, text)
            self.assertNotIn("secret", str(error))
            self.assertEqual(len(error.problems), 1)
        url = parse_url("qemu+tls://h1/system?authfile=/nonexistent/auth.conf")
        self.assertRaises(ConfigError, find_credentials, url, {})

    def test_places(self) -> None:
        """The environment comes first, then the URL, then the user's own file."""
        one, two = self.write(), self.write(FILE.replace("alice", "dora"))
        home = Path(self.mktemp()).absolute()
        (home / "libvirt").mkdir(parents=True)
        url = parse_url(f"qemu+tls://h1/system?authfile={one}")
        for environment, user in (
            ({"LIBVIRT_AUTH_FILE": str(two)}, "dora"),
            ({"XDG_CONFIG_HOME": str(home)}, "alice"),
        ):
            who = find_credentials(url, environment)
            self.assertEqual(None if who is None else who.user, user)
        bare = parse_url("qemu+tls://h1/system")
        two.rename(home / "libvirt/auth.conf")
        for environment in ({"XDG_CONFIG_HOME": str(home)},):
            who = find_credentials(bare, environment)
            self.assertEqual(None if who is None else who.user, "dora")
