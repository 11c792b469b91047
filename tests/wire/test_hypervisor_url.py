from __future__ import annotations

from urllib.parse import quote

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.wire.hypervisor_url import ConsolePlace, VolumePlace, console_of, volume_of

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters=[*map(chr, range(32)), "\x7f"]),
    min_size=1,
    max_size=20,
)


class VolumeTests(SynchronousTestCase):
    """Volumes."""

    def test_forms(self) -> None:
        """Names stand literally, or percent-encoded, even with a slash in them."""
        for rest, place in {
            "lab/p1/v1": VolumePlace("lab", "p1", "v1"),
            "Lab_1.x-y/a b/c%20d": VolumePlace("Lab_1.x-y", "a b", "c d"),
            "lab/p/%C3%A4%2Fb%25%3F%23": VolumePlace("lab", "p", "ä/b%?#"),
            "lab/p/ä+b": VolumePlace("lab", "p", "ä+b"),
            "lab/../..": VolumePlace("lab", "..", ".."),
        }.items():
            self.assertEqual(volume_of(f"libvirt://{rest}"), place, rest)

    def test_refused(self) -> None:
        """Anything but two names after a name of the configuration, and names that end before their end."""
        for rest in (
            "", "lab", "lab/p", "lab/p/", "lab//v", "/p/v", "lab/p/v/", "lab/p/v/x", "lab/p/v?x=y",
            "lab/p/v#x", "lab/p/v%", "lab/p/v%zz", "lab/p/v%00", "lab/p/v%0a", "lab/p/v%7F", "lab/p/a\0b",
            "lab/p/\nv", "lab/p/v\n", "lab/p/%ff", "lab/p/\ud800", "lab:1/p/v", "a@lab/p/v", "lab%20/p/v",
            "[::1]/p/v", f"{'x' * 65}/p/v", f"lab/p/{'v' * 1025}",
        ):  # fmt: skip
            error = self.assertRaises(ValueError, volume_of, f"libvirt://{rest}")
            self.assertNotIn("ab/p", str(error))
        self.assertRaises(ValueError, volume_of, "libvirts://lab/p/v")

    @settings(max_examples=200, deadline=None)
    @given(NAMES, NAMES)
    def test_encoded(self, pool: str, volume: str) -> None:
        """Every name without control characters can be said."""
        url = f"libvirt://lab/{quote(pool, safe='')}/{quote(volume, safe='')}"
        self.assertEqual(volume_of(url), VolumePlace("lab", pool, volume))


class ConsoleTests(SynchronousTestCase):
    """Consoles."""

    def test_forms(self) -> None:
        """Serial lines, the first or by alias, and screens by number; a uuid has one form."""
        for rest, place in {
            f"lab/{UUID}/console": ConsolePlace("lab", UUID),
            f"lab/{UUID.upper()}/console/serial1": ConsolePlace("lab", UUID, "serial1"),
            f"lab/{UUID}/console/ua-My_line.2": ConsolePlace("lab", UUID, "ua-My_line.2"),
            f"lab/{UUID}/graphics/0": ConsolePlace("lab", UUID, None, 0),
            f"lab/{UUID}/graphics/11": ConsolePlace("lab", UUID, None, 11),
        }.items():
            self.assertEqual(console_of(f"libvirt://{rest}"), place, rest)

    def test_refused(self) -> None:
        """Names instead of uuids, and everything else."""
        for rest in (
            "", "/", "/console/", "/console/a/b", "/console/a%20b", "/console/-/x", "/graphics", "/graphics/",
            "/graphics/x", "/graphics/-1", "/graphics/100", "/graphics/0/1", "/graphics/\u0661", "/channel/x",
            "/console?x", "0/console", "/console\n",
        ):  # fmt: skip
            self.assertRaises(ValueError, console_of, f"libvirt://lab/{UUID}{rest}")
        for rest in ("lab/test", f"lab/{UUID[:-1]}", f"/{UUID}", f"lab/{UUID.replace('-', '')}", "lab/p"):
            self.assertRaises(ValueError, console_of, f"libvirt://{rest}/console")
