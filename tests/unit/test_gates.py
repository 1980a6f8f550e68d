"""Gates: who waits, who goes on, and who is told."""

import anyio
import pytest

from runtime.gates import Gates

pytestmark = pytest.mark.anyio


class Crowd:
    """Those who want through, and those who came through."""

    def __init__(self, gates: Gates) -> None:
        self.gates, self.through = gates, list[str]()

    async def go(self, name: str, *above: str) -> None:
        await self.gates.pass_through(name, *above)
        self.through.append(name)

    async def now(self) -> list[str]:
        """Who came through since the last look."""
        await anyio.wait_all_tasks_blocked()
        through, self.through = sorted(self.through), []
        return through


async def test_gates_are_open_at_first() -> None:
    crowd = Crowd(Gates())
    await crowd.go("run", "lab")
    assert await crowd.now() == ["run"]


async def test_everybody_waits_at_a_closed_gate_of_their_own_or_above_and_goes_on_when_it_opens() -> None:
    gates = Gates()
    crowd = Crowd(gates)
    gates.close("a")
    gates.close("lab")
    async with anyio.create_task_group() as group:
        for name in "abc":
            group.start_soon(crowd.go, name, "lab" if name != "c" else "")
        assert await crowd.now() == ["c"]
        gates.open("lab")
        assert await crowd.now() == ["b"]
        gates.close("lab")
        gates.open("a")
        assert await crowd.now() == [], "who waits for two waits for both"
        gates.open("lab")
        assert await crowd.now() == ["a"]
    assert not any(map(gates.waits, "abc"))


async def test_a_gate_that_closes_again_at_once_lets_nobody_slip_through() -> None:
    gates = Gates()
    crowd = Crowd(gates)
    gates.close("a")
    async with anyio.create_task_group() as group:
        group.start_soon(crowd.go, "a")
        await anyio.wait_all_tasks_blocked()
        gates.open("a")
        gates.close("a")
        assert await crowd.now() == []
        gates.open("a")


async def test_one_who_is_let_through_goes_past_all_gates_and_nobody_else_does() -> None:
    gates = Gates()
    crowd = Crowd(gates)
    for name in ("a", "b", "lab"):
        gates.close(name)
    async with anyio.create_task_group() as group:
        for name in "abc":
            group.start_soon(crowd.go, name, "lab")
        assert await crowd.now() == []
        assert gates.let_through("a")
        assert await crowd.now() == ["a"]
        assert (gates.waits("a"), gates.waits("b")) == (False, True)
        await crowd.go("a", "lab")  # for good
        assert await crowd.now() == ["a"]
        for name in ("b", "lab"):
            gates.open(name)
        assert await crowd.now() == ["b", "c"]


async def test_who_does_not_wait_is_not_let_through() -> None:
    gates = Gates()
    crowd = Crowd(gates)
    gates.close("a")
    assert not gates.let_through("a")
    async with anyio.create_task_group() as group:
        group.start_soon(crowd.go, "a")
        assert await crowd.now() == []
        group.cancel_scope.cancel()
    assert not gates.let_through("a"), "nor who gave up waiting"


async def test_a_held_gate_is_closed_for_a_moment_and_nobody_is_told() -> None:
    gates, told = Gates(), list[tuple[str, bool]]()
    gates.watch(lambda name, closed: told.append((name, closed)))
    crowd = Crowd(gates)
    async with anyio.create_task_group() as group:
        with gates.held("a"):
            group.start_soon(crowd.go, "a")
            assert await crowd.now() == []
        assert await crowd.now() == ["a"]
    with pytest.raises(ZeroDivisionError), gates.held("a"):
        raise ZeroDivisionError
    await crowd.go("a")
    assert told == []


async def test_a_watcher_is_told_what_closes_and_opens_and_what_is_closed_already() -> None:
    gates, told = Gates(), list[tuple[str, bool]]()
    gates.close("before")
    gates.watch(lambda name, closed: told.append((name, closed)))
    gates.close("a")
    gates.open("a")
    gates.open("a")
    gates.open("never closed")

    assert told == [("before", True), ("a", True), ("a", False)]


async def test_who_waits_for_room_is_woken_once_for_each_time_some_was_freed() -> None:
    gates = Gates()
    before = gates.freed
    gates.tell_freed()
    assert (before.is_set(), gates.freed.is_set()) == (True, False)
