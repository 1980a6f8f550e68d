"""Owns the measures of one run: turns, mails, time, likeness of outputs, and what errors did on their way.

All are None where they mean nothing (no second agent, no checker, no mail), and never 0 in its place.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import polars as pl

from benchmarks.metrics.trace import Reply, Trace, all_units, trace_of, units_of
from runtime.journal import Attempt
from runtime.messages import Plan, Report
from runtime.result import RunResult
from runtime.task import Task

DRIFT = 0.05
"""Relative deviation from the truth beyond which a wrong number is called drifted, as in Kim et al."""

METRIC_COLUMNS: dict[str, type[pl.DataType] | pl.DataType] = {
    "address": pl.String,
    **dict.fromkeys(("turns", "messages", "critical_calls"), pl.Int64),
    **dict.fromkeys(("critical_s", "parallelism", "density", "redundancy", "shared_parts"), pl.Float64),
    **dict.fromkeys(("scored", "wrong", "born"), pl.Int64),
    **dict.fromkeys(("drift", "omission", "contradiction", "unread", "misread"), pl.Float64),
    "first_right": pl.List(pl.Boolean),
    "agents": pl.List(pl.Struct({"seat": pl.String, **dict.fromkeys(("replies", "scored", "right"), pl.Int64)})),
}
"""Columns of the table of metrics, one row per run; what they mean stands at `metrics_of`."""

_WORD = re.compile(r"\w+")


def metrics_of(result: RunResult, task: Task | None = None, trace: Trace | None = None) -> dict[str, Any]:
    """Measure a run; without its task, what needs a checker is None.

    - turns: paid model calls for work, repairs and tool turns included; bids, votes and probes not.
    - messages: mails delivered along channels, counted by the team.
    - density: messages / turns.
    - critical_s, critical_calls: the longest chain of calls that waited for one another, linked by mail and by the order of
      each seat, in seconds of call time, and how many calls it has.
    - parallelism: sum of call times / time from the first call to the end of the last.
    - redundancy: mean cosine, over all pairs of agents, of the word counts of all that each of them said in its replies. Word
      counts and not embeddings, so it is about wording: figures for the same work lie higher than those of Kim et al.
    - shared_parts: of all parts that reports name as covered, the share that several agents reported on.
    - scored, wrong, born: replies that a checker could judge; the wrong among them; those of the wrong that had read no
      wrong reply. The others carried an error on, or made another one beside it.
    - drift: share of numeric scored replies that are wrong by more than 5 % of the truth.
    - omission: 1 where the first plan leaves a unit of the task to nobody. Needs a family with units.
    - contradiction: of the pairs of agents whose last reports are about the same part, the share with different answers.
    - unread: share of reports that no other call read, in runs in which any were read: work that was thrown away. Answers
      that go into a vote have no reader and are left out with their run.
    - misread: of the replies that only had to put together what they read (right, and all that was asked), the share that is
      wrong. Needs a family with units.
    - first_right: correctness of the answers to the whole task that were given before any mail was read, one per seat.
    - agents: for each seat, in the order of their first replies, its readable replies, how many of them are known to be right
      or wrong, and how many are right. Who was asked for the whole task is held against its checker; who was asked for a part,
      against the part, where the family can tell what is right for one and the reply says which units it is about. Plans are
      neither right nor wrong.
    """
    trace = trace_of(result, task) if trace is None else trace
    turns = sum(a.kind == "work" for a in trace.attempts)
    messages = int(result.metrics.get("messages", 0))
    seconds, calls = critical_path(trace)
    judged = [reply for reply in trace.replies if reply.right is not None]
    wrong = [reply for reply in judged if not reply.right]
    return {
        "turns": turns,
        "messages": messages,
        "critical_calls": calls,
        "critical_s": seconds,
        "parallelism": parallelism(trace),
        "density": messages / turns if turns else None,
        "redundancy": redundancy(trace),
        "shared_parts": _shared_parts(trace),
        "scored": len(judged),
        "wrong": len(wrong),
        "born": sum(all(trace.replies[place].right is not False for place in reply.read) for reply in wrong),
        "drift": _drift(judged),
        "omission": _omission(trace, task),
        "contradiction": _contradiction(trace),
        "unread": _unread(trace),
        "misread": _misread(trace),
        "first_right": [bool(reply.right) for reply in sorted(trace.first, key=lambda reply: reply.seat)],
        "agents": _agents(trace),
    }


def floored(attempts: Iterable[Attempt]) -> dict[str, int]:
    """How many calls of each model were charged by our own count, because its endpoint told less than it provably sent.

    What it told is not kept, so the gap is not known; the true figure may lie above our count.
    """
    return dict(sorted(Counter(attempt.model for attempt in attempts if attempt.floored).items()))


def metrics_frame(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """The table of metrics from rows of `metrics_of` that got their `address`."""
    return pl.DataFrame(rows, schema=METRIC_COLUMNS)


def critical_path(trace: Trace) -> tuple[float, int]:
    """Seconds and calls of the longest chain in which each call waited for the one before."""
    ends: list[tuple[float, int]] = []
    for attempt, before in zip(trace.attempts, trace.before, strict=True):
        seconds, calls = max((ends[i] for i in before), default=(0.0, 0))
        ends.append((seconds + attempt.ended_s - attempt.began_s, calls + 1))
    return max(ends, default=(0.0, 0))


def parallelism(trace: Trace) -> float | None:
    """Calls under way at a time, on average; below 1 where the team waited for budget or backed off."""
    if not trace.attempts:
        return None
    span = max(a.ended_s for a in trace.attempts) - min(a.began_s for a in trace.attempts)
    return sum(a.ended_s - a.began_s for a in trace.attempts) / span if span > 0 else None


def redundancy(trace: Trace) -> float | None:
    """Mean pairwise cosine of the agents' word counts; None with fewer than two agents that said a word."""
    counts: dict[str, Counter[str]] = {}
    for reply in trace.replies:
        counts.setdefault(reply.seat, Counter()).update(_WORD.findall(_words(reply).casefold()))
    spoken = [(count, math.sqrt(sum(n * n for n in count.values()))) for count in counts.values() if count]
    pairs = [_cosine(*a, *b) for a, b in combinations(spoken, 2)]
    return sum(pairs) / len(pairs) if pairs else None


def _cosine(a: Counter[str], a_length: float, b: Counter[str], b_length: float) -> float:
    if len(b) < len(a):
        a, b = b, a
    # Rounding must not make two equal texts more than equal.
    return min(1.0, sum(n * b[word] for word, n in a.items() if word in b) / (a_length * b_length))


def _agents(trace: Trace) -> list[dict[str, Any]]:
    by_seat: dict[str, list[Reply]] = {}
    for reply in trace.replies:
        by_seat.setdefault(reply.seat, []).append(reply)
    return [
        {
            "seat": seat,
            "replies": len(replies),
            "scored": sum(reply.right is not None for reply in replies),
            "right": sum(reply.right is True for reply in replies),
        }
        for seat, replies in by_seat.items()
    ]


def _words(reply: Reply) -> str:
    said = reply.said
    if isinstance(said, Plan):
        return " ".join(part.text for part in said.parts)
    return f"{said.answer} {said.work if isinstance(said, Report) else said.reason}"


def _shared_parts(trace: Trace) -> float | None:
    agents: dict[str, set[str]] = {}
    for reply in trace.replies:
        if isinstance(reply.said, Report):
            agents.setdefault(reply.said.covers.strip().casefold(), set()).add(reply.seat)
    return sum(len(seats) > 1 for seats in agents.values()) / len(agents) if agents else None


def _drift(judged: Sequence[Reply]) -> float | None:
    numeric = [reply for reply in judged if reply.truth and reply.value is not None]
    drifted = [r for r in numeric if abs((r.value or 0.0) - (r.truth or 0.0)) > DRIFT * abs(r.truth or 0.0)]
    return len(drifted) / len(numeric) if numeric else None


def _omission(trace: Trace, task: Task | None) -> float | None:
    plan = next((r.said for r in trace.replies if isinstance(r.said, Plan) and "/" not in r.seat), None)
    if task is None or plan is None or not plan.parts:
        return None
    named = [units_of(task, part.text) for part in plan.parts]
    every = all_units(task)
    # A part that names no unit may mean anything.
    if not every or not all(named):
        return None
    covered = 0
    for units in named:
        covered |= units
    return float(covered != every)


def _contradiction(trace: Trace) -> float | None:
    last = {reply.seat: reply for reply in trace.replies if isinstance(reply.said, Report)}
    about: dict[str, list[Reply]] = {}
    for reply in last.values():
        assert isinstance(reply.said, Report)
        about.setdefault(reply.said.covers.strip().casefold(), []).append(reply)
    pairs = [pair for replies in about.values() for pair in combinations(replies, 2)]
    return sum(_answer(a) != _answer(b) for a, b in pairs) / len(pairs) if pairs else None


def _answer(reply: Reply) -> object:
    assert not isinstance(reply.said, Plan)
    return reply.said.answer.strip().casefold() if reply.value is None else reply.value


def _unread(trace: Trace) -> float | None:
    read = {place for reply in trace.replies for place in reply.read}
    # The last answer has no reader by rights.
    reports = [i for i, reply in enumerate(trace.replies[:-1]) if isinstance(reply.said, Report)]
    used = sum(i in read for i in reports)
    return 1 - used / len(reports) if used else None


def _misread(trace: Trace) -> float | None:
    due = wrong = 0
    for reply in trace.answers:
        mails = [trace.replies[place] for place in reply.read if not isinstance(trace.replies[place].said, Plan)]
        units = 0
        for mail in mails:
            units |= mail.units
        if reply.right is not None and reply.units and units == reply.units and all(mail.right for mail in mails):
            due += 1
            wrong += not reply.right
    return wrong / due if due else None
