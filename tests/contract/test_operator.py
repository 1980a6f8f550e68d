"""Pause, resume, cancel and top up while live runs go on; what is paid for is paid for once, and no cap is ever passed."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.engine import Sweep
from benchmarks.experiment import Experiment
from runtime import Budget, Runtime, Task
from runtime.bank.client import in_process
from runtime.bank.grants import ACCOUNT, NO_CAPS, Limits, granted_amounts
from runtime.bank.live import Life
from runtime.bank.service import Bank
from runtime.bank.statement import books_of
from runtime.bank.store import Opened, Sealed, Store
from runtime.bank.vector import unpack
from runtime.budget import PICO_USD, TOKENS
from runtime.control import ask_driver, carry_out
from runtime.errors import BudgetExceeded, ConfigError, HostLost, OrchestrationError, StaleEpoch, StoreError
from runtime.host import Host, calls_to
from runtime.messages import Part, Plan, Report, Verdict
from runtime.models.base import ChatReply, ChatRequest
from runtime.models.catalog import Catalog
from runtime.models.scripted import ScriptedModel
from runtime.operator import EXPERIMENT, Operator
from runtime.preflight import RunSpec
from runtime.result import RunResult
from runtime.run import Run
from runtime.usage import PICO
from topologies import Chain, Independent, Single, Star, Topology

pytestmark = pytest.mark.anyio

QUESTION = Task("How many?", answer="42")
TOKENS_A_CALL = 100
USD_A_CALL = "0.10"
LIMIT_S = 60


def answer(request: ChatRequest) -> Any:
    return {
        "plan": Plan((Part("one half"), Part("the other half"), Part("the rest"))),
        "report": Report("42"),
        "verdict": Verdict("accept", "42"),
    }[request.reply]


Hook = Callable[[], Awaitable[object]]


class Steered(ScriptedModel):
    """A live model that calls a hook in the middle of its n-th call, and knows what it bills."""

    def __init__(self) -> None:
        super().__init__(answer, input_tokens=60, output_tokens=40, usd=USD_A_CALL, virtual=False, name="m")
        self.asked = self.answered = self.most_at_once = self._at_once = 0
        self.hooks: dict[int, Hook] = {}
        self.every: Hook | None = None

    async def complete(self, request: ChatRequest) -> ChatReply:
        n, self.asked, self._at_once = self.asked, self.asked + 1, self._at_once + 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            hook = self.hooks.get(n, self.every)
            if hook is not None:
                await hook()
            self.answered += 1
            return await super().complete(request)
        finally:
            self._at_once -= 1


class WatchedBank(Bank):
    """A bank whose balances may be asked for."""

    def balance(self, scope: str, dimension: int) -> tuple[int, int]:
        self._grants.ledger.check()
        place = self._grants.ledger.scopes[scope]
        return unpack(place.settled, 4)[dimension], unpack(place.held, 4)[dimension]

    def rebuilt(self, scope: str, dimension: int) -> tuple[int, int]:
        """The same, out of the store alone."""
        self._forget()
        return self.balance(scope, dimension)

    def sealed(self) -> list[str]:
        return [result.run_id for result in self.finished()]


class Stage:
    """A runtime with one steered model, the results of the runs begun in it, and a look into its books."""

    def __init__(self, runtime: Runtime, host: Host, model: Steered, group: Any) -> None:
        self.runtime, self.host, self.model, self.group = runtime, host, model, group
        self.operator = runtime.operator
        self.results: dict[str, RunResult] = {}
        self.errors: dict[str, OrchestrationError] = {}

    def begin(self, run_id: str, topology: Topology, budget: Budget) -> anyio.CancelScope:
        """Begin a run; leaves its result, or its error, here."""
        scope = anyio.CancelScope()

        async def run() -> None:
            with scope:
                try:
                    self.results[run_id] = await self.runtime.run(topology, QUESTION, budget=budget, run_id=run_id)
                except OrchestrationError as error:
                    self.errors[run_id] = error

        self.group.start_soon(run)
        return scope

    async def ended(self, *run_ids: str) -> None:
        await until(lambda: all(run_id in self.results or run_id in self.errors for run_id in run_ids))

    async def waits(self, name: str) -> None:
        """Until somebody waits at a gate."""
        await until(lambda: self.operator.gates.waits(name))

    def under_way(self, run_id: str) -> Run:
        """A run that the host has."""
        return self.host._under_way[run_id]

    async def balance(self, scope: str = ACCOUNT, dimension: int = TOKENS) -> tuple[int, int]:
        """What is settled, and what is held."""

        found: tuple[int, int] = await self.bank("balance", scope, dimension)
        return found

    async def bank(self, method: str, *args: object) -> Any:
        """Ask the bank, when it is its turn."""
        return await self.runtime._on_bank(method, *args)


async def until(true: Callable[[], bool]) -> None:
    """Wait for a condition that something else in this process brings about."""
    with anyio.fail_after(LIMIT_S):
        while not true():
            await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def stage(
    out: Path | None = None, *, model: Steered | None = None, cap: Budget | None = None, **more: Any
) -> AsyncIterator[Stage]:
    model = model or Steered()
    with pytest.MonkeyPatch.context() as patch:
        hosts: list[Host] = []

        def kept(host: Host) -> Any:
            hosts.append(host)
            return calls_to(host)

        patch.setattr("runtime.driver.Bank", WatchedBank)
        patch.setattr("runtime.driver.calls_to", kept)
        async with Runtime(models={"m": model, **more}, out=out, cap=cap) as runtime:
            with anyio.fail_after(LIMIT_S):
                async with anyio.create_task_group() as group:
                    yield Stage(runtime, hosts[0], model, group)


def chain(executors: int = 2) -> Topology:
    """As many calls as executors and two more, one after another."""
    return Chain(executors, model="m")


def check_honest(result: RunResult, model: Steered) -> None:
    """The run was charged what the provider bills, and the rows explain its books."""
    total = result.spend.total
    assert total.tokens == TOKENS_A_CALL * model.answered
    assert total.pico_usd == PICO // 10 * model.answered
    assert result.books["tokens"]["settled"] == total.tokens
    assert not result.overspent


# ---- Pause and resume.


@pytest.mark.parametrize("nth", range(4))
async def test_a_run_that_was_paused_at_any_call_goes_on_from_there_at_no_cost(tmp_path: Path, nth: int) -> None:
    async with stage(tmp_path) as here:
        here.model.hooks[nth] = partial(here.operator.pause, "r")
        here.begin("r", chain(), Budget(tokens=1000))
        if nth < 3:
            await here.waits("r")
            assert (here.model.asked, here.model.answered) == (nth + 1, nth + 1), "what was in flight was answered"
            assert await here.operator.states() == {"r": "paused"}
            assert await here.balance() == (0, 1000), "its budget stays held"
            entries = {(e.key, e.try_): e.state for e in await here.bank("entries", "r")}
            assert set(entries.values()) == {"settled"}
            await here.runtime.resume("r")
        await here.ended("r")

        result = here.results["r"]
        assert (result.status, result.answer, here.model.asked) == ("completed", "42", 4)
        assert [a.state for a in result.attempts] == ["settled"] * 4
        check_honest(result, here.model)
        assert await here.balance() == (400, 0)


async def test_a_run_may_be_paused_before_each_of_its_calls(tmp_path: Path) -> None:
    async with stage(tmp_path) as here:
        here.model.every = partial(here.operator.pause, "r")
        here.begin("r", chain(), Budget(tokens=1000))
        for _ in range(3):
            await here.waits("r")
            await here.operator.resume("r")
            await until(lambda: not here.operator.gates.waits("r"))
        await here.ended("r")

        assert here.results["r"].status == "completed"
        assert here.model.asked == 4
        check_honest(here.results["r"], here.model)


async def test_a_pause_lets_all_calls_in_flight_end_and_nothing_new_begin(tmp_path: Path) -> None:
    paused = anyio.Event()

    async with stage(tmp_path) as here:

        async def pause() -> None:
            await until(lambda: here.model.asked == 4)
            await here.operator.pause("r")
            paused.set()

        here.model.hooks = {1: pause, 2: paused.wait, 3: paused.wait}
        here.begin("r", Star(3, model="m"), Budget(tokens=1000))
        await here.waits("r")
        assert (here.model.asked, here.model.answered) == (4, 4)
        await here.operator.resume("r")
        await here.ended("r")

        assert (here.results["r"].status, here.model.asked) == ("completed", 5)
        check_honest(here.results["r"], here.model)


class Watch:
    """The clock of live runs, on which time passes when told."""

    time_s = 0.0

    def now_s(self) -> float:
        return Watch.time_s


@pytest.mark.parametrize(("seconds", "status"), [(17, "completed"), (11, "deadline")])
async def test_a_pause_does_not_count_against_the_deadline_and_the_time_before_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int, status: str
) -> None:
    """Four calls of four seconds each, and an hour between the second and the third."""
    monkeypatch.setattr("runtime.host.LoopClock", Watch)
    Watch.time_s = 0.0

    async with stage(tmp_path) as here:

        async def work() -> None:
            Watch.time_s += 4
            if here.model.asked in (2, 3):
                await here.operator.pause("r")

        here.model.every = work
        here.begin("r", chain(), Budget(tokens=1000, seconds=seconds))
        for _ in range(2):
            await here.waits("r")
            Watch.time_s += 3600
            await here.operator.resume("r")
            await until(lambda: not here.operator.gates.waits("r"))
        await here.ended("r")

        result = here.results["r"]
        assert result.status == status
        assert (result.seconds <= 16, here.model.asked) == (True, 4 if status == "completed" else 3)


async def test_who_is_paused_stays_paused_for_the_next_driver(tmp_path: Path) -> None:
    model = Steered()
    async with stage(tmp_path, model=model) as here:
        model.hooks[1] = partial(here.operator.pause, "r")
        scope = here.begin("r", chain(), Budget(tokens=1000))
        await here.waits("r")
        scope.cancel()

    async with stage(tmp_path, model=model) as here:
        here.begin("r", chain(), Budget(tokens=1000))
        await here.waits("r")
        assert model.asked == 2
        assert await here.operator.resume("r") == "r may go on"
        await here.ended("r")
        assert (here.results["r"].status, model.asked) == ("completed", 4)
        check_honest(here.results["r"], model)


async def test_a_pause_that_could_not_be_noted_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = []
    async with stage(tmp_path) as here:

        async def pause() -> None:
            def fail(*_: Any) -> None:
                raise HostLost("the bank", "its node is gone")

            with monkeypatch.context() as patch:
                patch.setattr(WatchedBank, "rule", fail)
                try:
                    await here.operator.pause("r")
                except HostLost as error:
                    refusals.append(error)

        here.model.hooks[1] = pause
        here.begin("r", chain(), Budget(tokens=1000))
        await here.ended("r")
        assert (len(refusals), here.results["r"].status) == (1, "completed")


# ---- Cancel.


async def test_a_run_cancelled_under_way_ends_with_its_best_answer_and_is_sealed(tmp_path: Path) -> None:
    async with stage(tmp_path) as here:
        here.model.hooks[2] = partial(here.operator.cancel, "r")
        here.begin("r", chain(), Budget(tokens=1000))
        await here.ended("r")

        result = here.results["r"]
        assert (result.status, result.reason, result.answer) == ("cancelled", "an operator cancelled the run", "42")
        assert sorted(a.state for a in result.attempts) == ["charged_max", "settled", "settled"]
        assert await here.balance() == (300, 0)
        assert await here.operator.states() == {}
        assert await here.bank("result", "r") == result
        with pytest.raises(ConfigError, match="r is finished, and cancel needs"):
            await here.operator.cancel("r")
        again = await here.runtime.run(chain(), QUESTION, budget=Budget(tokens=1000), run_id="r")
        assert (again, here.model.asked) == (result, 3)


async def test_a_run_that_was_paused_and_is_cancelled_ends_with_its_best_answer(tmp_path: Path) -> None:
    async with stage(tmp_path) as here:
        here.model.hooks[2] = partial(here.operator.pause, "r")
        here.begin("r", chain(), Budget(tokens=1000))
        await here.waits("r")
        await here.operator.cancel("r")
        await here.ended("r")

        result = here.results["r"]
        assert (result.status, result.answer, here.model.asked) == ("cancelled", "42", 3)
        check_honest(result, here.model)
        assert await here.balance() == (300, 0)


async def test_a_run_that_ends_of_itself_while_it_is_cancelled_is_sealed_once(tmp_path: Path) -> None:
    async with stage(tmp_path) as here:
        here.model.hooks[3] = partial(here.operator.cancel, "r")
        here.begin("r", chain(), Budget(tokens=1000))
        await here.ended("r")
        assert here.results["r"].status == "cancelled"
        assert await here.bank("sealed") == ["r"]


async def test_two_who_cancel_at_once_cancel_once(tmp_path: Path) -> None:
    model = Steered()
    async with stage(tmp_path, model=model) as here:
        stuck = anyio.Event()

        async def hang() -> None:
            stuck.set()
            await anyio.sleep_forever()

        model.hooks[2] = hang
        scope = here.begin("r", chain(), Budget(tokens=1000))
        await stuck.wait()
        scope.cancel()

    async with stage(tmp_path, model=model) as here:
        told: list[str] = []

        async def cancel() -> None:
            try:
                told.append(await here.operator.cancel("r"))
            except ConfigError as error:
                told.append(str(error))

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(cancel)
        assert sorted(told)[0] == "r is cancelled; it had spent $0.3"
        assert all("r is finished" in text for text in sorted(told)[1:])
        assert await here.bank("sealed") == ["r"]


PROGRAM = """
import sys
from pathlib import Path

import anyio
from runtime import Budget, Runtime
from test_operator import QUESTION, Steered, chain


async def main():
    async with Runtime(models={"m": Steered()}, out=Path(sys.argv[1]), cap=Budget(tokens=2000)) as runtime:
        await runtime.run(chain(), QUESTION, budget=Budget(tokens=1000), run_id="r")


anyio.run(main)
"""


def killed(tmp_path: Path, where: str) -> Path:
    """What a driver that was killed in its run left in its folder."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "out")],
        env={**os.environ, "OSTROM_CRASH": where, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("where", "settled", "lost"),
    [("after-reserve:1", 0, 0), ("after-sent:2", 100, 100), ("after-reply:3", 200, 100), ("after-sent:4", 300, 100)],
)
@pytest.mark.parametrize("how", ["a driver", "nobody"])
async def test_a_run_whose_driver_was_killed_is_cancelled_with_exact_books(
    tmp_path: Path, where: str, settled: int, lost: int, how: str
) -> None:
    """By another driver, or on the store alone; the run's topology and models are not needed for it."""
    out = killed(tmp_path, where)
    if how == "a driver":
        async with Runtime(out=out) as runtime:
            assert await runtime.operator.states() == {"r": "interrupted"}
            await runtime.operator.cancel("r")
    else:
        bank = Bank(out)
        client, on_bank = in_process(bank)
        said = await carry_out(Operator(on_bank, no_host, client), {"do": "cancel", "name": "r"})
        assert "it had spent" in said
        bank.close()

    async with stage(out) as here:
        result = await here.bank("result", "r")
        assert result is not None
        assert (result.status, result.answer, result.books["tokens"]["cap"]) == ("cancelled", None, 1000)
        assert result.spend.total.tokens == result.books["tokens"]["settled"] == settled + lost
        assert await here.balance() == (settled + lost, 0)
        states = sorted(a.state for a in result.attempts)
        assert states == ["charged_max"] * (lost // 100) + ["settled"] * (settled // 100)
        again = await here.runtime.run(chain(), QUESTION, budget=Budget(tokens=1000), run_id="r")
        assert (again, here.model.asked) == (result, 0)


async def no_host(i: int, method: str, *_: object) -> Any:
    raise HostLost(f"host {i}", "no driver works on this folder")


async def test_a_run_of_a_killed_driver_is_resumed_under_the_same_grant(tmp_path: Path) -> None:
    out = killed(tmp_path, "after-sent:2")
    async with stage(out) as here:
        assert await here.balance() == (1000, 0), "its whole budget, until more is known"
        with pytest.raises(BudgetExceeded, match="account: 1001 tokens needed, 1000 left"):
            await here.runtime.run(chain(), QUESTION, budget=Budget(tokens=1001), run_id="too-large")
        here.begin("r", chain(), Budget(tokens=1000))
        await here.ended("r")
        assert (here.results["r"].status, here.model.asked) == ("completed", 3)
        assert here.results["r"].spend.total.tokens == 500
        assert await here.balance() == (500, 0)


# ---- Top up.


async def test_a_run_about_to_be_refused_goes_on_when_it_is_topped_up(tmp_path: Path) -> None:
    """Without, two of three executors go without, and the verifier answers on the first one's report."""

    async def ends(top_up: Budget | None, folder: Path) -> RunResult:
        async with stage(folder) as here:
            if top_up is not None:
                here.model.hooks[1] = partial(here.operator.top_up, "r", top_up)
            here.begin("r", chain(3), Budget(tokens=300))
            await here.ended("r")
            assert await here.balance() == (here.results["r"].spend.total.tokens, 0)
            return here.results["r"]

    short = await ends(None, tmp_path / "without")
    assert (short.status, short.spend.total.tokens, short.metrics["refusals"]) == ("completed", 300, 1)
    result = await ends(Budget(tokens=300), tmp_path / "with")
    assert (result.status, result.spend.total.tokens, result.metrics["refusals"]) == ("completed", 500, 0)
    assert result.books["tokens"]["cap"] == 600


async def test_one_who_waits_for_budget_goes_on_when_the_run_is_topped_up(tmp_path: Path) -> None:
    """Room for one call at a time; the first one waits until the second has begun beside it."""
    async with stage(tmp_path) as here:

        async def first() -> None:
            await until(lambda: here.under_way("r").ledger.waiting == 1)
            assert here.model.most_at_once == 1
            await here.operator.top_up("r", Budget(tokens=100))
            await until(lambda: here.model.most_at_once == 2)

        here.model.hooks[0] = first
        here.begin("r", Independent(2, model="m"), Budget(tokens=150))
        await here.ended("r")
        assert here.results["r"].status == "completed"
        assert here.results["r"].spend.total.tokens == 200


async def test_a_top_up_outlives_the_life_it_came_in(tmp_path: Path) -> None:
    async with stage(tmp_path) as here:

        async def raise_and_pause() -> None:
            await here.operator.top_up("r", Budget(tokens=300))
            await here.operator.pause("r")

        here.model.hooks[1] = raise_and_pause
        here.begin("r", chain(3), Budget(tokens=300))
        await here.waits("r")
        await here.operator.top_up("r", Budget(tokens=1))
        await here.operator.resume("r")
        await here.ended("r")

        result = here.results["r"]
        assert (result.status, result.spend.total.tokens, result.books["tokens"]["cap"]) == ("completed", 500, 601)


async def test_a_top_up_is_refused_where_it_cannot_be(tmp_path: Path) -> None:
    refused: dict[str, str] = {}

    async with stage(tmp_path, cap=Budget(tokens=1200)) as here:

        async def try_all() -> None:
            wrong = {
                "no room": Budget(tokens=201),
                "no such limit": Budget(usd=1),
                "a tool": Budget(tool_calls={"look": 1}),
                "time": Budget(seconds=5),
            }
            for why, more in wrong.items():
                try:
                    await here.operator.top_up("r", more)
                except OrchestrationError as error:
                    refused[why] = f"{type(error).__name__}: {error}"

        here.model.hooks[1] = try_all
        here.begin("r", chain(), Budget(tokens=1000))
        await here.ended("r")
        assert here.results["r"].books["tokens"]["cap"] == 1000
        with pytest.raises(ConfigError, match=r"r is finished, and top-up needs .*; run it anew with a larger budget"):
            await here.operator.top_up("r", Budget(tokens=5))
        with pytest.raises(ConfigError, match="no open run and no experiment 'nobody'"):
            await here.operator.top_up("nobody", Budget(tokens=5))

    assert refused == {
        "no room": "BudgetExceeded: account: 201 tokens needed, 200 left",
        "no such limit": "ConfigError: r has no such limit: only one that exists can be raised, and it has none of usd",
        "a tool": "ConfigError: r has no such limit: only one that exists can be raised, and it has none of "
        "tool_calls.look",
        "time": "ConfigError: a deadline cannot be topped up; only tokens, usd, calls and tool calls can",
    }


# ---- The account.


@pytest.mark.parametrize(("runs", "fit"), [(10, 10), (25, 10)])
async def test_runs_at_once_never_pass_the_account_and_use_it_where_they_fit(runs: int, fit: int) -> None:
    async with stage(cap=Budget(usd=1)) as here:

        async def within() -> None:
            settled, held = await here.balance(dimension=PICO_USD)
            assert settled + held <= PICO
            assert here.model.asked * PICO // 10 <= settled + held, "the books are never behind the bill"

        here.model.every = within
        names = [f"r{i}" for i in range(runs)]
        for name in names:
            here.begin(name, Single(model="m"), Budget(usd=USD_A_CALL))
        await here.ended(*names)

        assert {result.status for result in here.results.values()} == {"completed"}
        assert len(here.results) == here.model.asked == fit
        assert {error.args for error in here.errors.values()} <= {(ACCOUNT, "pico_usd", PICO // 10, 0)}
        assert await here.balance(dimension=PICO_USD) == (PICO, 0)


async def test_who_does_not_fit_yet_waits_for_what_others_do_not_need() -> None:
    """Each holds half of the account and spends a tenth; the seventh would not fit even when all others are done."""
    async with stage(cap=Budget(usd=1)) as here:
        names = [f"r{i}" for i in range(12)]
        for name in names:
            here.begin(name, Single(model="m"), Budget(usd="0.50"))
        await here.ended(*names)

        assert len(here.results) == 6
        assert {error.args for error in here.errors.values()} == {(ACCOUNT, "pico_usd", PICO // 2, PICO // 10 * 4)}
        assert here.model.most_at_once <= 2
        assert await here.balance(dimension=PICO_USD) == (PICO // 10 * 6, 0)


async def test_of_many_specs_all_that_fit_are_run_before_the_refusal_of_the_others_is_told() -> None:
    async with stage(cap=Budget(tokens=500)) as here:
        specs = [
            here.runtime.spec(f"r{i}", Single(model="m"), QUESTION, Budget(tokens=n), 0)
            for i, n in enumerate((100, 900, 200, 100))
        ]
        done = []

        async def run() -> None:
            async for spec, _ in here.runtime.map(specs):
                done.append(spec.run_id)

        with pytest.raises(BudgetExceeded, match="account: 900 tokens needed"):
            await run()
        assert sorted(done) == ["r0", "r2", "r3"]


async def test_who_waits_for_a_run_that_was_given_up_before_it_began_is_let_in() -> None:
    async with stage(cap=Budget(tokens=500)) as here:
        here.operator.gates.close("first")
        scope = here.begin("first", Single(model="m"), Budget(tokens=400))
        await here.waits("first")
        here.begin("second", Single(model="m"), Budget(tokens=400))
        await anyio.wait_all_tasks_blocked()
        assert here.model.asked == 0
        scope.cancel()
        await here.ended("second")
        assert here.results["second"].status == "completed"


async def stuck_in(here: Stage, run_id: str, budget: Budget, nth: int = 0) -> anyio.CancelScope:
    """A run of which a call never ends."""
    stuck = anyio.Event()

    async def hang() -> None:
        stuck.set()
        await anyio.sleep_forever()

    here.model.hooks[nth] = hang
    scope = here.begin(run_id, Single(model="m"), budget)
    await stuck.wait()
    return scope


async def test_who_waits_for_a_run_that_was_given_up_under_way_is_refused_and_not_kept_waiting() -> None:
    """Nobody knows what that run has spent, and nobody may ever take it up again."""
    async with stage(cap=Budget(tokens=500)) as here:
        scope = await stuck_in(here, "first", Budget(tokens=400))
        here.begin("second", Single(model="m"), Budget(tokens=400))
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
        await here.ended("second")
        assert str(here.errors["second"]) == "account: 400 tokens needed, 100 left"

        assert "it had spent $0.1" in await here.operator.cancel("first")
        here.begin("third", Single(model="m"), Budget(tokens=400))
        await here.ended("third")
        assert here.results["third"].status == "completed"


async def test_who_waits_for_room_in_the_account_is_let_in_by_a_top_up_of_it() -> None:
    async with stage(cap=Budget(tokens=500)) as here:
        scope = await stuck_in(here, "first", Budget(tokens=400))
        here.begin("second", Single(model="m"), Budget(tokens=400))
        await anyio.wait_all_tasks_blocked()
        await here.operator.top_up(ACCOUNT, Budget(tokens=300))
        await here.ended("second")
        assert here.results["second"].status == "completed"
        scope.cancel()


async def test_a_run_id_that_is_under_way_is_nobody_else_s() -> None:
    """What is held goes by run ids: another run of the same id would spend, or give back, what it never held."""
    async with stage(cap=Budget(tokens=1000)) as here:
        here.operator.gates.close("r")
        here.begin("r", chain(), Budget(tokens=1000))
        await here.waits("r")
        for topology, budget in ((chain(1), Budget(tokens=1000)), (chain(), Budget(tokens=400))):
            with pytest.raises(ConfigError, match="run id 'r' belongs to another run that is under way"):
                await here.runtime.run(topology, QUESTION, budget=budget, run_id="r")
        specs = [here.runtime.spec("s", Single(model="m"), QUESTION, Budget(tokens=n), 0) for n in (200, 300)]

        async def both() -> None:
            async for _ in here.runtime.map(specs):
                pass

        with pytest.raises(ConfigError, match="run id 's' belongs to another run"):
            await both()
        assert await here.balance() == (0, 1000)
        here.operator.gates.open("r")
        await here.ended("r")
        assert (here.results["r"].status, await here.balance()) == ("completed", (400, 0))
        again = await here.runtime.run(chain(), QUESTION, budget=Budget(tokens=1000), run_id="r")
        assert again == here.results["r"]


async def test_an_account_binds_whoever_comes_later_without_naming_it(tmp_path: Path) -> None:
    async with stage(tmp_path, cap=Budget(usd=1)) as here:
        here.begin("r", chain(), Budget(usd="0.50"))
        await here.ended("r")

    async with stage(tmp_path) as here:
        with pytest.raises(ConfigError, match="the cap limits usd, but the budget"):
            await here.runtime.run(chain(), QUESTION, budget=Budget(tokens=1000), run_id="unlimited")
        with pytest.raises(BudgetExceeded, match=ACCOUNT):
            await here.runtime.run(chain(), QUESTION, budget=Budget(usd="0.70"), run_id="too-much")
        assert here.model.asked == 0


async def test_a_run_that_was_billed_too_much_stops_what_comes_after_it_and_not_its_neighbours() -> None:
    class Greedy(Steered):
        async def complete(self, request: ChatRequest) -> ChatReply:
            is_first = self.asked == 0
            reply = await super().complete(request)
            return ChatReply(reply.text, self.usage._replace(input_tokens=2000)) if is_first else reply

    async with stage(model=Greedy(), cap=Budget(tokens=1500)) as here:
        begun, go_on = anyio.Event(), anyio.Event()

        async def wait() -> None:
            begun.set()
            await go_on.wait()

        here.model.hooks = {0: go_on.wait, 1: wait}
        here.operator.gates.close("greedy")
        here.begin("greedy", Single(model="m"), Budget(tokens=300))
        await here.waits("greedy")
        here.operator.gates.close("held")
        here.begin("held", Single(model="m"), Budget(tokens=300))
        await here.waits("held")
        here.operator.gates.open("greedy")
        await until(lambda: here.model.asked == 1)
        here.begin("neighbour", Single(model="m"), Budget(tokens=300))
        await begun.wait()
        go_on.set()
        await here.ended("greedy")
        here.operator.gates.open("held")
        await here.ended("held", "neighbour")

        assert here.results["greedy"].overspend["tokens"] == 1740
        assert here.results["neighbour"].status == "completed"
        assert isinstance(here.errors["held"], BudgetExceeded)
        assert here.model.asked == 2


# ---- All of it at once.


class Troubled(Steered):
    """Every call may be the moment at which something else happens to some run."""

    def __init__(self, script: list[tuple[str, int]]) -> None:
        super().__init__()
        self.script = iter(script)
        self.here: Stage
        self.scopes: dict[str, anyio.CancelScope] = {}
        self.dropped: set[str] = set()
        self.every = self.trouble

    async def trouble(self) -> None:
        here, names = self.here, list(self.scopes)
        settled, held = await here.balance()
        assert settled + held <= 2000
        assert self.asked * TOKENS_A_CALL <= settled + held, "the books are never behind the bill"
        what, pick = next(self.script, ("nothing", 0))
        name = names[pick % len(names)]
        with suppress(ConfigError, BudgetExceeded):  # its state may not allow it, or there is no room
            match what:
                case "pause" | "cancel" | "resume":
                    await getattr(here.operator, what)(name)
                case "top up":
                    await here.operator.top_up(name, Budget(tokens=100))
                case "drop":
                    self.dropped.add(name)
                    self.scopes[name].cancel()
                case "wait":
                    for _ in range(pick):
                        await anyio.lowlevel.checkpoint()


actions = st.sampled_from(["nothing", "pause", "cancel", "resume", "top up", "drop", "wait"])


@given(
    st.lists(st.tuples(actions, st.integers(0, 9)), max_size=25),
    st.lists(st.tuples(st.integers(1, 3), st.integers(250, 800)), min_size=1, max_size=6),
)
def test_whatever_an_operator_does_and_whoever_is_dropped_each_run_is_sealed_once_and_nothing_is_paid_twice(
    script: list[tuple[str, int]], runs: list[tuple[int, int]]
) -> None:
    """Who was paused is resumed in the end, and who was dropped is asked for again."""

    async def main() -> None:
        model = Troubled(script)
        async with stage(model=model, cap=Budget(tokens=2000)) as here:
            model.here = here
            asked_for = {f"r{i}": (chain(size), Budget(tokens=tokens)) for i, (size, tokens) in enumerate(runs)}
            for name, what in asked_for.items():
                model.scopes[name] = here.begin(name, *what)
            while len(here.results) + len(here.errors) < len(runs):
                await anyio.lowlevel.checkpoint()
                for name, state in (await here.operator.states()).items():
                    if state == "paused" and here.operator.gates.waits(name):
                        with suppress(ConfigError):  # it was cancelled meanwhile
                            await here.operator.resume(name)
                for name in [name for name in model.dropped if model.scopes[name].cancelled_caught]:
                    model.dropped.discard(name)
                    model.scopes[name] = here.begin(name, *asked_for[name])

            assert all(isinstance(error, BudgetExceeded) for error in here.errors.values())
            results = here.results.values()
            charged = sum(result.spend.total.tokens for result in results)
            assert charged >= TOKENS_A_CALL * model.answered
            assert sorted(await here.bank("sealed")) == sorted(here.results)
            for result in results:
                assert result.books["tokens"]["settled"] == result.spend.total.tokens
                assert {a.state for a in result.attempts} <= {"settled", "charged_max", "released"}
                if result.status not in {"cancelled", "exhausted"}:
                    assert (result.status, result.answer) == ("completed", "42")
                keys = [(a.step, a.seat, a.sample) for a in result.attempts if a.state == "settled"]
                assert len(keys) == len(set(keys)), "no call was paid for twice"
            begun = {name for name in here.errors if name in {o.run_id for o in await here.bank("open_runs")}}
            assert not begun, "who was refused had not begun"
            assert await here.balance() == (charged, 0)
            assert await here.bank("rebuilt", ACCOUNT, TOKENS) == (charged, 0)

    anyio.run(main)


# ---- Experiments.


def experiment(seeds: Iterable[int], topology: Topology | None = None) -> Experiment:
    topologies = [topology or Single(model="m")]
    cap, budgets = Budget(tokens=100_000), [Budget(tokens=1000)]
    return Experiment("lab", tasks=[QUESTION], topologies=topologies, budgets=budgets, seeds=list(seeds), cap=cap)


async def test_a_paused_experiment_begins_nothing_more_until_it_is_resumed(tmp_path: Path) -> None:
    async with stage(tmp_path) as here:
        sweep = Sweep(experiment(range(100)), experiment(range(100)).plan(here.runtime), here.runtime)
        await sweep.begin()
        finished: list[RunResult] = []

        async def run() -> None:
            async for _, result in sweep.run():
                finished.append(result)

        paused = anyio.Event()

        async def pause() -> None:
            await here.operator.pause("lab")
            paused.set()

        here.model.hooks = dict.fromkeys(range(1, 64), paused.wait) | {0: pause}
        here.group.start_soon(run)
        await until(lambda: len(finished) == 64)
        names = [trial.spec.run_id for trial in sweep.plan.trials]
        await until(lambda: sum(map(here.operator.gates.waits, names)) == 100 - 64)
        assert here.model.asked == 64
        assert await here.operator.states() == {EXPERIMENT + "lab": "paused"}

        await here.operator.resume("lab")
        await until(lambda: len(finished) == 100)
        assert {result.status for result in finished} == {"completed"}
        assert here.model.asked == 100
        assert await here.balance(EXPERIMENT + "lab") == (100 * TOKENS_A_CALL, 0)
        assert await here.balance() == (100 * TOKENS_A_CALL, 0)
    assert sweep.not_admitted == 0


async def test_runs_under_way_of_a_paused_experiment_wait_too(tmp_path: Path) -> None:
    async with stage(tmp_path) as here:
        lab = experiment([1], chain())
        sweep = Sweep(lab, lab.plan(here.runtime), here.runtime)
        await sweep.begin()
        here.model.hooks[1] = partial(here.operator.pause, "lab")
        (trial,) = sweep.plan.trials
        finished: list[RunResult] = []

        async def run() -> None:
            async for _, result in sweep.run():
                finished.append(result)

        here.group.start_soon(run)
        await here.waits(trial.spec.run_id)
        assert here.model.asked == 2
        assert (await here.operator.states())[EXPERIMENT + "lab"] == "paused"
        await here.operator.resume(EXPERIMENT + "lab")
        await until(lambda: len(finished) == 1)
        assert (finished[0].status, here.model.asked) == ("completed", 4)
        check_honest(finished[0], here.model)


@pytest.mark.parametrize("begun", [True, False], ids=["begun here", "begun by another driver"])
async def test_a_run_that_is_cancelled_while_its_experiment_is_paused_is_sealed_once(
    tmp_path: Path, begun: bool
) -> None:
    """It waits at the gate of the experiment, and the sweep goes on after it."""
    lab = experiment(range(1, 80), chain())
    model = Steered()
    if not begun:
        async with stage(tmp_path, model=model) as here:
            sweep = Sweep(lab, lab.plan(here.runtime), here.runtime)
            await sweep.begin()
            last = sweep.plan.trials[-1].spec
            await here.runtime.enter(sweep._limits(), [[last]])
            stuck = anyio.Event()

            async def hang() -> None:
                stuck.set()
                await anyio.sleep_forever()

            async def run_last() -> None:
                async for _ in here.runtime.map([last]):
                    pass

            model.hooks[1] = hang
            here.group.start_soon(run_last)
            await stuck.wait()
            here.group.cancel_scope.cancel()

    model.hooks.clear()
    async with stage(tmp_path, model=model) as here:
        sweep = Sweep(lab, lab.plan(here.runtime), here.runtime)
        await sweep.begin()
        name = sweep.plan.trials[0 if begun else -1].spec.run_id
        finished: dict[str, RunResult] = {}

        async def run() -> None:
            async for trial, result in sweep.run():
                finished[trial.spec.run_id] = result

        paused = anyio.Event()

        async def pause() -> None:
            await here.operator.pause("lab")
            paused.set()

        model.every = paused.wait
        model.hooks = {model.asked: pause}
        here.group.start_soon(run)
        await until(lambda: here.operator.gates.waits(sweep.plan.trials[0].spec.run_id))
        await here.operator.cancel(name)
        model.every = None
        await here.operator.resume("lab")
        await until(lambda: len(finished) == 79)

        assert finished[name].status == "cancelled"
        assert {result.status for run_id, result in finished.items() if run_id != name} == {"completed"}
        assert sweep.trials().height == 79, "the table has room for what was cancelled"


async def test_a_paused_virtual_experiment_sends_no_new_batch(tmp_path: Path) -> None:
    virtual = ScriptedModel(answer, input_tokens=60, output_tokens=40)
    async with stage(tmp_path, v=virtual) as here:
        lab = experiment(range(40), Single(model="v"))
        sweep = Sweep(lab, lab.plan(here.runtime), here.runtime)
        await sweep.begin()
        finished: list[RunResult] = []

        async def run() -> None:
            async for _, result in sweep.run():
                if not finished:
                    await here.operator.pause("lab")
                finished.append(result)

        here.group.start_soon(run)
        await here.waits(EXPERIMENT + "lab")
        await until(lambda: len(finished) == virtual.served)
        assert 10 <= virtual.served < 40
        await here.operator.resume("lab")
        await until(lambda: len(finished) == 40)
        assert await here.balance() == (0, 0), "nobody was billed"
    assert virtual.served == 40


async def test_an_experiment_waits_for_what_others_hold_in_the_account_and_may_give_back(tmp_path: Path) -> None:
    async with stage(tmp_path, cap=Budget(tokens=1500)) as here:
        lab = experiment(range(4))
        sweep = Sweep(lab, lab.plan(here.runtime), here.runtime)
        await sweep.begin()
        held, go_on = anyio.Event(), anyio.Event()

        async def hold() -> None:
            held.set()
            await go_on.wait()

        here.model.hooks[0] = hold
        here.begin("alone", Single(model="m"), Budget(tokens=1000))
        await held.wait()
        finished: list[RunResult] = []

        async def run() -> None:
            async for _, result in sweep.run():
                finished.append(result)
            finished.append(here.results["alone"])

        here.group.start_soon(run)
        await anyio.wait_all_tasks_blocked()
        assert (finished, sweep.not_admitted, here.model.asked) == ([], 0, 1)
        go_on.set()
        await until(lambda: len(finished) == 5)
        assert sweep.not_admitted == 0
        assert await here.balance() == (500, 0)


async def test_a_run_whose_seal_could_not_be_written_is_asked_for_again_at_no_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage(tmp_path, cap=Budget(tokens=1500)) as here:
        commit = Store.commit

        def full(self: Store, ops: Any, *, durable: bool = True) -> None:
            if any(isinstance(op, Sealed) for op in ops):
                raise StoreError("disk", "full")
            commit(self, ops, durable=durable)

        with monkeypatch.context() as patch:
            patch.setattr(Store, "commit", full)
            here.begin("r", chain(), Budget(tokens=1000))
            await here.ended("r")
        assert str(here.errors.pop("r")) == "disk: full"
        assert await here.balance() == (1000, 0), "nobody knows here what it has spent"
        here.begin("r", chain(), Budget(tokens=1000))
        await here.ended("r")
        assert (here.results["r"].status, here.model.asked) == ("completed", 4)
        assert await here.balance() == (400, 0)


async def test_an_experiment_under_an_account_with_other_limits_is_refused_before_it_spends(tmp_path: Path) -> None:
    async with stage(tmp_path, cap=Budget(usd=1)) as here:
        with pytest.raises(ConfigError, match="the cap limits usd"):
            experiment([1]).plan(here.runtime)


async def test_what_is_no_experiment_s_turn_is_told(tmp_path: Path) -> None:
    async with stage(tmp_path) as here:
        sweep = Sweep(experiment([1]), experiment([1]).plan(here.runtime), here.runtime)
        await sweep.begin()
        async for _ in sweep.run():
            pass
        assert await here.operator.states() == {}
        for command, words in (("pause", "is idle, and pause needs under way"), ("cancel", "is idle, and cancel")):
            with pytest.raises(ConfigError, match=words):
                await getattr(here.operator, command)("lab")
        assert await here.operator.top_up("lab", Budget(tokens=5)) == f"{EXPERIMENT}lab got 5 tokens more"


# ---- From outside.


async def test_a_second_process_pauses_and_resumes_a_run(tmp_path: Path) -> None:
    program = (
        "import sys, json, anyio\nfrom pathlib import Path\nfrom runtime.control import ask_driver\n"
        "print(json.dumps(anyio.run(ask_driver, Path(sys.argv[1]), json.loads(sys.argv[2]))))"
    )

    async def outside(**command: Any) -> Any:
        done = await anyio.run_process([sys.executable, "-c", program, str(tmp_path), json.dumps(command)])
        return json.loads(done.stdout)

    async with stage(tmp_path) as here:
        here.model.hooks[1] = partial(outside, do="pause", name="r")
        here.begin("r", chain(), Budget(tokens=1000))
        await here.waits("r")
        assert await outside(do="ps") == {"r": "paused"}
        assert (await outside(do="top-up", name="r", limits={"tokens": 5})) == "r got 5 tokens more"
        assert (await outside(do="resume", name="r")) == "r may go on"
        await here.ended("r")
        assert (here.results["r"].status, here.results["r"].books["tokens"]["cap"]) == ("completed", 1005)
    assert await ask_driver(tmp_path, {"do": "ps"}) is None


# ---- Two hosts.


class Hosts:
    """Two hosts on one bank, and the driver's side of it."""

    def __init__(self, model: Steered) -> None:
        self.bank = Bank(None)
        self.client, self.on_bank = in_process(self.bank)
        self.catalog = Catalog({"m": model})
        self.old, self.new = (Host(self.catalog, partial(self.on_bank, "write"), own_process=False) for _ in range(2))
        self.spec = RunSpec("r", chain(), QUESTION, Budget(tokens=2000), 0, "address", True)
        facts = {"scope": ACCOUNT, "dimensions": self.spec.budget.dimensions, "caps": self.spec.budget.caps}
        self.opened = Opened("r", "address", json.dumps(facts).encode())

    async def take(self) -> Life:
        life: Life = await self.on_bank("take", self.opened)
        return life

    async def seal(self, body: bytes) -> RunResult:
        result = RunResult.from_json(body)
        books = books_of(ACCOUNT, granted_amounts(self.spec.budget), result.attempts)
        await self.client.write([Sealed("r", "address", body, books)])
        return result


async def hanging(model: Steered, nth: int) -> tuple[Hosts, anyio.Event, anyio.Event]:
    """Hosts with a run that entered; its n-th call sets the first event, and hangs until the second is set."""
    hosts = Hosts(model)
    await hosts.on_bank("open")
    await hosts.on_bank("enter", Limits(ACCOUNT, True, NO_CAPS), [[("r", (2000, 0, 0, 0))]])
    in_flight, go_on = anyio.Event(), anyio.Event()

    async def hang() -> None:
        in_flight.set()
        await go_on.wait()

    model.hooks[nth] = hang
    return hosts, in_flight, go_on


@pytest.mark.parametrize("nth", range(3))
@pytest.mark.parametrize("late", [False, True], ids=["before the seal", "after it"])
async def test_a_host_that_was_replaced_sends_nothing_more_and_what_it_had_in_flight_is_booked_once(
    nth: int, late: bool
) -> None:
    """The old host hangs in its n-th call while the new one takes over; that call ends before the seal or after it."""
    model = Steered()
    hosts, in_flight, go_on = await hanging(model, nth)
    ends: list[OrchestrationError] = []

    async def zombie(life: Life) -> None:
        try:
            await hosts.old.run_live(hosts.spec, life, False)
        except OrchestrationError as error:
            ends.append(error)

    with anyio.fail_after(LIMIT_S):
        async with anyio.create_task_group() as group:
            group.start_soon(zombie, await hosts.take())
            await in_flight.wait()
            body = await hosts.new.run_live(hosts.spec, await hosts.take(), True)
            asked = model.asked
            assert asked == 4 + 1, "only the call in flight is made again"
            if late:
                result = await hosts.seal(body)
            go_on.set()
        if not late:
            result = await hosts.seal(body)

    assert model.asked == asked, "the old host sent nothing after it was replaced"
    assert [type(error) for error in ends] == [StaleEpoch]
    assert (result.status, result.disturbed, result.spend.total.tokens) == ("completed", True, 500)
    place = hosts.bank._grants.ledger.scopes[ACCOUNT]
    hosts.bank._grants.ledger.check()
    assert (unpack(place.settled, 4)[TOKENS], place.held) == (TOKENS_A_CALL * model.answered, 0)
    assert model.answered == 5
    (entry,) = [e for e in hosts.bank.entries("r") if e.epoch == 1 and e.state == "settled" and e.key.startswith("0/")][
        nth:
    ]
    assert entry.try_ == 0
    await hosts.old.close()


async def test_the_figure_of_a_zombie_replaces_what_was_charged_for_it(tmp_path: Path) -> None:
    """A call whose bound is far above what it costs."""

    class Roomy(Steered):
        def bound(self, request: ChatRequest) -> Any:
            return self.usage._replace(output_tokens=240)

    model = Roomy()
    hosts, in_flight, go_on = await hanging(model, 0)

    async def zombie(life: Life) -> None:
        with pytest.raises(StaleEpoch):
            await hosts.old.run_live(hosts.spec, life, False)

    def settled() -> int:
        return unpack(hosts.bank._grants.ledger.scopes[ACCOUNT].settled, 4)[TOKENS]

    with anyio.fail_after(LIMIT_S):
        async with anyio.create_task_group() as group:
            group.start_soon(zombie, await hosts.take())
            await in_flight.wait()
            result = await hosts.seal(await hosts.new.run_live(hosts.spec, await hosts.take(), True))
            assert (result.spend.total.tokens, settled()) == (700, 700)
            go_on.set()

    assert settled() == TOKENS_A_CALL * model.answered == 500
    books = hosts.bank.books("r")
    assert books is not None
    assert (books.late, books.reconciled) == (1, True)
