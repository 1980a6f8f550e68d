"""`ostrom run --record` and `ostrom replay`: the ingredients need not be named again, and what differs is told."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from benchmarks.tasks import companies
from runtime import Budget, Runtime
from topologies import Star

Here = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli(ostrom_here: Here, tmp_path: Path) -> Here:
    """The command in a folder of its own."""

    def call(*args: object) -> "subprocess.CompletedProcess[str]":
        return ostrom_here(*args, cwd=tmp_path)

    return call


@pytest.fixture
def recorded(cli: Here) -> "subprocess.CompletedProcess[str]":
    done = cli(
        "run", "companies:2", "--topology", "star:3", "--usd", "0.01", "--seed", "4", "--record", "r.jsonl", "--json"
    )
    assert done.returncode == 0, done.stderr
    return done


def check_refused(done: "subprocess.CompletedProcess[str]", *words: str) -> None:
    assert (done.returncode, done.stdout) == (2, ""), done
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr


def test_a_recording_is_replayed_by_its_name_alone(cli: Here, recorded: Any) -> None:
    told, said = cli("replay", "r.jsonl", "--json"), cli("replay", "r.jsonl")

    assert (told.returncode, said.returncode) == (0, 0), told.stderr + said.stderr
    again = json.loads(told.stdout)
    assert [one.pop("differences") for one in again] == [[], []]
    assert again == json.loads(recorded.stdout), "virtual runs are equal in their times, too"
    assert said.stdout.count("equal   to the recorded run") == 2
    assert said.stdout.count("(virtual, nobody is billed)") == 2


def test_the_same_ingredients_may_be_named(cli: Here, recorded: Any) -> None:
    done = cli("replay", "r.jsonl", "companies:9", "--topology", "star:3", "--model", "sim/small")

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--topology", "star:2"], "name: recorded Star(3), now Star(2); seat executor[2] is missing"),
        (["craft:2"], "the prompt of task craft-10-0-0 differs at character 1: recorded"),
        (["--model", "sim/large"], "seat planner: models recorded ['sim/small'], now ['sim/large']"),
        (["--experiment", "e.py", "--model", "m"], "--experiment names task, topology and model itself"),
        (["--experiment", "e.py"], "e.py: no such experiment file"),
    ],
    ids=["team", "task", "model", "both", "no experiment"],
)
def test_other_ingredients_are_told_before_anything_runs(cli: Here, recorded: Any, more: list[str], words: str) -> None:
    check_refused(cli("replay", "r.jsonl", *more), words)


def test_a_recording_is_not_written_over(cli: Here, recorded: Any) -> None:
    check_refused(
        cli("run", "companies:1", "--tokens", 9000, "--record", "r.jsonl"), "r.jsonl exists already; name a new file"
    )
    check_refused(cli("replay", "nothing.jsonl"), "nothing.jsonl: cannot be read")


EXPERIMENT = """
from benchmarks import Experiment, setting
from benchmarks.tasks import companies
from runtime import Budget
from topologies import Single, Star

experiment = Experiment(
    "little", tasks=companies.generate(2, seed=3), topologies=[Single(), Star(2)], models=["sim/small"],
    budgets=[Budget(tokens=20_000)], seeds=[int(setting("seed", "0"))],
)
"""


def test_what_a_program_recorded_is_replayed_once_its_ingredients_are_named(cli: Here, tmp_path: Path) -> None:
    async def record() -> None:
        async with Runtime(record=tmp_path / "p.jsonl") as runtime:
            team = Star(3, model="sim/small")
            await runtime.run(team, companies.generate(1)[0], budget=Budget(tokens=20_000), seed=1)

    anyio.run(record)

    check_refused(
        cli("replay", "p.jsonl"),
        "p.jsonl was recorded by a program and does not say which task it was; name it here as TASK",
        "Runtime(replay='p.jsonl')",
    )
    done = cli("replay", "p.jsonl", "companies:1", "--topology", "star:3", "--model", "sim/small")
    assert done.returncode == 0, done.stderr


def test_a_recorded_experiment_is_replayed_by_its_file(cli: Here, tmp_path: Path) -> None:
    (tmp_path / "e.py").write_text(EXPERIMENT, "utf-8")

    async def record() -> None:
        from benchmarks.experiment import load_experiment

        experiment, _ = load_experiment(tmp_path / "e.py", {"seed": "2"})
        async with Runtime(record=tmp_path / "p.jsonl") as runtime:
            await experiment.run(runtime)

    anyio.run(record)

    done = cli("replay", "p.jsonl", "--experiment", "e.py", "--set", "seed=2", "--json")
    assert done.returncode == 0, done.stderr
    assert [one["differences"] for one in json.loads(done.stdout)] == [[]] * 4
    check_refused(cli("replay", "p.jsonl", "--experiment", "e.py"), "the seed: recorded 2, now 0")


def test_a_run_that_goes_another_way_ends_with_1(cli: Here, recorded: Any, tmp_path: Path) -> None:
    """As where the words of a role were changed since."""
    path = tmp_path / "r.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    asked = json.loads(lines[1])
    changed = json.loads(lines[1].replace(b"You plan for a team", b"You plan for a crew"))
    from runtime.models.asked import digest_of

    digest = digest_of(changed["request"])
    changed["asked"] = digest
    lines[1] = json.dumps(changed).encode() + b"\n"
    path.write_bytes(b"".join(lines).replace(asked["asked"].encode(), digest.encode()))

    done = cli("replay", "r.jsonl")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: run run-1 is not the recorded one: planner, step 0: message 1 of 2 (system)")
    assert 'recorded "You plan for a crew' in done.stderr
