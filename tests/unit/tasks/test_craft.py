"""Craft: dependent stages, so a part without what came before it has to start from the beginning."""

import pytest

from benchmarks.tasks.craft import SOLVER, generate
from runtime.errors import ConfigError
from runtime.messages import Report

TASK = (
    "A workshop makes iron rods in 4 stages. The recipes, in no order:\n"
    "- oak beads: the number of clay tiles, plus 30\n"
    "- iron rods: the number of glass rings, times 3\n"
    "- clay tiles: the number of brass plates, times 2\n"
    "- glass rings: the number of oak beads, less 11\n"
    "You begin with 20 brass plates.\n"
    "How many iron rods come out? Answer with one number."
)


def test_stages_are_worked_out_in_the_order_of_their_needs() -> None:
    found = SOLVER.act(TASK, None, ())

    assert (found.answer, found.work) == ("177", "from 20, clay tiles 40, oak beads 70, glass rings 59, iron rods 177")
    assert SOLVER.act(TASK.replace("less 11", "less 10"), None, ()).answer == "180"


def test_a_slip_is_carried_through_the_stages_after_it() -> None:
    wrong = {SOLVER.act(TASK, None, (), slip=i / 97).answer for i in range(97)}

    assert wrong == {"117", "87", "210", "59", "717", "96", "120", "118", "207", "187"}


def test_a_part_is_cheap_after_the_stages_before_it_and_dear_without_them() -> None:
    second = SOLVER.plan(TASK, None, 2)[1]
    first = SOLVER.act(TASK, "Stages 1 to 2", ())
    told = SOLVER.act(TASK, second.text, [Report(first.answer, "", first.covers)])
    alone = SOLVER.act(TASK, second.text, ())

    assert second.needs == (0,)
    assert told.answer == alone.answer == "177"
    assert told.covers == alone.covers == "stages 1 to 4"
    assert (told.ops, alone.ops) == (4, 8)


def test_a_number_that_does_not_come_from_the_start_is_no_use() -> None:
    middle = Report("59", "", "stages 3 to 3")

    assert SOLVER.act(TASK, None, [middle]) == SOLVER.act(TASK, None, ())
    assert not SOLVER.judge(TASK, middle)


def test_a_wrong_report_flows_on() -> None:
    assert SOLVER.act(TASK, "Stages 3 to 4", [Report("71", "", "stages 1 to 2")]).answer == "180"


def test_the_longest_report_wins_when_reports_are_combined() -> None:
    mails = [Report("40", "", "stages 1 to 1"), Report("59", "", "stages 1 to 3"), Report("70", "", "stages 1 to 2")]
    found = SOLVER.combine(TASK, None, mails)

    assert (found.answer, found.covers, found.complete, found.ops) == ("59", "stages 1 to 3", False, 0)


def test_a_row_of_recipes_that_does_not_lead_to_the_item_is_no_task() -> None:
    assert not SOLVER.reads(TASK.replace("the number of oak beads", "the number of wax"))
    assert not SOLVER.reads(TASK.replace("the number of brass plates", "the number of iron rods"))


@pytest.mark.parametrize("stages", [4, 12, 29])
def test_amounts_stay_small_and_positive(stages: int) -> None:
    for task in generate(30, stages=stages):
        assert task.prompt.count("\n- ") == stages
        assert task.answer is not None
        assert 0 < int(task.answer) < 10**6


def test_a_size_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError):
        generate(1, stages=30)
