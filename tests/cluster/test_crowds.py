"""Crowds on one cap, in one run or in many, on one host or several: no token too many, few left, nobody refused for nothing.

With `OSTROM_CHAOS_FIGURES=FILE` the figures of each test are kept.
"""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from runtime import Budget, RunResult, RunSpec
from runtime.bank.grants import Limits

SIZES = [1, 2, 8, 32, 200, 1000]
CALLS = 20
"""So many calls fit into the cap at the most they may cost."""


def false_refusals(result: RunResult, left: int) -> int:
    """How many calls of a run were refused that would have fitted into what was left of its cap in the end."""
    return sum(need <= left for _, need, _ in json.loads(result.answer or ""))


def told(cap: int, spent: int, false: int) -> dict[str, float]:
    """What is kept of a crowd."""
    return {
        "cap_tokens": cap,
        "spent_tokens": spent,
        "overspent_tokens": max(0, spent - cap),
        "share_of_cap": round(spent / cap, 4),
        "false_refusals": false,
    }


def check_one_run(result: RunResult, cap: int, hold: int) -> dict[str, float]:
    """Nothing above the cap, less than a call left, and no refusal of what would have fitted in the end."""
    spent = result.spend.total.tokens
    false = false_refusals(result, cap - spent)
    assert cap - hold < spent <= cap
    assert (result.status, result.overspent) == ("completed", False)
    assert false == 0
    return told(cap, spent, false)


@pytest.mark.ray
@pytest.mark.parametrize("n", SIZES)
def test_one_run_of_many_agents_is_the_same_on_every_host(
    n: int, in_process: Any, ray_cluster: Any, billing: Any, figures: Any
) -> None:
    budget, hold = Budget(tokens=CALLS * 1_000), 1_000

    def result(on: Any) -> RunResult:
        found: RunResult = on.run(
            billing.Steady("crowd", n), billing.question("crowd"), budget=budget, run_id=f"crowd-{n}"
        )
        return found

    there, here = result(ray_cluster), result(in_process)

    assert there.to_json() == here.to_json()
    found = check_one_run(here, CALLS * 1_000, hold)
    assert len(json.loads(here.answer or "")) == n
    figures(agents=n, runs=1, **found)


@pytest.mark.parametrize("n", SIZES)
def test_one_live_run_of_many_agents_spends_what_the_provider_bills(
    n: int, driven: Any, provider: Any, billing: Any, figures: Any
) -> None:
    hold = billing.HOLD.tokens
    name = f"crowd-one-{n}-{driven.runtime.hosts}"
    provider.make_dear(name, least=0.1)

    result = driven.run(
        billing.Steady("billed-fast", n), billing.question(name), budget=Budget(tokens=CALLS * hold), run_id=name
    )

    billed = sum(bill.tokens for bill in provider.bills(name))
    assert result.spend.total.tokens == billed
    found = check_one_run(result, CALLS * hold, hold)
    assert len(json.loads(result.answer)) == n
    figures(agents=n, runs=1, billed_tokens=billed, **found)


class Swept(NamedTuple):
    results: dict[str, RunResult]
    left_out: list[RunSpec]


def sweep(on: Any, scope: str, specs: list[RunSpec], cap: int) -> Swept:
    """Let runs in under one cap, in their order and in rounds, as an experiment does."""
    limits = Limits(scope, specs[0].live, (cap, None, None, None))
    blocks = [[replace(spec, scope=scope)] for spec in specs]
    results: dict[str, RunResult] = {}
    while blocks and (n := on.call(on.runtime.enter, limits, blocks)):
        done = on.map([spec for block in blocks[:n] for spec in block])
        results |= {spec.task.id: result for spec, result in done}
        blocks = blocks[n:]
    return Swept(results, [spec for (spec,) in blocks])


def check_sweep(found: Swept, cap: int, n: int) -> dict[str, float]:
    """Nothing above the cap; at least nine tenths of it used where it is many calls; and who stayed outside would not fit."""
    spent = sum(result.spend.total.tokens for result in found.results.values())
    assert spent <= cap
    assert len(found.results) + len(found.left_out) == n
    assert spent >= 0.9 * cap or n < 8
    false = sum(spec.budget.tokens <= cap - spent for spec in found.left_out)
    for result in found.results.values():
        assert (result.status, result.overspent) == ("completed", False)
        false += false_refusals(result, result.books["tokens"]["unspent"])
    assert false == 0
    return {"runs_let_in": len(found.results)} | told(cap, spent, false)


def plan(on: Any, team: Any, prefix: str, n: int, hold: int, billing: Any) -> tuple[list[RunSpec], int]:
    """n runs of one agent each, and a cap that lets a part of them in. Where runs are few, each is many calls."""
    each = hold * (CALLS if n <= 8 else 1)
    specs = [
        on.runtime.spec(f"{prefix}-{i:04}", team, billing.question(f"{prefix}-{i:04}"), Budget(tokens=each), 0)
        for i in range(n)
    ]
    return specs, each * math.ceil(n * 0.4)


@pytest.fixture(scope="module")
def on_hosts(ray_cluster: Any) -> Iterator[Callable[[int], Any]]:
    """The session's cluster with this many hosts, up to four."""
    import ray

    shipping, cluster = ray_cluster.runtime._shipping, ray_cluster.runtime._on_host.__self__
    before = shipping.hosts

    async def grow() -> None:
        cluster._hosts += [cluster._make_host() for _ in range(4 - before)]

    async def shrink() -> None:
        for host in cluster._hosts[before:]:
            ray.kill(host)
        del cluster._hosts[before:]

    def call(n: int) -> Any:
        shipping.hosts = n
        return ray_cluster

    ray_cluster.call(grow)
    yield call
    call(before)
    ray_cluster.call(shrink)


@pytest.mark.ray
@pytest.mark.parametrize("n", SIZES)
def test_the_same_runs_win_under_one_cap_on_any_number_of_hosts(
    n: int, in_process: Any, on_hosts: Callable[[int], Any], billing: Any, figures: Any
) -> None:
    """One agent a run. The tasks are the same, and so is what the runs do; a mark makes each sweep one of its own."""
    found, kept = {}, {}
    for hosts in (0, 1, 2, 4):
        on = on_hosts(hosts) if hosts else in_process
        team = billing.Steady("crowd", mark=f"crowds on {hosts}")
        specs, cap = plan(on, team, f"crowd-{n}", n, 1_000, billing)
        specs = [replace(spec, run_id=f"{spec.run_id}-on-{hosts}") for spec in specs]
        swept = sweep(on, f"experiment:crowd-{n}-on-{hosts}", specs, cap)
        kept[hosts] = check_sweep(swept, cap, n)
        found[hosts] = {
            name: {key: value for key, value in json.loads(result.to_json()).items() if key != "run_id"}
            for name, result in swept.results.items()
        }

    assert found[0] == found[1] == found[2] == found[4]
    assert kept[0] == kept[1] == kept[2] == kept[4]
    figures(agents=n, runs=n, **kept[0])


@pytest.mark.ray
@pytest.mark.parametrize(("n", "hosts"), [(1, 2), (2, 2), (8, 4), (32, 1), (32, 2), (32, 4), (200, 4), (1000, 4)])
def test_live_runs_on_several_hosts_share_one_cap(
    n: int, hosts: int, on_hosts: Callable[[int], Any], provider: Any, billing: Any, store: Path, figures: Any
) -> None:
    """The provider's bill is what the books say of every run, and which runs get in does not hang on who came first."""
    on, prefix = on_hosts(hosts), f"crowd-live-{n}-on-{hosts}"
    provider.make_dear(prefix, least=0.1)
    specs, cap = plan(on, billing.Steady("billed-fast"), prefix, n, billing.HOLD.tokens, billing)

    found = sweep(on, f"experiment:{prefix}", specs, cap)

    kept = check_sweep(found, cap, n)
    assert list(found.left_out) == [replace(spec, scope=f"experiment:{prefix}") for spec in specs[len(found.results) :]]
    billed = {name: sum(bill.tokens for bill in provider.bills(name)) for name in found.results}
    assert billed == {name: result.spend.total.tokens for name, result in found.results.items()}
    assert sum(bill.tokens for bill in provider.bills(prefix)) == sum(billed.values())
    if n >= 8 * hosts:
        assert len({bill.pid for bill in provider.bills(prefix)}) == hosts
    with closing(billing.Books(store)) as books:
        assert sum(books.above(name) for name in found.results) == sum(billed.values()) <= cap
    figures(agents=n, runs=n, hosts=hosts, billed_tokens=sum(billed.values()), **kept)
