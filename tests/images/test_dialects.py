"""The dialects of image proxies: how a client shows its right, renews it and gives it up."""

from __future__ import annotations

import json
from typing import Any

from tests.images.stage import HOST, ID, OTHER, PORT, Reply, StageTestCase

REFUSED = b"You are not allowed to access this resource: No such ticket, or it has expired\n"


class DialectTestCase(StageTestCase):
    """Helpers for those who bring a signed ticket."""

    def get(self, ticket_id: str = ID, query: str = "", **fields: Any) -> Reply:
        return self.ask("GET", f"/images/{ticket_id}{query}", range="bytes=0-3", **fields)

    def post(self, **fields: Any) -> Reply:
        return self.ask("POST", "/sessions/", b"", **fields)

    def put(self, token: str, path: str = "/tickets/") -> Reply:
        return self.ask("PUT", path, token.encode())


class S0Tests(DialectTestCase):
    """0.x to 1.0.1: the token on every request."""

    def test_every_request(self) -> None:
        """Each request that brings a good token is served, without anything before."""
        token = self.token()
        for _ in range(3):
            reply = self.get(authorization=token)
            self.assertEqual((reply.status, reply.body), (206, b"\0\1\2\3"))
        self.assertEqual(self.host.seen[0].target, f"/images/{ID}")

    def test_bearer(self) -> None:
        """A scheme in front of it is understood."""
        self.assertEqual(self.get(authorization=f"Bearer {self.token()}").status, 206)

    def test_refused(self) -> None:
        """A bad token is a 401, and no host hears of it."""
        for value in ("x", "", "Bearer ", self.token()[:-8] + "AAAAAAA=", "\u05d0"):
            self.assertEqual(self.get(authorization=value).status, 401, value)
        self.assertEqual(self.host.wire, [])

    def test_expired(self) -> None:
        """A token is good until its very end and not longer."""
        token = self.token(life=60)
        self.pass_time(59)
        self.assertEqual(self.get(authorization=token).status, 206)
        self.pass_time(1)
        self.assertEqual(self.get(authorization=token).status, 401)

    def test_another_ticket(self) -> None:
        """A token opens its own image and no other."""
        self.host.images[OTHER] = bytearray(10)
        reply = self.get(OTHER, authorization=self.token())
        self.assertEqual(reply.status, 401)
        self.assertNotIn("session-id", reply.fields)
        self.assertEqual(self.host.wire, [])
        self.assertEqual(self.control("GET", f"/tickets/{ID}").status, 404)

    def test_fresher(self) -> None:
        """A fresher token renews what the first one opened."""
        self.get(authorization=self.token(life=60))
        self.pass_time(30)
        later = self.token(life=60)
        self.get(authorization=later)
        self.pass_time(50)
        self.assertEqual(self.get(authorization=later).status, 206)

    def test_raw_write(self) -> None:
        """PATCH with Content-Range writes bytes, as PUT does."""
        reply = self.image("PATCH", b"abc", authorization=self.token(), content_range="bytes 5-7/*")
        self.assertEqual((reply.status, self.host.images[ID][4:9]), (200, b"\x04abc\x08"))
        self.assertEqual(self.host.seen[-1].method, "PUT")

    def test_revoked(self) -> None:
        """What the engine removed a good token does not bring back, and looks like any bad token."""
        token = self.token()
        self.get(authorization=token)
        self.assertEqual(self.control("DELETE", f"/tickets/{ID}").status, 204)
        replies = [self.get(authorization=token), self.post(authorization=token), self.put(token)]
        self.assertEqual([reply.status for reply in replies], [401, 401, 403])

    def test_kept_secret(self) -> None:
        """R5: neither token, session, cookie nor any field of the client's own reaches the host."""
        reply = self.get(
            authorization=self.token(),
            cookie="a=secret-cookie",
            x_forwarded_for="192.0.2.77",
            proxy_authorization="Basic secret",
            x_custom="secret-custom",
        )
        session = reply.fields["session-id"]
        self.get(session_id=session)
        self.get(query=f"?session_id={session}")
        self.image("PUT", b"x", session_id=session, cookie="b=secret-cookie")
        self.assertEqual(len(self.host.seen), 4)
        for request in self.host.seen:
            allowed = {"host", "range", "content-length", "content-type"}
            self.assertEqual(set(request.fields) - allowed, set())
        wire = b"".join(self.host.wire)
        for secret in (b"secret", session.encode(), b"192.0.2.77", self.token().encode()[:40]):
            self.assertNotIn(secret, wire)


class S1Tests(DialectTestCase):
    """1.1 to 1.2: sessions."""

    def open(self, **fields: Any) -> str:
        reply = self.post(authorization=self.token(), **fields)
        self.assertEqual((reply.status, reply.body), (200, b""))
        return reply.fields["session-id"]

    def test_life(self) -> None:
        """POST gives an id, which opens the image by header or by query until DELETE."""
        session = self.open()
        self.assertGreaterEqual(len(session), 22)
        self.assertEqual(self.get(session_id=session).status, 206)
        self.assertEqual(self.get(x_session_id=session).status, 206)
        self.assertEqual(self.get(query=f"?session_id={session}").status, 206)
        self.assertEqual(self.ask("DELETE", f"/sessions/{session}").status, 204)
        reply = self.get(session_id=session)
        self.assertEqual((reply.status, reply.text), (401, "Invalid session id or session expired\n"))
        self.assertEqual(self.ask("DELETE", f"/sessions/{session}").status, 404)

    def test_without_slash(self) -> None:
        """The old documentation's path works, too."""
        self.assertEqual(self.ask("POST", "/sessions", b"", authorization=self.token()).status, 200)

    def test_renewal(self) -> None:
        """POST again with the id and a fresher token gives the same id a later end."""
        session = self.open()
        self.pass_time(200)
        self.assertEqual(self.open(session_id=session), session)
        self.pass_time(200)
        self.assertEqual(self.get(session_id=session).status, 206)
        self.pass_time(100)
        self.assertEqual(self.get(session_id=session).status, 401)

    def test_own_end(self) -> None:
        """A session ends with the token it was made of, though somebody renewed the ticket."""
        session = self.open()
        self.pass_time(200)
        self.put(self.token())
        self.pass_time(150)
        self.assertEqual(self.get(session_id=session).status, 401)
        self.assertEqual(self.get().status, 206)

    def test_unknown_with_token(self) -> None:
        """T9: an id that was not made here is never taken over; a new one is given instead."""
        self.assertNotEqual(self.open(session_id="chosen-by-somebody"), "chosen-by-somebody")
        self.assertEqual(self.get(session_id="chosen-by-somebody").status, 401)
        reply = self.get(session_id="chosen-too", authorization=self.token())
        self.assertEqual(reply.status, 206)
        self.assertNotEqual(reply.fields["session-id"], "chosen-too")
        self.assertEqual(self.get(session_id="chosen-too").status, 401)

    def test_ids_differ(self) -> None:
        """T7: ids cannot be guessed from each other."""
        made = set()
        for number in range(20):
            self.pass_time(1)
            made.add(self.post(authorization=self.token(life=300 + number)).fields["session-id"])
        self.assertEqual(len(made), 20)

    def test_two_ids(self) -> None:
        """Two different ids in one request are refused, wherever they stand."""
        one = self.open()
        self.pass_time(1)
        two = self.open()
        self.assertNotEqual(one, two)
        self.assertEqual(self.get(query=f"?session_id={one}", session_id=two).status, 401)
        self.assertEqual(self.get(query=f"?session_id={one}&session_id={two}").status, 401)
        self.assertEqual(self.get(session_id=one, x_session_id=two).status, 401)
        self.assertEqual(self.get(query=f"?session_id={one}", session_id=one).status, 206)
        client = self.connect()
        head = self.request("GET", f"/images/{ID}", session_id=one).removesuffix(b"\r\n")
        client.send(head + f"session-id: {two}\r\n\r\n".encode())
        self.network.pump()
        self.assertEqual((client.head or (0,))[0], 401)

    def test_another_path(self) -> None:
        """A session is for one image."""
        reply = self.get(OTHER, session_id=self.open())
        self.assertEqual((reply.status, reply.text), (400, "Requested resource must match transfer ticket\n"))

    def test_no_credential(self) -> None:
        """POST without anything is a 401."""
        self.assertEqual(self.post().status, 401)
        self.assertEqual(self.post(session_id="x").status, 401)
        session = self.open()
        self.assertEqual(self.post(session_id=session).fields["session-id"], session)

    def test_methods(self) -> None:
        """OPTIONS is a 204 for everybody; other methods are refused."""
        self.assertEqual(self.ask("OPTIONS", "/sessions/").status, 204)
        self.assertEqual(self.ask("OPTIONS", "/sessions/abc").status, 204)
        self.assertEqual(self.ask("GET", "/sessions/abc").status, 405)

    def test_overlong_query(self) -> None:
        """A query of a thousand parts is a bad request, not a bug."""
        self.assertEqual(self.ask("POST", "/sessions/?" + "&".join(["a=b"] * 99), b"").status, 400)
        self.assertEqual(self.get(query="/extents?" + "&".join(["a=b"] * 99)).status, 400)

    def test_end_cuts(self) -> None:
        """DELETE of the last session of a ticket ends the transfers under it."""
        session = self.open()
        self.host.plans.append(lambda connection, request: None)
        client = self.start("GET", f"/images/{ID}", session_id=session)
        self.assertEqual(len(self.sessions), 1)
        self.ask("DELETE", f"/sessions/{session}")
        self.assertEqual(len(self.sessions), 0)
        self.assertEqual((client.head or (0,))[0], 401)


class TicketStoreTests(DialectTestCase):
    """1.2.1 to 1.6: signed tickets are stored first."""

    def test_life(self) -> None:
        """PUT stores what the token names, whatever the path; GET needs no header; DELETE ends it."""
        for path in ("/tickets/", "/tickets/anything", f"/tickets/{ID}", "/tickets/a/b"):
            reply = self.put(self.token(), path)
            self.assertEqual((reply.status, reply.body), (200, b""))
            self.assertEqual(self.get().status, 206)
            self.assertEqual(self.ask("DELETE", f"/tickets/{ID}").status, 204)
            self.assertEqual(self.get().status, 403)
        self.assertEqual(self.ask("DELETE", f"/tickets/{ID}").status, 204)

    def test_renewal(self) -> None:
        """PUT again with a fresher token moves the end; an older one never does."""
        first = self.token(life=100)
        self.put(first)
        self.pass_time(50)
        self.put(self.token(life=100))
        self.assertEqual(self.put(first).status, 200)
        self.pass_time(60)
        self.assertEqual(self.get().status, 206)
        self.pass_time(40)
        self.assertEqual(self.get().status, 403)

    def test_bad(self) -> None:
        """A missing id, a bad token, a token that is too long: each has its answer."""
        reply = self.ask("DELETE", "/tickets/")
        self.assertEqual((reply.status, reply.text), (400, "Missing ticket ID\n"))
        for token in ("x", "", '{"uuid": "x"}'):
            reply = self.put(token)
            self.assertEqual(reply.status, 403)
            self.assertTrue(reply.text.startswith("Error verifying signed ticket: "), reply.text)
        self.assertEqual(self.put("x" * 20_000).status, 413)
        self.assertEqual(self.ask("GET", "/tickets/").status, 405)
        self.assertEqual(self.ask("OPTIONS", "/tickets/").status, 204)

    def test_stale_header(self) -> None:
        """Pieces of one upload carry the first token; a stored, renewed one counts all the same."""
        first = self.token(life=60)
        self.put(first)
        self.pass_time(30)
        self.put(self.token(life=300))
        self.pass_time(60)
        for header in (first, "nonsense"):
            self.assertEqual(self.get(authorization=header).status, 206)

    def test_engine_ticket(self) -> None:
        """For a ticket of the engine the header means nothing, good or bad."""
        self.add(timeout=100)
        for header in (self.token(life=3000), "nonsense"):
            self.assertEqual(self.get(authorization=header).status, 206)
        self.assertEqual(self.put(self.token(life=3000)).status, 200)
        self.assertEqual(self.info()["timeout"], 100)
        self.assertEqual(self.ask("DELETE", f"/tickets/{ID}").status, 204)
        self.assertEqual(self.get().status, 206, "not its holder's to drop")

    def test_expired_by_dialect(self) -> None:
        """The end of a ticket is a 401 for those who show a credential, else a 403."""
        session = self.post(authorization=self.token(life=60)).fields["session-id"]
        self.add(OTHER, timeout=60)
        self.pass_time(60)
        self.assertEqual(self.get().status, 403)
        self.assertEqual(self.get(session_id=session).status, 401)
        self.assertEqual(self.get(OTHER).status, 403)
        self.assertEqual(self.get(OTHER, authorization="x").status, 401)

    def test_info(self) -> None:
        """Anybody may ask for the version, with and without the slash."""
        for path in ("/info/", "/info"):
            reply = self.ask("GET", path)
            self.assertEqual((reply.status, list(reply.json())), (200, ["version"]))
            self.assertEqual(reply.fields["content-type"], "application/json")
        self.assertEqual(self.ask("PUT", "/info/", b"").status, 405)


class RefusalTests(DialectTestCase):
    """T5 and T7: what is no good looks alike."""

    def shape(self, reply: Reply) -> object:
        fields = {name: value for name, value in reply.fields.items() if name != "date"}
        return reply.status, reply.body, fields

    def test_uniform(self) -> None:
        """Unknown, expired, revoked, used-up, other kind, other peer: one answer to the last byte."""
        states = {}
        refused: dict[str, dict[str, object]] = {
            "expired": {"timeout": 10},
            "revoked": {},
            "used": {"uses": 1},
            "console": {"kind": "console", "url": "vnc://192.0.2.9:5900", "ops": ["view"]},
            "peer": {"peer": "198.51.100.0/24"},
        }
        for word, members in refused.items():
            states[word] = f"{word:-<36}"
            self.add(states[word], **{"url": f"https://{HOST}:{PORT}/images/{ID}", **members})
        self.assertEqual(self.ask("GET", f"/images/{states['used']}").status, 200)
        self.control("DELETE", f"/tickets/{states['revoked']}")
        self.pass_time(20)
        for method, more in (
            ("GET", ""),
            ("HEAD", ""),
            ("PUT", ""),
            ("OPTIONS", ""),
            ("PATCH", ""),
            ("GET", "/extents"),
            ("GET", "/checksum"),
        ):
            body = {"PUT": b"x", "PATCH": b'{"op": "flush"}'}.get(method)
            unknown = self.ask(method, f"/images/{'unknown':-<36}{more}", body)
            self.assertEqual(unknown.status, 403)
            if method != "HEAD":
                self.assertEqual(unknown.body, REFUSED)
            for word, ticket_id in states.items():
                reply = self.ask(method, f"/images/{ticket_id}{more}", body)
                self.assertEqual(self.shape(reply), self.shape(unknown), (word, method, more))

    def test_other_kinds(self) -> None:
        """T5: a signed token for another product opens no image; for this one it does."""
        for kind, statuses in {
            "console": (401, 401, 403),
            "rpc": (401, 401, 403),
            "image": (206, 200, 200),
        }.items():
            token = self.jwt(kind=kind)
            replies = self.get(authorization=token), self.post(authorization=token), self.put(token)
            self.assertEqual(tuple(reply.status for reply in replies), statuses, kind)

    def test_no_own_files(self) -> None:
        """R1: a token names no file, no socket and no target that the policy does not allow."""
        for url, status in {
            "file:///etc/passwd": 501,
            "http+unix://%2Frun%2Fx/images/a": 501,
            "nbd:unix:/run/x": 501,
            "http://127.0.0.1:80/images/a": 401,
            "http://169.254.169.254/latest": 401,
        }.items():
            token = self.jwt(uuid=OTHER, url=url)
            self.assertEqual(self.get(OTHER, authorization=token).status, status, url)
            self.assertEqual(self.dialer.dialed, [])
            self.ask("DELETE", f"/tickets/{OTHER}")

    def test_one_time(self) -> None:
        """T6: a token for one use opens one session, however often it is shown."""
        token = self.jwt(uses=1)
        self.assertEqual([self.get(authorization=token).status for _ in range(3)], [206, 401, 401])
        self.assertEqual(self.put(token).status, 403)
        self.assertEqual(self.get().status, 403)

    def test_console_token(self) -> None:
        """T5: a console's envelope, rightly signed, is refused everywhere."""
        token = self.sign(json.dumps({"host": "192.0.2.9", "port": "5900"}))
        self.assertEqual(self.get(authorization=token).status, 401)
        self.assertEqual(self.post(authorization=token).status, 401)
        self.assertEqual(self.put(token).status, 403)

    def test_secrets_unprinted(self) -> None:
        """What is audited names fingerprints, and neither ids nor tokens."""
        self.get(authorization=self.token())
        self.assertNotIn(ID, repr(self.trail))
        self.assertNotIn(self.token()[:60], repr(self.trail))
