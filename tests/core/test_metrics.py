"""Tests for gateway.core.metrics."""

from __future__ import annotations

import json

from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import IResource
from twisted.web.test.requesthelper import DummyRequest

from gateway.core.metrics import HealthPage, LoopLag, Metrics, MetricsPage, ReadyPage


def get(page: IResource) -> tuple[int, bytes]:
    request = DummyRequest([b""])
    body = page.render(request)
    return request.responseCode or 200, body


class MetricsTests(SynchronousTestCase):
    """One registry, few series."""

    def setUp(self) -> None:
        self.metrics = Metrics(started=1_700_000_000.0)

    def samples(self) -> dict[tuple[str, tuple[str, ...]], float]:
        text = get(MetricsPage(self.metrics))[1].decode()
        return {
            (sample.name, tuple(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def test_names(self) -> None:
        """Every metric that concerns this version is there, and the page parses."""
        m = self.metrics
        m.connections.labels("images").set(3)
        m.request("images", "GET", 206, 0.2)
        m.reloaded(False)
        names = {name for name, _ in self.samples()}
        for name in ("build_info", "start_time_seconds", "connections", "requests_total", "overload_state",
                     "request_seconds_bucket", "loop_lag_seconds_bucket", "config_reloads_total",
                     "config_last_reload_success"):  # fmt: skip
            self.assertIn(f"gateway_{name}", names)
        self.assertIn("process_open_fds", names)
        declared = {family.name for family in m.registry.collect()}
        for name in ("tls_handshakes", "tls_handshake_seconds", "tokens", "tickets", "ticket_events",
                     "sessions",
                     "session_seconds", "session_bytes", "revoke_seconds", "upstream_connects",
                     "upstream_connect_seconds", "limit_hits", "auth_failures", "incidents", "log_dropped",
                     "tls_certificate_not_after_seconds", "shed"):  # fmt: skip
            self.assertIn(f"gateway_{name}", declared)

    def test_read_at_scrape(self) -> None:
        """Tickets, sessions and timers are counted when somebody looks."""
        alive: dict[tuple[str, ...], float] = {("image",): 2.0}
        self.metrics.sessions.read = lambda: alive
        self.metrics.tickets.read = lambda: {("image", "active"): 5.0}
        self.assertEqual(self.samples()["gateway_sessions", ("image",)], 2)
        alive["image",] = 1.0
        self.assertEqual(self.samples()["gateway_sessions", ("image",)], 1)
        self.assertEqual(self.samples()["gateway_tickets", ("image", "active")], 5)
        self.metrics.timers.read = lambda: {(): 7.0}
        self.assertEqual(self.samples()["gateway_timers", ()], 7)

    def test_no_explosion(self) -> None:
        """Whatever methods and codes peers choose, the number of series stays."""
        for code in (-1, 0, 999, 10**9, 404):
            self.metrics.request("images", "X0", code, 0.1)
        before = len(self.samples())
        for number in range(10_000):
            self.metrics.request("images", f"X{number}", 404, 0.1)
            self.metrics.request("images", "get", 600 + number, 0.1)
        self.assertEqual(len(self.samples()), before)

    def test_health(self) -> None:
        """``/healthz`` says ok."""
        self.assertEqual(get(HealthPage()), (200, b"ok"))

    def test_ready(self) -> None:
        """One bad check makes 503; something degraded alone does not."""
        state = {"listeners": (True, "2 ports"), "draining": (True, "")}
        page = ReadyPage(
            {"listeners": lambda: state["listeners"], "draining": lambda: state["draining"]},
            {"tls": lambda: (False, "expired")},
        )
        code, body = get(page)
        self.assertEqual((code, json.loads(body)["degraded"]), (200, ["tls"]))
        state["draining"] = (False, "draining")
        code, body = get(page)
        self.assertEqual(code, 503)
        self.assertEqual(json.loads(body)["checks"]["draining"], {"ok": False, "text": "draining"})
        self.assertIs(json.loads(body)["ready"], False)


class LoopLagTests(SynchronousTestCase):
    """How late a timer fires."""

    def test_lag(self) -> None:
        """A reactor that was busy for a second is seen to be late, one that was not is not."""
        clock, seen = Clock(), list[float]()
        lag = LoopLag(clock, seen.append)
        lag.startService()
        clock.advance(0.1)
        clock.advance(1.1)
        self.assertAlmostEqual(seen[0], 0.0)
        self.assertAlmostEqual(seen[1], 1.0)
        self.assertAlmostEqual(lag.lag, 1.0)
        lag.stopService()
        self.assertEqual(clock.getDelayedCalls(), [])
