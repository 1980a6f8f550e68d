"""Register: figures that only a tool tells, so that a total is as right as the calls it rests on."""

from collections.abc import Sequence

import pytest

from benchmarks.tasks.register import REGISTER, SOLVER, RegisterSolver, generate, look_up
from runtime.errors import ConfigError
from runtime.messages import Report
from runtime.models.simulated import Seen

[TASK] = generate(1, lines=4)
GOODS = ("w", "x", "y", "z")
PLAIN = (
    "4 goods, whose figures stand in the register:\n1. w\n2. x\n3. y\n4. z\n"
    "What is the total price of these goods? Answer with one number."
)


def knowing(**figures: int) -> RegisterSolver:
    return SOLVER.knowing([Seen("register", f"{good}: {figure}") for good, figure in figures.items()])


def asked(solver: RegisterSolver, part: str | None = None, mails: Sequence[Report] = ()) -> object:
    call = solver.call(PLAIN, part, mails, ["register"])
    return None if call is None else call.arguments


def test_generating_is_seeded_and_no_figure_stands_in_the_text() -> None:
    assert generate(3, seed=1) == generate(5, seed=1)[:3]
    assert generate(3, seed=1) != generate(3, seed=2)
    for task in generate(20):
        assert not [word for word in task.prompt.split() if word.isdecimal() and int(word) > 9]


@pytest.mark.parametrize("lines", [3, 16])
def test_a_size_out_of_range_is_refused(lines: int) -> None:
    with pytest.raises(ConfigError):
        generate(1, lines=lines)


@pytest.mark.parametrize("lines", [4, 15])
def test_call_after_call_leads_to_the_right_answer_and_no_call_is_needless(lines: int) -> None:
    for task in generate(5, lines=lines):
        solver, seen = SOLVER, list[Seen]()
        while (call := solver.call(task.prompt, None, (), [REGISTER.name])) is not None:
            seen.append(Seen(call.tool, look_up(**call.arguments)))
            solver = SOLVER.knowing(seen)
        move = solver.act(task.prompt, None, ())

        assert (len(seen), task.correct(move.answer), move.complete, move.ops) == (lines, True, True, lines)


def test_without_the_tool_nothing_is_asked_answered_or_covered() -> None:
    move = SOLVER.act(TASK.prompt, None, ())

    assert SOLVER.call(TASK.prompt, None, (), ["search"]) is None
    assert (move.answer, move.covers, move.complete, move.ops) == ("0", "lines ", False, 0)


def test_a_wrong_argument_brings_a_figure_that_the_register_does_not_tell_from_the_right_one() -> None:
    right = SOLVER.call(TASK.prompt, None, (), ["register"])
    assert right is not None
    wrong = [SOLVER.call(TASK.prompt, None, (), ["register"], slip=i / 10) for i in range(10)]

    assert {call.arguments["good"] for call in wrong if call} == {right.arguments["good"]}
    assert len({call.arguments["figure"] for call in wrong if call} | {right.arguments["figure"]}) == 3
    said = {look_up(**call.arguments) for call in wrong if call}
    assert look_up(**right.arguments) not in said
    for text in said:
        good, _, figure = text.partition(": ")
        assert SOLVER.knowing([Seen("register", text)]).act(TASK.prompt, "Line 1", ()).answer == figure
        assert good == right.arguments["good"]


def test_another_tool_an_error_or_prose_tells_nothing() -> None:
    seen = [
        Seen("search", "w: 5"),
        Seen("register", "error: KeyError: 'w'"),
        Seen("register", "w: 5 or so"),
        Seen("", ""),
    ]

    assert asked(SOLVER.knowing(seen)) == {"good": "w", "figure": "price"}


def test_the_calls_are_about_the_part_and_what_no_mail_has_told() -> None:
    mail = Report("50", "", "lines 1 to 2")

    assert asked(SOLVER, "Lines 3 to 4") == {"good": "y", "figure": "price"}
    assert asked(SOLVER, None, [mail]) == {"good": "y", "figure": "price"}
    assert asked(knowing(y=7, z=8), None, [mail]) is None
    assert asked(SOLVER, None, [Report("90", "", "lines 1 to 4")]) is None


def test_what_others_looked_up_is_built_upon() -> None:
    mail = Report("50", "", "lines 1 to 2")
    with_it = knowing(y=7, z=8).act(PLAIN, "Lines 3 to 4", [mail])

    assert (with_it.answer, with_it.covers, with_it.ops) == ("65", "lines 1 to 4", 3)
    assert SOLVER.act(PLAIN, None, [Report("90", "", "lines 1 to 4")])[:1] == ("90",)
    assert knowing(w=1, x=2).act(PLAIN, None, [mail])[:3] == ("50", "reported 50 = 50", "lines 1 to 2")


def test_slips_never_give_the_right_total() -> None:
    solver = knowing(w=100, x=200, y=400, z=800)
    wrong = {solver.act(PLAIN, None, (), slip=i / 97).answer for i in range(97)}

    assert wrong == {"1400", "1300", "1100", "700", "1490", "1510"}


def test_a_report_is_judged_by_what_was_looked_up_and_else_by_its_own_sum() -> None:
    def judged(solver: RegisterSolver, answer: str, work: str) -> bool:
        return solver.judge(PLAIN, Report(answer, work, "lines 1 to 2"))

    assert [judged(knowing(w=100, x=200), answer, "") for answer in ("300", "310")] == [True, False]
    assert [judged(knowing(w=100), answer, "w 100 + x 250 = 350") for answer in ("350", "360")] == [True, False]
    assert judged(SOLVER, "300", "w 100 + x 2…")
    assert not judged(SOLVER, "many", "w 100 + x 250 = many")


def test_a_register_asked_for_what_it_does_not_hold_says_so() -> None:
    with pytest.raises(ValueError, match="there is no 'smell' of 'red ropes'"):
        look_up("red ropes", "smell")
