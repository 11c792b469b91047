"""One thing measured with several peers: samples, and what follows from them.

A ratio above 1 always says that the gateway is better: peer divided by gateway where less is
better, gateway divided by peer where more is.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from enum import Enum

from attrs import Factory, define, frozen

#: What we measure against the others, and against limits.
GATEWAY = "gateway"


@frozen
class Metric:
    """A column.

    :ivar key: what samples and JSON call it, unit included.
    :ivar digits: behind the point.
    :ivar more: more is better.
    :ivar ratio: it makes sense to divide by it.
    :ivar beside: where it is not the first of a case, the ratio is of interest all the same.
    """

    key: str
    title: str
    digits: int
    more: bool = False
    ratio: bool = True
    beside: bool = False


@frozen
class Target:
    """What is aimed at; against the gateway itself it is a limit, in units of the metric."""

    peer: str
    floor: float | None
    goal: float | None


class Verdict(Enum):
    """How a figure compares to its target."""

    GOAL = "goal met"
    FLOOR = "floor met"
    MISSED = "MISSED"


@frozen
class Spread:
    """A median with what lies around it."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


@define
class Case:
    """One row of the design's table, or one like it.

    :ivar metrics: the first is the one that ratios and limits are about.
    :ivar samples: by peer, then by metric: one value for each run, interleaved.
    :ivar note: what a reader has to know beside the title.
    :ivar failed: runs of peers that came to nothing.
    """

    name: str
    title: str
    metrics: tuple[Metric, ...]
    targets: tuple[Target, ...] = ()
    note: str = ""
    samples: dict[str, dict[str, list[float]]] = Factory(dict)
    failed: dict[str, int] = Factory(dict)

    def add(self, peer: str, sample: Mapping[str, float]) -> None:
        """One run of one peer."""
        kept = self.samples.setdefault(peer, {})
        for key, value in sample.items():
            kept.setdefault(key, []).append(value)

    def fail(self, peer: str) -> None:
        """One run of a peer that broke off."""
        self.failed[peer] = self.failed.get(peer, 0) + 1

    def notes(self) -> list[str]:
        """What stands below the figures."""
        times = ", ".join(f"{peer} broke off {count} times" for peer, count in self.failed.items())
        return [text for text in (self.note, f"{times}." if times else "") if text]

    def spread(self, peer: str, metric: Metric) -> Spread | None:
        values = self.samples.get(peer, {}).get(metric.key)
        return Spread.of(values) if values else None

    def ratio(self, peer: str, metric: Metric | None = None) -> Spread | None:
        """Of single runs, by default of the first metric: what was measured at the same time is compared.

        When a run of one of them is missing, nobody knows which, and the ratio is that of the medians.
        """
        judged = metric or self.metrics[0]
        ours = self.samples.get(GATEWAY, {}).get(judged.key)
        theirs = self.samples.get(peer, {}).get(judged.key)
        if peer == GATEWAY or not judged.ratio or not ours or not theirs:
            return None
        upper, lower = (ours, theirs) if judged.more else (theirs, ours)
        if min(lower) <= 0:
            return None
        single = [top / bottom for top, bottom in zip(upper, lower, strict=False)]
        if len(upper) == len(lower):
            return Spread.of(single)
        return Spread(statistics.median(upper) / statistics.median(lower), min(single), max(single))

    @property
    def beside(self) -> list[Metric]:
        """Those whose ratio stands beside that of the first."""
        return [metric for metric in self.metrics[1:] if metric.beside]

    def target(self, peer: str) -> Target | None:
        return next((target for target in self.targets if target.peer == peer), None)

    def verdict(self, peer: str) -> Verdict | None:
        """None when nothing is aimed at, or nothing was measured."""
        target = self.target(peer)
        if target is None:
            return None
        if peer == GATEWAY:
            found = self.spread(GATEWAY, self.metrics[0])
            sign = 1 if self.metrics[0].more else -1
        else:
            found, sign = self.ratio(peer), 1
        if found is None:
            return None
        if target.goal is not None and sign * found.median >= sign * target.goal:
            return Verdict.GOAL
        if target.floor is None or sign * found.median >= sign * target.floor:
            return Verdict.FLOOR
        return Verdict.MISSED

    def missed(self) -> list[str]:
        """The peers against which a floor is missed."""
        return [it.peer for it in self.targets if self.verdict(it.peer) is Verdict.MISSED]

    def plain(self) -> dict[str, object]:
        """For JSON."""
        return {
            "name": self.name,
            "title": self.title,
            "note": self.note,
            "failed": self.failed,
            "peers": {peer: self._plain(peer) for peer in self.samples},
        }

    def _plain(self, peer: str) -> dict[str, object]:
        found: dict[str, object] = {}
        for metric in self.metrics:
            spread = self.spread(peer, metric)
            if spread is not None:
                found[metric.key] = _numbers(spread, metric.digits + 1)
        ratio, target, verdict = self.ratio(peer), self.target(peer), self.verdict(peer)
        if ratio is not None:
            found["ratio"] = _numbers(ratio, 3)
        for metric in self.beside:
            if (other := self.ratio(peer, metric)) is not None:
                found[f"{metric.key}_ratio"] = _numbers(other, 3)
        if target is not None:
            found["target"] = {"floor": target.floor, "goal": target.goal}
        if verdict is not None:
            found["verdict"] = verdict.name.lower()
        return found


def _numbers(spread: Spread, digits: int) -> dict[str, float]:
    return {
        "median": round(spread.median, digits),
        "min": round(spread.least, digits),
        "max": round(spread.most, digits),
    }
