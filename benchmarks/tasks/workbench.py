"""Owns the reading of recorded work in the office of WorkBench: the queries as tasks, and eight real systems as models.

A system's answer is what its tool calls changed (`Office.changes`), and the task's is what the right calls change; so a
vote counts systems that leave the same office behind, whatever way they took. A system that ended in an error has no
answer. There are no token counts in the recordings, so all usage and every price here is estimated, by the rules below.
The data is not part of Ostrom; `load` is told where it is.

Source: see `benchmarks.tasks.office`.
"""

import csv
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, NonNegativeInt, TypeAdapter, ValidationError

from benchmarks.tasks.jsonl import Unique, read_rows
from benchmarks.tasks.office import Office, in_domains, read_call
from benchmarks.tasks.office_tools import CALENDAR, CUSTOMERS, DIRECTORY, EMAIL, KEYS, TASKS, TOOLS, VISITS, Row
from runtime.errors import ConfigError
from runtime.models.recorded import RecordedAnswer, RecordedModel
from runtime.task import Task
from runtime.usage import Price, Usage

FILES = {
    CALENDAR: ("calendar_events.csv", "event_id event_name participant_email event_start duration"),
    EMAIL: ("emails.csv", "email_id inbox/outbox sender/recipient subject sent_datetime body"),
    TASKS: ("project_tasks.csv", "task_id task_name assigned_to_email list_name due_date board"),
    CUSTOMERS: (
        "customer_relationship_manager_data.csv",
        "customer_id assigned_to_email customer_name customer_email customer_phone last_contact_date product_interest "
        "status follow_up_by notes",
    ),
    VISITS: (
        "analytics_data.csv",
        "date_of_visit visitor_id page_views session_duration_seconds traffic_source user_engaged",
    ),
}
"""The file of each table, and its columns."""
_ADDRESSES = "email_addresses.csv"
_MODELS = {
    "gpt-4": ("gpt-4", "37.5"),
    "claude-2": ("claude-2", "12"),
    "gpt-3.5": ("gpt-3.5", "0.75"),
    "llama2-70b": ("llama2-70b", "1.0"),
    "mistral-8x7B": ("mixtral-8x7b", "0.5"),
}
"""By the name in the recordings: the name here, and the blended list price of the time in dollars per million tokens."""


class Data(NamedTuple):
    """The office and what is recorded of it."""

    tables: Mapping[str, Sequence[Row]]
    docs: Mapping[str, str]
    """Documentation of each tool, as the models were told it."""
    tasks: list[Task]
    models: dict[str, RecordedModel]
    """By names such as `recorded/gpt-4-all`: the model, and whether it had all tools or those of the query's domain."""

    def office(self) -> Office:
        """A fresh office, for one run of an agent with `tools`; `changes()` is then what to hold against `Task.answer`."""
        return Office(self.tables)


class _Line(BaseModel):
    model_config = ConfigDict(strict=True)


class _Query(_Line):
    id: str
    domain: str
    query: str
    answer_calls: list[str]
    domains: list[str]


class _Recorded(_Line):
    model: str
    toolset: Literal["all", "domains"]
    query: str
    function_calls: list[str]
    error: str
    response_chars: NonNegativeInt


class _Documented(_Line):
    name: str
    params: list[str]
    doc: str


def load(folder: Path | str) -> Data:
    """Read the folder of recordings: `queries.jsonl`, `recorded.jsonl`, `tools.json` and the tables.

    Raises:
        ConfigError: a file is missing or broken, or a system lacks a query; the text begins with the file.
    """
    home = Path(folder)
    tables, docs = _tables(home), _docs(home / "tools.json")
    tasks: dict[str, Task] = {}
    domains: dict[str, list[str]] = {}
    queries, ids = Unique("query"), Unique("id")
    for place, row in read_rows(home / "queries.jsonl", _Query):
        queries.check(place, row.query, "the systems were recorded by query")
        ids.check(place, row.id, "each query has an id of its own")
        if not row.query.strip():
            raise place.fault("query", "is empty")
        right = _changes(tables, row.answer_calls)
        tasks[row.query] = Task(row.query, right, "exact", id=row.id, family=f"workbench {row.domain}")
        domains[row.query] = row.domains
    if not tasks:
        raise ConfigError(f"{home / 'queries.jsonl'}: no queries in it")
    records = _records(home / "recorded.jsonl", tables, docs, domains)
    models = {}
    for (name, usd), answers in records.items():
        missing = next((query for query in tasks if query not in answers), None)
        if missing is not None:
            raise ConfigError(f"{home / 'recorded.jsonl'}: {name} has no row for the query {missing[:60]!r}")
        models[name] = RecordedModel(name, answers, price=Price.per_million(usd, usd))
    return Data(tables, docs, list(tasks.values()), models)


def usage_of(response_chars: int, calls: int, docs: Sequence[str]) -> Usage:
    """Estimate what an answer took, at four characters a token.

    What the system wrote is charged as output. The documentation of the tools in its prompt was read once for each tool call,
    and is charged as input each time; the company directory is among the tools of every domain, as it was in the prompts.
    Queries, observations and instructions are not counted.

    Args:
        response_chars: length of all that the system wrote.
        calls: how many tool calls it made.
        docs: documentation of the tools it was offered.
    """
    return Usage(calls * -(-sum(map(len, docs)) // 4), -(-response_chars // 4))


def _records(
    file: Path, tables: Mapping[str, Sequence[Row]], docs: Mapping[str, str], domains: Mapping[str, Sequence[str]]
) -> dict[tuple[str, str], dict[str, RecordedAnswer]]:
    """What each system answered, under its name and price."""
    records: dict[tuple[str, str], dict[str, RecordedAnswer]] = {}
    offered = {
        query: [doc for tool, doc in docs.items() if in_domains(tool, given)] for query, given in domains.items()
    }
    for place, row in read_rows(file, _Recorded):
        if row.model not in _MODELS:
            raise place.fault("model", f"there is no price for {row.model!r}; known are {', '.join(_MODELS)}")
        if row.query not in domains:
            raise place.fault("query", "is not among the queries")
        name, usd = _MODELS[row.model]
        answers = records.setdefault((f"recorded/{name}-{row.toolset}", usd), {})
        if row.query in answers:
            raise place.fault("query", "this system answers it in an earlier line; it has one answer for each")
        text = "\n".join([*row.function_calls, *([f"error: {row.error}"] if row.error else [])])
        read = list(docs.values()) if row.toolset == "all" else offered[row.query]
        usage = usage_of(row.response_chars, len(row.function_calls), read)
        answers[row.query] = RecordedAnswer(text, "" if row.error else _changes(tables, row.function_calls), usage)
    if not records:
        raise ConfigError(f"{file}: no recordings in it")
    return records


def _changes(tables: Mapping[str, Sequence[Row]], calls: Sequence[str]) -> str:
    return Office(tables).follow(map(read_call, calls)).changes()


def _tables(home: Path) -> dict[str, list[Row]]:
    tables = {name: _table(home / file, columns.split(), KEYS.get(name)) for name, (file, columns) in FILES.items()}
    tables[DIRECTORY] = [{"email_address": line} for line in _text(home / _ADDRESSES).split()]
    return tables


def _table(file: Path, columns: Sequence[str], key: str | None) -> list[Row]:
    table = csv.DictReader(StringIO(_text(file)), strict=True)
    rows: list[Row] = []
    try:
        if table.fieldnames != columns:
            raise ConfigError(f"{file}:1: the columns must be {', '.join(columns)}")
        for row in table:
            if None in row or None in row.values():
                raise ConfigError(f"{file}:{table.line_num}: has not one value for each of the {len(columns)} columns")
            if key is not None and not row[key].isdecimal():
                raise ConfigError(f"{file}:{table.line_num}: {key}: {row[key]!r} is no number")
            rows.append(row)
    except csv.Error as error:
        # The count stands at the last whole row.
        raise ConfigError(f"{file}:{table.line_num + 1}: {error}") from None
    return rows


def _docs(file: Path) -> dict[str, str]:
    try:
        found = TypeAdapter(list[_Documented]).validate_json(_text(file))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"{file}: {where + ': ' if where else ''}{first['msg']}; it lists name, params and doc"
        ) from None
    told = {tool.name: tuple(tool.params) for tool in found}
    other = {name for name in {*TOOLS, *told} if name not in TOOLS or told.get(name) != TOOLS[name][1]}
    if other:
        raise ConfigError(f"{file}: {min(other)} is missing, or is not a tool of this office with these parameters")
    return {tool.name: tool.doc for tool in found}


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
