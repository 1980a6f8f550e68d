"""Whole runs of drawn teams under drawn budgets, with models that fail in every way: no cap is passed, a seed decides all."""

from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
from hypothesis import given
from hypothesis import strategies as st

from policies import FixedPacing, StrategyAuction
from runtime.agents.agent import Agent
from runtime.agents.tools import Tool
from runtime.bank.client import BankClient
from runtime.bank.live import Life, LiveJournal
from runtime.bank.store import Entry
from runtime.budget import Budget
from runtime.clock import LoopClock
from runtime.errors import BadModelReply, ConfigError, ModelRateLimited, ModelRefused, ModelTimeout
from runtime.host import run_virtual
from runtime.ids import draw
from runtime.messages import Bid, Part, Plan, Reply, Report, Verdict, Vote, reply_json
from runtime.models.base import ChatReply, ChatRequest, ToolCall, prompt_tokens
from runtime.preflight import RunSpec, prepare
from runtime.result import RunResult
from runtime.run import SCOPE, Run
from runtime.task import Task
from runtime.trampoline import nap_s
from runtime.usage import Price, Usage
from topologies import Chain, Graph, Independent, Single, Star, Topology, Tree

LOOK = Tool("look", "Looks.", lambda: "seen", {}, usd="0.000000001", virtual=True)


class Unreliable:
    """Answers, or fails, by the draw of its seed; latencies are whole seconds, so calls end at the same instant."""

    shrinkable, window_tokens = True, 100_000

    def __init__(self, name: str, *, failing: float, seconds: int, naps: bool, virtual: bool) -> None:
        self.name, self.virtual, self.naps = name, virtual, naps
        self.price: Price | None = Price(2, 3) if name == "m" else Price(5, 6)
        self.failing, self.seconds = failing, seconds

    def bound(self, request: ChatRequest) -> Usage:
        return Usage(prompt_tokens(request), request.max_tokens)

    async def complete(self, request: ChatRequest) -> ChatReply:
        seed = request.seed
        if self.virtual:
            await nap_s(1 + int(draw(seed, "latency") * self.seconds))
        else:
            await anyio.lowlevel.checkpoint()
        if draw(seed, "fails", len(request.messages)) < self.failing:
            errors: list[Callable[[], Exception]] = [
                lambda: ModelTimeout(self.name, 1),
                lambda: BadModelReply(self.name, f"cut at {seed % 7}"),
                lambda: ModelRefused(self.name, 400, f"code {seed % 7}"),
                lambda: ModelRateLimited(self.name, 0.0),
                lambda: ValueError(seed % 5),
            ]
            raise errors[seed % 5]()
        usage = Usage(prompt_tokens(request), int(request.max_tokens * draw(seed, "used")))
        if request.tools and draw(seed, "calls a tool") < 0.5:
            return ChatReply("", usage, "tool_calls", (ToolCall("1", "look", "{}"),))
        answer = str(seed % 3)
        replies: dict[str, Reply] = {
            "plan": Plan(tuple(Part(f"part {i}") for i in range(6))),
            "report": Report(answer),
            "verdict": Verdict("accept", answer),
            "bid": Bid((answer,)),
            "vote": Vote((seed % 6, seed % 5)),
        }
        spoilt = draw(seed, "spoilt") < self.failing / 2
        return ChatReply("{" if spoilt else reply_json(replies[request.reply]), None if seed % 11 == 0 else usage)


def _graph(model: Any) -> Graph:
    nodes = {**{f"n{i}": Agent("executor") for i in range(5)}, "mid": Agent("executor"), "last": Agent("verifier")}
    edges = [*((f"n{i}", "mid") for i in range(3)), ("mid", "last"), ("n3", "last"), ("n4", "last")]
    return Graph(nodes, edges, model=model)


def _with_tools(model: Any) -> Star:
    return Star([Agent("executor", tools=(LOOK,))] * 3, model=model)


teams = st.sampled_from(
    [
        lambda model: Star(5, model=model),
        lambda model: Tree(2, 2, model=model),
        lambda model: Tree(3, 1, model=model),
        lambda model: Independent(7, model=model),
        lambda model: Chain(3, model=model),
        lambda model: Single(fill=True, model=model),
        _graph,
        _with_tools,
    ]
)
budgets = st.builds(
    Budget,
    tokens=st.none() | st.integers(1500, 9000),
    usd=st.none() | st.sampled_from(["0.00000001", "0.00000002", "0.00000005"]),
    calls=st.integers(4, 14),
    seconds=st.none() | st.integers(1, 9),
)
routers = st.sampled_from(["m", StrategyAuction("m", "n")])


def drawn_spec(team: Any, router: Any, budget: Budget, effort: int, seed: int) -> RunSpec:
    topology: Topology = team(router)
    topology.pacing = FixedPacing(effort)
    return RunSpec("run", topology, Task("How many?", answer="1"), budget, seed)


def kept_to(budget: Budget, result: RunResult) -> None:
    """What must hold whatever happened."""
    total = result.spend.total
    assert not result.overspent
    for spent, cap in zip((total.tokens, total.pico_usd, total.calls, total.tool_calls), budget.caps, strict=True):
        assert cap is None or spent <= cap
    for row in result.attempts:
        assert row.state in {"settled", "charged_max", "released"}
        assert row.input_tokens + row.output_tokens <= row.held_tokens
        assert row.pico_usd <= row.held_pico_usd
        assert row.max_tokens <= row.wanted_tokens
    assert (result.status == "completed") == (result.reason == "")
    assert RunResult.from_json(result.to_json()) == result


@given(
    teams,
    routers,
    budgets,
    st.sampled_from([100, 300, 900]),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.1, 0.3]),
    st.sampled_from([1, 3]),
    st.booleans(),
)
def test_a_seed_decides_everything_whatever_fails_and_whoever_is_woken_first(
    team: Any, router: Any, budget: Budget, effort: int, seed: int, failing: float, seconds: int, naps: bool
) -> None:
    models = {n: Unreliable(n, failing=failing, seconds=seconds, naps=naps, virtual=True) for n in "mn"}
    spec = drawn_spec(team, router, budget, effort, seed)
    try:
        results = run_virtual([spec] * 4, models.__getitem__)
    except ConfigError:
        return  # too small for one call and the finish
    kept_to(budget, results[0])
    assert len({result.to_json() for result in results}) == 1


@given(
    teams,
    routers,
    budgets,
    st.sampled_from([100, 300, 900]),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.1, 0.3]),
    st.integers(1, 4),
)
def test_a_live_run_keeps_its_caps_gives_back_its_places_and_leaves_nothing_open(
    team: Any, router: Any, budget: Budget, effort: int, seed: int, failing: float, places: int
) -> None:
    models = {n: Unreliable(n, failing=failing, seconds=0, naps=False, virtual=False) for n in "mn"}
    spec = drawn_spec(team, router, budget, effort, seed)
    entries: list[Entry] = []

    async def disk(parts: Any) -> list[None]:
        await anyio.lowlevel.checkpoint()
        entries.extend(op for ops in parts for op in ops if isinstance(op, Entry))
        return [None for _ in parts]

    async def main() -> None:
        try:
            prepared = prepare(spec, models.__getitem__)
        except ConfigError:
            return
        limiter = anyio.CapacityLimiter(places)
        journal = LiveJournal("run", BankClient(disk), Life(1, [], []), len(budget.dimensions))
        run = Run(prepared, LoopClock(), journal, lambda model, need: Place(limiter), 1)
        result = await run.execute()

        kept_to(budget, result)
        assert limiter.borrowed_tokens == 0
        scope = run.ledger.scopes[SCOPE]
        assert (scope.held, scope.open_holds, run.ledger.waiting) == (0, 0, 0)
        last = {(entry.key, entry.try_): entry.state for entry in entries if entry.state != "unanswered"}
        assert sorted(last.values()) == sorted(row.state for row in result.attempts), "the journal knows them all"

    anyio.run(main)


class Place:
    """One caller's place at an endpoint."""

    def __init__(self, limiter: anyio.CapacityLimiter) -> None:
        self.limiter = limiter

    async def acquire(self) -> None:
        await self.limiter.acquire_on_behalf_of(self)

    def release(self, ended: object = None) -> None:
        self.limiter.release_on_behalf_of(self)


def test_the_drawn_runs_end_in_every_way() -> None:
    """Otherwise the properties above would say little."""
    ends: set[str] = set()
    for seed in range(60):
        models = {n: Unreliable(n, failing=0.1, seconds=2, naps=True, virtual=True) for n in "mn"}
        budget = Budget(tokens=3000 + 100 * seed, calls=5 + seed % 9, seconds=2 + seed % 8)
        team = (lambda model: Star(5, model=model)) if seed % 2 else (lambda model: Independent(7, model=model))
        spec = drawn_spec(team, "m", budget, 300, seed)
        (result,) = run_virtual([spec], models.__getitem__)
        ends.add(result.status)
        ends.update(row.state for row in result.attempts)
        ends.add("shrunk" if result.metrics["shrunk"] else "")

    assert ends >= {"completed", "exhausted", "deadline", "failed", "settled", "charged_max", "released", "shrunk"}
