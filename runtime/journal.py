"""Owns the journal's record of one attempt: what was asked, held, used and answered. Metrics are computed from it."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

State = Literal["held", "sent", "settled", "released", "charged_max", "voided"]
Unanswered = Literal["unanswered"]
"""No state of an attempt, but of the work it was a try at: there will be no other."""


class Key(NamedTuple):
    """Names one piece of work inside a run, the same in every run of the same seed; tries are numbered by the bank."""

    step: int
    """The seat's own count of attempts."""
    seat: str
    sample: int


class Attempt(NamedTuple):
    """One try of a model or tool call: the unit of money."""

    step: int
    seat: str
    sample: int
    try_: int
    kind: str
    """work, bid, vote, summary, probe or tool."""
    model: str
    """Model, or tool, that was called."""
    state: State
    input_tokens: int
    output_tokens: int
    pico_usd: int
    """Charged; for charged_max the whole reservation."""
    units: int
    """Tool units charged; 0 for model calls."""
    held_tokens: int
    held_pico_usd: int
    """What the reservation held; the difference to what was charged is the slack of the bound."""
    max_tokens: int
    """Granted reply limit, after shrinking."""
    wanted_tokens: int
    """Reply limit asked for; above max_tokens when the budget shrank it."""
    began_s: float
    ended_s: float
    """Seconds since the run began, virtual ones in virtual runs."""
    finish: str
    reply: str
    """The reply's text; tool calls as JSON."""
    senders: tuple[str, ...]
    """Seats whose mail stood in the prompt, in order."""
    waited_s: float = 0.0
    """Seconds it waited for a place at the endpoint before it began. From here on with defaults: older rows end before."""
    cached_tokens: int = 0
    """Those of the input that the endpoint read from its cache."""
    reasoning_tokens: int = 0
    """Those of the output that were thought and not shown, as far as the endpoint says."""
    floored: bool = False
    """Whether the endpoint told less than it sent, and what was counted here is charged instead."""


def attempt_of(values: Sequence[Any]) -> Attempt:
    """Read a row back that was written as JSON."""
    row = Attempt(*values)
    return row._replace(senders=tuple(row.senders))


def in_order(attempt: Attempt) -> tuple[int, str, int, int]:
    """The order of a finished run's attempts, which no timing decides."""
    return attempt.step, attempt.seat, attempt.sample, attempt.try_
