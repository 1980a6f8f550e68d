"""Owns the family `craft`: making an item through dependent stages, a task whose parts cannot be done side by side.

Each stage computes its number from the one before, and the recipes are listed out of order. Whoever starts in the middle
without the number that the stages before it yield has to go through those first.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from benchmarks.tasks.family import Piece, RowSolver, pick, shuffled
from runtime.errors import ConfigError
from runtime.task import Task

_MATERIALS = ("clay", "copper", "oak", "brass", "glass", "iron")
_SHAPES = ("tiles", "rods", "rings", "plates", "beads")
_ITEMS = tuple(f"{material} {shape}" for material in _MATERIALS for shape in _SHAPES)

_STAGE = re.compile(r"^- ([a-z ]+): the number of ([a-z ]+), (times|plus|less) (\d{1,6})$", re.MULTILINE)
_START = re.compile(r"^You begin with (\d{1,9}) ([a-z ]+)\.", re.MULTILINE)
_QUESTION = re.compile(r"^How many ([a-z ]+) come out\?", re.MULTILINE)


def generate(n: int, seed: int = 0, *, stages: int = 10) -> list[Task]:
    """Make `n` tasks; equal arguments make equal tasks, and a larger `n` continues the list.

    Args:
        n: how many.
        seed: which tasks.
        stages: dependent stages a task, 4 to 29.

    Raises:
        ConfigError: `stages` outside its range.
    """
    if not 4 <= stages < len(_ITEMS):
        raise ConfigError(f"craft: stages={stages} must be in 4..{len(_ITEMS) - 1}")
    return [_task(stages, seed, number) for number in range(n)]


def _task(stages: int, seed: int, number: int) -> Task:
    stem = ("craft", stages, seed, number)
    items = shuffled(_ITEMS, *stem)[: stages + 1]
    amount = start = 20 + pick(60, *stem, "start")
    recipes = []
    for stage, (before, item) in enumerate(pairwise(items)):
        # Large numbers are taken down again and small ones up, so that a long row stays within six digits.
        words = ("less", "plus") if amount > 2000 else ("times", "plus") if amount < 200 else ("times", "plus", "less")
        word = words[pick(len(words), *stem, stage, "word")]
        figure = 2 + pick(3, *stem, stage, "times") if word == "times" else 11 + pick(89, *stem, stage, "figure")
        amount = _apply(amount, word, figure)
        recipes.append(f"- {item}: the number of {before}, {word} {figure}")
    prompt = (
        f"A workshop makes {items[-1]} in {stages} stages. The recipes, in no order:\n"
        + "\n".join(shuffled(recipes, *stem, "order"))
        + f"\nYou begin with {start} {items[0]}.\nHow many {items[-1]} come out? Answer with one number."
    )
    return Task(prompt, str(amount), check="numeric", id=f"craft-{stages}-{seed}-{number}", family="craft")


def _apply(amount: int, word: str, figure: int) -> int:
    return amount * figure if word == "times" else amount + figure if word == "plus" else amount - figure


@dataclass(frozen=True, slots=True)
class _Craft:
    """A task that was read, its stages in the order in which they depend on each other."""

    start: int
    first: str
    stages: tuple[tuple[str, str, int], ...]
    """What is made, and by which word and figure from what the stage before made."""
    beside: tuple[int, ...]
    """For each stage, the figure that stands in the line below its own: the one a hasty reader takes for it."""
    amounts: tuple[int, ...]
    """The right number after each stage."""

    @property
    def size(self) -> int:
        return len(self.stages)

    def truth(self, done: int) -> int:
        return self.amounts[done.bit_length() - 1] if done else self.start

    def work(self, base: Sequence[Piece], todo: int, slip: float | None) -> tuple[int, str]:
        """Go through the stages. Slips: a stage left out, the figure of the line below, a number off by ten."""
        amount = base[-1].value if base else self.start
        said = [f"from {amount}"]
        stages = range((todo & -todo).bit_length() - 1, todo.bit_length()) if todo else range(0)
        kind, at = divmod(int(slip * 3 * len(stages)), len(stages)) if slip is not None and stages else (-1, -1)
        for i in stages:
            item, word, figure = self.stages[i]
            right = made = _apply(amount, word, figure)
            if i == stages[0] + at:
                made = (amount, _apply(amount, word, self.beside[i]), right + 10)[kind]
                # A stage that is all the same with the fault in it would leave the whole number right.
                made += 10 * (made == right)
            amount = made
            said.append(f"{item} {amount}")
        return amount, ", ".join(said)

    def order(self, units: int) -> str:
        low, high = (units & -units).bit_length() - 1, units.bit_length()
        before = self.stages[low - 1][0] if low else self.first
        return f"from the {before} to the number of {self.stages[high - 1][0]}."

    def steps(self, units: int) -> tuple[tuple[str, str], ...]:
        low, high = (units & -units).bit_length() - 1, units.bit_length()
        quarter = -(-(high - low) // 4)
        makes = []
        for k in range(low, high, quarter):
            names = [item for item, _, _ in self.stages[k : min(k + quarter, high)]]
            makes.append((f"Then work out the {', the '.join(names)}.", f"Guess the {names[-1]} from their recipe."))
        return (
            ("Put the recipes in the order of their needs.", "Take the recipes in the order of the list."),
            *makes,
            (f"Answer with the number of {self.stages[high - 1][0]}.", "Answer with the largest number found."),
        )


@lru_cache(maxsize=1024)
def read(task: str) -> _Craft | None:
    """Read a task of this family and put its stages in order; None for any other text."""
    start, question = _START.search(task), _QUESTION.search(task)
    found = _STAGE.findall(task)
    if start is None or question is None:
        return None
    follows = {before: i for i, (_, before, _, _) in enumerate(found)}
    amount, at = int(start[1]), start[2]
    stages: list[tuple[str, str, int]] = []
    beside: list[int] = []
    amounts: list[int] = []
    while at in follows and len(stages) < len(found):
        i = follows[at]
        item, _, word, figure = found[i]
        amount = _apply(amount, word, int(figure))
        stages.append((item, word, int(figure)))
        beside.append(int(found[(i + 1) % len(found)][3]))
        amounts.append(amount)
        at = item
    if not stages or at != question[1]:
        return None
    return _Craft(int(start[1]), start[2], tuple(stages), tuple(beside), tuple(amounts))


SOLVER = RowSolver("craft", "stage", ops_per_unit=2, chained=True, read=read)
