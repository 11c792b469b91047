"""The command line of ssh, and what the other side runs.

Nothing passes through a shell here. There it does, for that is how ssh works: the login shell of the user
gets one ``sh -c '...'``, in which every value is quoted.
Source: libvirt 9.0.0, virnetsocket.c and virnetclient.c.
"""

from __future__ import annotations

import re
import shlex

from gateway.errors import UpstreamFailed
from gateway.rpc.local_socket import far_socket, per_user
from gateway.wire.libvirt_url import PLAIN_PATH, LibvirtUrl

_HOST = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_.:-]{0,252}")
#: How ssh calls the ways to prove oneself.
_METHODS = {
    "agent": "publickey",
    "privkey": "publickey",
    "password": "password",
    "keyboard-interactive": "keyboard-interactive",
}
#: An old netcat ends with its input only when it is told so.
_NETCAT = (
    'if {netcat} -q 2>&1 | grep "requires an argument" >/dev/null 2>&1; then ARG=-q0; else ARG=; fi; '
    "exec {netcat} $ARG -U {socket}"
)
_NATIVE = "exec virt-ssh-helper {readonly}{name}"
_EITHER = "if command -v virt-ssh-helper >/dev/null 2>&1; then {native}; fi; {netcat}"


def ssh_command(url: LibvirtUrl, *, readonly: bool, uid: int, address: str = "") -> list[str]:
    """The program and its arguments.

    :param uid: whom we run as.
    :param address: the one to connect to; the host's keys are known by its name all the same.
    :raises UpstreamFailed: a value has no place on a command line.
    """
    host = url.server
    if _HOST.fullmatch(host) is None or url.user.startswith("-"):
        raise UpstreamFailed("This host or user has no place on a command line", reason="url")
    command = [url.command or "ssh", "-p", str(url.server_port)]
    if url.user:
        command += ["-l", url.user]
    if url.keyfile:
        command += ["-i", url.keyfile]
    command += ["-T", "-e", "none"]
    for option in _options(url, address if address != host else ""):
        command += ["-o", option]
    return [*command, "--", host, remote_command(url, readonly=readonly, uid=uid)]


def _options(url: LibvirtUrl, address: str) -> list[str]:
    options = []
    if address:
        alias = url.server if url.server_port == 22 else f"[{url.server}]:{url.server_port}"
        options += [f"HostName={address}", f"HostKeyAlias={alias}"]
    if url.no_tty:
        options.append("BatchMode=yes")
    if url.no_verify or url.known_hosts_verify == "ignore":
        options.append("StrictHostKeyChecking=no")
    elif url.known_hosts_verify == "auto":
        options.append("StrictHostKeyChecking=accept-new")
    if url.known_hosts:
        options.append(f"UserKnownHostsFile={_path(url.known_hosts)}")
    if url.sshauth:
        methods = dict.fromkeys(_METHODS[it] for it in url.sshauth)
        options.append(f"PreferredAuthentications={','.join(methods)}")
        if "publickey" in methods and "agent" not in url.sshauth:
            options.append("IdentityAgent=none")
    return options


def remote_command(url: LibvirtUrl, *, readonly: bool, uid: int) -> str:
    """What is run on the other side: one word for the shell there.

    :raises UpstreamFailed: a value has no place on a command line.
    """
    name = url.name
    if name.startswith("-") or not name.isprintable():
        raise UpstreamFailed("This name has no place on a command line", reason="url")
    netcat = _NETCAT.format(
        netcat=shlex.quote(_path(url.netcat) if url.netcat else "nc"),
        socket=shlex.quote(_path(far_socket(url, readonly=readonly))),
    )
    native = _NATIVE.format(readonly="-r " if readonly else "", name=shlex.quote(name))
    proxy = url.proxy
    if not proxy:
        proxy = "netcat" if url.socket else "native" if per_user(url, uid) else "auto"
    # Without a name the helper there would not know which socket to take.
    if proxy == "auto" and (url.netcat or not name):
        proxy = "netcat"
    script = {"netcat": netcat, "native": native, "auto": _EITHER.format(native=native, netcat=netcat)}[proxy]
    return f"sh -c {shlex.quote(script)}"


def _path(path: str) -> str:
    if PLAIN_PATH.fullmatch(path) is None:
        raise UpstreamFailed("Paths for ssh are absolute, and of plain characters", reason="url")
    return path
