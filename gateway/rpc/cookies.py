"""What names a domain to a client: derived, signed, stored nowhere.

A cookie is base64url without padding of 16 bytes that name the handle, 16 of the domain's uuid, and 16 of an
HMAC-SHA256 over the whole hash of the handle and the uuid. So it is good for one domain of one handle, as
long as that handle lives, and only whoever has the key can make one.
"""

from __future__ import annotations

import hmac
import os
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from functools import lru_cache
from pathlib import Path
from secrets import token_bytes
from uuid import UUID

from attrs import field, frozen
from twisted.logger import Logger

from gateway import errors

#: Bytes of the key, and of each part of a cookie.
_KEY, _PART = 32, 16
#: Cookies that are not made or checked anew each time.
_KEPT = 16384
_COOKIE = re.compile(r"[A-Za-z0-9_-]{64}", re.ASCII)
#: Nothing else may be signed with the key in the same words.
_LABEL = b"gateway domain cookie 1\0"
_log = Logger()


@frozen
class Cookies:
    """Makes and checks cookies."""

    _key: bytes = field(repr=False)

    def make(self, handle_hash: bytes, uuid: str, kind: str = "dom") -> str:
        """The cookie of *uuid* under the handle with that SHA-256; *kind* says what it is of."""
        return _make(self._key, handle_hash, uuid, kind)

    def handle_id(self, cookie: str) -> bytes:
        """Which handle *cookie* says it belongs to, for :meth:`Handles.get`; :meth:`check` it then.

        :raises gateway.errors.NoHandle: it is no cookie.
        """
        return _bytes(cookie)[:_PART]

    def check(self, handle_hash: bytes, cookie: str, kind: str = "dom") -> str:
        """The uuid that *cookie* names, of a domain or what else *kind* is, under the handle with that hash.

        :raises gateway.errors.NoHandle: it is not one of ours for this handle.
        """
        return _check(self._key, handle_hash, cookie, kind)


# What somebody uses he uses again and again; those that are no good are not kept.


@lru_cache(_KEPT)
def _make(key: bytes, handle_hash: bytes, uuid: str, kind: str) -> str:
    body = UUID(uuid).bytes
    signed = handle_hash[:_PART] + body + _sign(key, handle_hash, body, kind)
    return urlsafe_b64encode(signed).decode("ascii")


@lru_cache(_KEPT)
def _check(key: bytes, handle_hash: bytes, cookie: str, kind: str) -> str:
    data = _bytes(cookie)
    body = data[_PART : 2 * _PART]
    good = handle_hash[:_PART] + body + _sign(key, handle_hash, body, kind)
    if not hmac.compare_digest(data, good):
        raise errors.NoHandle
    return str(UUID(bytes=body))


def _sign(key: bytes, handle_hash: bytes, body: bytes, kind: str) -> bytes:
    signed = _LABEL + handle_hash + body + kind.encode("ascii")
    return hmac.digest(key, signed, "sha256")[:_PART]


@lru_cache(_KEPT)
def _bytes(cookie: str) -> bytes:
    if _COOKIE.fullmatch(cookie) is None:
        raise errors.NoHandle
    return urlsafe_b64decode(cookie)


def load(path: Path) -> Cookies:
    """Cookies signed with the key in *path* (mode 0600), made now if there is none.

    A key of the wrong length is replaced: the cookies of before are good for nothing then.

    :raises gateway.errors.ConfigError: the file can be neither read nor made.
    """
    try:
        key = _read(path)
        if len(key) != _KEY:
            key = token_bytes(_KEY)
            _write(path, key)
    except OSError as error:
        raise errors.ConfigError([f"[gateway] state_dir: {path} cannot be used: {error.strerror}"]) from error
    return Cookies(key)


def _read(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    with os.fdopen(descriptor, "rb") as file:
        os.fchmod(descriptor, 0o600)
        key = file.read(_KEY + 1)
    if len(key) != _KEY:
        _log.error(
            "{file} holds no key: it is replaced, and clients look their domains up again", file=str(path)
        )
    return key


def _write(path: Path, key: bytes) -> None:
    """Put *key* there as a whole, or not at all."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(key)
        file.flush()
        os.fsync(descriptor)
    fresh.replace(path)
