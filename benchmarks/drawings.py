"""Owns the pictures of topologies: seats as boxes, channels as arrows, layer by layer, as SVG for the report."""

from collections.abc import Iterable, Sequence
from graphlib import CycleError, TopologicalSorter
from html import escape

from topologies.base import Topology

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y = 104, 26, 16, 44


def drawings_of(topologies: Iterable[Topology]) -> dict[str, str]:
    """One drawing per topology that has more than one seat, by its name."""
    return {topology.name: draw(topology) for topology in topologies if len(topology.seats()) > 1}


def draw(topology: Topology, most: int = 40) -> str:
    """An SVG of the wiring; beyond `most` seats only their number is shown."""
    layers = _layers(topology)
    if len(topology.seats()) > most:
        layers = [[f"{len(topology.seats())} seats"]]
    width = max(len(layer) for layer in layers) * (_WIDTH + _GAP_X) + _GAP_X
    height = len(layers) * (_HEIGHT + _GAP_Y)
    places = {
        seat: (
            (width - len(layer) * (_WIDTH + _GAP_X)) / 2 + _GAP_X / 2 + i * (_WIDTH + _GAP_X),
            8 + y * (_HEIGHT + _GAP_Y),
        )
        for y, layer in enumerate(layers)
        for i, seat in enumerate(layer)
    }
    arrows = [_arrow(places[a], places[b]) for a, b in topology.channels() if a in places and b in places]
    boxes = [
        f'<rect x="{x:g}" y="{y:g}" width="{_WIDTH}" height="{_HEIGHT}" rx="4" fill="#ffffff" stroke="#333333"/>'
        f'<text x="{x + _WIDTH / 2:g}" y="{y + 17:g}" font-size="11" text-anchor="middle" fill="#111111">{escape(seat)}</text>'
        for seat, (x, y) in places.items()
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" role="img" aria-label="{escape(topology.name)}">{"".join(arrows + boxes)}</svg>'
    )


def _layers(topology: Topology) -> list[list[str]]:
    """Seats by the length of the longest way to them from a seat that nobody writes to."""
    senders: dict[str, list[str]] = {seat: [] for seat in topology.seats()}
    for sender, receiver in topology.channels():
        senders[receiver].append(sender)
    level: dict[str, int] = {}
    try:
        order = tuple(TopologicalSorter(senders).static_order())
    except CycleError:
        # Who answers each other has no layers.
        return [list(senders)]
    for seat in order:
        level[seat] = 1 + max((level[sender] for sender in senders[seat]), default=-1)
    return [[seat for seat in senders if level[seat] == y] for y in range(max(level.values()) + 1)]


def _arrow(start: Sequence[float], end: Sequence[float]) -> str:
    x1, y1, x2, y2 = start[0] + _WIDTH / 2, start[1] + _HEIGHT, end[0] + _WIDTH / 2, end[1]
    return (
        f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2 - 4:g}" stroke="#777777"/>'
        f'<circle cx="{x2:g}" cy="{y2 - 3:g}" r="3" fill="#777777"/>'
    )
