"""Saves the output of a console as a picture for the documentation."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

WIDTH = 104  # characters


def save_svg(console: Console, path: Path, title: str) -> None:
    """Save what a recording console has printed so far."""
    path.write_text(svg(console, title))


def svg(console: Console, title: str) -> str:
    """Return what a recording console has printed so far as an SVG, without external resources."""
    text = console.export_svg(title=title, unique_id=title.rsplit(maxsplit=1)[-1])
    # Use the viewer's fonts: the SVG must not load anything.
    return re.sub(r"@font-face \{.*?\}", "", text, flags=re.DOTALL)
