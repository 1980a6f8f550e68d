"""`ostrom ls` and `show` say which run each is; `ls` fits the terminal and leaves nothing in doubt."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from rich.console import Console

from benchmarks.cli import listing
from benchmarks.cli.identity import Identity
from benchmarks.tasks import companies
from runtime import Budget, Runtime, Task
from runtime.models import ScriptedModel
from topologies import Single, Star

Here = Callable[..., "subprocess.CompletedProcess[str]"]

SWEEP = """
from benchmarks import Experiment, setting
from benchmarks.tasks import companies
from runtime import Budget
from topologies import Single, Star

experiment = Experiment("little", tasks=companies.generate(2, seed=3), topologies=[Single(), Star(2)],
                        models=["sim/small", "sim/large"], budgets=[Budget(tokens=20_000), Budget(tokens=30_000)],
                        seeds=[int(setting("seed", "0"))])
"""


@pytest.fixture
def cli(ostrom_here: Here, tmp_path: Path) -> Here:
    def call(*args: object) -> "subprocess.CompletedProcess[str]":
        done = ostrom_here(*args, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done

    return call


@pytest.fixture
def swept(cli: Here, tmp_path: Path) -> Path:
    (tmp_path / "x.py").write_text(SWEEP)
    cli("sweep", "x.py", "--hosts", "0")
    return tmp_path / "out" / "sweep"


def listed(cli: Here, *more: object) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(cli("ls", *more, "--json").stdout)
    return rows


def names(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in Identity._fields)


def test_every_trial_is_named_as_in_the_table_of_trials_and_in_the_order_of_the_plan(cli: Here, swept: Path) -> None:
    import polars as pl

    trials = pl.read_parquet(swept / "trials.parquet")
    rows = listed(cli)

    assert [names(row) for row in rows] == list(trials.select("topology", "model", "task", "seed", "budget").rows())
    assert [row["answer"] for row in rows] == trials["answer"].to_list()
    assert len(rows) == 16


def test_filters_keep_the_runs_they_name(cli: Here, swept: Path) -> None:
    star = [row for row in listed(cli) if row["team"] == "Star(2)"]

    assert listed(cli, "--arm", "Star(2)") == star
    assert listed(cli, "--arm", "Star(2) · sim/large") == [row for row in star if row["model"] == "sim/large"]
    one = listed(cli, "--arm", "sim/small", "--task", "companies-20-3-1", "--seed", 0, "--status", "completed")
    assert {(row["model"], row["task"]) for row in one} == {("sim/small", "companies-20-3-1")}
    assert cli("ls", "--seed", 9, "--arm", "Chain(3)").stdout == "no runs with arm Chain(3) and seed 9\n"


def test_show_says_first_which_run_it_is(cli: Here, swept: Path) -> None:
    row = listed(cli, "--arm", "Star(2) · sim/large")[0]

    shown, document = cli("show", row["run_id"]).stdout, json.loads(cli("show", row["run_id"], "--json").stdout)

    assert shown.splitlines()[:3] == [
        f"{row['run_id']}  {row['status']}",
        "team    Star(2) · sim/large",
        "task    companies-20-3-0   seed 0   budget 20,000 tokens",
    ]
    assert names(document) == names(row)


def test_a_sweep_that_goes_on_under_another_plan_leaves_the_names_of_the_first(cli: Here, swept: Path) -> None:
    before = listed(cli)

    cli("sweep", "x.py", "--hosts", "0", "--set", "seed=1", "--fork")

    rows = listed(cli)
    assert rows[: len(before)] == before
    assert [row["seed"] for row in rows] == [0] * 16 + [1] * 16


def test_a_trial_that_is_not_finished_is_named_too(cli: Here, tmp_path: Path) -> None:
    """A killed driver leaves no table, only the store."""
    from benchmarks.cli.identity import write_plan
    from benchmarks.experiment import Experiment
    from runtime.bank.service import Bank
    from runtime.bank.store import Opened

    async def killed() -> None:
        asked = [Task("What is 6 times 7?", answer="42")]
        lab = Experiment("lab", tasks=asked, topologies=[Single()], models=["m"], budgets=[Budget(tokens=900)])
        model = ScriptedModel(["42"], virtual=False, name="m")
        async with Runtime(models={"m": model}, out=tmp_path) as runtime:
            plan = lab.plan(runtime)
        write_plan(tmp_path, plan)
        bank = Bank(tmp_path)
        [trial] = plan.trials
        facts = (
            b'{"scope": "account", "dimensions": ["tokens", "pico_usd", "calls", "tool_calls"], "caps": [900, 0, 0, 0]}'
        )
        bank.take(Opened(trial.spec.run_id, trial.spec.address, facts))
        bank.close()

    anyio.run(killed)

    [row] = listed(cli, "--out", ".")
    assert (row["status"], *names(row)) == ("open", "Single", "m", "What is 6 times 7?", 0, "900 tokens")
    assert [line.split()[0] for line in cli("ls", "--out", ".").stdout.splitlines()] == ["run", row["run_id"]]


def test_a_plan_that_cannot_be_read_is_told_with_the_cure(ostrom_here: Here, cli: Here, swept: Path) -> None:
    rows = listed(cli)
    (swept / "plan.json").write_bytes(b"[")

    refused = ostrom_here("ls", cwd=swept.parents[1])
    (swept / "plan.json").unlink()
    nameless = listed(cli)
    cli("sweep", "x.py", "--hosts", "0")

    assert refused.returncode == 2
    assert "plan.json cannot be read" in refused.stderr
    assert "delete it" in refused.stderr
    assert {names(row) for row in nameless} == {(None,) * 5}
    assert listed(cli) == rows


def test_single_runs_are_named_and_stand_in_the_order_of_their_numbers(cli: Here, tmp_path: Path) -> None:
    long = "Of all the numbers that there are, which one is the largest that is below ten thousand?"
    tasks = [{"prompt": task.prompt, "answer": task.answer, "check": "numeric"} for task in companies.generate(11)]
    (tmp_path / "tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)))

    cli("run", "tasks.jsonl", "--topology", "star:2", "--seed", "4", "--tokens", "20000")
    cli("run", "tasks.jsonl", "--topology", "star:2", "--seed", "4", "--tokens", "20000", "--out", "kept")

    rows = listed(cli, "--out", "kept")
    assert [row["run_id"] for row in rows] == [f"run-{n}" for n in range(1, 12)]
    assert {names(row)[:2] + names(row)[3:] for row in rows} == {("Star(2)", "sim/small", 4, "20,000 tokens")}
    assert rows[0]["task"] == "20 companies with their figures: 1. Wex…"
    assert Identity.of(Single(), Task(long), 0, Budget(calls=1)).task == long[:39] + "…"
    assert Identity.of(Single(), Task(long, id="largest"), 0, Budget(calls=1)).task == "largest"


def test_what_is_not_known_of_a_run_is_left_out(cli: Here, tmp_path: Path) -> None:
    """A program began it."""

    async def program() -> None:
        async with Runtime(out=tmp_path) as runtime:
            [task] = companies.generate(1)
            await runtime.run(Star(2).with_model("sim/small"), task, budget=Budget(tokens=20_000), run_id="mine")

    anyio.run(program)

    [row] = listed(cli, "--out", ".")
    assert names(row) == (None,) * 5
    assert listed(cli, "--out", ".", "--arm", "Star(2)") == []
    heads = ["run", "status", "right", "tokens", "$", "calls", "answer"]
    assert cli("ls", "--out", ".").stdout.splitlines()[0].split() == heads
    assert "task" not in cli("show", "mine", "--out", ".").stdout


NARROWEST = 28 + 12 + 16 + 4 + 9 + 5 + 5
"""What run, team, task, seed, status and right need, and a blank between them."""
ROW = {
    "run_id": "first-sweep-0013622717685c9f",
    "team": "Single(fill)",
    "model": "sim/auction(small,large)",
    "task": "companies-20-1-0",
    "seed": 2,
    "budget": "$0.012",
    "status": "exhausted",
    "correct": True,
    "tokens": 44_868,
    "usd": "0.012",
    "calls": 42,
    "answer": "a long\nanswer \x1b[31m" + "x" * 100,
}


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_a_terminal_gets_whole_columns_and_every_figure_in_them_whole(width: int) -> None:
    screen = Console(width=width, force_terminal=True, color_system=None, highlight=False, record=True)
    with screen.capture() as printed:
        listing._print_table(screen, [ROW, {**ROW, "correct": None, "seed": None}])
    head, first, second = printed.get().splitlines()
    heads = head.split()

    assert max(map(len, (head, first, second))) <= max(width, NARROWEST)
    assert ROW["run_id"] in first
    assert [column for column in ("run", "team", "task", "seed", "status", "right") if column not in heads] == []
    assert {"model", "budget"} <= set(heads) or width < 100
    assert ("$" in heads, "tokens" in heads, "answer" in heads) == (width >= 120, width >= 120, width >= 200)
    assert [figure in first for figure in ("0.012000", "44,868")] == ["$" in heads, "tokens" in heads]
    assert "\x1b" not in first
