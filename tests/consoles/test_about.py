"""What a page may know about the console of its ticket."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from typing import Any

from twisted.internet.endpoints import HostnameEndpoint, connectProtocol

from tests.consoles.service_case import HOST, Page, ServiceCase
from tests.consoles.stage import ID, PAGE


class AboutTests(ServiceCase):
    """``GET /console/``."""

    async def about(self, ticket: str = ID, **fields: bytes) -> tuple[int, Any]:
        """Ask about the console of a ticket: the status, and what is said."""
        head = b"GET /console/ HTTP/1.1\r\nHost: gateway.invalid\r\nConnection: close\r\n"
        if ticket:
            fields["Authorization"] = b"Bearer " + ticket.encode("ascii")
        head += b"".join(b"%s: %s\r\n" % (name.encode(), value) for name, value in fields.items())
        endpoint = HostnameEndpoint(self.reactor, HOST, self.port)
        page: Page = await connectProtocol(endpoint, Page(head + b"\r\n"))
        await self.until(lambda: page.lost)
        return page.status, json.loads(page.heard) if page.status == 200 else bytes(page.heard)

    async def test_about(self) -> None:
        """A page learns what its ticket opens; nothing is used up by that, and nothing reached."""
        await self.put("vnc", uses=1, ops=["view"], timeout=100)
        for _ in range(3):
            status, found = await self.about(Origin=PAGE.encode())
            self.assertEqual(status, 200, found)
            left = found.pop("ends_in")
            self.assertTrue(90 < left <= 100, left)
            self.assertEqual(found, {"kind": "vnc", "op": "view", "shared": False, "record": False})
        self.assertEqual((self.reached, len(self.sessions)), ([], 0))
        await self.put("serial", shared=False, record=True)
        _, found = await self.about()
        self.assertEqual((found["kind"], found["op"], found["record"]), ("serial", "control", True))

    async def test_about_last_use(self) -> None:
        """Whose last use is a console that is up may still ask when that ends, and is told of a renewal."""
        page, _ = await self.open(uses=1, timeout=50)
        await self.registry.renew(ID, 900)
        status, found = await self.about()
        self.assertEqual((status, found["ends_in"] > 800), (200, True))
        page.transport.abortConnection()
        await self.until(lambda: not len(self.sessions))
        self.assertEqual((await self.about())[0], 403)

    async def test_about_refused(self) -> None:
        """Who shows nothing, what nobody knows, or a page that may not, learns nothing."""
        await self.put()
        for ticket, fields, status in (
            ("", {}, 403),
            ("nobody-knows-this-ticket", {}, 403),
            (ID, {"Origin": b"https://evil.invalid"}, 403),
            ("", {"Authorization": b"Basic eDp5"}, 400),
        ):
            found = await self.about(ticket, **fields)
            self.assertEqual(found[0], status, (ticket, fields, found))
            self.assertNotIn(b"raw", found[1])
        await self.put(peer="192.0.2.0/24")
        self.assertEqual((await self.about())[0], 403)
        await self.put("tcp", uses=1)
        page = await self.ask()
        await self.until(lambda: page.head)
        await self.put("tcp", uses=1, peer="192.0.2.0/24")
        self.assertEqual((await self.about())[0], 403)
        await self.registry.revoke(ID)
        self.assertEqual((await self.about())[0], 403)

    async def test_own_place(self) -> None:
        """Our pages find their consoles, whatever paths of consoles are configured."""
        self.consoles.access.prefixes = ("/elsewhere/",)
        await self.put()
        self.assertEqual((await self.about())[0], 200)
        item = urlsafe_b64encode(ID.encode()).rstrip(b"=")
        page = await self.ask("/console/", Sec_WebSocket_Protocol=b"binary, ticket." + item)
        await self.until(lambda: page.head)
        self.assertEqual(page.status, 101, page.heard)
