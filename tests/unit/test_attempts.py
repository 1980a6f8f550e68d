"""What one call costs, whichever way it ends: settled, refused, lost, retried, unknown, over its bound; and tool calls."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import anyio
import pytest

from runtime.agents.agent import Agent
from runtime.agents.tools import Tool
from runtime.attempts import MAX_TRIES
from runtime.backoff import backoff_s
from runtime.budget import Budget
from runtime.clock import TICK_S
from runtime.driver import Runtime
from runtime.errors import (
    BadModelReply,
    ConfigError,
    ModelError,
    ModelRateLimited,
    ModelRefused,
    ModelTimeout,
    ModelUnavailable,
)
from runtime.host import run_virtual
from runtime.journal import Attempt
from runtime.messages import Report
from runtime.models.base import ChatReply, ChatRequest, ToolCall
from runtime.models.scripted import ScriptedModel
from runtime.preflight import RunSpec
from runtime.result import RunResult
from runtime.task import Task
from runtime.usage import Price, Usage
from topologies import Independent, Single, Topology

PICO = 10**12
HELD = Usage(60, 40)


class Endpoint(ScriptedModel):
    """Holds 100 tokens and $2 a call; what a call really brings is a ChatReply, or an error to raise."""

    def __init__(self, *ends: ChatReply | ModelError, price: Price | None = None) -> None:
        super().__init__(["unused"], input_tokens=HELD.input_tokens, output_tokens=HELD.output_tokens, name="m")
        self.price = price or Price(10**10, 35 * 10**9)  # 60 c for the prompt, 1.40 $ for the reply
        self.ends = iter(ends)
        self.seeds: list[int] = []

    async def complete(self, request: ChatRequest) -> ChatReply:
        self.seeds.append(request.seed)
        await anyio.sleep(1)
        end = next(self.ends)
        if isinstance(end, ModelError):
            raise end
        return end

    naps = False


GOOD = ChatReply("42", Usage(50, 10))


def run(model: ScriptedModel, budget: Budget, *tools: Tool, topology: Topology | None = None) -> RunResult:
    topology = topology or Single(Agent("executor", model="m", tools=tools))
    spec = RunSpec("run", topology, Task("How many?", answer="42"), budget, 0)
    return run_virtual([spec], {"m": model}.__getitem__)[0]


def rows(result: RunResult) -> list[tuple[int, int, str]]:
    return [(attempt.step, attempt.try_, attempt.state) for attempt in result.attempts]


def test_a_call_costs_what_it_used_not_what_it_held() -> None:
    result = run(Endpoint(GOOD), Budget(tokens=100, usd=2))

    assert (result.status, rows(result)) == ("completed", [(0, 0, "settled")])
    (row,) = result.attempts
    assert (row.held_tokens, row.held_pico_usd) == (100, 2 * PICO)
    assert (row.input_tokens, row.output_tokens, row.pico_usd) == (50, 10, 50 * 10**10 + 10 * 35 * 10**9)
    assert result.spend.total.tokens == 60


def test_what_a_call_did_not_use_is_there_for_the_next() -> None:
    """100 held at a time, 60 used: of 220 tokens three calls can be made."""
    result = run(Endpoint(GOOD, GOOD, GOOD), Budget(tokens=220), topology=Independent(4, model="m"))

    assert (result.status, result.spend.total.tokens) == ("exhausted", 180)


@pytest.mark.parametrize("kind", ["no usage", "a timeout", "a bad reply", "an outage"])
def test_where_nobody_can_say_what_a_call_cost_the_whole_hold_is_charged(kind: str) -> None:
    ends: Mapping[str, ChatReply | ModelError] = {
        "no usage": ChatReply("42", None),
        "a timeout": ModelTimeout("m", 1),
        "a bad reply": BadModelReply("m", "cut off"),
        "an outage": ModelUnavailable("m", "reset"),
    }
    result = run(Endpoint(ends[kind], GOOD), Budget(tokens=100, usd=2))

    assert rows(result) == [(0, 0, "charged_max")]
    total = result.spend.total
    assert (total.tokens, total.pico_usd, total.calls) == (100, 2 * PICO, 1)
    assert (result.metrics["charged_max_tokens"], result.metrics["charged_max_pico_usd"]) == (100, 2 * PICO)
    if kind == "no usage":
        assert (result.status, result.answer) == ("completed", "42")
    elif kind == "a bad reply":
        assert result.status == "failed"
    else:
        assert (result.status, result.reason) == ("exhausted", "run: 100 tokens needed, 0 left"), "no money for a retry"


def test_a_call_that_the_endpoint_refused_costs_nothing() -> None:
    result = run(Endpoint(ModelRefused("m", 400, "too long")), Budget(tokens=100))

    assert (result.status, result.reason) == ("failed", "m: refused with 400: too long")
    assert rows(result) == [(0, 0, "released")]
    total = result.spend.total
    assert (total.tokens, total.pico_usd, total.calls) == (0, 0, 0)


def test_every_try_has_its_own_reservation_and_all_have_one_seed() -> None:
    model = Endpoint(ModelTimeout("m", 1), ModelRateLimited("m", 3.0), ModelUnavailable("m", "down"), GOOD)
    result = run(model, Budget(tokens=300))

    assert (result.status, result.answer) == ("completed", "42")
    assert rows(result) == [(0, 0, "charged_max"), (0, 1, "released"), (0, 2, "charged_max"), (0, 3, "settled")]
    assert result.spend.total.tokens == 100 + 0 + 100 + 60
    assert len(set(model.seeds)) == 1
    starts = [attempt.began_s for attempt in result.attempts]
    assert starts[2] - starts[1] == 1 + 3, "it waits as long as it was asked to"


def test_tries_end() -> None:
    model = Endpoint(*[ModelUnavailable("m", "down")] * (MAX_TRIES + 1))
    result = run(model, Budget(tokens=1000))

    assert (result.status, result.reason) == ("failed", "m: unavailable (down)")
    assert len(result.attempts) == len(model.seeds) == MAX_TRIES
    assert result.spend.total.tokens == 100 * MAX_TRIES


def test_what_is_not_retryable_is_not_retried() -> None:
    model = Endpoint(BadModelReply("m", "cut off"), GOOD)
    run(model, Budget(tokens=1000))

    assert len(model.seeds) == 1


def test_waits_between_tries_grow_to_a_limit_and_differ_between_calls() -> None:
    down = ModelUnavailable("m", "down")
    longest = [max(backoff_s(down, turn, seed) for seed in range(200)) for turn in range(12)]

    assert all(
        0.9 * most < found <= most for found, most in zip(longest, [0.5, 1, 2, 4, 8, 16, *[30] * 6], strict=True)
    )
    assert len({backoff_s(down, 0, seed) for seed in range(200)}) == 200
    assert backoff_s(ModelRateLimited("m", -5.0), 0, 0) == 0


def test_virtual_time_stays_on_its_grid_while_tries_wait() -> None:
    model = Endpoint(ModelUnavailable("m", "down"), ModelRateLimited("m", 0.1), GOOD)
    result = run(model, Budget(calls=9))

    assert result.seconds > 3.1
    assert (result.seconds / TICK_S).is_integer()


# --- providers that bill more than was held


def test_a_bill_above_its_hold_is_told_and_nothing_is_bought_any_more() -> None:
    class Twice(Topology):
        async def solve(self, task: Task, team: Any) -> Any:
            team.offer(await team.ask("a", task))
            return await team.ask("a", task)

    model = Endpoint(ChatReply("42", Usage(60, 100)), GOOD)
    topology = Twice("twice", {"a": Agent("executor", model="m")})
    result = run(model, Budget(tokens=150, calls=9), topology=topology)

    assert (result.status, result.answer) == ("exhausted", "42")
    assert result.overspend == {"tokens": 10, "pico_usd": 0, "calls": 0, "tool_calls": 0}
    assert (result.overspent, len(model.seeds), result.spend.total.tokens) == (True, 1, 160)


def test_a_bill_above_its_hold_but_below_the_cap_is_no_overspend() -> None:
    result = run(Endpoint(ChatReply("42", Usage(60, 100))), Budget(tokens=160))

    assert (result.status, result.overspent, result.spend.total.tokens) == ("completed", False, 160)


def test_of_many_calls_under_way_each_may_pass_the_cap_by_its_own_excess_and_no_more() -> None:
    """Ten holds of 100 under 1,000; each is billed 160."""
    model = Endpoint(*[ChatReply("42", Usage(60, 100))] * 20)
    result = run(model, Budget(tokens=1000), topology=Independent(20, model="m"))

    assert (result.status, len(model.seeds)) == ("exhausted", 10)
    assert result.overspend["tokens"] == 600


# --- replies that cannot be read


def test_an_unreadable_reply_is_repaired_once() -> None:
    mended = run(ScriptedModel(['{"answ', '{"answer": "42"}'], name="m"), Budget(calls=9))
    hopeless = run(ScriptedModel(['{"answ'], name="m"), Budget(calls=9))

    assert (mended.status, mended.answer, rows(mended)) == ("completed", "42", [(0, 0, "settled"), (1, 0, "settled")])
    assert (hopeless.status, len(hopeless.attempts)) == ("failed", 2)
    assert hopeless.reason.startswith("m: bad reply: not a report")


def test_a_repair_is_paid_out_of_the_same_budget() -> None:
    result = run(ScriptedModel(['{"answ'], name="m"), Budget(calls=1))

    assert (result.status, result.reason) == ("exhausted", "run: 1 calls needed, 0 left")


# --- tools


def wants(*arguments: str, name: str = "search") -> tuple[ToolCall, ...]:
    return tuple(ToolCall(str(i), name, text) for i, text in enumerate(arguments))


def talks(*lines: Any) -> tuple[ScriptedModel, list[str]]:
    """A model that says these lines, and what it was shown last before each."""
    shown: list[str] = []
    script: Iterator[Any] = iter(lines)

    def say(request: ChatRequest) -> Any:
        shown.append(request.messages[-1].content)
        return next(script)

    return ScriptedModel(say, name="m"), shown


def search(queries: Sequence[str]) -> str:
    return f"found {len(queries)}"


def n_queries(arguments: Mapping[str, Any]) -> int:
    return len(arguments["queries"])


SEARCH = Tool("search", "Looks things up.", search, {}, usd="0.25", units=n_queries)


def test_a_tool_costs_its_price_times_its_units() -> None:
    model, shown = talks(wants('{"queries": ["a", "b", "c"]}'), wants('{"queries": ["d"]}'), Report("42"))
    result = run(model, Budget(tool_calls=4, usd=1), SEARCH)

    total = result.spend.total
    assert (result.status, total.tool_calls, total.pico_usd, total.calls) == ("completed", 4, PICO, 3)
    assert [(a.kind, a.units, a.pico_usd) for a in result.attempts if a.kind == "tool"] == [
        ("tool", 3, 3 * PICO // 4),
        ("tool", 1, PICO // 4),
    ]
    assert ["found 3" in shown[1], "found 1" in shown[2]] == [True, True]
    assert result.spend.by_model["search"].tool_calls == 4


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        (Budget(tool_calls=3), "run: 1 tool_calls needed, 0 left"),
        (Budget(tool_calls={"search": 3}), "run: 1 tool_calls.search needed, 0 left"),
        (Budget(tool_calls={"search": 3, "other": 9}), "run: 1 tool_calls.search needed, 0 left"),
        (Budget(usd="0.99"), "run: 250000000000 pico_usd needed, 240000000000 left"),
        (Budget(calls=2), "run: 1 calls needed, 0 left"),
    ],
)
def test_every_limit_binds_tools(budget: Budget, reason: str) -> None:
    model, _ = talks(wants('{"queries": ["a", "b", "c"]}'), wants('{"queries": ["d"]}'), Report("42"))
    result = run(model, budget, SEARCH)

    assert (result.status, result.reason, result.overspent) == ("exhausted", reason, False)


def test_a_cap_of_one_tool_does_not_bind_another() -> None:
    other = Tool("other", "Free.", lambda: "seen", {})
    model, _ = talks(wants("{}", "{}", name="other"), Report("42"))
    result = run(model, Budget(tool_calls={"search": 0}), SEARCH, other)

    assert (result.status, result.spend.total.tool_calls) == ("completed", 2)


def _fails() -> str:
    raise LookupError("no such page")


def _exits() -> str:
    raise SystemExit(2)


async def _is_async() -> str:
    await anyio.sleep(1)
    return "seen"


class _AsyncObject:
    async def __call__(self) -> str:
        await anyio.sleep(1)
        return "seen"


@pytest.mark.parametrize(
    ("call", "seen"),
    [
        (lambda: 42, "42"),
        (_is_async, "seen"),
        (_AsyncObject(), "seen"),
        (partial(_is_async), "seen"),
        (_fails, "error: LookupError: no such page"),
        (_exits, "error: SystemExit: 2"),
        (lambda: "\ud800", "?"),
        (lambda wrong: wrong, "error: TypeError"),
    ],
    ids=["value", "async", "async object", "partial", "raises", "exits", "surrogate", "misfit"],
)
def test_what_a_tool_returns_or_raises_is_shown_to_its_agent(call: Callable[..., Any], seen: str) -> None:
    model, shown = talks(wants("{}", name="look"), Report("42"))
    result = run(model, Budget(tool_calls=1), Tool("look", "Looks.", call, {}))

    assert (result.status, result.spend.total.tool_calls) == ("completed", 1)
    assert seen in shown[1]
    assert RunResult.from_json(result.to_json()) == result


@pytest.mark.parametrize("arguments", ["{}", '{"queries": 3}', "[]", "{", '{"queries": [1'])
def test_a_tool_call_that_a_model_got_wrong_is_shown_to_it_and_costs_nothing(arguments: str) -> None:
    model, shown = talks(wants(arguments), Report("42"))
    result = run(model, Budget(tool_calls=5), SEARCH)

    assert (result.status, result.spend.total.tool_calls) == ("completed", 0)
    assert "error: " in shown[1]


@pytest.mark.parametrize("units", [-3, 1.5, "2", None, True])
def test_a_number_of_units_that_is_none_costs_nothing_and_earns_nothing(units: Any) -> None:
    model, shown = talks(wants("{}", name="look"), Report("42"))
    result = run(model, Budget(usd=1), Tool("look", "Looks.", lambda: "seen", {}, usd=1, units=lambda _: units))

    assert (result.status, result.spend.total.pico_usd) == ("completed", 0)
    assert "is no number of units" in shown[1]


def test_a_tool_nobody_has_is_told_so() -> None:
    model, shown = talks(wants("{}", name="launch"), Report("42"))
    result = run(model, Budget(tool_calls=5), SEARCH)

    assert result.status == "completed"
    assert "there is no tool launch" in shown[1]


def test_a_tool_loop_ends() -> None:
    result = run(ScriptedModel([wants('{"queries": ["a"]}')], name="m"), Budget(calls=1000), SEARCH)

    assert (result.status, result.reason) == ("failed", "m: bad reply: still calling tools after 16 turns")


def test_a_tool_under_way_at_the_deadline_is_charged_with_its_units() -> None:
    model, _ = talks(wants("{}", name="slow"), Report("42"))
    result = run(model, Budget(seconds=0.5, usd=9), Tool("slow", "Slow.", _is_async, {}, usd=2, units=lambda _: 3))

    assert result.status == "deadline"
    assert (result.spend.total.tool_calls, result.spend.total.pico_usd) == (3, 6 * PICO)


def test_a_model_without_a_price_is_refused_under_a_dollar_cap_only() -> None:
    model = ScriptedModel(["42"], name="m")
    model.price = None

    with pytest.raises(ConfigError, match="no known price"):
        run(model, Budget(usd=1))
    assert run(model, Budget(tokens=1)).status == "completed"


def test_rows_account_for_everything() -> None:
    """Each figure of the total is the sum over the rows of the journal."""
    model = Endpoint(ModelTimeout("m", 1), ChatReply("", Usage(9, 9), "tool_calls", wants('{"queries": ["a"]}')), GOOD)
    result = run(model, Budget(usd=99), SEARCH)

    def summed(figure: Callable[[Attempt], int]) -> int:
        return sum(map(figure, result.attempts))

    total = result.spend.total
    assert total.pico_usd == summed(lambda a: a.pico_usd) == 2 * PICO + 9 * 45 * 10**9 + PICO // 4 + 85 * 10**10
    assert total.tokens == summed(lambda a: a.input_tokens + a.output_tokens) == 100 + 18 + 60
    assert (total.calls, total.tool_calls) == (3, summed(lambda a: a.units))


class Consults(Topology):
    """A boss whose tool is another agent of the team."""

    def __init__(self, *, virtual: bool) -> None:
        self.asked: list[tuple[Any, Task]] = []
        consult = Tool("consult", "Asks the helper.", self.consult, {"type": "object"}, virtual=virtual)
        boss = Agent("executor", model="boss", tools=(consult,))
        helper = Agent("executor", model="helper", effort_tokens=5_000)
        super().__init__("Consults", {"boss": boss, "helper": helper})

    async def consult(self) -> str:
        team, task = self.asked[0]
        return (await team.ask("helper", task)).answer  # type: ignore[no-any-return]

    async def solve(self, task: Task, team: Any) -> Any:
        self.asked.append((team, task))
        return await team.ask("boss", task)


@pytest.mark.parametrize("virtual", [True, False])
def test_an_agent_that_is_used_as_a_tool_gets_what_is_left_and_waits_for_nobody(virtual: bool) -> None:
    """Its call wants more than there is, and would wait for what is held, which must not be the tool call it serves."""

    class Large(ScriptedModel):
        shrinkable = True

        def bound(self, request: ChatRequest) -> Usage:
            return Usage(100, request.max_tokens)

    def says(request: ChatRequest) -> Any:
        return Report("told") if request.messages[-1].role == "tool" else (ToolCall("1", "consult", "{}"),)

    boss = ScriptedModel(says, input_tokens=100, output_tokens=100, name="boss", virtual=virtual)
    helper = Large(lambda _: Report("help"), input_tokens=100, output_tokens=50, name="helper", virtual=virtual)

    async def main() -> RunResult:
        budget = Budget(tokens=1_000, tool_calls=1, seconds=20)
        async with Runtime(models={"boss": boss, "helper": helper}) as runtime:
            return await runtime.run(Consults(virtual=virtual), Task("How many?"), budget=budget)

    result = anyio.run(main)

    assert (result.status, result.answer) == ("completed", "told")
    (helped,) = (a for a in result.attempts if a.seat == "helper")
    assert helped.max_tokens == 1_000 - 200 - 100


@pytest.mark.parametrize("virtual", [True, False])
def test_a_tool_whose_agent_was_refused_by_its_model_was_called_all_the_same(virtual: bool) -> None:
    def refuses(request: ChatRequest) -> Any:
        raise ModelRefused("helper", 400, "too long")

    boss = ScriptedModel(
        [(ToolCall("1", "consult", "{}"),)], input_tokens=100, output_tokens=100, name="boss", virtual=virtual
    )
    helper = ScriptedModel(refuses, input_tokens=100, output_tokens=50, name="helper", virtual=virtual)

    async def main() -> RunResult:
        async with Runtime(models={"boss": boss, "helper": helper}) as runtime:
            return await runtime.run(
                Consults(virtual=virtual), Task("How many?"), budget=Budget(tokens=900, tool_calls=1)
            )

    result = anyio.run(main)

    assert (result.status, result.reason) == ("failed", "helper: refused with 400: too long")
    assert (result.spend.total.tokens, result.spend.total.tool_calls) == (200, 1)
