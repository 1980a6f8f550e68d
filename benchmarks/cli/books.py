"""Owns how the books of a run look on a terminal."""

from collections.abc import Callable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.tables import plain
from runtime.books import Above, Books, Line
from runtime.budget import BASE_DIMENSIONS, PICO_USD, usd_text

_TITLES = ("tokens", "dollars", "calls", "tool calls")
_COLUMNS = ("reserved", "open", "returned", "settled", "charged_max", "over")
_HEADS = ("reserved", "open now", "came back", "settled", "charged at max", "over")


def print_books(screen: Console, books: Books) -> None:
    """One table for each dimension in which anything happened or was limited, and what is left unexplained."""
    kind = "virtual, nobody is billed" if books.virtual else "real"
    screen.print(Text(plain(f"{books.run_id}  {books.status}  ({kind})")))
    for i, dimension in enumerate(BASE_DIMENSIONS):
        balance = books.balances[dimension]
        if balance["cap"] is None and not books.total.reserved[i]:
            continue
        show = usd_text if i == PICO_USD else _whole
        screen.print()
        screen.print(_table(books, i, show))
        limit = "no limit" if balance["cap"] is None else f"limit {show(balance['cap'])}"
        unspent = "" if balance["unspent"] is None else f", unspent {show(balance['unspent'])}"
        rest = books.rest[dimension]
        word = "every unit is explained" if not rest else "THE BOOKS ARE WRONG: please report this"
        screen.print(Text(f"{limit}{unspent}; unexplained {show(rest)}: {word}"))
    if books.above:
        screen.print()
    for above in books.above:
        screen.print(Text(plain(f"{above.scope}: {_line_above(above)}")))
    if books.late:
        screen.print(Text(f"\n{books.late} true figures came after the run was sealed; the scopes above have them."))


def _table(books: Books, i: int, show: Callable[[int], str]) -> Table:
    table = Table(_TITLES[i], box=None, pad_edge=False)
    for head in _HEADS:
        table.add_column(head, justify="right")
    for line in (*books.agents, books.total):
        table.add_row(*_cells(line, i, show), end_section=line is books.agents[-1] if books.agents else False)
    return table


def _cells(line: Line, i: int, show: Callable[[int], str]) -> list[Text]:
    figures = [getattr(line, column)[i] for column in _COLUMNS]
    return [Text(plain(line.who)), *(Text(show(figure) if figure else "-") for figure in figures)]


def _line_above(above: Above) -> str:
    parts = []
    for i, title in enumerate(_TITLES):
        if above.limit[i] is None and not above.settled[i]:
            continue
        show = usd_text if i == PICO_USD else _whole
        limit = above.limit[i]
        left = (
            "no limit"
            if limit is None
            else f"limit {show(limit)}, left {show(limit - above.settled[i] - above.held[i])}"
        )
        over = f", over {show(above.over[i])}" if above.over[i] else ""
        parts.append(f"{title} settled {show(above.settled[i])}, held {show(above.held[i])}{over}, {left}")
    return "; ".join(parts) or "nothing yet"


def _whole(amount: int) -> str:
    return f"{amount:,}"
