"""The picture of the flow in the README, drawn from the boxes and arrows below: `make docs`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from local.machine import PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterator

PICTURE = PROJECT / "docs/flow.svg"
_TITLE = "An event, a schedule or you name repositories; the function gives each the grant; worker nodes pull"
_SIZE = (880, 380)
_HEIGHT = 34  # of a box of one line
_LINE = 18
_STYLE = """
text{font:13px system-ui,sans-serif;fill:#1f2328;text-anchor:middle;dominant-baseline:central}
.page{fill:#ffffff}.box{fill:#f6f8fa;stroke:#818b98}.ours{fill:#dafbe1;stroke:#1a7f37;stroke-width:1.5}
.frame{fill:none;stroke:#818b98;stroke-dasharray:5 4}.tip{fill:#818b98}
.arrow{fill:none;stroke:#818b98;stroke-width:1.3;marker-end:url(#tip)}
.quiet{fill:#59636e;font-size:12px}.start{text-anchor:start}
@media(prefers-color-scheme:dark){
text{fill:#f0f6fc}.page{fill:#0d1117}.box{fill:#151b23}.ours{fill:#12361f;stroke:#3fb950}.quiet{fill:#9198a1}
}
"""


@dataclass(frozen=True)
class Box:
    """A box by its middle and its width; each line of its text adds to its height."""

    x: int
    y: int
    width: int
    text: str
    ours: bool = False

    @property
    def height(self) -> int:
        """The height, for as many lines as there are."""
        return _HEIGHT + _LINE * self.text.count("\n")

    @property
    def left(self) -> int:
        """Where arrows come in."""
        return self.x - self.width // 2

    @property
    def right(self) -> int:
        """Where arrows go out."""
        return self.x + self.width // 2


CREATED = Box(95, 90, 130, "repository created")
CHANGED = Box(95, 135, 130, "policy changed")
ARRIVED = Box(95, 180, 130, "image arrived")
DEPLOYED = Box(95, 225, 130, "stack deployed")
DAILY = Box(95, 270, 130, "every day")
YOU = Box(95, 315, 130, "you, by payload")
TRAIL = Box(245, 112, 90, "CloudTrail")
BUS = Box(365, 168, 100, "EventBridge")
SCHEDULER = Box(245, 270, 90, "Scheduler")
FUNCTION = Box(490, 225, 118, "the function:\nread, decide,\nwrite if needed", ours=True)
REPOSITORY = Box(632, 225, 112, "ECR repository\n+ AllowPull", ours=True)
NODE = Box(793, 225, 112, "worker node\nmay pull")

BOXES = (
    CREATED, CHANGED, ARRIVED, DEPLOYED, DAILY, YOU, TRAIL, BUS, SCHEDULER, FUNCTION, REPOSITORY, NODE
)  # fmt: skip
ARROWS = (
    (CREATED, TRAIL),
    (CHANGED, TRAIL),
    (TRAIL, BUS),
    (ARRIVED, BUS),
    (DEPLOYED, BUS),
    (DAILY, SCHEDULER),
    (BUS, FUNCTION),
    (SCHEDULER, FUNCTION),
    (YOU, FUNCTION),
    (FUNCTION, REPOSITORY),
    (REPOSITORY, NODE),
)
FRAMES = ((10, 14, 690, 352, "registry account"), (716, 14, 154, 352, "data plane account"))


def picture() -> str:
    """Draw it, as an SVG that reads on light and on dark."""
    width, height = _SIZE
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
            f"<title>{escape(_TITLE)}</title><style>{_STYLE}</style>",
            '<marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" orient="auto">',
            '<path class="tip" d="M0 0 8 4 0 8z"/></marker>',
            f'<rect class="page" width="{width}" height="{height}" rx="8"/>',
            *_frames(),
            *(_arrow(begin, end) for begin, end in ARROWS),
            *(line for box in BOXES for line in _box(box)),
            "</svg>\n",
        ]
    )


def _frames() -> Iterator[str]:
    for x, y, width, height, text in FRAMES:
        yield f'<rect class="frame" x="{x}" y="{y}" width="{width}" height="{height}" rx="8"/>'
        yield f'<text class="quiet start" x="{x + 14}" y="{y + 20}">{escape(text)}</text>'


def _box(box: Box) -> Iterator[str]:
    kind = "ours" if box.ours else "box"
    top = box.y - box.height // 2
    yield (
        f'<rect class="{kind}" x="{box.left}" y="{top}" width="{box.width}" height="{box.height}" rx="6"/>'
    )
    for number, text in enumerate(box.text.split("\n")):
        yield f'<text x="{box.x}" y="{top + _HEIGHT // 2 + number * _LINE}">{escape(text)}</text>'


def _arrow(begin: Box, end: Box) -> str:
    middle = end.left - min(60, (end.left - begin.right) // 2)
    curve = f"M{begin.right} {begin.y}C{middle} {begin.y} {middle} {end.y} {end.left} {end.y}"
    return f'<path class="arrow" d="{curve}"/>'


if __name__ == "__main__":
    PICTURE.write_text(picture())
