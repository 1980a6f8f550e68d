"""What a call of a tool may cost, whatever a model asks for."""

from typing import Any

import pytest

from runtime.agents.agent import Agent
from runtime.agents.tools import MOST_PICO_USD, MOST_UNITS, Tool, units_of
from runtime.budget import Budget
from runtime.errors import AgentFailed, ConfigError
from runtime.host import run_virtual
from runtime.messages import Report
from runtime.models.base import ChatRequest, ToolCall
from runtime.models.scripted import Line, ScriptedModel
from runtime.preflight import RunSpec
from runtime.task import Task
from runtime.usage import PICO
from topologies import Single


def tool(call: Any = str, **more: Any) -> Tool:
    return Tool("search", "Looks.", call, {}, units=lambda arguments: arguments["n"], virtual=True, **more)


@pytest.mark.parametrize(
    ("usd", "most"), [(0, MOST_UNITS), ("1e-12", MOST_UNITS), ("0.01", 10**6), (3, 3333), (10_000, 1)]
)
def test_the_units_of_a_call_are_bounded_by_number_and_by_price(usd: Any, most: int) -> None:
    looking = tool(usd=usd)

    assert units_of(looking, {"n": most}) == most
    assert most * looking.pico_usd <= MOST_PICO_USD
    for n in (most + 1, 9_000_000_000_000_000_000, 10**5000, -(10**5000)):
        with pytest.raises(AgentFailed, match=f"may be 0 to {most:,} units"):
            units_of(looking, {"n": n})


@pytest.mark.parametrize("budget", [Budget(tokens=9999), Budget(usd=1), Budget(tool_calls=5)])
@pytest.mark.parametrize("n", [10**8, 9_000_000_000_000_000_000])
def test_a_call_of_more_units_than_there_may_be_is_an_error_that_its_agent_sees_and_costs_nothing(
    budget: Budget, n: int
) -> None:
    called: list[object] = []

    def says(request: ChatRequest) -> Line:
        if request.messages[-1].role == "tool":
            return Report(request.messages[-1].content)
        return (ToolCall("1", "search", f'{{"n": {n}}}'),)

    agent = Agent("executor", model="m", tools=(tool(lambda **n: called.append(n), usd="0.01"),))
    spec = RunSpec("run", Single(agent), Task("q"), budget, 0)

    [result] = run_virtual([spec], {"m": ScriptedModel(says, name="m")}.__getitem__)

    assert result.status == "completed"
    assert "error: ValueError: one call may be 0 to 1,000,000 units" in (result.answer or "")
    assert (called, result.spend.total.tool_calls, result.spend.total.pico_usd) == ([], 0, 0)


@pytest.mark.parametrize(
    ("usd", "why"), [(10_001, "too much for one unit"), ("ten", "is not an amount"), (-1, "amount")]
)
def test_a_price_that_no_call_could_pay_is_refused_where_the_tool_is_made(usd: Any, why: str) -> None:
    assert tool(usd=10_000).pico_usd == 10_000 * PICO
    with pytest.raises(ConfigError, match=why):
        tool(usd=usd)
