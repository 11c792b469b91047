from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from gateway.ctl.connect_settings import Options, Unusable, settings

STORED = """\
[default]
url = https://gateway.invalid
ca = {home}/ca.pem
token_file = {home}/token

[lab]
url = https://lab.invalid:8443
token = of-lab
"""


class SettingsTests(SynchronousTestCase):
    """Where to go, and what to show."""

    def setUp(self) -> None:
        self.home = Path(self.mktemp()).absolute()
        (self.home / ".config/gateway").mkdir(parents=True)
        self.file = self.home / ".config/gateway/connect.conf"
        self.file.write_text(STORED.format(home=self.home))
        (self.home / "token").write_text("of-default\n")
        self.environ = {"HOME": str(self.home)}

    def options(self, *arguments: str) -> Options:
        """A command line."""
        options = Options()
        options.parseOptions(list(arguments))
        return options

    def refused(self, what: str, *arguments: str, program: str = "gateway-connect") -> None:
        """It is said what is wrong."""
        with self.assertRaisesRegex(Unusable, what):
            settings(self.options(*arguments), self.environ, program)

    def test_file(self) -> None:
        """libvirt says nothing, so the file has it all; the name of the program chooses the section."""
        found = settings(self.options(), self.environ, "/usr/bin/gateway-connect")
        self.assertEqual((found.host, found.port, found.token), ("gateway.invalid", 443, "of-default"))
        self.assertEqual(found.ca, self.home / "ca.pem")
        found = settings(self.options(), self.environ, "/usr/bin/gateway-connect-lab")
        self.assertEqual((found.host, found.port, found.token), ("lab.invalid", 8443, "of-lab"))
        self.assertEqual(found.ca, self.home / "ca.pem")
        self.refused("no section \\[other\\]", program="gateway-connect-other")

    def test_order(self) -> None:
        """The command line goes before the environment, that before the file."""
        self.environ |= {"GATEWAY_URL": "https://of-environment.invalid:1", "GATEWAY_TOKEN": "of-environment"}
        found = settings(self.options(), self.environ, "gateway-connect")
        self.assertEqual(
            (found.host, found.port, found.token), ("of-environment.invalid", 1, "of-environment")
        )
        (self.home / "other").write_text("of-option")
        said = self.options("--url", "https://[2001:db8::1]:2", "--token-file", str(self.home / "other"))
        found = settings(said, self.environ, "gateway-connect")
        self.assertEqual((found.host, found.port, found.token), ("2001:db8::1", 2, "of-option"))

    def test_refused(self) -> None:
        """What cannot be is refused with what would be right, and no token is repeated."""
        for url in (
            "http://gateway.invalid",
            "gateway.invalid",
            "https://",
            "https://x:0",
            "https://x:99999",
            "https://x:y",
            "https://[x",
            "https://user:secret@x",
            "https://x/libvirt",
            "https://x?y",
        ):
            self.refused("https://HOST", "--url", url)
            with self.assertRaises(Unusable) as caught:
                settings(self.options("--url", url), self.environ, "gateway-connect")
            self.assertNotIn("secret", str(caught.exception))
        for timeout in ("soon", "0", "-1", "nan", "inf"):
            self.refused("number of seconds", "--timeout", timeout)
        (self.home / "token").write_text("two words")
        self.refused("token is empty, or none")
        (self.home / "token").unlink()
        self.refused("cannot be read")
        self.refused("cannot be read", "--config", str(self.home / "nothing"))
        self.file.write_text("[default]\nurls = x\n")
        self.refused("unknown key: urls")
        self.file.write_text("nonsense")
        self.refused("cannot be read")
        self.file.unlink()
        self.refused("where the gateway is")
        self.refused("who vouches", "--url", "https://gateway.invalid")

    def test_places(self) -> None:
        """A token is taken from the first place that has one, in whatever form it stands there."""
        self.environ["GATEWAY_TOKEN_FILE"] = str(self.home / "token")
        found = settings(self.options(), self.environ, "gateway-connect-lab")
        self.assertEqual((found.host, found.token), ("lab.invalid", "of-default"))
        del self.environ["GATEWAY_TOKEN_FILE"]
        self.file.write_text(
            f"[default]\nurl = HTTPS://GW.invalid/\nca = ~/ca\ntoken = of-default\n\n"
            f"[lab]\ntimeout = 3\ntoken_file = {self.home}/token\n"
        )
        (self.home / "token").write_text("of-lab\n")
        found = settings(self.options(), self.environ, "gateway-connect-lab")
        self.assertEqual(
            (found.host, found.port, found.token, found.timeout), ("gw.invalid", 443, "of-lab", 3)
        )
        self.assertEqual(settings(self.options(), self.environ, "gateway-connect").timeout, 15)

    def test_wrapped(self) -> None:
        """A script that calls this is no section."""
        for program in ("/home/alice/bin/gw", "-c", "connect.py", "gateway-connect.sh"):
            self.assertEqual(settings(self.options(), self.environ, program).token, "of-default")

    def test_secret(self) -> None:
        """The token is in no text about the settings, nor in one about what is wrong with them."""
        for text in (
            "token = hunter2\n",
            "[default]\ntoken hunter2\n",
            "[default]\ntoken = hunter2\ntoken = hunter2\n",
        ):
            self.file.write_text(text)
            with self.assertRaisesRegex(Unusable, "line [0-9]+ makes no sense") as caught:
                settings(self.options(), self.environ, "gateway-connect")
            self.assertNotIn("hunter2", str(caught.exception))
        self.file.write_text(STORED.format(home=self.home))
        self.assertNotIn("of-default", repr(settings(self.options(), self.environ, "gateway-connect")))
