"""What is refused before money moves, and what is kept back so that a team ends with an answer."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from policies import StrategyAuction
from runtime.agents.agent import Agent
from runtime.agents.context import STRATEGY_TOKENS
from runtime.agents.loop import BID_TOKENS
from runtime.agents.tools import Tool
from runtime.budget import Budget
from runtime.errors import ConfigError
from runtime.host import run_virtual
from runtime.messages import Bid, Part, Plan, Reply, Report, Verdict, Vote, reply_json
from runtime.models.base import ChatModel, ChatReply, ChatRequest, prompt_tokens
from runtime.models.recorded import ReplayedModel
from runtime.models.scripted import ScriptedModel
from runtime.preflight import Prepared, RunSpec, prepare
from runtime.task import Task
from runtime.usage import Price, Usage
from topologies import Independent, Single, Star, Topology

SEARCH, LOOK = (Tool(name, "Looks things up.", str, {}, virtual=True) for name in ("search", "look"))


def spec(topology: Topology, budget: Budget) -> RunSpec:
    return RunSpec("run", topology, Task("How many?", answer="42"), budget, 0)


def prepared(topology: Topology, budget: Budget, **models: ChatModel) -> Prepared:
    known = models or {"m": ScriptedModel(["42"], name="m", input_tokens=60, output_tokens=40, usd="0.01")}
    return prepare(spec(topology, budget), known.__getitem__)


def using(*tools: Tool) -> Agent:
    return Agent("executor", model="m", tools=tools)


# --- ceilings


def test_a_ceiling_on_the_team_of_a_whole_run_is_refused_and_not_forgotten() -> None:
    """Arms of an experiment are compared by their runs' budgets, so a limit of an arm's own would be no match."""
    team = Star(2, model="m").within(Budget(tokens=1500))

    with pytest.raises(
        ConfigError, match=r"^Star\(2\): within.* limit of 1,500 tokens as budget=, or .* budgets=\[\.\.\.\]"
    ):
        prepared(team, Budget(tokens=20_000))
    assert prepared(Star([team], model="m"), Budget(tokens=20_000)).ceilings


@pytest.mark.parametrize(
    ("ceiling", "cure"),
    [
        (Budget(seconds=3), r"limits seconds, and only a run has a deadline; put seconds= into its Budget"),
        (Budget(tool_calls={"search": 2}), r"limits calls of search, .*; give that tool a cap in the run's Budget too"),
    ],
)
def test_a_ceiling_that_needs_something_of_the_runs_budget_says_what(ceiling: Budget, cure: str) -> None:
    team = Star([Single(using(SEARCH)).within(ceiling)], model="m")

    with pytest.raises(ConfigError, match=r"^the ceiling of executor\[0\] " + cure):
        prepared(team, Budget(tokens=20_000))


def test_a_ceiling_may_limit_a_tool_that_the_runs_budget_limits_too() -> None:
    team = Star([Single(using(SEARCH)).within(Budget(tool_calls={"search": 2}))], model="m")

    assert prepared(team, Budget(tool_calls={"search": 9})).ceilings == {"run/executor[0]": (None, None, None, None, 2)}


# --- caps of tools


@pytest.mark.parametrize(
    ("tools", "caps", "text"),
    [
        ((SEARCH,), {"serach": 1}, "calls of serach, a tool that nobody in it has, and not those of search;"),
        ((SEARCH, LOOK), {"search": 1, "lok": 1}, "calls of lok, a tool that nobody in it has, and not those of look;"),
        ((SEARCH, LOOK), {"x": 1}, "calls of x, a tool that nobody in it has, and not those of look, search;"),
    ],
)
def test_a_cap_of_a_tool_that_nobody_has_is_refused_where_a_tool_goes_without(
    tools: tuple[Tool, ...], caps: dict[str, int], text: str
) -> None:
    limits = Budget(tokens=20_000, tool_calls=caps)
    inner = Single(using(*tools)).within(Budget(tool_calls=caps))
    all_caps = Budget(tokens=20_000, tool_calls={tool.name: 1 for tool in tools} | caps)

    with pytest.raises(ConfigError, match=f"^Single: the budget limits {text}"):
        prepared(Single(using(*tools)), limits)
    with pytest.raises(ConfigError, match=rf"the ceiling of executor\[0\] limits {text}"):
        prepared(Star([inner], model="m"), all_caps)


@pytest.mark.parametrize("tools", [(), (SEARCH,), (LOOK,), (SEARCH, LOOK)])
def test_arms_with_other_tools_or_none_may_share_a_budget_that_leaves_no_tool_without_a_cap(
    tools: tuple[Tool, ...],
) -> None:
    assert prepared(Single(using(*tools)), Budget(tool_calls={"look": 1, "search": 1}))


# --- what goes on until it is refused


FREE = ScriptedModel(["42"], name="m")
IN_USD = ScriptedModel(["42"], name="m", usd="0.01")
IN_TOKENS = ScriptedModel(["42"], name="m", input_tokens=1, latency_s=1)
LIVE = ScriptedModel(["42"], name="m", virtual=False)


@pytest.mark.parametrize(
    ("budget", "model", "ends"),
    [
        (Budget(calls=9), FREE, True),
        (Budget(tokens=9), FREE, False),
        (Budget(tokens=9), IN_TOKENS, True),
        (Budget(usd=1), IN_TOKENS, False),
        (Budget(usd=1), IN_USD, True),
        (Budget(tool_calls=1), IN_TOKENS, False),
        (Budget(seconds=9), IN_TOKENS, False),
        (Budget(seconds=9, tokens=9), IN_TOKENS, True),
        (Budget(seconds=9), LIVE, True),
        (Budget(tokens=9), LIVE, False),
    ],
)
def test_to_fill_a_budget_that_no_call_need_use_up_is_refused(budget: Budget, model: ScriptedModel, ends: bool) -> None:
    """And to answer once is not, whatever it costs."""
    assert prepared(Single(model="m"), budget, m=model)
    if ends:
        assert prepared(Single(fill=True, model="m"), budget, m=model)
    else:
        with pytest.raises(ConfigError, match=r"Single\(fill\) goes on .* any of .*; limit calls= or tokens= too"):
            prepared(Single(fill=True, model="m"), budget, m=model)


def test_a_ceiling_may_be_what_ends_a_team_that_fills_it() -> None:
    budget = Budget(usd=1)

    assert prepared(Independent([Single(fill=True).within(Budget(calls=3))], model="m"), budget, m=FREE)
    with pytest.raises(ConfigError, match=r"'agent\[0\]/agent' need not use up any of \$1; limit calls="):
        prepared(Independent([Single(fill=True).within(Budget(usd=0.5))], model="m"), budget, m=FREE)


def test_a_replay_of_what_filled_its_budget_is_not_held_against_bounds_that_nobody_recorded() -> None:
    model = ReplayedModel("m", None, 10_000, shrinkable=False, bounds={})

    assert prepared(Single(fill=True, model="m"), Budget(tokens=100), m=model)


# --- what is kept for the end


class Applicant:
    """Bids with a plan as long as a bid may be, or longer than its limit of tokens suggests, and reports at length."""

    virtual = shrinkable = naps = True
    window_tokens = 100_000

    def __init__(self, name: str, pico: int, steps: str) -> None:
        self.name = name
        self.price: Price | None = Price(pico, pico)
        self.replies: Mapping[str, Reply] = {
            "report": Report("42", "w " * 600),
            "plan": Plan((Part("p"),)),
            "verdict": Verdict("accept", "42"),
            "bid": Bid((steps,)),
            "vote": Vote((3, 4)),
        }

    def bound(self, request: ChatRequest) -> Usage:
        return Usage(prompt_tokens(request), request.max_tokens)

    async def complete(self, request: ChatRequest) -> ChatReply:
        text = reply_json(self.replies[request.reply])
        return ChatReply(text, Usage(prompt_tokens(request), min(request.max_tokens, -(-len(text.encode()) // 4))))


@pytest.mark.parametrize("steps", ["step " * 190, "</" * 500, "é…" * 300], ids=["long", "escaped", "beyond its limit"])
@pytest.mark.parametrize(
    "limit", [lambda n: Budget(tokens=n), lambda n: Budget(usd=f"{n * 3e-9:.12f}")], ids=["tokens", "usd"]
)
def test_what_is_kept_for_the_end_pays_for_the_plan_of_the_one_who_won_it(
    steps: str, limit: Callable[[int], Budget]
) -> None:
    """Whether the bids and votes of the last seat fit or not, its answer does."""
    models = {"a": Applicant("a", 1000, steps), "b": Applicant("b", 3000, steps)}
    team = Star(
        [Agent("executor", model="a", effort_tokens=600)],
        planner=Agent("planner", model="a", effort_tokens=300),
        verifier=Agent("verifier", model=StrategyAuction("a", "b"), effort_tokens=200),
    )

    seen = set()
    for n in range(1000, 7000, 50):
        try:
            [result] = run_virtual([spec(team, limit(n))], models.__getitem__)
        except ConfigError:
            continue
        assert (result.status, result.answer) == ("completed", "42"), (n, result.reason)
        seen.add(tuple(a.kind for a in result.attempts if a.seat == "verifier"))

    assert {("bid", "bid", "work"), ("bid", "bid", "vote", "vote", "work")} <= seen


def test_a_bid_fits_into_what_is_kept_for_it() -> None:
    assert BID_TOKENS <= STRATEGY_TOKENS


def test_a_window_has_to_hold_the_plan_of_a_router_beside_the_mail() -> None:
    def held(verifier: Any, window: int) -> object:
        models = {name: ScriptedModel(["42"], name=name, window_tokens=window) for name in "ab"}
        return prepared(Star(40, verifier=Agent("verifier", model=verifier), model="a"), Budget(calls=99), **models)

    assert held("a", 40 * 256)
    assert held(StrategyAuction("a", "b"), 41 * 256)
    with pytest.raises(ConfigError, match="40 messages of 256 tokens and a plan of 256 at once, 10,496 in all"):
        held(StrategyAuction("a", "b"), 41 * 256 - 1)
