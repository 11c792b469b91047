"""The login at a hypervisor: which way is taken, what is never sent, and servers that cheat."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from gateway.errors import UpstreamFailed
from gateway.rpc.upstream_login import log_in
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_schema import Procedure
from gateway.wire.libvirt_url import parse_url

FILE = "[credentials-a]\nauthname=alice\npassword=secret\n[auth-libvirt-default]\ncredentials=a\n"
DONE = {"complete": 1, "nil": 1, "data": b""}
Answers = Mapping[str, Any]


class UpstreamLoginTests(SynchronousTestCase):
    """One login at a server that says what the test wants."""

    def setUp(self) -> None:
        self.said: list[tuple[str, Mapping[str, Any]]] = []
        self.file = Path(self.mktemp()).absolute()
        self.file.write_text(FILE)

    def login(self, answers: Answers, url: str = "qemu+tls://h/system", *, file: bool = True) -> str:
        """What becomes of it: nothing, or why not."""

        async def call(procedure: Procedure, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
            name = procedure.name.removeprefix("AUTH_")
            self.said.append((name, arguments))
            answer = answers[name]
            if isinstance(answer, LibvirtError):
                raise answer
            given: Mapping[str, Any] = answer(arguments) if callable(answer) else answer
            return given

        self.said.clear()
        where = parse_url(f"{url}{'&' if '?' in url else '?'}authfile={self.file}" if file else url)
        work = Deferred.fromCoroutine(log_in(call, where, {"HOME": "/nonexistent"}))
        problems: list[Any] = []
        work.addErrback(problems.append)
        self.assertEqual([bool(it.check(UpstreamFailed)) for it in problems], [True] * len(problems))
        return str(problems[0].value.reason) if problems else ""

    def steps(self) -> list[str]:
        return [name for name, _ in self.said]

    def test_ways(self) -> None:
        """None before all others; a password before polkit, which needs nothing; what the URL wants."""
        plain = {"SASL_INIT": {"mechlist": "PLAIN"}, "SASL_START": DONE, "POLKIT": {"complete": 1}}
        for types, url, file, steps in (
            ([1, 2, 0], "qemu+tls://h/system", True, []),
            ([1, 2], "qemu+tls://h/system", True, ["SASL_INIT", "SASL_START"]),
            ([1, 2], "qemu+tls://h/system?auth=polkit", True, ["POLKIT"]),
            ([1, 2], "qemu+tls://h/system", False, ["POLKIT"]),
            ([2], "qemu+unix:///system", True, ["POLKIT"]),
            ([1], "qemu+unix:///system", True, ["SASL_INIT", "SASL_START"]),
            ([1], "qemu+ssh://h/system", True, ["SASL_INIT", "SASL_START"]),
        ):
            self.assertEqual(self.login({"LIST": {"types": types}, **plain}, url, file=file), "")
            self.assertEqual(self.steps(), ["LIST", *steps])
        self.assertEqual(self.said[-1][1], {"mech": "PLAIN", "nil": 0, "data": b"\0alice\0secret"})

    def test_nothing_sent(self) -> None:
        """Where others could read it no password is sent, and no program gets one."""
        for types, url, file in (
            ([1], "qemu+tcp://h/system", True),
            ([1], "qemu+ext:///system?command=/bin/cat", True),
            ([1], "qemu+tls://h/system", False),
            ([1], "qemu+tls://h/system?auth=polkit", True),
            ([2], "qemu+tls://h/system?auth=sasl", True),
            ([], "qemu+tls://h/system", True),
            ([3], "qemu+tls://h/system", True),
        ):
            self.assertEqual(self.login({"LIST": {"types": types}}, url, file=file), "auth", url)
            self.assertEqual(self.steps(), ["LIST"])

    def test_refused(self) -> None:
        """A refusal is ours to log; nobody who calls is told to log in, for it is not about them."""
        answers = {"LIST": {"types": [1]}, "SASL_INIT": {"mechlist": "PLAIN"}}
        self.assertEqual(self.login({**answers, "SASL_START": LibvirtError(45, 0, "no")}), "auth")
        answers["SASL_INIT"] = {"mechlist": "GSSAPI,DIGEST-MD5"}
        self.assertEqual(self.login(answers), "auth")

    def test_cheats(self) -> None:
        """Who says that all is well without a proof, or asks for ever, is no hypervisor of ours."""

        def first(said: Mapping[str, Any]) -> Answers:
            return {
                "complete": 0,
                "nil": 0,
                "data": b"r="
                + re.sub(rb".*r=", b"", said["data"])
                + b"x,s="
                + b64encode(b"salt")
                + b",i=4096",
            }

        lists = {"LIST": {"types": [1]}, "SASL_INIT": {"mechlist": "SCRAM-SHA-256"}}
        for start, step in (
            (DONE, None),
            ({"complete": 1, "nil": 0, "data": b""}, None),
            (first, DONE),
            (first, {"complete": 1, "nil": 0, "data": b"v=AAAA"}),
            (first, {"complete": 0, "nil": 0, "data": b""}),
        ):
            self.assertEqual(self.login({**lists, "SASL_START": start, "SASL_STEP": step}), "auth", start)
        lists["SASL_INIT"] = {"mechlist": "PLAIN"}
        self.assertEqual(self.login({**lists, "SASL_START": {"complete": 0, "nil": 0, "data": b"x"}}), "auth")
