"""The consoles: what is printed is escaped, has no colors in a pipe, and keeps progress on standard error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

_MIN_WIDTH = 110  # characters, where the output is no terminal
_MAX_NAMES = 12


def console(*, stderr: bool = False) -> Console:
    """Return a console that does not fold long ARNs in a file or a pipe."""
    plain = Console(stderr=stderr, highlight=False)
    return plain if plain.is_terminal else Console(stderr=stderr, highlight=False, width=_MIN_WIDTH)


def escaped(text: str) -> str:
    """Make each character visible that a terminal would obey or hide: names and policies come from others."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "surrogatepass").decode()
        for each in text
    )


def print_line(console: Console, text: str, style: str = "", indent: int = 2) -> None:
    """Print a text that may come from AWS."""
    console.print(Padding(Text(escaped(text), style=style), (0, 0, 0, indent), expand=False))


def print_error(sentence: str) -> None:
    """Print an error on standard error, in one line."""
    text = Text("✗ ", style="bold red").append(escaped(" ".join(sentence.split())), style="not bold default")
    console(stderr=True).print(text, soft_wrap=True)


def print_warning(sentence: str) -> None:
    """Print a warning on standard error, in one line."""
    console(stderr=True).print(Text(f"! {escaped(sentence)}", style="yellow"), soft_wrap=True)


def shortened(names: Sequence[str]) -> str:
    """Return the first names, and how many there are more."""
    more = f", … and {len(names) - _MAX_NAMES:,} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more


def count(number: int, singular: str, plural: str) -> str:
    """Return a number with its noun."""
    return f"{number:,} {singular if number == 1 else plural}"
