"""Owns everything that can be checked before money moves, and the prices of a team's finishing calls."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial, reduce

from runtime.agents.agent import Agent
from runtime.agents.blocks import COVERS_TOKENS
from runtime.agents.context import content_of, prompt
from runtime.agents.loop import LEAST_TOKENS, Place
from runtime.agents.roles import reply_of, words_for
from runtime.attempts import chat_need
from runtime.bank.vector import Vector, fits, guards, lanewise_max, lanewise_min, pack_caps, unpack
from runtime.budget import Budget
from runtime.errors import ConfigError
from runtime.messages import Report, bundle
from runtime.models.base import ChatMessage, ChatModel, ChatRequest
from runtime.models.simulated import SimulatedModel
from runtime.protocols import OUTSIDE, Topology
from runtime.task import Task


@dataclass(frozen=True)
class RunSpec:
    """One run: a topology on a task under a budget."""

    run_id: str
    topology: Topology
    task: Task
    budget: Budget
    seed: int
    address: str = ""
    """Content address; empty until the runtime has checked the run."""
    live: bool = False
    """Whether somebody may be billed for it, or real time is needed; found by the runtime's checks."""
    scope: str = ""
    """The experiment it belongs to, whose cap it entered under; empty for a run of its own."""


@dataclass(slots=True)
class Prepared:
    """A run that passed all checks."""

    spec: RunSpec
    models: Mapping[str, ChatModel]
    places: dict[str, Place]
    channels: frozenset[tuple[str, str]]
    floors: dict[str, Vector]
    """By seat, what is kept back for its finishing calls."""
    virtual: bool


def prepare(spec: RunSpec, find: Callable[[str], ChatModel]) -> Prepared:
    """Check a run and price its finish.

    Args:
        find: gives the model of a name, or raises ConfigError.

    Raises:
        ConfigError: no model, an unknown one, no price under a dollar cap, a channel or finishing call of an unknown seat,
            or a budget too small for one call and the finish.
    """
    topology, budget = spec.topology, spec.budget
    seats = dict(topology.seats())
    if not seats:
        raise ConfigError(f"{topology.name}: the topology has no seats")
    models: dict[str, ChatModel] = {}
    for seat, agent in seats.items():
        if not agent.model_names():
            raise ConfigError(f"{topology.name}: seat {seat!r} has no model; give its Agent one, or pass model=")
        models.update({name: find(name) for name in agent.model_names()})
    if budget.usd is not None:
        for name, model in models.items():
            if model.price is None:
                raise ConfigError(
                    f"model {name!r} has no known price, so dollars cannot be capped; "
                    "give input_usd and output_usd in ostrom.toml, or drop usd= from the Budget"
                )
    if OUTSIDE in seats:
        raise ConfigError(
            f"{topology.name}: no seat may be named {OUTSIDE!r}, which is the sender of what the user hands in"
        )
    for model in models.values():
        why = model.cannot(spec.task.prompt) if isinstance(model, SimulatedModel) else None
        if why is not None:
            raise ConfigError(f"task {spec.task.id}: {why}")
    channels = frozenset(topology.channels())
    for seat in {seat for pair in channels for seat in pair} | {call.seat for call in topology.finish()}:
        if seat not in seats:
            raise ConfigError(f"{topology.name}: {seat!r} is wired but is no seat; there are {', '.join(seats)}")
    places = {seat: Place(seat, agent, 0) for seat, agent in seats.items()}
    floors: dict[str, Vector] = {}
    for call in topology.finish():
        price = _least_call(spec, seats[call.seat], models, call.mails, dearest=True)
        places[call.seat].floor = price
        floors[call.seat] = floors.get(call.seat, 0) + price
    _check_size(spec, seats, models, sum(floors.values()))
    virtual = all(m.virtual for m in models.values()) and all(t.virtual for a in seats.values() for t in a.tools)
    return Prepared(spec, models, places, channels, floors, virtual)


def _check_size(spec: RunSpec, seats: Mapping[str, Agent], models: Mapping[str, ChatModel], floor: Vector) -> None:
    finishing = {call.seat for call in spec.topology.finish()}
    first = next((a for seat, a in seats.items() if seat not in finishing), next(iter(seats.values())))
    only_finish = all(seat in finishing for seat in seats)
    least = floor + (0 if only_finish else _least_call(spec, first, models, 0, dearest=False))
    dimensions = spec.budget.dimensions
    if fits(least, pack_caps(spec.budget.caps), guards(len(dimensions))):
        return
    for name, need, cap in zip(dimensions, unpack(least, len(dimensions)), spec.budget.caps, strict=True):
        if cap is not None and need > cap:
            raise ConfigError(
                f"{spec.topology.name} on task {spec.task.id}: the budget of {cap:,} {name} is too small for one call "
                f"and the finish, which need {need:,}; raise it, or take a smaller team or a cheaper model"
            )


def _least_call(spec: RunSpec, agent: Agent, models: Mapping[str, ChatModel], mails: int, *, dearest: bool) -> Vector:
    """Upper bound of the shortest useful call of a seat with this many full mails, over its candidate models."""
    kind = reply_of(agent.role)
    words, longest = agent.prompt or words_for(agent.role), max(len(seat.encode()) for seat in spec.topology.seats())
    said = _widest_prompt(words, spec.task.prompt, mails, spec.topology.message_tokens, longest)
    request = ChatRequest(said, LEAST_TOKENS[kind], reply=kind, tools=tuple(tool.spec() for tool in agent.tools))
    prices = [chat_need(models[name], request, LEAST_TOKENS[kind]) for name in agent.model_names()]
    return reduce(partial(lanewise_max if dearest else lanewise_min, n=4), [need.at(need.least) for need in prices])


@lru_cache(4096)
def _widest_prompt(words: str, task: str, mails: int, message_tokens: int, seat: int) -> tuple[ChatMessage, ...]:
    """The longest prompt a seat can get; kept, because an experiment asks for the same one in each of its cells."""
    # Four bytes are a token for every model that counts by the rule, and bytes bound tokens for all others.
    mail = Report("x" * 4 * message_tokens, covers="x" * 4 * COVERS_TOKENS, sender="x" * seat)
    return prompt(words, content_of(bundle([mail] * mails), Task(task, id="any")), message_tokens=message_tokens)
