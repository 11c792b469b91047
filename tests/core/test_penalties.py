"""Waiting after too many bad credentials."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.core.penalties import ADDRESSES, Penalties, within

PEER, OTHER = "192.0.2.1", "192.0.2.2"


class PenaltiesTests(SynchronousTestCase):
    """:class:`Penalties`: 20 failures a minute, waits from 60 to 900 seconds."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.hits: list[tuple[str, str]] = []
        exempt = within(["127.0.0.0/8", "::1/128"])
        self.penalties = Penalties(
            self.clock, 20, 60.0, 900.0, exempt, lambda limit, peer: self.hits.append((limit, peer))
        )

    def fails(self, times: int, peer: str = PEER) -> None:
        for _ in range(times):
            self.penalties.failed(peer)

    def waits(self, peer: str = PEER) -> float:
        """Seconds *peer* has to wait, 0 for none."""
        try:
            self.penalties.check(peer)
        except errors.TooManyRequests as error:
            return error.retry_after
        return 0.0

    def test_one_too_many(self) -> None:
        """Twenty failures a minute are no harm; after one more the address waits a minute, others do not."""
        self.fails(20)
        self.assertEqual(self.waits(), 0)
        self.fails(1)
        self.assertEqual((self.waits(), self.waits(OTHER)), (60, 0))
        self.assertEqual(self.hits, [("auth_failures", PEER)])
        self.clock.advance(59.5)
        self.assertEqual(self.waits(), 0.5)
        self.clock.advance(0.5)
        self.assertEqual(self.waits(), 0)

    def test_any_minute(self) -> None:
        """Failures count over any sixty seconds, not over the minutes of a clock."""
        self.clock.advance(59)
        self.fails(15)
        self.clock.advance(30)
        self.fails(5)
        self.clock.advance(29.9)
        self.assertEqual(self.waits(), 0)
        self.fails(1)
        self.assertEqual(self.waits(), 60)

    def test_slow(self) -> None:
        """Twenty a minute for an hour never wait."""
        for _ in range(60 * 20):
            self.fails(1)
            self.assertEqual(self.waits(), 0)
            self.clock.advance(3)

    def test_doubles(self) -> None:
        """Each wait is twice the last, up to fifteen minutes; after so long in peace it begins anew."""
        seen = []
        for _ in range(6):
            self.fails(21)
            seen.append(self.waits())
            self.clock.advance(seen[-1])
            self.assertEqual(self.waits(), 0)
        self.assertEqual(seen, [60, 120, 240, 480, 900, 900])
        self.clock.advance(899)
        self.fails(21)
        self.assertEqual(self.waits(), 900)
        self.clock.advance(1800)
        self.fails(21)
        self.assertEqual(self.waits(), 60)

    def test_success_does_not_reset(self) -> None:
        """Who passes in between does not get more guesses."""
        for _ in range(21):
            self.assertEqual(self.waits(), 0)
            self.fails(1)
        self.assertEqual(self.waits(), 60)

    def test_late_failures(self) -> None:
        """Failures of requests that were under way do not lengthen a wait, nor count after it."""
        self.fails(21 * 5)
        self.assertEqual(self.waits(), 60)
        self.clock.advance(60)
        self.fails(20)
        self.assertEqual(self.waits(), 0)

    def test_ipv6(self) -> None:
        """All of an IPv6 /64 is one address, and an IPv4 address in IPv6 form is that IPv4 address."""
        for number in range(21):
            self.fails(1, f"2001:db8:0:1::{number:x}")
        self.assertEqual((self.waits("2001:db8:0:1::ffff"), self.waits("2001:db8:0:2::1")), (60, 0))
        self.fails(21)
        self.assertEqual(self.waits(f"::ffff:{PEER}"), 60)

    def test_exempt(self) -> None:
        """Loopback, unix sockets and other exempt networks never wait."""
        for peer in ("127.0.0.1", "::1", "::ffff:127.0.0.1", "local"):
            self.fails(100, peer)
            self.assertEqual(self.waits(peer), 0, peer)

    def test_bounded(self) -> None:
        """Only so many addresses are remembered; who failed last is kept."""
        self.fails(20)
        self.fails(21, OTHER)
        self.fails(1)
        for number in range(ADDRESSES - 2):
            self.fails(1, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
        self.assertEqual((self.waits(), self.waits(OTHER)), (60, 60))
        self.fails(1, "192.0.2.3")
        self.assertEqual((self.waits(), self.waits(OTHER)), (60, 0))
        self.fails(1, "192.0.2.4")
        self.assertEqual(self.waits(), 0)
        self.assertLessEqual(len(self.penalties._records), ADDRESSES)

    def test_what_counts(self) -> None:
        """Guesses and forgeries count, whatever their status; what was good once, or is missing, does not."""
        bad = [
            errors.NoTicket(reason="unknown"),
            errors.Unauthorized(reason="unknown"),
            errors.Unauthorized(reason="session"),
            errors.Unauthorized(reason="signature"),
            errors.Forbidden("Error verifying signed ticket", reason="malformed"),
        ]
        harmless = [
            errors.NoTicket(reason="expired"),
            errors.NoTicket(reason="revoked"),
            errors.Unauthorized(reason="not_yet"),
            errors.Unauthorized(reason="expired"),
            errors.Unauthorized(),
            errors.Forbidden(),
            errors.NotFound(reason="unknown"),
            errors.TooManyRequests(reason="auth_failures"),
            errors.Unavailable(),
        ]
        for error in harmless:
            for _ in range(50):
                self.penalties.refused(PEER, error)
            self.assertEqual(self.waits(), 0, error.reason)
        for number, error in enumerate(bad):
            peer = f"192.0.2.{100 + number}"
            for _ in range(21):
                self.penalties.refused(peer, error)
            self.assertEqual(self.waits(peer), 60, error.reason)
