"""Live runs at endpoints that take only so much: what is declared is kept by all hosts together, what is hidden is found."""

from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest

from runtime import Budget, ModelSpec, Runtime, Task
from runtime.models.scripted import ScriptedModel
from runtime.result import RunResult
from runtime.testing import HostileEndpoint, Limits
from topologies import Independent


def test_runs_on_all_hosts_together_keep_to_the_declared_places(driven: Any, narrow: Any) -> None:
    _, model = narrow
    model.peak = 0
    rt = driven.runtime
    specs = [
        rt.spec(f"narrow-{i}-{rt.hosts}", Independent(10, model="far/narrow"), Task("How many?"), Budget(calls=100), i)
        for i in range(2)
    ]
    results = [result for _, result in driven.map(specs)]

    assert [result.status for result in results] == ["completed"] * 2
    assert model.peak == 4


async def at(limits: Limits | None, agents: int, out: Path | None = None, **spec: int) -> tuple[RunResult, int]:
    """One run at an endpoint with these limits, and how many of its calls were refused for haste."""
    answers = {"m": ScriptedModel(lambda request: "7", input_tokens=20, output_tokens=10, latency_s=0.05)}
    async with HostileEndpoint(answers, limits=limits) as endpoint:
        made = ModelSpec(endpoint=endpoint.base_url, model="m", key_env="", fixed_usage=(20, 10), **spec)  # type: ignore[arg-type]
        async with Runtime(models={"m": made}, out=out) as rt:
            result = await rt.run(Independent(agents, model="m"), Task("How many?"), budget=Budget(calls=1_000))
        return result, endpoint.account("m").limited


@pytest.mark.anyio
async def test_a_hidden_rate_is_found_and_every_call_comes_through() -> None:
    """All sixty at once would be refused forty times, and twenty times more a second later."""
    result, refused = await at(Limits(requests_per_minute=20, window_s=1.0, announced=False), 60)

    assert (result.status, sum(a.state == "settled" for a in result.attempts)) == ("completed", 60)
    assert 0 < refused < 40


@pytest.mark.anyio
async def test_a_declared_rate_is_kept() -> None:
    result, refused = await at(Limits(requests_per_minute=1200, announced=False), 70, requests_per_minute=1200)

    assert (result.status, refused, len(result.attempts)) == ("completed", 0, 70)


@pytest.mark.anyio
async def test_an_attempt_tells_how_long_it_waited_for_its_place(ostrom_here: Any, tmp_path: Path) -> None:
    result, _ = await at(None, 3, tmp_path, max_parallel=1)

    rows = sorted(result.attempts, key=lambda row: row.began_s)
    for earlier, later in pairwise(rows):
        assert later.began_s >= earlier.ended_s
        assert later.waited_s >= earlier.ended_s - earlier.began_s
    assert result.waiting_s == sum(row.waited_s for row in rows)
    assert RunResult.from_json(result.to_json()) == result
    shown = await anyio.to_thread.run_sync(partial(ostrom_here, "show", result.run_id, "--out", tmp_path, cwd=tmp_path))
    assert f"{result.working_s:.1f} s in calls, {result.waiting_s:.1f} s waiting for a place" in shown.stdout
