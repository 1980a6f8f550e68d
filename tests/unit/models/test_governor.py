"""The shell around a host's places: who waits wakes, who leaves gives back, and silence changes nothing."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import anyio
import pytest

from runtime.bank.book import Need
from runtime.bank.vector import pack
from runtime.errors import HostLost, ModelRateLimited, ModelUnreachable
from runtime.models.endpoints.announced import Announced
from runtime.models.endpoints.endpoint import Declared
from runtime.models.endpoints.sharing import Share, Told
from runtime.models.endpoints.visit import CUT_OFF, Ended, Lent, Visit
from runtime.models.governor import Governor
from runtime.models.openai import OpenAIModel
from runtime.models.scripted import ScriptedModel
from runtime.models.spec import ModelSpec

pytestmark = pytest.mark.anyio

NEED = Need(pack((0, 0, 0, 0)), pack((0, 0, 0, 0)), 0, 0)


def model(url: str = "http://127.0.0.1:1/v1", name: str = "m", **more: int) -> OpenAIModel:
    return OpenAIModel(name, ModelSpec(endpoint=url, model=name, key_env="KEY", **more))  # type: ignore[arg-type]


class Book:
    """The other side: answers with what it is set to, and keeps what it was told."""

    def __init__(self, places: int, outage: str = "") -> None:
        self.share = Share(places, (None, None), 0, 0.0, outage)
        self.told: list[Mapping[str, Told]] = []
        self.is_lost = False

    async def exchange(self, host: str, tells: Mapping[str, Told]) -> dict[str, Share]:
        if self.is_lost:
            raise HostLost("the hub", "gone")
        self.told.append(tells)
        return dict.fromkeys(tells, self.share)


async def serving(governor: Governor, work: Callable[[], Awaitable[None]]) -> None:
    with anyio.fail_after(10):
        async with anyio.create_task_group() as beside:
            beside.start_soon(governor.serve)
            await work()
            beside.cancel_scope.cancel()


def place(governor: Governor, run: str = "run", at: OpenAIModel | None = None) -> Lent:
    found = governor.permit(run, at or model(), NEED)
    assert found is not None
    return found


def test_virtual_models_and_models_without_limits_need_no_place() -> None:
    class Own(ScriptedModel):
        virtual = False

    for free in (ScriptedModel("7"), Own("7")):
        assert Governor().permit("run", free, NEED) is None


async def test_who_waits_goes_on_when_a_place_is_free() -> None:
    governor, order = Governor(), list[str]()

    async def call(run: str) -> None:
        mine = place(governor, run, model(max_parallel=1))
        await mine.acquire()
        order.append(run)
        await anyio.lowlevel.checkpoint()
        mine.release(Ended())

    async def work() -> None:
        async with anyio.create_task_group() as callers:
            for run in ("crowd", "crowd", "crowd", "few"):
                callers.start_soon(call, run)

    await serving(governor, work)
    assert order == ["crowd", "few", "crowd", "crowd"]


async def test_all_models_of_an_address_and_a_key_share_its_places() -> None:
    """Except at providers that count for each model."""
    book = Book(1)
    here, there = "http://127.0.0.1:1/v1", "https://api.openai.com/v1"

    async def work() -> None:
        governor = Governor("host", book.exchange)
        async with anyio.create_task_group() as serves:
            serves.start_soon(governor.serve)
            first = place(governor, at=model(here, "a"))
            await first.acquire()
            with anyio.move_on_after(0.2) as waiting:
                await place(governor, at=model(here, "b")).acquire()
            assert waiting.cancelled_caught
            await place(governor, at=model(there, "a")).acquire()
            await place(governor, at=model(there, "b")).acquire()
            serves.cancel_scope.cancel()

    await work()


@pytest.mark.parametrize("lets_go", [False, True])
async def test_who_is_cancelled_leaves_nothing_behind(lets_go: bool) -> None:
    """Also where a place came free in the same moment."""
    book = Book(1)
    governor = Governor("host", book.exchange)

    async def work() -> None:
        first = place(governor)
        await first.acquire()
        async with anyio.create_task_group() as callers:
            callers.start_soon(place(governor).acquire)
            await anyio.wait_all_tasks_blocked()
            callers.cancel_scope.cancel()
            if lets_go:
                first.release(Ended())
        if not lets_go:
            first.release(Ended())

    await serving(governor, work)
    (last,) = book.told[-1].values()
    assert (last.in_flight, last.waiting) == (0, 0)
    assert sum(told.started for tells in book.told for told in tells.values()) == 1


async def test_without_an_answer_a_host_goes_on_within_its_share_and_tells_later() -> None:
    book = Book(2)
    governor = Governor("host", book.exchange)
    most = 0

    async def call() -> None:
        nonlocal most
        mine = place(governor)
        await mine.acquire()
        most = max(most, 1 + sum(other is not mine for other in held))
        held.append(mine)
        await anyio.lowlevel.checkpoint()
        held.remove(mine)
        mine.release(Ended())

    held: list[Lent] = []

    async def work() -> None:
        await call()
        book.is_lost = True
        async with anyio.create_task_group() as callers:
            for _ in range(20):
                callers.start_soon(call)
        book.is_lost = False

    await serving(governor, work)
    assert most == 2
    assert sum(told.answered for tells in book.told for told in tells.values()) == 21


async def test_a_refusal_stops_the_host_before_the_others_hear_of_it() -> None:
    book = Book(2)
    governor = Governor("host", book.exchange)

    async def work() -> None:
        first, second = place(governor), place(governor)
        await first.acquire()
        book.is_lost = True
        first.release(Ended(ModelRateLimited("m", 3.0)))
        with anyio.CancelScope() as gives_up:
            async with anyio.create_task_group() as callers:
                callers.start_soon(second.acquire)
                await anyio.wait_all_tasks_blocked()
                gives_up.cancel()
        book.is_lost = False

    async with anyio.create_task_group() as beside:
        beside.start_soon(governor.serve)
        await work()
        beside.cancel_scope.cancel()
    losses = [loss for tells in book.told for told in tells.values() for loss in told.losses]
    assert [(loss.kind, loss.retry_after_s) for loss in losses] == [("limited", 3.0)]


async def test_what_answers_announce_of_the_limits_is_told_to_the_others() -> None:
    book = Book(8)
    governor = Governor("host", book.exchange)
    far = model(max_parallel=7, requests_per_minute=100)

    async def work() -> None:
        mine = place(governor, at=far)
        await mine.acquire()
        far.announced = Announced(60, 9_000)
        mine.release(Ended())

    await serving(governor, work)
    first, *_, last = [told.declared for tells in book.told for told in tells.values()]
    assert (first, last) == (Declared(7, 100), Declared(7, 60, 9_000))


async def test_an_outage_is_told_to_who_waits_as_an_error_that_bills_nobody() -> None:
    governor = Governor("host", Book(0, "no answer for 40 s; last: down").exchange)

    async def work() -> None:
        with pytest.raises(ModelUnreachable, match=r"m: unavailable .no answer for 40 s; last: down"):
            await place(governor).acquire()

    await serving(governor, work)


async def test_a_run_that_ends_gives_its_places_back() -> None:
    book = Book(8)
    governor = Governor("host", book.exchange)

    async def work() -> None:
        mine = place(governor)
        await mine.acquire()
        mine.release(Ended())

    await serving(governor, work)
    (last,) = book.told[-1].values()
    assert (last.in_flight, last.waiting, sum(t.answered for tells in book.told for t in tells.values())) == (0, 0, 1)


async def test_another_run_takes_over_when_the_one_that_serves_ends() -> None:
    governor = Governor()

    async def other() -> None:
        mine = place(governor, "other")
        await mine.acquire()
        mine.release(Ended())

    async with anyio.create_task_group() as runs:
        runs.start_soon(partial(serving, governor, anyio.lowlevel.checkpoint))
        runs.start_soon(partial(serving, governor, other))


async def test_however_many_runs_there_are_one_message_travels_at_a_time() -> None:
    on_the_way, most = 0, 0
    book = Book(1)

    async def exchange(host: str, tells: Mapping[str, Told]) -> dict[str, Share]:
        nonlocal on_the_way, most
        on_the_way += 1
        most = max(most, on_the_way)
        await anyio.wait_all_tasks_blocked()
        on_the_way -= 1
        return await book.exchange(host, tells)

    governor = Governor("host", exchange)

    async def one(run: str) -> None:
        mine = place(governor, run)
        await mine.acquire()
        mine.release(Ended())

    async with anyio.create_task_group() as runs:
        for run in "abc":
            runs.start_soon(partial(serving, governor, partial(one, run)))
    assert most == 1


async def test_a_visit_keeps_the_time_it_waited_and_gives_back_once() -> None:
    class Slow:
        given_back = 0

        async def acquire(self) -> None:
            clock.time_s += 5.0

        def release(self, ended: Ended | None = None) -> None:
            self.given_back += 1

    class Clock:
        time_s = 0.0

        def now_s(self) -> float:
            return self.time_s

    clock, slow = Clock(), Slow()
    visit = Visit(slow, clock)
    for _ in range(2):  # a wait for budget gives the place back
        await visit.acquire()
        visit.release()
    await visit.acquire()
    visit.release(CUT_OFF)
    visit.release()

    assert (visit.waited_s, slow.given_back) == (15.0, 3)
