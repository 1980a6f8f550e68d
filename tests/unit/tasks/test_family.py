"""What every family promises: seeded tasks, and a solver whose right moves are right and whose slips never are."""

import pickle
from typing import Any

import pytest

from benchmarks.tasks import companies, craft
from benchmarks.tasks.family import RowSolver, read_units
from runtime.errors import ConfigError
from runtime.messages import Report

FAMILIES = pytest.mark.parametrize("family", [companies, craft], ids=["companies", "craft"])
SLIPS = [i / 97 for i in range(97)]


def reports(solver: RowSolver, task: str, n: int) -> list[Report]:
    """Right reports on `n` parts, each made without seeing the others."""
    moves = [solver.act(task, part.text, ()) for part in solver.plan(task, None, n)]
    return [Report(move.answer, move.work, move.covers, "e") for move in moves]


@FAMILIES
def test_generating_is_seeded_and_a_longer_list_continues_a_shorter_one(family: Any) -> None:
    assert family.generate(5, seed=1) == family.generate(9, seed=1)[:5]
    assert family.generate(5, seed=1) != family.generate(5, seed=2)
    assert len({task.address for task in family.generate(200)}) == 200


@FAMILIES
def test_every_task_is_read_and_solved_by_its_own_family_only(family: Any) -> None:
    other = companies if family is craft else craft
    for task in family.generate(50):
        assert family.SOLVER.reads(task.prompt)
        assert not other.SOLVER.reads(task.prompt)
        assert task.family == family.SOLVER.family
        assert task.correct(family.SOLVER.act(task.prompt, None, ()).answer)


@FAMILIES
@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 50])
def test_a_right_plan_covers_the_whole_task_once(family: Any, n: int) -> None:
    task = family.generate(1)[0].prompt
    size = family.read(task).size
    masks = [read_units(part.text, family.SOLVER.unit) for part in family.SOLVER.plan(task, None, n)]

    assert len(masks) == min(n, size)
    assert sum(masks) == (1 << size) - 1
    assert sum(mask.bit_count() for mask in masks) == size


@FAMILIES
def test_a_part_is_planned_again_for_trees(family: Any) -> None:
    task = family.generate(1)[0].prompt
    half = family.SOLVER.plan(task, None, 2)[1]
    masks = [read_units(part.text, family.SOLVER.unit) for part in family.SOLVER.plan(task, half.text, 2)]

    assert sum(masks) == read_units(half.text, family.SOLVER.unit)


@FAMILIES
def test_a_wrong_plan_is_wrong(family: Any) -> None:
    for n in (1, 4):
        for task in family.generate(3):
            right = family.SOLVER.plan(task.prompt, None, n)
            assert all(family.SOLVER.plan(task.prompt, None, n, slip=slip) != right for slip in SLIPS)


@FAMILIES
def test_a_slip_is_never_right_and_slips_differ(family: Any) -> None:
    for task in family.generate(5):
        for part in (None, family.SOLVER.plan(task.prompt, None, 4)[1].text):
            right = family.SOLVER.act(task.prompt, part, ())
            wrong = [family.SOLVER.act(task.prompt, part, (), slip=slip) for slip in SLIPS]
            assert right.answer not in {move.answer for move in wrong}
            assert {(move.covers, move.ops) for move in wrong} == {(right.covers, right.ops)}
            assert len({move.answer for move in wrong}) > 5


@FAMILIES
def test_right_reports_are_judged_right_and_wrong_ones_wrong(family: Any) -> None:
    task = family.generate(1)[0].prompt
    for mail in reports(family.SOLVER, task, 4):
        assert family.SOLVER.judge(task, mail)
        assert not family.SOLVER.judge(task, Report(str(int(mail.answer) + 1), mail.work, mail.covers))


@FAMILIES
def test_combining_is_right_and_says_when_it_leaves_a_gap(family: Any) -> None:
    task = family.generate(1)[0]
    mails = reports(family.SOLVER, task.prompt, 4)
    whole = family.SOLVER.combine(task.prompt, None, mails)
    short = family.SOLVER.combine(task.prompt, None, mails[:-1])

    assert (task.correct(whole.answer), whole.complete) == (True, True)
    assert (task.correct(short.answer), short.complete) == (False, False)
    assert task.correct(family.SOLVER.act(task.prompt, None, mails[:-1]).answer)


@FAMILIES
@pytest.mark.parametrize(
    "mail",
    [
        Report("no idea"),
        Report("9" * 500),
        Report("5", "", "lines 0 to 3 stages 0 to 3"),
        Report("5", "", "lines 9 to 2 stages 9 to 2"),
        Report("5", "", "lines 1 to 999999999999 stages 1 to 999999999999"),
        Report("", "", "lines 900 to 950 stages 900 to 950"),
    ],
)
def test_mails_of_any_kind_are_survived(family: Any, mail: Report) -> None:
    task = family.generate(1)[0].prompt

    assert not family.SOLVER.judge(task, mail)
    family.SOLVER.combine(task, None, [mail])
    family.SOLVER.act(task, "do something", [mail])


@FAMILIES
def test_steps_come_with_a_flawed_form_of_each(family: Any) -> None:
    for part in (None, family.SOLVER.plan(family.generate(1)[0].prompt, None, 4)[2].text):
        pairs = family.SOLVER.steps(family.generate(1)[0].prompt, part)
        assert len(pairs) >= 3
        assert len({line for pair in pairs for line in pair}) == 2 * len(pairs)


@FAMILIES
def test_a_solver_travels_to_another_process(family: Any) -> None:
    assert pickle.loads(pickle.dumps(family.SOLVER)) == family.SOLVER


@FAMILIES
def test_a_text_of_another_family_is_refused(family: Any) -> None:
    with pytest.raises(ConfigError):
        family.SOLVER.act("Sing.", None, ())


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("Lines 2 to 4: go", 0b1110),
        ("line 3", 0b100),
        ("lines 1 to 2 and 4", 0b1011),
        ("Lines 2 to 3 of 4, not lines 5 to 6", 0b110),
        ("all of it", 0),
        ("deadlines 1 to 3", 0),
    ],
)
def test_units_are_read_from_the_words_of_a_part(text: str, units: int) -> None:
    assert read_units(text, "line") == units
