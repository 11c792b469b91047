"""``gatewayctl rpc`` as an administrator has it: a real gateway, a real libvirtd, a terminal."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway.core import dev_pki
from tests.ctl.terminal import Terminal
from tests.functional.case import PYTEST_ONLY
from tests.functional.daemon_case import DaemonCase
from tests.functional.peers import Gateway
from tests.functional.processes import DEADLINE, HOST, MIB, free_port

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

COMMAND = [sys.executable, "-m", "gateway.ctl", "rpc"]


class ShellTests(DaemonCase):
    """One gateway before one libvirtd, with both its drivers as targets."""

    rpc: ClassVar[int]

    @classmethod
    def setUpClass(cls) -> None:
        cls.start_daemon()
        cls.daemon.pool("p1")
        cls.rpc = free_port()
        pki = dev_pki.make(cls.home / "pki")
        sections = {
            "rpc": {
                "listen": f"tcp:{cls.rpc}:interface={HOST}",
                "client_ca": str(pki.ca),
                "allowed_dn": "CN=operator*",
            },
            "target test": {"uri": cls.daemon.url("test")},
            "target qemu": {"uri": cls.daemon.url("qemu")},
        }
        cls.gateway = Gateway(cls.home, sections)
        cls.addClassCleanup(cls.gateway.stop)
        cls.gateway.start(cls.descriptors)

    def environ(self) -> dict[str, str]:
        return {
            "GATEWAY_CONTROL": str(self.gateway.control_socket),
            "GATEWAY_CA": str(self.gateway.ca),
            "HOME": str(self.home),
            "XDG_STATE_HOME": str(self.home / "xdg"),
        }

    def ask(self, *arguments: str, script: str = "", code: int = 0, **environ: str) -> str:
        """Run it once; return what it prints."""
        done = subprocess.run(
            [*COMMAND, *arguments],
            input=script,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            env={**os.environ, **self.environ(), **environ},
            check=False,
        )
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stdout + (done.stderr if code else "")

    def alive(self) -> int:
        """Tickets for calls that are good."""
        tickets = self.gateway.control("GET", "/tickets/").json()["tickets"]
        return sum(it["kind"] == "rpc" and it["state"] in ("issued", "active") for it in tickets)

    def test_once(self) -> None:
        """On the gateway's host it takes no more than the target; what is printed is what is there.

        The ticket it makes for that is gone afterwards.
        """
        before = self.alive()
        answer = json.loads(self.ask("-t", "test", "list-domains", "--json"))
        self.assertEqual([it["name"] for it in answer["domains"]], ["test"])
        self.assertIn("code 42", self.ask("-t", "test", "get-state", "nobody", code=1))
        self.assertEqual(self.alive(), before)

    def test_certificate(self) -> None:
        """An operator's certificate does, without a control listener; a stranger's does not."""
        pki = self.home / "pki"
        key: Any = load_pem_private_key((pki / "ca.key").read_bytes(), None)
        ca = dev_pki.Issued(x509.load_pem_x509_certificate((pki / "ca.pem").read_bytes()), key)
        for name, code in (("operator 1", 0), ("stranger", 1)):
            issued = ca.issue(
                name, now=ca.certificate.not_valid_before_utc, usages=[ExtendedKeyUsageOID.CLIENT_AUTH]
            )
            files = issued.write(self.home, name.replace(" ", "-"))
            arguments = ("--certificate", str(files[0]), "--key", str(files[1]), "-t", "test", "get-type")
            place = f"localhost:{self.rpc}"
            said = self.ask(*arguments, code=code, GATEWAY_CONTROL="/nonexistent", GATEWAY_RPC=place)
            self.assertIn("not accepted" if code else "test", said.lower())

    def test_bytes(self) -> None:
        """A volume goes up and comes back as it was, by its awkward name; a picture of a screen is one."""
        xml, source, back = self.home / "v.xml", self.home / "source", self.home / "back"
        xml.write_text(f"<volume><name>my disk</name><capacity>{4 * MIB}</capacity></volume>")
        source.write_bytes(os.urandom(4 * MIB))
        self.ask("-t", "qemu", "create-volume", "p1", f"@{xml}")
        self.ask(
            "-t",
            "qemu",
            script=f"vol-upload p1 my\\ disk file={source}\nvol-download p1 'my disk' file={back}",
        )
        self.assertEqual(back.read_bytes(), source.read_bytes())
        source.write_bytes(os.urandom(5 * MIB))
        said = self.ask("-t", "qemu", "vol-upload", "p1", "my disk", f"file={source}", code=1)
        self.assertIn("refused", said)
        self.assertNotIn("Traceback", said)
        picture = self.home / "picture"
        self.ask("-t", "test", "screenshot", "test", f"file={picture}")
        self.assertTrue(picture.read_bytes().startswith(b"\x89PNG"), picture.read_bytes()[:20])

    def test_links_last(self) -> None:
        """A link that is printed is good when the command is over."""
        link = json.loads(self.ask("-t", "test", "screenshot", "test", "--json"))
        answer = self.gateway.ask("GET", f"/images/{link['ticket']}")
        self.assertEqual((answer.status, answer.body[:4]), (200, b"\x89PNG"))
        self.gateway.control("DELETE", f"/tickets/{link['ticket']}")

    def test_shell(self) -> None:
        """At a terminal Tab knows domains, Ctrl-C gives up, a watch sees a start, and quit leaves nothing."""
        before = self.alive()
        shell = Terminal([*COMMAND, "-t", "test"], self.environ())
        self.addCleanup(shell.close)
        shell.until("test> ")
        shell.type("get-state te\t")
        shell.until("test ")
        shell.type("\n")
        shell.until("running")
        shell.until("test> ")
        shell.type("renew-ticket my-secret-id 60\n")
        shell.until("test> ")
        shell.type("garbage\x03")
        shell.until("test> ")
        shell.type("destroy test\n")
        shell.until("done")
        shell.until("test> ")
        shell.type("watch lifecycle\n")
        shell.until("watching")
        self.ask("-t", "test", "start", "test")
        shell.until("lifecycle test event=started")
        shell.type("\x03")
        shell.until("test> ")
        shell.type("quit\n")
        self.assertEqual(shell.process.wait(DEADLINE), 0)
        self.assertTrue(shell.restored)
        history = Path(self.home, "xdg", "gatewayctl", "rpc-history")
        self.assertEqual(history.stat().st_mode & 0o777, 0o600)
        self.assertIn("watch lifecycle", history.read_text())
        self.assertNotIn("secret", history.read_text())
        self.assertEqual(self.alive(), before)

    def test_example(self) -> None:
        """The program in the manual of the client library does what it says."""
        text = (Path(__file__).parents[2] / "docs" / "rpc.md").read_text("utf-8")
        (program,) = re.findall(r"(?s)```python\n(.*?)```", text)
        token = "example-of-a-ticket-4444"
        ticket = {"uuid": token, "kind": "rpc", "timeout": 60, "ops": ["call"], "targets": ["test"]}
        self.gateway.put({**ticket, "rights": {"allow": ["read"], "domains": ["*"]}})
        self.addCleanup(self.gateway.delete, token)
        place = ("localhost", str(self.rpc), str(self.gateway.ca), token, "test")
        command = [sys.executable, "-c", program, *place]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        assert process.stdout is not None
        self.assertIn("'test': 'running'", process.stdout.readline())
        self.ask("-t", "test", script="suspend test\nresume test")
        self.assertIn("test suspended", process.stdout.readline())
        self.assertIn("test resumed", process.stdout.readline())

    def test_restart(self) -> None:
        """A shell lives on over a restart of the gateway, which has forgotten its ticket."""
        shell = Terminal([*COMMAND, "-t", "test"], self.environ())
        self.addCleanup(shell.close)
        shell.until("test> ")
        self.gateway.stop()
        self.gateway.start(self.descriptors)
        shell.type("get-hostname\n")
        shell.until("hostname")
        shell.until("test> ")
        shell.type("\x04")
        self.assertEqual(shell.process.wait(DEADLINE), 0)
        self.assertEqual(self.alive(), 0)
