"""Seats spread over the hosts of a cluster: the same runs and the same books as together, also when hosts die."""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from benchmarks.speed.topologies import SHAPES
from benchmarks.tasks import companies
from runtime import Agent, Budget
from runtime.errors import ConfigError
from topologies import Single, Star

pytestmark = pytest.mark.ray

LIMIT_S = 120
(TASK,) = companies.generate(1, seed=21)


@pytest.fixture
def spread(ray_cluster: Any) -> Iterator[Any]:
    """The session's cluster, with `placement="spread"`."""
    cluster = ray_cluster.runtime._on_host.__self__
    cluster.spread = True
    yield ray_cluster
    cluster.spread = False


def pid_of(host: Any) -> int:
    return os.getpid()


def pids(spread: Any) -> list[int]:
    """The processes of the hosts, by number."""

    async def ask() -> list[int]:
        return [await host.__ray_call__.remote(pid_of) for host in spread.runtime._on_host.__self__._hosts]

    found: list[int] = spread.call(ask)
    return found


def test_every_shipped_topology_is_the_same_run_spread_and_together(in_process: Any, spread: Any) -> None:
    """Not only the answer: the sealed form, with every attempt, hold and virtual second in it; at a budget that binds, too."""
    teams = [shape().with_model("sim/small") for shape in SHAPES] + [Single(fill=True, model="sim/small")]

    def sealed(on: Any) -> list[bytes]:
        specs = [
            on.runtime.spec(f"spread-{i}-{tokens}", team, TASK, Budget(tokens=tokens), 31)
            for i, team in enumerate(teams)
            for tokens in (20_000, 90_000)
        ]
        return [result.to_json() for _, result in sorted(on.map(specs), key=lambda done: str(done[0].run_id))]

    assert sealed(spread) == sealed(in_process)


def test_seats_of_a_live_run_call_from_hosts_of_their_own(
    spread: Any, provider: Any, billing: Any, store: Path
) -> None:
    name, budget = "spread-live", Budget(tokens=6 * billing.HOLD.tokens, calls=20)

    result = spread.run(billing.Steady("billed", 2), billing.question(name), budget=budget, run_id=name)

    with closing(billing.Books(store)) as books:
        sums = books.sums(name, provider.bills(name))
        assert sums.billed == sums.booked == result.spend.total.tokens == books.above(name)
    assert {bill.pid for bill in provider.bills(name)} == set(pids(spread))
    assert (result.status, result.disturbed, result.overspent) == ("completed", False, False)


def equipped(model: str) -> Star:
    """A team of which one executor asks for a host with a CPU to itself."""
    return Star([Agent("executor"), Agent("executor", resources={"CPU": 1})], model=model)


def test_a_seat_that_asks_for_a_host_is_the_same_seat_there(in_process: Any, ray_cluster: Any) -> None:
    budget = Budget(tokens=90_000)

    alone = ray_cluster.run(equipped("sim/small"), TASK, budget=budget, seed=77, run_id="equipped")

    assert (
        alone.to_json()
        == in_process.run(Star(2, model="sim/small"), TASK, budget=budget, seed=77, run_id="equipped").to_json()
    )


def test_what_no_node_has_is_told_before_anything_is_spent(ray_cluster: Any) -> None:
    team = Star([Agent("executor", resources={"GPU": 64})], model="live")

    with pytest.raises(
        ConfigError, match="asks for a host with GPU 64, and no node of the cluster has that; its nodes have CPU"
    ):
        ray_cluster.run(team, TASK, budget=Budget(calls=9), run_id="no-gpu")

    assert "no-gpu" not in ray_cluster.call(ray_cluster.runtime.operator.states)


def test_whoever_leaves_spread_runs_early_leaves_hosts_that_go_on(spread: Any, provider: Any, billing: Any) -> None:
    """Home waits with its whole thread for other hosts, and has to be reached there; none takes another one for lost."""
    before, runtime = pids(spread), spread.runtime
    team, budget = Star(6, rounds=3, model="sim/small"), Budget(tokens=200_000)
    specs = [runtime.spec(f"spread-left-{seed}", team, TASK, budget, 900 + seed) for seed in range(600)]

    async def leave(some: Sequence[Any]) -> None:
        results = runtime.map(some)
        await anext(results)
        await results.aclose()

    for i in range(0, 600, 200):
        spread.call(leave, specs[i : i + 200])
    seats = billing.Steady("billed", 2)
    for name in ("spread-later-1", "spread-later-2"):  # each host is home to one of them
        spread.run(seats, billing.question(name), budget=Budget(calls=8), run_id=name)

    assert pids(spread) == before
    assert [{bill.pid for bill in provider.bills(f"spread-later-{i}")} for i in (1, 2)] == [set(before)] * 2
    assert len(spread.call(runtime.sealed, [spec.address for spec in specs])) < 400


@pytest.mark.chaos
def test_the_only_host_for_a_seat_is_started_again_when_it_dies(
    ray_cluster: Any, provider: Any, billing: Any, store: Path, processes: Any
) -> None:
    name, budget = "equipped-killed", Budget(tokens=30 * billing.HOLD.tokens, calls=12)
    team = billing.Steady("billed-slow", 1)
    team._seats = {"agent[0]": Agent("executor", model="billed-slow", resources={"CPU": 1})}
    running = ray_cluster.begin([ray_cluster.runtime.spec(name, team, billing.question(name), budget, 0)])
    (first, *_) = provider.wait_until(lambda bills: len(bills) == 2, name)
    assert first.pid not in pids(ray_cluster), "it has a host of its own"

    processes.kill([first.pid])
    ((_, result),) = running.result(LIMIT_S)

    states = [a.state for a in result.attempts]
    assert (result.status, result.disturbed, result.overspent) == ("completed", True, False)
    assert states.count("charged_max") >= 1
    assert provider.bills(name)[-1].pid not in {first.pid, *pids(ray_cluster)}
    with closing(billing.Books(store)) as books:
        assert books.tokens(name) == result.spend.total.tokens == books.above(name) <= budget.tokens


@pytest.mark.chaos
def test_a_host_that_dies_while_it_works_for_others_costs_its_calls_and_no_run(
    spread: Any, provider: Any, billing: Any, store: Path, processes: Any
) -> None:
    name, budget = "spread-killed", Budget(tokens=30 * billing.HOLD.tokens, calls=24)
    spec = spread.runtime.spec(name, billing.Steady("billed-slow", 2), billing.question(name), budget, 0)
    running = spread.begin([spec])
    provider.wait_until(lambda bills: len({bill.pid for bill in bills}) == 2, name)
    home = pids(spread)[spread.runtime.operator.homes[name]]
    other = next(pid for pid in pids(spread) if pid != home)

    processes.kill([other])
    ((_, result),) = running.result(LIMIT_S)
    spread.mend()

    with closing(billing.Books(store)) as books:
        states = [attempt.states for attempt in books.attempts(name).values()]
        billed = sum(bill.tokens for bill in provider.bills(name))
        assert billed <= books.tokens(name) == result.spend.total.tokens == books.above(name) <= budget.tokens
        assert states.count(("sent", "charged_max")) == 1, "the call it was at is charged whole"
        assert states.count(("sent", "settled")) == len(states) - 1
    assert (result.status, result.disturbed, result.overspent) == ("completed", True, False)
    later = [bill.pid for bill in provider.bills(name)][-3:]
    assert set(later) == {home}, "both seats go on at home"


@pytest.mark.chaos
def test_virtual_runs_whose_hosts_die_are_the_same_runs(in_process: Any, spread: Any, processes: Any) -> None:
    def specs(on: Any) -> list[Any]:
        budget, team = Budget(tokens=200_000), Star(6, rounds=3, model="sim/small")
        return [on.runtime.spec(f"spread-kill-{seed}", team, TASK, budget, 400 + seed) for seed in range(60)]

    running = spread.begin(specs(spread))
    killed = processes.kill_host(os.getpid(), max, unless=running)
    done = {spec.run_id: result.to_json() for spec, result in running.result(LIMIT_S)}
    spread.mend()

    assert killed
    assert done == {spec.run_id: result.to_json() for spec, result in in_process.map(specs(in_process))}
