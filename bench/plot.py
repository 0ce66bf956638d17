"""The plot of what was measured, as an SVG that reads on light and dark."""

from __future__ import annotations

import json
import statistics
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from bench.cases import SWEEP
from bench.contenders import CUSTODIAN_NAME, FLOOR, OURS
from bench.places import PLOT, RESULTS

if TYPE_CHECKING:
    from collections.abc import Iterator

type Json = dict[str, Any]

# Of one lightness in the middle, so that they stand out from white and from black.
_COLOURS = {FLOOR: "#8b949e", OURS: "#2da44e", CUSTODIAN_NAME: "#d4772a"}
_WIDTH, _LEFT, _RIGHT = 760, 150, 90
_BAR, _GAP, _HEAD = 16, 4, 34
_MS = 1000
_STYLE = """text{font:13px system-ui,sans-serif;fill:#1f2328}.head{font-weight:600}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}}"""


def plot(results: Json) -> str:
    """Draw a group of bars for each thing that all contenders did."""
    drawn: list[str] = []
    y = 8
    for title, rows in _groups(results["rows"]):
        longest = max(row["median"] for row in rows)
        drawn.append(f'<text class="head" x="0" y="{y + 16}">{escape(title)}</text>')
        y += 26
        for row in rows:
            width = max(1, (_WIDTH - _LEFT - _RIGHT) * row["median"] / longest)
            colour = _COLOURS[row["by"]]
            drawn += [
                f'<text x="{_LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(row["by"])}</text>',
                f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR}" rx="2" fill="{colour}"/>',
                f'<text x="{_LEFT + width + 6:.1f}" y="{y + 13}">{_said(row["median"])}</text>',
            ]
            y += _BAR + _GAP
        y += _HEAD - 26
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" width="{_WIDTH}" height="{y}" '
        f'role="img"><title>Shorter is better</title><style>{_STYLE}</style>\n'
        + "\n".join(drawn)
        + "\n</svg>\n"
    )


def _groups(rows: list[Json]) -> Iterator[tuple[str, list[Json]]]:
    """Give what Cloud Custodian did as well, which is the least of all."""
    for beside in rows:
        if beside["by"] != CUSTODIAN_NAME:
            continue
        alike = ("case", "todo", "repositories")
        of_case = {row["by"]: row for row in rows if all(row[key] == beside[key] for key in alike)}
        many = f" of {beside['repositories']:,} repositories" if beside["case"] == SWEEP else ""
        yield (
            f"{beside['case'].capitalize()}{many}, {beside['todo']} to do",
            [of_case[by] | {"median": statistics.median(of_case[by]["seconds"])} for by in _COLOURS],
        )


def _said(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * _MS:.3g} ms"


def write(results: Json) -> None:
    """Draw into the docs."""
    PLOT.parent.mkdir(exist_ok=True)
    PLOT.write_text(plot(results))


if __name__ == "__main__":
    write(json.loads(RESULTS.read_text()))
