"""What the measures of arms promise: ratios worked out by hand, the right arm to hold against, and honest gaps."""

import re
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from benchmarks.metrics.arms import MEASURES, arm_metrics, channel_metrics, reference
from benchmarks.metrics.channels import CHANNEL_COLUMNS, channels_frame
from benchmarks.metrics.runs import METRIC_COLUMNS, metrics_frame
from benchmarks.metrics.shown import shown
from benchmarks.report import Manifest, render
from benchmarks.statistics import interval
from benchmarks.tables import SINGLE

Make = Callable[..., pl.DataFrame]
TURNS = {"Single": 2, "Star(4)": 6, SINGLE: 40}


def manifest_of(n: int) -> Manifest:
    return Manifest(
        name="x", created="", revision="", versions={}, priced_by={}, match="cap", kind="simulated", command="", seeds=[0],
        planned=n, finished=n, floored={}, sha256="",
    )  # fmt: skip


def played(make_trials: Make, *topologies: str) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Eight tasks, one seed. Single solves tasks 0 to 3, all others 0 to 5; 500 tokens a run."""
    trials = make_trials(topologies, ("small",), ("$0.0004",), ("companies",), 8, 1)
    number = pl.col("task").str.tail(3).cast(pl.Int64)
    trials = trials.with_columns(
        correct=number < pl.when(pl.col("topology") == "Single").then(4).otherwise(6), tokens=pl.lit(500)
    )
    empty = dict.fromkeys(METRIC_COLUMNS)
    rows: list[dict[str, Any]] = []
    for row in trials.rows(named=True):
        seen = {"turns": TURNS[row["topology"]], "messages": 0, "scored": 4, "wrong": 3, "born": 2}
        rows.append({**empty, **seen, "address": row["address"], "first_right": []})
    return trials, metrics_frame(rows), channels_frame([])


def test_the_ratios_against_a_single_agent(make_trials: Make) -> None:
    table = arm_metrics(*played(make_trials, "Single", "Star(4)"))
    row = table.filter(topology="Star(4)").row(0, named=True)

    assert row["n"] == 8
    assert row["overhead"] == pytest.approx(200.0)
    assert row["efficiency"] == pytest.approx(0.75 / 3)
    assert row["a_task"] == pytest.approx(0.25 / 0.5)
    assert row["a_trace"] == pytest.approx(1.5)
    assert row["absorbed"] == pytest.approx(0.75)
    assert row["per_ktok"] == pytest.approx(6 / 4)
    assert row["a_task_low"] < row["a_task"] < row["a_task_high"]
    assert [row[name] for name in ("rho", "gain", "gamma", "drift", "redundancy")] == [None] * 5


def test_turns_are_held_against_an_agent_that_answers_once_where_there_is_one(make_trials: Make) -> None:
    trials, runs, channels = played(make_trials, "Single", SINGLE, "Star(4)")
    without = trials.filter(pl.col("topology") != "Single")

    assert reference(trials) == "Single"
    assert reference(without) == SINGLE
    told = arm_metrics(without, runs, channels).filter(topology="Star(4)")["overhead"].to_list()
    assert told == pytest.approx([100 * (6 - 40) / 40])


def test_without_a_single_agent_there_is_no_overhead(make_trials: Make) -> None:
    table = arm_metrics(*played(make_trials, "Star(4)"))

    assert table["overhead"].to_list() == [None]
    assert table["a_trace"].to_list() == [1.5]


def test_without_checkers_nothing_is_solved_or_amplified(make_trials: Make) -> None:
    trials, runs, channels = played(make_trials, "Single", "Star(4)")
    table = arm_metrics(trials.with_columns(correct=pl.lit(None, pl.Boolean)), runs, channels)

    assert table["a_task"].to_list() == table["per_ktok"].to_list() == table["absorbed"].to_list() == [None, None]
    assert set(table.columns) >= {f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high")}


def test_agents_that_answer_alone_have_a_correlation_and_a_gain(make_trials: Make) -> None:
    trials, runs, channels = played(make_trials, "Star(4)")
    votes = [[True, True, i % 2 == 0] if i < 4 else [False, False, i % 2 == 0] for i in range(8)]
    row = arm_metrics(trials, runs.with_columns(first_right=pl.Series(votes)), channels).row(0, named=True)

    assert 0 < row["rho"] < 1
    assert row["rho_low"] is None, "eight tasks are too few for an interval"
    assert row["gain"] is None, "one run of a task says nothing about its variance"


def agents(*counts: tuple[str, int, int, int]) -> list[dict[str, Any]]:
    return [dict(zip(("seat", "replies", "scored", "right"), of, strict=True)) for of in counts]


def with_agents(make_trials: Make) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """In every second of eight tasks one of two executors is wrong, once; a planner is never scored."""
    trials, runs, channels = played(make_trials, "Single", "Star(4)")
    said = [
        agents(("planner", 1, 0, 0), ("executor[0]", 2, 2, 2 - i % 2), ("executor[11]", 1, 1, 1)) if i > 7 else []
        for i in range(16)
    ]
    return trials, runs.with_columns(agents=pl.Series(said, dtype=METRIC_COLUMNS["agents"])), channels


def test_what_agents_got_right_is_told_by_arm_and_role(make_trials: Make) -> None:
    table = arm_metrics(*with_agents(make_trials))
    single, star = (table.filter(topology=topology).row(0, named=True)["roles"] for topology in ("Single", "Star(4)"))
    rights = [right for i in range(8) for right in ((1, 1 - i % 2, 1))]
    seen = interval(rights, [i // 3 for i in range(24)])

    assert single == []
    planner, executor = star
    assert planner == {
        "role": "planner",
        "replies": 8,
        "scored": 0,
        "right": 0,
        **dict.fromkeys(("share", "share_low", "share_high")),
    }
    assert (executor["role"], executor["replies"], executor["scored"], executor["right"]) == ("executor", 24, 24, 20)
    assert (executor["share"], executor["share_low"], executor["share_high"]) == (seen.mean, seen.low, seen.high)


def test_the_roles_of_an_arm_are_a_flat_table_in_two_words(make_trials: Make) -> None:
    flat = arm_metrics(*with_agents(make_trials)).explode("roles").unnest("roles")

    assert flat.filter(topology="Star(4)").select("role", "replies", "scored", "right").rows() == [
        ("planner", 8, 0, 0),
        ("executor", 24, 24, 20),
    ]


def test_the_report_says_what_each_role_got_right_and_what_is_not_known(make_trials: Make) -> None:
    trials, runs, channels = with_agents(make_trials)
    html = render(trials, manifest_of(16), {}, arm_metrics(trials, runs, channels))
    table = html[html.index("Agents: companies, budget $0.0004 a run (simulated, matched)") :]
    rows = [re.sub(r"<svg.*?</svg>", "", row) for row in re.findall(r"<tr><td.*?</tr>", table, re.DOTALL)[:2]]
    cells = [[re.sub(r"\s+", " ", cell).strip() for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)] for row in rows]

    assert [row[:6] for row in cells] == [
        ["Star(4)", "small", "planner", "8", "0", "–"],
        ["Star(4)", "small", "executor", "24", "24", "20"],
    ]
    assert cells[1][6].startswith(".83 [.")
    assert "only the families companies and craft can tell" in html


def test_without_replies_there_is_no_table_of_agents(make_trials: Make) -> None:
    trials, runs, channels = played(make_trials, "Single", "Star(4)")

    assert "Agents:" not in render(trials, manifest_of(16), {}, arm_metrics(trials, runs, channels))


def test_channels_are_told_by_arm_and_role(make_trials: Make) -> None:
    trials, runs, _ = played(make_trials, "Star(4)")
    counts = (2, 1, 0, 2, 2, 2, 0)
    rows = [dict(zip(CHANNEL_COLUMNS, (address, "a", "b", *counts), strict=True)) for address in trials["address"]]
    [row] = channel_metrics(trials, channels_frame(rows))
    arm = arm_metrics(trials, runs, channels_frame(rows)).row(0, named=True)

    assert (row["topology"], row["sender"], row["receiver"], row["mails"]) == ("Star(4)", "a", "b", 16)
    assert (row["whole"].value, row["gamma"].value, row["transfer"].value) == (0.5, 1.0, 0.0)
    assert row["transfer"].low < 0 < row["transfer"].high
    assert (arm["unclipped"], arm["gamma"], arm["transfer"]) == (0.5, 1.0, 0.0)


def test_the_report_shows_what_there_is_at_the_largest_budget(make_trials: Make) -> None:
    trials, runs, channels = played(make_trials, "Single", "Star(4)")
    section = shown(trials, arm_metrics(trials, runs, channels))

    assert section is not None
    assert (section.where, section.against) == ("companies, budget $0.0004 a run", "Single")
    (_, heads, [single, star]), (_, faults, _) = section.tables
    assert "redundancy" not in heads, "nobody has one"
    assert star[heads.index("overhead, %") + 2].startswith("200")
    assert single[heads.index("overhead, %") + 2] == "0", "against itself by definition"
    assert "A trace" in faults


def test_the_report_says_what_the_teams_did_and_shows_a_run(make_trials: Make) -> None:
    trials, runs, channels = played(make_trials, "Single", "Star(4)")
    svg = '<svg xmlns="http://www.w3.org/2000/svg"><title>a run</title></svg>'
    html = render(trials, manifest_of(16), {}, arm_metrics(trials, runs, channels), {"Star(4)": svg})

    assert html.index("Paired comparisons") < html.index("What the teams did</h2>") < html.index("Match audit</h2>")
    assert "Work: companies, budget $0.0004 a run (simulated, matched)" in html
    assert "<summary>A run of Star(4) (simulated, matched)</summary>" in html
    assert svg in html
