"""Owns the port between a simulated model and a family of tasks: Solver, pure functions over text, Move, and tools.

A solver knows the right next move and its plausible wrong forms; it never decides which of the two is made. Where a method
takes `slip`, None asks for the right move and a number in [0, 1) picks one of the wrong ones, evenly. Mails come as Reports,
in the order of the prompt; a verdict comes as a Report too. They may be wrong, cut short or hostile, and a solver uses
what it can read of them and never raises because of one. A family that needs no tools is a Solver and nothing more.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from runtime.messages import Part, Report


class Move(NamedTuple):
    """One piece of work carried out."""

    answer: str
    work: str
    """How it was reached, as a reader would want to check it."""
    covers: str
    """What the answer is about, in a form that the family reads back from a mail."""
    ops: int
    """Elementary operations it took, each a chance to err; 0 where there was nothing to do."""
    complete: bool
    """Whether the answer covers all that was asked for."""


class Solver(Protocol):
    """What a family of tasks brings so that simulated models can work on it."""

    @property
    def family(self) -> str:
        """The name of the family, as in `Task.family`."""
        ...

    def reads(self, task: str) -> bool:
        """Whether this text is a task of the family. Every other method is called only with such a text."""
        ...

    def plan(self, task: str, part: str | None, n: int, slip: float | None = None) -> tuple[Part, ...]:
        """Cut the task, or the part, into at most `n` parts, each complete in itself, with what it needs of the others."""
        ...

    def act(self, task: str, part: str | None, mails: Sequence[Report], slip: float | None = None) -> Move:
        """Do the task, or the part, building on the mails that help and without judging them."""
        ...

    def combine(self, task: str, part: str | None, mails: Sequence[Report], slip: float | None = None) -> Move:
        """Put the mails together and do nothing else; `Move.complete` tells whether they leave a gap."""
        ...

    def judge(self, task: str, mail: Report) -> bool:
        """Whether the answer of a mail is right for what it covers, by working it out again."""
        ...

    def steps(self, task: str, part: str | None) -> tuple[tuple[str, str], ...]:
        """The lines of a good plan for a bid, each with a plausible flawed form of it."""
        ...


class Seen(NamedTuple):
    """What a tool answered earlier in the conversation."""

    tool: str
    text: str


class Call(NamedTuple):
    """One use of a tool; an elementary operation, as much as a line read."""

    tool: str
    arguments: Mapping[str, Any]


@runtime_checkable
class ToolSolver(Solver, Protocol):
    """What a family brings beside whose tasks cannot be done from their text alone."""

    def knowing(self, seen: Sequence[Seen]) -> "ToolSolver":
        """The same solver with what tools answered, in the order of the calls. Like a mail, an answer may be anything."""
        ...

    def call(
        self, task: str, part: str | None, mails: Sequence[Report], tools: Sequence[str], slip: float | None = None
    ) -> Call | None:
        """The call that `act` on the same mails needs next; None if it needs no more, or none of the tools offered helps.

        A slip is a wrong argument.
        """
        ...
