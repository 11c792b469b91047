"""The file for remote-viewer: what is written is what is read, and nothing else."""

from __future__ import annotations

from attrs import asdict
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.wire.viewer_file import ViewerFile

PEM = "-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n"
NAMES = {"tls_port": "tls-port", "host_subject": "host-subject", "delete": "delete-this-file"}
TEXT = st.one_of(
    st.text(max_size=30),
    st.text("ab =[]#;\\\n\r\ts%", max_size=20),
    st.just("x\n[other]\nproxy=http://evil.invalid"),
)


def read(text: str) -> dict[str, str]:
    """As GLib reads a key file. Source: g_key_file_parse_value_as_string."""
    lines = text.split("\n")
    assert lines[0] == "[virt-viewer]" and lines[-1] == "", lines
    found: dict[str, str] = {}
    for line in lines[1:-1]:
        key, equals, value = line.partition("=")
        assert equals and key not in found and key == key.strip() and not key.startswith(("#", "[")), line
        value, out, at = value.strip(" \t\v\f\r"), "", 0
        while at < len(value):
            if value[at] == "\\":
                at += 1
                out += {"s": " ", "n": "\n", "t": "\t", "r": "\r", "\\": "\\"}[value[at]]
            else:
                out += value[at]
            at += 1
        found[key] = out
    return found


class ViewerFileTests(SynchronousTestCase):
    """:class:`ViewerFile`."""

    def test_written(self) -> None:
        """Every key in its place, the authority on one line; what is not there is left out."""
        text = ViewerFile(
            "vm.invalid", 5900, 5901, "pass word", "http://ticket:x@gw.invalid:3128", PEM, "O=a,CN=b", "A\\B"
        ).text()
        self.assertEqual(
            text.split("\n"),
            [
                "[virt-viewer]",
                "type=spice",
                "host=vm.invalid",
                "port=5900",
                "tls-port=5901",
                "password=pass word",
                "proxy=http://ticket:x@gw.invalid:3128",
                "ca=-----BEGIN CERTIFICATE-----\\nQUJD\\n-----END CERTIFICATE-----\\n",
                "host-subject=O=a,CN=b",
                "title=A\\\\B",
                "delete-this-file=1",
                "",
            ],
        )
        self.assertEqual(
            ViewerFile("::1", 1, delete=False).text(), "[virt-viewer]\ntype=spice\nhost=::1\nport=1\n"
        )

    def test_refused(self) -> None:
        """What cannot be written is refused, and named without its value."""
        for bad in ("\0", "\x1b[1m", "\x7f", "\ud800", "\x0b"):
            error = self.assertRaises(ValueError, ViewerFile("h", password=f"sekret12{bad}").text)
            self.assertTrue(str(error).startswith("password "))
            self.assertNotIn("sekret12", str(error))

    def test_secrets(self) -> None:
        """No description shows a secret."""
        self.assertNotIn("sekret", repr(ViewerFile("h", password="sekret12", proxy="http://u:sekret@h")))

    @settings(max_examples=300, deadline=None)
    @given(
        st.builds(
            ViewerFile,
            host=TEXT,
            port=st.none() | st.integers(1, 65535),
            tls_port=st.none() | st.integers(1, 65535),
            password=TEXT,
            proxy=TEXT,
            ca=TEXT,
            host_subject=TEXT,
            title=TEXT,
            delete=st.booleans(),
        )
    )
    def test_no_injection(self, file: ViewerFile) -> None:
        """Whatever the values are, none of them becomes another line, key or group."""
        try:
            text = file.text()
        except ValueError:
            return
        wanted = {NAMES.get(name, name): value for name, value in asdict(file).items()}
        wanted["delete-this-file"] = "1" if file.delete else ""
        shown = {key: str(value) for key, value in wanted.items() if value not in ("", None)}
        self.assertEqual(read(text), {"type": "spice", **shown})
