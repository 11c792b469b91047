"""Results as text for people and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.cases import Case, Metric, Spread


def text(case: Case) -> str:
    """Aligned columns."""
    head, *rows = _cells(case)
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [case.title, *(_aligned(row, widths) for row in [head, *rows])]
    lines += [f"  ({note})" for note in case.notes()]
    return "\n".join(lines) + "\n"


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(row, widths, strict=True)
    cells = [f"  {first[0]:<{first[1]}}", *(f"{cell:>{width}}" for cell, width in others)]
    return "  ".join(cells).rstrip()


def markdown(case: Case) -> str:
    """A table below a line in bold."""
    head, *rows = _cells(case)
    lines = [f"**{case.title}**", "", _row(head), _row(["---", *["---:"] * (len(head) - 1)])]
    lines += [_row(row) for row in rows]
    for note in case.notes():
        lines += ["", note]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(case: Case) -> Iterator[list[str]]:
    """The head, then a row for each peer; columns without a figure are left out."""
    shown = [it for it in case.metrics if any(case.spread(peer, it) for peer in case.samples)]
    ratios = any(case.ratio(peer) for peer in case.samples)
    aims = any(case.verdict(peer) for peer in case.samples)
    head = ["", *(metric.title for metric in shown)]
    if ratios:
        head.append(_divided(case.metrics[0]))
        head += [f"{it.title}, {_divided(it)}" for it in case.beside]
    yield head + ["floor", "goal", ""] * aims
    for peer in case.samples:
        row = [peer]
        for metric in shown:
            row.append(_spread(case.spread(peer, metric), metric.digits, around=metric is case.metrics[0]))
        if ratios:
            row += [_spread(case.ratio(peer, it), 2) for it in (case.metrics[0], *case.beside)]
        if aims:
            row += _aims(case, peer)
        yield row


def _divided(metric: Metric) -> str:
    return "gateway ÷ peer" if metric.more else "peer ÷ gateway"


def _aims(case: Case, peer: str) -> list[str]:
    target, verdict = case.target(peer), case.verdict(peer)
    if target is None or verdict is None:
        return ["", "", ""]
    return [_number(target.floor), _number(target.goal), verdict.value]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _spread(spread: Spread | None, digits: int, *, around: bool = True) -> str:
    if spread is None:
        return ""
    text = f"{spread.median:.{digits}f}"
    if not around or spread.least == spread.most:
        return text
    return f"{text} ({spread.least:.{digits}f}–{spread.most:.{digits}f})"
