"""The files behind a ``tls`` URL, and the checks that they make possible. Source: libvirt, tlscerts.html."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from attrs import frozen
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator

from gateway.core.tls_client import Terms, careless_creator, strict_creator
from gateway.rpc.tls_sanity import check_own
from gateway.wire.gnutls_priority import parse_priority
from gateway.wire.libvirt_url import LibvirtUrl

#: Where a site keeps the files: authority, revocation list, our certificate and our key.
_SYSTEM = (
    "/etc/pki/CA/cacert.pem",
    "/etc/pki/CA/cacrl.pem",
    "/etc/pki/libvirt/clientcert.pem",
    "/etc/pki/libvirt/private/clientkey.pem",
)
_NAMES = ("cacert.pem", "cacrl.pem", "clientcert.pem", "clientkey.pem")


@frozen
class TlsFiles:
    """Where the files are; of all but the authority's there need be none."""

    ca: Path
    crl: Path | None
    certificate: Path | None
    key: Path | None


def find_files(url: LibvirtUrl, *, uid: int, environment: Mapping[str, str]) -> TlsFiles:
    """The files that *url* means.

    :param uid: whom we run as; only root has no files of its own.
    """
    if url.pkipath:
        places = [[Path(url.pkipath, name) for name in _NAMES]]
    else:
        places = [[Path(it) for it in _SYSTEM]]
        if uid != 0 and (home := environment.get("HOME")):
            places.insert(0, [Path(home, ".pki/libvirt", name) for name in _NAMES])
    ca = next((own[0] for own in places if own[0].exists()), places[-1][0])
    crl = next((own[1] for own in places if own[1].exists()), None)
    # A certificate is of no use without its key, in the same place.
    pair = next(((own[2], own[3]) for own in places if own[2].exists() and own[3].exists()), (None, None))
    return TlsFiles(ca, crl, *pair)


def make_creator(
    url: LibvirtUrl, *, uid: int, environment: Mapping[str, str], moment: datetime
) -> IOpenSSLClientConnectionCreator:
    """What makes the TLS connections of *url*.

    :param moment: now, which our certificate has to be good for.
    :raises gateway.errors.ConfigError: a file is missing or no good.
    :raises gateway.errors.UpstreamFailed: the host is nothing a certificate can hold.
    """
    files = find_files(url, uid=uid, environment=environment)
    priority = parse_priority(url.tls_priority)
    terms = Terms(priority.versions[0], priority.versions[-1], priority.strong)
    # Who takes any certificate may have no file of a CA.
    if not url.no_sanity and (not url.no_verify or files.ca.exists()):
        check_own(files.ca, files.certificate, moment)
    if url.no_verify:
        return careless_creator(
            url.server, client_certificate=files.certificate, client_key=files.key, terms=terms
        )
    return strict_creator(
        url.server,
        [files.ca],
        client_certificate=files.certificate,
        client_key=files.key,
        crl=files.crl,
        terms=terms,
    )
