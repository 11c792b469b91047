"""The development PKI."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.trial.unittest import SynchronousTestCase

from gateway.core import dev_pki

NOW = datetime(2030, 1, 1, tzinfo=UTC)


class Make(SynchronousTestCase):
    """:func:`dev_pki.make`."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())

    def contents(self) -> dict[str, bytes]:
        return {it.name: it.read_bytes() for it in self.directory.iterdir()}

    def test_files(self) -> None:
        """Three pairs come into being, the keys readable by their owner only, and nothing else."""
        pki = dev_pki.make(self.directory, now=NOW)
        self.assertEqual(
            sorted(self.contents()),
            ["ca.key", "ca.pem", "engine.key", "engine.pem", "gateway.key", "gateway.pem"],
        )
        for key in (pki.ca_key, pki.gateway_key, pki.engine_key):
            self.assertEqual(key.stat().st_mode & 0o777, 0o600)

    def test_certificates(self) -> None:
        """The gateway's has the names asked for and 366 days; the engine's an RSA key."""
        pki = dev_pki.make(self.directory, ["a.invalid"], ["192.0.2.1"], now=NOW)
        ca, gateway, engine = (
            x509.load_pem_x509_certificate(it.read_bytes()) for it in (pki.ca, pki.gateway, pki.engine)
        )
        gateway.verify_directly_issued_by(ca)
        engine.verify_directly_issued_by(ca)
        names = gateway.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual([str(it.value) for it in names], ["a.invalid", "192.0.2.1"])
        self.assertEqual(gateway.not_valid_after_utc, NOW + timedelta(days=366))
        key = engine.public_key()
        assert isinstance(key, rsa.RSAPublicKey)
        self.assertEqual(key.key_size, 2048)

    def test_kept(self) -> None:
        """A second run changes nothing."""
        dev_pki.make(self.directory, now=NOW)
        before = self.contents()
        dev_pki.make(self.directory, now=NOW + timedelta(days=300))
        self.assertEqual(self.contents(), before)

    def test_renewed(self) -> None:
        """What has less than 30 days left is made anew, by the same CA."""
        dev_pki.make(self.directory, now=NOW)
        before = self.contents()
        dev_pki.make(self.directory, now=NOW + timedelta(days=337))
        after = self.contents()
        self.assertEqual(before["ca.pem"], after["ca.pem"])
        self.assertNotEqual(before["gateway.pem"], after["gateway.pem"])
        self.assertNotEqual(before["engine.pem"], after["engine.pem"])

    def test_other_names(self) -> None:
        """The gateway's certificate follows the names; the engine's stays."""
        dev_pki.make(self.directory, now=NOW)
        before = self.contents()
        dev_pki.make(self.directory, ["other.invalid"], now=NOW)
        after = self.contents()
        self.assertNotEqual(before["gateway.pem"], after["gateway.pem"])
        self.assertEqual(before["engine.pem"], after["engine.pem"])

    def test_broken(self) -> None:
        """A broken file, or a key that belongs to another certificate, is made anew."""
        pki = dev_pki.make(self.directory, now=NOW)
        engine = pki.engine.read_bytes()
        pki.gateway.write_bytes(b"broken")
        pki.engine_key.write_bytes(pki.ca_key.read_bytes())
        dev_pki.make(self.directory, now=NOW)
        x509.load_pem_x509_certificate(pki.gateway.read_bytes())
        self.assertNotEqual(pki.engine.read_bytes(), engine)

    def test_issue(self) -> None:
        """The CA issues what a test needs: names, purposes and dates of any kind."""
        issued = dev_pki.authority(NOW).issue(
            "odd",
            now=NOW,
            names=["*.invalid"],
            usages=[ExtendedKeyUsageOID.CLIENT_AUTH],
            start=timedelta(days=-3),
            life=timedelta(days=-1),
        )
        self.assertEqual(issued.certificate.not_valid_after_utc, NOW - timedelta(days=1))
        usages = issued.certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        self.assertEqual(list(usages), [ExtendedKeyUsageOID.CLIENT_AUTH])

    def test_command(self) -> None:
        """``python -m gateway.core.dev_pki DIRECTORY`` does it; anything else is a usage error."""
        root = Path(dev_pki.__file__).parents[2]
        command = [sys.executable, "-m", "gateway.core.dev_pki"]
        done = subprocess.run([*command, str(self.directory.absolute())], cwd=root, check=False)
        self.assertEqual(done.returncode, 0)
        self.assertIn("ca.pem", self.contents())
        done = subprocess.run(command, cwd=root, check=False, capture_output=True)
        self.assertEqual((done.returncode, done.stderr[:6]), (2, b"usage:"))
