"""The whole way over HTTP: a team here or on Ray, the openai client, and `ostrom serve` in a process of its own that counts."""

import json
from concurrent.futures import Future
from functools import partial
from typing import Any
from urllib.request import urlopen

import pytest

from benchmarks.tasks import companies
from runtime import Agent, Budget, RunResult, Task
from topologies import Independent, Star

QUESTION = Task("What is six times seven?", "42")
EFFORT_TOKENS = 64
"""So small that a served star, which waits in real time, is done in seconds."""


def books(endpoint: str, model: str) -> dict[str, int]:
    """What the server itself has counted for a model."""
    with urlopen(endpoint.removesuffix("/v1") + "/ostrom/ledger", timeout=10) as answer:
        return json.load(answer)["models"][model]


@pytest.mark.parametrize("n", [2, 8, 32, 200, 1000])
def test_the_server_answers_as_many_calls_as_the_budget_has_room_for(driven: Any, endpoint: str, n: int) -> None:
    """Each call is 1,000 tokens. What counts is not what we believe to have spent, but what the other side has billed."""
    before = books(endpoint, "m")

    result = driven.run(Independent(n, model="far/m"), QUESTION, budget=Budget(tokens=2500), run_id=f"far-{n}")

    after = books(endpoint, "m")
    assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == {
        "requests": 2,
        "answered": 2,
        "input_tokens": 1000,
        "output_tokens": 1000,
    }
    assert (result.spend.total.tokens, result.spend.total.calls, result.spend.total.virtual) == (2000, 2, False)
    assert (result.answer, result.correct) == ("42", True)
    assert result.status == ("completed" if n == 2 else "exhausted")


def star(model: str) -> Star:
    planner, executor, verifier = (
        Agent(role, model=model, effort_tokens=EFFORT_TOKENS) for role in ("planner", "executor", "verifier")
    )
    return Star([executor] * 3, planner=planner, verifier=verifier)


def told(result: RunResult) -> list[tuple[object, ...]]:
    """All that is to be the same: everything but the model's local name and the clock."""
    return [
        tuple(
            value
            for name, value in attempt._asdict().items()
            if name not in {"model", "began_s", "ended_s", "waited_s"}
        )
        for attempt in result.attempts
    ]


def test_a_simulated_model_works_the_same_behind_an_endpoint(driven: Any, in_process: Any, endpoint: str) -> None:
    """The server was started without any task; all it knows of one stands in the prompts. Among the seeds are right answers
    and wrong ones, and the figures of the task decide which: another task gets other answers."""
    settings: list[tuple[int, Task]] = [
        (seed, task) for seed in (0, 1) for task in companies.generate(2, seed=3, lines=8)
    ]
    budget = Budget(tokens=20_000, usd="0.01")
    before = books(endpoint, "sim/small")

    far: list[Future[RunResult]] = [
        driven.portal.start_task_soon(
            partial(driven.runtime.run, star("far/small"), task, budget=budget, seed=seed, run_id=f"served-{i}")
        )
        for i, (seed, task) in enumerate(settings)
    ]
    here = [in_process.run(star("sim/small"), task, budget=budget, seed=seed) for seed, task in settings]
    there = [run.result(timeout=60) for run in far]

    after = books(endpoint, "sim/small")
    assert [run.answer for run in there] == [run.answer for run in here]
    assert [told(run) for run in there] == [told(run) for run in here]
    assert {run.correct for run in here} == {True, False}
    assert {run.status for run in here} == {"completed"}
    assert not any(run.metrics["refusals"] or run.metrics["shrunk"] for run in here), "the budget was to suffice"
    assert after["answered"] - before["answered"] == sum(run.spend.total.calls for run in here)
    assert after["input_tokens"] - before["input_tokens"] == sum(a.input_tokens for run in here for a in run.attempts)
    assert after["output_tokens"] - before["output_tokens"] == sum(
        a.output_tokens for run in here for a in run.attempts
    )
