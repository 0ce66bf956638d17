"""Saves the output of a console as a picture for the documentation."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rich.terminal_theme import TerminalTheme

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

WIDTH = 104  # characters
# Colors of Rich's own theme are hard to read. These have a contrast of at least 4.5:1 with the background.
_THEME = TerminalTheme(
    background=(13, 17, 23),
    foreground=(230, 237, 243),
    normal=[
        (139, 148, 158),  # black
        (255, 123, 114),  # red
        (63, 185, 80),  # green
        (210, 153, 34),  # yellow
        (88, 166, 255),  # blue
        (188, 140, 255),  # magenta
        (57, 197, 207),  # cyan
        (230, 237, 243),  # white
    ],
)


def save_svg(console: Console, path: Path, title: str) -> None:
    """Save what a recording console has printed so far."""
    path.write_text(svg(console, title))


def svg(console: Console, title: str) -> str:
    """Return what a recording console has printed so far as an SVG, without external resources."""
    text = console.export_svg(title=title, theme=_THEME, unique_id=title.rsplit(maxsplit=1)[-1])
    # Use the viewer's fonts: the SVG must not load anything.
    return re.sub(r"@font-face \{.*?\}", "", text, flags=re.DOTALL)
