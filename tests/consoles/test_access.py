from __future__ import annotations

import json
from base64 import b64encode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from gateway import errors
from gateway.consoles.access import Access
from gateway.consoles.targets import Protocol, Target
from gateway.core.sessions import Session
from tests.consoles.stage import (
    HOST,
    ID,
    NOW,
    OTHER,
    PAGE,
    PEER,
    PORT,
    Stage,
    data,
    date,
    head,
    pki,
    unwrap,
    wrap,
)


def item(text: str) -> tuple[str, str]:
    encoded = urlsafe_b64encode(text.encode()).decode().rstrip("=")
    return "Sec-WebSocket-Protocol", f"binary, ticket.{encoded}"


class SignedTests(Stage):
    """Tickets that an engine signed; openssl and a shell made them."""

    def setUp(self) -> None:
        super().setUp()
        self.old: dict[str, dict[str, str]] = {}

    def test_generations(self) -> None:
        """B and C open a console, in either order of fields; A only where SHA-1 was switched on."""
        for order in ("python", "java"):
            for generation in "BC":
                with self.subTest((generation, order)):
                    self.opens("/" + self.sign(generation=generation, order=order))
            self.refused("signature", "/" + self.sign(generation="A", order=order))
        for order in ("python", "java"):
            self.access = self.make(sha1=True)
            self.opens("/" + self.sign(generation="A", order=order))

    def test_admission(self) -> None:
        """It says where, that it may be VNC or SPICE, and whether TLS; the user may do everything."""
        found = self.admit("/" + self.sign())
        self.assertEqual(found.targets, (self.vnc(), self.spice()))
        self.assertEqual((found.op, found.secret, found.joins, found.peer), ("control", None, False, PEER))
        found = self.admit("/" + self.sign(data(ssl_target=True, host="2001:db8::1", port=5900)))
        expected = [
            Target(kind, "2001:db8::1", 5900, tls=True, tls_name="2001:db8::1")
            for kind in (Protocol.VNC, Protocol.SPICE)
        ]
        self.assertEqual(found.targets, tuple(expected))

    def vnc(self) -> Target:
        return Target(Protocol.VNC, HOST, PORT, tls_name=HOST)

    def spice(self) -> Target:
        return Target(Protocol.SPICE, HOST, PORT, tls_name=HOST)

    def test_places(self) -> None:
        """Wherever it stands it is the same ticket: path, encoded, query, subprotocol, prefix."""
        token = self.sign(data(host="h.invalid"))
        encoded = quote(token, safe="")
        requests = [
            head("/" + token),
            head("/" + encoded),
            head("/console/" + token),
            head(f"/?token={token}"),
            head(f"/?a=b&token={encoded}"),
            head(f"/x/websockify?token={encoded}"),
            head("/console/", item(token)),
            head("/websockify", item(token)),
        ]
        self.assertEqual(len({self.admit(request).ticket_id for request in requests}), 1)

    def test_awkward_characters(self) -> None:
        """Slashes and plus signs, which base64 may hold, survive in the path and in the query."""
        fields = unwrap(self.sign())
        raw = wrap(fields | {"certificate": "?~>?~>?~>"})
        self.assertRegex(raw, "[+/]")
        for target in (f"/{raw}", f"/?token={raw}", f"/?token={quote(raw, safe='')}"):
            # Another certificate is not trusted; that it is looked at says that the text arrived whole.
            self.refused("shape", target)

    def test_once(self) -> None:
        """One ticket opens one session: not two at once, not again after it, not in another spelling."""
        token = self.sign()
        session = self.open("/" + token)
        for again in (f"/{token}", f"/{quote(token, safe='')}", f"/?token={token}", f"/console/{token}"):
            self.refused("used", again)
        session.close("done")
        self.refused("used", "/" + token)
        respelt = wrap(dict(reversed(unwrap(token).items())))
        self.assertNotEqual(respelt, token)
        self.refused("used", "/" + respelt)
        without = wrap({k: v for k, v in unwrap(token).items() if k != "certificate"})
        self.refused("used", "/" + without)

    def test_once_in_a_race(self) -> None:
        """Of many who were let in with one ticket, one opens it."""
        token = self.sign()
        admitted = [self.admit("/" + token) for _ in range(50)]
        opened = 0
        for admission in admitted:
            work = Deferred.fromCoroutine(self.access.open(admission, target="t", ended=self.ended.append))
            work.addErrback(lambda failure: failure.trap(errors.NoTicket))
            opened += isinstance(self.successResultOf(work), Session)
        self.assertEqual(opened, 1)

    def test_once_for_ever(self) -> None:
        """When the registry has forgotten the ticket its signature is still remembered."""
        token = self.sign()
        admission = self.admit("/" + token)
        session = self.done(self.access.open(admission, target="t", ended=self.ended.append))
        self.done(self.registry.revoke(admission.ticket_id, tombstone=False))
        self.assertTrue(session.closed)
        self.refused("replayed", "/" + token)

    def test_nobody_names_it(self) -> None:
        """The id an engine's ticket gets in the registry opens nothing, for no request can show it."""
        admission = self.admit("/" + self.sign())
        self.assertIn(":", admission.ticket_id)
        for text in (admission.ticket_id, quote(admission.ticket_id, safe="")):
            self.refused("malformed", f"/console/{text}")
        self.refused("unknown", f"/console/{admission.ticket_id.partition(':')[2]}")

    def test_given_back(self) -> None:
        """Who did not reach the target may try again, as long as the ticket is good."""
        token = self.sign()
        for _ in range(3):
            self.done(self.sessions.undo(self.open("/" + token), "refused"))
        self.opens("/" + token)
        self.refused("used", "/" + token)

    def test_times(self) -> None:
        """It is good from its first second on, and at its end no more."""
        self.refused("not_yet", "/" + self.sign(valid=(1, 100)))
        self.refused("expired", "/" + self.sign(valid=(-100, 0)))
        token = self.sign(valid=(0, 100))
        admission = self.admit("/" + token)
        self.clock.advance(100)
        self.refused("expired", "/" + token)
        self.fails(errors.NoTicket, self.access.open(admission, target="t", ended=self.ended.append))

    def test_skew(self) -> None:
        """A clock that is allowed to be off a little may be, at both ends."""
        self.access = self.make(skew=2.0)
        self.opens("/" + self.sign(valid=(2, 100)))
        self.opens("/" + self.sign(valid=(-100, -1)))
        self.refused("expired", "/" + self.sign(valid=(-101, -2)))

    def test_too_long(self) -> None:
        """A ticket for a console is good for ten minutes at most."""
        self.opens("/" + self.sign(valid=(0, 600)))
        self.refused("too_long", "/" + self.sign(valid=(0, 601)))

    def test_from_before(self) -> None:
        """What was signed before we started may have been used in another life of ours."""
        self.access = self.make(started=NOW)
        self.refused("before_start", "/" + self.sign(valid=(-2, 100)))
        self.opens("/" + self.sign(valid=(-1, 100)))

    def test_runs_on(self) -> None:
        """A session that was opened in time outlives its ticket; revocation ends it, in the same turn."""
        admission = self.admit("/" + self.sign())
        session = self.done(self.access.open(admission, target="t", ended=self.ended.append))
        self.clock.pump([1.0] * 200)
        self.assertEqual((session.closed, self.ended), (False, []))
        self.done(self.registry.revoke(admission.ticket_id))
        self.assertEqual((session.closed, self.ended), (True, ["revoked"]))

    # -- what the originals let pass -------------------------------------------------------

    def signed(self, fields: dict[str, str]) -> str:
        return "".join(fields[name] for name in fields["signedFields"].split(","))

    def test_hole_1(self) -> None:
        """The whole signed text as the salt, and all else made up: refused."""
        old = unwrap(self.sign(valid=(-1000, -900)))
        forged = {"data": data(host="evil.invalid"), "validFrom": date(NOW - 1), "validTo": date(NOW + 99)}
        for names in ("salt", "salt,data", "salt,validFrom,validTo,data"):
            fields = old | {"salt": self.signed(old), "signedFields": names} | forged
            self.refused("shape", "/" + wrap(fields))
            self.refused("shape", "/" + wrap(old | {"signedFields": names.replace(",validTo", "")}))

    def test_hole_2(self) -> None:
        """A field that no engine knows, with the signed text in it: refused."""
        old = unwrap(self.sign(valid=(-1000, -900)))
        fields = old | {"x": self.signed(old), "signedFields": "x", "validTo": date(NOW + 99)}
        self.refused("malformed", "/" + wrap(fields))
        del fields["x"]
        fields["certificate"] = self.signed(old)
        self.refused("shape", "/" + wrap(fields | {"signedFields": "certificate"}))

    def test_hole_3(self) -> None:
        """The dates' bytes moved into the salt, and dates that never end: refused."""
        old = unwrap(self.sign(order="python", valid=(-1000, -900)))
        salt = old["salt"] + old["validFrom"] + old["validTo"]
        for end in ("99991231235959", date(NOW + 99)):
            fields = old | {"salt": salt, "validFrom": date(NOW - 1), "validTo": end}
            self.refused("shape", "/" + wrap(fields | {"signedFields": "salt,data"}))
            self.refused("shape", "/" + wrap(fields | {"validTo": "", "validFrom": ""}))

    def test_hole_4(self) -> None:
        """Without its better signature a ticket is refused, even where SHA-1 counts, once it was seen."""
        whole = unwrap(self.sign(generation="B"))
        stripped = wrap({k: v for k, v in whole.items() if k != "v2_signature"})
        self.refused("signature", "/" + stripped)
        self.access = self.make(sha1=True)
        self.opens("/" + wrap(whole))
        again = unwrap(self.sign(generation="B"))
        self.refused("signature", "/" + wrap({k: v for k, v in again.items() if k != "v2_signature"}))

    def test_hole_5(self) -> None:
        """A pinned engine certificate that has expired signs nothing any more."""
        self.clock.advance(20 * 365 * 86400)
        self.refused("signer", "/" + self.sign())

    def test_hole_6_and_7(self) -> None:
        """A ticket has one spelling: no foreign characters, no padding left out, no other alphabet."""
        token = self.sign()
        bare = token.rstrip("=")
        spellings = [f"{token}=", f"{token}%0A", f"{token}%20", token[:40] + "-" + token[40:]]
        spellings += [
            token[:40] + "_" + token[40:],
            token[:40] + "%2D" + token[40:],
            token[:8] + "!" + token[8:],
        ]
        spellings += [
            token.replace("/", "_").replace("+", "-") + "%5F",
            quote(quote(token, safe=""), safe=""),
        ]
        spellings += [bare] if bare != token else [bare + "A"]
        text = json.dumps(unwrap(token)).encode()
        # Of the last character but the padding four bits mean nothing.
        padded = b64encode(text + b" " * (-len(text) % 3 + 1)).decode()
        self.assertEqual(padded[-4:], "IA==")
        self.admit("/" + padded)
        spellings.append(padded[:-4] + "IB==")
        for spelling in spellings:
            self.refused("malformed", "/" + spelling)
            self.refused("malformed", "/?token=" + spelling)
        fields = unwrap(token)
        blanks = fields["signedFields"].replace(",", ", ")
        self.refused("shape", "/" + wrap(fields | {"signedFields": blanks}))
        self.opens("/" + token)

    def test_hole_8(self) -> None:
        """Another certificate of the same authority signs no tickets, whatever is enclosed."""
        self.refused("signature", "/" + self.sign(by=(self.engine[0], self.host[1])))
        self.refused("signer", "/" + self.sign(by=self.host))
        self.assertRaises(errors.ConfigError, self.only_authority)

    def only_authority(self) -> Access:
        self.engine = (None, self.engine[1])  # type: ignore[assignment]  # no certificate but the authority's
        return self.make(engine_ca=self.authority[0])

    def test_hole_9(self) -> None:
        """A chain is verified as a chain: what a host's certificate vouches for is no engine."""
        authority, _, host = pki()
        usage = "1.3.6.1.4.1.2312.13.1.2.1.1"
        now = datetime.fromtimestamp(NOW, UTC) - timedelta(days=1)
        good, forged = (
            it.issue(
                "engine",
                now=now,
                usages=[x509.ObjectIdentifier(usage)],
                key=rsa.generate_private_key(65537, 2048),
            ).write(self.folder, name)
            for it, name in ((authority, "good"), (host, "forged"))
        )
        self.engine = (None, self.engine[1])  # type: ignore[assignment]  # no certificate but the authority's
        self.access = self.make(engine_ca=self.authority[0], eku=usage)
        self.opens("/" + self.sign(by=good))
        self.refused("signer", "/" + self.sign(by=forged))
        self.refused("signer", "/" + self.sign(by=self.host))

    def test_payload(self) -> None:
        """T5: an image's payload, another kind's, and half a payload open no console."""
        image = {"nbf": 1, "exp": 2, "imaged-uri": "https://h:1", "transfer-ticket": ID}
        for payload in (json.dumps(image), "x", "[]", data(x=1), data(port=...), data(ssl_target=...)):
            self.refused("purpose", "/" + self.sign(payload))
        for payload in (data(host="127.1"), data(host="a%00b"), data(port="70000"), data(path="/vnc")):
            self.refused("target", "/" + self.sign(payload))

    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_resplit(self, draw: st.DataObject) -> None:
        """T1: no other reading of what was signed opens anything."""
        order = draw.draw(st.sampled_from(("java", "python")))
        if order not in self.old:
            self.old[order] = unwrap(self.sign(order=order, valid=(-1000, -900)))
        token = self.old[order]
        text = self.signed(token)
        names = draw.draw(st.permutations(["salt", "validFrom", "validTo", "data"]))
        near = st.sampled_from([0, 12, 14, 26, 28, 40, len(text) - 28, len(text) - 14, len(text)])
        cuts = sorted(draw.draw(st.lists(near | st.integers(0, len(text)), min_size=3, max_size=3)))
        parts = [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        fields = token | dict(zip(names, parts, strict=True)) | {"signedFields": ",".join(names)}
        self.fails(errors.NoTicket, self.access.admit(head("/" + wrap(fields)), PEER))


class PlaceTests(Stage):
    """Where a ticket may stand."""

    def test_id(self) -> None:
        """The id of a ticket in the registry: below /console/, in the query, in a subprotocol."""
        self.put()
        for request in (
            head(f"/console/{ID}"),
            head(f"/console/{quote(ID)}".replace("-", "%2D")),
            head(f"/?token={ID}"),
            head(f"/websockify?token={ID}"),
            head("/console/", item(ID)),
            head("/console/", ("Sec-WebSocket-Protocol", "base64"), item(ID)),
        ):
            self.opens(request)

    def test_bare_path(self) -> None:
        """An id is no path of its own: only tokens are."""
        self.put()
        self.refused("missing", f"/{ID}")
        self.refused("missing", f"/x/{ID}")

    def test_missing(self) -> None:
        """Without a ticket there is nothing to be had."""
        for target in ("/console/", "/", "/websockify", "/?token=", "/?tokens=x", "/x?Token=y"):
            self.refused("missing", target)

    def test_two(self) -> None:
        """Two different tickets in one request are refused, wherever they stand, both good ones."""
        self.put()
        self.put(OTHER)
        first, second = item(ID), item(OTHER)
        for request in (
            head(f"/console/{ID}?token={OTHER}"),
            head(f"/console/{ID}", second),
            head(f"/?token={ID}", second),
            head(f"/?token={ID}&token={OTHER}"),
            head("/console/", first, second),
            head("/console/", (first[0], f"{first[1]}, {second[1]}")),
            head(f"/console/{ID}", ("Cookie", f"__Host-gwc={OTHER}"), ("Origin", PAGE)),
            head("/", ("Cookie", f"__Host-gwc={ID}; __Host-gwc={OTHER}"), ("Origin", PAGE)),
        ):
            self.refused("ambiguous", request, error=errors.BadRequest)
        self.opens(head(f"/console/{ID}?token={ID}", first))

    def test_encoding(self) -> None:
        """What is not encoded well is refused, and what is encoded twice is another ticket."""
        self.put()
        for target in ("/console/%", "/console/%4", "/console/%zz", f"/?token={ID}%"):
            self.refused("malformed", target, error=errors.BadRequest)
        twice = f"/console/{ID}".replace("-", "%252D")
        self.refused("malformed", twice)
        for value in (
            "ticket.",
            "ticket.===",
            "ticket.YQ==",
            "ticket.YR",
            "ticket.Y",
            "ticket.gIA",
            "ticket.a+b/",
        ):
            self.refused("malformed", head("/", ("Sec-WebSocket-Protocol", value)), error=errors.BadRequest)

    def test_unicode(self) -> None:
        """Bytes beyond ASCII are no ticket, and no failure of ours."""
        for target in (
            "/console/%FF",
            "/console/%C3%A9",
            "/?token=%00",
            "/eyJ%FF",
            "/console/a%00b",
            "/console/a/b",
        ):
            self.refused("malformed", target)

    def test_unprinted(self) -> None:
        """What represents an admission or an error tells no secret."""
        self.put(secret="sekret12")
        admission = self.admit()
        self.assertEqual(admission.secret, "sekret12")
        for secret in (ID, "sekret12", admission.key.hex()):
            self.assertNotIn(secret, repr(admission))
        token = self.sign()
        self.opens("/" + token)
        self.refused("used", "/" + token)
        trail = repr(self.trail)
        for secret in (ID, "sekret12", token[40:140], unwrap(token)["salt"]):
            self.assertNotIn(secret, trail)

    def test_uniform(self) -> None:
        """Unknown, expired, revoked, used up, another kind and a forged token look the same."""
        self.put("a" * 20, timeout=0)
        self.put("b" * 20)
        self.done(self.registry.revoke("b" * 20))
        self.put("c" * 20, uses=1)
        self.opens("/console/" + "c" * 20)
        self.put("d" * 20, kind="image", url="file:///x", size=1, ops=["read", "view"])
        self.put("e" * 20, peer="192.0.2.1")
        seen = {
            (error.status, error.text, tuple(error.headers), type(error))
            for error in (
                self.refused("unknown", "/console/" + "z" * 20),
                self.refused("expired", "/console/" + "a" * 20),
                self.refused("revoked", "/console/" + "b" * 20),
                self.refused("used", "/console/" + "c" * 20),
                self.refused("kind", "/console/" + "d" * 20),
                self.refused("peer", "/console/" + "e" * 20),
                self.refused("malformed", "/eyJx="),
                self.refused("missing", "/"),
            )
        }
        self.assertEqual(len(seen), 1)

    @settings(max_examples=200, deadline=None)
    @given(st.from_regex(r"/[!-~]{0,60}", fullmatch=True), st.from_regex(r"[!-~]{1,40}", fullmatch=True))
    def test_fuzz(self, target: str, protocol: str) -> None:
        """Whatever a request says, it is refused with a meaning, and nothing is installed."""
        request = head(target.replace("#", "%23"), ("Sec-WebSocket-Protocol", protocol), ("Origin", PAGE))
        self.assertIsInstance(
            self.fails(errors.GatewayError, self.access.admit(request, PEER)),
            (errors.NoTicket, errors.BadRequest),
        )
        self.assertEqual(self.done(self.registry.list()), [])


class TicketTests(Stage):
    """Tickets of the registry, and JSON web tokens."""

    def test_rights(self) -> None:
        """Control is more than view; a ticket with neither opens nothing, and its text tells no id."""
        for ops, op in ((["view"], "view"), (["control"], "control"), (["view", "control"], "control")):
            self.put(ops=ops)
            self.assertEqual(self.admit().op, op)
        self.put(ops=["read"])
        error = self.refused("forbidden", error=errors.Forbidden)
        self.assertNotIn(ID[:8], error.text)

    def test_peer(self) -> None:
        """A ticket for one address is good from there only, also when it is used."""
        self.put(peer="192.0.2.200/32")
        admission = self.admit()
        self.refused("peer", peer="192.0.2.201")
        self.refused("peer", peer=None)
        self.put(peer="192.0.2.1")
        error = self.fails(errors.NoTicket, self.access.open(admission, target="t", ended=self.ended.append))
        self.assertEqual(error.reason, "peer")

    def test_kinds(self) -> None:
        """T5: tickets of other kinds open no console."""
        self.put(kind="tunnel", url="spice://h:1", ops=["connect", "view", "control"])
        self.refused("kind")

    def test_one_time(self) -> None:
        """A ticket for one use opens one console."""
        self.put(uses=1)
        session = self.open()
        self.refused("used")
        session.close("done")
        self.refused("used")

    def test_sessions_per_ticket(self) -> None:
        """W6: a ticket has only so many consoles at a time."""
        self.put()
        opened = [self.open() for _ in range(64)]
        error = self.fails(
            errors.Unavailable, self.access.open(self.admit(), target="t", ended=self.ended.append)
        )
        self.assertEqual(error.reason, "limit")
        opened[0].close("done")
        self.open()

    def test_principal(self) -> None:
        """W6: nobody has more than so many consoles, by however many tickets; others are not touched."""
        self.access.per_principal = 3
        for number in range(4):
            self.put(f"{number}" * 20, principal="alice")
        opened = [self.open(f"/console/{number * 20}") for number in "012"]
        admission = self.admit("/console/" + "3" * 20)
        error = self.fails(
            errors.Unavailable, self.access.open(admission, target="t", ended=self.ended.append)
        )
        self.assertEqual(error.reason, "limit")
        self.put(principal="bob")
        self.open()
        opened[1].close("done")
        self.done(self.access.open(admission, target="t", ended=self.ended.append))
        self.access.per_principal = None
        self.open("/console/" + "3" * 20)

    def test_principal_unnamed(self) -> None:
        """Tickets that were given to nobody in particular do not count together."""
        self.access.per_principal = 1
        for number in "12":
            self.put(number * 20)
            self.open(f"/console/{number * 20}")

    def test_revoked(self) -> None:
        """T10: revocation ends what is open, with its reason, and lets nobody in again."""
        self.put()
        admission = self.admit()
        session = self.open()
        self.done(self.registry.revoke(ID))
        self.assertEqual((self.ended, session.closed), (["revoked"], True))
        self.fails(errors.NoTicket, self.access.open(admission, target="t", ended=self.ended.append))
        self.refused("revoked")

    def test_jwt(self) -> None:
        """A JSON web token opens what it says, for whom it says, as often as it says."""
        token = self.jwt(ops=["view", "control"], secret="s3cret")
        session = self.open(f"/console/{token}")
        self.assertEqual(session.principal, "alice")
        self.opens(f"/{token}")
        self.assertEqual(self.admit(f"/{token}").secret, "s3cret")
        once = self.jwt(uuid=OTHER, uses=1)
        self.opens(f"/{once}")
        self.refused("used", f"/{once}")

    def test_jwt_refused(self) -> None:
        """One for another kind, without an id, or with another error in its ticket, opens nothing."""
        self.refused("purpose", "/" + self.jwt(kind="image"))
        self.refused("purpose", "/" + self.jwt(kind=...))
        for change in (
            {"uuid": ...},
            {"uuid": "a b"},
            {"url": "file:///etc/passwd"},
            {"url": ...},
            {"ops": "view"},
        ):
            self.refused("shape", "/" + self.jwt(**change))
        self.refused("target", "/" + self.jwt(url="vnc+unix:///run/x.sock"), error=errors.Forbidden)
