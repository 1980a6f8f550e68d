"""Owns the port of what runs beside a run and records it, or plays a recorded one back, and the spec that asks for it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from runtime.models.base import ChatModel
from runtime.preflight import Prepared, RunSpec
from runtime.protocols import Outcome, Team
from runtime.recording import RecordedRun
from runtime.task import Task

if TYPE_CHECKING:
    from runtime.attempts import Attempts
    from runtime.bank.store import Note
    from runtime.result import RunResult
    from runtime.run import Run

Solve = Callable[[Task, Team], Awaitable[Outcome]]

NOTE = "recording/"
"""Notes of the store under this name and a run's id hold the run's recording."""


@dataclass(frozen=True)
class TapedSpec(RunSpec):
    """A run that is to be recorded, or one that is to be replayed."""

    recorded: RecordedRun | None = None
    """What is to be replayed; None: the run is to be recorded."""


class Tape(Protocol):
    """What a run is recorded on, or played back from."""

    def prepare(self, find: Callable[[str], ChatModel]) -> Prepared:
        """Check the run, as `runtime.preflight.prepare` does."""
        ...

    def lay_into(self, run: "Run") -> None:
        """Get a run ready that is about to be executed."""
        ...

    @property
    def attempts(self) -> "Callable[..., Attempts]":
        """Makes the money path of the run."""
        ...

    def around(self, solve: Solve) -> Solve:
        """The topology's `solve`, or what stands in for it."""
        ...

    def left_s(self, left_s: float | None) -> float | None:
        """When the run's deadline comes, from now; None for never."""
        ...

    async def watch(self, cancel: Callable[[], None]) -> None:
        """Run beside the run; cancelled at its end."""
        ...

    def finish(self, result: "RunResult") -> "Note | None":
        """Take the result; returns what is to be kept in the store.

        Raises:
            ReplayDiverged: it is no replay of what was recorded.
        """
        ...
