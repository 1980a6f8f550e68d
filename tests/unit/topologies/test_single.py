"""One agent that fills a budget: it goes on until nothing more fits, and its answers vote."""

import pytest

from policies import majority
from runtime.budget import Budget
from runtime.host import run_virtual
from runtime.messages import Report
from runtime.models.base import ChatRequest
from runtime.models.scripted import ScriptedModel
from runtime.preflight import RunSpec
from runtime.result import RunResult
from runtime.task import Task
from topologies import Single


def says(request: ChatRequest) -> Report:
    return Report(str(request.seed % 3))


def filled(budget: Budget, model: ScriptedModel) -> RunResult:
    spec = RunSpec("run", Single(fill=True, model="m"), Task("q"), budget, 0)
    return run_virtual([spec], {"m": model}.__getitem__)[0]


def voted(result: RunResult) -> str:
    """What most of the replies in the journal say."""
    replies = [Report(a.reply.partition('"answer":"')[2][:1]) for a in result.attempts if a.state == "settled"]
    best = majority(replies)
    assert best is not None
    return best.answer


@pytest.mark.parametrize("n", [1, 999, 1001, 3000])
def test_it_answers_as_often_as_the_budget_pays_for(n: int) -> None:
    result = filled(Budget(tokens=100 * n + 99), ScriptedModel(says, input_tokens=60, output_tokens=40, name="m"))

    assert (result.status, result.spend.total.calls, result.spend.total.tokens) == ("completed", n, 100 * n)
    assert result.answer == voted(result)


def test_a_deadline_leaves_what_was_answered_most_often_until_then() -> None:
    result = filled(Budget(calls=99, seconds=7.5), ScriptedModel(says, latency_s=1, name="m"))

    assert (result.status, result.spend.total.calls) == ("deadline", 8)
    assert result.answer == voted(result)
