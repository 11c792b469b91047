"""Pages of other origins: what they may do, and what they may read."""

from __future__ import annotations

from typing import Any

from tests.images.stage import ID, StageTestCase

PAGE = "https://engine.invalid"
#: Fields that no text of a refusal is readable without.
READABLE = "access-control-allow-origin"


class OpenTests(StageTestCase):
    """Every origin is allowed."""

    def preflight(self, path: str = f"/images/{ID}", method: str = "PUT", **more: Any) -> dict[str, str]:
        reply = self.ask("OPTIONS", path, origin=PAGE, access_control_request_method=method, **more)
        self.assertEqual((reply.status, reply.body), (204, b""))
        return dict(reply.fields)

    def test_local(self) -> None:
        """A preflight is answered here, and never asks a host; even for a ticket nobody knows."""
        for path in (f"/images/{ID}", "/images/unknown", "/sessions/", "/tickets/", "/info/"):
            self.assertEqual(self.preflight(path)["access-control-allow-origin"], "*", path)
        self.add()
        self.preflight()
        self.assertEqual((self.dialer.dialed, self.host.wire, self.sessions.list()), ([], [], ()))

    def test_methods(self) -> None:
        """OPTIONS, GET and PUT are always allowed, others when they are asked for and known."""
        self.assertEqual(self.preflight()["access-control-allow-methods"], "OPTIONS,GET,PUT")
        for method in ("PATCH", "POST", "DELETE", "HEAD"):
            allowed = self.preflight(method=method)["access-control-allow-methods"]
            self.assertEqual(allowed, f"OPTIONS,GET,PUT,{method}")
        self.assertEqual(self.preflight(method="TRACE")["access-control-allow-methods"], "OPTIONS,GET,PUT")

    def test_headers(self) -> None:
        """Authorization is named where a page wants to send it, for a wildcard does not cover it."""
        self.assertNotIn("access-control-allow-headers", self.preflight())
        fields = self.preflight(access_control_request_headers="content-range,cache-control")
        self.assertEqual(fields["access-control-allow-headers"], "*")
        named = self.preflight(access_control_request_headers="Authorization, Content-Range")
        self.assertIn("Authorization", named["access-control-allow-headers"].split(", "))
        for name in ("Content-Range", "Cache-Control", "Pragma", "Content-Type", "Session-Id", "Range"):
            self.assertIn(name, named["access-control-allow-headers"].split(", "))

    def test_age(self) -> None:
        """A preflight is good for a day."""
        self.assertEqual(self.preflight()["access-control-max-age"], "86400")

    def test_null(self) -> None:
        """A page without an origin of its own is like any other."""
        self.add()
        self.assertEqual(self.image("GET", origin="null").fields[READABLE], "*")

    def test_readable_errors(self) -> None:
        """A page can read why it was refused."""
        self.add()
        for reply in (
            self.ask("GET", "/images/unknown", origin=PAGE),
            self.image("GET", range="bytes=9-1", origin=PAGE),
            self.image("PUT", b"x", more="?flush=x", origin=PAGE),
            self.image("GET", authorization="x", origin=PAGE),
            self.image("POST", b"", origin=PAGE),
            self.ask("GET", "/images/", origin=PAGE),
        ):
            self.assertGreaterEqual(reply.status, 200)
            self.assertEqual(reply.fields[READABLE], "*", reply)
            self.assertEqual(reply.fields["vary"], "Origin")

    def test_exposed(self) -> None:
        """A page can read what it needs to go on: ranges, lengths, names, sessions."""
        self.add()
        exposed = self.image("GET", origin=PAGE).fields["access-control-expose-headers"].split(", ")
        for name in ("Content-Range", "Content-Length", "Content-Disposition", "Range", "Session-Id"):
            self.assertIn(name, exposed)

    def test_no_credentials(self) -> None:
        """A wildcard never comes with credentials."""
        self.assertNotIn("access-control-allow-credentials", self.preflight())

    def test_no_origin(self) -> None:
        """Who is no page gets nothing of this but Vary."""
        self.add()
        fields = self.image("GET").fields
        self.assertEqual([name for name in fields if name.startswith("access-control")], [])
        self.assertEqual(fields["vary"], "Origin")


class ListTests(StageTestCase):
    """Some origins are allowed."""

    cors = (PAGE, "https://other.invalid")

    def test_allowed(self) -> None:
        """An origin on the list is named in the answer."""
        self.add()
        self.assertEqual(self.image("GET", origin=PAGE).fields[READABLE], PAGE)

    def test_denied(self) -> None:
        """Another one gets no permission, neither in a preflight nor in the answer."""
        self.add()
        for origin in ("https://evil.invalid", f"{PAGE}.evil.invalid", "null", "http://engine.invalid", "*"):
            reply = self.image("OPTIONS", origin=origin, access_control_request_method="PUT")
            self.assertEqual([name for name in reply.fields if name.startswith("access-control")], [], origin)
            self.assertEqual(reply.fields["vary"], "Origin")
            self.assertNotIn(READABLE, self.image("GET", origin=origin).fields)

    def test_named_headers(self) -> None:
        """With a list the fields are named, never a wildcard."""
        reply = self.image(
            "OPTIONS",
            origin=PAGE,
            access_control_request_method="PUT",
            access_control_request_headers="content-range",
        )
        self.assertIn("Content-Range", reply.fields["access-control-allow-headers"])
