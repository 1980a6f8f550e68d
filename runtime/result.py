"""Owns RunResult: what a run answered, whether it was right, and what it spent, by agent and by model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

import orjson

from runtime.journal import Attempt
from runtime.usage import PICO

Status = Literal["completed", "exhausted", "deadline", "cancelled", "failed"]


@dataclass(frozen=True, slots=True)
class Spend:
    """A sum of attempts. Attempts charged at maximum count with the whole reservation."""

    tokens: int = 0
    pico_usd: int = 0
    calls: int = 0
    tool_calls: int = 0
    virtual: bool = True
    """Whether nobody bills for it."""

    @property
    def usd(self) -> Decimal:
        """Dollars, exact."""
        return Decimal(self.pico_usd) / PICO

    def __add__(self, other: "Spend") -> "Spend":
        return Spend(
            self.tokens + other.tokens,
            self.pico_usd + other.pico_usd,
            self.calls + other.calls,
            self.tool_calls + other.tool_calls,
            self.virtual and other.virtual,
        )

    @classmethod
    def of(cls, attempt: Attempt, *, virtual: bool) -> "Spend":
        """What one attempt was charged."""
        tool = attempt.kind == "tool"
        charged = attempt.state in {"settled", "charged_max"}
        return cls(
            attempt.input_tokens + attempt.output_tokens,
            attempt.pico_usd,
            int(charged and not tool),
            attempt.units,
            virtual,
        )


@dataclass(frozen=True, slots=True)
class SpendReport:
    """What a run spent, three ways; the sums over agents and over models each equal the total."""

    total: Spend = field(default_factory=Spend)
    by_agent: Mapping[str, Spend] = field(default_factory=dict)
    by_model: Mapping[str, Spend] = field(default_factory=dict)

    @classmethod
    def of(cls, attempts: Sequence[Attempt], *, virtual: bool) -> "SpendReport":
        """Fold a run's attempts."""
        total = Spend(virtual=virtual)
        by_agent: dict[str, Spend] = {}
        by_model: dict[str, Spend] = {}
        for attempt in attempts:
            spend = Spend.of(attempt, virtual=virtual)
            total += spend
            by_agent[attempt.seat] = by_agent.get(attempt.seat, Spend(virtual=virtual)) + spend
            by_model[attempt.model] = by_model.get(attempt.model, Spend(virtual=virtual)) + spend
        return cls(total, by_agent, by_model)


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended. Exhausted and deadlined runs still carry their best answer, scored."""

    run_id: str
    status: Status
    reason: str
    """Empty for completed; otherwise what ended the run, in one sentence."""
    answer: str | None
    correct: bool | None
    """None when the task has no checker."""
    spend: SpendReport
    overspend: Mapping[str, int]
    """Per capped dimension, in its integer unit, what was charged above the limit. All zero with honest providers."""
    seconds: float
    """Virtual seconds in virtual runs, wall-clock ones in live runs."""
    deterministic: Literal["D1", "D2"]
    """D1: same seed, same everything, anywhere. D2: a live run, reproducible only by replay."""
    disturbed: bool
    """A live run that lost a host."""
    metrics: Mapping[str, float]
    attempts: tuple[Attempt, ...]
    """The journal, in the order (step, seat, sample, try)."""

    @property
    def overspent(self) -> bool:
        """Whether any limit was passed."""
        return any(self.overspend.values())

    def to_json(self) -> bytes:
        """The sealed form of the run: result, metrics and journal. Sums are left out; they follow from the journal."""
        kept = {name: getattr(self, name) for name in _SEALED}
        kept["attempts"] = [list(attempt) for attempt in self.attempts]
        return orjson.dumps(kept, option=orjson.OPT_SORT_KEYS)

    @classmethod
    def from_json(cls, body: bytes) -> "RunResult":
        """Read a sealed run back."""
        kept = orjson.loads(body)
        attempts = tuple(Attempt._make((*row[:-1], tuple(row[-1]))) for row in kept.pop("attempts"))
        spend = SpendReport.of(attempts, virtual=kept["deterministic"] == "D1")
        return cls(spend=spend, attempts=attempts, **kept)


_SEALED = tuple(name for name in RunResult.__dataclass_fields__ if name not in {"spend", "attempts"})
