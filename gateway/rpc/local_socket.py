"""Where a daemon of this machine listens. Source: libvirt 9.0.0, remote_sockets.c."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.wire.libvirt_url import LibvirtUrl

#: Of the daemons that belong to the whole machine.
SYSTEM = "/var/run/libvirt"


def per_user(url: LibvirtUrl, uid: int) -> bool:
    """Whether the daemon of user *uid* is meant, not that of the whole machine."""
    return uid != 0 and (url.path == "/session" or url.driver == "test")


def socket_path(
    url: LibvirtUrl,
    *,
    readonly: bool,
    uid: int,
    environment: Mapping[str, str],
    exists: Callable[[str], bool],
) -> str:
    """The unix socket that *url* means.

    :param uid: whom we run as.
    :param exists: whether there is such a file.
    """
    if url.socket:
        return url.socket
    suffix = "-ro" if readonly else ""
    directory = SYSTEM
    if per_user(url, uid):
        # A daemon of a user has no socket for readers: the open call says what it is.
        runtime = environment.get("XDG_RUNTIME_DIR") or environment.get("HOME", "/") + "/.cache"
        directory, suffix = f"{runtime}/libvirt", ""
    whole = f"{directory}/libvirt-sock{suffix}"
    if url.driver == "remote" or url.mode == "legacy":
        return whole
    own = f"{directory}/virt{url.driver}d-sock{suffix}"
    return own if url.mode == "direct" or exists(own) else whole


def far_socket(url: LibvirtUrl, *, readonly: bool) -> str:
    """The socket on another machine, where nobody can look whether it is there."""
    return url.socket or f"{SYSTEM}/libvirt-sock{'-ro' if readonly else ''}"
