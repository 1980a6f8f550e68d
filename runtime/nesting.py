"""Owns what a topology of topologies comes to: all agents under their full paths, all channels, finishing calls and scopes.

A seat may be a whole topology. Its own seats then lie below its path, as in `executor[0]/planner`; a ceiling given with
`within` becomes a scope of the ledger below the run's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from runtime.agents.agent import Agent
from runtime.budget import Budget
from runtime.errors import ConfigError
from runtime.protocols import FinishCall, Topology

MAX_SEATS = 1000
MAX_DEPTH = 8
RUN_SCOPE = "run"


@dataclass(slots=True)
class Wiring:
    """A topology with everything in it, flattened."""

    agents: dict[str, Agent] = field(default_factory=dict)
    """By full path, in the order of the seats."""
    inner: dict[str, Topology] = field(default_factory=dict)
    """The topologies that are seats, by full path."""
    channels: set[tuple[str, str]] = field(default_factory=set)
    """Between full paths of one level, of agents and inner topologies alike."""
    finish: list[FinishCall] = field(default_factory=list)
    calls: int = 0
    scopes: dict[str, tuple[str, Budget]] = field(default_factory=dict)
    """Scope of each ceiling, with its parent scope."""
    scope_of: dict[str, str] = field(default_factory=dict)
    """Innermost scope of each agent."""

    def lies_in(self, seat: str, scope: str) -> bool:
        """Whether an agent draws on a scope, at once or through scopes below it."""
        at = self.scope_of[seat]
        while at != scope and at in self.scopes:
            at = self.scopes[at][0]
        return at == scope


def wired(topology: Topology) -> Wiring:
    """Flatten a topology.

    Raises:
        ConfigError: no seats, too many of them, nested too deep, or a channel or finishing call of an unknown seat.
    """
    wiring = Wiring()
    _add(wiring, topology, "", RUN_SCOPE, 1)
    if len(wiring.agents) > MAX_SEATS:
        raise ConfigError(f"{topology.name}: {len(wiring.agents)} seats are too many; at most {MAX_SEATS}")
    return wiring


def agents_of(topology: Topology) -> Mapping[str, Agent]:
    """All agents of a topology by full path, those of inner topologies too."""
    return wired(topology).agents


def _add(wiring: Wiring, topology: Topology, prefix: str, scope: str, depth: int) -> None:
    seats = topology.seats()
    if not seats:
        raise ConfigError(f"{topology.name}: the topology has no seats")
    if depth > MAX_DEPTH:
        raise ConfigError(f"{topology.name}: topologies are nested more than {MAX_DEPTH} deep, at {prefix}")
    channels, finish = set(topology.channels()), topology.finish()
    for seat in {seat for pair in channels for seat in pair} | {call.seat for call in finish}:
        if seat not in seats:
            raise ConfigError(f"{topology.name}: {seat!r} is wired but is no seat; there are {', '.join(seats)}")
    wiring.channels |= {(prefix + sender, prefix + receiver) for sender, receiver in channels}
    wiring.calls += topology.calls()
    for seat, member in seats.items():
        path = prefix + seat
        if isinstance(member, Agent):
            wiring.agents[path] = member
            wiring.scope_of[path] = scope
            wiring.finish += [FinishCall(path, call.mails) for call in finish if call.seat == seat]
            continue
        wiring.inner[path] = member
        wiring.calls -= 1  # that ask is made by the calls inside
        below = scope
        if member.ceiling is not None:
            below = f"{RUN_SCOPE}/{path}"
            wiring.scopes[below] = (scope, member.ceiling)
        _add(wiring, member, f"{path}/", below, depth + 1)
