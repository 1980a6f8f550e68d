"""What an operator may do in which state, and that two commands never act on the same look."""

from collections.abc import Callable
from itertools import product
from typing import Any

import anyio
import anyio.lowlevel
import orjson
import pytest

from runtime.bank.client import BankClient, Parts, Verdicts
from runtime.bank.grants import ACCOUNT, Limits
from runtime.bank.service import Bank
from runtime.bank.store import Opened, Sealed
from runtime.budget import BASE_DIMENSIONS, Budget
from runtime.errors import ConfigError, HostLost, StoreError
from runtime.operator import ALLOWED, EXPERIMENT, Operator
from runtime.result import RunResult, SpendReport

pytestmark = pytest.mark.anyio

CAPS = (100, None, None, None)
COMMANDS = ("pause", "resume", "cancel", "top-up")


class Desk:
    """An operator, a bank in memory, and hosts that note what they are told."""

    def __init__(self) -> None:
        self.bank = Bank(None)
        self.bank.open((1000, None, None, None))
        self.told: list[tuple[Any, ...]] = []
        self.fails: Callable[[str], Exception | None] = lambda method: None
        self.operator = Operator(self.on_bank, self.on_host, BankClient(self.write))

    async def on_bank(self, method: str, *args: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        error = self.fails(method)
        if error is not None:
            raise error
        return getattr(self.bank, method)(*args)

    async def on_host(self, i: int, method: str, *args: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        error = self.fails(f"host {method}")
        if error is not None:
            raise error
        self.told.append((i, method, *args))

    async def write(self, parts: Parts) -> Verdicts:
        await anyio.lowlevel.checkpoint()
        return self.bank.write(parts)

    def begin(self, run_id: str, scope: str = ACCOUNT) -> None:
        """A live run that was begun; no driver has it."""
        self.bank.enter(Limits(scope, True, (1000, None, None, None)), [[(run_id, (100, 0, 0, 0))]])
        facts = {"scope": scope, "dimensions": BASE_DIMENSIONS, "caps": CAPS}
        self.bank.take(Opened(run_id, f"address of {run_id}", orjson.dumps(facts)))

    def seal(self, run_id: str) -> None:
        result = RunResult(run_id, "completed", "", "42", True, SpendReport(), {}, {}, 0.0, False, "D2", False, {}, ())
        body = orjson.dumps({"scope": ACCOUNT, "settled": [0] * 4, "limited": [True] * 4, "open": []})
        self.bank.write([[Sealed(run_id, f"address of {run_id}", result.to_json(), body)]])

    async def do(self, command: str, name: str) -> str:
        if command == "top-up":
            return await self.operator.top_up(name, Budget(tokens=5))
        done: str = await getattr(self.operator, command)(name)
        return done


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def every_state(desk: Desk) -> dict[str, str]:
    """One thing in each state."""
    for run_id in ("here", "left", "halted", "dying", "done"):
        desk.begin(run_id)
    desk.begin("trial", EXPERIMENT + "lab")
    desk.bank.enter(Limits(EXPERIMENT + "old", True, (9, None, None, None)), [])
    desk.bank.enter(Limits(EXPERIMENT + "quiet", True, (9, None, None, None)), [])
    desk.operator.homes.update({"here": 3, "trial": 4})
    desk.operator.scopes.update({EXPERIMENT + "lab"})
    desk.operator.scopes.update({EXPERIMENT + "old"})
    desk.operator.scopes.subtract({EXPERIMENT + "old"})
    for name, ruling in (("halted", "paused"), (EXPERIMENT + "quiet", "paused"), ("dying", "cancelled")):
        desk.bank.rule(name, ruling)
    desk.seal("done")
    return {
        "here": "under way",
        "trial": "under way",
        "left": "interrupted",
        "halted": "paused",
        "dying": "cancelled",
        EXPERIMENT + "lab": "under way",
        EXPERIMENT + "quiet": "paused",
    }


async def test_everything_that_is_not_finished_is_listed_with_its_state(desk: Desk) -> None:
    expected = await every_state(desk)
    assert await desk.operator.states() == expected


async def test_a_state_allows_what_the_table_says_and_nothing_else(desk: Desk) -> None:
    states = {**await every_state(desk), "done": "finished", EXPERIMENT + "old": "idle", ACCOUNT: "idle"}
    seen: dict[tuple[str, str], bool] = {}
    told: dict[tuple[str, str], str] = {}
    for name, command in product(states, COMMANDS):
        desk = Desk()
        await every_state(desk)
        try:
            told[name, command] = await desk.do(command, name)
            seen[name, command] = True
        except ConfigError as error:
            told[name, command] = str(error)
            seen[name, command] = False

    never = {(name, "cancel") for name in states if name.startswith(EXPERIMENT)}
    assert seen == {
        (name, command): state in ALLOWED[command] and (name, command) not in never
        for name, state in states.items()
        for command in COMMANDS
    }
    for (name, command), text in told.items():
        if states[name] not in ALLOWED[command]:
            assert text.startswith(f"{name} is {states[name]}, and {command} needs")


async def test_an_experiment_is_found_by_its_short_name_where_no_run_has_it(desk: Desk) -> None:
    await every_state(desk)
    assert (await desk.do("pause", "lab")).startswith(f"{EXPERIMENT}lab is paused")
    desk.begin("quiet")
    desk.operator.homes["quiet"] = 0
    assert (await desk.do("pause", "quiet")).startswith("quiet is paused")
    assert (await desk.do("resume", f"{EXPERIMENT}quiet")).startswith(f"{EXPERIMENT}quiet may go on")
    with pytest.raises(
        ConfigError, match=r"no open run and no experiment 'nobody'; open are: dying, experiment:lab, .*"
    ):
        await desk.do("pause", "nobody")
    with pytest.raises(ConfigError, match="no open run and no experiment"):
        await desk.do("pause", EXPERIMENT + "nobody")


async def test_a_pause_is_ruled_and_closes_the_gate_and_a_resume_undoes_both(desk: Desk) -> None:
    desk.begin("run")
    desk.operator.homes["run"] = 0
    told: list[tuple[str, bool]] = []
    desk.operator.gates.watch(lambda name, closed: told.append((name, closed)))

    assert await desk.do("pause", "run") == "run is paused; calls in flight end and are settled"
    assert desk.bank.rulings() == {"run": "paused"}
    assert await desk.do("resume", "run") == "run may go on"
    assert desk.bank.rulings() == {"run": "resumed"}
    assert told == [("run", True), ("run", False)]


async def test_who_resumes_what_nobody_has_is_told_to_begin_it_again(desk: Desk) -> None:
    desk.begin("run")
    desk.bank.rule("run", "paused")
    assert await desk.do("resume", "run") == "run may go on; run the command that began it again"


@pytest.mark.parametrize("command", ["pause", "resume", "cancel", "top-up"])
async def test_a_command_whose_ruling_could_not_be_noted_has_done_nothing(desk: Desk, command: str) -> None:
    desk.begin("run")
    desk.operator.homes["run"] = 0
    if command == "resume":
        await desk.do("pause", "run")
    before = dict(desk.bank.rulings())
    desk.fails = lambda method: StoreError("disk", "full") if method in {"rule", "top_up"} else None
    with pytest.raises(StoreError):
        await desk.do(command, "run")

    desk.fails = lambda method: None
    assert (desk.bank.rulings(), desk.told) == (before, [])
    passed: list[str] = []

    async def go() -> None:
        await desk.operator.gates.pass_through("run")
        passed.append("run")

    async with anyio.create_task_group() as group:
        group.start_soon(go)
        await anyio.wait_all_tasks_blocked()
        assert passed == ([] if command == "resume" else ["run"])
        group.cancel_scope.cancel()


async def test_a_run_under_way_is_cancelled_and_topped_up_on_its_host(desk: Desk) -> None:
    desk.begin("run")
    desk.operator.homes["run"] = 3
    await desk.operator.top_up("run", Budget(tokens=5))
    assert await desk.do("cancel", "run") == "run is cancelled"
    assert desk.told == [(3, "top_up", "run", (5, 0, 0, 0)), (3, "cancel", "run")]
    assert desk.bank.result("run") is None, "its host ends it, and its driver seals it"


async def test_a_run_that_is_cancelled_just_when_a_pause_ends_its_life_does_not_wait_to_be_resumed(desk: Desk) -> None:
    """Its host has ended this life of its already, and the news of that is still on its way."""
    desk.begin("run")
    desk.operator.homes["run"] = 3
    await desk.do("pause", "run")
    await desk.do("cancel", "run")
    with anyio.fail_after(5):
        await desk.operator.gates.pass_through("run")


@pytest.mark.parametrize("command", ["cancel", "top-up"])
async def test_a_host_that_is_lost_meanwhile_is_no_failure(desk: Desk, command: str) -> None:
    """The next life of the run reads from the store what was decided."""
    desk.begin("run")
    desk.operator.homes["run"] = 3
    desk.fails = lambda method: HostLost("host 3", "gone") if method.startswith("host") else None
    await desk.do(command, "run")
    assert (desk.bank.rulings() == {"run": "cancelled"}) == (command == "cancel")
    assert (desk.bank.raised("run") == [(5, 0, 0, 0)]) == (command == "top-up")


async def test_an_interrupted_run_is_sealed_once_however_many_cancel_it_at_once(desk: Desk) -> None:
    desk.begin("run")
    told: list[str] = []

    async def cancel() -> None:
        try:
            told.append(await desk.do("cancel", "run"))
        except ConfigError as error:
            told.append(str(error))

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(cancel)

    assert told[0] == "run is cancelled; it had spent $0"
    assert all(text.startswith("run is finished, and cancel needs") for text in told[1:])
    result = desk.bank.result("run")
    assert result is not None
    assert (result.status, result.spend.total.tokens, desk.bank._store.epoch("run")) == ("cancelled", 0, 2)


async def test_nobody_begins_a_run_here_while_it_is_being_sealed(desk: Desk) -> None:
    desk.begin("run")
    order: list[str] = []
    look = desk.on_bank

    async def watched(method: str, *args: Any) -> Any:
        if method == "take":
            group.start_soon(begin)
            await anyio.wait_all_tasks_blocked()
        return await look(method, *args)

    async def begin() -> None:
        await desk.operator.gates.pass_through("run", ACCOUNT)
        order.append("finished" if desk.bank.result("run") is not None else "open")

    desk.operator.on_bank = watched
    async with anyio.create_task_group() as group:
        await desk.do("cancel", "run")
    assert order == ["finished"]


async def test_commands_are_carried_out_one_after_another(desk: Desk) -> None:
    """A pause in the middle of a cancellation would take its ruling back."""
    desk.begin("run")
    desk.operator.homes["run"] = 0
    told: list[str] = []

    async def do(command: str) -> None:
        try:
            told.append(await desk.do(command, "run"))
        except ConfigError as error:
            told.append(str(error))

    async with anyio.create_task_group() as group:
        for command in ("cancel", "pause", "resume", "top-up"):
            group.start_soon(do, command)

    assert desk.bank.rulings() == {"run": "cancelled"}
    assert told[0] == "run is cancelled"
    assert [text.partition(",")[0] for text in told[1:]] == ["run is cancelled"] * 3


async def test_a_cancellation_that_was_cut_off_can_be_finished(desk: Desk) -> None:
    desk.begin("run")
    desk.fails = lambda method: StoreError("disk", "full") if method == "take" else None
    with pytest.raises(StoreError):
        await desk.do("cancel", "run")
    assert await desk.operator.states() == {"run": "cancelled"}
    desk.fails = lambda method: None
    assert "it had spent" in await desk.do("cancel", "run")
    assert await desk.operator.states() == {}


@pytest.mark.parametrize(
    ("command", "frees"), [("pause", False), ("resume", False), ("cancel", True), ("top-up", True)]
)
async def test_who_waits_for_room_is_woken_by_what_may_free_some(desk: Desk, command: str, frees: bool) -> None:
    desk.begin("run")
    if command == "pause":
        desk.operator.homes["run"] = 0
    if command == "resume":
        desk.bank.rule("run", "paused")
    freed = desk.operator.gates.freed
    await desk.do(command, "run")
    assert freed.is_set() == frees


async def test_time_cannot_be_topped_up(desk: Desk) -> None:
    desk.begin("run")
    with pytest.raises(ConfigError, match="a deadline cannot be topped up"):
        await desk.operator.top_up("run", Budget(tokens=5, seconds=3))
    assert desk.bank.raised("run") == []
