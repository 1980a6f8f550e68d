"""Owns how several answers become one."""

from collections.abc import Sequence
from typing import TypeVar

from runtime.messages import Report, Verdict

A = TypeVar("A", Report, Verdict)


def majority(reports: Sequence[A]) -> A | None:
    """The report whose answer occurs most often; ties go to the answer that came first in the given order.

    Answers are compared without case and outer blanks. None for no reports.

    Source: X. Wang et al., "Self-Consistency Improves Chain of Thought Reasoning in Language Models", ICLR 2023.
    """
    counts: dict[str, int] = {}
    for report in reports:
        answer = _normal(report.answer)
        counts[answer] = counts.get(answer, 0) + 1
    if not counts:
        return None
    best = max(counts, key=lambda answer: counts[answer])
    return next(report for report in reports if _normal(report.answer) == best)


def agreement(reports: Sequence[Report]) -> float:
    """Share of the reports that give the majority's answer; 0 for no reports."""
    winner = majority(reports)
    if winner is None:
        return 0.0
    return sum(_normal(r.answer) == _normal(winner.answer) for r in reports) / len(reports)


def _normal(answer: str) -> str:
    return answer.strip().casefold()
