"""Every way in for stock libvirt clients, and every way to say which hypervisor is meant."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar
from uuid import uuid4

from tests.functional.case import PYTEST_ONLY
from tests.functional.libvirt_case import TEST, LibvirtCase
from tests.functional.libvirt_daemon import NOBODY
from tests.functional.peers import Sections
from tests.functional.processes import DEADLINE, HOST, free_port, wait_for
from tests.functional.terminal import Terminal

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)


class LoginTest(LibvirtCase):
    """A gateway with all of its listeners for libvirt clients.

    :cvar plain: the port without TLS; ``lab`` that of the target ``test`` alone.
    """

    guests = ()
    plain: ClassVar[int]
    lab: ClassVar[int]

    @classmethod
    def configuration(cls) -> Sections:
        cls.plain, cls.lab = free_port(), free_port()
        cls.more = {
            "plain": f"tcp:{cls.plain}:interface={HOST}",
            "socket": f"unix:{cls.home}/users:mode=666",
            "socket_users": "root",
            "client_ca": f"{cls.home}/pki/ca.pem",
            "allowed_dn": "C=GB,O=Test,*\n  CN=ops-*",
            "verify_address": "yes",
        }
        cls.targets = {"test": {"listen": f"tcp:{cls.lab}:interface={HOST}"}}
        return super().configuration()

    def lists(self, uri: str) -> str:
        """Who is logged in that way may list domains; return the principal of its session."""
        before = len(self.told())
        self.assertEqual(self.virsh("list", "--uuid", uri=uri).strip(), TEST)
        closed = self.closed(before)
        self.assertEqual((closed["kind"], closed["listener"], closed["target"]), ("rpc", "libvirt", "test"))
        return str(closed["principal"])

    def closed(self, before: int) -> dict[str, Any]:
        """The record of the session that has closed after *before* others."""
        (told,) = self.told()[before:]
        return told

    def told(self) -> list[dict[str, Any]]:
        """The records of all sessions, when none is alive any more."""
        wait_for(lambda: not self.gateway.sessions(), "the end of all sessions")
        return self.trail("session.close")

    def enters_not(self, uri: str, problem: str) -> None:
        """virsh is told *problem*, and nothing was opened."""
        before = len(self.trail())
        self.assertIn(problem, self.refused("list", uri=uri))
        opened = [it for it in self.trail()[before:] if it["kind"] == "CONNECT_OPEN" and it["result"] == "ok"]
        self.assertEqual(opened, [])

    # A token.

    def test_token(self) -> None:
        """A file of credentials logs in, whatever its name for the user."""
        self.assertEqual(self.lists(self.uri("test", token=self.grant(principal="bob"), user="any")), "bob")

    def test_wrong_token(self) -> None:
        """A token that is unknown, revoked or of another kind does not."""
        revoked = self.grant()
        self.gateway.delete(revoked)
        image = self.ticket("file:///nothing")
        for token in (str(uuid4()), revoked, image):
            self.enters_not(self.uri("test", token=token), "authentication failed")

    def test_prompt(self) -> None:
        """Without a file virsh asks for a name and a password."""
        with self.asked() as terminal:
            terminal.type("alice\r")
            terminal.expect("enter your password:")
            wait_for(lambda: terminal.hides, "no echo")
            terminal.type(self.grant() + "\r")
            terminal.expect(TEST)
            self.assertEqual(terminal.end(), 0)
        with self.asked() as terminal:
            terminal.type("alice\r")
            terminal.expect("enter your password:")
            wait_for(lambda: terminal.hides, "no echo")
            terminal.type("wrong\r")
            terminal.expect("authentication failed")
            self.assertEqual(terminal.end(), 1)

    @contextmanager
    def asked(self) -> Iterator[Terminal]:
        terminal = Terminal(self.command(self.uri("test"), "list", "--uuid"), self.environment)
        try:
            terminal.expect("enter your authentication name:")
            yield terminal
        finally:
            terminal.close()

    # Certificates.

    def test_certificate(self) -> None:
        """The holder of a certificate whose subject is allowed is an operator, and needs no token."""
        trust = self.pki(f"pki-{uuid4().hex[:6]}", "ops-1", addresses=[HOST])
        self.assertEqual(self.lists(self.uri("test", pkipath=trust)), "CN=ops-1")

    def test_wrong_subject(self) -> None:
        """A certificate with another subject does not log in; its holder is asked for a token, which does."""
        trust = self.pki(f"pki-{uuid4().hex[:6]}", "dev-1", addresses=[HOST])
        self.enters_not(self.uri("test", pkipath=trust, token="wrong"), "authentication failed")
        self.assertEqual(self.lists(self.uri("test", pkipath=trust, token=self.grant())), "alice")

    def test_wrong_address(self) -> None:
        """A certificate is held to the addresses in it."""
        trust = self.pki(f"pki-{uuid4().hex[:6]}", "ops-2", addresses=["192.0.2.7"])
        self.enters_not(self.uri("test", pkipath=trust, token="wrong"), "authentication failed")
        refused = [it["reason"] for it in self.trail("token.refused") if it["listener"] == "libvirt"]
        self.assertIn("address", refused)

    # The unix socket.

    def local(self, **variables: str) -> str:
        query = "&".join(f"{name}={value}" for name, value in variables.items())
        return f"test+unix:///default?socket={self.home}/users&target=test&{query}"

    def test_socket(self) -> None:
        """A local user who is named needs no token."""
        self.assertEqual(self.lists(self.local()), "root")

    def test_socket_of_others(self) -> None:
        """Others show one, with the same SASL."""
        token, before = self.grant(principal="carol"), len(self.told())
        done = self.as_nobody(self.local(authfile=str(self.login(token))))
        self.assertEqual((done.returncode, done.stdout.strip()), (0, TEST), done.stderr)
        self.assertEqual(self.closed(before)["principal"], "carol")
        done = self.as_nobody(self.local(authfile=str(self.login("wrong"))))
        self.assertEqual((done.returncode, done.stdout.strip()), (1, ""))
        self.assertIn("authentication failed", done.stderr)

    def as_nobody(self, uri: str) -> subprocess.CompletedProcess[str]:
        if os.geteuid() != 0:
            self.fail("only root becomes another user")
        words = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        command = [*words, *self.command(uri, "list", "--uuid")]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=DEADLINE, check=False
        )

    # The plain port.

    def clear(self, **variables: str) -> str:
        query = "&".join(f"{name}={value}" for name, value in variables.items())
        return f"test+tcp://{HOST}:{self.plain}/default?{query}"

    def test_plain(self) -> None:
        """Without TLS there is no login: the ticket stands in the URI."""
        token = self.grant(principal="dave")
        self.assertEqual(self.lists(self.clear(target="test", ticket=token)), "dave")
        self.enters_not(self.clear(target="test", ticket="wrong"), "authentication failed")
        self.enters_not(self.clear(target="test"), "authentication failed")
        self.assertNotIn(token, self.gateway.log())
        self.assertNotIn(token, (self.home / "audit.log").read_text())

    # Which hypervisor.

    def test_target(self) -> None:
        """By the URI, by the user's name, by the port, or the only one of the ticket."""
        token, narrow = self.grant(), self.grant(targets=["test"])
        for uri in (
            self.uri("test", token=token),
            self.uri("test", token=token, named=False, user="alice%test"),
            self.uri("test", token=token, named=False, port=self.lab),
            self.uri("test", token=narrow, named=False),
        ):
            self.lists(uri)

    def test_no_target(self) -> None:
        """Nobody is led to a hypervisor that was not meant, or that the ticket does not name."""
        token, narrow = self.grant(), self.grant(targets=["test"])
        self.enters_not(self.uri("test", token=token, named=False), "say which hypervisor")
        for uri in (
            self.uri("nix", token=token),
            self.uri("qemu", token=narrow),
            self.uri("qemu", token=narrow, named=False, user="alice%qemu"),
        ):
            self.enters_not(uri, "there is no target")
        wrong = self.uri("test", token=token).replace("target=test", "target=qemu")
        self.enters_not(wrong, "no connection driver available")

    def test_name(self) -> None:
        """What the client's URI says beside the target is not followed: a file, a host, another driver."""
        token = self.grant()
        for name in ("test:///srv/node.xml", "test:///default?target=test"):
            self.lists(self.uri("test", token=token, named=False, name=f"{name}", port=self.lab))
        for name in ("qemu:///session", "test+tcp://127.0.0.1:1/default", "qemu+ext:///x?command=/bin/true"):
            self.assertNotEqual(
                self.run_virsh(
                    self.uri("test", token=token, named=False, name=name.replace("?", "%3F"), port=self.lab),
                    "list",
                )[0],
                0,
                name,
            )


class GuessTest(LibvirtCase):
    """A gateway that makes no exception for loopback."""

    guests = ()
    sections: ClassVar[Sections] = {"limits": {"exempt": "192.0.2.0/24", "auth_failures": "3"}}

    def test_guesses(self) -> None:
        """Who guesses has to wait, on this listener too: not even a good token is looked at."""
        good = self.grant()
        self.virsh("list", target="test", token=good)
        for _ in range(4):
            self.refused("list", target="test", token=str(uuid4()))
        problem = self.refused("list", target="test", token=good)
        self.assertIn("authentication failed", problem)
        waits = [it.get("listener") for it in self.trail("limit") if it["reason"] == "auth_failures"]
        self.assertIn("libvirt", waits)
