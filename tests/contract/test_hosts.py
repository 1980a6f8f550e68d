"""One contract for a host in this process and hosts on Ray: the same teams, the same money, the same errors."""

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import pytest

from benchmarks.tasks import companies, craft
from policies import StrategyAuction
from runtime import Agent, Budget, RunResult, RunSpec, Runtime, Task
from runtime.bank.service import Bank
from runtime.errors import ConfigError, InternalError, OrchestrationError, StoreError
from topologies import Cascade, Chain, Graph, Independent, Single, Star, Topology, Tree

ENOUGH = Budget(tokens=50_000)
QUESTION = Task("What is six times seven?", "42")
BOTH_WAYS = pytest.mark.parametrize("virtual", [True, False], ids=["virtual", "live"])


def settled(result: RunResult) -> int:
    return sum(attempt.state == "settled" for attempt in result.attempts)


def test_a_team_completes(driven: Any) -> None:
    (task,) = companies.generate(1, seed=3)

    result = driven.run(Star(3, model="sim/small"), task, budget=ENOUGH, seed=5)

    assert (result.status, result.reason, result.correct) == ("completed", "", True)
    assert [a.seat for a in result.attempts if a.step == 0] == [
        *(f"executor[{i}]" for i in range(3)),
        "planner",
        "verifier",
    ]
    assert result.spend.total.tokens == sum(a.input_tokens + a.output_tokens for a in result.attempts)
    assert (result.deterministic, result.disturbed, result.overspent) == ("D1", False, False)


@BOTH_WAYS
@pytest.mark.parametrize("n", [2, 8, 32, 200, 1000])
def test_no_team_is_so_large_that_it_spends_more_than_its_budget(driven: Any, n: int, virtual: bool) -> None:
    """Each call is 1,000 tokens, so 2,500 are two calls, however many agents want one at the same instant."""
    team = Independent(n, model="m" if virtual else "live")

    result = driven.run(team, QUESTION, budget=Budget(tokens=2500), seed=n)

    assert (len(result.attempts), settled(result), result.spend.total.tokens) == (2, 2, 2000)
    assert (result.answer, result.correct, result.overspent) == ("42", True, False)
    assert result.status == ("completed" if n == 2 else "exhausted")
    assert result.metrics["refusals"] == n - 2
    assert result.deterministic == ("D1" if virtual else "D2")


def mixed_teams() -> dict[str, tuple[Any, Budget]]:
    auction = StrategyAuction("sim/small", "sim/large")
    wiring = [("a", "c"), ("b", "c"), ("a", "b")]
    nodes = {seat: Agent("executor") for seat in "abc"}
    return {
        "star": (Star(4, model="sim/small"), Budget(tokens=4_000)),
        "chain": (Chain(3, model="sim/large"), Budget(usd="0.02")),
        "tree": (Tree(2, 2, model="sim/small"), Budget(tokens=9_000, calls=9)),
        "graph": (Graph(nodes, wiring, model="sim/small"), Budget(tokens=20_000)),
        "crowd": (Independent(40, model="sim/small"), Budget(tokens=7_000)),
        "cascade": (Cascade([Agent("executor", model=m) for m in ("sim/small", "sim/small", "sim/large")]), ENOUGH),
        "fill": (Single(fill=True, model="sim/small"), Budget(usd="0.004")),
        "auction": (Star(3, model=auction), Budget(usd="0.03")),
        "late": (Chain(3, model="sim/large"), Budget(seconds=12)),
    }


@pytest.mark.ray
@pytest.mark.parametrize("team", mixed_teams())
def test_the_same_seed_gives_the_same_run_anywhere(in_process: Any, ray_cluster: Any, team: str) -> None:
    """Not only the answer: the sealed form, with every attempt, hold, level and virtual second in it."""
    topology, budget = mixed_teams()[team]
    tasks = [*companies.generate(2, seed=9), *craft.generate(2, seed=9)]

    def sealed(on: Any) -> list[bytes]:
        specs = [
            on.runtime.spec(f"{team}-{i}-{seed}", topology, task, budget, seed)
            for i, task in enumerate(tasks)
            for seed in (0, 1)
        ]
        return [result.to_json() for _, result in sorted(on.map(specs), key=lambda done: done[0].run_id)]

    assert sealed(ray_cluster) == sealed(in_process)


def test_the_teams_of_that_comparison_meet_every_limit(in_process: Any) -> None:
    """Else equality would say little."""
    (task,) = companies.generate(1, seed=9)
    results = {name: in_process.run(t, task, budget=b) for name, (t, b) in mixed_teams().items()}

    assert {result.status for result in results.values()} == {"completed", "exhausted", "deadline"}
    assert results["star"].metrics["shrunk"]
    assert results["crowd"].metrics["refusals"]
    assert {"bid", "vote"} <= {attempt.kind for attempt in results["auction"].attempts}


@BOTH_WAYS
def test_a_class_of_the_users_own_module_runs_on_every_host(driven: Any, own: Any, virtual: bool) -> None:
    result = driven.run(own.Echo("m" if virtual else "live"), QUESTION, budget=ENOUGH)

    assert (result.status, result.answer, settled(result)) == ("completed", "42+42", 2)


@pytest.mark.ray
def test_a_module_that_hosts_cannot_import_is_named_with_the_cure(ray_cluster: Any, own: Any) -> None:
    """Its classes say that they come from a module which was not handed in as `modules=`."""
    home = ModuleType("stray_module")
    home.Stray = type("Stray", (own.Echo,), {"__module__": home.__name__})  # type: ignore[attr-defined]
    spec = RunSpec("stray", home.Stray("m"), QUESTION, ENOUGH, 0, "0" * 64)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, home.__name__, home)
        with pytest.raises(ConfigError, match=r"cannot import 'stray_module'.*modules=\[stray_module\]"):
            ray_cluster.map([spec])


@BOTH_WAYS
def test_a_fault_in_the_users_code_ends_its_run_and_no_other(driven: Any, own: Any, virtual: bool) -> None:
    model = "m" if virtual else "live"
    teams = {"broken": own.Broken(model), "fine": own.Echo(model), "lost": own.Misdirected(model)}
    specs = [driven.runtime.spec(f"fault-{model}-{name}", team, QUESTION, ENOUGH, 1) for name, team in teams.items()]

    found = {spec.run_id.rpartition("-")[2]: result for spec, result in driven.map(specs)}

    assert {name: result.status for name, result in found.items()} == {
        "broken": "failed",
        "fine": "completed",
        "lost": "failed",
    }
    assert "KeyError" in found["broken"].reason
    assert found["broken"].spend.total.tokens == 1000
    assert "'middle'" in found["lost"].reason


@BOTH_WAYS
def test_a_checker_that_raises_ends_its_run_with_the_answer_kept(driven: Any, own: Any, virtual: bool) -> None:
    task = Task("Who knows?", checker=own.confused)

    result = driven.run(Single(model="m" if virtual else "live"), task, budget=ENOUGH)

    assert (result.status, result.answer, result.correct) == ("failed", "42", None)
    assert "LookupError: no idea" in result.reason


@BOTH_WAYS
def test_a_run_id_names_one_run(driven: Any, virtual: bool) -> None:
    """A second run of the same ingredients would bring another answer, so what comes back is the first one."""
    team, name = Single(model="new" if virtual else "new-live"), f"once-{virtual}".lower()

    first = driven.run(team, QUESTION, budget=ENOUGH, run_id=name)
    again = driven.run(team, QUESTION, budget=ENOUGH, run_id=name)
    other = driven.run(team, QUESTION, budget=ENOUGH, run_id=name + "-more", seed=1)

    assert again == first
    assert other.answer != first.answer


@BOTH_WAYS
def test_a_run_id_names_one_run_in_every_session_of_a_folder(tmp_path: Path, own: Any, virtual: bool) -> None:
    async def session() -> RunResult:
        async with Runtime(models=own.MODELS, out=tmp_path) as runtime:
            team = Single(model="new" if virtual else "new-live")
            return await runtime.run(team, QUESTION, budget=ENOUGH, run_id="once")

    assert anyio.run(session) == anyio.run(session)


@BOTH_WAYS
def test_what_a_host_or_the_bank_raises_arrives_as_our_error(driven: Any, virtual: bool) -> None:
    team, name = Single(model="m" if virtual else "live"), f"taken-{virtual}".lower()
    driven.run(team, QUESTION, budget=ENOUGH, run_id=name)

    with pytest.raises(StoreError, match=f"run '{name}' is already here") as alone:
        driven.run(team, QUESTION, budget=ENOUGH, run_id=name, seed=1)
    with pytest.raises(StoreError, match=f"run '{name}' is already here"):
        driven.map([driven.runtime.spec(name, team, QUESTION, ENOUGH, 2)])

    assert isinstance(alone.value, OrchestrationError)
    assert not isinstance(alone.value, InternalError)


@pytest.mark.parametrize(
    ("topology", "more", "words"),
    [
        (lambda: Single(model="nobody"), {}, "no model 'nobody'"),
        (lambda: Star(4, model="m"), {"budget": Budget(tokens=1999)}, "too small for one call and the finish"),
        (lambda: Single(model="m"), {"run_id": "../up"}, "not a usable name"),
        (Single, {}, "has no model"),
    ],
    ids=["model", "budget", "name", "empty seat"],
)
def test_misuse_is_told_before_anything_is_spent(
    driven: Any, topology: Callable[[], Topology], more: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        driven.run(topology(), QUESTION, **{"budget": ENOUGH} | more)


def test_a_map_gives_back_every_spec_once(driven: Any) -> None:
    virtual = [driven.runtime.spec(f"many-{i}", Single(model="m"), QUESTION, ENOUGH, 5000 + i) for i in range(200)]
    live = [driven.runtime.spec(f"few-{i}", Single(model="live"), QUESTION, ENOUGH, i) for i in range(20)]

    found = driven.map(virtual + live)

    assert sorted(result.run_id for _, result in found) == sorted(spec.run_id for spec in virtual + live)
    assert all(spec.run_id == result.run_id for spec, result in found)
    assert {result.status for _, result in found} == {"completed"}


def test_the_same_run_asked_for_many_times_at_once_is_run_once(driven: Any) -> None:
    specs = [driven.runtime.spec(f"same-{i}", Single(model="new"), QUESTION, ENOUGH, 77) for i in range(5)]

    found = driven.map(specs)

    assert sorted(spec.run_id for spec, _ in found) == [spec.run_id for spec in specs]
    assert len({result.answer for _, result in found}) == 1


def test_whoever_leaves_a_map_early_ends_the_rest_of_it(driven: Any) -> None:
    """Live runs that nobody waits for would go on spending."""
    runtime = driven.runtime
    specs = [runtime.spec(f"left-{i}", Single(model="live"), QUESTION, ENOUGH, i) for i in range(300)]

    async def leave() -> str:
        results = runtime.map(specs)
        spec, _ = await anext(results)
        await results.aclose()
        return spec.run_id

    first = driven.call(leave)
    # Long enough for all of them: 64 at a time take 50 ms.
    later = [driven.run(Single(model="live"), QUESTION, budget=ENOUGH, seed=9_000 + i) for i in range(10)]
    finished = driven.call(runtime.sealed, [spec.address for spec in specs])

    assert {run.status for run in later} == {"completed"}
    assert first in {result.run_id for result in finished.values()}
    assert len(finished) < 250


def test_a_runtime_that_is_left_ends_the_work_that_nobody_waits_for(tmp_path: Path, own: Any) -> None:
    """In the order that keeps the books: first the work, then the bank."""

    async def leave() -> None:
        async with Runtime(models=own.MODELS, out=tmp_path) as runtime:
            specs = [runtime.spec(f"left-{i}", Single(model="live"), QUESTION, ENOUGH, i) for i in range(500)]
            results = runtime.map(specs)
            await anext(results)
            kept.append(results)

    kept: list[AsyncIterator[Any]] = []
    anyio.run(leave)

    bank = Bank(tmp_path)
    finished, begun = len(list(bank.finished())), {entry.state for entry in bank.entries("left-0")}
    bank.close()
    assert 0 < finished < 250
    assert begun == {"sent", "settled"}
