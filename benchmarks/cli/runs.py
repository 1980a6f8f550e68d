"""Owns the commands around single runs: run one team on one task, list and show what a store holds."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from benchmarks.cli.app import AsJson, Out, app, console, print_json, run_async
from benchmarks.cli.books import print_books
from benchmarks.cli.operate import store_in
from benchmarks.metrics.runs import critical_path, parallelism
from benchmarks.metrics.trace import trace_of
from benchmarks.sequence import sequence as sequence_of
from benchmarks.tables import plain
from benchmarks.tasks import companies, craft
from benchmarks.tasks.jsonl import load
from policies import StrategyAuction
from runtime.bank.service import Bank
from runtime.books import as_json as as_json_of
from runtime.budget import Budget
from runtime.driver import Runtime
from runtime.errors import ConfigError
from runtime.protocols import Router
from runtime.recording_file import RecordingFile
from runtime.result import RunResult
from runtime.task import Task
from topologies import Chain, Hybrid, Independent, Mesh, Single, Star, Topology, Tree

_FAMILIES: dict[str, Callable[[int], list[Task]]] = {"companies": companies.generate, "craft": craft.generate}
_SHAPES: dict[str, tuple[Callable[..., Topology], int]] = {
    "single": (Single, 0),
    "independent": (Independent, 1),
    "star": (Star, 1),
    "chain": (Chain, 1),
    "tree": (Tree, 2),
    "mesh": (Mesh, 1),
    "hybrid": (Hybrid, 1),
}
"""How each is made, and how many sizes it takes."""


def topology_of(text: str) -> Topology:
    """A topology from its shorthand: `star`, `star:4`, `tree:2,2`, `single:fill`.

    Raises:
        ConfigError: unknown, or sizes that are no numbers.
    """
    name, _, sizes = text.lower().partition(":")
    if name not in _SHAPES:
        raise ConfigError(
            f"unknown topology {text!r}; take one of {', '.join(_SHAPES)}, with sizes as in star:4 or tree:2,2"
        )
    if (name, sizes) == ("single", "fill"):
        return Single(fill=True)
    make, most = _SHAPES[name]
    try:
        numbers = [int(size) for size in sizes.split(",")] if sizes else []
    except ValueError:
        raise ConfigError(f"topology {text!r}: sizes are whole numbers, as in star:4 or tree:2,2") from None
    if len(numbers) > most:
        raise ConfigError(f"topology {text!r}: {name} takes {('no size', 'one size', 'two sizes')[most]}")
    return make(*numbers)


def model_of(text: str) -> str | Router:
    """A model name, or an auction written as `auction:sim/small,sim/large`."""
    kind, _, names = text.partition(":")
    return StrategyAuction(*names.split(",")) if kind == "auction" else text


def tasks_of(text: str) -> list[Task]:
    """Tasks from a .jsonl file, from a generator as in `companies:3`, or one task of this text.

    Raises:
        ConfigError: an unknown generator, or see `benchmarks.tasks.jsonl.load`.
    """
    family, _, n = text.partition(":")
    if family in _FAMILIES and n.isdecimal():
        return _FAMILIES[family](int(n))
    if n.isdecimal() and family.isidentifier():
        raise ConfigError(f"{text!r} is no task: there is no generator {family!r} here, only {', '.join(_FAMILIES)}")
    return load(Path(text)) if text.endswith(".jsonl") else [Task(text)]


@app.command(
    epilog="Examples:  ostrom run companies:3 --topology star:4 --usd 0.02\n\n"
    "ostrom run 'What is 6 times 7?' --model openai/my-model --tokens 20000\n\n"
    "ostrom run tasks.jsonl --topology independent:3 --model small --usd 0.05 --record first.jsonl"
)
def run(
    task: Annotated[
        str,
        typer.Argument(
            help="The task's text, a .jsonl file, or companies:N or craft:N (generated).",
            show_default=False,
        ),
    ],
    topology: Annotated[
        str, typer.Option(help="single, single:fill, independent:3, star:4, chain:3, tree:2,2, mesh:3, hybrid:3")
    ] = "single",
    model: Annotated[str, typer.Option(help="A name of the catalogue, or auction:sim/small,sim/large")] = "sim/small",
    tokens: Annotated[int | None, typer.Option(help="Token limit of each run.")] = None,
    usd: Annotated[str | None, typer.Option(help="Dollar limit of each run.")] = None,
    calls: Annotated[int | None, typer.Option(help="Limit of model calls of each run.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Deadline of each run.")] = None,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder of the store; without it nothing is kept.")] = None,
    record: Annotated[
        Path | None, typer.Option(help="A new file, to be replayed with `ostrom replay` at no cost.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run one team on one task, or on each task of a file, each under one hard budget. Exit code 1 if a run failed."""
    budget = Budget(tokens=tokens, usd=usd, calls=calls, seconds=seconds)
    tasks = tasks_of(task)
    many = len(tasks) > 1 or task.endswith(".jsonl")
    team = topology_of(topology).with_model(model_of(model))
    file = None if record is None else RecordingFile(record, {"task": task, "topology": topology, "model": model})
    results = run_async(_run, tasks, team, budget, seed, Runtime(out=out, record=file), as_json)
    if as_json:
        print_json([summary(result) for result in results] if many else summary(results[0]))
    if any(result.status == "failed" for result in results):
        raise typer.Exit(1)


async def _run(
    tasks: list[Task], topology: Topology, budget: Budget, seed: int, entering: Runtime, quiet: bool
) -> list[RunResult]:
    results = []
    async with entering as runtime:
        for task in tasks:
            results.append(await runtime.run(topology, task, budget=budget, seed=seed))
            if not quiet:
                print_run(results[-1])
    return results


def summary(result: RunResult) -> dict[str, Any]:
    """A result as plain values for JSON."""
    total = result.spend.total
    return {
        "run_id": result.run_id,
        "status": result.status,
        "reason": result.reason,
        "answer": result.answer,
        "correct": result.correct,
        "spend": {"tokens": total.tokens, "usd": str(total.usd), "calls": total.calls, "tool_calls": total.tool_calls},
        "virtual": total.virtual,
        "by_agent": {seat: {"tokens": s.tokens, "usd": str(s.usd)} for seat, s in result.spend.by_agent.items()},
        "by_model": {name: {"tokens": s.tokens, "usd": str(s.usd)} for name, s in result.spend.by_model.items()},
        "overspend": dict(result.overspend),
        "seconds": result.seconds,
        "working_s": result.working_s,
        "waiting_s": result.waiting_s,
        "deterministic": result.deterministic,
        "metrics": dict(result.metrics),
    }


def print_run(result: RunResult) -> None:
    """Print how a run ended, for a person."""
    total, screen = result.spend.total, console()
    mark = {True: " (correct)", False: " (wrong)", None: ""}[result.correct if result.answer is not None else None]
    why = f": {result.reason}" if result.reason else ""
    screen.print(Text(plain(f"{result.run_id}  {result.status}{why}")))
    screen.print(Text(f"answer  {plain(result.answer or '-')}{mark}"))
    kind = "virtual, nobody is billed" if total.virtual else "real"
    screen.print(Text(f"spend   {total.tokens:,} tokens  ${total.usd}  {total.calls} calls  ({kind})"))
    for seat, spend in result.spend.by_agent.items():
        screen.print(Text(f"        {seat:<16} {spend.tokens:>8,} tokens  ${spend.usd}"))


def write_picture(file: Path, text: str, *, quiet: bool = False) -> None:
    """Write a picture and say where.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}") from None
    if not quiet:
        console().print(Text(f"wrote {file}"), soft_wrap=True)


def _did(result: RunResult) -> str:
    trace = trace_of(result)
    seconds, calls = critical_path(trace)
    at_a_time = parallelism(trace)
    turns, messages = sum(a.kind == "work" for a in trace.attempts), int(result.metrics.get("messages", 0))
    text = f"team    {turns:,} turns, {messages:,} messages; critical path {seconds:,.1f} s over {calls:,} calls"
    if at_a_time is not None:
        text += f"; {at_a_time:.2f} calls at a time"
    if result.virtual:
        return text
    return f"{text}\ntime    {result.working_s:,.1f} s in calls, {result.waiting_s:,.1f} s waiting for a place at an endpoint"


def _bank(out: Path) -> Bank:
    """The folder's bank, to be looked into; a driver may be working on it."""
    store_in(out)
    return Bank(out, read_only=True)


@app.command(epilog="Examples:  ostrom ls --out out/first\n\nostrom ls --status exhausted --out out/first")
def ls(
    out: Out = Path("out/sweep"),
    status: Annotated[
        str | None, typer.Option(help="Only runs with this status: completed, exhausted, open...")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the runs of a store: the finished ones with answer and spend, and live ones that are not finished."""
    bank = _bank(out)
    found = [_listed(result) for result in bank.finished()]
    found += [{"run_id": opened.run_id, "status": "open"} for opened in bank.open_runs()]
    bank.close()
    found = sorted((row for row in found if status in (None, row["status"])), key=lambda row: str(row["run_id"]))
    if as_json:
        print_json(found)
        return
    table = Table("run", "status", "correct", "tokens", "$", "calls", "answer", box=None, pad_edge=False)
    for column in table.columns[3:6]:
        column.justify = "right"
    for row in found:
        cells = (row.get(name, "") for name in ("run_id", "status", "correct", "tokens", "usd", "calls", "answer"))
        table.add_row(*(Text(plain(_short(cell)), no_wrap=True, overflow="ellipsis") for cell in cells))
    console().print(table if found else Text("no runs" + (f" with status {status}" if status else "")))


def _listed(result: RunResult) -> dict[str, Any]:
    total = result.spend.total
    return {
        "run_id": result.run_id,
        "status": result.status,
        "correct": result.correct,
        "answer": result.answer,
        "tokens": total.tokens,
        "usd": str(total.usd),
        "calls": total.calls,
    }


def _short(cell: object) -> str:
    return {True: "yes", False: "no", None: "-"}[cell] if isinstance(cell, bool) or cell is None else str(cell)


@app.command(
    epilog="Examples:  ostrom show run-1 --out out/live\n\nostrom show run-1 --books --out out/live\n\n"
    "ostrom show run-1 --sequence run-1.svg --out out/live"
)
def show(
    run_id: Annotated[str, typer.Argument(help="A run as `ostrom ls` names it.")],
    out: Out = Path("out/sweep"),
    books: Annotated[
        bool, typer.Option("--books", help="Who reserved, spent and gave back what; also of a run under way.")
    ] = False,
    sequence: Annotated[
        Path | None, typer.Option(help="Draw its calls and mails in the order of time into this SVG file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show one run: answer, spend, and every attempt; or, with --books, its accounts."""
    bank = _bank(out)
    found = bank.books(run_id) if books else None
    result = bank.result(run_id)
    bank.close()
    if found is not None:
        if as_json:
            print_json(as_json_of(found))
        else:
            print_books(console(), found)
        if not found.reconciled:
            raise typer.Exit(1)
        return
    if result is None:
        raise ConfigError(
            f"{out} has no finished run {run_id!r}; `ostrom ls --out {out}` lists them, and "
            f"`ostrom show {run_id} --books` tells of one that is under way"
        )
    if sequence is not None:
        write_picture(sequence, sequence_of(result), quiet=as_json)
    if as_json:
        print_json({**summary(result), "attempts": [attempt._asdict() for attempt in result.attempts]})
        return
    print_run(result)
    console().print(Text(_did(result)))
    table = Table("seat", "step", "kind", "model", "state", "in", "out", "of", "$", "at s", box=None, pad_edge=False)
    for a in sorted(result.attempts, key=lambda a: (a.began_s, a.seat, a.step)):
        cost = f"{a.pico_usd / 1e12:.6f}"
        cells = (a.seat, a.step, a.kind, a.model, a.state, a.input_tokens, a.output_tokens, a.max_tokens, cost)
        table.add_row(*(Text(plain(str(cell))) for cell in (*cells, f"{a.began_s:.2f}")))
    console().print(table)
