"""Owns the reading of a journal: who said what, which earlier replies stood in each prompt, and whether they were right.

A link is found by sender and time: the mail of a seat is its last readable reply that had ended when the reader's call began.
Of a seat that is a topology it is the last reply inside. What such a seat was handed from outside leaves no sender in the
journal, so links stop at its border, and chains across it come out too short, never too long.
What models that take no time said at one instant is put in an order that its senders allow; rounds among peers within one
instant cannot be told apart.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import orjson

from benchmarks.tasks import companies, craft
from benchmarks.tasks.family import RowSolver, read_units
from runtime.journal import Attempt
from runtime.messages import Plan, Report, Verdict, parse_reply
from runtime.protocols import OUTSIDE
from runtime.result import RunResult
from runtime.task import Task, last_number

SOLVERS: tuple[RowSolver, ...] = (companies.SOLVER, craft.SOLVER)
"""Families that can say what is right for a part of a task, too."""


class Reply(NamedTuple):
    """One typed reply of an agent about its work."""

    seat: str
    at: int
    """Its attempt, by place in `Trace.attempts`."""
    said: Plan | Report | Verdict
    read: tuple[int, ...]
    """Earlier replies that stood in its prompt, by place in `Trace.replies`; its seat's own among them where it was mailed."""
    told: tuple[str | None, ...]
    """For each of `read`, the summary in its place; None where the reply itself stood in the prompt."""
    partial: bool
    """Whether it may have been asked about less than the whole task."""
    units: int
    """Units of the task it is about, as a bit mask; 0 where the family has none or it names none."""
    right: bool | None
    """By the task's checker or the family's solver; None where neither can tell, and for plans."""
    truth: float | None
    """The right number for what it is about, where there is one."""

    @property
    def value(self) -> float | None:
        """The number it answers with."""
        return None if isinstance(self.said, Plan) else last_number(self.said.answer)


class Trace(NamedTuple):
    """A journal with its links."""

    attempts: tuple[Attempt, ...]
    """Those that left the house, by time."""
    before: tuple[tuple[int, ...], ...]
    """For each attempt those it had to wait for: its seat's own last one, and those whose replies stood in its prompt."""
    replies: tuple[Reply, ...]
    """Readable replies, in the order of their attempts."""

    @property
    def answers(self) -> list[Reply]:
        """Replies that answer something: reports and verdicts."""
        return [reply for reply in self.replies if not isinstance(reply.said, Plan)]

    @property
    def first(self) -> list[Reply]:
        """The first answer of each seat that was asked for the whole task and had read no mail by then."""
        found: dict[str, Reply] = {}
        for reply in self.answers:
            found.setdefault(reply.seat, reply)
        return [reply for reply in found.values() if not reply.partial and not reply.read and reply.right is not None]


def trace_of(result: RunResult, task: Task | None = None) -> Trace:
    """Read the journal of a run; without its task nothing in it is right or wrong."""
    left = (a for a in result.attempts if a.state in {"settled", "charged_max"})
    attempts = _in_time(sorted(left, key=lambda a: (a.began_s, a.ended_s, a.step, a.seat, a.sample, a.try_)))
    by_seat: dict[str, list[int]] = {}
    inside: dict[str, list[int]] = {}
    summaries: dict[tuple[str, int], str] = {}
    """By reader and place of the reply."""
    replies: list[Reply] = []
    before: list[tuple[int, ...]] = []
    for at, attempt in enumerate(attempts):
        senders = [sender for sender in dict.fromkeys(attempt.senders) if sender != OUTSIDE]
        found = (_last(inside.get(sender, ()), replies, attempts, attempt) for sender in senders)
        read = tuple(place for place in found if place is not None)
        own = [i for i in by_seat.get(attempt.seat, ())[-1:] if attempts[i].ended_s <= attempt.began_s]
        before.append(tuple(dict.fromkeys([*own, *(replies[place].at for place in read)])))
        by_seat.setdefault(attempt.seat, []).append(at)
        if attempt.kind == "summary" and attempt.state == "settled" and attempt.reply.strip():
            summaries.update({(attempt.seat, place): attempt.reply for place in read})
        said = spoken(attempt)
        if said is not None:
            partial = "/" in attempt.seat or any(isinstance(replies[place].said, Plan) for place in read)
            for seat in _around(attempt.seat):
                inside.setdefault(seat, []).append(len(replies))
            told = tuple(summaries.get((attempt.seat, place)) for place in read)
            replies.append(Reply(attempt.seat, at, said, read, told, partial, *_scored(said, task, partial=partial)))
    return Trace(attempts, tuple(before), tuple(replies))


def spoken(attempt: Attempt) -> Plan | Report | Verdict | None:
    """The typed reply of an attempt; None for tool calls, bids, votes, summaries and what cannot be read.

    The journal does not name the type asked for, so the keys tell: parts, decision or answer. Plain words are a report.
    """
    words = attempt.reply.strip()
    if attempt.kind != "work" or attempt.state != "settled" or not words:
        return None
    if words.startswith("```"):
        words = words.strip("`").removeprefix("json").strip()
    if not words.startswith(("{", "[")):
        return Report(words, sender=attempt.seat)
    try:
        keys = orjson.loads(words)
        if not isinstance(keys, dict):
            return None
        kind = "plan" if "parts" in keys else "verdict" if "decision" in keys else "report"
        said = parse_reply(kind, words, attempt.seat)
    except ValueError:
        return None
    assert isinstance(said, Plan | Report | Verdict)
    return said


def solver_of(task: Task) -> RowSolver | None:
    """The solver that reads this task, if one of ours does."""
    return next((solver for solver in SOLVERS if solver.reads(task.prompt)), None)


def units_of(task: Task, text: str) -> int:
    """Units of the task that a text names, as a bit mask; 0 without a solver."""
    solver = solver_of(task)
    row = None if solver is None else solver.read(task.prompt)
    return 0 if solver is None or row is None else read_units(text, solver.unit) & ((1 << row.size) - 1)


def all_units(task: Task) -> int:
    """Every unit of the task, as a bit mask; 0 without a solver."""
    solver = solver_of(task)
    row = None if solver is None else solver.read(task.prompt)
    return 0 if row is None else (1 << row.size) - 1


_Scored = tuple[int, bool | None, float | None]


def _scored(said: Plan | Report | Verdict, task: Task | None, *, partial: bool) -> _Scored:
    """Units, verdict and truth. Who was asked for all is held against all, whatever it says it covers."""
    if task is None or isinstance(said, Plan):
        return 0, None, None
    solver = solver_of(task)
    row = None if solver is None else solver.read(task.prompt)
    if not partial:
        units = 0 if row is None else (1 << row.size) - 1
        return units, task.correct(said.answer), _number(task)
    if solver is None or row is None:
        return 0, None, None
    units = units_of(task, said.covers if isinstance(said, Report) else said.reason)
    # Of a row of stages only a value carried on from the first of them means anything.
    if not units or (solver.chained and units & (units + 1)):
        return 0, None, None
    truth = row.truth(units)
    return units, last_number(said.answer) == truth, float(truth)


def _number(task: Task) -> float | None:
    return last_number(task.answer) if task.answer is not None and task.check == "numeric" else None


def _around(seat: str) -> list[str]:
    """The seat and the seats it lies in."""
    steps = seat.split("/")
    return ["/".join(steps[: n + 1]) for n in range(len(steps))]


def _in_time(attempts: Sequence[Attempt]) -> tuple[Attempt, ...]:
    """Put what took no time and happened at one instant into an order in which senders come before their readers."""
    placed: list[Attempt] = []
    for (began_s, ended_s), group in groupby(attempts, key=lambda a: (a.began_s, a.ended_s)):
        waiting = list(group)
        if began_s == ended_s and len(waiting) > 1:
            to_come = Counter(seat for a in waiting for seat in _around(a.seat))
            while waiting:
                # Where all wait for one another, the seats' own counts decide.
                ready = [a for a in waiting if not any(to_come[s] for s in a.senders if s != a.seat)] or waiting[:1]
                placed += ready
                to_come.subtract(seat for a in ready for seat in _around(a.seat))
                gone = set(map(id, ready))
                waiting = [a for a in waiting if id(a) not in gone]
        placed += waiting
    return tuple(placed)


def _last(places: Sequence[int], replies: Sequence[Reply], attempts: Sequence[Attempt], reader: Attempt) -> int | None:
    return next((p for p in reversed(places) if attempts[replies[p].at].ended_s <= reader.began_s), None)
