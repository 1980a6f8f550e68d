"""Owns everything that can be checked before money moves, and the prices of a team's finishing calls."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial, reduce

from runtime.agents.agent import Agent
from runtime.agents.blocks import COVERS_TOKENS
from runtime.agents.context import STRATEGY_TOKENS, content_of, prompt
from runtime.agents.loop import LEAST_TOKENS, Place
from runtime.agents.roles import reply_of, words_for
from runtime.bank.vector import Vector, fits, guards, lanewise_max, lanewise_min, pack, pack_caps, unpack
from runtime.budget import Budget, Caps, usd_text
from runtime.errors import ConfigError
from runtime.messages import Report, bundle
from runtime.models.base import ChatMessage, ChatModel, ChatRequest
from runtime.models.recorded import ReplayedModel
from runtime.models.simulated import SimulatedModel
from runtime.needs import asking_need, chat_need
from runtime.nesting import RUN_SCOPE, Wiring, wired
from runtime.protocols import OUTSIDE, Topology
from runtime.shares import shares_of
from runtime.spread import Equipment
from runtime.task import Task

_ONE_CALL = pack((0, 0, 1, 0))


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
    equipment: tuple[Equipment, ...] = ()
    """What its seats ask of their hosts; found by the runtime's checks."""


@dataclass(slots=True)
class Prepared:
    """A run that passed all checks."""

    spec: RunSpec
    models: Mapping[str, ChatModel]
    wiring: Wiring
    places: dict[str, Place]
    floors: dict[str, Vector]
    """By seat, what is kept back for its finishing calls."""
    ceilings: dict[str, Caps]
    """Caps of the scopes below the run's, in the run's dimensions; parents come first."""
    virtual: bool


def prepare(spec: RunSpec, find: Callable[[str], ChatModel]) -> Prepared:
    """Check a run and price its finish.

    Args:
        find: gives the model of a name, or raises ConfigError.

    Raises:
        ConfigError: no model, an unknown one, no price under a dollar cap, a channel or finishing call of an unknown seat,
            a ceiling or a tool's cap that limits nothing, a budget that never ends what goes on until it does, or one too
            small for one call and the finish.
    """
    topology, budget = spec.topology, spec.budget
    wiring = wired(topology)
    seats = wiring.agents
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
    _check_windows(wiring, models)
    prices = [
        (call.seat, times, _least_call(spec, wiring, call.seat, models, call.mails, dearest=True))
        for call, times in wiring.finish
    ]
    floors: dict[str, Vector] = {}
    for seat, times, price in prices:
        floors[seat] = floors.get(seat, 0) + times * price
    _check_limits(wiring, budget)
    ceilings = {scope: _ceiling(scope, ceiling, budget) for scope, (_, ceiling) in wiring.scopes.items()}
    for scope, caps in ((RUN_SCOPE, budget.caps), *ceilings.items()):
        _check_size(spec, wiring, scope, caps, models, floors)
    shares = shares_of(budget, wiring, ceilings, floors)
    places = {seat: Place(seat, agent, shares[seat], wiring.level_of[seat]) for seat, agent in seats.items()}
    for seat, _, price in prices:
        places[seat].floor = price
    virtual = all(m.virtual for m in models.values()) and all(t.virtual for a in seats.values() for t in a.tools)
    _check_end(spec, wiring, ceilings, models, virtual=virtual)
    return Prepared(spec, models, wiring, places, floors, ceilings, virtual)


def _check_windows(wiring: Wiring, models: Mapping[str, ChatModel]) -> None:
    """Refuse a seat whose mail alone does not fit into its window: b messages of m tokens need b m ≤ W. The plan of a router is
    read beside them.

    Source: J. Liu, L. Kong, J. Pei, "Phase Transition for Budgeted Multi-Agent Synergy", 2026 (arXiv:2601.17311).
    """
    for seat, agent in wiring.agents.items():
        tokens, plan = wiring.level_of[seat].topology.message_tokens, _plan_tokens(agent)
        need = wiring.mails[seat] * tokens + plan
        for name in agent.model_names():
            if need > (window := models[name].window_tokens):
                beside = f"and a plan of {plan} " if plan else ""
                raise ConfigError(
                    f"{wiring.topology.name}: seat {seat!r} may read {wiring.mails[seat]} messages of {tokens} tokens {beside}at "
                    f"once, {need:,} in all, and the window of {name} is {window:,}; wire fewer seats to it, "
                    "shorten message_tokens, or give it a model with a wider window"
                )


def _check_size(
    spec: RunSpec, wiring: Wiring, scope: str, caps: Caps, models: Mapping[str, ChatModel], floors: Mapping[str, Vector]
) -> None:
    """Refuse a run, or a part of it under a ceiling of its own, that cannot pay for one call and its finish."""
    seats = [seat for seat in wiring.agents if wiring.lies_in(seat, scope)]
    others = [seat for seat in seats if seat not in floors]
    first = _least_call(spec, wiring, others[0], models, 0, dearest=False) if others else 0
    sure = {names[0] for seat in seats if len(names := wiring.agents[seat].model_names()) == 1}
    # Questions to endpoints come back nearly whole before the call that needs their answers; that they were calls stays.
    asked = [need - _ONE_CALL for name in sure if (need := asking_need(models[name]))]
    least = sum(floors.get(seat, 0) for seat in seats) + len(asked) * _ONE_CALL
    least += reduce(partial(lanewise_max, n=4), asked, first)
    dimensions = spec.budget.dimensions
    if fits(least, pack_caps(caps), guards(len(dimensions))):
        return
    whose = _whose(scope) + ("" if scope == RUN_SCOPE else ",")
    for name, need, cap in zip(dimensions, unpack(least, len(dimensions)), caps, strict=True):
        if cap is not None and need > cap:
            has, needs = (f"${usd_text(n)}" if name == "pico_usd" else f"{n:,} {name}" for n in (cap, need))
            raise ConfigError(
                f"{spec.topology.name} on task {spec.task.id}: {whose} of {has} is too small for one call "
                f"and the finish, which need {needs}; raise it, or take a smaller team or a cheaper model"
            )


def _check_limits(wiring: Wiring, budget: Budget) -> None:
    """Refuse what looks like a limit and limits nothing.

    A ceiling on the run's own team would be a second budget of the run, and arms are matched by the first. A cap of a tool
    that nobody has is a slip where another tool goes without a cap. Where none does it is harmless, and the arms of one
    experiment may share a budget whatever their tools are.
    """
    topology = wiring.topology
    if topology.ceiling is not None:
        raise ConfigError(
            f"{topology.name}: within(...) limits a team in a seat of another one, and this is the team of a whole run; "
            f"give its limit of {topology.ceiling.describe()} as budget=, or in an experiment as one of budgets=[...]"
        )
    for scope, limits in ((RUN_SCOPE, budget), *((scope, ceiling) for scope, (_, ceiling) in wiring.scopes.items())):
        if not isinstance(limits.tool_calls, Mapping):
            continue
        known = {tool.name for seat, a in wiring.agents.items() if wiring.lies_in(seat, scope) for tool in a.tools}
        unknown, without = sorted(limits.tool_calls.keys() - known), sorted(known - limits.tool_calls.keys())
        if unknown and without:
            raise ConfigError(
                f"{topology.name}: {_whose(scope)} limits calls of {unknown[0]}, a tool that nobody in it has, and not "
                f"those of {', '.join(without)}; name the one that is meant, or give each of them a cap"
            )


def _check_end(
    spec: RunSpec, wiring: Wiring, ceilings: Mapping[str, Caps], models: Mapping[str, ChatModel], *, virtual: bool
) -> None:
    """Refuse a topology that goes on until it is refused, where its calls need not use up anything that is limited.

    In virtual time a deadline is no such limit: a call may take none of it.
    """
    timed = spec.budget.seconds is not None and not virtual
    # A replayed run came to its end, and of its models only what the recorded calls held is known.
    if timed or any(isinstance(model, ReplayedModel) for model in models.values()):
        return
    for seat, level in wiring.level_of.items():
        if not getattr(level.topology, "fill", False):
            continue
        least = unpack(_least_call(spec, wiring, seat, models, 0, dearest=False), 4)
        limits = [spec.budget.caps, *(caps for scope, caps in ceilings.items() if wiring.lies_in(seat, scope))]
        if not any(cap is not None and used for caps in limits for cap, used in zip(caps, least, strict=False)):
            raise ConfigError(
                f"{level.topology.name} goes on until its budget is used up, and a call of seat {seat!r} need not use up "
                f"any of {spec.budget.describe()}; limit calls= or tokens= too"
            )


def _whose(scope: str) -> str:
    return "the budget" if scope == RUN_SCOPE else f"the ceiling of {scope.removeprefix(RUN_SCOPE + '/')}"


def _ceiling(scope: str, ceiling: Budget, budget: Budget) -> Caps:
    """A ceiling's caps in the run's dimensions.

    Raises:
        ConfigError: it limits seconds, or a tool that the run's budget does not name.
    """
    if ceiling.seconds is not None:
        raise ConfigError(
            f"{_whose(scope)} limits seconds, and only a run has a deadline; put seconds= into its Budget"
        )
    caps = dict(zip(ceiling.dimensions, ceiling.caps, strict=True))
    unknown = [name.partition(".")[2] for name in caps if name not in budget.dimensions]
    if unknown:
        raise ConfigError(
            f"{_whose(scope)} limits calls of {unknown[0]}, which the run does not count by itself; give that tool a cap in "
            "the run's Budget too, in tool_calls={...}"
        )
    return tuple(caps.get(name) for name in budget.dimensions)


def _least_call(
    spec: RunSpec, wiring: Wiring, seat: str, models: Mapping[str, ChatModel], mails: int, *, dearest: bool
) -> Vector:
    """Upper bound of the shortest useful call of a seat with this many full mails, over its candidate models."""
    agent = wiring.agents[seat]
    kind = reply_of(agent.role)
    words, longest = agent.prompt or words_for(agent.role), max(len(seat.encode()) for seat in wiring.agents)
    tokens, plan = wiring.level_of[seat].topology.message_tokens, _plan_tokens(agent) if dearest else 0
    said = _widest_prompt(words, spec.task.prompt, mails, tokens, longest, plan)
    request = ChatRequest(said, LEAST_TOKENS[kind], reply=kind, tools=tuple(tool.spec() for tool in agent.tools))
    prices = [chat_need(models[name], request, LEAST_TOKENS[kind]) for name in agent.model_names()]
    return reduce(partial(lanewise_max if dearest else lanewise_min, n=4), [need.at(need.least) for need in prices])


def _plan_tokens(agent: Agent) -> int:
    """The longest plan that may stand in its prompt: only a router hands it one."""
    return 0 if isinstance(agent.model, str) else STRATEGY_TOKENS


@lru_cache(4096)
def _widest_prompt(
    words: str, task: str, mails: int, message_tokens: int, seat: int, plan: int
) -> tuple[ChatMessage, ...]:
    """The longest prompt a seat can get; kept, because an experiment asks for the same one in each of its cells."""
    # Four bytes are a token for every model that counts by the rule, and bytes bound tokens for all others.
    mail = Report("x" * 4 * message_tokens, covers="x" * 4 * COVERS_TOKENS, sender="x" * seat)
    content, strategy = content_of(bundle([mail] * mails), Task(task, id="any")), ("x" * 4 * plan,) if plan else ()
    return prompt(words, content, message_tokens=message_tokens, strategy=strategy)
