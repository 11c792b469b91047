"""Tests for gateway.control.pages."""

from __future__ import annotations

from typing import cast

from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.control import refuse_pages
from gateway.core.exchange import Exchange
from gateway.wire.http_head import RequestHead, parse_request


@frozen
class _Request:
    """What is looked at of an exchange."""

    head: RequestHead
    peer: str


def judge(*fields: str, peer: str = "127.0.0.1", request: str = "POST /drain") -> None:
    """Let a *request* pass, or not."""
    lines = [f"{request} HTTP/1.1", *fields, "", ""]
    refuse_pages(cast(Exchange, _Request(parse_request("\r\n".join(lines).encode("ascii")), peer)))


class PagesTests(SynchronousTestCase):
    """Programs are obeyed, pages are not."""

    def test_programs(self) -> None:
        """The engine, curl and our own command pass, by name, by address, and on the socket by any name."""
        for host in (
            "localhost",
            "localhost:54324",
            "LocalHost",
            "127.0.0.1:54324",
            "[::1]:54324",
            "192.0.2.1",
        ):
            judge(f"host: {host}")
        judge("host: anything.invalid", peer="local")

    def test_cross_site(self) -> None:
        """H8: a request that a page sent is refused, wherever the page is from."""
        for origin in ("https://evil.invalid", "http://localhost:54324", "null"):
            for peer in ("127.0.0.1", "local"):
                with self.assertRaises(errors.Forbidden):
                    judge("host: localhost", f"origin: {origin}", peer=peer)

    def test_own(self) -> None:
        """The page of this listener may end sessions and tickets, by any name of this host."""
        for host in ("localhost:54324", "127.0.0.1:54324", "[::1]:54324", "localhost:8080"):
            for peer in ("127.0.0.1", "local"):
                for request in (
                    "DELETE /sessions/0a1b2c3d4e5f",
                    "DELETE /fingerprints/0a1b2c3d4e5f",
                    "GET /ui/status.js",
                ):
                    judge(f"host: {host}", f"origin: http://{host}", peer=peer, request=request)

    def test_own_and_no_more(self) -> None:
        """It gives no other order; nor does a page of another port, scheme, or name that leads here."""
        own = ("host: localhost:54324", "origin: http://localhost:54324")
        orders = (
            "PUT /tickets/x",
            "PATCH /tickets/x",
            "DELETE /tickets/x",
            "DELETE /tickets/",
            "POST /drain",
        )
        odd = ("POST /reload", "DELETE /sessions/", "DELETE /sessions/../tickets/0a", "DELETE /sessions/0a?x")
        marks = (
            "DELETE /fingerprints/",
            "DELETE /fingerprints/0a",
            "DELETE /fingerprints/../tickets/0a1b2c3d4e",
        )
        for request in (*orders, *odd, *marks):
            with self.assertRaises(errors.Forbidden, msg=request):
                judge(*own, request=request)
        for host, origin in (
            ("localhost:54324", "http://localhost:8000"),
            ("localhost:54324", "http://localhost"),
            ("localhost:54324", "https://localhost:54324"),
            ("localhost:54324", "http://127.0.0.1:54324"),
            ("evil.invalid", "http://evil.invalid"),
        ):
            for peer in ("127.0.0.1", "local"):
                with self.assertRaises(errors.Forbidden, msg=origin):
                    judge(f"host: {host}", f"origin: {origin}", peer=peer, request="DELETE /sessions/0a")
                with self.assertRaises(errors.Forbidden, msg=origin):
                    mark = "DELETE /fingerprints/0a1b2c3d4e5f"
                    judge(f"host: {host}", f"origin: {origin}", peer=peer, request=mark)

    def test_rebinding(self) -> None:
        """H7: a name that somebody let resolve to loopback is not ours."""
        for host in (
            "evil.invalid",
            "evil.invalid:54324",
            "localhost.evil.invalid",
            "127.0.0.1.evil.invalid",
            "x",
        ):
            with self.assertRaises(errors.Misdirected):
                judge(f"host: {host}")
