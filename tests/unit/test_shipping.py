"""The way of runs to their hosts and back: what is sent again, what waits, what is sealed; hosts and bank do as they are told."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import orjson
import pytest

from runtime.bank.client import BankClient, Parts, Verdicts
from runtime.bank.grants import ACCOUNT, NO_CAPS, Limits
from runtime.bank.live import Life
from runtime.bank.store import Opened, Sealed
from runtime.budget import Budget
from runtime.errors import BudgetExceeded, ConfigError, HostLost, OrchestrationError, RunHalted, StaleEpoch
from runtime.preflight import RunSpec
from runtime.result import RunResult, SpendReport
from runtime.shipping import BATCH, LIVE_AT_ONCE, MAX_SENDS, Done, Shipping
from runtime.task import Task
from topologies import Single

pytestmark = pytest.mark.anyio


def body_of(run_id: str, answer: str = "42") -> bytes:
    return RunResult(
        run_id, "completed", "", answer, True, SpendReport(), {}, {}, 0.0, False, "D2", False, {}, ()
    ).to_json()


def specs(n: int, *, live: bool = False, scope: str = "", tokens: int = 10) -> list[RunSpec]:
    team, task, budget = Single(model="m"), Task("How many?"), Budget(tokens=tokens)
    kind = "live" if live else "virtual"
    return [RunSpec(f"{kind}-{i}", team, task, budget, i, f"address of {kind}-{i}", live, scope) for i in range(n)]


class Fakes:
    """Hosts and a bank: each call is noted; errors are raised where a test planted them."""

    def __init__(self, hosts: int = 1, batches: int = 1) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.sealed: list[list[Sealed]] = []
        self.plan: Callable[..., Exception | None] = lambda *call: None
        self.room = 10**9
        self.asked_for: list[list[str]] = []
        self.unreachable = ""
        self.inside = self.most_inside = 0
        self.finished: dict[str, bytes] = {}
        self.epochs: dict[str, int] = {}
        self.delivered: list[RunResult] = []
        account = Limits(ACCOUNT, True, NO_CAPS)
        self.shipping = Shipping(self.on_host, self.on_bank, BankClient(self.write), hosts, batches, account)

    async def on_host(self, i: int, method: str, *args: Any) -> Any:
        self.inside += 1
        self.most_inside = max(self.inside, self.most_inside)
        try:
            await anyio.lowlevel.checkpoint()
            if method == "run_virtual":
                self._note(i, method, [spec.run_id for spec in args[0]])
                return [body_of(spec.run_id) for spec in args[0]]
            if method == "reach":
                self.asked_for.append(list(args[0]))
                if self.unreachable:
                    raise ConfigError(self.unreachable)
                return None
            spec, life, again = args
            self._note(i, method, spec.run_id, life.epoch, again)
            return body_of(spec.run_id)
        finally:
            self.inside -= 1

    async def on_bank(self, method: str, *args: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        match method, args:
            case "enter", (_, [[(run_id, (tokens, *_))]]):
                fits = tokens <= self.room
                self._note("enter", run_id, fits)
                self.room -= tokens if fits else 0
                return int(fits)
            case "check_room", _:
                self._note("check_room")
                return None
            case "take", (Opened(run_id, _, facts),):
                self._note("take", run_id, orjson.loads(facts)["scope"])
                self.epochs[run_id] = self.epochs.get(run_id, 0) + 1
                return Life(self.epochs[run_id], [], [], self.finished.get(run_id))
        raise AssertionError(method)

    async def write(self, parts: Parts) -> Verdicts:
        await anyio.lowlevel.checkpoint()
        self.sealed += [[op for op in part if isinstance(op, Sealed)] for part in parts]
        return [None] * len(parts)

    async def deliver(self, done: Any) -> None:
        more: list[Done] = list(done)
        self.delivered += [result for _, result in more]

    async def run(self, todo: list[RunSpec]) -> list[str]:
        await self.shipping.run(todo, self.deliver)
        return sorted(result.run_id for result in self.delivered)

    def made(self, what: str) -> list[tuple[Any, ...]]:
        return [call for call in self.calls if what in call]

    def _note(self, *call: Any) -> None:
        self.calls.append(call)
        error = self.plan(*call)
        if error is not None:
            raise error


def losing(times: int) -> Callable[..., Exception | None]:
    """Hosts are lost so many times."""
    left = [times]

    def plan(*call: Any) -> Exception | None:
        if not isinstance(call[0], int) or not left[0]:
            return None
        left[0] -= 1
        return HostLost(f"host {call[0]}", "gone")

    return plan


# ---- Virtual runs.


@pytest.mark.parametrize(("n", "hosts", "size"), [(1, 1, 1), (7, 1, 1), (40, 1, 10), (40, 2, 5), (1000, 1, BATCH)])
async def test_virtual_runs_travel_in_batches_small_enough_to_share(n: int, hosts: int, size: int) -> None:
    fakes = Fakes(hosts)
    assert await fakes.run(specs(n)) == sorted(spec.run_id for spec in specs(n))
    sent = [call[2] for call in fakes.made("run_virtual")]
    assert max(map(len, sent)) == size
    assert sorted(run_id for batch in sent for run_id in batch) == sorted(spec.run_id for spec in specs(n))
    assert [[seal.run_id for seal in part] for part in fakes.sealed] == sent, "a batch is sealed whole"


async def test_as_many_batches_are_on_their_way_as_told() -> None:
    fakes = Fakes(hosts=2, batches=3)
    await fakes.run(specs(200))
    assert fakes.most_inside == 6
    assert {call[0] for call in fakes.made("run_virtual")} == {0, 1}


async def test_a_batch_whose_host_is_lost_is_sent_again() -> None:
    fakes = Fakes()
    fakes.plan = losing(MAX_SENDS - 1)
    assert await fakes.run(specs(1)) == ["virtual-0"]
    assert len(fakes.made("run_virtual")) == MAX_SENDS


async def test_work_that_loses_its_host_again_and_again_is_given_up() -> None:
    fakes = Fakes()
    fakes.plan = losing(MAX_SENDS)
    with pytest.RaisesGroup(HostLost):
        await fakes.run(specs(1))
    assert fakes.sealed == []


# ---- Endpoints that nobody answers at.


async def test_the_models_of_live_runs_are_reached_once_before_anything_is_begun() -> None:
    fakes = Fakes(2)
    await fakes.run([*specs(2), *specs(3, live=True)])
    await fakes.run(specs(2, live=True))

    assert fakes.asked_for == [["m"]]


async def test_where_nobody_answers_no_run_is_begun() -> None:
    fakes = Fakes()
    fakes.unreachable = "model 'm': no connection"
    with pytest.raises(ConfigError, match="no connection"):
        await fakes.run([*specs(2), *specs(3, live=True)])
    assert fakes.calls == []

    fakes.unreachable = ""
    assert len(await fakes.run(specs(3, live=True))) == 3
    assert fakes.asked_for == [["m"], ["m"]], "asked again, because it was not there"


# ---- Live runs.


async def test_each_sending_of_a_live_run_is_a_life_of_its_own_and_is_told_that_it_was_sent_before() -> None:
    fakes = Fakes()
    fakes.plan = losing(2)
    assert await fakes.run(specs(1, live=True)) == ["live-0"]
    assert [call[3:] for call in fakes.made("run_live")] == [(1, False), (2, True), (3, True)]
    assert len(fakes.made("take")) == 3
    assert len(fakes.made("enter")) == 1, "under one grant"


async def test_so_many_live_runs_go_at_once_and_no_more() -> None:
    fakes = Fakes(hosts=2)
    await fakes.run(specs(3 * LIVE_AT_ONCE, live=True, scope="experiment:lab"))
    assert fakes.most_inside == 2 * LIVE_AT_ONCE


async def test_a_live_run_goes_where_the_fewest_are() -> None:
    fakes = Fakes(hosts=3)
    peaks: Counter[int] = Counter()

    def plan(*call: Any) -> Exception | None:
        for host, runs in Counter(fakes.shipping.homes.values()).items():
            peaks[host] = max(peaks[host], runs)
        return None

    fakes.plan = plan
    async with anyio.create_task_group() as group:
        for i in range(6):  # handed in one by one, as a user's own tasks do
            group.start_soon(fakes.shipping.run, specs(i + 1, live=True, scope="experiment:lab")[i:], fakes.deliver)
    assert sorted(call[0] for call in fakes.made("run_live")) == [0, 0, 1, 1, 2, 2]
    assert peaks == {0: 2, 1: 2, 2: 2}


async def test_a_paused_run_waits_and_is_taken_anew_when_it_is_resumed() -> None:
    fakes = Fakes()
    shipping, halts = fakes.shipping, [RunHalted("live-0", "paused"), RunHalted("live-0", "paused")]

    def plan(*call: Any) -> Exception | None:
        if "run_live" not in call or not halts:
            return None
        shipping.gates.close("live-0")
        return halts.pop()

    fakes.plan = plan
    async with anyio.create_task_group() as group:
        group.start_soon(fakes.run, specs(1, live=True))
        for n in (1, 2):
            await anyio.wait_all_tasks_blocked()
            assert (len(fakes.made("run_live")), shipping.homes) == (n, {})
            shipping.gates.open("live-0")
    assert [result.run_id for result in fakes.delivered] == ["live-0"]
    assert [call[3:] for call in fakes.made("run_live")] == [(1, False), (2, False), (3, False)]


@pytest.mark.parametrize("error", [RunHalted("live-0", "cancelled"), StaleEpoch("live-0", 1, 2)])
async def test_any_other_end_of_a_live_run_is_told(error: OrchestrationError) -> None:
    fakes = Fakes()
    fakes.plan = lambda *call: error if "run_live" in call else None
    with pytest.RaisesGroup(type(error)):
        await fakes.run(specs(1, live=True))
    assert fakes.shipping.homes == {}


async def test_a_run_that_was_sealed_meanwhile_is_not_sent() -> None:
    """An operator closed it while it waited."""
    fakes = Fakes()
    fakes.finished["live-0"] = body_of("live-0", "closed")
    await fakes.run(specs(2, live=True, scope="experiment:lab"))
    assert [call[2] for call in fakes.made("run_live")] == ["live-1"]
    assert {result.run_id: result.answer for result in fakes.delivered} == {"live-0": "closed", "live-1": "42"}
    assert body_of("live-0", "closed") in [seal.body for part in fakes.sealed for seal in part], "sealed as it was"


async def test_where_a_run_is_can_be_seen_for_as_long_as_it_is_there() -> None:
    fakes = Fakes()
    seen: list[dict[str, int]] = []

    def plan(*call: Any) -> Exception | None:
        seen.append(dict(fakes.shipping.homes))
        return None

    fakes.plan = plan
    await fakes.run(specs(1, live=True, scope="experiment:lab"))
    assert seen == [{"live-0": 0}, {"live-0": 0}], "from before it is taken"
    assert fakes.shipping.homes == {}


# ---- The account.


async def test_only_runs_of_their_own_enter_the_account_here() -> None:
    fakes = Fakes()
    await fakes.run([*specs(2), *specs(2, live=True, scope="experiment:lab")])
    assert fakes.made("enter") == []
    assert {call[2] for call in fakes.made("take")} == {"experiment:lab"}

    fakes = Fakes()
    await fakes.run(specs(2, live=True))
    assert [call[1] for call in fakes.made("enter")] == ["live-0", "live-1"]
    assert {call[2] for call in fakes.made("take")} == {ACCOUNT}


async def test_who_came_first_enters_first_and_is_asked_again_whenever_room_is_freed() -> None:
    fakes = Fakes()
    large, small = specs(1, live=True, tokens=50), specs(2, live=True, tokens=10)[1:]
    fakes.room = 40
    async with anyio.create_task_group() as group:
        group.start_soon(fakes.run, [*large, *small])
        await anyio.wait_all_tasks_blocked()
        assert fakes.made("enter") == [("enter", "live-0", False)], "nobody overtakes"
        fakes.shipping.gates.tell_freed()
        await anyio.wait_all_tasks_blocked()
        assert len(fakes.made("enter")) == len(fakes.made("check_room")) == 2
        fakes.room = 60
        fakes.shipping.gates.tell_freed()
    assert [call[1:] for call in fakes.made("enter")[2:]] == [("live-0", True), ("live-1", True)]


@pytest.mark.parametrize("where", ["check_room", "take"])
async def test_a_run_for_which_there_is_never_room_is_told_when_all_others_are_done(where: str) -> None:
    fakes = Fakes()
    never = BudgetExceeded(ACCOUNT, "tokens", 10, 0)
    fakes.plan = lambda *call: never if where in call and (where != "take" or "live-1" in call) else None
    todo = specs(3, live=True)
    if where == "check_room":
        todo[1] = RunSpec(**{**vars(todo[1]), "budget": Budget(tokens=10**12)})
    with pytest.raises(BudgetExceeded) as told:
        await fakes.run(todo)
    assert told.value is never
    assert sorted(result.run_id for result in fakes.delivered) == ["live-0", "live-2"]


async def test_whoever_waits_for_room_is_woken_by_every_seal() -> None:
    fakes = Fakes()
    freed = fakes.shipping.gates.freed
    await fakes.run(specs(1))
    assert freed.is_set()
