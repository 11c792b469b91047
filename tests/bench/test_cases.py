"""Tests for bench.cases, bench.tables, bench.document and bench.plot: what is made of samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from twisted.trial.unittest import SynchronousTestCase

from bench import document, plot, tables
from bench.cases import GATEWAY, Case, Metric, Target, Verdict
from bench.document import Section
from bench.measures import MEASURES
from bench.peers.base import Relay
from bench.stage import Job, Options, take_turns
from bench.targets import TARGETS
from tests.functional.processes import Peer

CPU = Metric("cpu", "CPU s/GiB", 2)
RATE = Metric("rate", "MiB/s", 1, more=True)


class _Named(Peer):
    def __init__(self, name: str) -> None:
        super().__init__(Path())
        self.name = name

    def start(self) -> None: ...

    def way(self, kind: str, client: int = 0) -> None: ...

    def version(self) -> str:
        return ""

    openssl = version


def case(metric: Metric = CPU, *targets: Target, **samples: list[float]) -> Case:
    made = Case("images/tls-get", "TLS to TLS, download", (metric,), targets)
    for peer, values in samples.items():
        for value in values:
            made.add(peer, {metric.key: value})
    return made


class RatioTests(SynchronousTestCase):
    def test_less_is_better(self) -> None:
        """A gateway that uses half of what the peer uses is twice as good; each run has its own ratio."""
        found = case(gateway=[1.0, 2.0, 1.0], nginx=[2.0, 2.0, 3.0]).ratio("nginx")
        assert found is not None
        self.assertEqual((found.median, found.least, found.most), (2.0, 1.0, 3.0))

    def test_pairs(self) -> None:
        """That the machine was slow in one run changes no ratio."""
        found = case(RATE, gateway=[20.0, 2.0, 21.0], nginx=[10.0, 1.0, 1.05]).ratio("nginx")
        assert found is not None
        self.assertEqual((found.median, found.least), (2.0, 2.0))
        short = case(RATE, gateway=[20.0, 2.0, 21.0], nginx=[1.0, 4.0]).ratio("nginx")
        assert short is not None
        self.assertEqual(short.median, 8.0)

    def test_more_is_better(self) -> None:
        """A gateway that moves twice as much is twice as good."""
        found = case(RATE, gateway=[20.0], nginx=[10.0]).ratio("nginx")
        assert found is not None
        self.assertEqual(found.median, 2.0)

    def test_nothing_to_compare(self) -> None:
        """There is no ratio to ourselves, to who was not measured, and where it makes no sense."""
        self.assertIsNone(case(gateway=[1.0]).ratio(GATEWAY))
        self.assertIsNone(case(gateway=[1.0]).ratio("squid"))
        self.assertIsNone(
            case(Metric("growth", "MiB", 1, ratio=False), gateway=[1.0], nginx=[1.0]).ratio("nginx")
        )
        self.assertIsNone(case(gateway=[0.0], nginx=[1.0]).ratio("nginx"))

    def test_beside(self) -> None:
        """Some metrics have a ratio of their own, in a column and in JSON."""
        made = Case("rpc/x", "Calls", (RATE, Metric("cpu", "CPU", 0, beside=True)))
        made.add(GATEWAY, {"rate": 20.0, "cpu": 5.0})
        made.add("nginx", {"rate": 10.0, "cpu": 15.0})
        head, _, row = tables.text(made).splitlines()[1:]
        self.assertIn("gateway ÷ peer  CPU, peer ÷ gateway", head)
        self.assertEqual(row.split()[-2:], ["2.00", "3.00"])
        peers: Any = made.plain()["peers"]
        self.assertEqual(peers["nginx"]["cpu_ratio"]["median"], 3.0)
        self.assertNotIn("cpu_ratio", peers[GATEWAY])


class SliceTests(SynchronousTestCase):
    """Who takes turns."""

    def turns(self, job: Job, runs: int = 1) -> Case:
        made = case(CPU)
        take_turns([_Named(GATEWAY), _Named("nginx")], [(made, job)], Options(runs=runs), slices=3)
        return made

    def test_mean(self) -> None:
        """A run has parts, in which all take turns; their mean is the sample. The first run has none."""
        called: list[str] = []

        def job(relay: Relay) -> dict[str, float]:
            called.append(relay.name)
            return {CPU.key: float(len(called))}

        made = self.turns(job)
        self.assertEqual(called, [GATEWAY, "nginx"] * 3 + ["nginx", GATEWAY] * 3)
        self.assertEqual(made.samples, {GATEWAY: {"cpu": [10.0]}, "nginx": {"cpu": [9.0]}})

    def test_broken(self) -> None:
        """Who breaks off in one part has no sample of that run, and is asked no more in it."""
        called: list[str] = []

        def job(relay: Relay) -> dict[str, float]:
            called.append(relay.name)
            if relay.name == "nginx" and called.count("nginx") == 5:
                raise AssertionError
            return {CPU.key: 1.0}

        made = self.turns(job, runs=2)
        self.assertEqual(called.count("nginx"), 3 + 2 + 3)
        self.assertEqual(made.samples["nginx"], {"cpu": [1.0]})
        self.assertEqual(made.failed, {"nginx": 1})

    def test_cannot(self) -> None:
        """Who cannot do it has no row."""
        made = self.turns(lambda relay: {CPU.key: 1.0} if relay.name == GATEWAY else None)
        self.assertEqual(set(made.samples), {GATEWAY})


class VerdictTests(SynchronousTestCase):
    def test_ratio(self) -> None:
        """Goal, floor and neither are told apart, and the last is what a check fails on."""
        target = Target("nginx", 1.0, 1.3)
        for theirs, verdict in ((1.3, Verdict.GOAL), (1.0, Verdict.FLOOR), (0.9, Verdict.MISSED)):
            found = case(CPU, target, gateway=[1.0], nginx=[theirs])
            self.assertEqual(found.verdict("nginx"), verdict)
            self.assertEqual(found.missed(), ["nginx"] * (verdict is Verdict.MISSED))

    def test_limit(self) -> None:
        """Against the gateway itself a target is a limit; a goal without a floor cannot be missed."""
        limit, wish = Target(GATEWAY, 16.0, 4.0), Target(GATEWAY, None, 4.0)
        for value, verdict in ((4.0, Verdict.GOAL), (5.0, Verdict.FLOOR), (17.0, Verdict.MISSED)):
            self.assertEqual(case(CPU, limit, gateway=[value]).verdict(GATEWAY), verdict)
        self.assertEqual(case(CPU, wish, gateway=[17.0]).verdict(GATEWAY), Verdict.FLOOR)

    def test_not_measured(self) -> None:
        """A peer that was left out misses nothing."""
        self.assertEqual(case(CPU, Target("nginx", 1.0, 1.3), gateway=[1.0]).missed(), [])

    def test_table(self) -> None:
        """A goal is never below its floor, and a limit never above."""
        for name, targets in TARGETS.items():
            self.assertIn(name.partition("/")[0], MEASURES)
            for target in targets:
                if target.floor is not None and target.goal is not None:
                    self.assertEqual(target.goal < target.floor, target.peer == GATEWAY)


class TableTests(SynchronousTestCase):
    MADE = case(CPU, Target("nginx", 1.0, 1.3), gateway=[1.0, 1.5, 1.2], nginx=[2.0, 2.0, 2.0])

    def test_text(self) -> None:
        """Columns end at the same place, and what does not vary has no spread."""
        self.assertEqual(
            tables.text(self.MADE),
            "TLS to TLS, download\n"
            "                  CPU s/GiB    peer ÷ gateway  floor  goal\n"
            "  gateway  1.20 (1.00–1.50)\n"
            "  nginx                2.00  1.67 (1.33–2.00)      1   1.3  goal met\n",
        )

    def test_failed(self) -> None:
        """A peer that broke off has no row, and is not passed over in silence."""
        made = case(gateway=[1.0])
        made.fail("squid")
        made.fail("squid")
        self.assertIn("squid broke off 2 times.", tables.text(made))
        self.assertIn("squid broke off 2 times.", tables.markdown(made))

    def test_markdown(self) -> None:
        """Every row has as many cells as the head."""
        rows = [line for line in tables.markdown(self.MADE).splitlines() if line.startswith("|")]
        self.assertEqual({row.count("|") for row in rows}, {7})

    def test_plot(self) -> None:
        """The plot is XML with one bar for each ratio, its value in it."""
        drawn = ElementTree.fromstring(plot.ratios([self.MADE]))
        titles = [it.text for it in drawn.iter("{http://www.w3.org/2000/svg}title")]
        self.assertEqual(titles, ["nginx: 1.67"])


class DocumentTests(SynchronousTestCase):
    TEXT = (
        "before\n<!-- figures: machine -->\n<!-- end -->\n"
        "<!-- figures: images -->\nold\n<!-- end -->\nafter\n"
    )

    def test_words_stay(self) -> None:
        """Only what stands between the marks changes, as often as it is written."""
        prefix = Path(self.mktemp())
        prefix.with_suffix(".md").write_text(self.TEXT)
        versions = {"gateway": {"version": "1", "openssl": "4.0.3"}}
        section = Section("images", "Relay", "bench/run images", "0.10 0.20", versions, [TableTests.MADE])
        where = {"cpu": "a CPU", "cores": "2", "memory": "4 GiB", "kernel": "6.1"}
        for _ in range(2):
            document.write(prefix, where, [section])
        written = prefix.with_suffix(".md").read_text()
        self.assertTrue(
            written.startswith("before\n<!-- figures: machine -->\na CPU, 2 cores, 4 GiB, Linux 6.1.\n")
        )
        self.assertTrue(written.endswith("<!-- end -->\nafter\n"))
        self.assertNotIn("old", written)
        self.assertEqual(written.count("TLS to TLS, download"), 1)
        self.assertIn("<svg", prefix.with_suffix(".svg").read_text())

    def test_no_place(self) -> None:
        """A measure without a place in the document is said, not dropped."""
        self.assertRaises(ValueError, document.put, self.TEXT, "store", "x\n")

    def test_every_measure_has_a_place(self) -> None:
        """The document that is in the tree takes what the harness measures."""
        text = (Path(document.__file__).parents[1] / "docs" / "performance.md").read_text("utf-8")
        for name in ["machine", *MEASURES]:
            document.put(text, name, "x\n")
