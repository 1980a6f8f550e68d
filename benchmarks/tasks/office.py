"""Owns the office of WorkBench as an environment: tables that calls change, and what was changed in the end.

A change is what counts: two series of calls are equally good when they leave the same tables behind. Case is ignored in all
fields but three. A call to an id that does not exist, with a value that is not allowed, or with a parameter that nobody
knows changes nothing.

Source: O. Styles, S. Miller, P. Cerda-Mardini, T. Guha, V. Sanchez, B. Vidgen, "WorkBench: a Benchmark Dataset for Agents in
a Realistic Workplace Setting", 2024 (arXiv:2405.00823).
"""

import ast
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import orjson

from benchmarks.tasks.office_tools import DIRECTORY, KEYS, PLOTS, TOOLS, Refused, Row
from runtime.agents.tools import Tool
from runtime.ids import address

UNCHANGED = "nothing changed"
_EXACT = frozenset({"status", "list_name", "board"})
"""Fields in which case counts."""
_SHOWN = 48
"""Characters of a value that `changes` shows."""


class Call(NamedTuple):
    """One recorded tool call."""

    name: str
    arguments: dict[str, Any]


class Office:
    """The tables as calls leave them: for one run, or one series of calls. The next one needs an office of its own.

    Args:
        tables: rows by table, as they stand in the beginning; they are not changed themselves.
    """

    def __init__(self, tables: Mapping[str, Sequence[Row]]) -> None:
        self._before = tables
        self._now: dict[str, list[Row]] = {name: list(rows) for name, rows in tables.items()}
        self._now[PLOTS] = []

    def call(self, name: str, /, **arguments: str) -> str:
        """Use a tool, named as in `TOOLS`; gives what it answers, as a text.

        Raises:
            Refused: the arguments cannot be used; nothing was changed.
            LookupError: there is no such tool.
            TypeError: it has no such parameter, or an argument is no text.
        """
        if name not in TOOLS:
            raise LookupError(f"there is no tool {name}")
        action, parameters = TOOLS[name]
        wrong = [key for key, value in arguments.items() if key not in parameters or not isinstance(value, str)]
        if wrong:
            raise TypeError(f"{name} has the parameters {', '.join(parameters)}, each a text; {wrong[0]} is none of it")
        answer = action(self._now, dict.fromkeys(parameters, "") | arguments)
        return answer if isinstance(answer, str) else orjson.dumps(answer).decode()

    def follow(self, calls: Iterable[Call | None]) -> "Office":
        """Make recorded calls one after another; those that fail, or are None, change nothing."""
        for call in calls:
            if call is not None:
                try:
                    self.call(call.name, **call.arguments)
                except (Refused, LookupError, TypeError):
                    continue
        return self

    def changes(self) -> str:
        """What differs from the beginning, in words that may be cut short, and a digest of it all.

        Two offices that began alike are alike exactly where these texts are equal.
        """
        told, exact = [], []
        for name, key in KEYS.items():
            if self._now[name] == self._before[name]:
                continue
            before, after = ({row[key]: row for row in rows} for rows in (self._before[name], self._now[name]))
            for id in sorted(id for id in {*before, *after} if before.get(id) is not after.get(id)):
                old, new = (_alike(rows.get(id, {})) for rows in (before, after))
                if old != new:
                    news = {field: new.get(field) for field in {**old, **new} if old.get(field) != new.get(field)}
                    exact.append([name, id, sorted(news.items())])
                    told.append(f"{name} {id}: {_words(news, key) if new else 'removed'}")
        for path in sorted(_alike(plot)["file_path"] for plot in self._now[PLOTS]):
            exact.append([PLOTS, path, []])
            told.append(path)
        return f"{'; '.join(told)}; state {address(exact)[:16]}" if exact else UNCHANGED

    def tools(self, docs: Mapping[str, str], *domains: str) -> tuple[Tool, ...]:
        """Tools for an agent, acting on this office: those of some domains, or all; the company directory is always there.

        Args:
            docs: documentation of each tool.
        """
        return tuple(
            Tool(
                name.replace(".", "_"),
                docs[name],
                partial(self.call, name),
                {"type": "object", "properties": {parameter: {"type": "string"} for parameter in parameters}},
                virtual=True,
            )
            for name, (_, parameters) in TOOLS.items()
            if not domains or in_domains(name, domains)
        )


def in_domains(tool: str, domains: Sequence[str]) -> bool:
    """Whether a tool is given to somebody who gets those of some domains."""
    return tool.partition(".")[0] in (*domains, DIRECTORY)


def read_call(text: str) -> Call | None:
    """Read a call as it was recorded, `email.delete_email.func(email_id="00000479")`; None where that is no such call."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a model wrote may hold any backslash
        try:
            call = ast.parse(text, mode="eval").body
            if not isinstance(call, ast.Call) or call.args:
                return None
            arguments = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
    return Call(ast.unparse(call.func).removesuffix(".func"), {str(name): value for name, value in arguments.items()})


def _alike(row: Row) -> Row:
    return {field: value if field in _EXACT else value.lower() for field, value in row.items()}


def _words(news: Mapping[str, str | None], key: str) -> str:
    words = {
        field: " ".join((value or "nothing").split()) for field, value in news.items() if field != key and value != ""
    }
    return ", ".join(f"{f} {text if len(text) <= _SHOWN else text[: _SHOWN - 1] + '…'}" for f, text in words.items())
