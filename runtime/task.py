"""Owns Task, what a team is asked to do, and the checks that say whether an answer is right."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from runtime.errors import ConfigError
from runtime.ids import address

CheckKind = Literal["exact", "numeric", "contains", "choice"]
CHECKS: tuple[str, ...] = get_args(CheckKind)

_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")
_CHOICE = re.compile(r"\b([A-Z])\b")


class Checker(Protocol):
    """Says whether an answer is right; a plain function will do."""

    def __call__(self, answer: str, /) -> bool: ...


def last_number(text: str) -> float | None:
    """The last number in a text, thousands separators ignored; None when there is none."""
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def _exact(answer: str, expected: str) -> bool:
    return answer.strip().casefold() == expected.strip().casefold()


def _numeric(answer: str, expected: str) -> bool:
    given, wanted = last_number(answer), last_number(expected)
    return given is not None and wanted is not None and abs(given - wanted) <= 1e-6 * max(1.0, abs(wanted))


def _contains(answer: str, expected: str) -> bool:
    return expected.strip().casefold() in answer.casefold()


def _choice(answer: str, expected: str) -> bool:
    letters = _CHOICE.findall(answer.upper())
    return bool(letters) and letters[-1] == expected.strip().upper()


_RULES: dict[str, Callable[[str, str], bool]] = {
    "exact": _exact,
    "numeric": _numeric,
    "contains": _contains,
    "choice": _choice,
}


@dataclass(frozen=True)
class Task:
    """One piece of work with, where known, its right answer.

    Raises:
        ConfigError: an empty prompt, an unknown check, an answer that its check can never accept.
    """

    prompt: str
    """All the team is told. It is what the `<task>` block of each prompt holds."""
    answer: str | None = None
    """The expected answer; None where nobody knows it, and then `RunResult.correct` is None."""
    check: CheckKind = "exact"
    """How an answer is compared: exact (case and outer blanks ignored), numeric (last number, one part in 10^6),
    contains, or choice (last capital letter standing alone)."""
    checker: Checker | None = None
    """Used instead of `answer` and `check` where given. For runs on Ray it must be importable by name."""
    id: str = ""
    """A label for tables; by default the first 12 digits of the content address."""
    family: str = ""
    """The family of tasks it was drawn from; tables group by it."""

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise ConfigError("a Task needs a prompt that is not empty")
        if self.check not in CHECKS:
            raise ConfigError(f"Task: check={self.check!r} is unknown; take one of {', '.join(CHECKS)}")
        if self.answer is not None and not _RULES[self.check](self.answer, self.answer):
            raise ConfigError(f"Task: answer={self.answer!r} can never pass check={self.check!r}")
        if not self.id:
            object.__setattr__(self, "id", self.address[:12])

    @property
    def address(self) -> str:
        """Content address over everything that decides the outcome; the label does not."""
        return address([self.prompt, self.answer, self.check, self.family])

    def correct(self, answer: str | None) -> bool | None:
        """Whether `answer` is right; None when this task has no checker, False when there is no answer."""
        if self.checker is None and self.answer is None:
            return None
        if answer is None:
            return False
        if self.checker is not None:
            return bool(self.checker(answer))
        assert self.answer is not None
        return _RULES[self.check](answer, self.answer)
