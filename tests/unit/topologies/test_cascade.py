"""The cascade: asks in order, stops as soon as enough agree, and believes the dearest where none do."""

import pytest

from policies.stopping import agreed
from runtime.agents.agent import Agent
from runtime.budget import Budget
from runtime.errors import ConfigError
from runtime.host import run_virtual
from runtime.messages import Report
from runtime.models import ScriptedModel
from runtime.preflight import RunSpec
from runtime.result import RunResult
from runtime.task import Task
from topologies import Independent
from topologies.base import Topology
from topologies.cascade import Cascade

TASK = Task("How many?", "4", "numeric")


def run(answers: str, topology: Topology | None = None, *, agree: int = 2, calls: int = 100) -> RunResult:
    """Give agent i the i-th of the answers, separated by blanks; `_` is an empty one."""
    models = {
        f"m{i}": ScriptedModel([Report(answer.strip("_"), f"by {i}")], input_tokens=10, usd=i + 1)
        for i, answer in enumerate(answers.split())
    }
    agents = [Agent("executor", model=name) for name in models]
    spec = RunSpec("r", topology or Cascade(agents, agree=agree), TASK, Budget(calls=calls, usd=1_000), seed=0)
    return run_virtual([spec], models.__getitem__)[0]


@pytest.mark.parametrize(
    ("answers", "agree", "asked", "answer"),
    [
        ("4 4 5 6", 2, 2, "4"),
        ("4 5 5 4", 2, 3, "5"),
        ("4 5 4 5", 2, 3, "4"),
        ("4 5 6 5", 2, 4, "5"),
        ("4 5 4 6 4 7", 3, 5, "4"),
        ("4 5", 1, 1, "4"),
    ],
)
def test_nobody_is_asked_any_more_once_enough_agree(answers: str, agree: int, asked: int, answer: str) -> None:
    result = run(answers, agree=agree)

    assert (result.status, result.answer) == ("completed", answer)
    assert [attempt.model for attempt in result.attempts] == [f"m{i}" for i in range(asked)]
    assert result.spend.total.usd == sum(range(1, asked + 1))


@pytest.mark.parametrize(
    ("answers", "agree", "answer"),
    [("4 5 6 7", 2, "7"), ("4 4 5 6", 3, "4"), ("4 5 4 5 6", 3, "5"), ("5 4 4 5 6", 3, "5"), ("4 5", 2, "5")],
)
def test_without_agreement_the_majority_wins_and_ties_go_to_the_dearest(answers: str, agree: int, answer: str) -> None:
    assert run(answers, agree=agree).answer == answer


@pytest.mark.parametrize(("answers", "asked"), [("four FOUR 5", 2), ("4 4.0 4", 3)])
def test_answers_are_compared_without_case_and_as_text(answers: str, asked: int) -> None:
    assert run(answers).spend.total.calls == asked


def test_empty_answers_neither_agree_nor_win() -> None:
    assert run("_ _ 4 5").answer == "5"
    assert run("5 _ _").answer == "5"
    assert run("4 5 _").answer == "5"


def test_a_team_that_found_nothing_has_no_answer() -> None:
    result = run("_ _")

    assert (result.status, result.answer, result.correct) == ("completed", None, False)


def test_a_budget_that_ends_early_leaves_the_best_answer_so_far() -> None:
    result = run("4 5 4 5", agree=3, calls=3)

    assert (result.status, result.answer, result.spend.total.calls) == ("exhausted", "4", 3)


def test_agents_never_hear_of_each_other() -> None:
    assert run("4 5 6").metrics["messages"] == 0
    assert not list(Cascade(3).channels())


def test_calls_are_the_worst_case() -> None:
    assert Cascade(4, model="m0").calls() == run("4 5 6 7").spend.total.calls == 4


def test_one_agent_repeated_stops_early_too() -> None:
    assert run("4", Cascade(5, model="m0")).spend.total.calls == 2


def test_a_full_cascade_of_two_that_differ_costs_what_the_vote_costs() -> None:
    vote = run("4 5", Independent([Agent("executor", model="m0"), Agent("executor", model="m1")]))

    assert run("4 5").spend.total == vote.spend.total


def test_a_reply_that_is_no_report_is_no_answer() -> None:
    team = [Agent("planner", model="plan"), Agent("executor", model="report")]
    models = {"plan": ScriptedModel(['{"parts": [{"text": "4"}]}']), "report": ScriptedModel([Report("4")])}
    spec = RunSpec("r", Cascade(team), TASK, Budget(calls=9), seed=0)

    assert run_virtual([spec], models.__getitem__)[0].answer == "4"


def test_its_name_tells_size_and_agreement_unless_it_is_given_one() -> None:
    assert Cascade(4, agree=3).name == "Cascade(4,3)"
    assert Cascade(4, name="cheap first").name == "cheap first"


@pytest.mark.parametrize(("agree", "what"), [(0, "a whole number, 1 or more"), (3, "at most the number of agents, 2")])
def test_an_agreement_that_cannot_be_is_refused(agree: int, what: str) -> None:
    with pytest.raises(ConfigError, match=f"agree={agree} must be {what}"):
        Cascade(2, agree=agree)


@pytest.mark.parametrize(
    ("answers", "k", "expected"),
    [
        ((), 1, False),
        (("4",), 1, True),
        (("4", "5", " 4 "), 2, True),
        (("4", "5", "6"), 2, False),
        (("", " ", "4"), 2, False),
        (("", "", "4", "4"), 2, True),
        (("4",) * 6 + ("5",) * 43, 7, True),
        (("4",) * 48 + ("5",) * 1, 49, False),
    ],
)
def test_agreed_counts_the_answer_given_most_often(answers: tuple[str, ...], k: int, expected: bool) -> None:
    assert agreed([Report(answer) for answer in answers], k) is expected
