"""Owns `ostrom ls`: the runs of a store, which they are and how they ended, in as many columns as the terminal has room for."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.cli.app import AsJson, Out, app, console, print_json
from benchmarks.cli.identity import Identities, Identity
from benchmarks.cli.operate import bank_in
from benchmarks.tables import Arm, plain
from runtime.result import RunResult

_COLUMNS = {
    "run": "run_id",
    "team": "team",
    "model": "model",
    "task": "task",
    "seed": "seed",
    "budget": "budget",
    "status": "status",
    "right": "correct",
    "tokens": "tokens",
    "$": "usd",
    "calls": "calls",
    "answer": "answer",
}
"""Heads in their order, and what they show."""
_RIGHT = ("seed", "tokens", "$", "calls")
_SHRINK = {"answer": 8, "model": 12, "task": 16, "team": 12, "budget": 8}
"""Columns of free text, and how narrow each may be made."""
_MOST = 40
_DROPPED = ("calls", "answer", "tokens", "$", "budget", "model")
"""What is left out where there is no room, in this order."""


@app.command(
    epilog="Examples:  ostrom ls --out out/first\n\nostrom ls --status exhausted --out out/first\n\n"
    "ostrom ls --arm 'Star(4)' --task companies-20-1-5 --seed 0 --out out/first"
)
def ls(
    out: Out = Path("out/sweep"),
    status: Annotated[
        str | None, typer.Option(help="Only runs with this status: completed, exhausted, open...")
    ] = None,
    arm: Annotated[str | None, typer.Option(help="Only runs of this team, this model, or 'TEAM · MODEL'.")] = None,
    task: Annotated[str | None, typer.Option(help="Only runs on this task.")] = None,
    seed: Annotated[int | None, typer.Option(help="Only runs with this seed.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the runs of a store: the finished ones with answer and spend, and live ones that are not finished.

    Trials come in the order of their plan. A narrow terminal shows fewer columns; --json has everything.
    """
    with bank_in(out) as bank:
        known = Identities(out, bank)
        rows = [_finished(result, known.of(result.run_id)) for result in bank.finished()]
        rows += [_row(o.run_id, "open", known.of(o.run_id)) for o in bank.open_runs()]
    wanted = {"status": status, "task": task, "seed": seed}
    rows = [
        row
        for row in rows
        if all(value in (None, row[name]) for name, value in wanted.items()) and (arm is None or arm in _arms(row))
    ]
    rows.sort(key=lambda row: (known.place(row["run_id"]), _natural(row["run_id"])))
    if as_json:
        print_json(rows)
        return
    asked = {"status": status, "arm": arm, "task": task, "seed": seed}
    filters = " and ".join(f"{name} {value}" for name, value in asked.items() if value is not None)
    screen = console()
    if rows:
        _print_table(screen, rows)
    else:
        screen.print(Text("no runs" + (f" with {filters}" if filters else "")))


def _row(run_id: str, status: str, identity: Identity | None) -> dict[str, Any]:
    """Names of what is not known are None."""
    named = identity._asdict() if identity is not None else dict.fromkeys(Identity._fields)
    return {"run_id": run_id, "status": status, **named}


def _finished(result: RunResult, identity: Identity | None) -> dict[str, Any]:
    total = result.spend.total
    return {
        **_row(result.run_id, result.status, identity),
        "correct": result.correct,
        "answer": result.answer,
        "tokens": total.tokens,
        "usd": str(total.usd),
        "calls": total.calls,
    }


def _arms(row: dict[str, Any]) -> tuple[str | None, ...]:
    return row["team"], row["model"], str(Arm(row["team"], row["model"]))


def _natural(run_id: str) -> list[tuple[int, str]]:
    """So that run-9 comes before run-10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", run_id)]


def _print_table(screen: Console, rows: list[dict[str, Any]]) -> None:
    cells = {head: [_cell(head, row.get(name)) for row in rows] for head, name in _COLUMNS.items()}
    told = {head: column for head, column in cells.items() if any(cell != "-" for cell in column)}
    wide = {head: max(len(head), *map(len, column)) for head, column in told.items()}
    gap = 2
    if screen.is_terminal and _width(wide, gap) > screen.width:
        gap = 1
        wide = _narrowed(wide, screen.width, gap)
    # A file has room for everything; and of a run's id nothing may be cut, so a terminal that is too narrow has to wrap it.
    screen.width = max(screen.width, _width(wide, gap))
    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False)
    for head, n in wide.items():
        table.add_column(head, justify="right" if head in _RIGHT else "left", no_wrap=True, width=n)
    for texts in zip(*(told[head] for head in wide), strict=True):
        table.add_row(*(Text(text, overflow="ellipsis", no_wrap=True) for text in texts))
    screen.print(table)


def _narrowed(wide: dict[str, int], width: int, gap: int) -> dict[str, int]:
    """Columns that fit: some left out, then free text cut, the longest first."""
    wide = dict(wide)
    for head in _DROPPED:
        least = {name: min(n, _SHRINK.get(name, n)) for name, n in wide.items()}
        if _width(least, gap) <= width:
            break
        wide.pop(head, None)
    while _width(wide, gap) > width:
        can = {name: n for name, n in wide.items() if n > _SHRINK.get(name, n)}
        if not can:
            break
        wide[max(can, key=can.__getitem__)] -= 1
    return wide


def _width(wide: dict[str, int], gap: int) -> int:
    return sum(wide.values()) + gap * (len(wide) - 1)


def _cell(head: str, value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if head == "tokens":
        return f"{value:,}"
    if head == "$":
        return f"{float(str(value)):.6f}"
    text = plain(str(value))
    return text if len(text) <= _MOST or head == "run" else text[: _MOST - 1] + "…"
