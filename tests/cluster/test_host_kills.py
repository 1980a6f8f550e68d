"""Hosts are killed under live runs: the runs go on elsewhere, and what was billed is in the books once."""

import os
import random
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from runtime import Budget
from runtime.errors import HostLost

pytestmark = pytest.mark.ray

LIMIT_S = 240
AT_ONCE = 8
BUDGET = Budget(tokens=80_000, calls=16)
"""The calls bind where they are cheap, the tokens where they are dear or where calls were lost."""


@pytest.mark.parametrize("kills", [3, pytest.param(100, marks=pytest.mark.chaos)])
def test_no_bill_is_above_the_books_however_often_hosts_are_killed(
    kills: int,
    ray_cluster: Any,
    provider: Any,
    billing: Any,
    processes: Any,
    store: Path,
    figures: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One of two hosts is killed, or both are, at points drawn from a seed; after the last kill all runs come to their end."""
    monkeypatch.setattr("runtime.shipping.MAX_SENDS", 1_000)  # no run is given up here
    monkeypatch.setattr("runtime.shipping.LIVE_AT_ONCE", AT_ONCE)
    ray_cluster.mend()
    rng, serial, team = random.Random(kills), count(), billing.Steady("billed")
    provider.make_dear(f"hosts-{kills}-dear")
    results: dict[str, Any] = {}
    n_killed = 0
    while n_killed < kills:
        names = [f"hosts-{kills}-{rng.choice(['cheap', 'dear'])}-{next(serial):04}" for _ in range(6 * AT_ONCE)]
        specs = [ray_cluster.runtime.spec(name, team, billing.question(name), BUDGET, 0) for name in names]
        running = ray_cluster.begin(specs)
        while not running.done() and n_killed < kills:
            provider.wait_for(rng.randrange(1, 60), unless=running)
            for _ in range(rng.choice([1, 1, 1, 2])):
                n_killed += processes.kill_host(os.getpid(), rng.choice, unless=running) > 0
        results |= {result.run_id: result for _, result in running.result(LIMIT_S)}

    with closing(billing.Books(store)) as books:
        sums = {name: books.sums(name, provider.bills(name)) for name in results}
        for name, result in results.items():
            assert sums[name].billed <= sums[name].booked <= BUDGET.tokens
            assert sums[name].booked == result.spend.total.tokens == books.above(name)
            assert len(books.attempts(name)) == result.spend.total.calls <= BUDGET.calls
            assert (result.status, result.overspent) == ("completed", False)
            hosts = {bill.pid for bill in provider.bills(name)}
            assert result.disturbed or (len(hosts) <= 1 and sums[name].n_lost == 0)
    n_disturbed = sum(result.disturbed for result in results.values())
    assert n_disturbed >= kills / 2
    figures(
        kills=n_killed,
        runs=len(results),
        disturbed=n_disturbed,
        calls=sum(len(provider.bills(name)) for name in results),
        charged_whole=sum(one.n_lost for one in sums.values()),
        billed_tokens=sum(one.billed for one in sums.values()),
        booked_tokens=sum(one.booked for one in sums.values()),
        caps_tokens=BUDGET.tokens * len(results),
    )


def test_a_run_that_loses_host_after_host_is_given_up_and_held_whole_until_it_is_taken_up_again(
    ray_cluster: Any, provider: Any, billing: Any, processes: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.shipping.MAX_SENDS", 2)
    name = "hosts-given-up"

    def begin() -> Any:
        spec = ray_cluster.runtime.spec(name, billing.Steady("billed"), billing.question(name), BUDGET, 0)
        return ray_cluster.begin([spec])

    given_up = begin()
    for n in (1, 2):
        *_, bill = provider.wait_until(lambda bills, n=n: len({bill.pid for bill in bills}) == n, name)
        processes.kill([bill.pid])
    with pytest.raises(HostLost):
        given_up.result(LIMIT_S)
    with closing(billing.Books(store)) as books:
        before = books.sums(name, provider.bills(name))
        assert books.above(name) == BUDGET.tokens
        assert before.n_lost == 2

    ((_, result),) = begin().result(LIMIT_S)

    with closing(billing.Books(store)) as books:
        after = books.sums(name, provider.bills(name))
        assert after.n_lost == before.n_lost
        assert after.billed <= after.booked == result.spend.total.tokens == books.above(name) <= BUDGET.tokens
    assert (result.status, result.overspent) == ("completed", False)
