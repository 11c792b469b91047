"""Hypervisors by name: those of the configuration, and those that operators name."""

from __future__ import annotations

from gateway import errors
from gateway.rpc.sites import Site
from tests.rpc.desk_case import URI, DeskCase

FAR = "test+unix:///default?socket=/run/far"


class SiteTests(DeskCase):
    def kept(self, *sites: Site) -> list[bool]:
        return [self.sites.find(site.name) is site for site in sites]

    def test_names(self) -> None:
        """Those of the configuration are told in its order; a name makes none."""
        self.sites.adopt({"z": self.section(FAR), "lab": self.section()})
        self.assertEqual([site.name for site in self.sites], ["z", "lab"])
        self.assertEqual([it["target"] for it in self.sites.describe()], ["z", "lab"])
        for name in ("", "Z", FAR, "lab opens test:///default"):
            self.assertIsNone(self.sites.find(name))
        self.assertEqual(self.sites.unused(lambda: self.fail("nobody is to be asked")), [])

    def test_adopt(self) -> None:
        """What stays as it is stays connected; what is gone or has changed is given back, to be stopped."""
        self.sites.adopt({"lab": self.section(), "far": self.section(FAR)})
        lab, far = self.sites
        opened, free = self.sites.opening("far", "test:///other"), self.sites.free(FAR)
        self.assertEqual(self.sites.adopt({"far": self.section(FAR), "lab": self.section()}), [])
        self.assertEqual(self.kept(lab, far, opened, free), [True] * 4)
        stale = self.sites.adopt({"lab": self.section(), "far": self.section(FAR, window=2)})
        self.assertEqual(stale, [far, opened])
        self.assertEqual(self.kept(lab, far, opened, free), [True, False, False, True])
        self.assertEqual([site.name for site in self.sites.adopt({})], ["lab", "far"])
        self.assertEqual([free], self.sites.unused(lambda: ()))

    def test_opening(self) -> None:
        """Another name is opened under the rules of the configuration, and by operators only."""
        self.sites.adopt({"lab": self.section(readonly=True, volumes="p/*")})
        site = self.sites.opening("lab", "test:///other")
        self.assertEqual((site.url.name, site.readonly, site.private), ("test:///other", True, True))
        self.assertEqual(site.policy, next(iter(self.sites)).policy)
        self.assertIs(self.sites.opening("lab", "test:///other"), site)
        self.assertRaises(errors.NoTarget, self.sites.opening, "none", "test:///other")

    def test_free(self) -> None:
        """A URL is a hypervisor for operators; there are so many at most, and unused ones are forgotten."""
        self.assertEqual(self.assertRaises(errors.BadArguments, self.sites.free, "no url").path, "uri")
        made = [self.sites.free(f"{URI}{number}") for number in range(64)]
        self.assertTrue(all(it.private and not it.readonly for it in made))
        self.assertRaises(errors.Busy, self.sites.free, FAR)
        self.assertEqual(self.sites.unused(lambda: {made[0].name, "lab"}), made[1:])
        self.assertEqual(self.kept(*made[:2]), [True, False])
        self.sites.free(FAR)
