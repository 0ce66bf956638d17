"""Plots the results as an SVG for light and dark backgrounds."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from bench.results import BASELINE, CUSTODIAN, OURS, SWEEP, duration, rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.results import Results, Row

# Medium lightness, visible on white and on black.
_COLORS = {BASELINE: "#8b949e", OURS: "#2da44e", CUSTODIAN: "#d4772a"}
_WIDTH, _LEFT, _RIGHT = 760, 150, 90
_BAR, _GAP, _TITLE, _SPACE = 16, 4, 26, 8
_STYLE = """text{font:13px system-ui,sans-serif;fill:#1f2328}.head{font-weight:600}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}}"""


def plot(results: Results) -> str:
    """Draw one group of bars for each case that all implementations ran."""
    rows = rows_of(results)
    elements: list[str] = []
    y = _SPACE
    # Cloud Custodian ran the fewest cases.
    for row in (row for row in rows if row.implementation == CUSTODIAN):
        elements.append(f'<text class="head" x="0" y="{y + 16}">{escape(_title(row))}</text>')
        y += _TITLE
        peers = row.peers(rows)
        longest = max(peer.median for peer in peers.values())
        for name, color in _COLORS.items():
            elements += _bar(name, peers[name].median, longest, color, y)
            y += _BAR + _GAP
        y += _SPACE
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" width="{_WIDTH}" height="{y}" '
        f'role="img"><title>Shorter is better</title><style>{_STYLE}</style>\n'
        + "\n".join(elements)
        + "\n</svg>\n"
    )


def _bar(name: str, seconds: float, longest: float, color: str, y: int) -> Iterator[str]:
    width = max(1, (_WIDTH - _LEFT - _RIGHT) * seconds / longest)
    yield f'<text x="{_LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>'
    yield f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR}" rx="2" fill="{color}"/>'
    yield f'<text x="{_LEFT + width + 6:.1f}" y="{y + 13}">{duration(seconds)}</text>'


def _title(row: Row) -> str:
    repositories = f", {row.repositories:,} repositories" if row.case == SWEEP else ""
    return f"{row.case.capitalize()}{repositories}, missing grants: {row.missing}"
