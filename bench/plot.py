"""The plot of ``docs/performance.md``: ratios as bars, in plain SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from bench.cases import GATEWAY, Case

_BAR, _GAP, _GROUP = 34, 8, 46
_LEFT, _TOP, _HEIGHT, _BELOW = 48, 56, 260, 64
#: By peer, distinct also without colors by their order and the legend; readable on light and dark.
_COLORS = {"imageio": "#3b7dd8", "nginx": "#2e9e6b", "haproxy": "#d9822b", "squid": "#a05fc4"}
_STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #24292f } .small { font-size: 11px }
line { stroke: #8c959f } .one { stroke: #24292f; stroke-width: 2 } .floor { stroke: #24292f; stroke-width: 3 }
.spread { stroke: #57606a } rect.ground { fill: #ffffff }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .one, .floor { stroke: #e6edf3 }
.spread { stroke: #c9d1d9 } rect.ground { fill: #0d1117 } }
"""


def ratios(cases: Sequence[Case], title: str = "CPU seconds per GiB, peer divided by gateway") -> str:
    """Bars for each case and peer, with the spread of single runs and the floor aimed at."""
    peers = [it for it in _COLORS if any(case.ratio(it) for case in cases)]
    highest = max([ratio.most for case in cases for it in peers if (ratio := case.ratio(it))], default=1.0)
    top = max(2.0, -(-highest // 0.5) * 0.5)
    groups = [[it for it in peers if case.ratio(it)] for case in cases]
    width = _LEFT + sum(len(group) * (_BAR + _GAP) + _GROUP for group in groups)
    height = _TOP + _HEIGHT + _BELOW
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="ground" width="{width}" height="{height}"/>',
        f'<text x="{_LEFT}" y="20">{escape(title)}: above 1 the {GATEWAY} is cheaper</text>',
        *_legend(peers),
        *_scale(top, width),
    ]
    left = _LEFT + _GROUP // 2
    for case, group in zip(cases, groups, strict=True):
        lines += _group(case, group, left, top)
        left += len(group) * (_BAR + _GAP) + _GROUP
    return "\n".join([*lines, "</svg>\n"])


def _y(value: float, top: float) -> float:
    return round(_TOP + _HEIGHT * (1 - value / top), 1)


def _legend(peers: Sequence[str]) -> Iterator[str]:
    left = _LEFT
    for peer in peers:
        yield f'<rect x="{left}" y="30" width="12" height="12" fill="{_COLORS[peer]}"/>'
        yield f'<text x="{left + 17}" y="41">{peer}</text>'
        left += 90
    yield f'<line class="floor" x1="{left}" x2="{left + 16}" y1="36" y2="36"/>'
    yield f'<text x="{left + 21}" y="41">floor</text>'


def _scale(top: float, width: int) -> Iterator[str]:
    for half in range(int(top * 2) + 1):
        value = half / 2
        y = _y(value, top)
        style = ' class="one"' if value == 1 else ""
        yield f'<line{style} x1="{_LEFT}" x2="{width}" y1="{y}" y2="{y}" stroke-opacity="0.5"/>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{value:g}</text>'


def _group(case: Case, peers: Sequence[str], left: int, top: float) -> Iterator[str]:
    middle = left + (len(peers) * (_BAR + _GAP) - _GAP) / 2
    first, *rest = case.title.split(", ")
    for number, words in enumerate([first, ", ".join(rest[:1])]):
        below = _TOP + _HEIGHT + 22 + 18 * number
        yield f'<text x="{middle:g}" y="{below}" text-anchor="middle">{escape(words)}</text>'
    for peer in peers:
        ratio = case.ratio(peer)
        assert ratio is not None
        y, center = _y(ratio.median, top), left + _BAR / 2
        yield (
            f'<rect x="{left}" y="{y}" width="{_BAR}" height="{_y(0, top) - y:.1f}" fill="{_COLORS[peer]}">'
            f"<title>{peer}: {ratio.median:.2f}</title></rect>"
        )
        yield (
            f'<line class="spread" x1="{center:g}" x2="{center:g}" '
            f'y1="{_y(ratio.least, top)}" y2="{_y(ratio.most, top)}"/>'
        )
        said = f"{ratio.median:.2f}</text>"
        yield f'<text class="small" x="{center:g}" y="{_y(0, top) - 6}" text-anchor="middle">{said}'
        target = case.target(peer)
        if target is not None and target.floor is not None:
            floor = _y(target.floor, top)
            yield f'<line class="floor" x1="{left - 3}" x2="{left + _BAR + 3}" y1="{floor}" y2="{floor}"/>'
        left += _BAR + _GAP
