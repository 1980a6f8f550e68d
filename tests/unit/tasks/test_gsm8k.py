"""Recorded answers to GSM8K: the price rule, our grader against the recorded one, and broken lines.

The recordings are no part of the repository. They are looked for in the folder named by OSTROM_DATA, or else in
`../shared/data` beside the repository; the tests that need them are skipped without.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.experiment import load_experiment
from benchmarks.tasks.gsm8k import SYSTEMS, final_answer, load, usage_of
from runtime.agents.agent import Agent
from runtime.budget import Budget
from runtime.driver import Runtime
from runtime.errors import ConfigError
from runtime.host import run_virtual
from runtime.models.recorded import RecordedModel
from runtime.preflight import RunSpec
from runtime.result import RunResult
from runtime.task import Task
from runtime.usage import Usage
from topologies import Independent, Single
from topologies.base import Topology
from topologies.cascade import Cascade

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("OSTROM_DATA") or ROOT.parent / "shared" / "data") / "gsm8k" / "recorded.jsonl"
EXAMPLE = ROOT / "examples" / "gsm8k_recorded.py"
needs_data = pytest.mark.skipif(not DATA.is_file(), reason=f"no recordings at {DATA}; set OSTROM_DATA to their folder")

SMALL, SMALL_VERIFIED, LARGE, LARGE_VERIFIED = SYSTEMS


def row(i: int = 0, **changes: Any) -> dict[str, Any]:
    texts = {system.field: {"text": f"{i} + 1 = 4\nA: 4", "correct": True} for system in SYSTEMS.values()}
    return {"id": f"p{i}", "question": f"What is {i} and 1?", "answer": "4", "recorded": texts} | changes


def write(folder: Path, *lines: object) -> Path:
    file = folder / "recorded.jsonl"
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return file


def run_all(topology: Topology, tasks: Sequence[Task], models: dict[str, RecordedModel]) -> list[RunResult]:
    specs = [RunSpec(f"r{i}", topology, task, Budget(usd=1), seed=0) for i, task in enumerate(tasks)]
    return run_virtual(specs, models.__getitem__)


def seats(*names: str) -> list[Agent]:
    return [Agent("executor", model=name) for name in names]


def test_a_problem_becomes_a_task_with_a_numeric_check(tmp_path: Path) -> None:
    tasks, models = load(write(tmp_path, row(3), row(1)))

    assert tasks == [
        Task("What is 3 and 1?", "4", "numeric", id="p3", family="gsm8k"),
        Task("What is 1 and 1?", "4", "numeric", id="p1", family="gsm8k"),
    ]
    assert list(models) == [
        "recorded/6b-finetuning",
        "recorded/6b-verification",
        "recorded/175b-finetuning",
        "recorded/175b-verification",
    ]


def test_tokens_are_bytes_by_four_rounded_up_and_the_prompt_has_200_more() -> None:
    assert usage_of("x" * 8, "y" * 12, 0) == Usage(202, 3)
    assert usage_of("x" * 9, "y" * 13, 0) == Usage(203, 4)
    assert usage_of("é" * 4 + "x", "€" * 3, 0) == Usage(203, 3)


def test_a_verified_answer_is_charged_as_many_readings_as_completions() -> None:
    prompt, completion = usage_of("x" * 8, "y" * 12, 0)[:2]

    assert usage_of("x" * 8, "y" * 12, 100) == Usage(100 * prompt + 100 * (prompt + completion), 100 * completion)
    assert usage_of("x" * 8, "y" * 12, 100) == Usage(40_700, 300)
    assert usage_of("x" * 8, "y" * 12, 1) == Usage(407, 3)


@pytest.mark.parametrize(
    ("system", "samples_charged", "pico_usd"),
    [
        # 204 tokens in and 4 out: 208 by the plain rule, twice that for each sample charged.
        (SMALL, 100, 208 * 50_000),
        (LARGE, 100, 208 * 360_000),
        (SMALL_VERIFIED, 100, 200 * 208 * 50_000),
        (LARGE_VERIFIED, 100, 200 * 208 * 360_000),
        (SMALL, 1, 208 * 50_000),
        (SMALL_VERIFIED, 1, 2 * 208 * 50_000),
        (LARGE_VERIFIED, 1, 2 * 208 * 360_000),
    ],
)
def test_a_run_costs_what_the_rule_says(tmp_path: Path, system: str, samples_charged: int, pico_usd: int) -> None:
    tasks, models = load(write(tmp_path, row()), samples_charged)
    (result,) = run_all(Single(*seats(system)), tasks, models)

    assert (result.answer, result.spend.total.pico_usd) == ("4", pico_usd)


def test_another_number_of_samples_is_another_model(tmp_path: Path) -> None:
    file = write(tmp_path, row())
    by_100, by_1 = load(file)[1], load(file, 1)[1]

    assert by_100[SMALL].settings == by_1[SMALL].settings
    assert by_100[SMALL_VERIFIED].settings != by_1[SMALL_VERIFIED].settings


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("2+2=<<2+2=4>>4\nA: 4", "4"),
        ("A: 3\nNo.\nA: 5", "5"),
        ("The total is 7 goats and 9 cows", "9"),
        ("so he needs 3 * 5 =", "5"),
        ("DATA: 8 then 9", "9"),
        ("A: 3,000", "3000"),
        ("A: -1,234.50", "-1234.5"),
        ("A: +2.00", "2"),
        ("A: 100", "100"),
        ("A: 0.30", "0.3"),
        ("A: 1/5", "1/5"),
        ("A: 10+John's age", "10+John's age"),
        ("A:", ""),
        ("no idea", ""),
    ],
)
def test_the_final_answer_stands_after_the_last_mark_or_is_the_last_number(text: str, answer: str) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "not valid JSON"),
        ({k: v for k, v in row().items() if k != "question"}, "question: is missing"),
        (row(answer=4), "answer: must be text"),
        (row(1, answer="four"), "answer: Task: answer='four' can never pass"),
        (row(1, question=" "), "question: a Task needs a prompt"),
        (row(recorded={}), "recorded: lacks the system 6b_finetuning"),
        (row(recorded=row()["recorded"] | {"6b_verification": {}}), "recorded.6b_verification.text: is missing"),
        (row(1, question="What is 0 and 1?"), "question: the same as in line 1; a system has one answer for each"),
        (row(1, id="p0"), "id: the same as in line 1"),
    ],
)
def test_a_broken_line_is_named_with_file_line_and_field(tmp_path: Path, line: object, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, row(), line))

    assert str(caught.value).startswith(f"{tmp_path}/recorded.jsonl:2: {complaint}")


def test_a_file_without_problems_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no problems in it"):
        load(write(tmp_path))


def test_fewer_than_one_sample_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="samples_charged=0 must be 1 or more"):
        load(write(tmp_path, row()), 0)


async def test_the_example_puts_each_system_beside_the_vote_and_the_cascade(tmp_path: Path) -> None:
    experiment, _ = load_experiment(EXAMPLE, {"data": str(write(tmp_path, row(0), row(1)))})
    async with Runtime(models=experiment.catalog) as runtime:
        trials = experiment.plan(runtime).trials
        results = [result async for _, result in runtime.map([trial.spec for trial in trials])]

    assert [trial.topology for trial in trials[:6]] == [
        "6b-finetuning",
        "175b-finetuning",
        "6b-verification",
        "175b-verification",
        "Independent(4)",
        "Cascade(4,2)",
    ]
    assert {trial.kind for trial in trials} == {"recorded"}
    assert [result.status for result in results] == ["completed"] * 12


def test_the_example_asks_for_its_data() -> None:
    with pytest.raises(ConfigError, match="--set data="):
        load_experiment(EXAMPLE, {})


@needs_data
def test_our_grader_agrees_with_the_recorded_one_on_every_answer() -> None:
    rows = [json.loads(line) for line in DATA.read_text("utf-8").splitlines()]
    tasks, _ = load(DATA)
    differ = [
        (task.id, field, said["text"][-60:], task.answer, said["correct"])
        for task, one in zip(tasks, rows, strict=True)
        for field, said in one["recorded"].items()
        if task.correct(final_answer(said["text"])) is not said["correct"]
    ]

    assert len(rows) * len(SYSTEMS) == 2_640
    assert not differ


@needs_data
@pytest.mark.parametrize(
    ("system", "right", "accuracy"),
    [(SMALL, 130, 0.197), (SMALL_VERIFIED, 269, 0.408), (LARGE, 220, 0.333), (LARGE_VERIFIED, 367, 0.556)],
)
def test_a_system_alone_is_as_often_right_as_recorded(system: str, right: int, accuracy: float) -> None:
    results = run_all(Single(*seats(system)), *load(DATA))

    assert {result.status for result in results} == {"completed"}
    assert sum(bool(result.correct) for result in results) == right
    assert round(right / len(results), 3) == accuracy


@needs_data
def test_agreement_buys_nearly_the_dearest_accuracy_at_three_quarters_of_its_price() -> None:
    tasks, models = load(DATA)
    by_price = seats(SMALL, LARGE, SMALL_VERIFIED, LARGE_VERIFIED)

    def measured(topology: Topology) -> tuple[int, int]:
        results = run_all(topology, tasks, models)
        return sum(bool(r.correct) for r in results), sum(r.spend.total.pico_usd for r in results)

    dearest, cascade = measured(Single(by_price[-1])), measured(Cascade(by_price))
    vote = measured(Independent(by_price[::-1]))

    assert (dearest[0], cascade[0], vote[0]) == (367, 355, 368)
    assert round(cascade[1] / dearest[1], 2) == 0.73
    assert round(vote[1] / dearest[1], 2) == 1.14
