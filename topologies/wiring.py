"""Owns the checks of a user's own wiring: nodes become seats, edges become senders, and what cannot work is shown by its path."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from runtime.agents.agent import Agent
from runtime.errors import ConfigError
from runtime.nesting import MAX_SEATS
from topologies.base import Topology, check_member, numbered

Member = Agent | Topology
Node = Member | Sequence[Member]


@dataclass(frozen=True, slots=True)
class Wires:
    """A wiring that can work."""

    seats: Mapping[str, Member]
    groups: Mapping[str, tuple[str, ...]]
    """The seats of each node that is several members."""
    senders: Mapping[str, tuple[str, ...]]
    """By seat, who writes to it, in the order of the seats."""
    order: tuple[str, ...]
    """Every seat after all of its senders; the answering one comes last."""


def wires_of(name: str, nodes: Mapping[str, Node], edges: Sequence[tuple[str, str]]) -> Wires:
    """Check nodes and edges, and take them apart into seats.

    Raises:
        ConfigError: see `Graph`.
    """
    # Counted before anything is walked, so that a wiring out of all proportion is refused at once.
    n = sum(len(node) if isinstance(node, Sequence) else 1 for node in nodes.values()) if len(nodes) <= MAX_SEATS else 0
    empty = next((node for node, member in nodes.items() if isinstance(member, Sequence) and not member), None)
    if empty is not None:
        raise ConfigError(f"{name}: node {empty!r} has no members; leave it out, or give it some")
    if not 1 <= n <= MAX_SEATS or len(edges) > n * n:
        size = f"{n or len(nodes):,} nodes and {len(edges):,} edges"
        raise ConfigError(f"{name}: {size}; a graph has 1 to {MAX_SEATS:,} nodes and no edge twice")
    _check_members(name, nodes)
    senders = _senders(name, nodes, edges)
    order = _order(name, senders)
    _check_ends(name, nodes, senders)
    groups = {node: tuple(numbered(node, member)) for node, member in nodes.items() if isinstance(member, Sequence)}
    seats: dict[str, Member] = {}
    for node, member in nodes.items():
        more = numbered(node, member) if isinstance(member, Sequence) else {node: member}
        twice = next((seat for seat in more if seat in seats), None)
        if twice is not None:
            raise ConfigError(f"{name}: node {node!r} makes a second seat {twice}")
        seats |= more
    seats_of = {node: groups.get(node, (node,)) for node in nodes}
    rank = {node: i for i, node in enumerate(nodes)}
    full = {
        seat: tuple(s for sender in sorted(senders[node], key=rank.__getitem__) for s in seats_of[sender])
        for node in nodes
        for seat in seats_of[node]
    }
    return Wires(seats, groups, full, tuple(seat for node in order for seat in seats_of[node]))


def _check_members(name: str, nodes: Mapping[str, Node]) -> None:
    for node, member in nodes.items():
        many = [*member] if isinstance(member, Sequence) and not isinstance(member, str) else [member]
        for one in many:
            check_member(f"{name}: {node}", one)


def _senders(name: str, nodes: Mapping[str, Node], edges: Sequence[tuple[str, str]]) -> dict[str, dict[str, None]]:
    """By node, its senders; dicts, because sets of strings have another order in each process."""
    senders: dict[str, dict[str, None]] = {node: {} for node in nodes}
    for sender, receiver in edges:
        for end in (sender, receiver):
            if end not in nodes:
                raise ConfigError(f"{name}: edge {sender} → {receiver} names {end!r}, which is no node")
        if sender == receiver:
            raise ConfigError(f"{name}: node {sender!r} writes to itself")
        if sender in senders[receiver]:
            raise ConfigError(f"{name}: edge {sender} → {receiver} is there twice")
        senders[receiver][sender] = None
    return senders


def _order(name: str, senders: Mapping[str, Mapping[str, None]]) -> list[str]:
    try:
        return list(TopologicalSorter(senders).static_order())
    except CycleError as error:
        raise ConfigError(f"{name}: the wiring has a cycle: {' → '.join(error.args[1])}") from None


def _check_ends(name: str, nodes: Mapping[str, Node], senders: Mapping[str, Mapping[str, None]]) -> None:
    """Refuse nodes without edges, and all but exactly one seat that nobody listens to."""
    heard = {sender for group in senders.values() for sender in group}
    alone = [node for node in nodes if node not in heard and not senders[node]]
    if alone and len(nodes) > 1:
        raise ConfigError(f"{name}: node {alone[0]!r} has no edges: nobody writes to it, and nobody hears it")
    last = [node for node in nodes if node not in heard]
    if len(last) > 1:
        paths = "; ".join(_path(node, senders) for node in last[:3])
        raise ConfigError(
            f"{name}: exactly one node must have no listener, to answer; there are {', '.join(last)}: {paths}"
        )
    answers = nodes[last[0]]
    if isinstance(answers, Sequence) and len(answers) > 1:
        raise ConfigError(
            f"{name}: node {last[0]!r} is to answer, and has {len(answers)} members; write to one more node"
        )


def _path(node: str, senders: Mapping[str, Mapping[str, None]]) -> str:
    """A way to the node from where the mail begins."""
    path = [node]
    while senders[path[-1]]:
        path.append(next(iter(senders[path[-1]])))
    return " → ".join(reversed(path))
