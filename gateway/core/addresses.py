"""Where users reach us, as far as the configuration tells."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from gateway.core.config_model import Config
from gateway.core.config_types import fields

_TCP = re.compile(r"tcp:([0-9]+)")


def console_url(config: Config) -> str | None:
    """Where the console page is, without a slash at the end; None when there is none, or nobody knows."""
    return None if config.web is None else consoles_url(config)


def consoles_url(config: Config) -> str | None:
    """Where the service of consoles is, without a slash at the end; None when it is off, or nobody knows."""
    ours, web, public = config.consoles, config.web, config.gateway.public_url
    if ours is None:
        return None
    shared = web is not None and ours.listen == web.listen
    if ours.public_url is not None or public is None or shared:
        known = ours.public_url or public
        return None if known is None else known.rstrip("/")
    match, host = _TCP.match(ours.listen), urlsplit(public).hostname or ""
    name = f"[{host}]" if ":" in host else host
    return None if match is None else f"{'https' if ours.tls else 'http'}://{name}:{match[1]}"


def proxy_urls(config: Config) -> list[str]:
    """What clients of the tunnel call their proxy, that without TLS first; empty when nobody knows."""
    host = urlsplit(config.gateway.public_url or "").hostname
    if not host:
        return []
    ports = [
        (encrypted, match[1], _literal(host, endpoint))
        for section, _, endpoint, encrypted in config.ports()
        if section == "tunnel" and (match := _TCP.match(endpoint))
    ]
    return [
        f"{'https' if encrypted else 'http'}://{f'[{name}]' if ':' in name else name}:{port}"
        for encrypted, port, name in sorted(ports)
    ]


def _literal(host: str, endpoint: str) -> str:
    """*host*, or which address of this machine is listened on: SPICE clients try the first of a name only."""
    if host != "localhost":
        return host
    said = dict(fields(endpoint)).get("interface", "")
    return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(said, said)  # noqa: S104 (compared)
