"""What the measures of a run and of an arm promise: figures worked out by hand, bounds, and no hanging on names."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.metrics.channels import channels_frame, channels_of
from benchmarks.metrics.jackknife import jackknife, ratio
from benchmarks.metrics.runs import METRIC_COLUMNS, metrics_of
from benchmarks.metrics.trace import trace_of
from benchmarks.tasks import companies
from runtime.journal import Attempt
from runtime.messages import Part, Plan, Reply, Report, Verdict, reply_json
from runtime.result import RunResult, SpendReport
from runtime.task import Task
from topologies.drawing import role

TASK = companies.generate(1)[0]
"""Twenty lines, and one number."""
PLAIN = Task("How much is 6 times 7?", "42", "numeric")


def call(
    seat: str, said: Reply | str, began: float, ended: float, *senders: str, step: int = 0, **other: Any
) -> Attempt:
    reply = said if isinstance(said, str) else reply_json(said)
    figures = (10, 5, 0, 0, 15, 0, 5, 5)
    made = Attempt(
        step, seat, 0, 0, "work", "m", "settled", *figures, began, ended, "stop", reply, senders or ("task",)
    )
    return made._replace(**other)


def run_of(*attempts: Attempt, messages: int = 0) -> RunResult:
    return RunResult(
        *("run", "completed", "", "42", True, SpendReport(), {}, {}, 9.0, True, "D1", False),
        {"messages": messages},
        attempts,
    )


def lengths(tokens: int, **others: int) -> Mapping[str, int]:
    return defaultdict(lambda: tokens, others)


def truth(low: int, high: int, off: int = 0) -> str:
    row = companies.read(TASK.prompt)
    assert row is not None
    return str(row.truth((1 << high) - (1 << (low - 1))) + off)


def star(first_off: int = 0, last_off: int = 0) -> RunResult:
    """A planner (2 s), two executors side by side (3 s and 4 s), a verifier (1 s)."""
    plan = Plan((Part("Lines 1 to 10: add up"), Part("Lines 11 to 20: add up")))
    return run_of(
        call("planner", plan, 0, 2),
        call("executor[0]", Report(truth(1, 10, first_off), "apples", "lines 1 to 10"), 2, 5, "planner"),
        call("executor[1]", Report(truth(11, 20), "apples", "lines 11 to 20"), 2, 6, "planner"),
        call("verifier", Verdict("accept", truth(1, 20, last_off)), 6, 7, "executor[0]", "executor[1]"),
        messages=4,
    )


def test_turns_times_and_mails_of_a_star() -> None:
    seen = metrics_of(star(), TASK)

    assert (seen["turns"], seen["messages"], seen["density"]) == (4, 4, 1.0)
    assert (seen["critical_s"], seen["critical_calls"]) == (7.0, 3), "planner, the slower executor, verifier"
    assert seen["parallelism"] == 10 / 7
    assert (seen["scored"], seen["wrong"], seen["born"], seen["drift"]) == (3, 0, 0, 0.0)
    assert (seen["omission"], seen["unread"], seen["misread"], seen["shared_parts"]) == (0.0, 0.0, 0.0, 0.0)
    assert seen["first_right"] == [], "nobody was asked for the whole task without a mail"


def test_an_error_is_born_once_and_carried_on() -> None:
    seen = metrics_of(star(first_off=900_000, last_off=900_000), TASK)

    assert (seen["wrong"], seen["born"]) == (2, 1)
    assert seen["drift"] == 2 / 3
    assert seen["misread"] is None, "whoever read a wrong mail did not misread a right one"


def test_each_agent_is_held_against_what_it_was_asked_for() -> None:
    """Executors against their lines, the verifier against the task; nobody can say what is right of a plan."""
    agents = metrics_of(star(first_off=900_000), TASK)["agents"]

    assert [tuple(agent.values()) for agent in agents] == [
        ("planner", 1, 0, 0),
        ("executor[0]", 1, 1, 0),
        ("executor[1]", 1, 1, 1),
        ("verifier", 1, 1, 1),
    ]
    assert list(agents[0]) == ["seat", "replies", "scored", "right"]


def test_a_part_of_a_task_that_only_its_checker_knows_is_not_scored() -> None:
    said = call("executor[0]", Report("6", "", "the first factor"), 1, 2, "planner")
    whole = call("verifier", Verdict("accept", "42"), 2, 3, "executor[0]")
    agents = metrics_of(run_of(call("planner", Plan((Part("factors"),)), 0, 1), said, whole), PLAIN)["agents"]

    assert [tuple(agent.values()) for agent in agents] == [
        ("planner", 1, 0, 0),
        ("executor[0]", 1, 0, 0),
        ("verifier", 1, 1, 1),
    ]


def test_every_reply_of_an_agent_counts() -> None:
    result = run_of(*(call("a", Report(answer), i, i + 1, step=i) for i, answer in enumerate(("41", "42", "42"))))

    assert metrics_of(result, PLAIN)["agents"] == [{"seat": "a", "replies": 3, "scored": 3, "right": 2}]


def test_right_mails_put_together_wrongly_are_misread() -> None:
    seen = metrics_of(star(last_off=1), TASK)

    assert (seen["wrong"], seen["born"], seen["misread"], seen["drift"]) == (1, 1, 1.0, 0.0)


def test_a_plan_that_forgets_lines_is_an_omission() -> None:
    plan = Plan((Part("Lines 1 to 10: add up"), Part("Lines 12 to 20: add up")))

    assert metrics_of(run_of(call("planner", plan, 0, 1)), TASK)["omission"] == 1.0
    assert metrics_of(run_of(call("planner", Plan((Part("think"),)), 0, 1)), TASK)["omission"] is None
    assert metrics_of(run_of(call("planner", plan, 0, 1)), PLAIN)["omission"] is None


def test_agents_on_one_question_can_repeat_and_contradict_each_other() -> None:
    said = {"a": Report("42", "six seven"), "b": Report("42", "six seven"), "c": Report("41", "eight")}
    seen = metrics_of(run_of(*(call(seat, report, 0, 1) for seat, report in said.items())), PLAIN)

    assert seen["contradiction"] == pytest.approx(2 / 3)
    assert seen["shared_parts"] == 1.0
    assert seen["redundancy"] == pytest.approx((1 + 0 + 0) / 3), "a and b agree in every word, c in none"
    assert seen["first_right"] == [True, True, False]
    assert seen["parallelism"] == 3.0
    assert seen["unread"] is None, "answers that are voted on have no reader"


def test_a_report_that_nobody_reads_is_counted_where_others_are_read() -> None:
    seen = metrics_of(
        run_of(call("a", Report("42"), 0, 1), call("b", Report("42"), 0, 1), call("c", Report("42"), 1, 2, "a")), PLAIN
    )

    assert seen["unread"] == 0.5


def test_a_mail_is_the_last_reply_before_the_call_not_a_later_one() -> None:
    result = run_of(
        call("a", Report("41"), 0, 1), call("b", Report("42"), 0, 1), call("a", Report("42"), 1, 2, "b", step=1),
        call("b", Report("41"), 1, 2, "a", step=1),
    )  # fmt: skip
    replies = trace_of(result, PLAIN).replies

    assert [(r.seat, [(replies[p].seat, replies[p].right) for p in r.read]) for r in replies[2:]] == [
        ("a", [("b", True)]),
        ("b", [("a", False)]),
    ]


def test_what_took_no_time_is_read_in_the_order_of_its_mails() -> None:
    """Seats come in an order that is neither theirs nor that of their names."""
    result = run_of(
        call("a", Verdict("accept", "42"), 1, 1, "b"), call("b", Report("41"), 1, 1, "c"), call("c", Report("41"), 1, 1)
    )
    seen = metrics_of(result, PLAIN)

    assert [reply.seat for reply in trace_of(result).replies] == ["c", "b", "a"]
    assert (seen["critical_calls"], seen["wrong"], seen["born"]) == (3, 2, 1)


def test_what_was_never_sent_or_cannot_be_read_is_no_reply() -> None:
    result = run_of(
        call("a", "", 0, 1, state="released"),
        call("a", '{"answer"', 1, 2, step=1),
        call("a", '[{"name": "look"}]', 2, 3, step=2),
        call("look", "42", 3, 4, kind="tool"),
        call("a", "42", 4, 5, step=3),
    )
    trace = trace_of(result, PLAIN)

    assert len(trace.attempts) == 4
    assert [reply.right for reply in trace.replies] == [True]


def test_a_seat_inside_a_seat_writes_for_it() -> None:
    result = run_of(call("x/solver", Report("42"), 0, 1), call("verifier", Verdict("accept", "42"), 1, 2, "x"))
    trace = trace_of(result, PLAIN)

    assert trace.replies[1].read == (0,)
    assert trace.replies[0].right is None, "what it was asked inside does not stand in the journal"
    assert role("x[1]/solver[12]") == "x/solver"


def test_of_a_clipped_mail_what_arrives_is_told() -> None:
    long = Report("1" * 40 + " 42", "w" * 400)
    result = run_of(
        call("a", Report("42", "w" * 400), 0, 1), call("b", long, 0, 1), call("c", Report("42"), 1, 2, "a", "b")
    )
    [row] = channels_of(trace_of(result, PLAIN), lengths(8))[:1]
    both = channels_frame([{**row, "address": "r"} for row in channels_of(trace_of(result, PLAIN), lengths(8))])

    assert (row["sender"], row["receiver"], row["mails"], row["whole"]) == ("a", "c", 1, 0)
    assert both["arrived"].to_list() == [1, -1], "the number of b is cut short and so another one"
    assert both["kept"].to_list() == [1, 1]
    assert {row["whole"] for row in channels_of(trace_of(result, PLAIN), lengths(256))} == {1}
    assert channels_of(trace_of(result, PLAIN), lengths(256, c=8)) == channels_of(trace_of(result, PLAIN), lengths(8))


def test_nothing_comes_of_nothing() -> None:
    seen = metrics_of(run_of())

    assert set(seen) | {"address"} == set(METRIC_COLUMNS)
    assert (seen["turns"], seen["critical_s"], seen["density"], seen["parallelism"]) == (0, 0.0, None, None)
    assert channels_of(trace_of(run_of()), {}) == []
    assert jackknife([], ratio) is None
    assert jackknife([[1.0, 0.0]], ratio) is None
    assert jackknife([[1.0, 2.0]], ratio) == (0.5, None, None, 1)


SEATS = ("a", "b", "c[0]", "c[1]")
journals = st.lists(
    st.tuples(
        st.sampled_from(SEATS),
        st.sampled_from(["42", "41", "no number", ""]),
        st.integers(0, 6),
        st.integers(0, 3),
        st.lists(st.sampled_from(SEATS), max_size=3),
        st.sampled_from(["settled", "charged_max", "released"]),
    ),
    max_size=12,
)


@given(journals, st.permutations(SEATS))
def test_any_journal_has_measures_within_bounds_that_do_not_hang_on_names(drawn: list[Any], others: list[str]) -> None:
    attempts = [
        call(seat, Report(answer, f"work of {i}"), began, began + took, *senders, step=i, state=state)
        for i, (seat, answer, began, took, senders, state) in enumerate(drawn)
    ]
    seen = metrics_of(run_of(*attempts), PLAIN)

    for name in ("redundancy", "shared_parts", "drift", "contradiction", "unread", "misread"):
        assert seen[name] is None or 0 <= seen[name] <= 1
    left = [a for a in attempts if a.state != "released"]
    span = max((a.ended_s for a in left), default=0) - min((a.began_s for a in left), default=0)
    assert 0 <= seen["critical_s"] <= span
    assert 0 <= seen["born"] <= seen["wrong"] <= seen["scored"]
    assert seen["critical_calls"] <= seen["turns"] == len(left)

    other = dict(zip(SEATS, others, strict=True)) | {"task": "task"}
    renamed = [a._replace(seat=other[a.seat], senders=tuple(other[s] for s in a.senders)) for a in attempts]
    again = metrics_of(run_of(*renamed), PLAIN)
    assert sorted(again.pop("first_right")) == sorted(seen.pop("first_right"))
    agents = {agent["seat"]: agent for agent in again.pop("agents")}
    assert agents == {other[agent["seat"]]: agent | {"seat": other[agent["seat"]]} for agent in seen.pop("agents")}
    assert again == pytest.approx(seen)
