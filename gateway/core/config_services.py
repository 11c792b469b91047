"""Sections that open a port when they are present: what is served.

The description of a key is its help in ``conf/gateway.conf``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.core.config_types import (
    Certificates,
    Directories,
    Directory,
    Endpoint,
    EndpointOrOff,
    Key,
    LibvirtUrl,
    Lines,
    MadeDirectory,
    Networks,
    Ports,
    PublicUrl,
    TextFile,
    Words,
    hidden,
    url,
)
from gateway.core.units import Bytes, BytesOrUnlimited, Count, Flag, Ratio, Seconds, SecondsOrOff


class Section(BaseModel):
    """What every section is: unchangeable, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Service(Section):
    """A section that opens a port when it is present."""

    listen: Endpoint = Field(description="where to listen: a Twisted endpoint string")
    tls: Flag = Field(default=True, description="whether clients speak TLS")


class Images(Service):
    """Image transfers."""

    listen: Endpoint = Field(default="tcp:54323", description="where image clients connect")
    upstream_ca: Certificates | None = Field(default=None, description="the authority of image hosts, PEM")
    upstream_certificate: Certificates | None = Field(
        default=None, description="our certificate towards them, PEM"
    )
    upstream_key: Key | None = Field(default=None, description="its private key, PEM")
    connect_timeout: Seconds = Field(default=10.0, description="until an image host is reached")
    file_roots: Directories = Field(default=(), description="directories file:// tickets may name")
    local_socket: Flag = Field(
        default=True, description="whether an image host on this machine is reached by its socket"
    )
    cors_origins: Words = Field(default=("*",), description="origins whose pages may transfer")
    enforce_expiry: Literal["start", "always"] = Field(
        default="start", description="when expiry counts: at the start of an operation, or always"
    )


class Consoles(Service):
    """Consoles over WebSocket."""

    listen: Endpoint = Field(default="tcp:6100", description="where console clients connect")
    paths: Words = Field(default=("/console/",), description="paths that are consoles")
    public_url: PublicUrl | None = Field(default=None, description="where browsers reach us, if elsewhere")
    origins: Words = Field(default=(), description="origins whose pages may connect, beside our own")
    vnc_ca: Certificates | None = Field(default=None, description="the authority of VNC servers, PEM")
    spice_ca: Certificates | None = Field(default=None, description="the authority of SPICE servers, PEM")
    client_certificate: Certificates | None = Field(
        default=None, description="our certificate towards both, PEM"
    )
    client_key: Key | None = Field(default=None, description="its private key, PEM")
    recordings: MadeDirectory | None = Field(default=None, description="where recordings go; without it none")
    recording_size: Bytes = Field(default=1 << 30, description="size at which a recorded console ends")
    idle_timeout: SecondsOrOff = Field(default=None, description="without a byte either way")


class Rpc(Service):
    """Calls on libvirt over AMP."""

    listen: Endpoint = Field(default="tcp:16515", description="where controllers connect")
    client_ca: Certificates | None = Field(
        default=None, description="the authority of client certificates, PEM"
    )
    client_crl: TextFile | None = Field(
        default=None, description="a current revocation list of that authority, PEM"
    )
    allowed_dn: Lines = Field(default=(), description="subjects of client certificates that may connect")
    verify_address: Flag = Field(
        default=False, description="whether a client's address must stand in its certificate"
    )
    events: Count = Field(default=1000, description="events kept for who returns")


class Libvirt(Service):
    """libvirt's own protocol."""

    listen: Endpoint = Field(default="tcp:16514", description="where libvirt clients connect")
    plain: EndpointOrOff = Field(
        default=None,
        description="a port without TLS and without a login, such as tcp:16509; ?ticket= says who",
    )
    socket: EndpointOrOff = Field(
        default=None, description="a socket for local users, such as unix:/run/gateway/libvirt-sock:mode=666"
    )
    socket_users: Words = Field(
        default=(), description="local users who need no ticket there; uid:NUMBER for one without a name"
    )
    client_ca: Certificates | None = Field(
        default=None, description="the authority of client certificates, PEM"
    )
    client_crl: TextFile | None = Field(
        default=None, description="a current revocation list of that authority, PEM"
    )
    allowed_dn: Lines = Field(default=(), description="subjects of client certificates that may connect")
    tls_maximum: Literal["1.2", "1.3"] = Field(default="1.2", description="the newest TLS version to speak")
    verify_address: Flag = Field(
        default=False, description="whether a client's address must stand in its certificate"
    )


class Target(Section):
    """One hypervisor."""

    uri: LibvirtUrl = Field(description="libvirt URL of the hypervisor")
    listen: EndpointOrOff = Field(
        default=None, description="a port of its own for libvirt clients, with TLS; needs [libvirt]"
    )
    readonly: Flag = Field(default=False, description="whether only reading calls pass")
    window: Count = Field(default=4, description="calls on their way at a time")
    stream_limit: BytesOrUnlimited = Field(default=None, description="bytes of one stream")
    match: Words = Field(default=(), description="who may use it; empty means whoever has a ticket")
    volumes: Words = Field(default=(), description="pool/volume, with *: what disks in users' XML may be")
    networks: Words = Field(default=(), description="networks, with *, that users' XML may name")
    file_roots: Words = Field(
        default=(), description="directories over there whose files disks in users' XML may be"
    )
    remote_disks: Words = Field(default=(), description="protocol://host of network disks in users' XML")
    emulators: Words = Field(
        default=(
            "/usr/bin/qemu-system-x86_64",
            "/usr/bin/qemu-system-aarch64",
            "/usr/bin/qemu-kvm",
            "/usr/bin/kvm",
            "/usr/libexec/qemu-kvm",
            "/usr/bin/test-hv",
        ),
        description="programs that users' XML may name as the emulator",
    )
    user_network: Flag = Field(
        default=False, description="whether users' XML may have guests use the host's own network"
    )


class Tunnel(Service):
    """CONNECT for native SPICE clients."""

    listen: Endpoint = Field(default="tcp:3128", description="where clients connect")
    tls: Flag = Field(default=False, description="whether clients of listen speak TLS")
    tls_listen: EndpointOrOff = Field(default="tcp:3129", description="where clients connect with TLS")
    ports: Ports = Field(default=(), description="ports that may be reached; without, those of the ticket")
    allow_from: Networks = Field(default=(), description="networks of clients that need no ticket")
    client_ca: Certificates | None = Field(
        default=None, description="the authority of client certificates, whose holders need none either, PEM"
    )
    client_crl: TextFile | None = Field(
        default=None, description="a current revocation list of that authority, PEM"
    )
    allowed_dn: Lines = Field(default=(), description="their subjects; empty means every one")
    idle_timeout: SecondsOrOff = Field(default=900.0, description="without a byte on any tunnel of a console")
    enforce_expiry: Literal["start", "always"] = Field(
        default="start", description="when expiry counts: at the start of a tunnel, or always"
    )
    channels_per_ticket: Count = Field(default=32, description="tunnels under one ticket")
    guard: Literal["spice", "none"] = Field(default="spice", description="the protocol a tunnel must speak")


class Portal(Service):
    """A cache before the engine's portal."""

    listen: Endpoint = Field(default="tcp:443", description="where browsers connect")
    origin: Annotated[str, url("https", "http", what="an http or https URL")] = Field(
        description="URL of the portal behind us"
    )
    origin_ca: Certificates | None = Field(default=None, description="its authority, PEM")
    cache_dir: MadeDirectory | None = Field(
        default=None, description="where the cache is kept; without it in memory"
    )
    cache_size: Bytes = Field(default=1 << 30, description="size of the cache")
    object_size: Bytes = Field(default=64 << 20, description="the largest thing kept")
    read_timeout: Seconds = Field(default=900.0, description="until the portal answers")
    rewrite_vv: Flag = Field(default=False, description="whether .vv files are made to name us as the proxy")


class ImageList(Service):
    """Signed lists of images."""

    database: Annotated[str, hidden] = Field(
        default="sqlite:////var/lib/gateway/imagelist.db", description="URL of the database"
    )
    images_dir: Directory | None = Field(default=None, description="where the published images are")
    certificate: Certificates | None = Field(default=None, description="the endorser's certificate, PEM")
    key: Key | None = Field(default=None, description="its private key, PEM")
    passphrase_file: TextFile | None = Field(
        default=None, description="a file that holds the key's passphrase"
    )
    lifetime: Seconds = Field(default=28 * 86_400.0, description="how long a list is valid")
    renew_at: Ratio = Field(
        default=0.5, description="the part of its life after which a list is signed again"
    )
