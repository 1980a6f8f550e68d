"""Owns the family `register`: a total over goods whose figures stand in a register that only a tool tells.

The text of a task says which goods count and which figure; the figures themselves are nowhere in it. So each good is a
call, which costs what the tool costs, and what another agent has looked up need not be looked up again. The register is
part of the environment: the solver never reads it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from benchmarks.tasks.family import Piece, RowSolver, disjoint, pick, shuffled, whole
from runtime.agents.tools import Tool
from runtime.errors import ConfigError
from runtime.messages import Report
from runtime.models.simulated.port import Call, Move, Seen
from runtime.task import Task

_COLOURS = ("black", "blue", "brown", "green", "grey", "red", "white", "yellow")
_THINGS = ("buckets", "crates", "drums", "hooks", "ladders", "ropes", "sacks")
_GOODS = tuple(f"{colour} {thing}" for colour in _COLOURS for thing in _THINGS)
_LEAST = {"weight": 10, "price": 100, "stock": 1_000}
"""Each figure with the least it can be. It is below ten times that, so two figures of one good never coincide."""

_LINE = re.compile(r"^(\d{1,2})\. ([a-z ]+)$", re.MULTILINE)
_QUESTION = re.compile(rf"^What is the total ({'|'.join(_LEAST)}) of these goods\?", re.MULTILINE)
_ENTRY = re.compile(r"([a-z ]+): (\d{1,9})")
_TERM = re.compile(r"(-?\d+)(?= [+=]|$)")


def look_up(good: str, figure: str) -> str:
    """What the register says: the good and the number, but not which of its figures that is.

    Raises:
        ValueError: no such good or figure.
    """
    if good not in _GOODS or figure not in _LEAST:
        raise ValueError(f"there is no {figure!r} of {good!r} in the register")
    least = _LEAST[figure]
    return f"{good}: {least + pick(9 * least, 'register', good, figure)}"


REGISTER = Tool(
    "register",
    "Tells one figure of one good.",
    look_up,
    {
        "type": "object",
        "properties": {"good": {"type": "string"}, "figure": {"type": "string", "enum": list(_LEAST)}},
        "required": ["good", "figure"],
    },
    usd="0.0001",
    virtual=True,
)
"""The tool without which no task of this family can be solved."""


def generate(n: int, seed: int = 0, *, lines: int = 8) -> list[Task]:
    """Make `n` tasks; equal arguments make equal tasks, and a larger `n` continues the list.

    Args:
        n: how many.
        seed: which tasks.
        lines: goods a task, 4 to 15; one agent can look up no more in one answer.

    Raises:
        ConfigError: `lines` outside its range.
    """
    if not 4 <= lines <= 15:
        raise ConfigError(f"register: lines={lines} must be in 4..15")
    return [_task(lines, seed, number) for number in range(n)]


def _task(lines: int, seed: int, number: int) -> Task:
    stem = ("register", lines, seed, number)
    figure = tuple(_LEAST)[pick(len(_LEAST), *stem, "figure")]
    goods = shuffled(_GOODS, *stem)[:lines]
    prompt = (
        f"{lines} goods, whose figures stand in the register:\n"
        + "\n".join(f"{line}. {good}" for line, good in enumerate(goods, 1))
        + f"\nWhat is the total {figure} of these goods? Answer with one number."
    )
    answer = str(sum(int(look_up(good, figure).rpartition(" ")[2]) for good in goods))
    return Task(prompt, answer, check="numeric", id=f"register-{lines}-{seed}-{number}", family="register")


@dataclass(frozen=True, slots=True)
class _Register:
    """A task that was read, and what is known of its figures: nothing, until a tool has told it."""

    figure: str
    goods: tuple[str, ...]
    figures: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def size(self) -> int:
        return len(self.goods)

    @property
    def known(self) -> int:
        """Mask of the lines whose figure was looked up."""
        return sum(1 << i for i, good in enumerate(self.goods) if good in self.figures)

    def truth(self, done: int) -> int:
        return sum(self.figures.get(good, 0) for i, good in enumerate(self.goods) if done >> i & 1)

    def work(self, base: Sequence[Piece], todo: int, slip: float | None) -> tuple[int, str]:
        """Add up. Slips: a line left out, a sum off by ten."""
        terms = [("reported", piece.value) for piece in base]
        terms += [(good, self.figures.get(good, 0)) for i, good in enumerate(self.goods) if todo >> i & 1]
        off = 0
        if slip is not None:
            at = int(slip * (todo.bit_count() + 1))
            if at < todo.bit_count():
                del terms[len(base) + at]
            else:
                off = (-10, 10)[int(slip * 64) % 2]
        total = sum(value for _, value in terms) + off
        return total, f"{' + '.join(f'{name} {value}' for name, value in terms) or 'none'} = {total}"

    def order(self, units: int) -> str:
        return f"look up the {self.figure} of each good and add them up."

    def steps(self, units: int) -> tuple[tuple[str, str], ...]:
        other = next(word for word in _LEAST if word != self.figure)
        goods = [good for i, good in enumerate(self.goods) if units >> i & 1]
        looks = [(f"Look up the {self.figure} of {good}.", f"Look up the {other} of {good}.") for good in goods]
        return (*looks, ("Add up the figures.", "Estimate the sum of the figures."))


@dataclass(frozen=True, slots=True)
class RegisterSolver(RowSolver):
    """The solver of the family: lines of which it knows only what a tool or a mail told."""

    figures: dict[str, int] = field(default_factory=dict[str, int])
    """What was looked up, by good. It is taken for the figure asked for, whatever the call had asked."""

    def knowing(self, seen: Sequence[Seen]) -> "RegisterSolver":
        """The same solver with what the register told; of two answers on one good the later holds."""
        told = [_ENTRY.fullmatch(text) for tool, text in seen if tool == REGISTER.name]
        return replace(self, figures=self.figures | {entry[1]: int(entry[2]) for entry in told if entry})

    def call(
        self, task: str, part: str | None, mails: Sequence[Report], tools: Sequence[str], slip: float | None = None
    ) -> Call | None:
        """Look up the first good asked for that neither the register nor a mail has told yet. Slips: another figure."""
        row = self._row(task)
        told = row.known
        for done in self._helpful(row, mails, self._wanted(row, part)):
            told |= done
        left = self._wanted(row, part) & ~told
        if REGISTER.name not in tools or not left:
            return None
        others = [word for word in _LEAST if word != row.figure]
        figure = row.figure if slip is None else others[int(slip * len(others))]
        return Call(REGISTER.name, {"good": row.goods[(left & -left).bit_length() - 1], "figure": figure})

    def act(self, task: str, part: str | None, mails: Sequence[Report], slip: float | None = None) -> Move:
        """Add up what was looked up and what mails bring; what nobody knows is left out, and not covered.

        Who has looked up all that is asked for weighs peers as in any family; who has not takes their word for it.
        """
        row = self._row(task)
        wanted = self._wanted(row, part)
        if not wanted & ~row.known:
            return RowSolver.act(self, task, part, mails, slip)
        base = disjoint(self._helpful(row, mails, wanted), self._mailed(row, mails))
        mailed = sum(piece.done for piece in base)
        return self._move(row, base, wanted & row.known & ~mailed, wanted, slip)

    def judge(self, task: str, mail: Report) -> bool:
        """Whether the answer is right by what was looked up; where that is not enough, whether its own terms add up to it."""
        row = self._row(task)
        done, value = self._said(row, mail), whole(mail.answer)
        if not done or value is None:
            return False
        if not done & ~row.known:
            return value == row.truth(done)
        terms, shown, _ = mail.work.partition(" = ")
        # Clipped work shows no sum, and then there is nothing to hold against it.
        return not shown or sum(map(int, _TERM.findall(terms))) == value

    def _row(self, task: str) -> _Register:
        row = read(task)
        if row is None:
            raise ConfigError(f"this text is no task of the family {self.family}")
        return replace(row, figures=self.figures)

    def _helpful(self, row: _Register, mails: Sequence[Report], wanted: int) -> list[int]:
        return [done for done in self._mailed(row, mails) if self._helps(done, wanted)]


@lru_cache(maxsize=1024)
def read(task: str) -> _Register | None:
    """Read a task of this family; None for any other text."""
    question, found = _QUESTION.search(task), _LINE.findall(task)
    if question is None or not found or [int(number) for number, _ in found] != list(range(1, len(found) + 1)):
        return None
    return _Register(question[1], tuple(good for _, good in found))


SOLVER = RegisterSolver("register", "line", ops_per_unit=1, chained=False, read=read)
