"""Makes the image relay out of the configuration, and gives it a new one."""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from gateway import errors
from gateway.core.base import Base
from gateway.core.config import Config
from gateway.core.http_client import UpstreamPool
from gateway.core.tls_client import ClientSessions, strict_creator
from gateway.core.upstreams import Upstreams
from gateway.core.web import GatewaySite
from gateway.images import buffers
from gateway.images.access import Access
from gateway.images.cors import Cors
from gateway.images.kernel_io import Elsewhere
from gateway.images.nbd_pool import NbdPool
from gateway.images.service import ImageService
from gateway.images.targets import Targets
from gateway.images.volume import Volumes

#: Threads for files; a transfer uses one at a time.
_THREADS = 16


class Images:
    """The image relay, and what it keeps: connections to hosts, and threads for files.

    :param volumes: of hypervisors, which tickets may name; without, they may name none.
    :ivar service: None if there is no section for it.
    """

    def __init__(self, config: Config, base: Base, volumes: Volumes | None = None) -> None:
        self._base = base
        self._volumes = volumes
        self._pool = UpstreamPool(base.reactor)
        self._nbd = NbdPool(base.dialer, base.reactor)
        self._threads = ThreadPool(0, _THREADS, "files")
        self._elsewhere = Elsewhere(base.reactor, partial(deferToThreadPool, base.reactor, self._threads))
        self.service: ImageService | None = None
        if config.images is not None:
            self.service = ImageService(
                access=Access(base.registry, base.tokens, base.reactor, base.wall),
                registry=base.registry,
                sessions=base.sessions,
                targets=self._targets(config),
                cors=Cors(config.images.cors_origins),
                clock=base.reactor,
                rate=config.limits.rate,
                operations=config.limits.sessions_per_ticket,
            )

    def serve(self, site: GatewaySite) -> None:
        """Let *site* have images, too."""
        if self.service is not None:
            site.routes.append(self.service.route)

    def start(self) -> None:
        """Let threads begin."""
        self._threads.start()
        self._elsewhere.start()

    def stop(self) -> None:
        """Close what idles, and wait for the threads."""
        self._close()
        self._elsewhere.stop()
        self._threads.stop()

    def adopt(self, config: Config) -> None:
        """Go by *config* from now on; what was trusted before has to be shown again."""
        self._close()
        if self.service is not None and config.images is not None:
            self.service.targets = self._targets(config)
            self.service.cors = Cors(config.images.cors_origins)
            self.service.rate = config.limits.rate

    def _close(self) -> None:
        self._pool.close()
        self._nbd.close()

    def _targets(self, config: Config) -> Targets:
        images, base = config.images, self._base
        if images is None:
            raise errors.ConfigError(["[images]: is missing"])
        creator: Any = partial(
            strict_creator,
            trust=[] if images.upstream_ca is None else [images.upstream_ca],
            client_certificate=images.upstream_certificate,
            client_key=images.upstream_key,
            sessions=ClientSessions(base.reactor, base.wall),
        )
        upstreams = Upstreams(base.dialer, self._pool, creator, base.reactor, config.limits.upstream_timeout)
        consoles = config.consoles
        kept = [] if consoles is None or consoles.recordings is None else [consoles.recordings]
        kept += [] if config.rpc is None else [config.gateway.screenshots]
        roots, local = images.file_roots, images.local_socket
        if roots:
            buffers.prepare()
        return Targets(upstreams, self._elsewhere, roots, local, self._nbd, tuple(kept), self._volumes)
