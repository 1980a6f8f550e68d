"""A simulated model calls tools behind an endpoint as it does in process: the same calls, figures, answers and usage."""

from dataclasses import replace

import pytest

from benchmarks.tasks import register
from runtime import Agent, Budget, ModelSpec, RunResult, Runtime
from runtime.models.simulated import Noise, SimulatedModel
from runtime.testing import HostileEndpoint
from runtime.usage import Price
from topologies import Star

pytestmark = pytest.mark.anyio

TASKS = register.generate(4, seed=3, lines=6)
BUDGET = Budget(tokens=60_000, usd="0.1", tool_calls=20)
UNSURE = Noise(skill=1.6, correlation_ratio=0, hit_ratio=0.9, catch_ratio=0.9, score_spread=0)
HERE = SimulatedModel(
    "sim",
    (register.SOLVER,),
    UNSURE,
    price=Price.per_million("0.10", "0.40"),
    window_tokens=32_768,
    tokens_per_s=10**6,
    prefill_tokens_per_s=10**6,
)


def star(model: str) -> Star:
    planner, executor, verifier = (
        Agent(role, model=model, effort_tokens=200) for role in ("planner", "executor", "verifier")
    )
    return Star([replace(executor, tools=(register.REGISTER,))] * 3, planner=planner, verifier=verifier)


def told(result: RunResult) -> list[tuple[object, ...]]:
    """All that is to be the same: everything but the model's local name, the clock, and what a cache would have held, which
    is known where the seat is only."""
    apart = {"model", "began_s", "ended_s", "waited_s", "cached_tokens"}
    return [tuple(value for name, value in one._asdict().items() if name not in apart) for one in result.attempts]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_served_model_calls_tools_as_the_same_model_in_process_does(stream: bool) -> None:
    """The endpoint has neither the register nor the tasks: the calls leave it, and what they brought comes back to it."""
    async with HostileEndpoint({"sim": HERE}) as endpoint:
        far = ModelSpec(
            endpoint=endpoint.base_url,
            model="sim",
            key_env="",
            input_usd="0.10",
            output_usd="0.40",
            tokenizer="bytes4",
            window_tokens=32_768,
            stream=stream,
        )
        async with Runtime(models={"here": HERE, "far": far}) as runtime:
            here = [await runtime.run(star("here"), task, budget=BUDGET) for task in TASKS]
            there = [await runtime.run(star("far"), task, budget=BUDGET, run_id=f"far-{task.id}") for task in TASKS]

    assert [(run.status, run.answer) for run in there] == [(run.status, run.answer) for run in here]
    assert [told(run) for run in there] == [told(run) for run in here]
    assert {run.correct for run in here} == {True, False}
    assert {run.spend.total.tool_calls for run in here} == {6}
    assert not any(run.spend.total.virtual for run in there)
