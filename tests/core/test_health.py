"""What limits the process and does not stop it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gateway.core import dev_pki
from gateway.core.health import Health
from gateway.core.tls_server import ReloadableTLS, ServerContext

SERVER_AUTH = ExtendedKeyUsageOID.SERVER_AUTH


class RevocationListTests(SynchronousTestCase):
    """Lists of revoked certificates, which grow old."""

    def listener(self, read: datetime) -> ReloadableTLS:
        """One that has read a list, good for seven days."""
        directory = Path(self.mktemp())
        directory.mkdir()
        authority = dev_pki.authority(read)
        leaf = authority.issue("gateway", now=read, names=["gateway.invalid"], usages=[SERVER_AUTH])
        files, (ca, _) = leaf.write(directory, "gateway"), authority.write(directory, "ca")
        crl = directory / "crl.pem"
        crl.write_bytes(authority.revoke([], now=read))
        return ReloadableTLS(lambda: ServerContext(*files, now=read.timestamp(), client_ca=ca, crl=crl))

    def health(self, **listeners: ReloadableTLS) -> Health:
        nothing: Any = None
        return Health(nothing, nothing, nothing, None, listeners, Clock(), nothing)

    def test_old(self) -> None:
        """One that is too old is told of by its section, and those that are current are not."""
        now = datetime.now(UTC)
        current, old = self.listener(now), self.listener(now - timedelta(days=8))
        self.assertEqual(self.health(rpc=current).degraded["client_crl"](), (True, ""))
        good, text = self.health(rpc=current, tunnel=old, libvirt=old).degraded["client_crl"]()
        self.assertFalse(good)
        self.assertIn("[tunnel], [libvirt]", text)

    def test_none(self) -> None:
        """Without a list nothing can grow old."""
        self.assertEqual(self.health().degraded["client_crl"](), (True, ""))
        self.assertEqual(list(self.health().revocation_lists()), [])
