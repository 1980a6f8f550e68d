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
MAX_TIMES = 1_000_000
"""How often a full run may ask an inner topology; what is kept for its finish is a multiple of that."""
RUN_SCOPE = "run"


@dataclass(frozen=True, slots=True)
class Level:
    """Where a topology stands in the ones around it. Its length of messages and its pacing hold for its own seats."""

    topology: Topology
    prefix: str = ""
    """Of the paths of its seats."""
    scope: str = RUN_SCOPE
    """The innermost scope its seats draw on."""
    depth: int = 1
    times: int = 1
    """How often it is asked in a full run."""
    given: int = 0
    """The most messages it is handed at once; whoever is asked about nothing else inside reads them."""
    finishes: bool = False
    """Whether it is the finishing seat of the topology around it, or of a finishing one."""


@dataclass(slots=True)
class Wiring:
    """A topology with everything in it, flattened."""

    topology: Topology
    agents: dict[str, Agent] = field(default_factory=dict)
    """By full path, in the order of the seats."""
    inner: dict[str, Topology] = field(default_factory=dict)
    """The topologies that are seats, by full path."""
    channels: set[tuple[str, str]] = field(default_factory=set)
    """Between full paths of one level, of agents and inner topologies alike."""
    mails: dict[str, int] = field(default_factory=dict)
    """By agent, the most messages that one prompt holds, those given to the seats around it included."""
    finish: list[tuple[FinishCall, int]] = field(default_factory=list)
    """Each finishing call, and how often it is made because the topology it ends is asked that often."""
    asks: dict[str, int] = field(default_factory=dict)
    """By scope, the calls of a full run that draw on it."""
    scopes: dict[str, tuple[str, Budget]] = field(default_factory=dict)
    """Scope of each ceiling, with its parent scope."""
    level_of: dict[str, Level] = field(default_factory=dict)
    """By agent, the topology whose seat it has."""

    def lies_in(self, seat: str, scope: str) -> bool:
        """Whether an agent draws on a scope, at once or through scopes below it."""
        at = self.level_of[seat].scope
        while at != scope and at in self.scopes:
            at = self.scopes[at][0]
        return at == scope

    def around(self, prefix: str) -> Topology:
        """The topology whose seats have paths with this prefix."""
        return self.inner[prefix.removesuffix("/")] if prefix else self.topology


def wired(topology: Topology) -> Wiring:
    """Flatten a topology.

    Raises:
        ConfigError: no seats, too many of them, nested too deep, or a channel or finishing call of an unknown seat.
    """
    wiring = Wiring(topology)
    _add(wiring, Level(topology))
    # Only now, because formulas go down to the bottom of what had no checked depth before.
    wiring.asks[RUN_SCOPE] = topology.calls()
    return wiring


def agents_of(topology: Topology) -> Mapping[str, Agent]:
    """All agents of a topology by full path, those of inner topologies too."""
    return wired(topology).agents


def _add(wiring: Wiring, at: Level) -> None:
    topology = at.topology
    seats = topology.seats()
    if not seats:
        raise ConfigError(f"{topology.name}: the topology has no seats")
    if at.depth > MAX_DEPTH:
        raise ConfigError(f"{topology.name}: topologies are nested more than {MAX_DEPTH} deep, at {at.prefix}")
    asks, mails = topology.asks(), topology.mails()
    channels, finish = set(topology.channels()), [(call, 1) for call in topology.finish()]
    for seat in {seat for pair in channels for seat in pair} | {call.seat for call, _ in finish}:
        if seat not in seats:
            raise ConfigError(f"{topology.name}: {seat!r} is wired but is no seat; there are {', '.join(seats)}")
    if at.finishes:
        # It is one call to the topology that it finishes, and of use only if it can be made to its end.
        finish = [(FinishCall(seat, mails.get(seat, 0)), asks.get(seat, 1)) for seat in seats]
    # One string a seat: a run with all of its wiring lives as long as its calls do, beside thousands of others.
    paths = {seat: at.prefix + seat for seat in seats}
    wiring.channels |= {(paths[sender], paths[receiver]) for sender, receiver in channels}
    for seat, member in seats.items():
        path = paths[seat]
        if path in wiring.agents or path in wiring.inner:
            raise ConfigError(f"{topology.name}: two seats have the path {path}; name one of them without a /")
        most = _with(at.given, mails.get(seat, 0))
        if isinstance(member, Agent):
            wiring.agents[path] = member
            wiring.level_of[path] = at
            wiring.mails[path] = most
            calls = [(call.mails, n) for call, n in finish if call.seat == seat]
            wiring.finish += [(FinishCall(path, _with(at.given, read)), n * at.times) for read, n in calls]
            if len(wiring.agents) > MAX_SEATS:
                raise ConfigError(f"{topology.name}: more than {MAX_SEATS} agents in all, counted up to {path}")
            continue
        wiring.inner[path] = member
        below, times = at.scope, at.times * asks.get(seat, 1)
        if times > MAX_TIMES:
            raise ConfigError(f"{topology.name}: a full run asks {path} {times:,} times; at most {MAX_TIMES:,}")
        if member.ceiling is not None:
            below = f"{RUN_SCOPE}/{path}"
            wiring.scopes[below] = (at.scope, member.ceiling)
        finishes = any(call.seat == seat for call, _ in finish)
        _add(wiring, Level(member, f"{path}/", below, at.depth + 1, times, most, finishes))
        if member.ceiling is not None:
            wiring.asks[below] = times * member.calls()


def _with(given: int, mails: int) -> int:
    """Messages in a prompt: the part its topology was given stands beside its own, and their mails where it has none."""
    return max(given, mails) + 1 if given else mails
