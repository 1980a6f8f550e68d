"""Companies: look-ups that can be shared out anywhere and put together in any order."""

import re

import pytest

from benchmarks.tasks.companies import SOLVER, generate
from runtime.errors import ConfigError
from runtime.messages import Report

TASK = (
    "4 companies with their figures:\n"
    "1. Aa Co (retail): costs 5, debt 70\n"
    "2. Bb Co (energy): costs 6, debt 80\n"
    "3. Cc Co (retail): costs 7, debt 90\n"
    "4. Dd Co (retail): costs 8, debt 95\n"
    "What is the total costs of the companies in the sector retail? Answer with one number."
)


def test_the_total_is_over_the_sector_and_the_figure_asked_for() -> None:
    assert SOLVER.act(TASK, None, ()).answer == "20"
    assert SOLVER.act(TASK.replace("total costs", "total debt"), None, ()).answer == "255"
    assert SOLVER.act(TASK.replace("in the sector retail", "in the sector energy"), None, ()).answer == "6"
    assert SOLVER.act(TASK.replace("costs 7", "costs 17"), None, ()).answer == "30"


def test_slips_are_what_a_hasty_reader_does() -> None:
    wrong = {SOLVER.act(TASK, None, (), slip=i / 97).answer for i in range(97)}

    assert wrong == {"15", "13", "12", "85", "103", "107", "26", "10", "30"}


@pytest.mark.parametrize("lines", [8, 16, 24, 55])
def test_a_task_asks_about_several_lines(lines: int) -> None:
    for task in generate(20, lines=lines):
        sector = re.search(r"sector (\w+)\?", task.prompt)
        assert sector
        assert lines // 4 <= task.prompt.count(f"({sector[1]})") < lines


def test_a_size_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError):
        generate(1, lines=7)


def test_reports_chain_up() -> None:
    first = SOLVER.act(TASK, "Lines 1 to 2", ())
    second = SOLVER.act(TASK, "Lines 3", [Report(first.answer, "", first.covers)])
    last = SOLVER.act(TASK, "Lines 4", [Report(second.answer, "", second.covers)])

    assert [(m.answer, m.covers) for m in (first, second, last)] == [
        ("5", "lines 1 to 2"),
        ("12", "lines 1 to 3"),
        ("20", "lines 1 to 4"),
    ]
    assert [m.ops for m in (first, second, last)] == [2, 2, 2]


def test_a_later_line_does_not_help_an_earlier_part() -> None:
    later = Report("8", "", "lines 4 to 4")

    assert SOLVER.act(TASK, "Lines 1 to 3", [later]) == SOLVER.act(TASK, "Lines 1 to 3", ())


def test_a_gap_stays_visible_in_what_a_report_covers() -> None:
    found = SOLVER.act(TASK, "Lines 4", [Report("5", "", "lines 1 to 2")])

    assert (found.answer, found.covers) == ("13", "lines 1 to 2 and 4 to 4")


def test_overlapping_reports_are_not_counted_twice() -> None:
    mails = [Report("12", "", "lines 1 to 3"), Report("15", "", "lines 3 to 4")]
    found = SOLVER.combine(TASK, None, mails)

    assert (found.answer, found.complete) == ("12", False)
    assert SOLVER.act(TASK, None, mails).answer == "20"


def test_a_wrong_report_flows_on() -> None:
    assert SOLVER.act(TASK, "Lines 3 to 4", [Report("1005", "", "lines 1 to 2")]).answer == "1020"


def test_of_reports_on_the_same_lines_the_commonest_counts() -> None:
    mails = [Report(answer, "", "lines 1 to 4") for answer in ("19", "20", "20")]

    assert SOLVER.combine(TASK, None, mails).answer == "20"
