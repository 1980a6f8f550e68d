"""Owns a wiring as it is drawn: channels by their direction, and the Mermaid text; `benchmarks.drawings` makes SVG of it."""

from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple

from runtime.agents.agent import Agent
from runtime.protocols import Topology

MOST_SEATS, MOST_LETTERS = 200, 80

Channel = tuple[str, str]


class Strands(NamedTuple):
    """The channels of one level by how they are drawn."""

    down: list[Channel]
    """From a layer to a later one."""
    back: list[Channel]
    """Against the order of the seats, for another round."""
    peers: list[Channel]
    """Both ways between seats of one role, each pair once."""


def mermaid(topology: Topology) -> str:
    """The wiring as a Mermaid flowchart; see `topologies.Topology.draw`."""
    lines = ["flowchart TD"]
    _level(topology, "n", "  ", lines)
    return "\n".join(lines) + "\n"


def role(seat: str) -> str:
    """A seat without its numbers: `left/executor[3]` is `left/executor`."""
    return "".join(piece.partition("]")[2] if i else piece for i, piece in enumerate(seat.split("[")))


def strands(topology: Topology) -> Strands:
    """Sort the channels of one level."""
    channels = list(dict.fromkeys(topology.channels()))
    known, place = set(channels), {seat: i for i, seat in enumerate(topology.seats())}
    mutual = {(a, b) for a, b in channels if (b, a) in known and role(a) == role(b)}
    rest = [channel for channel in channels if channel not in mutual]
    peers = [(a, b) for a, b in channels if (a, b) in mutual and place[a] < place[b]]
    try:
        tuple(TopologicalSorter(senders(topology, rest)).static_order())
    except CycleError:
        # Who answers each other has no layers; what runs with the order of the seats has.
        return Strands(
            [(a, b) for a, b in rest if place[a] < place[b]], [(a, b) for a, b in rest if place[a] > place[b]], peers
        )
    return Strands(rest, [], peers)


def senders(topology: Topology, channels: Iterable[Channel]) -> dict[str, list[str]]:
    """By seat, who writes to it along these channels."""
    found: dict[str, list[str]] = {seat: [] for seat in topology.seats()}
    for sender, receiver in channels:
        found[receiver].append(sender)
    return found


def _level(topology: Topology, stem: str, indent: str, lines: list[str]) -> None:
    seats = topology.seats()
    if len(seats) > MOST_SEATS:
        lines.append(f'{indent}{stem}["{len(seats)} seats"]')
        return
    names = {seat: f"{stem}{i}" for i, seat in enumerate(seats)}
    for seat, member in seats.items():
        if isinstance(member, Agent):
            lines.append(f'{indent}{names[seat]}["{_quoted(seat)}"]')
        else:
            lines.append(f'{indent}subgraph {names[seat]}["{_quoted(f"{seat}: {member.name}")}"]')
            _level(member, f"{names[seat]}x", indent + "  ", lines)
            lines.append(f"{indent}end")
    sorted_ = strands(topology)
    for wired, arrow in ((sorted_.down, "-->"), (sorted_.back, "-.->"), (sorted_.peers, "<-->")):
        lines += [f"{indent}{names[sender]} {arrow} {names[receiver]}" for sender, receiver in wired]


def _quoted(text: str) -> str:
    """Text inside the quotes of a Mermaid label, where HTML would count and a quote would end it; of a long one its end."""
    named = {"#": "#35;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "`": "#96;", "&": "#amp;", "\\": "#92;"}
    shown = "".join(sign for sign in text if sign.isprintable())
    shown = shown if len(shown) <= MOST_LETTERS else f"…{shown[1 - MOST_LETTERS :]}"
    return "".join(named.get(sign, sign) for sign in shown)
