"""Owns the family `companies`: a total over the companies of one sector, a task made of look-ups that can be shared out.

Each line is looked up on its own, and totals of different lines add up, so the work can be cut anywhere and done in any
order.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from benchmarks.tasks.family import Piece, RowSolver, pick, shuffled
from runtime.errors import ConfigError
from runtime.task import Task

_SECTORS = ("energy", "retail", "shipping", "software")
_FIGURES = ("revenue", "costs", "staff", "debt")
_STEMS = ("Norvik", "Halden", "Brasko", "Tervo", "Quillan", "Osmark", "Lunde", "Carrow", "Ivanel", "Stroma", "Wexley")
_KINDS = ("Works", "Trading", "Group", "Union", "Partners")
_NAMES = tuple(f"{stem} {kind}" for stem in _STEMS for kind in _KINDS)

_LINE = re.compile(r"^(\d{1,3})\. ([^(\n]+) \(([a-z]+)\): ([a-z0-9, ]+)$", re.MULTILINE)
_FIGURE = re.compile(r"([a-z]+) (\d{1,9})")
_QUESTION = re.compile(r"^What is the total ([a-z]+) of the companies in the sector ([a-z]+)\?", re.MULTILINE)


def generate(n: int, seed: int = 0, *, lines: int = 20) -> list[Task]:
    """Make `n` tasks; equal arguments make equal tasks, and a larger `n` continues the list.

    Args:
        n: how many.
        seed: which tasks.
        lines: companies a task, 8 to 55.

    Raises:
        ConfigError: `lines` outside its range.
    """
    if not 8 <= lines <= len(_NAMES):
        raise ConfigError(f"companies: lines={lines} must be in 8..{len(_NAMES)}")
    return [_task(lines, seed, number) for number in range(n)]


def _task(lines: int, seed: int, number: int) -> Task:
    stem = ("companies", lines, seed, number)
    sector = _SECTORS[pick(len(_SECTORS), *stem, "sector")]
    figure = _FIGURES[pick(len(_FIGURES), *stem, "figure")]
    rows = []
    turn = pick(4, *stem)
    for line, name in enumerate(shuffled(_NAMES, *stem)[:lines], 1):
        # Every fourth line is of the sector asked for, so that no task, and hardly a range of one, is without any.
        place = sector if line % 4 == turn else _SECTORS[pick(len(_SECTORS), *stem, line)]
        figures = ", ".join(f"{word} {11 + pick(978, *stem, line, word)}" for word in _FIGURES)
        rows.append(f"{line}. {name} ({place}): {figures}")
    prompt = (
        f"{lines} companies with their figures:\n"
        + "\n".join(rows)
        + f"\nWhat is the total {figure} of the companies in the sector {sector}? Answer with one number."
    )
    row = read(prompt)
    assert row is not None
    answer = str(row.truth((1 << lines) - 1))
    return Task(prompt, answer, check="numeric", id=f"companies-{lines}-{seed}-{number}", family="companies")


@dataclass(frozen=True, slots=True)
class _Companies:
    """A task that was read. A line's own figure comes first, then the one a hasty reader takes for it."""

    figure: str
    sector: str
    lines: tuple[tuple[str, bool, int, int], ...]
    """Name, whether it is of the sector asked for, the figure asked for, the figure beside it."""
    counted: tuple[tuple[int, int], ...]
    """For each line of the sector, its bit and its figure."""

    @property
    def size(self) -> int:
        return len(self.lines)

    def truth(self, done: int) -> int:
        return sum([value for bit, value in self.counted if done & bit])

    def work(self, base: Sequence[Piece], todo: int, slip: float | None) -> tuple[int, str]:
        """Add up. Slips: a company left out, the figure beside, a company of another sector, a sum off by a digit."""
        terms = [("reported", piece.value) for piece in base]
        wrong_line = wrong_kind = -1
        looked_up = [i for i in range(len(self.lines)) if todo >> i & 1]
        if slip is not None and looked_up:
            # Two kinds of slip for each line, and two more places for the sum itself.
            wrong_kind, at = divmod(int(slip * (2 * len(looked_up) + 2)), len(looked_up))
            wrong_line = looked_up[at] if wrong_kind < 2 else -1
        for i in looked_up:
            name, counts, value, beside = self.lines[i]
            if i != wrong_line:
                if counts:
                    terms.append((name, value))
            elif not counts:
                terms.append((name, value))
            elif wrong_kind == 1:
                terms.append((name, beside))
        total = sum(value for _, value in terms)
        if slip is not None and total == sum(piece.value for piece in base) + self.truth(todo):
            total += (-10, 10)[int(slip * 64) % 2]
        return total, f"{' + '.join(f'{name} {value}' for name, value in terms) or 'none'} = {total}"

    def order(self, units: int) -> str:
        return f"add up the {self.figure} of the companies in {self.sector}."

    def steps(self, units: int) -> tuple[tuple[str, str], ...]:
        other = next(word for word in _FIGURES if word != self.figure)
        numbers = [i + 1 for i in range(self.size) if units >> i & 1]
        quarter = -(-len(numbers) // 4)
        looks = tuple(
            (
                f"Go through lines {chunk[0]} to {chunk[-1]} and note the {self.figure} of each company in {self.sector}.",
                f"Go through lines {chunk[0]} to {chunk[-1]} and note the {other} of each company in {self.sector}.",
            )
            for chunk in (numbers[k : k + quarter] for k in range(0, len(numbers), quarter))
        )
        return (
            *looks,
            ("Add up the noted figures.", "Estimate the sum of the noted figures."),
            ("Compare each noted figure with its line, then answer.", "Answer with the first sum that comes up."),
        )


@lru_cache(maxsize=1024)
def read(task: str) -> _Companies | None:
    """Read a task of this family; None for any other text."""
    question = _QUESTION.search(task)
    found = _LINE.findall(task)
    if question is None or [int(number) for number, *_ in found] != list(range(1, len(found) + 1)):
        return None
    wanted, sector = question[1], question[2]
    lines = []
    for _, name, place, text in found:
        figures = [(word, int(value)) for word, value in _FIGURE.findall(text)]
        at = next((i for i, (word, _) in enumerate(figures) if word == wanted), None)
        if at is None:
            return None
        lines.append((name, place == sector, figures[at][1], figures[(at + 1) % len(figures)][1]))
    counted = tuple((1 << i, value) for i, (_, counts, value, _) in enumerate(lines) if counts)
    return _Companies(wanted, sector, tuple(lines), counted) if lines else None


SOLVER = RowSolver("companies", "line", ops_per_unit=1, chained=False, read=read)
