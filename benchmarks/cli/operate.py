"""Owns the commands of an operator: what is under way, pause, resume, cancel, top up, and making a store smaller.

Where a driver works on the folder, it is asked over its socket. Where none does, the command is carried out on the store.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from benchmarks.cli.app import AsJson, Out, ToolCalls, app, console, print_json, run_async
from benchmarks.cli.shorthand import tool_calls_of
from benchmarks.cli.standing import as_json as as_json_of
from benchmarks.cli.standing import standing_table, standings
from benchmarks.tables import plain
from runtime.bank.client import in_process
from runtime.bank.service import STORE_FILE, Bank
from runtime.bank.store.gc import compacted
from runtime.budget import Budget
from runtime.control import ask_driver, carry_out
from runtime.errors import ConfigError, HostLost
from runtime.operator import Operator

Name = Annotated[str, typer.Argument(help="A run, an experiment, or `account`; `ostrom ps` names them.")]


def store_in(out: Path) -> Path:
    """The store of a folder.

    Raises:
        ConfigError: there is none.
    """
    if not (out / STORE_FILE).is_file():
        raise ConfigError(f"{out} holds no store; name the --out folder of a sweep or run")
    return out / STORE_FILE


@contextmanager
def bank_in(out: Path) -> Iterator[Bank]:
    """The bank of a folder, to be looked into; a driver may be working on it.

    Raises:
        ConfigError: there is none.
    """
    store_in(out)
    with closing(Bank(out, read_only=True)) as bank:
        yield bank


@app.command(epilog="Example:  ostrom ps --out out/first")
def ps(out: Out = Path("out/sweep"), as_json: AsJson = False) -> None:
    """List the runs and experiments of a folder that are not finished: how they stand, and what they spent of their limits.

    An experiment has spent what its finished runs did; for the others their whole budgets are held.
    """
    states: dict[str, str] = run_async(_command, out, {"do": "ps"})
    figures = standings(store_in(out), states)
    if as_json:
        print_json(as_json_of(states, figures))
        return
    console().print(standing_table(states, figures) if states else Text("nothing is open"))


@app.command(epilog="Example:  ostrom pause first-sweep --out out/first")
def pause(name: Name, out: Out = Path("out/sweep"), as_json: AsJson = False) -> None:
    """Let nothing new be sent for a run or experiment that is under way; calls in flight end and are settled."""
    _do(out, {"do": "pause", "name": name}, as_json)


@app.command(epilog="Example:  ostrom resume first-sweep --out out/first")
def resume(name: Name, out: Out = Path("out/sweep"), as_json: AsJson = False) -> None:
    """Let a paused run or experiment go on where it stopped."""
    _do(out, {"do": "resume", "name": name}, as_json)


@app.command(epilog="Example:  ostrom cancel run-3 --out out/live")
def cancel(name: Name, out: Out = Path("out/sweep"), as_json: AsJson = False) -> None:
    """End a live run for good: under way, paused, or left behind by a driver that was killed."""
    _do(out, {"do": "cancel", "name": name}, as_json)


@app.command(
    "top-up",
    epilog="Examples:  ostrom top-up run-3 --usd 0.50 --out out/live\n\n"
    "ostrom top-up first-sweep --tokens 1000000 --out out/first",
)
def top_up(
    name: Name,
    out: Out = Path("out/sweep"),
    tokens: Annotated[int | None, typer.Option(help="Tokens more.")] = None,
    usd: Annotated[str | None, typer.Option(help="Dollars more.")] = None,
    calls: Annotated[int | None, typer.Option(help="Model calls more.")] = None,
    tool_calls: ToolCalls = None,
    as_json: AsJson = False,
) -> None:
    """Raise the limits of a live run that is not finished, of an experiment, or of the account."""
    units = tool_calls_of(tool_calls)
    asked = {"tokens": tokens, "usd": usd, "calls": calls, "tool_calls": units}
    limits = {limit: more for limit, more in asked.items() if more is not None}
    if not limits:
        raise ConfigError("say what to add: one or more of --tokens, --usd, --calls, --tool-calls")
    Budget(tokens, usd, calls, units)  # what is no amount is refused here already
    _do(out, {"do": "top-up", "name": name, "limits": limits}, as_json)


@app.command(epilog="Examples:  ostrom gc --out out/first\n\nostrom gc --keep-runs 1000 --out out/live")
def gc(
    out: Out = Path("out/sweep"),
    keep_runs: Annotated[
        int | None, typer.Option(help="Keep the results of this many runs, the last ones; all when left out.", min=0)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a store smaller: journals of finished live runs go, and on request old results; what they cost stays."""
    kept = compacted(store_in(out), keep_runs=keep_runs)
    if as_json:
        print_json(kept._asdict())
        return
    console().print(
        Text(
            f"{kept.n_runs:,} runs kept, {kept.n_dropped_runs:,} dropped; "
            f"{kept.n_dropped_rows:,} rows dropped; {kept.bytes_before:,} bytes before, {kept.bytes_after:,} after"
        )
    )


def _do(out: Path, command: Mapping[str, Any], as_json: bool) -> None:
    done: str = run_async(_command, out, command)
    if as_json:
        print_json({"done": done})
    else:
        console().print(Text(plain(done)))


async def _command(out: Path, command: Mapping[str, Any]) -> Any:
    store_in(out)
    answer = await ask_driver(out, command)
    if answer is not None:
        return answer
    bank = Bank(out, read_only=command["do"] == "ps")
    try:
        client, on_bank = in_process(bank)
        return await carry_out(Operator(on_bank, _no_host, client), command)
    finally:
        bank.close()


async def _no_host(i: int, method: str, *_: object) -> Any:
    raise HostLost(f"host {i}", "no driver works on this folder")
