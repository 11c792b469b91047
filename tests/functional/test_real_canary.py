"""Secrets in every input of a real gateway, and a search for them in everything that it writes."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import signal
import socket
from collections.abc import Iterator
from itertools import cycle
from typing import Any, ClassVar
from urllib.parse import quote
from uuid import uuid4

from tests.functional.case import PYTEST_ONLY, GatewayCase, read_head
from tests.functional.commands import need, run
from tests.functional.listening import Listening
from tests.functional.peers import Sections
from tests.functional.processes import DEADLINE, HOST, UnixConnection, ask, free_port, wait_for

testSuite = PYTEST_ONLY  # noqa: N816 (trial looks for this name)

JSON_TICKET = {"size": 1 << 20, "timeout": 300, "ops": ["read", "write"]}


class LoudHost(Listening):
    """An image host that puts a secret into every part of its answers, each of them of no use.

    :ivar answers: what it says in turn, then it hangs up.
    """

    def __init__(self, answers: list[bytes]) -> None:
        self.answers = answers
        self._turns = cycle(answers)
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        connection.settimeout(DEADLINE)
        answer = next(self._turns)
        with contextlib.suppress(AssertionError):
            read_head(connection)
            connection.sendall(answer)


class JsonTests(GatewayCase):
    """The log as JSON lines, at its most talkative."""

    form: ClassVar[str] = "json"
    sections: ClassVar[Sections] = {
        "log": {"format": "json", "level": "debug", "audit": "audit.log"},
        "limits": {"header_timeout": "10s", "upstream_timeout": "5s", "discard_time": "1s"},
        "images": {"connect_timeout": "1s"},
    }

    def setUp(self) -> None:
        #: Each secret, and where it was planted.
        self.planted: dict[str, str] = {}

    def secret(self, where: str) -> str:
        """A new secret, of characters that may stand anywhere."""
        made = f"Canary{uuid4().hex}{uuid4().hex[:8]}Q"
        self.planted[made] = where
        return made

    def secret_id(self, where: str) -> str:
        """A new ticket id."""
        made = str(uuid4())
        self.planted[made] = where
        return made

    def install(self, url: str, **more: Any) -> str:
        name = self.secret_id("ticket id")
        self.gateway.put({"uuid": name, "url": url, **JSON_TICKET, **more})
        return name

    def raw(self, data: bytes, port: int | None = None) -> bytes:
        """Send *data* to the image port, over TLS unless a *port* is given; return what comes."""
        plain = None if port is None else socket.create_connection((HOST, port), DEADLINE)
        answer = b""
        with plain or self.gateway.connect() as connection, contextlib.suppress(OSError):
            connection.sendall(data)
            while piece := connection.recv(65536):
                answer += piece
        return answer

    # -- what is done ----------------------------------------------------------------------

    def heads(self) -> None:
        """Heads that no server should take, each with a secret in every part."""
        made = self.secret
        for head in (
            f"GET /images/{made('path of a broken head')} HTTP/1.1\r\nno colon {made('no colon')}\r\n\r\n",
            f"GET /images/{made('folded head')} HTTP/1.1\r\nhost: a\r\n {made('folded line')}\r\n\r\n",
            f"GET /images/{made('HTTP/9')} HTTP/9.9\r\nauthorization: {made('HTTP/9 field')}\r\n\r\n",
            f"{made('no request at all')}\r\n\r\n",
            f"{made('method')} / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
            f"GET http://user:{made('user-info')}@localhost/ HTTP/1.1\r\nhost: localhost\r\n\r\n",
            f"GET /images/{made('two hosts')} HTTP/1.1\r\nhost: a\r\nhost: {made('second host')}\r\n\r\n",
            f"GET /images/{made('long line')}{'x' * 9000} HTTP/1.1\r\nhost: a\r\n\r\n",
            f"GET / HTTP/1.1\r\nhost: a\r\ncookie: {made('long cookie')}{'x' * 20000}\r\n\r\n",
            f"PUT /images/{made('bad length')} HTTP/1.1\r\nhost: a\r\n"
            f"content-length: {made('length')}\r\n\r\n",
            f"PUT /images/{made('both framings')} HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n"
            f"transfer-encoding: chunked\r\n\r\n5\r\n{made('body of both')}",
            "PUT /tickets/x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
            f"{made('bad chunk')}\r\n",
            f"GET /images/{made('never finished')} HTTP/1.1\r\nauthorization: {made('unfinished field')}",
            f"PUT /images/x HTTP/1.1\r\nhost: a\r\nexpect: {made('expect')}\r\ncontent-length: 1\r\n\r\n",
        ):
            self.raw(head.encode("ascii"))
        self.raw(
            f"GET /{made('no TLS')} HTTP/1.1\r\ncookie: {made('no TLS cookie')}\r\n\r\n".encode(),
            self.gateway.port,
        )
        for port in (self.gateway.control_port, self.gateway.metrics_port):
            self.raw(
                f"{made('control method')} /tickets/{made('control path')} HTTP/1.1\r\n\r\n".encode(), port
            )

    def requests(self) -> None:
        """Good heads with a secret in each place where one belongs, and in some where none does."""
        made = self.secret
        paths = [
            f"/images/{made('path')}",
            f"/images/{quote(made('encoded path'), safe='').replace('a', '%61').replace('C', '%43')}",
            f"/images/{self.secret_id('uuid in path')}/extents",
            f"/images/{made('checksum path')}/checksum?algorithm={made('algorithm')}",
            f"/images/x/{made('second segment')}/{made('third segment')}",
            f"/images//{made('double slash')}",
            f"/images/%2e%2e%2f{made('dots')}",
            f"/{made('no route')}/{made('below no route')}",
            f"/ui/{made('page')}",
            f"/console/{made('console path')}",
            f"/images/x?session_id={made('session in query')}",
            f"/images/x?token={made('token in query')}&{made('name in query')}={made('unknown key')}",
            f"/images/x?close={made('value of a known key')}&flush={made('flush')}&size={made('size')}",
            f"/tickets/{made('data port ticket')}",
            f"/sessions/{made('data port session')}",
            f"/sessions?session_id={made('session of sessions')}",
            f"/info/{made('info')}",
        ]
        for path in paths:
            for method in ("GET", "PUT", "DELETE", "OPTIONS", "PATCH"):
                self.gateway.ask(method, path, b"{}" if method == "PATCH" else None)
        basic = base64.b64encode(f"user:{made('basic')}".encode()).decode()
        self.planted[basic] = "basic, encoded"
        for name, value in (
            ("Authorization", made("authorization")),
            ("Authorization", f"Bearer {made('bearer')}"),
            ("Authorization", f"Basic {basic}"),
            ("Proxy-Authorization", f"Basic {made('proxy')}"),
            ("Cookie", f"sid={made('cookie')}"),
            ("Session-Id", made("session id")),
            ("X-Session-Id", made("old session id")),
            ("X-AuthToken", made("authtoken")),
            ("Host", f"{made('host')}.invalid"),
            ("Referer", f"https://a.invalid/images/{made('referer')}"),
            ("Origin", f"https://{made('origin')}.invalid"),
            ("User-Agent", made("user agent")),
            ("Range", f"bytes={made('range')}"),
            ("Content-Range", made("content range")),
            ("X-Forwarded-For", made("forwarded")),
            (made("name of a field"), "x"),
        ):
            for method, path in (("GET", "/images/x"), ("POST", "/sessions/"), ("OPTIONS", "/images/x")):
                self.gateway.ask(method, path, headers={name: value})

    def tokens(self) -> None:
        """Signed and unsigned tokens, good and bad, in fields and in bodies."""
        engine = self.gateway.ca.parent / "engine.key"
        name, host = self.secret_id("id in an envelope"), f"http://{HOST}:{free_port()}"
        command = [need("gatewayctl", "pip install -e ."), "token", "issue", "--key", str(engine)]
        token = run([*command, "--ticket", name, "--url", host]).decode("ascii").strip()
        self.planted[token] = "envelope"
        session = self.gateway.ask("POST", "/sessions/", headers={"Authorization": token}).headers[
            "session-id"
        ]
        self.planted[session] = "session id that was given out"
        self.gateway.ask("GET", f"/images/{name}", headers={"Session-Id": session})
        self.gateway.ask("GET", f"/images/{name}?session_id={session}")
        self.gateway.ask("GET", f"/images/{name}", headers={"Authorization": token})
        self.gateway.ask("PUT", "/tickets/", token.encode("ascii"))
        self.gateway.ask("DELETE", f"/sessions/{session}")
        bad = base64.b64encode(json.dumps({"data": self.secret("forged envelope")}).encode()).decode("ascii")
        dotted = f"eyJhbGciOiJub25lIn0.{self.secret('claims')}.{self.secret('signature')}"
        for text in (bad, dotted, self.secret("no token"), token[:-9], token[:300]):
            self.planted[text] = "token"
            self.gateway.ask("PUT", "/tickets/", text.encode("ascii"))
            self.gateway.ask("GET", f"/images/{name}", headers={"Authorization": text})
            self.gateway.ask("POST", "/sessions/", headers={"Authorization": text})

    def engine(self) -> None:
        """Tickets of the engine: good ones, and such as are refused with a secret in each member."""
        made = self.secret
        image = self.home / "images" / "image.raw"
        image.write_bytes(bytes(1 << 20))
        name = self.install(image.as_uri(), secret=made("secret"), filename=made("filename"), uses=2)
        self.gateway.ask("GET", f"/images/{name}")
        self.gateway.ask("GET", f"/images/{quote(name).replace('-', '%2D')}")
        self.gateway.ask("GET", f"/images/{name}")
        self.gateway.renew(name, 10)
        missing = self.install((self.home / "images" / made("missing file")).as_uri())
        self.gateway.ask("GET", f"/images/{missing}")
        outside = self.install(f"file:///etc/{made('outside')}")
        self.gateway.ask("GET", f"/images/{outside}")
        console = {"uuid": self.secret_id("console"), "kind": "console", "url": "vnc://192.0.2.1:5900"}
        self.gateway.put({**console, "timeout": 300, "ops": ["view"], "secret": made("console password")})
        self.gateway.ask("GET", f"/images/{console['uuid']}")
        body: dict[str, Any] = {"uuid": self.secret_id("refused"), "url": image.as_uri(), **JSON_TICKET}
        for member in ("uuid", "url", "size", "ops", "timeout", "filename", "secret", "uses", "peer", "kind"):
            for value in (made(member), [made(member)], {"x": made(member)}, f"a b\r\n{made(member)}"):
                self.gateway.control("PUT", f"/tickets/{made('control id')}", {**body, member: value})
        for text in (f"{made('no JSON')}", f'{{"uuid": "{made("cut JSON")}', f'{{"secret": {made("bare")}}}'):
            for method in ("PUT", "PATCH", "POST"):
                for path in (
                    f"/tickets/{made('control path')}",
                    f"/sessions/{made('control session')}",
                    "/status",
                ):
                    ask(UnixConnection(self.gateway.control_socket), method, path, text.encode("ascii"))
        for path in (
            f"/tickets/?kind={made('kind')}",
            f"/tickets/?state={made('state')}",
            f"/sessions/?ticket={name}",
        ):
            self.gateway.control("GET", path)
        self.gateway.control("GET", f"/tickets/{name}")
        self.gateway.delete(name)
        self.gateway.delete(self.secret_id("never there"))

    def upstreams(self) -> None:
        """Image hosts that are away, and such as give secrets away."""
        made = self.secret
        answers = [
            f"HTTP/1.1 403 {made('reason phrase')}\r\ncontent-length: 47\r\n\r\n{made('body of a refusal')}",
            f"HTTP/1.1 200 OK\r\nset-cookie: {made('host cookie')}\r\nno colon {made('host line')}\r\n\r\n",
            f"{made('no answer')}\r\n\r\n",
            f"HTTP/1.1 200 OK\r\ncontent-length: {made('host length')}\r\n\r\n",
            f"HTTP/1.1 302 Found\r\nlocation: https://{made('location')}/\r\ncontent-length: 0\r\n\r\n",
            f"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n{made('cut body')}",
            f"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{made('host chunk')}\r\n",
        ]
        host = LoudHost([it.encode("ascii") for it in answers])
        self.addCleanup(host.close)
        for port in (host.port, free_port()):
            for scheme in ("http", "https"):
                name = self.install(f"{scheme}://{HOST}:{port}/images/{self.secret_id('id at the host')}")
                for method in ("OPTIONS", "GET", "PUT", "PATCH") * 2 if scheme == "http" else ("GET",):
                    body = b'{"op": "flush"}' if method == "PATCH" else b"x" * 9 if method == "PUT" else None
                    with contextlib.suppress(OSError, http.client.HTTPException):
                        self.gateway.ask(method, f"/images/{name}", body)
        name = self.install(
            f"https://{made('host name').lower()[:40]}.invalid/images/{made('path at the host')}"
        )
        self.gateway.ask("GET", f"/images/{name}")

    def reload(self) -> None:
        """A configuration that cannot be used, by signal and by order."""
        good = self.gateway.config_file.read_text()
        self.addCleanup(self.gateway.config_file.write_text, good)
        bad = f"\n[registry]\nurl = redis://:{self.secret('password in a URL')}@192.0.2.1/\n"
        self.gateway.config_file.write_text(good + bad)
        self.assertEqual(self.gateway.control("POST", "/reload").status, 400)
        before = self.audit().count("reload_failed")
        self.gateway._process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]  # it runs
        wait_for(lambda: self.audit().count("reload_failed") > before, "the second reload failed")
        self.gateway.config_file.write_text(good)
        self.assertEqual(self.gateway.control("POST", "/reload").status, 200)

    # -- what is looked at -----------------------------------------------------------------

    def audit(self) -> str:
        return (self.home / "audit.log").read_text("utf-8")

    def written(self) -> Iterator[tuple[str, str]]:
        """Everything that the process writes, and the name of the place."""
        for path in ("/status", "/sessions/", "/tickets/?limit=1000"):
            yield path, self.gateway.control("GET", path).body.decode("utf-8")
        yield (
            "/metrics",
            self.gateway._plain(self.gateway.metrics_port, "GET", "/metrics").body.decode("utf-8"),
        )
        yield "/readyz", self.gateway._plain(self.gateway.metrics_port, "GET", "/readyz").body.decode("utf-8")
        yield "audit", self.audit()
        yield "log", self.gateway.log()
        for directory in (self.home / "state", self.home / "run"):
            for file in directory.rglob("*"):
                if file.is_file():
                    yield str(file), file.read_text("utf-8", "replace")

    def check_lines(self) -> None:
        """Each event is one line; the trail has no gap."""
        numbers = []
        # The last one may still be written.
        for line in self.audit().split("\n")[:-1]:
            record = json.loads(line)
            numbers.append(record["seq"])
        self.assertEqual(numbers, list(range(1, len(numbers) + 1)))
        log = self.gateway.log().split("\n")[:-1]
        self.assertGreater(len(log), 100)
        if self.form == "json":
            for line in log:
                record = json.loads(line)
                self.assertIn("event" if "seq" in record else "text", record)
        else:
            for line in log:
                self.assertRegex(line, r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{12}Z [A-Z]+ [\w.]+: .*\Z")

    def test_nothing_leaks(self) -> None:
        """No secret is found in the log, the trail, the metrics, the status or any list."""
        self.heads()
        self.requests()
        self.tokens()
        self.engine()
        self.upstreams()
        self.reload()
        places = list(self.written())
        self.assertGreater(len(self.planted), 150)
        leaks = set()
        for secret, where in self.planted.items():
            for part in {secret, secret.lower(), secret[:24], secret[-24:]}:
                leaks |= {(where, name) for name, text in places if part in text}
        self.assertEqual(leaks, set())
        self.assertNotIn("Traceback", self.gateway.log())
        self.check_lines()


class TextTests(JsonTests):
    """The log as text."""

    form: ClassVar[str] = "text"
    sections: ClassVar[Sections] = {
        **JsonTests.sections,
        "log": {**JsonTests.sections["log"], "format": "text"},
    }
