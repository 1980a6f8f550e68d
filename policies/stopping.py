"""Owns when to stop asking for more answers."""

from collections.abc import Sequence

from policies.voting import agreement
from runtime.messages import Report


def agreed(reports: Sequence[Report], k: int) -> bool:
    """Whether one answer was given at least `k` times.

    Answers are compared as in `policies.voting`. Empty ones are no answers: two systems that found nothing do not agree.
    """
    given = [report for report in reports if report.answer.strip()]
    return bool(given) and agreement(given) >= k / len(given)
