"""The service of consoles made out of a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.task import Clock

from gateway import errors
from gateway.consoles.compose import adopt, compose, origins
from gateway.consoles.recording import Recordings
from gateway.core.base import Base
from gateway.core.config_model import Config, Gateway, Web
from gateway.core.config_services import Consoles, Images
from gateway.core.dial import Dialer
from gateway.core.policy import Policy
from tests.consoles.stage import Stage

OTHER = Path("/other.pem"), Path("/other.key")
OURS = Path("/ours.pem"), Path("/ours.key")


def config(**keys: Any) -> Config:
    images = Images(upstream_certificate=OTHER[0], upstream_key=OTHER[1])
    return Config(file=Path("/x"), files=(), images=images, consoles=Consoles.model_construct(**keys))


class ComposeTests(Stage):
    """What is in the section, and nothing of another."""

    def test_adopted(self) -> None:
        """Hypervisors get the certificate of this section, never that of images; a reload changes it."""
        dialer = Dialer(Clock(), Policy([], [], []))
        tokens, sessions = self.access.tokens, self.access.sessions

        def refused(peer: str, error: errors.GatewayError) -> None:
            raise error

        kept = Recordings(lambda *_: None, self.clock, self.wall)  # type: ignore[arg-type]  # nothing is run
        base = Base(self.clock, self.wall, self.registry, tokens, sessions, dialer)
        service = compose(config(), base, kept, refused)
        assert service is not None
        self.assertEqual((service.consoles.reach.certificate, service.consoles.reach.key), (None, None))
        adopt(service, config(client_certificate=OURS[0], client_key=OURS[1], paths=("/c/",)))
        self.assertEqual((service.consoles.reach.certificate, service.consoles.reach.key), OURS)
        self.assertEqual(service.consoles.access.prefixes, ("/c/",))
        adopt(service, config())
        self.assertEqual((service.consoles.reach.certificate, service.consoles.reach.key), (None, None))

    def test_origins(self) -> None:
        """Our own pages may always open consoles: those of the public address, and those on this port."""
        page = Gateway(public_url="https://gw.invalid:54323")
        both = config(listen="tcp:6100").model_copy(update={"gateway": page, "web": Web(listen="tcp:54323")})
        own = {("https", "gw.invalid", 54323), ("https", "gw.invalid", 6100)}
        self.assertEqual(origins(both).allowed, own)
        self.assertEqual(
            origins(both.model_copy(update={"web": None})).allowed, {("https", "gw.invalid", 54323)}
        )
