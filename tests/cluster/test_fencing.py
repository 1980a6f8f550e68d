"""A host that only seems lost: it lives on beside the one in its place, and the bank alone decides which of them spends."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runtime import Budget, cluster
from runtime.errors import HostLost, OrchestrationError, StaleEpoch

pytestmark = pytest.mark.ray

LIMIT_S = 60
CAP = 400_000
CALLS = 24


class OutOfReach:
    """Makes hosts seem lost: their calls are given up, the driver puts others in their places, and they live on."""

    def __init__(self, driven: Any, patch: pytest.MonkeyPatch) -> None:
        import ray

        self._driven = driven
        self._lost = asyncio.Event()
        self._call, self._kill = cluster.call, ray.kill
        self._given_up: list[asyncio.Future[Any]] = []
        self._hosts: list[Any] = []
        patch.setattr(cluster, "call", self._called)
        patch.setattr(ray, "kill", self._hosts.append)

    def lose(self) -> None:
        """Give up all calls to hosts that are under way."""

        async def lose() -> None:
            self._lost.set()
            self._lost = asyncio.Event()

        self._driven.call(lose)

    def ends(self) -> list[Any]:
        """How the calls ended that were given up: what the hosts answered, or the error they raised."""

        async def ends() -> list[Any]:
            return await asyncio.wait_for(asyncio.gather(*self._given_up, return_exceptions=True), LIMIT_S)

        found: list[Any] = self._driven.call(ends)
        return found

    def close(self) -> None:
        """Kill the hosts that lived on."""
        for host in self._hosts:
            self._kill(host)

    async def _called(self, ref: Any, what: str, *, quiet: bool = False) -> Any:
        if not what.startswith("host"):
            return await self._call(ref, what, quiet=quiet)
        answer = asyncio.ensure_future(self._call(ref, what, quiet=quiet))
        lost = asyncio.ensure_future(self._lost.wait())
        try:
            await asyncio.wait({answer, lost}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            self._given_up.append(answer)
            raise HostLost(what, "no answer")
        finally:
            lost.cancel()


@pytest.fixture
def out_of_reach(ray_cluster: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[OutOfReach]:
    ray_cluster.mend()
    with closing(OutOfReach(ray_cluster, monkeypatch)) as found:
        yield found


def begin(name: str, agents: int, ray_cluster: Any, billing: Any) -> Any:
    team = billing.Steady("billed", agents)
    return ray_cluster.begin(
        [ray_cluster.runtime.spec(name, team, billing.question(name), Budget(tokens=CAP, calls=CALLS), 0)]
    )


@pytest.mark.parametrize("bank", ["lives", "killed"])
def test_of_two_lives_of_a_run_at_once_only_the_newer_one_sends(
    bank: str,
    ray_cluster: Any,
    provider: Any,
    billing: Any,
    store: Path,
    out_of_reach: OutOfReach,
    processes: Any,
) -> None:
    """And the call that the older one had in flight is booked at what it cost. The bank knows it all from its store."""
    name = f"fenced-one-{bank}"
    provider.keep(name)
    running = begin(name, 1, ray_cluster, billing)
    (old,) = provider.wait_until(len, name)
    out_of_reach.lose()
    _, new = provider.wait_until(lambda bills: len(bills) == 2, name)
    if bank == "killed":
        processes.kill_bank(os.getpid())

    provider.answer(old)
    (end,) = out_of_reach.ends()
    assert isinstance(end, StaleEpoch)
    assert (end.epoch, end.current) == (1, 2)
    assert provider.bills(name) == [old, new], "no byte left after it"
    provider.keep_no_more(name)
    provider.answer(new)
    ((_, result),) = running.result(LIMIT_S)

    bills = provider.bills(name)
    billed = sum(bill.tokens for bill in bills)
    assert new.pid != old.pid
    assert {bill.pid for bill in bills[1:]} == {new.pid}
    with closing(billing.Books(store)) as books:
        assert books.attempts(name)["0/agent[0]/0", 0] == (("sent", "settled"), old.tokens)
        assert {attempt.states for attempt in books.attempts(name).values()} == {("sent", "settled")}
        assert books.tokens(name) == books.above(name) == billed <= CAP
    # The newer life could not know the figure that came to the older one after it.
    assert result.spend.total.tokens == billed - old.tokens + billing.HOLD.tokens
    assert (result.status, result.disturbed, result.overspent) == ("completed", True, False)
    assert result.spend.total.calls == len(bills) == CALLS


def test_what_a_host_that_seemed_lost_learns_after_the_end_of_its_run_is_booked_above_it(
    ray_cluster: Any, provider: Any, billing: Any, store: Path, out_of_reach: OutOfReach
) -> None:
    name = "fenced-late"
    provider.keep(name)
    running = begin(name, 1, ray_cluster, billing)
    (old,) = provider.wait_until(len, name)
    out_of_reach.lose()
    _, new = provider.wait_until(lambda bills: len(bills) == 2, name)
    provider.keep_no_more(name)
    provider.answer(new)
    ((_, result),) = running.result(LIMIT_S)
    with closing(billing.Books(store)) as before:
        at_the_end = before.above(name)

    provider.answer(old)
    (end,) = out_of_reach.ends()

    billed = sum(bill.tokens for bill in provider.bills(name))
    assert isinstance(end, StaleEpoch)
    assert len(provider.bills(name)) == result.spend.total.calls
    assert at_the_end == result.spend.total.tokens == billed - old.tokens + billing.HOLD.tokens
    with closing(billing.Books(store)) as books:
        assert books.above(name) == books.tokens(name) == billed
    assert ray_cluster.call(ray_cluster.runtime.sealed, [running.result()[0][0].address])


def test_a_third_life_knows_what_the_second_bought_whatever_the_first_wrote_meanwhile(
    ray_cluster: Any, provider: Any, billing: Any, store: Path, out_of_reach: OutOfReach, processes: Any
) -> None:
    """The first life is refused at an attempt which the second made, and settled, under the same key and number."""
    name = "fenced-thrice"
    provider.keep(name)
    running = begin(name, 1, ray_cluster, billing)
    (old,) = provider.wait_until(len, name)
    out_of_reach.lose()
    for n in (2, 3):
        *_, last = provider.wait_until(lambda bills, n=n: len(bills) == n, name)
        provider.answer(last)
    *_, lost = provider.wait_until(lambda bills: len(bills) == 4, name)
    provider.answer(old)
    assert [type(end) for end in out_of_reach.ends()] == [StaleEpoch]
    provider.keep_no_more(name)
    processes.kill([lost.pid])
    ((_, result),) = running.result(LIMIT_S)

    bills = provider.bills(name)
    billed = sum(bill.tokens for bill in bills)
    assert len({bill.pid for bill in bills}) == 3
    # What was in flight when the second host died stays at its maximum; the first one's figure came in time.
    assert result.spend.total.tokens == billed - lost.tokens + billing.HOLD.tokens
    with closing(billing.Books(store)) as books:
        assert books.above(name) == books.tokens(name) == result.spend.total.tokens
    assert result.spend.total.calls == len(bills) == CALLS


def test_no_agent_of_a_large_team_gets_past_the_fence(
    ray_cluster: Any, provider: Any, billing: Any, store: Path, out_of_reach: OutOfReach
) -> None:
    """Eight in flight in each of two lives. One of the older life that is refused ends the life, so that the bills of some
    others never come to be known; those are charged whole."""
    name, agents = "fenced-many", 8
    provider.keep(name)
    running = begin(name, agents, ray_cluster, billing)
    old = provider.wait_until(lambda bills: len(bills) == agents, name)
    out_of_reach.lose()
    both = provider.wait_until(lambda bills: len(bills) == 2 * agents, name)
    for bill in old:
        provider.answer(bill)
    assert [type(end) for end in out_of_reach.ends()] == [StaleEpoch]
    assert len(provider.bills(name)) == 2 * agents
    provider.keep_no_more(name)
    for bill in both[agents:]:
        provider.answer(bill)
    ((_, result),) = running.result(LIMIT_S)

    bills = provider.bills(name)
    assert {bill.pid for bill in bills[agents:]}.isdisjoint({bill.pid for bill in old})
    with closing(billing.Books(store)) as books:
        attempts = books.attempts(name)
        unknown = [a for a in attempts.values() if a.states == ("sent", "charged_max")]
        known = sum(a.tokens for a in attempts.values()) - len(unknown) * billing.HOLD.tokens
        assert {a.states for a in attempts.values()} <= {("sent", "settled"), ("sent", "charged_max")}
        assert known <= sum(bill.tokens for bill in bills) <= books.above(name) == books.tokens(name) <= CAP
        assert len(attempts) == len(bills) == result.spend.total.calls
    assert result.spend.total.tokens <= CAP
    assert (result.disturbed, result.overspent) == (True, False)


def test_two_lives_of_virtual_runs_give_what_one_gives(
    ray_cluster: Any, in_process: Any, billing: Any, out_of_reach: OutOfReach
) -> None:
    from benchmarks.tasks import companies
    from topologies import Chain

    def specs(on: Any) -> list[Any]:
        tasks = companies.generate(40, seed=23)
        return [
            on.runtime.spec(f"twice-{t.id}", Chain(2, model="sim/small"), t, Budget(tokens=9_000), 1) for t in tasks
        ]

    running = ray_cluster.begin(specs(ray_cluster))
    out_of_reach.lose()
    found = {result.run_id: result.to_json() for _, result in running.result(LIMIT_S)}

    assert found == {result.run_id: result.to_json() for _, result in in_process.map(specs(in_process))}
    assert not any(isinstance(end, OrchestrationError) for end in out_of_reach.ends())
