"""Owns the commands around single runs: run one team on one task, and show what a store holds of a run."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from benchmarks.cli.app import AsJson, Out, ToolCalls, app, console, print_json, run_async
from benchmarks.cli.books import print_books
from benchmarks.cli.identity import Identities, Identity, note_run
from benchmarks.cli.operate import bank_in
from benchmarks.cli.shorthand import TASKS, TOPOLOGIES, check_tools, tasks_of, team_of, tool_calls_of
from benchmarks.metrics.runs import critical_path, floored, parallelism
from benchmarks.metrics.trace import trace_of
from benchmarks.sequence import sequence as sequence_of
from benchmarks.tables import Arm, plain
from runtime.books import as_json as as_json_of
from runtime.budget import Budget
from runtime.driver import Runtime
from runtime.errors import ConfigError
from runtime.recording_file import RecordingFile
from runtime.result import RunResult
from runtime.task import Task
from topologies import Topology


@app.command(
    epilog="Examples:  ostrom run companies:3 --topology star:4 --usd 0.02\n\n"
    "ostrom run 'What is 6 times 7?' --model openai/my-model --tokens 20000\n\n"
    "ostrom run tasks.jsonl --topology independent:3 --model small --usd 0.05 --record first.jsonl"
)
def run(
    task: Annotated[
        str,
        typer.Argument(
            help=f"The task's text, a .jsonl file, or {TASKS}.",
            show_default=False,
        ),
    ],
    topology: Annotated[str, typer.Option(help=TOPOLOGIES)] = "single",
    model: Annotated[str, typer.Option(help="A name of the catalogue, or auction:sim/small,sim/large")] = "sim/small",
    tokens: Annotated[int | None, typer.Option(help="Token limit of each run.")] = None,
    usd: Annotated[str | None, typer.Option(help="Dollar limit of each run.")] = None,
    calls: Annotated[int | None, typer.Option(help="Limit of model calls of each run.")] = None,
    tool_calls: ToolCalls = None,
    seconds: Annotated[float | None, typer.Option(help="Deadline of each run.")] = None,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder of the store; without it nothing is kept.")] = None,
    record: Annotated[
        Path | None, typer.Option(help="A new file, to be replayed with `ostrom replay` at no cost.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run one team on one task, or on each task of a file, each under one hard budget. Exit code 1 if a run failed."""
    budget = Budget(tokens, usd, calls, tool_calls_of(tool_calls), seconds)
    tasks = tasks_of(task)
    many = len(tasks) > 1 or task.endswith(".jsonl")
    team = team_of(topology, model, task)
    check_tools(budget.tool_calls, team)
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
            result = await runtime.run(topology, task, budget=budget, seed=seed)
            identity = Identity.of(topology, task, seed, budget)
            results.append(result)
            if not quiet:
                print_run(result, identity)
            await note_run(runtime, result.run_id, identity)
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


def print_run(result: RunResult, identity: Identity | None = None) -> None:
    """Print which run it is, where that is known, and how it ended, for a person."""
    total, screen = result.spend.total, console()
    mark = {True: " (correct)", False: " (wrong)", None: ""}[result.correct if result.answer is not None else None]
    why = f": {result.reason}" if result.reason else ""
    screen.print(Text(plain(f"{result.run_id}  {result.status}{why}")))
    if identity is not None:
        screen.print(Text(plain(f"team    {Arm(identity.team, identity.model)}")))
        screen.print(Text(plain(f"task    {identity.task}   seed {identity.seed}   budget {identity.budget}")))
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
    text = f"work    {turns:,} turns, {messages:,} messages; critical path {seconds:,.1f} s over {calls:,} calls"
    if at_a_time is not None:
        text += f"; {at_a_time:.2f} calls at a time"
    if not result.virtual:
        text += f"\ntime    {result.working_s:,.1f} s in calls, {result.waiting_s:,.1f} s waiting for a place at an endpoint"
    counted = [f"{plain(model)}: {n:,} call{'' if n == 1 else 's'}" for model, n in floored(trace.attempts).items()]
    if counted:
        text += f"\ncount   {', '.join(counted)} charged by our own count: the endpoint told less than it provably sent"
    return text


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
    with bank_in(out) as bank:
        found = bank.books(run_id) if books else None
        result = bank.result(run_id)
        identity = Identities(out, bank).of(run_id)
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
        named = dict.fromkeys(Identity._fields) if identity is None else identity._asdict()
        print_json({**summary(result), **named, "attempts": [attempt._asdict() for attempt in result.attempts]})
        return
    print_run(result, identity)
    console().print(Text(_did(result)))
    table = Table("seat", "step", "kind", "model", "state", "in", "out", "of", "$", "at s", box=None, pad_edge=False)
    for a in sorted(result.attempts, key=lambda a: (a.began_s, a.seat, a.step)):
        cost = f"{a.pico_usd / 1e12:.6f}"
        cells = (a.seat, a.step, a.kind, a.model, a.state, a.input_tokens, a.output_tokens, a.max_tokens, cost)
        table.add_row(*(Text(plain(str(cell))) for cell in (*cells, f"{a.began_s:.2f}")))
    console().print(table)
