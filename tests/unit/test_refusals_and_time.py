"""Faults that were found once and must not come back: refusals as mail, patience without end, clocks that leave the grid."""

import anyio
import pytest

from runtime import Budget, Refusal, RunSpec, Task, bundle
from runtime.agents.agent import Agent
from runtime.backoff import backoff_s
from runtime.errors import BudgetExceeded, ModelRateLimited, ModelUnavailable, ModelUnreachable
from runtime.host import run_virtual
from runtime.messages import Report
from runtime.models.endpoints.endpoint import RETRY_AFTER_MOST_S
from runtime.models.scripted import ScriptedModel
from runtime.protocols import Outcome, Team
from topologies import Topology


class Dawdle(Topology):
    """Sleeps off the grid of virtual time before it asks."""

    def __init__(self, seconds: float) -> None:
        super().__init__("Dawdle", {"a": Agent("executor", model="m")})
        self.seconds = seconds

    async def solve(self, task: Task, team: Team) -> Outcome:
        await anyio.sleep(self.seconds)
        return await team.ask("a", task)


def test_a_refusal_is_no_mail() -> None:
    with pytest.raises(BudgetExceeded, match="run: 9 tokens needed, 1 left"):
        bundle([Report("42"), Refusal("a", "run", "tokens", 9, 1)])


@pytest.mark.parametrize("asked_s", [864_000.0, 1e305])
def test_nobody_waits_for_days_because_an_endpoint_said_so(asked_s: float) -> None:
    assert backoff_s(ModelRateLimited("m", asked_s), 0, 1) == RETRY_AFTER_MOST_S
    assert backoff_s(ModelUnavailable("m", "503: back soon", asked_s), 0, 1) == RETRY_AFTER_MOST_S
    assert backoff_s(ModelRateLimited("m", 2.0), 0, 1) == 2.0


def test_where_no_connection_came_about_nothing_is_billed_and_another_try_may_help() -> None:
    assert (ModelUnreachable.billed, ModelUnreachable.retryable) == (False, True)
    assert ModelUnavailable.billed


def test_a_run_does_not_feel_which_runs_came_before_it() -> None:
    model = ScriptedModel(lambda request: "42", latency_s=2.0, name="m")
    specs = [RunSpec(f"r{i}", Dawdle(0.1), Task("q", "42"), Budget(calls=9), 0) for i in range(4)]

    seconds = {result.seconds for result in run_virtual(specs, {"m": model}.__getitem__)}

    assert len(seconds) == 1
