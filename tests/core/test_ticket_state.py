"""The life of a ticket, cell by cell."""

from __future__ import annotations

from itertools import product

from twisted.trial.unittest import SynchronousTestCase

from gateway.core.ticket_state import LIVE, Event, Refused, State, step

STATES = (None, *State)


def after(state: State | None, event: Event, **situation: bool) -> State | str | None:
    """The next state, or the reason there is none in angle brackets."""
    try:
        return step(state, event, **situation)
    except Refused as refused:
        return f"<{refused.reason}>"


class TableTests(SynchronousTestCase):
    """Every state meets every event."""

    def row(self, event: Event, *expected: State | str | None, **situation: bool) -> None:
        """Check what *event* does to: absent, issued, active, expired, revoked, used up."""
        found = tuple(after(state, event, **situation) for state in STATES)
        self.assertEqual(found, expected, f"{event} {situation}")

    def test_issue(self) -> None:
        """A proof never brings back what was revoked or used up; the engine always may."""
        i, a, e = State.ISSUED, State.ACTIVE, Event.ISSUE
        self.row(e, i, i, a, "<expired>", "<revoked>", "<used>")
        self.row(e, i, i, a, i, "<revoked>", "<used>", revivable=True)
        self.row(e, i, i, a, i, i, i, trusted=True)
        self.row(e, i, i, a, a, a, a, trusted=True, busy=True)

    def test_redeem(self) -> None:
        """Only a live ticket with a use left opens anything, and it says why not."""
        a = State.ACTIVE
        self.row(Event.REDEEM, "<unknown>", a, a, "<expired>", "<revoked>", "<used>")
        self.row(Event.REDEEM, "<unknown>", "<used>", "<used>", "<expired>", "<revoked>", "<used>", used=True)

    def test_renew(self) -> None:
        """A renewal keeps a live ticket alive, and revives an expired one where its kind allows."""
        i, a, e = State.ISSUED, State.ACTIVE, Event.RENEW
        self.row(e, "<unknown>", i, a, "<expired>", "<revoked>", "<used>")
        self.row(e, "<unknown>", i, a, i, "<revoked>", "<used>", revivable=True)
        self.row(e, "<unknown>", i, a, a, "<revoked>", "<used>", revivable=True, busy=True)

    def test_touch(self) -> None:
        """Activity changes no state, except that an operation which outlived the deadline revives."""
        i, a, x, r, u = State
        self.row(Event.TOUCH, "<unknown>", i, a, x, r, u)
        self.row(Event.TOUCH, "<unknown>", i, a, i, r, u, revivable=True)
        self.row(Event.TOUCH, "<unknown>", i, a, a, r, u, revivable=True, busy=True)

    def test_deadline(self) -> None:
        """The deadline ends what lives and nothing else."""
        x, r, u = State.EXPIRED, State.REVOKED, State.USED_UP
        self.row(Event.DEADLINE, "<unknown>", x, x, x, r, u)

    def test_revoke(self) -> None:
        """Whatever it was, it is revoked; what we do not know yet, too."""
        self.row(Event.REVOKE, *[State.REVOKED] * 6)

    def test_release(self) -> None:
        """The last session leaves a ticket issued, or used up; others leave it active."""
        i, a, x, r, u = State
        self.row(Event.RELEASE, "<unknown>", i, i, x, r, u)
        self.row(Event.RELEASE, "<unknown>", i, u, x, r, u, used=True)
        self.row(Event.RELEASE, "<unknown>", i, a, x, r, u, busy=True, used=True)

    def test_purge(self) -> None:
        """Only what has ended and has no session left is forgotten."""
        self.row(Event.PURGE, "<unknown>", "<alive>", "<alive>", None, None, None)
        self.row(Event.PURGE, "<unknown>", *["<alive>"] * 5, busy=True)

    def test_no_way_back(self) -> None:
        """Nothing but a purge and the engine itself leads out of revoked and used up to life."""
        for state, event, busy, used, revivable in product(
            (State.REVOKED, State.USED_UP), Event, (False, True), (False, True), (False, True)
        ):
            found = after(state, event, busy=busy, used=used, revivable=revivable)
            self.assertNotIn(found, LIVE)
