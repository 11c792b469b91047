"""Our own certificates for hypervisors, looked at before they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.x509 import ObjectIdentifier
from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.trial.unittest import SynchronousTestCase

from gateway.core import dev_pki
from gateway.errors import ConfigError
from gateway.rpc.tls_files import make_creator
from gateway.rpc.tls_sanity import check_own
from gateway.wire.libvirt_url import parse_url

NOW = datetime.now(UTC)
CLIENT = (ExtendedKeyUsageOID.CLIENT_AUTH,)
SERVER = (ExtendedKeyUsageOID.SERVER_AUTH,)


class SanityTests(SynchronousTestCase):
    """Files as libvirt's clients keep them."""

    def setUp(self) -> None:
        self.pki = Path(self.mktemp()).absolute()
        self.pki.mkdir()
        self.ca = dev_pki.authority(NOW)
        self.write("cacert", self.ca)

    def write(self, name: str, issued: dev_pki.Issued, more: bytes = b"") -> Path:
        path = self.pki / f"{name}.pem"
        path.write_bytes(issued.pem + more)
        (self.pki / name.replace("cert", "key")).with_suffix(".pem").write_bytes(issued.key_pem)
        return path

    def check(self, issued: dev_pki.Issued | None = None, moment: datetime = NOW) -> str:
        """What is wrong with a certificate of ours."""
        path = None if issued is None else self.write("clientcert", issued)
        try:
            check_own(self.pki / "cacert.pem", path, moment)
        except ConfigError as error:
            return str(error)
        return ""

    def issue(
        self, ca: dev_pki.Issued | None = None, usages: Sequence[ObjectIdentifier] = CLIENT
    ) -> dev_pki.Issued:
        return (ca or self.ca).issue("client", now=NOW, usages=usages)

    def test_good(self) -> None:
        """One of the CA, for clients, in its time; or none at all."""
        self.assertEqual(self.check(), "")
        self.assertEqual(self.check(self.issue()), "")
        other = dev_pki.authority(NOW, "CN=other")
        self.write("cacert", other, self.ca.pem)
        self.assertEqual(self.check(self.issue()), "")

    def test_bad(self) -> None:
        """Of another CA, for servers, a CA's own, or out of its time: each is told by its file."""
        late, early = NOW + timedelta(days=20_000), NOW - timedelta(days=20_000)
        for issued, moment, why in (
            (self.issue(dev_pki.authority(NOW)), NOW, "not issued by the CA"),
            (self.issue(usages=SERVER), NOW, "usage does not permit"),
            (self.ca, NOW, "the certificate of a CA"),
            (self.issue(), late, "expired at"),
            (self.issue(), early, "not valid before"),
        ):
            said = self.check(issued, moment)
            self.assertIn(why, said)
            self.assertIn(f"{self.pki}/clientcert.pem: ", said)
        self.assertIn("cacert.pem: expired", self.check(None, late))

    def test_url(self) -> None:
        """``no_sanity`` leaves it out, and so leaves it to the hypervisor."""
        self.write("clientcert", self.issue(dev_pki.authority(NOW)))
        for more, fine in (
            ("", False),
            ("&no_sanity=0", False),
            ("&no_sanity=1", True),
            ("&no_verify=1", False),
        ):
            url = parse_url(f"qemu+tls://h/system?pkipath={self.pki}{more}")
            try:
                make_creator(url, uid=0, environment={}, moment=NOW)
            except ConfigError as error:
                self.assertFalse(fine)
                self.assertIn("no_sanity=1", str(error))
            else:
                self.assertTrue(fine, more)
