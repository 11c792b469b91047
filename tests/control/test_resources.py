"""The control listener: the engine's tickets with the original's texts, sessions, and orders."""

from __future__ import annotations

import json
from typing import Any, cast

from twisted.logger import ILogObserver, LogEvent, globalLogPublisher

from gateway import errors
from gateway.control import Orders
from gateway.core.tickets import Kind, fingerprint
from tests.images.stage import HOST, ID, NOW, OTHER, PORT, Client, Reply, StageTestCase

TICKET: dict[str, Any] = {
    "uuid": ID,
    "url": f"https://{HOST}:{PORT}/images/{ID}",
    "ops": ["read"],
    "timeout": 300,
    "size": 10240,
}


def named(number: int) -> str:
    """The id of one of many tickets."""
    return f"{number:08d}-2222-4333-8444-555555555555"


class ControlTestCase(StageTestCase):
    """Helpers for the engine's side."""

    def put(self, path: str = f"/tickets/{ID}", *without: str, **members: object) -> Reply:
        ticket = {name: value for name, value in {**TICKET, **members}.items() if name not in without}
        return self.control("PUT", path, ticket)

    def get(self, ticket_id: str = ID) -> dict[str, Any]:
        reply = self.control("GET", f"/tickets/{ticket_id}")
        self.assertEqual(reply.status, 200)
        answer: dict[str, Any] = reply.json()
        return answer


class PutTests(ControlTestCase):
    """PUT /tickets/ID."""

    def test_put(self) -> None:
        """200, empty, with a length of 0; the record is the ticket with the members the engine reads."""
        reply = self.put(transfer_id="t1", filename="x", sparse=True, dirty=True, inactivity_timeout=120)
        self.assertEqual((reply.status, reply.body, reply.fields["content-length"]), (200, b"", "0"))
        record = self.get()
        expected = {
            **TICKET,
            "active": False,
            "canceled": False,
            "connections": 0,
            "expires": 300,
            "idle_time": 0,
            "inactivity_timeout": 120,
            "sparse": True,
            "dirty": True,
            "transfer_id": "t1",
            "filename": "x",
            "transferred": 0,
        }
        self.assertEqual({name: record[name] for name in expected}, expected)
        self.assertEqual((record["kind"], record["sessions"]), ("image", []))
        self.assertTrue(record["expires_at"].endswith("Z") and record["created"].endswith("Z"))

    def test_defaults(self) -> None:
        """What the engine leaves out has the original's values."""
        self.put()
        record = self.get()
        self.assertEqual(
            (record["sparse"], record["dirty"], record["inactivity_timeout"]), (False, False, 60)
        )
        self.assertEqual(record["transfer_id"], f"(ticket/{ID[:18]})")
        self.assertNotIn("filename", record)

    def test_body_counts(self) -> None:
        """The id of the body is the ticket's; that of the path only has to be there."""
        self.assertEqual(self.put("/tickets/whatever").status, 200)
        self.assertEqual(self.get()["uuid"], ID)
        self.assertEqual(self.control("GET", "/tickets/whatever").status, 404)
        reply = self.put("/tickets/", uuid=OTHER)
        self.assertEqual((reply.status, reply.text), (400, "Ticket id is required\n"))
        self.assertEqual(self.control("GET", f"/tickets/{OTHER}").status, 404)

    def test_bad(self) -> None:
        """Each mistake is a 400 with the original's text, and installs nothing."""
        for name in ("uuid", "size", "url", "timeout", "ops"):
            reply = self.put(f"/tickets/{ID}", name)
            text = f"Invalid ticket: Required ticket parameter is missing: {name}\n"
            self.assertEqual((reply.status, reply.text), (400, text))
        for members in (
            {"timeout": "invalid"},
            {"timeout": 1.5},
            {"timeout": -1},
            {"timeout": True},
            {"size": "x"},
            {"size": -1},
            {"url": 1},
            {"url": "notsupported:path"},
            {"url": "http://[1.2.3.4:33"},
            {"url": "https://user@host/images/x\r\n"},
            {"ops": "read"},
            {"ops": [1]},
            {"sparse": 1},
            {"filename": 1},
            {"uuid": "../x"},
            {"uuid": "a b"},
            {"uuid": ""},
            {"kind": "nonsense"},
            {"peer": "nonsense"},
            {"uses": 0},
        ):
            changed: dict[str, Any] = members
            reply = self.put(**changed)
            self.assertEqual(reply.status, 400, members)
            self.assertTrue(reply.text.startswith("Invalid ticket: Invalid value for "), reply.text)
            self.assertEqual(reply.fields["content-type"], "text/plain; charset=UTF-8")
        for body in (b"invalid json", b"", b"[]", b"\xff", b'{"uuid": "a", "uuid": "b"}'):
            reply = self.control("PUT", f"/tickets/{ID}", body)
            self.assertEqual(reply.status, 400)
            self.assertTrue(reply.text.startswith("Ticket is not in a json format: "), reply.text)
        self.assertEqual(self.control("GET", "/tickets/").json()["tickets"], [])

    def test_unknown_members(self) -> None:
        """Members of later engines are ignored; an empty list of rights and no time are fine."""
        self.assertEqual(self.put(later=[1, {}], ops=[], timeout=0).status, 200)

    def test_again(self) -> None:
        """PUT again replaces the record, and what it counted."""
        self.put(ops=["write"])
        self.image("PUT", b"abc")
        self.assertEqual(self.get()["transferred"], 3)
        self.pass_time(100)
        self.put(ops=["write"], size=20000)
        record = self.get()
        self.assertEqual((record["transferred"], record["size"], record["expires"]), (0, 20000, 400))
        self.assertEqual(record["idle_time"], 0)

    def test_again_after_delete(self) -> None:
        """The engine itself brings a ticket back that it had removed."""
        self.put()
        self.control("DELETE", f"/tickets/{ID}")
        self.assertEqual(self.put().status, 200)
        self.assertEqual(self.image("GET").status, 200)

    def test_secret(self) -> None:
        """A secret is never given out."""
        self.put(secret="sekret12", kind="console", url="vnc://192.0.2.9:5900", ops=["view"])
        self.assertNotIn("sekret12", repr(self.get()) + repr(self.control("GET", "/tickets/")))

    def test_short_id(self) -> None:
        """An id that can be guessed is taken, and warned of without being named."""
        events: list[LogEvent] = []
        observer = cast(ILogObserver, events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.assertEqual(self.put("/tickets/x", uuid="short-id").status, 200)
        warned = [event for event in events if "can be guessed" in (event.get("log_format") or "")]
        self.assertEqual([(it["ticket"], it["length"]) for it in warned], [(fingerprint("short-id"), 8)])
        self.put()
        self.assertEqual(len([it for it in events if "can be guessed" in (it.get("log_format") or "")]), 1)

    def test_too_long(self) -> None:
        """A ticket is no image: 64 KiB are enough."""
        self.assertEqual(self.control("PUT", f"/tickets/{ID}", b"x" * 70_000).status, 413)


class GetTests(ControlTestCase):
    """GET /tickets/ID and the list."""

    def test_unknown(self) -> None:
        """404 with the original's text; the same after DELETE."""
        for ticket_id in ("nobody", ID):
            reply = self.control("GET", f"/tickets/{ticket_id}")
            self.assertEqual((reply.status, reply.text), (404, f"No such ticket '{ticket_id}'\n"))
        self.put()
        self.control("DELETE", f"/tickets/{ID}")
        self.assertEqual(self.control("GET", f"/tickets/{ID}").status, 404)

    def test_expired(self) -> None:
        """An expired ticket is still shown."""
        self.put()
        self.pass_time(330)
        record = self.get()
        self.assertEqual((record["expires"], record["idle_time"], record["state"]), (300, 330, "expired"))

    def test_transferred(self) -> None:
        """Only where there is one right."""
        self.put(ops=["read", "write"])
        self.assertNotIn("transferred", self.get())

    def test_list(self) -> None:
        """The list shows fingerprints, in pages, filtered by kind, state and principal."""
        for number in range(7):
            self.put("/tickets/x", uuid=named(number), principal="a%b c" if number % 2 else "bob")
        self.put("/tickets/x", uuid=ID, kind="console", url="vnc://192.0.2.9:5900", ops=["view"])
        self.control("DELETE", f"/tickets/{named(0)}")
        every = self.page("")
        self.assertEqual(len(every["tickets"]), 8)
        self.assertIsNone(every["next"])
        found, after = [], ""
        while True:
            page = self.page(f"limit=3&after={after}")
            found += [it["ticket"] for it in page["tickets"]]
            after = page["next"]
            if after is None:
                break
        self.assertEqual(found, [it["ticket"] for it in every["tickets"]])
        self.assertEqual(found, sorted(fingerprint(it) for it in [ID, *map(named, range(7))]))
        self.assertEqual(len(self.page("principal=a%25b%20c")["tickets"]), 3)
        self.assertEqual(len(self.page("kind=console")["tickets"]), 1)
        self.assertEqual(
            [it["ticket"] for it in self.page("state=revoked")["tickets"]], [fingerprint(named(0))]
        )
        self.assertEqual(len(self.page("kind=image&state=issued&principal=bob")["tickets"]), 3)
        self.assertNotIn(named(1), repr(every))

    def page(self, query: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.control("GET", f"/tickets/?{query}").json()
        return answer

    def test_bad_query(self) -> None:
        """A filter that makes no sense is a 400."""
        for query in ("kind=x", "state=x", "limit=x"):
            self.assertEqual(self.control("GET", f"/tickets/?{query}").status, 400)
        self.put()
        self.assertEqual(len(self.page("limit=0")["tickets"]), 1)
        self.assertEqual(len(self.page("limit=99999999")["tickets"]), 1)


class PatchTests(ControlTestCase):
    """PATCH /tickets/ID."""

    def test_extend(self) -> None:
        """The end moves to now and so much; the timeout itself stays, and counts at the next activity."""
        self.put()
        self.pass_time(240)
        reply = self.control("PATCH", f"/tickets/{ID}", {"timeout": 1000})
        self.assertEqual((reply.status, reply.body, reply.fields["content-length"]), (200, b"", "0"))
        record = self.get()
        self.assertEqual((record["expires"], record["timeout"], record["idle_time"]), (1240, 300, 240))
        self.image("GET")
        self.assertEqual(self.get()["expires"], 540)

    def test_expired(self) -> None:
        """An expired ticket comes back; with 0 it ends at once."""
        self.put()
        self.pass_time(320)
        self.assertEqual(self.control("PATCH", f"/tickets/{ID}", {"timeout": 300}).status, 200)
        self.assertEqual(self.get()["expires"], 620)
        self.assertEqual(self.image("GET").status, 200)
        self.control("PATCH", f"/tickets/{ID}", {"timeout": 0})
        self.assertEqual(self.image("GET").status, 403)

    def test_bad(self) -> None:
        """Each mistake has its text, and changes nothing."""
        self.put()
        for body, text in {
            b"{}": "Missing required value for 'timeout'",
            b'{"not-a-timeout": 300}': "Missing required value for 'timeout'",
            b'{"timeout": "5"}': "Integer required '5'",
            b'{"timeout": true}': "Integer required 'True'",
            b'{"timeout": -1}': "Invalid value -1 < 0",
        }.items():
            reply = self.control("PATCH", f"/tickets/{ID}", body)
            self.assertEqual((reply.status, reply.text), (400, text + "\n"), body)
        reply = self.control("PATCH", f"/tickets/{ID}", b"{invalid}")
        self.assertEqual((reply.status, reply.text[:15]), (400, "Invalid patch: "))
        reply = self.control("PATCH", "/tickets/", {"timeout": 300})
        self.assertEqual((reply.status, reply.text), (400, "Ticket id is required\n"))
        reply = self.control("PATCH", "/tickets/nobody", {"timeout": 300})
        self.assertEqual((reply.status, reply.text), (404, "No such ticket: nobody\n"))
        self.assertEqual(self.get()["expires"], 300)

    def test_revoked(self) -> None:
        """What was removed is not brought back."""
        self.put()
        self.control("DELETE", f"/tickets/{ID}")
        self.assertEqual(self.control("PATCH", f"/tickets/{ID}", {"timeout": 300}).status, 404)
        self.assertEqual(self.image("GET").status, 403)


class DeleteTests(ControlTestCase):
    """DELETE /tickets/ID."""

    def test_delete(self) -> None:
        """204, known or not, as often as one likes."""
        self.put()
        for ticket_id in (ID, ID, "nobody"):
            reply = self.control("DELETE", f"/tickets/{ticket_id}")
            self.assertEqual((reply.status, reply.body, reply.fields["content-length"]), (204, b"", "0"))
        self.assertEqual(self.image("GET").status, 403)

    def test_all(self) -> None:
        """Without an id all go."""
        for number in range(5):
            self.put("/tickets/x", uuid=named(number))
        self.assertEqual(self.control("DELETE", "/tickets/").status, 204)
        for number in range(5):
            self.assertEqual(self.control("GET", f"/tickets/{named(number)}").status, 404)

    def test_by_fingerprint(self) -> None:
        """Who sees the fingerprint only can revoke all the same: this ticket, its sessions, and no other."""
        self.put()
        self.put("/tickets/x", uuid=OTHER)
        told: list[str] = []
        self.ok(self.registry.hold(ID, "read", kind=Kind.IMAGE, peer=None, ended=told.append))
        mark = fingerprint(ID)
        for wrong in ("", mark[:11], mark.upper(), ID, "0" * 12, f"{mark}/", "%00"):
            self.assertEqual(self.control("DELETE", f"/fingerprints/{wrong}").status, 404, wrong)
        self.assertEqual(self.control("GET", f"/fingerprints/{mark}").status, 405)
        self.assertEqual(told, [])
        self.assertEqual(self.control("DELETE", f"/fingerprints/{mark}").status, 204)
        self.assertEqual((told, self.image("GET").status), (["revoked"], 403))
        self.assertEqual(self.get(OTHER)["state"], "issued")
        self.assertEqual(self.control("DELETE", f"/fingerprints/{mark}").status, 404)

    def hold(self) -> Any:
        """Use the ticket, and do not let go when it is revoked."""
        self.put()
        return self.ok(self.registry.hold(ID, "read", kind=Kind.IMAGE, peer=None, ended=lambda reason: None))

    def delete(self) -> Client:
        client = self.connect(self.control_site)
        client.send(self.request("DELETE", f"/tickets/{ID}"))
        self.network.pump()
        return client

    def test_waits(self) -> None:
        """It answers when the last session is gone."""
        hold = self.hold()
        client = self.delete()
        self.pass_time(30, 1)
        self.assertIsNone(client.head)
        self.registry.release(hold)
        self.pass_time(1)
        self.assertEqual((client.head or (0,))[0], 204)

    def test_conflict(self) -> None:
        """After remove_timeout it is a 409; the ticket stays canceled, and a later DELETE succeeds."""
        self.remove_timeout = 5
        hold = self.hold()
        client = self.delete()
        self.pass_time(4.9, 0.1)
        self.assertIsNone(client.head)
        self.pass_time(0.2, 0.1)
        reply = client.take()
        text = f"Timeout cancelling transfer (ticket/{ID[:18]})\n"
        self.assertEqual(reply and (reply.status, reply.text), (409, text))
        self.assertEqual(self.image("GET").status, 403)
        self.registry.release(hold)
        self.assertEqual(self.control("DELETE", f"/tickets/{ID}").status, 204)

    def test_client_leaves(self) -> None:
        """Who does not wait for the answer leaves nothing behind."""
        hold = self.hold()
        self.delete().transport.abortConnection()
        self.network.pump()
        self.registry.release(hold)


class PathTests(ControlTestCase):
    """Everything else."""

    def test_unknown(self) -> None:
        """No resource is a 404; no method a 405; nothing of it is echoed."""
        for path in ("/no/such/resource", "/", "/images/x", "/profile/", "/%3Cscript%3E"):
            reply = self.control("GET", path)
            self.assertEqual(reply.status, 404, path)
            self.assertNotIn("script", reply.text)
        for method in ("NO_SUCH_METHO", "FOO", "POST"):
            self.assertEqual(self.control(method, "/tickets/").status, 405, method)
        self.assertEqual(self.control("GET", "/drain").status, 405)
        self.assertEqual(self.control("GET", "/reload").status, 405)
        self.assertEqual(self.control("POST", "/status").status, 405)

    def test_not_on_the_data_port(self) -> None:
        """The engine's interface is not on the data port: PUT there takes signed text only."""
        self.assertEqual(self.ask("PUT", f"/tickets/{ID}", json.dumps(TICKET).encode()).status, 403)
        for path in (f"/tickets/{ID}", "/sessions/"):
            self.assertEqual(self.ask("GET", path).status, 405)
        for path in ("/status", "/drain", "/reload"):
            self.assertEqual(self.ask("POST", path, b"").status, 404)
        self.assertEqual(self.control("GET", f"/tickets/{ID}").status, 404)

    def test_bug(self) -> None:
        """What is no answer of ours is a 500 with a number and nothing else."""

        def broken() -> dict[str, object]:
            raise RuntimeError("SECRET")

        self.orders_are(status=broken)
        reply = self.control("GET", "/status")
        self.assertEqual(reply.status, 500)
        self.assertNotIn("SECRET", reply.text)
        self.assertIn("incident", reply.text)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def orders_are(self, **changed: Any) -> None:
        """Exchange some of the orders."""
        from gateway.control import control_tree

        orders: dict[str, Any] = {"status": self.orders.status, "drain": self.drain, "reload": self.reload}
        orders |= {"recordings": self.recordings, "foresee": self.foresee, **changed}
        self.control_site.resource = control_tree(
            self.registry, self.sessions, Orders(**orders), self.clock, self.wall, lambda: 60.0
        )

    def test_policy(self) -> None:
        """A ticket is judged without being installed; one that makes no sense is refused as by PUT."""
        reply = self.control("POST", "/policy", TICKET)
        self.assertEqual(reply.json(), {"targets": [{"target": TICKET["url"]}]})
        self.assertEqual(self.control("GET", f"/tickets/{ID}").status, 404)
        wrong = {**TICKET, "url": "gopher://x"}
        reply = self.control("POST", "/policy", wrong)
        self.assertEqual((reply.status, reply.text), (400, self.put(**wrong).text))

    def test_status(self) -> None:
        """/status is what the process says of itself."""
        self.assertEqual(self.control("GET", "/status").json(), {"ready": True})

    def test_reload(self) -> None:
        """/reload says what takes a restart; a bad configuration is told whole, as problem details."""
        reply = self.control("POST", "/reload", b"")
        self.assertEqual(reply.json(), {"reloaded": True, "warnings": ["something takes a restart"]})

        async def broken() -> list[str]:
            raise errors.ConfigError(["[images] listen: not an endpoint", "[tls] key: missing"])

        self.orders_are(reload=broken)
        reply = self.control("POST", "/reload", b"")
        self.assertEqual((reply.status, reply.fields["content-type"]), (400, "application/problem+json"))
        self.assertEqual(reply.json()["problems"], ["[images] listen: not an endpoint", "[tls] key: missing"])


class SessionsTests(ControlTestCase):
    """/sessions/."""

    def setUp(self) -> None:
        super().setUp()
        for number, (kind, principal) in enumerate(
            (("image", "alice"), ("image", "bob"), ("console", "alice"))
        ):
            url = "vnc://192.0.2.9:5900" if kind == "console" else TICKET["url"]
            op = "view" if kind == "console" else "read"
            self.put("/tickets/x", uuid=named(number), kind=kind, principal=principal, url=url, ops=[op])
            opened = self.sessions.open(
                named(number),
                op,
                kind=Kind(kind),
                peer="192.0.2.1",
                target="somewhere",
                ended=lambda reason: None,
            )
            self.ok(opened)

    def clear(self) -> None:
        for session in self.sessions.list():
            session.close("over")
        super().clear()

    def test_filters(self) -> None:
        """By id or fingerprint of the ticket, by kind, by principal; and all of them together."""
        for query, count in {
            "": 3,
            f"?ticket={named(1)}": 1,
            f"?ticket={fingerprint(named(1))}": 1,
            "?ticket=nobody": 0,
            "?kind=image": 2,
            "?kind=console&principal=alice": 1,
            "?kind=console&principal=bob": 0,
            "?principal=alice": 2,
            f"?principal=alice&ticket={named(1)}": 0,
        }.items():
            found = self.control("GET", f"/sessions/{query}").json()["sessions"]
            self.assertEqual(len(found), count, query)

    def test_one(self) -> None:
        """One by its number; its members are those of the design."""
        listed = self.control("GET", "/sessions").json()["sessions"][0]
        found = self.control("GET", f"/sessions/{listed['id']}").json()
        self.assertEqual(found, listed)
        members = {
            "id",
            "kind",
            "ticket",
            "principal",
            "peer",
            "target",
            "bytes_in",
            "bytes_out",
            "since",
            "rate",
        }
        self.assertLessEqual(members, set(found))
        self.assertEqual(found["since"], "2027-01-15T08:00:00.000Z")
        self.assertEqual(NOW, 1_800_000_000)
        self.assertEqual(self.control("GET", "/sessions/nobody").status, 404)

    def test_kill(self) -> None:
        """DELETE ends one; a second time there is none."""
        number = self.control("GET", "/sessions/").json()["sessions"][0]["id"]
        self.assertEqual(self.control("DELETE", f"/sessions/{number}").status, 204)
        self.assertEqual(self.control("DELETE", f"/sessions/{number}").status, 404)
        self.assertEqual(self.control("DELETE", "/sessions/").status, 404)
        self.assertEqual(len(self.sessions), 2)

    def test_in_the_record(self) -> None:
        """The record of a ticket names its sessions."""
        listed = self.control("GET", f"/sessions/?ticket={named(0)}").json()["sessions"][0]["id"]
        self.assertEqual(self.get(named(0))["sessions"], [listed])


class RecordingsTests(ControlTestCase):
    """/recordings/."""

    async def recordings(self, after: str, most: int) -> list[dict[str, object]]:
        names = [name for name in ("a", "b", "c") if name > after]
        return [{"name": name} for name in names[:most]]

    def test_pages(self) -> None:
        """What is there, in pages."""
        page = self.control("GET", "/recordings/?limit=2").json()
        self.assertEqual(page, {"recordings": [{"name": "a"}, {"name": "b"}], "next": "b"})
        page = self.control("GET", "/recordings/?limit=2&after=b").json()
        self.assertEqual(page, {"recordings": [{"name": "c"}], "next": None})

    def test_refused(self) -> None:
        """There is nothing below, nothing can be changed, and a limit is a number."""
        self.assertEqual(self.control("GET", "/recordings/a").status, 404)
        self.assertEqual(self.control("DELETE", "/recordings/").status, 405)
        self.assertEqual(self.control("GET", "/recordings/?limit=x").status, 400)
