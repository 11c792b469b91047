"""The whole configuration, each section a frozen model: its keys, their types, defaults and help.

The description of a key is its help in ``conf/gateway.conf``. :mod:`gateway.core.config` reads the files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from gateway.core.config_services import (
    Consoles,
    ImageList,
    Images,
    Libvirt,
    Portal,
    Rpc,
    Section,
    Service,
    Target,
    Tunnel,
)
from gateway.core.config_types import (
    Certificates,
    Endpoint,
    EndpointOrOff,
    Key,
    MadeDirectory,
    Networks,
    PublicUrl,
    Rules,
    TextFile,
    WrittenFile,
    hidden,
    url,
)
from gateway.core.units import (
    Bytes,
    BytesOrUnlimited,
    Count,
    CountOrUnlimited,
    Flag,
    Seconds,
    SecondsOrZero,
)
from gateway.wire.libvirt_url import parse_url

#: TLS 1.2 suites. Source: Mozilla server side TLS 6.0, intermediate; AES-GCM first.
CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)


class Gateway(Section):
    """What concerns the whole process."""

    state_dir: MadeDirectory = Field(default=Path("/var/lib/gateway"), description="what outlives a restart")
    run_dir: MadeDirectory = Field(
        default=Path("/run/gateway"), description="sockets and what else ends with us"
    )
    public_url: PublicUrl | None = Field(default=None, description="where clients reach us; goes into links")
    drain_timeout: Seconds = Field(default=60.0, description="how long sessions may finish when we stop")

    @property
    def screenshots(self) -> Path:
        """Where pictures of screens are until they are fetched."""
        return self.state_dir / "screenshots"


class Tls(Section):
    """The server's own certificate."""

    certificate: Certificates | None = Field(default=None, description="our certificate, PEM")
    key: Key | None = Field(
        default=None, description="the private key of the certificate, PEM, without a passphrase"
    )
    chain: Certificates | None = Field(default=None, description="intermediate certificates, PEM")
    minimum: Literal["1.2", "1.3"] = Field(
        default="1.2", description="the oldest TLS version to speak: 1.2 or 1.3"
    )
    ciphers: str = Field(default=CIPHERS, description="TLS 1.2 suites in OpenSSL's words")


class Tokens(Section):
    """Whose signatures count."""

    engine_certificate: Certificates | None = Field(
        default=None, description="the certificate that signs tickets, PEM"
    )
    engine_ca: Certificates | None = Field(default=None, description="the authority that issued it, PEM")
    eku: str | None = Field(default=None, description="extended key usage (an OID) the signer must have")
    sha1: Flag = Field(default=False, description="whether SHA-1 signatures of old engines are good")
    skew: SecondsOrZero = Field(default=0.0, description="how far the engine's clock may be off")
    jwt_keys: TextFile | None = Field(default=None, description="JSON web key set that signs JWTs")
    jwt_issuer: str | None = Field(default=None, description="the issuer every JWT must name")
    jwt_audience: str | None = Field(default=None, description="the audience every JWT must name")


_Registry = Annotated[
    str, url("memory", "redis", "rediss", "unix", what="memory:, redis://…, rediss://… or unix://…"), hidden
]


class Registry(Section):
    """Where tickets live."""

    url: _Registry = Field(
        default="memory:", description="memory: or redis://, rediss://, unix:// for a shared one"
    )
    maximum: Count = Field(default=100_000, description="tickets at most")
    sweep: Seconds = Field(default=1.0, description="how often ended tickets are looked for")


class Policy(Section):
    """Which targets a ticket may name."""

    allow: Rules = Field(
        default=(), description="targets to allow: scheme://network-or-name:ports, * for any"
    )
    deny: Rules = Field(
        default=(), description="targets to refuse although allowed; link-local and loopback need an allow"
    )


class Limits(Section):
    """What peers may cost."""

    connections: Count = Field(default=4096, description="connections in all")
    connections_per_address: Count = Field(default=256, description="connections of one address")
    unauthenticated: Count = Field(default=512, description="connections that have proven nothing yet")
    unauthenticated_per_address: Count = Field(
        default=64, description="the same, of one IPv4 address or IPv6 /64"
    )
    handshakes: Count = Field(default=256, description="TLS handshakes in progress")
    accept_rate: Count = Field(default=1000, description="new connections a second")
    accept_rate_per_address: Count = Field(default=200, description="new connections a second of one address")
    backlog: Count = Field(default=1024, description="connections the kernel may queue for each port")
    handshake_timeout: Seconds = Field(default=10.0, description="from accept until TLS is set up")
    header_timeout: Seconds = Field(default=10.0, description="until the head of a request is complete")
    keepalive_timeout: Seconds = Field(default=60.0, description="until the next request on a connection")
    body_idle_timeout: Seconds = Field(default=60.0, description="without a byte of a body")
    body_rate: Bytes = Field(default=256, description="bytes a second a body brings at least, over a minute")
    write_idle_timeout: Seconds = Field(default=60.0, description="without the peer taking a byte")
    discard_bytes: Bytes = Field(default=16 << 20, description="how much of a refused body we read")
    discard_time: Seconds = Field(default=5.0, description="how long we read a refused body")
    request_line: Bytes = Field(default=8 << 10, description="length of a request line")
    header_bytes: Bytes = Field(default=16 << 10, description="length of a request's head")
    headers: Count = Field(default=100, description="fields in a request's head")
    max_body_control: Bytes = Field(default=64 << 10, description="length of a JSON body")
    upstream_timeout: Seconds = Field(default=120.0, description="until an upstream begins its answer")
    dns_timeout: Seconds = Field(default=5.0, description="until a name is resolved")
    dns_lookups: Count = Field(default=64, description="look-ups at a time")
    sessions_per_ticket: CountOrUnlimited = Field(default=8, description="live sessions under one ticket")
    rate: BytesOrUnlimited = Field(default=None, description="bytes a second of one session")
    auth_failures: Count = Field(
        default=20, description="bad credentials a minute of one address before it has to wait"
    )
    auth_penalty: Seconds = Field(
        default=60.0, description="how long it waits the first time; then twice as long"
    )
    auth_penalty_maximum: Seconds = Field(default=900.0, description="how long it waits at most")
    exempt: Networks = Field(
        default=("127.0.0.0/8", "::1/128"),
        description="networks of proxies and local clients: their connections count in all only, "
        "and bad credentials do not count",
    )


class Control(Service):
    """Where the engine and the operator give orders; always on."""

    listen: Endpoint = Field(
        default="unix:/run/gateway/control.sock:mode=660", description="where orders come from"
    )
    tls: Flag = Field(default=False, description="whether clients speak TLS")
    tcp: EndpointOrOff = Field(
        default=None, description="a second, loopback place such as tcp:54324:interface=127.0.0.1"
    )
    remove_timeout: Seconds = Field(
        default=60.0, description="how long the removal of a ticket waits for its sessions"
    )


class Metrics(Service):
    """Metrics and health."""

    listen: Endpoint = Field(default="tcp:9464:interface=127.0.0.1", description="where monitoring connects")
    tls: Flag = Field(default=False, description="whether clients speak TLS")


class Web(Service):
    """The pages."""

    listen: Endpoint = Field(default="tcp:54323", description="where browsers connect; often that of images")


class Log(Section):
    """What is written down, and where."""

    format: Literal["text", "json"] = Field(default="text", description="text, or one JSON object a line")
    level: Literal["debug", "info", "warn", "error", "critical"] = Field(
        default="info", description="the least level: debug, info, warn, error or critical"
    )
    file: WrittenFile | None = Field(default=None, description="where lines go; without it to standard error")
    audit: WrittenFile | None = Field(
        default=None, description="a file of its own for audit records, JSON lines"
    )


class Config(Section):
    """The whole configuration, of its main file and all ``files`` in order; absent services are None.

    :ivar unavailable: sections of services that this version does not have.
    """

    file: Path
    files: tuple[Path, ...]
    unavailable: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    gateway: Gateway = Gateway()
    tls: Tls = Tls()
    tokens: Tokens = Tokens()
    registry: Registry = Registry()
    policy: Policy = Policy()
    limits: Limits = Limits()
    control: Control = Control()
    images: Images | None = None
    consoles: Consoles | None = None
    rpc: Rpc | None = None
    libvirt: Libvirt | None = None
    targets: Mapping[str, Target] = {}
    tunnel: Tunnel | None = None
    portal: Portal | None = None
    imagelist: ImageList | None = None
    metrics: Metrics | None = None
    web: Web | None = None
    log: Log = Log()

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence for each thing that has no effect, and for what the files make doubtful."""
        missing = [f"[{name}] service not available in this version" for name in self.unavailable]
        idle = [
            f"[target {name}] uri: {warning}"
            for name, target in self.targets.items()
            for warning in parse_url(target.uri).warnings
        ]
        return (*missing, *idle, *self.doubts)

    def sections(self) -> Iterator[tuple[str, Section]]:
        """Every section there is, by the name it has in the file."""
        for name in SECTIONS:
            section = getattr(self, name)
            if section is not None:
                yield name, section
        for name, target in self.targets.items():
            yield f"target {name}", target

    def services(self) -> Iterator[tuple[str, Service]]:
        """Every service that is on, by its section."""
        for name, section in self.sections():
            if isinstance(section, Service):
                yield name, section

    def ports(self) -> Iterator[tuple[str, str, str, bool]]:
        """Section, key, endpoint string and TLS of everything that listens."""
        for name, service in self.services():
            yield name, "listen", service.listen, service.tls
        if self.control.tcp is not None:
            yield "control", "tcp", self.control.tcp, self.control.tls
        if self.libvirt is not None and self.libvirt.plain is not None:
            yield "libvirt", "plain", self.libvirt.plain, False
        if self.libvirt is not None and self.libvirt.socket is not None:
            yield "libvirt", "socket", self.libvirt.socket, False
        for name, target in self.targets.items():
            if self.libvirt is not None and target.listen is not None:
                yield f"target {name}", "listen", target.listen, True
        if self.tunnel is not None and self.tunnel.tls_listen is not None:
            yield "tunnel", "tls_listen", self.tunnel.tls_listen, True


#: Every section but ``target NAME``, in the order of the documented file.
SECTIONS: dict[str, type[Section]] = {
    "gateway": Gateway,
    "tls": Tls,
    "tokens": Tokens,
    "registry": Registry,
    "policy": Policy,
    "limits": Limits,
    "control": Control,
    "images": Images,
    "consoles": Consoles,
    "rpc": Rpc,
    "libvirt": Libvirt,
    "tunnel": Tunnel,
    "portal": Portal,
    "imagelist": ImageList,
    "metrics": Metrics,
    "web": Web,
    "log": Log,
}
#: Section, certificate and key of what we show to those behind us: neither without the other.
CLIENT_PAIRS = (
    ("images", "upstream_certificate", "upstream_key"),
    ("consoles", "client_certificate", "client_key"),
)
#: Sections that are understood and have no effect yet.
UNAVAILABLE = frozenset({"portal", "imagelist"})
