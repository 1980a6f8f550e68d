"""Owns the reading of recorded answers to problems of GSM8K: the problems as tasks, and four real systems as recorded models.

There are no token counts in the recordings, so all usage and every price here is estimated, by rules that stand below. The
data is not part of Ostrom; `load` is told where it is.

Source: K. Cobbe et al., "Training Verifiers to Solve Math Word Problems", arXiv:2110.14168, 2021.
"""

import re
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, field_validator

from benchmarks.tasks.jsonl import Unique, read_rows
from runtime.errors import ConfigError
from runtime.models.base import estimate_tokens
from runtime.models.recorded import RecordedAnswer, RecordedModel
from runtime.task import Task
from runtime.usage import Price, Usage

INSTRUCTION_TOKENS = 200
"""What a prompt holds beside the question."""
SMALL = Price.per_million("0.05", "0.05")
"""Of the systems with 6 billion parameters."""
LARGE = Price.per_million("0.36", "0.36")
"""Of those with 175 billion."""

_FINAL = re.compile(r"^A:(.*)$", re.MULTILINE)
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")


class System(NamedTuple):
    """One of the recorded systems."""

    field: str
    """Its key in the file."""
    price: Price
    verified: bool
    """Whether a trained verifier chose the answer among many samples."""


SYSTEMS = {
    "recorded/6b-finetuning": System("6b_finetuning", SMALL, verified=False),
    "recorded/6b-verification": System("6b_verification", SMALL, verified=True),
    "recorded/175b-finetuning": System("175b_finetuning", LARGE, verified=False),
    "recorded/175b-verification": System("175b_verification", LARGE, verified=True),
}
"""The systems by their names in the catalogue."""


class _Said(BaseModel):
    model_config = ConfigDict(strict=True)
    text: str


class _Problem(BaseModel):
    """What is read of a line. Other fields are for people, or (`correct`) for checking this grader against another."""

    model_config = ConfigDict(strict=True)
    id: str
    question: str
    answer: str
    recorded: dict[str, _Said]

    @field_validator("recorded")
    @classmethod
    def _check_systems(cls, value: dict[str, _Said]) -> dict[str, _Said]:
        missing = [system.field for system in SYSTEMS.values() if system.field not in value]
        if missing:
            raise ValueError(f"lacks the system {missing[0]}")
        return value


def load(path: Path | str, samples_charged: int = 100) -> tuple[list[Task], dict[str, RecordedModel]]:
    """Read the problems, in the order of the file, and the four systems by name.

    Args:
        path: the file of recordings, JSON lines with `id`, `question`, `answer` and `recorded`.
        samples_charged: how many samples an answer chosen by a verifier is charged for (see `usage_of`). 100 is what the
            systems did; 1 shows how much a finding rests on that price.

    Raises:
        ConfigError: fewer than one sample, or a fault in the file; the text begins with file, line and field.
    """
    if samples_charged < 1:
        raise ConfigError(f"samples_charged={samples_charged} must be 1 or more")
    tasks: list[Task] = []
    records: dict[str, dict[str, RecordedAnswer]] = {name: {} for name in SYSTEMS}
    questions, ids = Unique("question"), Unique("id")
    for place, row in read_rows(Path(path), _Problem):
        questions.check(place, row.question, "a system has one answer for each")
        ids.check(place, row.id, "each problem has an id of its own")
        try:
            tasks.append(Task(row.question, row.answer, "numeric", id=row.id, family="gsm8k"))
        except ConfigError as error:
            raise place.fault("answer" if row.question.strip() else "question", str(error)) from None
        for name, system in SYSTEMS.items():
            text = row.recorded[system.field].text
            usage = usage_of(row.question, text, samples_charged if system.verified else 0)
            records[name][row.question] = RecordedAnswer(text, final_answer(text), usage)
    if not tasks:
        raise ConfigError(f"{path}: no problems in it")
    return tasks, {name: RecordedModel(name, records[name], price=SYSTEMS[name].price) for name in SYSTEMS}


def usage_of(question: str, text: str, samples: int) -> Usage:
    """Estimate what an answer took, at four bytes a token.

    A plain answer is one completion: the prompt in (the question and 200 tokens of instructions), the text out. A verified
    one is charged `samples` completions and as many readings, each a call of its own, so that it costs 2 × `samples` plain
    ones: the generator takes the prompt and writes a text; the verifier, of the same size and price, takes that prompt and
    that text, and its score is no text. The samples that were not chosen are not recorded and are taken to be as long as the
    chosen one. Nothing is saved by sharing a prompt between samples.

    Args:
        question: the problem.
        text: the recorded text.
        samples: how many the verifier chose among; 0 for an answer without a verifier.
    """
    prompt, completion = INSTRUCTION_TOKENS + estimate_tokens(question), estimate_tokens(text)
    if not samples:
        return Usage(prompt, completion)
    return Usage(samples * (prompt + prompt + completion), samples * completion)


def final_answer(text: str) -> str:
    """Take the final answer out of a recorded text: what follows the last `A:` that begins a line, else the last number.

    A number comes in one form, without thousands separators, plus sign and zeros after the last digit of a fraction, so that
    a vote counts 3,000 and 3000.0 as one answer. A text with neither has no final answer, "".
    """
    found: list[str] = _FINAL.findall(text) or _NUMBER.findall(text) or [""]
    answer = found[-1].strip()
    if not _NUMBER.fullmatch(answer):
        return answer
    plain = answer.replace(",", "").removeprefix("+")
    return plain.rstrip("0").removesuffix(".") if "." in plain else plain
