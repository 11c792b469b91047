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


def judge(*fields: str, peer: str = "127.0.0.1") -> None:
    """Let a request to drain pass, or not."""
    lines = ["POST /drain HTTP/1.1", *fields, "", ""]
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
