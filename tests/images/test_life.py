"""Transfers as the engine, operators and other transfers see them: records, ends, turns and shares."""

from __future__ import annotations

import gc
from typing import Any

from gateway.core.tickets import fingerprint
from gateway.images.service import PATIENCE
from tests.images.host import HostConnection, Seen, dies_after, silent
from tests.images.stage import HOST, ID, OTHER, PORT, Client, StageTestCase

LARGE = 4 * 1024 * 1024


class LifeTestCase(StageTestCase):
    """A large image, and clients that stop in the middle."""

    def setUp(self) -> None:
        super().setUp()
        self.host.images[ID] = bytearray(LARGE)
        self.add(size=LARGE, principal="alice")

    def download(self, peer: str = "192.0.2.1", ticket_id: str = ID) -> Client:
        """A download whose client reads nothing yet."""
        client = self.connect(peer=peer)
        client.transport.pauseProducing()
        client.send(self.request("GET", f"/images/{ticket_id}"))
        self.network.pump()
        return client

    def upload(self) -> Client:
        """An upload whose client has sent three bytes of ten."""
        return self.start("PUT", f"/images/{ID}", b"abc", content_length=10)


class EndTests(LifeTestCase):
    """T10: a ticket that ends ends what lives under it, on both sides, at once."""

    def test_revoked_download(self) -> None:
        """DELETE answers 204 when client and host are both cut."""
        client = self.download()
        host = self.host.connections[0]
        self.ok(self.registry.revoke(ID))
        self.assertTrue(client.transport.other.lost, "in the same turn")
        self.assertTrue(host.transport.lost, "in the same turn")
        self.assertEqual(self.sessions.list(), ())
        client.transport.resumeProducing()
        self.network.pump()
        self.assertIsNone(client.take())

    def test_revoked_upload(self) -> None:
        """An upload in work is told why, and its host hears no more."""
        client = self.upload()
        self.ok(self.registry.revoke(ID))
        self.assertTrue(self.host.connections[0].transport.lost, "in the same turn")
        self.network.pump()
        reply = client.take()
        assert reply is not None
        self.assertEqual((reply.status, reply.fields["connection"]), (403, "close"))
        self.assertIn("was canceled", reply.text)
        self.pass_time(1)
        self.assertIsNotNone(client.lost)
        self.assertEqual(self.host.seen[0].body, b"abc")

    def test_delete(self) -> None:
        """DELETE on the control listener answers 204 with transfers alive; what follows is refused."""
        download, upload = self.download(), self.upload()
        self.assertEqual(self.control("DELETE", f"/tickets/{ID}").status, 204)
        self.assertTrue(all(connection.gone for connection in self.host.connections))
        self.assertIsNotNone(download.lost)
        self.assertEqual((upload.head or (0,))[0], 403)
        self.assertEqual(self.image("GET").status, 403)
        self.assertEqual(
            [fields["reason"] for name, fields in self.trail if name == "session.close"], ["revoked"] * 2
        )

    def test_while_a_host_is_dialed(self) -> None:
        """A ticket revoked while its host is waited for begins nothing."""
        self.host.plans.append(silent)
        client = self.start("GET", f"/images/{ID}")
        self.ok(self.registry.revoke(ID))
        self.network.pump()
        self.assertEqual((client.head or (0,))[0], 403)
        self.assertTrue(self.host.connections[0].gone)

    def test_while_resuming(self) -> None:
        """A ticket revoked while a download is taken up again ends the attempts."""

        def vanish(connection: HostConnection, request: Seen) -> None:
            self.network.servers.clear()
            dies_after(1000)(connection, request)

        self.host.plans.append(vanish)
        client = self.start("GET", f"/images/{ID}")
        self.pass_time(2, 0.5)
        self.ok(self.registry.revoke(ID))
        self.network.pump()
        self.assertIsNotNone(client.lost)

    def test_killed(self) -> None:
        """An operator ends one session by its public id; the others and the ticket stay."""
        one, _ = self.download(), self.download()
        first = self.control("GET", "/sessions/").json()["sessions"][0]["id"]
        self.assertEqual(self.control("DELETE", f"/sessions/{first}").status, 204)
        self.assertIsNotNone(one.lost)
        self.assertEqual(len(self.sessions), 1)
        self.assertEqual(self.image("GET", range="bytes=0-0").status, 206)
        self.assertEqual(self.control("DELETE", f"/sessions/{first}").status, 404)

    def test_expiry(self) -> None:
        """What began in time ends well and renews the ticket; what begins too late is refused."""
        client = self.download()
        self.pass_time(301)
        self.assertEqual(self.image("GET").status, 403)
        client.transport.resumeProducing()
        self.network.pump()
        self.assertIsNotNone(client.take())
        self.assertEqual(self.image("GET", range="bytes=0-0").status, 206)


class RecordTests(LifeTestCase):
    """What the engine polls must not lie, for it aborts and finalizes by it."""

    def test_active(self) -> None:
        """Active while something moves; idle since it ended; connections that are open."""
        self.assertEqual((self.info()["active"], self.info()["connections"]), (False, 0))
        self.pass_time(30)
        self.assertEqual(self.info()["idle_time"], 30)
        client = self.download()
        self.pass_time(30)
        info = self.info()
        self.assertEqual((info["active"], info["idle_time"], info["connections"]), (True, 0, 1))
        client.transport.resumeProducing()
        self.network.pump()
        self.pass_time(7)
        info = self.info()
        self.assertEqual((info["active"], info["idle_time"], info["connections"]), (False, 7, 1))
        client.transport.abortConnection()
        self.network.pump()
        self.assertEqual(self.info()["connections"], 0)

    def test_one_connection(self) -> None:
        """A connection counts once, however many requests it made."""
        client = self.connect()
        client.send(self.request("GET", f"/images/{ID}", range="bytes=0-0") * 3)
        self.network.pump()
        self.assertEqual(self.info()["connections"], 1)
        self.image("GET", range="bytes=0-0")
        self.assertEqual(self.info()["connections"], 2)

    def test_extents(self) -> None:
        """Extents are no activity: not while they run, and not when they end."""
        later: list[HostConnection] = []
        self.host.plans.append(lambda connection, request: later.append(connection))
        self.start("GET", f"/images/{ID}/extents")
        self.pass_time(100)
        info = self.info()
        self.assertEqual((info["active"], info["idle_time"], len(info["sessions"])), (False, 100, 1))
        later[0].answer(200, b"[]\n")
        self.network.pump()
        self.assertEqual((self.info()["idle_time"], self.info()["expires"]), (100, 300))

    def test_extents_beside(self) -> None:
        """Beside extents, a transfer is activity all the same."""
        self.host.plans.append(silent)
        self.start("GET", f"/images/{ID}/extents")
        self.download()
        self.assertTrue(self.info()["active"])

    def test_touch(self) -> None:
        """OPTIONS and everything that ends renews the ticket, whether it ended well or not."""
        for method, body in (("OPTIONS", None), ("GET", None), ("PUT", b"a"), ("PATCH", b'{"op": "flush"}')):
            self.pass_time(200)
            self.image(method, body)
            self.assertEqual(self.info()["expires"], int(self.clock.seconds()) + 300, method)
        self.pass_time(200)
        self.assertEqual(self.image("GET", range=f"bytes={LARGE}-").status, 416)
        self.assertEqual(self.info()["idle_time"], 0)
        self.pass_time(50)
        self.add(OTHER)
        self.image("POST", b"")
        self.assertEqual(self.info()["idle_time"], 50, "a rejected request is none")

    def test_transferred(self) -> None:
        """With one right only: the union of what moved, overlaps once, in-progress counted, zeroes too."""
        self.assertNotIn("transferred", {**self.add_info(ops=["read", "write"])})
        info = self.add_info(ops=["write"])
        self.assertEqual(info["transferred"], 0)
        self.image("PUT", b"x" * 100)
        self.image("PUT", b"x" * 100, content_range="bytes 50-149/*")
        self.image("PUT", b"x" * 10, content_range="bytes 1000-1009/*")
        self.assertEqual(self.info()["transferred"], 160)
        self.image("PATCH", b'{"op": "zero", "offset": 140, "size": 20}')
        self.assertEqual(self.info()["transferred"], 170)
        self.image("GET", range="bytes=0-199")
        self.assertEqual(self.info()["transferred"], 210)
        self.start("PUT", f"/images/{ID}", b"abc", content_length=10, content_range="bytes 5000-5009/*")
        self.assertEqual(self.info()["transferred"], 213)
        self.image("GET", more="/checksum")
        self.assertEqual(self.info()["transferred"], LARGE)

    def add_info(self, **members: Any) -> dict[str, object]:
        self.add(size=LARGE, **members)
        return self.info()

    def test_sessions(self) -> None:
        """The list of sessions says who moves what from where to where, and names no id."""
        self.download(peer="192.0.2.33")
        self.upload()
        found = self.control("GET", "/sessions/").json()["sessions"]
        self.assertEqual([it["op"] for it in found], ["read", "write"])
        first, second = found
        self.assertEqual(first["ticket"], fingerprint(ID))
        self.assertEqual((first["principal"], first["peer"], first["kind"]), ("alice", "192.0.2.33", "image"))
        self.assertEqual((first["target"], first["listener"]), (f"{HOST}:{PORT}", "images"))
        self.assertGreater(first["bytes_out"], 60_000)
        self.assertEqual((second["bytes_in"], second["bytes_out"]), (3, 0))
        self.assertNotIn(ID, repr(found))

    def test_audit(self) -> None:
        """Each end of a transfer says how it ended and how much it moved."""
        self.image("PUT", b"abc")
        self.host.plans.append(dies_after(0))
        client = self.upload()
        client.transport.abortConnection()
        self.network.pump()
        ends = [fields for name, fields in self.trail if name == "session.close"]
        self.assertEqual(
            [(it["reason"], it["bytes_in"]) for it in ends], [("done", 3), ("body_cut_short", 3)]
        )


class TurnTests(LifeTestCase):
    """How many may do what at once."""

    operations = 2

    def test_readers_wait(self) -> None:
        """What is too many waits for its turn; what waits too long is a 503 that says when to come back."""
        first, second = self.download(), self.download()
        third, fourth = self.download(), self.download()
        self.assertEqual(len(self.sessions), 2)
        self.assertEqual(self.image("PUT", b"a").status, 200, "writers have turns of their own")
        first.transport.resumeProducing()
        self.network.pump()
        self.assertIsNotNone(first.take())
        self.assertEqual(len(self.sessions), 2)
        self.pass_time(PATIENCE)
        fourth.transport.resumeProducing()
        self.network.pump()
        reply = fourth.take()
        assert reply is not None
        self.assertEqual((reply.status, "retry-after" in reply.fields), (503, True))
        for client in (second, third):
            client.transport.resumeProducing()
        self.network.pump()
        self.assertIsNotNone(third.take())

    def test_host_says(self) -> None:
        """The host's own numbers count, once OPTIONS has told them."""
        self.host.more = {"max_readers": 1, "max_writers": 1}
        self.image("OPTIONS")
        self.download()
        self.download()
        self.assertEqual(len(self.sessions), 1)
        self.upload()
        self.upload()
        self.assertEqual(len(self.sessions), 2)

    def test_leaves_while_waiting(self) -> None:
        """Who leaves gives up the place, and wakes nobody."""
        self.download()
        self.download()
        third = self.download()
        third.transport.abortConnection()
        self.network.pump()
        self.assertEqual(len(self.sessions), 2)

    def test_revoked_while_waiting(self) -> None:
        """Who waits when the ticket is revoked is refused."""
        self.download()
        self.download()
        third = self.download()
        third.transport.resumeProducing()
        self.control("DELETE", f"/tickets/{ID}")
        self.assertEqual((third.head or (0,))[0], 403)
        self.assertEqual(len(self.host.seen), 2)

    def test_by_ticket(self) -> None:
        """Another ticket has turns of its own."""
        self.download()
        self.download()
        self.add(OTHER, url=f"https://{HOST}:{PORT}/images/{ID}", size=LARGE)
        self.assertEqual(self.ask("GET", f"/images/{OTHER}", range="bytes=0-0").status, 206)


class ShareTests(LifeTestCase):
    """A limit on the rate of one ticket."""

    rate = 100_000.0

    def test_download(self) -> None:
        """A download takes as long as its rate says."""
        self.host.images[ID] = bytearray(1_000_000)
        self.add(size=1_000_000)
        client = self.start("GET", f"/images/{ID}")
        self.pass_time(8, 0.1)
        self.assertIsNone(client.take())
        self.pass_time(3, 0.1)
        self.assertIsNotNone(client.take())

    def test_upload(self) -> None:
        """So does an upload, and two of them share one rate."""
        clients = [self.start("PUT", f"/images/{ID}", bytes(500_000)) for _ in range(2)]
        self.pass_time(8, 0.1)
        self.assertEqual([client.take() for client in clients], [None, None])
        self.pass_time(4, 0.1)
        self.assertEqual([client.take() is None for client in clients], [False, False])


class BoundTests(LifeTestCase):
    """Tickets for one client, or for so many uses."""

    def test_peer(self) -> None:
        """A ticket bound to a network is refused from elsewhere, before any host hears of it."""
        self.add(size=LARGE, peer="192.0.2.128/25")
        path = f"/images/{ID}"
        self.assertEqual(self.ask("GET", path, peer="192.0.2.1", range="bytes=0-0").status, 403)
        self.assertEqual(self.host.wire, [])
        self.assertEqual(self.ask("GET", path, peer="192.0.2.200", range="bytes=0-0").status, 206)

    def test_uses(self) -> None:
        """Each operation is one use; refused ones are none; the last one leaves nothing."""
        self.add(size=LARGE, uses=2, ops=["read"])
        self.assertEqual(self.image("PUT", b"x").status, 403)
        statuses = [self.image("GET", range="bytes=0-0").status for _ in range(3)]
        self.assertEqual(statuses, [206, 206, 403])

    def test_uses_at_once(self) -> None:
        """T6: fifty at once with one use are one."""
        self.add(size=LARGE, uses=1)
        clients = [self.download() for _ in range(50)]
        self.assertEqual(len(self.sessions), 1)
        for client in clients:
            client.transport.resumeProducing()
        self.network.pump()
        self.assertEqual(sorted((client.head or (0,))[0] for client in clients), [200] + [403] * 49)
        self.assertEqual(len(self.host.seen), 1)


class TraceTests(LifeTestCase):
    """What a request leaves behind in memory."""

    def test_no_cycles(self) -> None:
        """Nothing of a request waits for the garbage collector, whose pauses every transfer would feel."""
        client = self.connect()
        requests = [self.request("GET", f"/images/{ID}", range="bytes=0-99")]
        requests.append(self.request("GET", f"/images/{ID}"))
        requests.append(self.request("PUT", f"/images/{ID}", b"abc"))

        def all_of_them() -> None:
            for request in requests:
                client.send(request)
                self.network.pump()
                reply = client.take()
                assert reply is not None
                self.assertIn(reply.status, (200, 206))

        all_of_them()
        gc.disable()
        self.addCleanup(gc.enable)
        gc.collect()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            all_of_them()
            gc.collect()
            left = sorted({f"{type(it).__module__}.{type(it).__qualname__}" for it in gc.garbage})
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
        self.assertEqual([name for name in left if name.startswith("gateway.")], [])


class DrainTests(LifeTestCase):
    """Going away in good order."""

    def test_drain(self) -> None:
        """What runs may end; what comes is a 503 that says when to come back."""
        client, idle = self.download(), self.start("GET", "/info/")
        reply = self.control("POST", "/drain")
        self.assertEqual(reply.json(), {"draining": True, "sessions": 1})
        self.network.pump()
        self.assertIsNotNone(idle.lost)
        refused = self.image("GET", origin="https://engine.invalid")
        self.assertEqual((refused.status, "retry-after" in refused.fields), (503, True))
        # A page of another origin can read that.
        self.assertEqual(refused.fields["access-control-allow-origin"], "*")
        client.transport.resumeProducing()
        self.network.pump()
        done = client.take()
        assert done is not None
        self.assertEqual((done.status, len(done.body)), (200, LARGE))
