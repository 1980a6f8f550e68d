"""Owns RowSolver, the solver of families whose work is a row of numbered units: lines to look up, stages to go through.

Which units a report covers is kept as a bit mask (bit i for unit i + 1), so that gaps, overlaps and merging are the same few
integer operations for every family. A family brings the reading of its task text as a Row.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

from runtime.errors import ConfigError
from runtime.ids import seed_of
from runtime.messages import Part, Report
from runtime.models.simulated.port import Move
from runtime.task import last_number

_RANGE = re.compile(r"(\d+)(?: to (\d+))?")


class Piece(NamedTuple):
    """What a mail is taken to say: a value for the units it covers."""

    done: int
    value: int


class Row(Protocol):
    """One task, read from its text."""

    @property
    def size(self) -> int:
        """How many units the whole task has."""
        ...

    def truth(self, done: int) -> int:
        """The right value for these units."""
        ...

    def work(self, base: Sequence[Piece], todo: int, slip: float | None) -> tuple[int, str]:
        """Continue from pieces of others through the units in `todo`: the value, and how it was reached."""
        ...

    def order(self, units: int) -> str:
        """What a planner tells the executor of these units, after their numbers."""
        ...

    def steps(self, units: int) -> tuple[tuple[str, str], ...]:
        """The lines of a good plan for these units, each with a flawed form."""
        ...


@dataclass(frozen=True, slots=True)
class RowSolver:
    """A family over rows, as the port of the simulated models wants it. Holds no state, so it travels to any process."""

    family: str
    unit: str
    """What the text calls a unit: line, stage."""
    ops_per_unit: int
    chained: bool
    """Whether a unit builds on all before it. Then a report covers everything from the first unit on."""
    read: Callable[[str], Row | None]
    """The task of a text, None for other texts. To be cached: it is called several times a turn."""

    def reads(self, task: str) -> bool:
        """Whether this text is a task of the family."""
        return self.read(task) is not None

    def plan(self, task: str, part: str | None, n: int, slip: float | None = None) -> tuple[Part, ...]:
        """Cut the units into at most `n` ranges of about equal length; chained parts need the one before.

        Slips: a range is dropped, or one of its ends is off by one, which leaves a gap or an overlap.
        """
        row = self._row(task)
        units = _units(self._asked(row, part))
        n = max(1, min(n, len(units)))
        ranges = [units[i * len(units) // n : (i + 1) * len(units) // n] for i in range(n)]
        if slip is not None:
            ranges = _misplanned(ranges, slip)
        return tuple(
            Part(
                f"{self.unit.capitalize()}s {_ranges(_mask(numbers))}: {row.order(_mask(numbers))}",
                (i - 1,) if self.chained and i else (),
            )
            for i, numbers in enumerate(ranges)
        )

    def act(self, task: str, part: str | None, mails: Sequence[Report], slip: float | None = None) -> Move:
        """Do the units asked for that no helpful mail covers, on top of those mails.

        A mail helps if it ends before the part does or lies within it. Mails about exactly what this move covers are
        opinions of peers: the answer that most of them and the own work give is taken, the own one in a tie.
        """
        row = self._row(task)
        wanted = self._wanted(row, part)
        mailed = self._mailed(row, mails)
        helpful = [done for done in mailed if done != wanted and self._helps(done, wanted)]
        base = disjoint(helpful, mailed)
        todo = wanted & ~_union(base)
        move = self._move(row, base, todo, wanted, slip)
        peers = mailed.get(_union(base) | todo, [])
        answer = str(_commonest([int(move.answer), *peers]))
        if answer == move.answer:
            return move
        return move._replace(answer=answer, work=f"{move.work}; but most peers say {answer}")

    def combine(self, task: str, part: str | None, mails: Sequence[Report], slip: float | None = None) -> Move:
        """Merge mails over different units, the one over most units first, and leave out what overlaps with it."""
        row = self._row(task)
        mailed = self._mailed(row, mails)
        return self._move(row, disjoint(mailed, mailed), 0, self._wanted(row, part), slip)

    def judge(self, task: str, mail: Report) -> bool:
        """Whether the answer is right for the units it claims to cover; an unreadable mail is wrong."""
        row = self._row(task)
        done = self._said(row, mail)
        return bool(done) and whole(mail.answer) == row.truth(done)

    def steps(self, task: str, part: str | None) -> tuple[tuple[str, str], ...]:
        """The lines of a good plan, each with a flawed form."""
        row = self._row(task)
        return row.steps(self._asked(row, part))

    def _row(self, task: str) -> Row:
        row = self.read(task)
        if row is None:
            raise ConfigError(f"this text is no task of the family {self.family}")
        return row

    def _asked(self, row: Row, part: str | None) -> int:
        """Units a part names; all where it names none, because then it is about the task in other words."""
        every = (1 << row.size) - 1
        return read_units(part or "", self.unit) & every or every

    def _wanted(self, row: Row, part: str | None) -> int:
        asked = self._asked(row, part)
        return (1 << asked.bit_length()) - 1 if self.chained else asked

    def _helps(self, done: int, wanted: int) -> bool:
        return done.bit_length() < wanted.bit_length() or done | wanted == wanted

    def _mailed(self, row: Row, mails: Iterable[Report]) -> dict[int, list[int]]:
        """Values reported for each set of units, in the order of the mails; what cannot be read is passed over."""
        mailed: dict[int, list[int]] = {}
        for mail in mails:
            done, value = self._said(row, mail), whole(mail.answer)
            if done and value is not None:
                mailed.setdefault(done, []).append(value)
        return mailed

    def _said(self, row: Row, mail: Report) -> int:
        """Units a mail is about; 0 where it cannot be used."""
        every = (1 << row.size) - 1
        done = (read_units(mail.covers, self.unit) & every) if mail.covers else every
        # In a chain only a value that was carried on from the first unit means anything.
        return 0 if self.chained and done & (done + 1) else done

    def _move(self, row: Row, base: list[Piece], todo: int, wanted: int, slip: float | None) -> Move:
        value, work = row.work(base, todo, slip)
        done = _union(base) | todo
        sums = 0 if self.chained else max(0, len(base) + bool(todo) - 1)
        ops = todo.bit_count() * self.ops_per_unit + sums
        return Move(str(value), work, f"{self.unit}s {_ranges(done)}", ops, done & wanted == wanted)


@lru_cache(maxsize=4096)
def read_units(text: str, unit: str) -> int:
    """Mask of the units that a text names first, such as `Lines 5 to 8 and 10: ...`; 0 when it names none."""
    # At most three digits a number: a mail that claims lines 1 to 10^12 must not make a mask of that length.
    found = re.search(rf"\b{unit}s? ((?:\d{{1,3}}\b(?: to \d{{1,3}}\b)?(?: and )?)+)", text, re.IGNORECASE)
    mask = 0
    for first, last in _RANGE.findall(found[1] if found else ""):
        low, high = int(first), int(last or first)
        if 0 < low <= high:
            mask |= (1 << high) - (1 << (low - 1))
    return mask


@lru_cache(maxsize=4096)
def whole(answer: str) -> int | None:
    """The number an answer gives, cut to a whole one; None when it gives none."""
    value = last_number(answer)
    return None if value is None or not math.isfinite(value) else int(value)


def pick(n: int, *parts: object) -> int:
    """Choose one of 0..n-1 by a seed made of `parts`; the same on every machine and Python version."""
    return seed_of(*parts) % n


def shuffled(names: Sequence[str], *parts: object) -> list[str]:
    """The distinct names in an order that the seed made of `parts` decides."""
    return sorted(names, key=lambda name: seed_of(*parts, name))


def _units(mask: int) -> list[int]:
    return [i + 1 for i in range(mask.bit_length()) if mask >> i & 1]


def _mask(numbers: Iterable[int]) -> int:
    return sum(1 << (number - 1) for number in numbers)


@lru_cache(maxsize=4096)
def _ranges(mask: int) -> str:
    runs: list[list[int]] = []
    for number in _units(mask):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return " and ".join(f"{run[0]} to {run[-1]}" for run in runs)


def _union(pieces: Iterable[Piece]) -> int:
    mask = 0
    for piece in pieces:
        mask |= piece.done
    return mask


def disjoint(choices: Iterable[int], mailed: dict[int, list[int]]) -> list[Piece]:
    """Pieces that do not overlap, the largest first, in the order of their units; ties go to the earlier mail."""
    taken = 0
    pieces = []
    for done in sorted(choices, key=int.bit_count, reverse=True):
        if not done & taken:
            taken |= done
            pieces.append(Piece(done, _commonest(mailed[done])))
    return sorted(pieces, key=lambda piece: piece.done & -piece.done)


def _commonest(values: Sequence[int]) -> int:
    return max(values, key=values.count)


def _misplanned(ranges: list[list[int]], slip: float) -> list[list[int]]:
    """Ranges with one fault: one left out, one that ends too early, or one that runs into the next."""
    kind, i = divmod(int(slip * 3 * len(ranges)), len(ranges))
    wrong = list(ranges)
    if kind == 0 and len(ranges) > 1:
        del wrong[i]
    elif kind == 2 and i + 1 < len(ranges):
        wrong[i] = [*ranges[i], ranges[i + 1][0]]
    elif len(ranges[i]) > 1:
        wrong[i] = ranges[i][:-1]
    return wrong
