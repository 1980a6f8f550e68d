"""Owns the recording of runs: what is kept of each call and decision, the file it lies in, and how a replay is held against it.

A recording is a file of JSON lines. The first names the form; then, in the order in which runs ended, come their requests,
each once in a file under its digest, and one line per run with every attempt and every decision of its admission: what was
granted, what was refused and with which figures, what was cut off, and what answered at what moment.
"""

import builtins
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import orjson

from runtime.bank.book import Need
from runtime.bank.vector import Vector
from runtime.boundary import encodable
from runtime.budget import Amounts, Budget
from runtime.errors import ConfigError, OrchestrationError
from runtime.journal import Attempt, Key
from runtime.models.asked import Asked
from runtime.models.base import ChatReply
from runtime.result import RunResult
from runtime.usage import Price

FORMAT = 1
_TIMES = ("began_s", "ended_s", "waited_s")
_LEFT_OUT = ("seconds", "virtual", "deterministic", "spend", "attempts")


class RecordedTry(NamedTuple):
    """One try of a call, and all that its booking needs."""

    row: Attempt
    need: Need
    floor: Vector
    scope: str
    charged: Vector | None
    """What was settled; None where the hold was charged, or nothing."""
    reply: ChatReply | None


class Foreign(NamedTuple):
    """An error that was none of ours: of a user's model, for instance."""

    kind: str
    """Name of its class."""
    base: str
    """Name of the nearest class of Python's own that it is of, by which others may catch it."""
    text: str

    @classmethod
    def of(cls, error: Exception) -> Self:
        """What is kept of an error."""
        base = next(kind for kind in type(error).__mro__ if kind.__module__ == "builtins")
        return cls(type(error).__name__, base.__name__, encodable(str(error)))

    def again(self) -> Exception:
        """An error of a class of the same name with the same text; the class itself need not exist here."""
        base: type[Exception] = getattr(builtins, self.base)
        text = self.text
        look = {"__init__": lambda self: None, "__str__": lambda self: text}
        again: Exception = type(self.kind, (base,), look)()
        return again


class RecordedAsk(NamedTuple):
    """One request of a seat, or one tool call: its tries, and what came of it."""

    key: Key
    kind: str
    name: str
    """The model or tool."""
    asked: str
    """Digest of the canonical request."""
    tries: tuple[RecordedTry, ...]
    """Those of the run's last life; what earlier ones did stands in `RecordedRun.earlier`."""
    end: ChatReply | OrchestrationError | Foreign | None
    """The reply; or why there is none (a BudgetExceeded is a refusal of admission); None where it was cut off."""
    at_s: float
    """When that was decided, in seconds of the run."""


class ModelFacts(NamedTuple):
    """What a run has to know of a model beside its replies."""

    price: Price | None
    window_tokens: int
    shrinkable: bool


class SeatFacts(NamedTuple):
    """What a seat goes by that was worked out before the run from the bounds of its models, which a replay does not know."""

    share: Vector
    """One ask's even share of the budget."""
    floor: Vector
    """What is kept back for one finishing call; 0 where it makes none."""
    kept: Vector
    """What is kept back for all of them."""


@dataclass(frozen=True)
class RecordedRun:
    """One run with everything that a replay needs."""

    run_id: str
    address: str
    """Content address of the run that was recorded."""
    task: Mapping[str, str]
    """Its id, address and prompt."""
    topology: Mapping[str, Any]
    """What is compared of it; see `runtime.recorder.facts_of`."""
    budget: Budget
    seed: int
    models: Mapping[str, ModelFacts]
    seats: Mapping[str, SeatFacts]
    """By full path; none where an earlier Ostrom recorded it, whose replay has smaller floors."""
    raised: Amounts
    """What operators added to the budget."""
    earlier: tuple[RecordedTry, ...]
    """Attempts of lives that a crash or a pause ended."""
    asks: tuple[RecordedAsk, ...]
    asked: Mapping[str, Asked]
    """The canonical requests by digest."""
    result: RunResult

    @property
    def was_cut(self) -> bool:
        """Whether it was ended from outside, so that some of its calls have no end of their own."""
        return self.result.status in {"deadline", "cancelled"}


class Recording:
    """Recorded runs, to be replayed by `Runtime(replay=...)`.

    Args:
        runs: what was recorded, in the order in which it ended.
        command: the ingredients as `ostrom run` was given them; None where a program made the recording.

    Raises:
        ConfigError: no runs, or two of one name.
    """

    def __init__(self, runs: Iterable[RecordedRun], command: Mapping[str, str] | None = None) -> None:
        self.runs: dict[str, RecordedRun] = {}
        self.command = command
        for run in runs:
            if run.run_id in self.runs:
                raise ConfigError(f"the recording holds two runs {run.run_id!r}; remove the line of one")
            self.runs[run.run_id] = run
        if not self.runs:
            raise ConfigError("the recording holds no runs; nothing was finished while it was made")

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a recording.

        Raises:
            ConfigError: the file cannot be read or is no recording; the text begins with file and line.
        """
        from runtime.recording_file import read

        return cls(*read(Path(path)))

    def differences(self, result: RunResult) -> list[str]:
        """Where a replayed result differs from the recorded one; empty where they are equal.

        Times are not compared, nor are `virtual` and `deterministic`: a replay lives in virtual time and bills nobody.

        Raises:
            ConfigError: no run of this name was recorded.
        """
        run = self.runs.get(result.run_id)
        if run is None:
            raise ConfigError(
                f"no run {result.run_id!r} was recorded; there are {', '.join(map(repr, [*self.runs][:10]))}"
            )
        return list(_differences(comparable(run.result), comparable(result), ""))


def comparable(result: RunResult) -> dict[str, Any]:
    """Everything about a result that a replay reproduces, as plain JSON."""
    kept = {name: getattr(result, name) for name in RunResult.__dataclass_fields__ if name not in _LEFT_OUT}
    kept["attempts"] = {
        f"{a.seat}, step {a.step}, try {a.try_}" + (f", sample {a.sample}" if a.sample else ""): {
            name: value for name, value in a._asdict().items() if name not in _TIMES
        }
        for a in result.attempts
    }
    plain: dict[str, Any] = orjson.loads(orjson.dumps(kept))
    return plain


def canonical_bytes(result: RunResult) -> bytes:
    """The comparable part of a result as canonical JSON: equal bytes where a replay equals its recording."""
    return orjson.dumps(comparable(result), option=orjson.OPT_SORT_KEYS)


def _differences(old: Any, new: Any, where: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            inner = f"{where}: {name}" if where else name
            if name not in new:
                yield f"{inner} is missing"
            elif name not in old:
                yield f"{inner} was not recorded"
            else:
                yield from _differences(old[name], new[name], inner)
    elif old != new:
        yield f"{where}: recorded {old!r}, now {new!r}"
