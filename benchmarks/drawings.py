"""Owns the pictures of topologies as SVG: seats as boxes, channels as arrows, a topology in a seat as a frame with its own
picture inside. A topology itself draws Mermaid text only, because it may not import what draws here.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from graphlib import TopologicalSorter
from typing import NamedTuple

from benchmarks.marks import BACK, GROUND, INK, PALE, PEER, SOFT, head, panel, safe, tail
from topologies.base import Topology
from topologies.drawing import Channel, Strands, senders, strands

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _EDGE = 118, 26, 18, 46, 12
_TITLE = 18
_ON_A_RING = 12
"""Up to this many peers are set on a ring, where all lines between them can be seen."""


class _Picture(NamedTuple):
    """A picture drawn at the origin."""

    width: float
    height: float
    svg: str


class _Box(NamedTuple):
    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


def drawings_of(topologies: Iterable[Topology]) -> dict[str, str]:
    """One drawing per topology that has more than one seat, by its name."""
    return {topology.name: draw(topology) for topology in topologies if len(topology.seats()) > 1}


def draw(topology: Topology, most: int = 40) -> str:
    """An SVG of the wiring; where a level has more than `most` seats only their number is shown."""
    picture = _picture(topology, most)
    width, height = picture.width + 2 * _EDGE, picture.height + 2 * _EDGE
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" font-family="sans-serif" font-size="11" role="img" aria-label="{safe(topology.name)}">'
        f'{panel(width, height)}<g transform="translate({_EDGE} {_EDGE})">{picture.svg}</g></svg>'
    )


def _picture(topology: Topology, most: int) -> _Picture:
    """The seats of one level with their channels, inner topologies drawn in their frames."""
    seats = topology.seats()
    if len(seats) > most:
        return _agent(f"{len(seats)} seats")
    members = {
        seat: _framed(seat, member, most) if isinstance(member, Topology) else _agent(seat)
        for seat, member in seats.items()
    }
    wires = strands(topology)
    if wires.peers and not wires.down and 2 < len(members) <= _ON_A_RING:
        return _ring(members, wires.peers)
    layers = _layers(topology, wires)
    rows = [max(members[seat].height for seat in layer) for layer in layers]
    widths = [sum(members[seat].width + _GAP_X for seat in layer) - _GAP_X for layer in layers]
    # A channel past a layer bulges to the right, and needs room there.
    level = {seat: y for y, layer in enumerate(layers) for seat in layer}
    far = any(level[b] - level[a] > 1 for a, b in wires.down)
    width = max(widths) + 2 * (_WIDTH / 2 if far else 0)
    boxes: dict[str, _Box] = {}
    y = 0.0
    for layer, row, wide in zip(layers, rows, widths, strict=True):
        x = (width - wide) / 2
        for seat in layer:
            boxes[seat] = _Box(x, y + (row - members[seat].height) / 2, members[seat].width, members[seat].height)
            x += members[seat].width + _GAP_X
        y += row + _GAP_Y
    lines = [_down(boxes[a], boxes[b], width if level[b] - level[a] > 1 else None) for a, b in wires.down]
    lines += [_back(boxes[a], boxes[b]) for a, b in wires.back]
    lines += [_arc(boxes[a], boxes[b]) for a, b in wires.peers]
    arcs = max((abs(boxes[a].middle - boxes[b].middle) for a, b in wires.peers), default=0.0)
    height = (
        y - _GAP_Y + (min(_GAP_Y, 8 + arcs / 8) if wires.peers and level[wires.peers[0][0]] == len(layers) - 1 else 0)
    )
    return _Picture(width, height, "".join(lines) + _placed(members, boxes))


def _placed(members: Mapping[str, _Picture], boxes: Mapping[str, _Box]) -> str:
    return "".join(
        f'<g transform="translate({boxes[seat].x:.1f} {boxes[seat].y:.1f})">{picture.svg}</g>'
        for seat, picture in members.items()
    )


def _agent(label: str) -> _Picture:
    svg = (
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" rx="4" fill="{GROUND}" stroke="{INK}"/>'
        f'<text x="{_WIDTH / 2:g}" y="17" text-anchor="middle" fill="{INK}">{safe(tail(label, 18))}</text>'
    )
    return _Picture(_WIDTH, _HEIGHT, svg)


def _framed(seat: str, topology: Topology, most: int) -> _Picture:
    inner = _picture(topology, most)
    title = tail(f"{seat}: {topology.name}", max(26, int(inner.width / 7)))
    width, height = max(inner.width, 7.0 * len(title)) + 2 * _EDGE, inner.height + _TITLE + 2 * _EDGE
    svg = (
        f'<rect width="{width:g}" height="{height:g}" rx="6" fill="{PALE}" stroke="{BACK}"/>'
        f'<text x="{_EDGE}" y="17" fill="{SOFT}">{safe(title)}</text>'
        f'<g transform="translate({(width - inner.width) / 2:g} {_TITLE + _EDGE})">{inner.svg}</g>'
    )
    return _Picture(width, height, svg)


def _ring(members: Mapping[str, _Picture], peers: Sequence[Channel]) -> _Picture:
    """Peers around a circle, a line for each pair."""
    widest, tallest = (max(getattr(m, side) for m in members.values()) for side in ("width", "height"))
    radius = max((widest + _GAP_X) * len(members) / 6.5, tallest + _GAP_Y)
    width, height = 2 * radius + widest, 1.3 * radius + tallest
    boxes = {}
    for i, (seat, picture) in enumerate(members.items()):
        turn = 2 * math.pi * i / len(members) - math.pi / 2
        x, y = width / 2 + radius * math.cos(turn), height / 2 + 0.65 * radius * math.sin(turn)
        boxes[seat] = _Box(x - picture.width / 2, y - picture.height / 2, picture.width, picture.height)
    lines = [
        f'<line x1="{boxes[a].middle:.1f}" y1="{boxes[a].y + boxes[a].height / 2:.1f}" x2="{boxes[b].middle:.1f}" '
        f'y2="{boxes[b].y + boxes[b].height / 2:.1f}" stroke="{BACK}"/>'
        for a, b in peers
    ]
    return _Picture(width, height, "".join(lines) + _placed(members, boxes))


def _layers(topology: Topology, wires: Strands) -> list[list[str]]:
    """Seats by the length of the longest way to them from a seat that nobody writes to."""
    above = senders(topology, wires.down)
    level: dict[str, int] = {}
    for seat in TopologicalSorter(above).static_order():
        level[seat] = 1 + max((level[sender] for sender in above[seat]), default=-1)
    return [[seat for seat in above if level[seat] == y] for y in range(max(level.values()) + 1)]


def _down(a: _Box, b: _Box, around: float | None) -> str:
    x1, y1, x2, y2, bend = a.middle, a.y + a.height, b.middle, b.y, _GAP_Y / 2
    if around is None:
        path = f"C{x1:.1f} {y1 + bend:.1f} {x2:.1f} {y2 - bend:.1f} {x2:.1f} {y2 - 6:.1f}"
    else:
        # Past other layers it keeps to the right of them, or it would run behind their boxes.
        side, x2, turn = max(x1, x2, around - _WIDTH / 3), x2 + 8, _GAP_Y + 8
        path = f"C{side:.1f} {y1 + bend:.1f} {side:.1f} {y1 + bend:.1f} {side:.1f} {y1 + turn:.1f} V{y2 - turn:.1f} "
        path += f"C{side:.1f} {y2 - bend:.1f} {x2:.1f} {y2 - bend:.1f} {x2:.1f} {y2 - 6:.1f}"
    return f'<path d="M{x1:.1f} {y1:.1f} {path}" fill="none" stroke="{BACK}"/>{head(x2, y2, 0, 1)}'


def _back(a: _Box, b: _Box) -> str:
    x1, y1, x2, y2 = a.middle + 14, a.y, b.middle + 14, b.y + b.height
    bend = _GAP_Y / 2
    return (
        f'<path d="M{x1:.1f} {y1:.1f} C{x1:.1f} {y1 - bend:.1f} {x2:.1f} {y2 + bend:.1f} {x2:.1f} {y2 + 6:.1f}" fill="none" '
        f'stroke="{BACK}" stroke-dasharray="4 3"/>{head(x2, y2, 0, -1)}'
    )


def _arc(a: _Box, b: _Box) -> str:
    """Between two of a row, both ways, below them."""
    x1, x2 = sorted((a.middle - 8, b.middle + 8) if a.middle > b.middle else (a.middle + 8, b.middle - 8))
    y1, y2 = (a.y + a.height, b.y + b.height)
    low = max(y1, y2) + 8 + min(_GAP_Y - 8, (x2 - x1) / 8)
    return (
        f'<path d="M{x1:.1f} {y1 + 5:.1f} C{x1:.1f} {low:.1f} {x2:.1f} {low:.1f} {x2:.1f} {y2 + 5:.1f}" fill="none" '
        f'stroke="{PEER}"/>{head(x1, y1, 0, -1, PEER)}{head(x2, y2, 0, -1, PEER)}'
    )
