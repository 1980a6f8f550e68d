"""A star of several rounds stops when its planner says so, and independent answers are combined as asked for."""

import pytest

from runtime.agents.agent import Agent
from runtime.agents.blocks import read_blocks
from runtime.budget import Budget
from runtime.errors import ConfigError
from runtime.host import run_virtual
from runtime.messages import Part, Plan, Reply, Report, Verdict
from runtime.models.base import ChatRequest
from runtime.models.scripted import ScriptedModel
from runtime.preflight import RunSpec
from runtime.result import RunResult
from runtime.task import Task
from topologies import Independent, Star, Topology


def run(topology: Topology, *plans: int, calls: int = 99, answers: str = "42") -> RunResult:
    """The planner cuts so many parts in each round; executor i always gives the i-th answer."""
    left = list(plans)
    words = answers.split()

    def reply(request: ChatRequest) -> Reply:
        if request.reply == "plan":
            return Plan(tuple(Part(str(i)) for i in range(left.pop(0))))
        if request.reply == "verdict":
            return Verdict("accept", "judged")
        return Report(words[int(request.messages[0].content) % len(words)])

    model = ScriptedModel(reply, name="m")
    return run_virtual([RunSpec("r", topology, Task("x"), Budget(calls=calls), 0)], {"m": model}.__getitem__)[0]


def team(n: int) -> list[Agent | Topology]:
    return [Agent("executor", prompt=str(i)) for i in range(n)]


def asked(result: RunResult) -> list[str]:
    order = {seat: i for i, seat in enumerate(("planner", "executor[0]", "executor[1]", "verifier"))}
    rows = sorted(result.attempts, key=lambda a: (a.seat == "verifier", a.step, order[a.seat]))
    return [f"{a.seat} < {' '.join(a.senders)}" for a in rows]


PLAN, VERIFY = "planner < executor[0] executor[1]", "verifier < executor[0] executor[1]"
FIRST = ["planner < task", "executor[0] < planner", "executor[1] < planner"]


@pytest.mark.parametrize(
    ("plans", "then"),
    [
        ((2, 0), [PLAN, VERIFY]),
        ((2, 2, 0), [PLAN, "executor[0] < planner executor[0]", "executor[1] < planner executor[1]", PLAN, VERIFY]),
        ((2, 1, 0), [PLAN, "executor[0] < planner executor[0]", PLAN, VERIFY]),
    ],
)
def test_a_star_goes_on_until_its_planner_has_nothing_left_to_do(plans: tuple[int, ...], then: list[str]) -> None:
    result = run(Star(team(2), rounds=5, model="m"), *plans)

    assert (result.status, result.answer) == ("completed", "judged")
    assert sorted(asked(result)) == sorted(FIRST + then)


def test_a_star_ends_after_its_rounds() -> None:
    star = Star(team(2), rounds=3, model="m")

    result = run(star, 2, 2, 2)

    assert (result.answer, len(result.attempts), star.calls()) == ("judged", 10, 10)


@pytest.mark.parametrize("calls", [4, 5, 6, 7])
def test_a_star_that_can_pay_for_no_further_round_still_verifies(calls: int) -> None:
    """Whether it is the planner who is refused or an executor."""
    result = run(Star(team(2), rounds=3, model="m"), 2, 2, 2, calls=calls)

    assert (result.status, result.answer) == ("completed", "judged")
    assert len(result.attempts) == calls


def test_a_planner_of_several_rounds_is_told_when_to_stop_unless_it_has_words_of_its_own() -> None:
    def words(star: Star) -> str | None:
        planner = star.seats()["planner"]
        assert isinstance(planner, Agent)
        return planner.prompt

    assert words(Star(2)) is None
    assert "reply with no parts" in (words(Star(2, rounds=2)) or "")
    assert words(Star(2, rounds=2, planner=Agent("planner", prompt="Mine."))) == "Mine."


@pytest.mark.parametrize(
    ("topology", "answers", "answer"),
    [
        (Independent(team(3), model="m"), "a b b", "b"),
        (Independent(team(3), model="m"), "a b c", "a"),
        (Independent(team(3), combine="concatenate", model="m"), "a b b", "a\n\nb\n\nb"),
        (Independent(team(3), combine="best", model="m"), "a b b", "judged"),
    ],
    ids=lambda value: value.name if isinstance(value, Topology) else "",
)
def test_answers_are_combined_as_asked_for(topology: Topology, answers: str, answer: str) -> None:
    result = run(topology, answers=answers)

    assert (result.status, result.answer) == ("completed", answer)


@pytest.mark.parametrize(
    ("combine", "status", "answer"),
    [("vote", "exhausted", "a"), ("concatenate", "exhausted", "a"), ("best", "completed", "judged")],
)
def test_a_budget_for_some_gives_what_those_make(combine: str, status: str, answer: str) -> None:
    topology = Independent(team(3), combine=combine, model="m")  # type: ignore[arg-type]

    result = run(topology, answers="a b b", calls=2 if combine == "best" else 1)

    assert (result.status, result.answer) == (status, answer)


@pytest.mark.parametrize(
    ("build", "what"),
    [
        (lambda: Star(2, rounds=0), "rounds=0 must be a whole number, 1 or more"),
        (lambda: Independent(2, combine="mean"), "combine='mean' must be one of vote, concatenate, best"),  # type: ignore[arg-type]
        (lambda: Independent(2, verifier=Agent("verifier")), "needs no verifier"),
    ],
)
def test_what_makes_no_sense_is_refused(build: object, what: str) -> None:
    assert callable(build)
    with pytest.raises(ConfigError, match=what):
        build()


def test_a_planner_reads_the_findings_and_an_executor_its_own_last_report() -> None:
    seen: dict[tuple[str, int], list[str]] = {}

    def reply(request: ChatRequest) -> Reply:
        mails = [block.attributes["from"] for block in read_blocks(request.messages[-1].content) if block.tag == "mail"]
        seen[request.reply, len(seen)] = mails
        lines: dict[str, Reply] = {
            "plan": Plan((Part("a"),)),
            "report": Report("r"),
            "verdict": Verdict("accept", "v"),
        }
        return lines[request.reply]

    star = Star(1, rounds=2, model="m")
    run_virtual([RunSpec("r", star, Task("x"), Budget(calls=9), 0)], {"m": ScriptedModel(reply)}.__getitem__)

    one = ["executor[0]"]
    assert list(seen.items()) == [
        (("plan", 0), []),
        (("report", 1), []),
        (("plan", 2), one),
        (("report", 3), one),
        (("verdict", 4), one),
    ]
