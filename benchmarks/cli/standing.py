"""Owns what `ostrom ps` tells of money: what open runs and experiments have spent, of which limits, as the store proves it.

It reads beside a driver, so the driver is not asked: what a run has in flight at this moment is held, not spent.
"""

from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from benchmarks.tables import plain
from runtime.bank.recovery import read_grants
from runtime.bank.store import Store
from runtime.bank.vector import UNLIMITED, unpack
from runtime.books import open_books
from runtime.budget import BASE_DIMENSIONS, PICO_USD, TOKENS, Amounts, Caps, usd_text
from runtime.usage import PICO

_HEADS = ("tokens", "$", "calls", "tool calls")


class Standing(NamedTuple):
    """How a run or an experiment stands, in the base dimensions."""

    spent: Amounts
    """Charged so far. Of an experiment: by its runs that are finished, or were given up."""
    held: Amounts
    """Of a run: by its calls in flight. Of an experiment: the whole budgets of its runs that are not finished."""
    limit: Caps
    """With all top-ups; None where there is none."""


def standings(path: Path, names: Iterable[str]) -> dict[str, Standing]:
    """How these runs and experiments stand; one of which the store knows no figures yet is left out."""
    wanted, found = set(names), dict[str, Standing]()
    with closing(Store(path, read_only=True)) as store:
        grants = read_grants(store)
        for scope in grants.ledger.scopes.values():
            if scope.name in wanted:
                spent, held, caps = (unpack(v, scope.n) for v in (scope.settled, scope.held, scope.caps))
                found[scope.name] = Standing(spent, held, tuple(None if cap == UNLIMITED else cap for cap in caps))
        top_ups = store.top_ups()
        for opened in store.opened():
            if opened.run_id in wanted:
                raised = [more.amounts for more in top_ups if more.scope == opened.run_id]
                books = open_books(opened, store.entries(opened.run_id), raised, grants)
                charged = tuple(map(sum, zip(books.total.settled, books.total.charged_max, strict=True)))
                limit = tuple(books.balances[dimension]["cap"] for dimension in BASE_DIMENSIONS)
                found[opened.run_id] = Standing(charged, tuple(books.total.open), limit)
    return found


def as_json(states: Mapping[str, str], figures: Mapping[str, Standing]) -> dict[str, dict[str, Any]]:
    """States and figures as plain values; without figures where none are known."""

    def told(name: str) -> dict[str, Any]:
        standing = figures.get(name)
        parts = {} if standing is None else standing._asdict()
        return {part: dict(zip(BASE_DIMENSIONS, amounts, strict=True)) for part, amounts in parts.items()}

    return {name: {"state": state, **told(name)} for name, state in states.items()}


def standing_table(states: Mapping[str, str], figures: Mapping[str, Standing]) -> Table:
    """A line for each name: tokens and dollars always, calls and tool calls where any of them is limited."""
    limited = {i for standing in figures.values() for i, limit in enumerate(standing.limit) if limit is not None}
    shown = [i for i in range(len(_HEADS)) if i in {TOKENS, PICO_USD} | limited]
    table = Table("name", "state", box=None, pad_edge=False)
    for i in shown:
        table.add_column(_HEADS[i], justify="right")
        table.add_column("held", justify="right")
        table.add_column("of", justify="right")
    for name, state in sorted(states.items()):
        standing = figures.get(name)
        cells = [text for i in shown for text in _cells(i, standing)] if standing else []
        table.add_row(Text(plain(name)), state, *cells)
    return table


def _cells(i: int, standing: Standing) -> tuple[str, str, str]:
    spent, held, limit = standing.spent[i], standing.held[i], standing.limit[i]
    if i == PICO_USD:
        return f"{spent / PICO:.6f}", f"{held / PICO:.6f}", "-" if limit is None else usd_text(limit)
    return f"{spent:,}", f"{held:,}", "-" if limit is None else f"{limit:,}"
