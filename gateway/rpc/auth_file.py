"""Names and passwords for hypervisors, as libvirt's clients keep them: ``auth.conf``.

Source: libvirt, auth.html, "Client configuration"; virauthconfig.c.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from configparser import Error, RawConfigParser
from pathlib import Path

from gateway.errors import ConfigError
from gateway.wire.libvirt_url import LibvirtUrl
from gateway.wire.sasl_client import Credentials

_SYSTEM = "/etc/libvirt/auth.conf"


def find_credentials(url: LibvirtUrl, environment: Mapping[str, str]) -> Credentials | None:
    """Who to log in as at *url*; None when no file says so.

    :raises gateway.errors.ConfigError: the file that counts is missing or no good.
    """
    for path, must in _places(url, environment):
        if must or path.exists():
            return _read(path, url.server)
    return None


def _places(url: LibvirtUrl, environment: Mapping[str, str]) -> Iterator[tuple[Path, bool]]:
    """Where the file may be, and whether it must; the first that is there counts."""
    if named := environment.get("LIBVIRT_AUTH_FILE", ""):
        yield Path(named), True
    if url.authfile:
        yield Path(url.authfile), True
    if home := environment.get("XDG_CONFIG_HOME", ""):
        yield Path(home, "libvirt/auth.conf"), False
    elif home := environment.get("HOME", ""):
        yield Path(home, ".config/libvirt/auth.conf"), False
    yield Path(_SYSTEM), False


def _read(path: Path, host: str) -> Credentials | None:
    parser = RawConfigParser(strict=False)
    try:
        parser.read_string(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, Error):
        # What is in it is nobody's business.
        raise ConfigError([f"{path}: it cannot be read as a file of credentials"]) from None
    for section in (f"auth-libvirt-{host}", "auth-libvirt-default"):
        if parser.has_section(section):
            kept = f"credentials-{parser.get(section, 'credentials', fallback='')}"
            user = parser.get(kept, "authname", fallback="") if parser.has_section(kept) else ""
            user = user or (parser.get(kept, "username", fallback="") if parser.has_section(kept) else "")
            password = parser.get(kept, "password", fallback="") if parser.has_section(kept) else ""
            if not user or not password:
                raise ConfigError([f"{path}: [{section}] leads to no authname and password"])
            return Credentials(user, password)
    return None
