"""Who is on the other end: callers of tickets, of certificates, and what they may."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from OpenSSL.crypto import X509
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.core import dev_pki
from gateway.core.penalties import Penalties
from gateway.core.tickets import Grant, Kind, Rights
from gateway.rpc.login import subject_of
from tests.rpc.desk_case import EVERYTHING, DeskCase


class LoginTests(DeskCase):
    def refused(
        self, text: str, peer: str = "192.0.2.1", kind: type[errors.GatewayError] = errors.Unauthenticated
    ) -> str:
        error = self.fails(kind, self.logins.token(text, peer, self.ends.append))
        return str(error.reason)

    def test_ticket(self) -> None:
        """A ticket's id is enough; what the ticket says is what may be done."""
        rights = Rights(("read",), ("web-*",))
        caller = self.caller(rights=rights, targets=("lab-*", "one"))
        self.assertEqual((caller.principal, caller.admin, caller.rights), ("alice", False, rights))
        self.assertEqual(
            [caller.may_use(it) for it in ("lab-1", "one", "lab", "two")], [True, True, False, False]
        )
        self.assertEqual(len(caller.ticket_hash), 32)
        (session,) = self.sessions.list(kind="rpc")
        self.assertEqual((session.id, session.peer, session.target), (caller.session.id, "192.0.2.1", "amp"))
        self.ok(self.registry.revoke("t" * 24))
        self.assertEqual((self.ends, caller.session.closed), (["revoked"], True))

    def test_nothing_said(self) -> None:
        """A ticket that says nothing of rights or targets permits none."""
        caller = self.caller(rights=None, targets=())
        self.assertEqual(caller.rights, Rights())
        self.assertFalse(caller.may_use("lab"))

    def test_refused(self) -> None:
        """What opens nothing is refused in the same words, whatever the log is told."""
        self.ok(self.registry.add(Grant(Kind.CONSOLE, "c" * 24, timeout=9, ops=("call",))))
        self.ticket("p" * 24, ops=("view",))
        self.ticket("o" * 24, uses=1)
        self.caller("o" * 24)
        for text in ("u" * 24, "c" * 24, "p" * 24, "o" * 24, "no token at all", "", "e30.e30.e30" * 20):
            self.refused(text)
        self.assertEqual(len(self.sessions), 1)

    def test_wait(self) -> None:
        """Who has shown too many bad credentials has to wait, with a good one too."""
        penalties = Penalties(self.clock, 2, 60.0, 900.0)
        self.logins.admit = penalties.check
        for _ in range(3):
            self.refused("u" * 24)
            penalties.failed("192.0.2.1")
        good = self.ticket()
        self.assertEqual(self.refused(good, kind=errors.TooManyRequests), "auth_failures")
        self.assertEqual(len(self.sessions), 0)
        self.ok(self.logins.token(good, "192.0.2.2", self.ends.append))
        self.clock.advance(60)
        self.ok(self.logins.token(good, "192.0.2.1", self.ends.append))

    def test_often(self) -> None:
        """A ticket has only so many sessions at a time."""
        uuid, number = self.ticket(), 0
        while (reason := self.begin(self.logins.token(uuid, None, self.ends.append))) and number < 10_000:
            if isinstance(reason.result, BaseException) or not hasattr(reason.result, "principal"):
                self.failureResultOf(reason, errors.Busy)
                break
            number += 1
        self.assertGreater(number, 1)
        for session in self.sessions.list():
            session.close("left")

    def test_operator(self) -> None:
        """Whoever holds an installed ticket with that op is an operator, as long as it says so."""
        uuid = self.ticket(ops=("call", "admin"))
        caller = self.caller(uuid)
        self.assertTrue(caller.admin)
        self.ticket(uuid, ops=("call",), rights=Rights())
        self.assertEqual((caller.admin, caller.rights), (False, Rights()))
        self.assertEqual(self.ends, [])

    def test_signed(self) -> None:
        """What somebody signed makes nobody an operator, whatever it says."""
        grant = Grant(Kind.RPC, "s" * 24, timeout=60, ops=("call", "admin"), rights=EVERYTHING)
        self.ok(self.registry.add(grant, issuer="somebody", proof_end=60, trusted=False))
        self.assertFalse(self.caller("s" * 24).admin)

    def test_certificate(self) -> None:
        """A certificate whose subject is among those of the configuration makes an operator, and no other."""
        caller = self.logins.certificate("CN=op-anna", "192.0.2.7", self.ends.append)
        self.assertEqual((caller.principal, caller.admin, caller.rights), ("CN=op-anna", True, EVERYTHING))
        self.assertEqual((caller.ticket_hash, caller.may_use("anything")), (b"", True))
        for subject in ("CN=anna", "O=x,CN=op-anna", "cn=op-anna"):
            self.assertRaises(
                errors.Unauthenticated, self.logins.certificate, subject, None, self.ends.append
            )
        self.logins.subjects = ()
        self.assertRaises(
            errors.Unauthenticated, self.logins.certificate, "CN=op-anna", None, self.ends.append
        )
        self.assertTrue(self.sessions.kill(caller.session.id))
        self.assertEqual(self.ends, ["killed"])

    def test_check(self) -> None:
        """One may look whether a ticket is good, which counts for nothing."""
        self.ok(self.logins.check(self.ticket(uses=1), None))
        self.assertEqual(len(self.sessions), 0)
        self.caller("t" * 24)
        self.fails(errors.Unauthenticated, self.logins.check("u" * 24, None))


class _Shown:
    """A transport that has shown a certificate, or none."""

    def __init__(self, certificate: X509 | None) -> None:
        self._certificate = certificate

    def getPeerCertificate(self) -> Any:
        return self._certificate


class SubjectTests(SynchronousTestCase):
    def test_subject(self) -> None:
        """The subject is as libvirt writes it; without a certificate there is none."""
        issued = dev_pki.authority(datetime.now(UTC), "an authority, of clients")
        self.assertEqual(
            subject_of(_Shown(X509.from_cryptography(issued.certificate))), r"CN=an authority\, of clients"
        )
        self.assertIsNone(subject_of(_Shown(None)))
        self.assertIsNone(subject_of(object()))
