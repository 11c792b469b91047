"""The command line of ssh, and what the other side makes of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.errors import UpstreamFailed
from gateway.rpc.local_socket import per_user, socket_path
from gateway.rpc.ssh import remote_command, ssh_command
from gateway.wire.libvirt_url import LibvirtUrl, parse_url
from tests.functional.processes import short_directory

SOCKET = "/var/run/libvirt/libvirt-sock"


def command(text: str, readonly: bool = False, uid: int = 0, address: str = "") -> list[str]:
    return ssh_command(parse_url(text), readonly=readonly, uid=uid, address=address)


class CommandTest(SynchronousTestCase):
    """The list of arguments."""

    def test_order(self) -> None:
        """The arguments are those of libvirt, in its order."""
        self.assertEqual(
            command("test+ssh://h/default")[:-1], ["ssh", "-p", "22", "-T", "-e", "none", "--", "h"]
        )
        url = (
            "qemu+ssh://bob@h.invalid:2222/system?command=/bin/s&keyfile=/k&no_tty=1&no_verify=1"
            "&known_hosts=/kh&sshauth=privkey,password"
        )
        options = [
            "HostName=192.0.2.1",
            "HostKeyAlias=[h.invalid]:2222",
            "BatchMode=yes",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/kh",
            "PreferredAuthentications=publickey,password",
            "IdentityAgent=none",
        ]
        pairs = [it for option in options for it in ("-o", option)]
        whole = [
            "/bin/s",
            "-p",
            "2222",
            "-l",
            "bob",
            "-i",
            "/k",
            "-T",
            "-e",
            "none",
            *pairs,
            "--",
            "h.invalid",
        ]
        self.assertEqual(command(url, address="192.0.2.1")[:-1], whole)

    def test_keys(self) -> None:
        """A host given by its address is dialed as it is; unknown keys are for the URL to allow."""
        line = command("test+ssh://[::1]/default", address="::1")
        self.assertEqual(line[-2], "::1")
        self.assertNotIn("-o", line)
        self.assertIn(
            "HostKeyAlias=h", command("test+ssh://h/?known_hosts_verify=normal", address="192.0.2.1")
        )
        for word, option in [("auto", "accept-new"), ("ignore", "no")]:
            line = command(f"test+libssh://h/default?known_hosts_verify={word}")
            self.assertIn(f"StrictHostKeyChecking={option}", line)

    def test_hostile(self) -> None:
        """Nothing that could be an option, or more than one word, gets anywhere near a command line."""
        for host in ("-oProxyCommand=touch /tmp/x", "-v", "a b", "bob@h", "h;id", "$(id)", "h\n", "-"):
            url = LibvirtUrl(driver="test", transport="ssh", host=host, path="/default")
            self.refused(url)
        self.refused(LibvirtUrl(driver="test", transport="ssh", host="h", user="-oProxyCommand=x"))
        for name in ("socket", "netcat", "known_hosts"):
            for path in (
                "x",
                "a/b",
                "-x",
                "/a b",
                "/a'b",
                '/a"b',
                "/$HOME",
                "/a`id`",
                "/a;id",
                "/a\n",
                "/%h",
                "~/a",
            ):
                self.refused(LibvirtUrl(driver="test", transport="ssh", host="h", **{name: path}))  # type: ignore[arg-type]  # they are all texts
        for word in ("-r", "--version", "a\nb"):
            self.refused(LibvirtUrl(driver="test", transport="ssh", host="h", open_name=word))

    def refused(self, url: LibvirtUrl) -> None:
        with self.assertRaises(UpstreamFailed, msg=repr(url)) as caught:
            ssh_command(url, readonly=False, uid=0)
        self.assertEqual(caught.exception.reason, "url")


class RemoteTest(SynchronousTestCase):
    """What the other side runs, by a real shell, with programs that tell what they got."""

    def setUp(self) -> None:
        self.directory = short_directory()
        self.addCleanup(shutil.rmtree, self.directory)
        (self.directory / "none").mkdir()
        self.program("nc")
        for name in ("sh", "grep"):
            (self.directory / name).symlink_to(str(shutil.which(name)))

    def program(self, name: str, more: str = "") -> Path:
        path = self.directory / name
        path.write_text(f'#!/bin/sh\n{more}printf "%s|" {name} "$@"\n')
        path.chmod(0o755)
        return path

    def run_it(self, url: LibvirtUrl | str, readonly: bool = False, uid: int = 0) -> list[str]:
        parsed = parse_url(url) if isinstance(url, str) else url
        remote = remote_command(parsed, readonly=readonly, uid=uid)
        # As sshd does: the login shell gets it as one word.
        done = subprocess.run(
            ["/bin/sh", "-c", remote],
            env={"PATH": str(self.directory)},
            cwd=self.directory / "none",
            capture_output=True,
            check=True,
        )
        self.assertEqual(done.stderr, b"")
        self.assertEqual(os.listdir(self.directory / "none"), [])
        return done.stdout.decode("utf-8").split("|")[:-1]

    def test_choice(self) -> None:
        """Which program runs follows from the URL, from who asks, and from what there is."""
        plain = "qemu+ssh://h/system"
        netcat = ["nc", "-U", SOCKET]
        self.assertEqual(self.run_it(plain), netcat)
        self.assertEqual(self.run_it(plain, readonly=True), ["nc", "-U", SOCKET + "-ro"])
        self.program("virt-ssh-helper")
        self.assertEqual(self.run_it(plain), ["virt-ssh-helper", "qemu:///system"])
        self.assertEqual(self.run_it(plain, readonly=True), ["virt-ssh-helper", "-r", "qemu:///system"])
        self.assertEqual(self.run_it("qemu+ssh://h/session", uid=7), ["virt-ssh-helper", "qemu:///session"])
        for query in ("proxy=netcat", f"netcat={self.directory}/nc"):
            self.assertEqual(self.run_it(f"{plain}?{query}")[1:], netcat[1:])
        self.assertEqual(self.run_it(f"{plain}?socket=/run/s"), ["nc", "-U", "/run/s"])
        self.assertEqual(self.run_it(f"{plain}?socket=/run/s", readonly=True), ["nc", "-U", "/run/s"])
        self.assertEqual(self.run_it("remote+ssh://h/"), netcat)
        self.assertEqual(self.run_it(f"{plain}?proxy=native")[0], "virt-ssh-helper")

    def test_old_netcat(self) -> None:
        """A netcat that knows -q is told to end with its input."""
        self.program(
            "nc", 'if [ "$*" = -q ]; then echo "nc: option requires an argument -- q" >&2; exit 1; fi\n'
        )
        self.assertEqual(self.run_it("qemu+ssh://h/system"), ["nc", "-q0", "-U", SOCKET])

    @settings(max_examples=40, deadline=None)
    @given(st.text(st.sampled_from("a'\"\\$`(){};&|<>*?! #~é%\t-"), min_size=1, max_size=12))
    def test_quoting(self, word: str) -> None:
        """Whatever is in a name arrives as one word, and nothing else happens."""
        self.program("virt-ssh-helper")
        name = "test:///" + word.replace("|", "").replace("\t", "")
        url = LibvirtUrl(driver="test", transport="ssh", host="h", open_name=name, proxy="native")
        self.assertEqual(self.run_it(url), ["virt-ssh-helper", name])


class LocalSocketTest(SynchronousTestCase):
    """Where a daemon of this machine listens."""

    def test_table(self) -> None:
        """The rules of libvirt, by URL, user and what is there."""
        home = {"XDG_RUNTIME_DIR": "/run/user/7", "HOME": "/home/seven"}
        own = "/run/user/7/libvirt"
        for text, uid, there, readonly, found in [
            ("qemu:///system", 0, "", False, SOCKET),
            ("qemu:///system", 7, "", True, SOCKET + "-ro"),
            ("qemu:///session", 0, "", False, SOCKET),
            ("qemu:///session", 7, "", False, f"{own}/libvirt-sock"),
            ("qemu:///session", 7, "", True, f"{own}/libvirt-sock"),
            ("test+unix:///default", 7, "", False, f"{own}/libvirt-sock"),
            ("qemu:///system", 0, "virtqemud-sock", False, "/var/run/libvirt/virtqemud-sock"),
            ("qemu:///system?mode=legacy", 0, "virtqemud-sock", False, SOCKET),
            ("qemu:///system?mode=direct", 0, "", True, "/var/run/libvirt/virtqemud-sock-ro"),
            ("remote+unix:///", 0, "virtremoted-sock", False, SOCKET),
            ("qemu:///system?socket=/s", 0, "virtqemud-sock", True, "/s"),
        ]:
            path = socket_path(
                parse_url(text),
                readonly=readonly,
                uid=uid,
                environment=home,
                exists=lambda it, there=there: bool(there) and it.endswith(there),  # type: ignore[misc]  # mypy does not infer what has a default
            )
            self.assertEqual(path, found, text)
        poor = socket_path(
            parse_url("qemu:///session"),
            readonly=False,
            uid=7,
            environment={"HOME": "/h"},
            exists=lambda _: False,
        )
        self.assertEqual(poor, "/h/.cache/libvirt/libvirt-sock")
        self.assertFalse(per_user(parse_url("qemu:///system"), 7))
