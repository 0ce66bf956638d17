"""The text in the pictures of the docs can be read: its color contrasts with the background."""

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from devstack.host import PROJECT

SVG = "{http://www.w3.org/2000/svg}"
# The pages that a picture without a background is shown on: GitHub's light and dark theme.
LIGHT, DARK = "#ffffff", "#0d1117"
FOR_DARK = re.compile(r"@media\(prefers-color-scheme:dark\)\{(.*\})\}", re.DOTALL)
RULE = re.compile(r"([\w.-]+)\s*\{[^}]*?fill:\s*(#[0-9a-f]{6})")
MINIMUM = 4.5  # WCAG 2.2, success criterion 1.4.3, for text of this size

type Colors = tuple[str, str]


def luminance(color: str) -> float:
    """Return the relative luminance as WCAG 2.2 defines it, from 0 to 1."""
    channels = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (
        channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4 for channel in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(*colors: str) -> float:
    """Return the contrast ratio as WCAG 2.2 defines it, from 1 to 21."""
    darker, lighter = sorted(map(luminance, colors))
    return (lighter + 0.05) / (darker + 0.05)


def colors_of(path: Path) -> Iterator[Colors]:
    """Yield the color of each text of a picture and its background, in both themes of the viewer."""
    root = ET.parse(path).getroot()  # noqa: S314 - a picture of this project
    style = "".join(each.text or "" for each in root.iter(f"{SVG}style"))
    # Only the picture of a console has a border, and with it a background of its own.
    backgrounds = [each.attrib["fill"] for each in root.iter(f"{SVG}rect") if "stroke" in each.attrib]
    light = dict(RULE.findall(FOR_DARK.sub("", style)))
    dark = light | dict(RULE.findall("".join(FOR_DARK.findall(style))))
    for rules, page in ((light, LIGHT), (dark, DARK)):
        for text in root.iter(f"{SVG}text"):
            color = rules.get(f".{text.get('class')}", text.get("fill") or rules.get("text"))
            assert color, "a text is black if its color is not set"
            yield color, *(backgrounds or [page])


@pytest.mark.parametrize(
    ("colors", "ratio"),
    [(("#000000", "#ffffff"), 21), (("#777777", "#ffffff"), 4.48), (("#ff0000", "#ff0000"), 1)],
)
def test_the_contrast_is_that_of_wcag(colors: Colors, ratio: float) -> None:
    assert contrast(*colors) == pytest.approx(ratio, abs=0.005)


@pytest.mark.parametrize("path", sorted(PROJECT.glob("docs/*.svg")), ids=lambda path: path.name)
def test_every_text_of_a_picture_has_a_readable_color(path: Path) -> None:
    found = {*colors_of(path)}

    assert len(found) > 1
    assert [each for each in found if contrast(*each) < MINIMUM] == []
