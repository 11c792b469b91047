"""Addresses in certificates."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from gateway.core import dev_pki
from gateway.core.address_check import NAMES, holds_address
from gateway.errors import UpstreamFailed

NOW = datetime.now(UTC)
KNOWN = {"a.invalid": ["192.0.2.1", "2001:db8::1"], "b.invalid": ["192.0.2.2"], "192.0.2.9": ["192.0.2.9"]}


class AddressTest(SynchronousTestCase):
    """The peer's address stands in its certificate, or it does not."""

    def setUp(self) -> None:
        self.asked: list[str] = []
        self.ca = dev_pki.authority(NOW)

    async def resolve(self, name: str) -> Sequence[str]:
        self.asked.append(name)
        if name not in KNOWN:
            raise UpstreamFailed(reason="dns")
        return KNOWN[name]

    def holds(
        self, address: str, subject: str = "x", names: Sequence[str] = (), own: Sequence[str] = ()
    ) -> bool:
        certificate = self.ca.issue(subject, now=NOW, names=names, addresses=own).certificate
        work = holds_address(certificate, address, self.resolve)
        return bool(self.successResultOf(Deferred.fromCoroutine(work)))

    def test_addresses(self) -> None:
        """Addresses of the certificate count, in whatever form they come, and nothing else then."""
        own = ["192.0.2.7", "2001:db8::7", "::ffff:192.0.2.8"]
        for address, good in [
            ("192.0.2.7", True),
            ("::ffff:192.0.2.7", True),
            ("192.0.2.8", True),
            ("2001:db8::7", True),
            ("2001:DB8:0::7", True),
            ("192.0.2.1", False),
            ("::7", False),
            ("", False),
            ("a.invalid", False),
        ]:
            self.assertEqual(self.holds(address, "a.invalid", ["a.invalid"], own), good, address)
        self.assertEqual(self.asked, [])

    def test_names(self) -> None:
        """Without addresses, what the names resolve to; a wildcard resolves to nothing."""
        names = ["*.invalid", "unknown.invalid", "a.invalid", "b.invalid"]
        for address, good in [
            ("192.0.2.1", True),
            ("2001:db8::1", True),
            ("192.0.2.2", True),
            ("192.0.2.3", False),
        ]:
            self.assertEqual(self.holds(address, "b.invalid", names), good, address)
        self.assertNotIn("*.invalid", self.asked)

    def test_common_name(self) -> None:
        """Without either, the common name."""
        self.assertTrue(self.holds("192.0.2.2", "b.invalid"))
        self.assertTrue(self.holds("192.0.2.9", "192.0.2.9"))
        self.assertFalse(self.holds("192.0.2.1", "b.invalid"))
        self.assertFalse(self.holds("192.0.2.1", "no host at all"))
        self.assertFalse(self.holds("192.0.2.2", "b.invalid", ["unknown.invalid"]))

    def test_bounded(self) -> None:
        """A certificate cannot have us look up any number of names."""
        names = [f"n{number}.invalid" for number in range(100)]
        self.assertFalse(self.holds("192.0.2.1", names=names))
        self.assertEqual(len(self.asked), NAMES)
