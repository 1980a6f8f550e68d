"""Owns what our pictures share: colours that stand on their own light ground, arrow heads, and text made harmless."""

import math
import re
from html import escape

from benchmarks.tables import plain

INK, SOFT, LINE, BACK, PALE, WARN = "#1a1a1a", "#595959", "#8a8a8a", "#6b6b6b", "#f1f1ee", "#a33c00"
"""Each has a contrast of 3 or more on the panel; the texts 4.5 and more."""
PEER = "#0072b2"
GROUND = "#ffffff"

_UNFIT = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|[\u202a-\u202e\u2066-\u2069]")
"""What XML cannot hold, and what turns the direction of the text around it."""


def clean(text: str) -> str:
    """Text on one line, without what steers a terminal, turns the words around it, or is no character."""
    return _UNFIT.sub("", plain(text))


def safe(text: str) -> str:
    """Text as it may stand in an element or an attribute, whatever it holds."""
    return escape(clean(text))


def short(text: str, most: int = 22) -> str:
    """At most this many characters, on one line."""
    line = clean(" ".join(text[: 4 * most].split()))
    return line if len(line) <= most and len(text) <= 4 * most else f"{line[: most - 1]}…"


def tail(seat: str, most: int = 22) -> str:
    """At most this many characters of a seat: its end, which tells one from its neighbours."""
    line = clean(seat[-4 * most :])
    return line if len(line) <= most and len(seat) <= 4 * most else f"…{line[1 - most :]}"


def natural(name: str) -> list[tuple[int, str]]:
    """Sorts `agent[2]` before `agent[10]`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def panel(width: float, height: float) -> str:
    """The picture's own ground: pages are light or dark, and an SVG in them cannot know which."""
    return f'<rect width="{width:g}" height="{height:g}" rx="6" fill="{GROUND}"/>'


def head(x: float, y: float, dx: float, dy: float, colour: str = BACK) -> str:
    """An arrow head with its tip at a point, for a line that comes from a direction."""
    length = math.hypot(dx, dy) or 1.0
    ux, uy = dx / length, dy / length
    left, right = (x - 7 * ux - 3.2 * uy, y - 7 * uy + 3.2 * ux), (x - 7 * ux + 3.2 * uy, y - 7 * uy - 3.2 * ux)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in ((x, y), left, right))
    return f'<polygon points="{points}" fill="{colour}"/>'
