"""Owns the reading of a user's own tasks from JSON lines, and of any file of that form: one object a line, checked strictly."""

from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from runtime.errors import ConfigError
from runtime.task import CheckKind, Task

MAX_LINE_BYTES = 1_000_000
"""Longer than any prompt a model reads; it keeps a file that is no JSON lines at all from being read as one line."""
EXAMPLE = '{"prompt": "What is 6 x 7?", "answer": "42", "check": "numeric"}'

Row = TypeVar("Row", bound=BaseModel)


class Line(BaseModel):
    """A task as it stands in the file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str
    answer: str
    check: CheckKind
    id: str | None = None
    family: str = ""


class Place(NamedTuple):
    """Where something stands, as errors name it."""

    path: Path
    line: int
    """Counted from 1."""

    def fault(self, field: str, text: str) -> ConfigError:
        """An error about a field of this line; an empty field means the line as a whole."""
        return ConfigError(": ".join(piece for piece in (f"{self.path}:{self.line}", field, text) if piece))


class Unique:
    """Refuses what occurs twice in one field of a file, and tells where it stood first."""

    def __init__(self, field: str) -> None:
        self._field = field
        self._first: dict[str, int] = {}

    def check(self, place: Place, value: str, cure: str) -> None:
        """Accept a value that is new.

        Raises:
            ConfigError: it stands in an earlier line.
        """
        first = self._first.setdefault(value, place.line)
        if first != place.line:
            raise place.fault(self._field, f"the same as in line {first}; {cure}")


def load(path: Path | str) -> list[Task]:
    """Read tasks from a file of JSON lines, in its order.

    Each line has `prompt`, `answer` and `check` (exact, numeric, contains or choice; see `runtime.task.Task`), and may have
    an `id`, which labels the task in tables, and a `family`, which they group by. Blank lines are skipped. Two lines may not
    be the same task: trials are kept under the content of their task, so the second would have no results of its own.

    Raises:
        ConfigError: the file cannot be read or has no tasks, or a line is no task; the text begins with file, line and
            field and ends with the cure.
    """
    file = Path(path)
    tasks: list[Task] = []
    contents, ids = Unique("prompt"), Unique("id")
    for place, line in read_rows(file, Line):
        task = _task(place, line)
        contents.check(place, task.address, "remove one of the two, or tell them apart by their family")
        ids.check(place, task.id, "give each task an id of its own")
        tasks.append(task)
    if not tasks:
        raise ConfigError(f"{file}: no tasks in it; write one JSON object a line, such as {EXAMPLE}")
    return tasks


def read_rows(path: Path, row: type[Row]) -> Iterator[tuple[Place, Row]]:
    """Read a file of JSON lines, one validated row at a time; blank lines are skipped.

    Raises:
        ConfigError: the file cannot be read, a line is too long or is no JSON, or a field is not as `row` declares it.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise Place(path, number).fault("", f"longer than {MAX_LINE_BYTES:,} bytes; shorten the prompt")
                if number == 1:
                    line = line.removeprefix(BOM_UTF8)
                if not line.isspace():
                    yield Place(path, number), _row(Place(path, number), line, row)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def _row(place: Place, line: bytes, row: type[Row]) -> Row:
    try:
        return row.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    raise place.fault(".".join(map(str, first["loc"])), _fault(first, row))


def _fault(error: Any, row: type[BaseModel]) -> str:
    """What is wrong, and the cure, in words that do not repeat the content."""
    match error["type"]:
        case "missing":
            needed = (name for name, field in row.model_fields.items() if field.is_required())
            return f"is missing; each line needs {', '.join(needed)}"
        case "extra_forbidden":
            return f"no such field; there are {', '.join(row.model_fields)}"
        case "literal_error":
            return f"unknown; take {error['ctx']['expected']}"
        case "string_type":
            return 'must be text; write it in quotes, as in "42"'
        case "json_invalid":
            # The line number counts within the line itself.
            reason = error["ctx"]["error"].replace("at line 1 column", "at column")
            return f"not valid JSON ({reason}); write one object a line"
        case "model_type":
            return "not a JSON object; write one object in braces a line"
        case _:
            return str(error["msg"]).removeprefix("Value error, ")


def _task(place: Place, line: Line) -> Task:
    if not line.prompt.strip():
        raise place.fault("prompt", "is empty; write what the team is to do")
    for field in ("id", "family"):
        label = getattr(line, field)
        if label is not None and not (label.isprintable() and (label or field == "family") and len(label) <= 200):
            raise place.fault(field, "must be 1 to 200 printable characters, or left out")
    try:
        return Task(line.prompt, line.answer, line.check, id=line.id or "", family=line.family)
    except ConfigError:
        raise place.fault("answer", f"can never pass check {line.check!r}; change the one or the other") from None
