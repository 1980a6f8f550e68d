"""Owns how the books of a run look on a terminal."""

from collections.abc import Callable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.tables import plain
from runtime.bank.statement import Balance
from runtime.books import Above, Books, Line, Within
from runtime.budget import BASE_DIMENSIONS, PICO_USD, usd_text

_TITLES = ("tokens", "dollars", "calls", "tool calls")
_COLUMNS = ("reserved", "open", "returned", "settled", "charged_max", "over")
_HEADS = ("reserved", "open now", "came back", "settled", "charged at max", "over")


def print_books(screen: Console, books: Books) -> None:
    """One table for each dimension in which anything happened or was limited, and what is left unexplained in each scope."""
    kind = "virtual, nobody is billed" if books.virtual else "real"
    screen.print(Text(plain(f"{books.run_id}  {books.status}  ({kind})")))
    for i, dimension in enumerate(BASE_DIMENSIONS):
        balance = books.balances[dimension]
        if balance["cap"] is None and not books.total.reserved[i]:
            continue
        show = usd_text if i == PICO_USD else _whole
        screen.print()
        screen.print(_table(books, i, show))
        screen.print(Text(f"run: {_verdict(balance, books.rest[dimension], show)}"))
        for within in books.ceilings:
            limited, rest = within.balances[dimension], within.rest[dimension]
            if limited["cap"] is not None or rest:
                screen.print(Text(f"{_branch(within)}: {_verdict(limited, rest, show)}"))
    if books.above:
        screen.print()
    for above in books.above:
        screen.print(Text(plain(f"{above.scope}: {_line_above(above)}")))
    if books.late:
        screen.print(Text(f"\n{books.late} true figures came after the run was sealed; the scopes above have them."))


def _table(books: Books, i: int, show: Callable[[int], str]) -> Table:
    """A line for each agent, and below them one for the run and for each ceiling in it, as a tree."""
    table = Table(_TITLES[i], box=None, pad_edge=False)
    for head in _HEADS:
        table.add_column(head, justify="right")
    for line in books.agents:
        table.add_row(*_cells(plain(line.who), line, i, show), end_section=line is books.agents[-1])
    table.add_row(*_cells(books.total.who, books.total, i, show))
    for within in books.ceilings:
        table.add_row(*_cells(_branch(within), within.line, i, show))
    return table


def _cells(who: str, line: Line, i: int, show: Callable[[int], str]) -> list[Text]:
    figures = [getattr(line, column)[i] for column in _COLUMNS]
    return [Text(who), *(Text(show(figure) if figure else "-") for figure in figures)]


def _branch(within: Within) -> str:
    return plain("  " * within.depth + within.scope.removeprefix(f"{within.parent}/"))


def _verdict(balance: Balance, rest: int, show: Callable[[int], str]) -> str:
    limit, unspent = balance["cap"], balance["unspent"]
    left = "no limit"
    if limit is not None and unspent is not None:
        left = f"limit {show(limit)}, " + (f"passed by {show(-unspent)}" if unspent < 0 else f"unspent {show(unspent)}")
    word = "every unit is explained" if not rest else "THE BOOKS ARE WRONG: please report this"
    return f"{left}; unexplained {show(rest)}: {word}"


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
