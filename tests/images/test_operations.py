"""The operations of the 2.x API: every status, text and field of them."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from gateway.images.operations import SEGMENT
from tests.images.host import HostConnection, Seen, raw, say
from tests.images.stage import HOST, ID, PORT, Reply, StageTestCase

IMAGE = bytes(range(256)) * 40


class GetTests(StageTestCase):
    """GET and HEAD."""

    def get(self, value: str | None = None, more: str = "", **fields: Any) -> Reply:
        wanted: dict[str, Any] = {} if value is None else {"range": value}
        return self.image("GET", more=more, **wanted, **fields)

    def test_whole(self) -> None:
        """Without a range the whole image comes, with what a client has to know of it."""
        self.add(filename="\u05d0.raw")
        reply = self.get()
        self.assertEqual((reply.status, reply.body), (200, IMAGE))
        self.assertEqual(reply.fields["content-type"], "application/octet-stream")
        self.assertEqual(
            reply.fields["content-disposition"].encode("latin-1"), b"attachment; filename=\xd7\x90.raw"
        )
        self.assertEqual(reply.fields["cache-control"], "no-cache, no-store")
        self.assertNotIn("connection", reply.fields)

    def test_host_filename(self) -> None:
        """Where the ticket has no name that of the host is used, made safe; the ticket's own counts more."""
        self.host.name = 'attachment; filename=../a"b'
        self.add()
        self.assertEqual(
            self.get().fields["content-disposition"], "attachment; filename=\"_a'b\"; filename*=UTF-8''_a%22b"
        )
        self.add(filename="mine")
        self.assertEqual(self.get().fields["content-disposition"], "attachment; filename=mine")

    def test_filename_injection(self) -> None:
        """H2: a name with line ends stays one field."""
        self.add(filename="a\r\nset-cookie: b=c")
        self.assertNotIn("set-cookie", self.get().fields)

    def test_part(self) -> None:
        """A range comes as 206, with the ticket's size as the total."""
        self.add()
        for value, start, stop in (
            ("bytes=0-0", 0, 1),
            ("bytes=100-199", 100, 200),
            ("bytes=10239-10239", 10239, 10240),
            ("bytes=10000-", 10000, 10240),
            ("bytes=-5", 10235, 10240),
            ("bytes=-99999", 0, 10240),
        ):
            reply = self.get(value)
            self.assertEqual((reply.status, reply.body), (206, IMAGE[start:stop]), value)
            self.assertEqual(reply.fields["content-range"], f"bytes {start}-{stop - 1}/10240")

    def test_bad_range(self) -> None:
        """A range that is malformed or not there is a 416, and is never ignored."""
        self.add()
        for value in (
            "bytes=5-1",
            "bytes=",
            "bytes=a-b",
            "bytes=0-1,4-5",
            "Bytes=0-1",
            "bytes = 0-1",
            "bytes=--1",
            "octets=0-1",
            "bytes=1-2 ",
        ):
            reply = self.get(value)
            self.assertEqual(reply.status, 416 if value != "bytes=1-2 " else 206, value)
        self.assertEqual(self.host.said, [f"GET /images/{ID}"])

    def test_beyond_ticket(self) -> None:
        """What lies beyond the ticket is a 416 with the size it has, and no host is asked."""
        self.add(size=5000)
        for value in ("bytes=0-5000", "bytes=5000-", "bytes=9999-10000", "bytes=-0"):
            reply = self.get(value)
            self.assertEqual(reply.status, 416, value)
            if value != "bytes=-0":
                self.assertEqual(reply.fields["content-range"], "bytes */5000", value)
                self.assertEqual(self.host.seen, [])

    def test_beyond_image(self) -> None:
        """Where the ticket is larger than the image, the image's own size is told."""
        self.add(size=20480)
        reply = self.get("bytes=10000-10240")
        self.assertEqual((reply.status, reply.fields["content-range"]), (416, "bytes */10240"))
        reply = self.get("bytes=10240-")
        self.assertEqual((reply.status, reply.fields["content-range"]), (416, "bytes */10240"))

    def test_larger_ticket(self) -> None:
        """A ticket larger than the image gives the image."""
        self.add(size=20480)
        reply = self.get()
        self.assertEqual((reply.status, reply.body), (200, IMAGE))
        self.assertEqual(self.get("bytes=10000-").body, IMAGE[10000:])

    def test_smaller_ticket(self) -> None:
        """A ticket smaller than the image gives its own size and not one byte more."""
        self.add(size=1000)
        reply = self.get()
        self.assertEqual((reply.status, reply.body), (200, IMAGE[:1000]))
        self.assertNotIn("content-range", reply.fields)
        reply = self.get("bytes=900-")
        self.assertEqual((reply.status, reply.body), (206, IMAGE[900:1000]))
        self.assertEqual(self.get("bytes=-10").body, IMAGE[990:1000])
        self.add(size=0)
        self.assertEqual((self.get().status, self.get().body), (200, b""))

    def test_never_beyond(self) -> None:
        """R3: a host that ignores ranges cannot make us send more than the ticket covers."""
        self.add(size=1000)
        self.host.plans += [say(200, IMAGE), say(200, IMAGE)]
        self.assertEqual(self.get("bytes=5-9").status, 502)
        self.host.plans += [say(200, IMAGE), say(200, IMAGE)]
        self.assertEqual(self.get().status, 502)
        self.host.plans += [say(200, IMAGE)]
        reply = self.get("bytes=5-9", if_range='"old"')
        self.assertEqual((reply.status, reply.body), (200, IMAGE[:1000]))

    def test_part_for_whole(self) -> None:
        """R8: a host whose own ticket covers less cannot make a part pass for the whole."""
        self.add()
        extents = json.dumps([{"start": 0, "length": 10240, "zero": False}])
        self.host.plans += [say(200, IMAGE[:100]), say(200, extents.encode())]
        reply = self.get()
        self.assertEqual((reply.status, reply.fields["content-range"]), (416, "bytes */100"))

    def test_described_in_pieces(self) -> None:
        """The same when the list of extents comes byte by byte, or is no list at all."""
        self.add()

        def dribble(connection: HostConnection, request: Seen) -> None:
            end = connection.transport
            extents = b'[{"start": 0, "length": 10240, "zero": false, "hole": false}]\n\n\n\n'
            connection.answer(200, b"", len(extents))
            for byte in extents:
                end.write(bytes([byte]))
                while end.move():
                    pass

        self.host.plans += [say(200, IMAGE[:100]), dribble]
        self.assertEqual(self.get().status, 416)
        self.host.plans += [say(200, IMAGE[:100]), say(200, b"}{")]
        reply = self.get()
        self.assertEqual((reply.status, len(reply.body)), (200, 100))

    def test_if_range(self) -> None:
        """If-Range goes on to the host with the range, and validators come back."""
        self.add()
        self.host.plans.append(say(206, b"ab", etag='"1"', content_range="bytes 0-1/10240"))
        reply = self.get("bytes=0-1", if_range='"1"')
        self.assertEqual(self.host.seen[0].fields["if-range"], '"1"')
        self.assertEqual((reply.status, reply.fields["etag"]), (206, '"1"'))

    def test_head(self) -> None:
        """HEAD is answered as GET would be, and is not sent on: the daemon answers it with a body."""
        self.add(size=1000, filename="x")
        reply = self.image("HEAD")
        self.assertEqual((reply.status, reply.fields["content-length"]), (200, "1000"))
        self.assertEqual(reply.fields["content-disposition"], "attachment; filename=x")
        self.assertEqual([seen.method for seen in self.host.seen], ["GET"])
        self.assertTrue(self.host.connections[0].gone)

    def test_close(self) -> None:
        """close=y ends the connection after the answer; anything else does not."""
        self.add()
        self.assertEqual(self.get(more="?close=y").fields["connection"], "close")
        for query in ("?close=n", "?close=", "?close=maybe", "?close=y&close=n"):
            self.assertNotIn("connection", self.get(more=query).fields, query)

    def test_missing_id(self) -> None:
        """An empty id is a 400."""
        for path in ("/images/", "/images//extents", "/images//checksum"):
            reply = self.ask("GET", path)
            self.assertEqual((reply.status, reply.text), (400, "Ticket id is required\n"), path)

    def test_rights(self) -> None:
        """A ticket to read does not write; one to write reads, too."""
        self.add(ops=["read"], transfer_id="t1")
        reply = self.image("PUT", b"x")
        text = "You are not allowed to access this resource: Transfer=t1 forbids write\n"
        self.assertEqual((reply.status, reply.text, reply.fields["connection"]), (403, text, "close"))
        self.assertEqual(self.image("PATCH", b'{"op": "flush"}').status, 403)
        self.add(ops=["write"])
        self.assertEqual(self.get().status, 200)
        self.assertEqual([seen.method for seen in self.host.seen], ["GET"])

    def test_methods(self) -> None:
        """What the API does not know is a 405 that names what it does."""
        self.add()
        for method in ("POST", "DELETE", "TRACE", "get"):
            self.assertEqual(self.image(method, b"").status, 405)
        self.assertEqual(self.image("POST", b"").fields["allow"], "OPTIONS,GET,HEAD,PUT,PATCH")

    def test_no_body_sent_on(self) -> None:
        """H1: the body of a GET stays here, and is not the host's next request."""
        self.add()
        client = self.connect()
        smuggled = b"DELETE /images/x HTTP/1.1\r\nhost: a\r\n\r\n"
        client.send(self.request("GET", f"/images/{ID}", smuggled) + self.request("GET", f"/images/{ID}"))
        self.network.pump()
        self.assertEqual([client.take() is not None for _ in range(2)], [True, True])
        self.assertEqual(self.host.said, [f"GET /images/{ID}"] * 2)


class PutTests(StageTestCase):
    """PUT."""

    def put(self, body: bytes | None, more: str = "", **fields: Any) -> Reply:
        return self.image("PUT", body, more=more, **fields)

    def test_places(self) -> None:
        """The first position of Content-Range says where; without one it is the beginning."""
        self.add()
        for value, start in {
            None: 0,
            "bytes 5-7/*": 5,
            "bytes 10-12/10240": 10,
            "bytes 20-*/*": 20,
            "bytes 10237-10239/10240": 10237,
        }.items():
            self.host.images[ID][:] = bytes(10240)
            reply = self.put(b"abc", **({} if value is None else {"content_range": value}))
            self.assertEqual((reply.status, reply.body), (200, b""), value)
            self.assertEqual(self.host.images[ID], bytes(start) + b"abc" + bytes(10237 - start), value)

    def test_exact(self) -> None:
        """The host gets exact framing: Content-Length and the range of these very bytes."""
        self.add()
        self.put(b"abc", content_range="bytes 5-*/*")
        fields = self.host.seen[0].fields
        self.assertEqual((fields["content-length"], fields["content-range"]), ("3", "bytes 5-7/*"))
        self.assertNotIn("transfer-encoding", fields)

    def test_bad_places(self) -> None:
        """A Content-Range that cannot be is a 400, whatever the ticket."""
        self.add()
        for value in (
            "bytes 5-3/*",
            "bytes 5-7/7",
            "bytes *-7/*",
            "bytes -5-7/*",
            "bytes 5-7",
            "5-7/*",
            "bytes=5-7/*",
        ):
            self.assertEqual(self.put(b"abc", content_range=value).status, 400, value)
        self.assertEqual(self.host.seen, [])

    def test_beyond(self) -> None:
        """R3: not a byte is written beyond the ticket."""
        self.add(size=1000)
        for value, body in (
            ("bytes 998-1000/*", b"abc"),
            ("bytes 0-0/*", bytes(1001)),
            ("bytes 18446744073709551615-*/*", b"a"),
        ):
            reply = self.put(body, content_range=value)
            self.assertEqual((reply.status, reply.fields["content-range"]), (416, "bytes */1000"), value)
            self.assertEqual(reply.text, "Requested range out of allowed range\n")
        self.assertEqual(self.host.wire, [])
        self.assertEqual(self.put(bytes(1000)).status, 200)

    def test_flush(self) -> None:
        """flush=n is passed on, y is the default, anything else a 400."""
        self.add()
        for query, target in {
            "": "",
            "?flush=y": "",
            "?flush=n": "?flush=n",
            "?flush=y&flush=n": "?flush=n",
        }.items():
            self.assertEqual(self.put(b"a", query).status, 200)
            self.assertEqual(self.host.seen[-1].target, f"/images/{ID}{target}")
        reply = self.put(b"a", "?flush=maybe")
        self.assertEqual(
            (reply.status, reply.text),
            (400, "Unsupported value 'maybe' for 'flush', expecting one of ['y', 'n']\n"),
        )

    def test_query_stays(self) -> None:
        """Nothing else of the query is passed on."""
        self.add()
        self.put(b"a", "?close=y&evil=1&flush=n")
        self.assertEqual(self.host.seen[-1].target, f"/images/{ID}?flush=n")

    def test_empty(self) -> None:
        """Length 0 is accepted."""
        self.add()
        self.assertEqual(self.put(b"").status, 200)
        self.assertEqual(self.put(b"", content_range="bytes 5-*/*").status, 200)
        self.assertEqual(self.host.images[ID], IMAGE)

    def test_no_length(self) -> None:
        """A length is required."""
        self.add()
        reply = self.put(None)
        self.assertEqual((reply.status, reply.text), (400, "Content-Length header is required\n"))

    def test_chunked(self) -> None:
        """Chunks become PUTs of bounded size, in their places, and one flush at the end."""
        self.host.images[ID] = bytearray(3 * SEGMENT)
        self.add(size=3 * SEGMENT)
        body = bytes(range(1, 201)) * (2 * SEGMENT // 200 + 7)
        chunks = b"".join(
            b"%x\r\n%s\r\n" % (len(body[at : at + 70_001]), body[at : at + 70_001])
            for at in range(0, len(body), 70_001)
        )
        reply = self.put(chunks + b"0\r\n\r\n", transfer_encoding="chunked", content_range="bytes 5-*/*")
        self.assertEqual(reply.status, 200)
        self.assertEqual(bytes(self.host.images[ID][5 : 5 + len(body)]), body)
        puts, last = self.host.seen[:-1], self.host.seen[-1]
        self.assertEqual([put.method for put in puts], ["PUT"] * 3)
        self.assertEqual([len(put.body) for put in puts], [SEGMENT, SEGMENT, len(body) - 2 * SEGMENT])
        at = 5
        for put in puts:
            self.assertEqual(put.fields["content-range"], f"bytes {at}-{at + len(put.body) - 1}/*")
            self.assertEqual(put.target, f"/images/{ID}?flush=n")
            self.assertNotIn("transfer-encoding", put.fields)
            at += len(put.body)
        self.assertEqual((last.method, json.loads(last.body)), ("PATCH", {"op": "flush"}))

    def test_chunked_without_flush(self) -> None:
        """With flush=n there is none; an empty upload writes nothing."""
        self.add()
        self.put(b"1\r\na\r\n0\r\n\r\n", "?flush=n", transfer_encoding="chunked")
        self.assertEqual([seen.method for seen in self.host.seen], ["PUT"])
        self.assertEqual(self.put(b"0\r\n\r\n", "?flush=n", transfer_encoding="chunked").status, 200)
        self.assertEqual(len(self.host.seen), 1)

    def test_chunked_too_long(self) -> None:
        """Chunks beyond the ticket are a 416, and nothing beyond it reaches the host."""
        self.add(size=1000)
        body = b"3e9\r\n" + bytes(1001) + b"\r\n0\r\n\r\n"
        self.assertEqual(self.put(body, transfer_encoding="chunked").status, 416)
        self.assertEqual(self.host.wire, [])

    def test_continue(self) -> None:
        """100 Continue is sent when the host is reached and the ticket is good, not before."""
        self.add()
        reply = self.ask("PUT", "/images/unknown", None, content_length=3, expect="100-continue")
        self.assertEqual(reply.status, 403)
        client = self.start("PUT", f"/images/{ID}", None, content_length=3, expect="100-continue")
        self.assertEqual(bytes(client.got), b"HTTP/1.1 100 Continue\r\n\r\n")
        client.send(b"abc")
        self.network.pump()
        reply2 = client.take()
        self.assertEqual(reply2 and reply2.status, 200)


class PatchTests(StageTestCase):
    """PATCH."""

    def send(self, value: object, ticket_id: str = ID) -> Reply:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        return self.ask("PATCH", f"/images/{ticket_id}", body)

    def test_zero(self) -> None:
        """A range reads as zeroes afterwards; the host gets all four words."""
        self.add()
        self.assertEqual(self.send({"op": "zero", "offset": 5, "size": 10, "flush": True}).status, 200)
        self.assertEqual(self.host.images[ID][:16], IMAGE[:5] + bytes(10) + IMAGE[15:16])
        self.assertEqual(
            json.loads(self.host.seen[0].body), {"op": "zero", "offset": 5, "size": 10, "flush": True}
        )
        self.send({"op": "zero", "size": 0, "unknown": 1})
        self.assertEqual(
            json.loads(self.host.seen[1].body), {"op": "zero", "offset": 0, "size": 0, "flush": False}
        )

    def test_flush(self) -> None:
        """A flush is a flush."""
        self.add()
        reply = self.send({"op": "flush"})
        self.assertEqual((reply.status, reply.body), (200, b""))
        self.assertEqual(json.loads(self.host.seen[0].body), {"op": "flush"})

    def test_beyond(self) -> None:
        """R3: nothing beyond the ticket is zeroed."""
        self.add(size=1000)
        for patch in (
            {"op": "zero", "offset": 1, "size": 1000},
            {"op": "zero", "offset": 2**63, "size": 2**63},
        ):
            reply = self.send(patch)
            self.assertEqual((reply.status, reply.fields["content-range"]), (416, "bytes */1000"))
        self.assertEqual(self.host.wire, [])

    def test_texts(self) -> None:
        """Each mistake has the original's text; it comes first, even when nobody knows the ticket."""
        self.add()
        texts = {
            b'{"op": "zero"}': "Missing required value for 'size'",
            b"{}": "Missing required value for 'op'",
            b'{"op": "zero", "size": "5"}': "Integer required '5'",
            b'{"op": "zero", "size": 1.5}': "Integer required '1.5'",
            b'{"op": "zero", "size": true}': "Integer required 'True'",
            b'{"op": "zero", "size": -1}': "Invalid value -1 < 0",
            b'{"op": "zero", "size": 1, "offset": -1}': "Invalid value -1 < 0",
            b'{"op": "zero", "size": 1, "offset": "a"}': "Integer required 'a'",
            b'{"op": "zero", "size": 1, "flush": 1}': "Boolean required '1'",
            b'{"op": "x"}': "Unsupported value 'x' for 'op', expecting one of ['flush', 'zero']",
        }
        for body, text in texts.items():
            for ticket_id in (ID, "unknown"):
                reply = self.send(body, ticket_id)
                self.assertEqual((reply.status, reply.text), (400, text + "\n"), body)
        for body in (b"", b"[]", b"{", b"\xff", b'{"op": "zero", "op": "flush"}'):
            reply = self.send(body)
            self.assertEqual(reply.status, 400)
            self.assertTrue(reply.text.startswith("Invalid patch: "), reply.text)
        self.assertEqual(self.send(b'{"op": "flush", "x": "' + b"x" * 70_000 + b'"}').status, 413)
        self.assertEqual(self.send({"op": "flush"}, "unknown").status, 403)
        self.assertEqual(self.host.wire, [])


class OptionsTests(StageTestCase):
    """OPTIONS."""

    def test_all(self) -> None:
        """What the gateway can do at all needs no ticket and no host."""
        reply = self.ask("OPTIONS", "/images/*")
        self.assertEqual(reply.json(), {"features": ["checksum", "extents", "flush", "zero"]})
        self.assertEqual((reply.status, reply.fields["allow"]), (200, "OPTIONS,GET,PUT,PATCH"))
        self.assertTrue(reply.body.endswith(b"\n"))

    def test_intersection(self) -> None:
        """A client is told what both can do, in the host's measure."""
        self.add()
        self.host.features = ("zero", "flush", "dance")
        self.host.more = {"max_readers": 3, "max_writers": 2}
        reply = self.image("OPTIONS")
        self.assertEqual(reply.json(), {"features": ["flush", "zero"], "max_readers": 3, "max_writers": 2})
        self.assertEqual(reply.fields["allow"], "OPTIONS,GET,PUT,PATCH")

    def test_no_way_around(self) -> None:
        """unix_socket is never passed on: clients would go around the gateway."""
        self.add()
        self.host.more = {"unix_socket": "\0/org/ovirt/imageio", "token": "x"}
        self.assertEqual(
            self.image("OPTIONS").json(),
            {"features": ["checksum", "extents", "flush", "zero"], "max_readers": 1, "max_writers": 1},
        )

    def test_read_only(self) -> None:
        """A ticket to read offers nothing that writes."""
        self.add(ops=["read"])
        reply = self.image("OPTIONS")
        self.assertEqual(
            (reply.json()["features"], reply.fields["allow"]), (["checksum", "extents"], "OPTIONS,GET")
        )

    def test_old_hosts(self) -> None:
        """405 and 204 mean: get and put, and no features. Nonsense means no features."""
        self.add()
        for plan in (say(405, b"no"), say(204), raw(b"HTTP/1.1 204 No Content\r\n\r\n")):
            self.host.plans.append(plan)
            reply = self.image("OPTIONS")
            self.assertEqual(reply.json(), {"features": [], "max_readers": 1, "max_writers": 1})
            self.assertEqual((reply.status, reply.fields["allow"]), (200, "OPTIONS,GET,PUT"))
        for body in (b"hello", b"[]", b'{"features": "all", "max_readers": true, "max_writers": -1}'):
            self.host.plans.append(say(200, body))
            self.assertEqual(
                self.image("OPTIONS").json(), {"features": [], "max_readers": 1, "max_writers": 1}
            )

    def test_refused(self) -> None:
        """What the host says against it is passed on; so is nothing without a ticket."""
        self.add()
        self.host.plans.append(say(403, b"No such ticket\n"))
        self.assertEqual((self.image("OPTIONS").status, self.ask("OPTIONS", "/images/x").status), (403, 403))


class LocalSocketTests(StageTestCase):
    """A host on our own machine that offers a socket."""

    def setUp(self) -> None:
        super().setUp()
        self.dialer.own = HOST
        self.host.more = {"unix_socket": "\0org/imageio"}
        self.add()

    def test_used(self) -> None:
        """It is used from then on, as the original proxy does."""
        self.network.servers["\0org/imageio"] = self.host
        self.image("OPTIONS")
        self.image("GET")
        self.image("GET")
        self.assertEqual(self.dialer.dialed, [(HOST, PORT), "\0org/imageio"])

    def test_gone(self) -> None:
        """When it is gone, the way by which we learned of it still leads to the image."""
        self.network.servers["\0org/imageio"] = self.host
        self.image("OPTIONS")
        self.assertEqual(self.image("GET").status, 200)
        del self.network.servers["\0org/imageio"]
        self.pool.close()
        self.network.pump()
        self.assertEqual(self.image("GET").status, 200)
        self.assertEqual(self.image("PUT", body=b"x" * 10).status, 200)
        self.assertEqual(self.dialer.dialed[-1], (HOST, PORT))

    def test_out_of_reach(self) -> None:
        """One that we may not use changes nothing."""
        self.assertEqual(self.image("OPTIONS").status, 200)
        self.assertEqual(self.image("GET").status, 200)

    def test_elsewhere(self) -> None:
        """R1: a host on another machine names no socket of ours."""
        self.dialer.own = "192.0.2.9"
        self.image("OPTIONS")
        self.image("GET")
        self.assertEqual(set(self.dialer.dialed), {(HOST, PORT)})


class DescriptionTests(StageTestCase):
    """Extents and checksums."""

    def test_extents(self) -> None:
        """The host's own list is passed on as it is, however long it takes to come."""
        self.add()
        body = b'[{"start":0,"length":10240,"zero":true,"hole":true}]\n'
        later: list[HostConnection] = []
        self.host.plans.append(lambda connection, request: later.append(connection))
        client = self.start("GET", f"/images/{ID}/extents?context=zero&evil=1")
        self.pass_time(3600)
        later[0].answer(200, body)
        self.network.pump()
        reply = client.take()
        assert reply is not None
        self.assertEqual(
            (reply.status, reply.body, reply.fields["content-type"]), (200, body, "application/json")
        )
        self.assertEqual(self.host.said, [f"GET /images/{ID}/extents?context=zero"])

    def test_chunked_answer(self) -> None:
        """A list whose length the host does not say ends with the connection."""
        self.add()
        self.host.plans.append(
            raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n[]\r\n1\r\n\n\r\n0\r\n\r\n")
        )
        reply = self.image("GET", more="/extents")
        self.assertEqual((reply.body, reply.fields["connection"]), (b"[]\n", "close"))

    def test_dirty(self) -> None:
        """Dirty extents need a ticket that says so."""
        self.add()
        reply = self.image("GET", more="/extents?context=dirty")
        self.assertEqual((reply.status, reply.text), (404, "Ticket does not support dirty extents\n"))
        self.add(dirty=True)
        self.assertEqual(self.image("GET", more="/extents?context=dirty").status, 200)
        self.assertEqual(self.host.said, [f"GET /images/{ID}/extents?context=dirty"])

    def test_context(self) -> None:
        """H1: a context cannot break out of the path that is sent on."""
        self.add()
        for value in ("a%20HTTP/1.1%0d%0a", "zero%26x=1", "%00", "x" * 65, ""):
            self.assertEqual(self.image("GET", more=f"/extents?context={value}").status, 400, value)
        self.assertEqual(self.host.seen, [])

    def test_checksum(self) -> None:
        """The algorithm and the size of blocks are passed on, with the original's defaults."""
        self.add()
        self.assertEqual(self.image("GET", more="/checksum").status, 200)
        self.image("GET", more="/checksum?algorithm=sha256&block_size=1048576")
        self.assertEqual(
            self.host.said,
            [
                f"GET /images/{ID}/checksum?algorithm=blake2b&block_size=4194304",
                f"GET /images/{ID}/checksum?algorithm=sha256&block_size=1048576",
            ],
        )

    def test_bad_checksum(self) -> None:
        """Sizes of blocks are 1 to 16 MiB and whole pages; names hold nothing odd."""
        self.add()
        for query in (
            "block_size=1048575",
            "block_size=1048577",
            "block_size=16781312",
            "block_size=abc",
            "block_size=-4194304",
            "block_size=%D9%A1",
            "algorithm=a%20b",
            "algorithm=",
        ):
            self.assertEqual(self.image("GET", more=f"/checksum?{query}").status, 400, query)
        self.assertEqual(self.host.seen, [])

    def test_algorithms(self) -> None:
        """The names of all algorithms need no ticket; they are those that the daemon names."""
        reply = self.ask("GET", "/images/anything/checksum/algorithms")
        names = reply.json()["algorithms"]
        self.assertEqual(names, sorted(hashlib.algorithms_available))

    def test_get_only(self) -> None:
        """Nothing of this can be written."""
        self.add()
        for path in ("/extents", "/checksum", "/checksum/algorithms"):
            self.assertEqual(self.image("PUT", b"x", more=path).status, 405)


class PathTests(StageTestCase):
    """R2: the host sees the path of the ticket, whatever the client wrote."""

    def test_variants(self) -> None:
        """No spelling of a path reaches any other path of the host."""
        self.add()
        for path in (
            f"/images/{ID}/../{ID}",
            f"/images/../images/{ID}",
            f"/images//{ID}",
            f"//images/{ID}",
            f"/images/{ID}/",
            f"/images/{ID}/foo",
            f"/images/{ID}%2f..%2ftickets",
            f"/images/..%2f..%2ftickets%2f{ID}",
            f"/images/{ID};x=1",
            f"/images/{ID}%00",
            f"/images/{ID}%0d%0aGET%20/",
            f"/images/{ID.upper()}%20",
            f"/images/%2e%2e/{ID}",
            "/images/" + "%252e" * 20,
            "/images/%ff%fe",
        ):
            self.assertIn(self.ask("GET", path).status, (403, 404), path)
        self.assertEqual(self.host.wire, [])

    def test_encoded_id(self) -> None:
        """An id that is percent-encoded without need is the same id, sent on as the ticket has it."""
        self.add()
        encoded = "".join(f"%{ord(letter):02x}" for letter in ID)
        self.assertEqual(self.ask("GET", f"/images/{encoded}").status, 200)
        self.assertEqual(self.host.said, [f"GET /images/{ID}"])

    def test_own_path(self) -> None:
        """The path is that of the ticket's url, even where it differs from the id."""
        self.host.images["elsewhere"] = bytearray(b"abc")
        self.add(url=f"https://{HOST}:{PORT}/images/elsewhere?x=1", size=3)
        self.assertEqual(self.image("GET").body, b"abc")
        self.assertEqual(self.host.said, ["GET /images/elsewhere"])

    def test_prefix(self) -> None:
        """Routes are prefixes, as in the original."""
        self.add()
        self.assertEqual(self.image("GET", more="/extentsXYZ").status, 200)
        self.assertEqual(self.host.said, [f"GET /images/{ID}/extents?context=zero"])

    def test_elsewhere(self) -> None:
        """What is no route is a 404."""
        for path in ("/", "/image/x", "/tickets", "/infoX", "/favicon.ico"):
            self.assertEqual(self.ask("GET", path).status, 404, path)
