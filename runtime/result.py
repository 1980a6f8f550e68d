"""Owns RunResult: what a run answered, whether it was right, and what it spent, by agent and by model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

import orjson

from runtime.journal import Attempt, attempt_of
from runtime.usage import PICO

if TYPE_CHECKING:
    from runtime.bank.statement import Balance, Ceiling

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


@dataclass(frozen=True, slots=True)
class SpendReport:
    """What a run spent, three ways; the sums over agents and over models each equal the total."""

    total: Spend = field(default_factory=Spend)
    by_agent: Mapping[str, Spend] = field(default_factory=dict)
    by_model: Mapping[str, Spend] = field(default_factory=dict)

    @classmethod
    def of(cls, attempts: Sequence[Attempt], *, virtual: bool) -> "SpendReport":
        """Fold a run's attempts."""
        by_agent: dict[str, list[int]] = {}
        by_model: dict[str, list[int]] = {}
        for a in attempts:
            charged = a.state in {"settled", "charged_max"}
            spent = (a.input_tokens + a.output_tokens, a.pico_usd, int(charged and a.kind != "tool"), a.units)
            for sums in (by_agent.setdefault(a.seat, [0] * 4), by_model.setdefault(a.model, [0] * 4)):
                for i, amount in enumerate(spent):
                    sums[i] += amount
        total = [sum(sums) for sums in zip(*by_agent.values(), strict=True)] or [0] * 4
        return cls(
            _spend(total, virtual),
            {seat: _spend(sums, virtual) for seat, sums in by_agent.items()},
            {name: _spend(sums, virtual) for name, sums in by_model.items()},
        )


def _spend(sums: list[int], virtual: bool) -> Spend:
    tokens, pico_usd, calls, tool_calls = sums
    return Spend(tokens, pico_usd, calls, tool_calls, virtual)


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
    """Per dimension, in its integer unit, the most that was charged above a limit: the run's own, or a ceiling's inside it.

    Not their sum, because one bill can pass several at once; `books` and `ceilings` have each of them. All zero with honest
    providers.
    """
    books: Mapping[str, "Balance"]
    """By dimension, the balances of the run's ledger when it was closed."""
    seconds: float
    """Virtual seconds in virtual runs, wall-clock ones in live runs."""
    virtual: bool
    """Whether it ran in virtual time, on models and tools that bill nobody."""
    deterministic: Literal["D1", "D2"]
    """D1: same seed, same everything, anywhere. D2: reproducible only by replay: a live run, and a virtual one that chance had a
    part in, as where two asked one seat at once."""
    disturbed: bool
    """A live run that lost a host."""
    metrics: Mapping[str, float]
    attempts: tuple[Attempt, ...]
    """The journal, in the order (step, seat, sample, try)."""
    ceilings: Sequence["Ceiling"] = ()
    """The ceilings inside the run when it was closed, each before those in it. None were kept in results of older versions,
    nor of a run that was given up while no driver had it: only its team knows them."""

    @property
    def overspent(self) -> bool:
        """Whether any limit was passed."""
        return any(self.overspend.values())

    @property
    def working_s(self) -> float:
        """Seconds that calls took, summed over all of them."""
        return sum(a.ended_s - a.began_s for a in self.attempts)

    @property
    def waiting_s(self) -> float:
        """Seconds that calls waited for a place at their endpoint before they began, summed over all of them."""
        return sum(a.waited_s for a in self.attempts)

    def to_json(self) -> bytes:
        """The sealed form of the run: result, metrics and journal. Sums are left out; they follow from the journal."""
        kept = {name: getattr(self, name) for name in _SEALED}
        kept["attempts"] = [list(attempt) for attempt in self.attempts]
        if self.ceilings:
            kept["ceilings"] = self.ceilings
        return orjson.dumps(kept, option=orjson.OPT_SORT_KEYS)

    @classmethod
    def from_json(cls, body: bytes) -> "RunResult":
        """Read a sealed run back."""
        kept = orjson.loads(body)
        attempts = tuple(attempt_of(row) for row in kept.pop("attempts"))
        spend = SpendReport.of(attempts, virtual=kept["virtual"])
        ceilings = tuple(kept.pop("ceilings", ()))
        return cls(spend=spend, attempts=attempts, ceilings=ceilings, **kept)


_SEALED = tuple(name for name in RunResult.__dataclass_fields__ if name not in {"spend", "attempts", "ceilings"})
