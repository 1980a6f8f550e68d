"""Owns the commands around experiments: sweep, plan, report, compare, init."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import orjson
import polars as pl
import typer
from rich.text import Text

from benchmarks.cli.app import AsJson, Out, Settings, app, console, print_json, run_async
from benchmarks.cli.identity import write_plan
from benchmarks.cli.printing import print_results
from benchmarks.cli.progress import SweepProgress
from benchmarks.comparisons import compare as compare_arms
from benchmarks.drawings import drawings_of
from benchmarks.engine import Sweep
from benchmarks.experiment import load_experiment
from benchmarks.plan import Definition, Plan
from benchmarks.report import write_report
from benchmarks.rows import write_tables
from benchmarks.tables import Arm, cells, rate, signed
from benchmarks.teams import examples, measures
from runtime.bank.service import STORE_FILE
from runtime.budget import usd_text
from runtime.driver import Runtime
from runtime.errors import ConfigError

File = Annotated[Path, typer.Argument(help="A Python file that defines `experiment`.", show_default=False)]
Full = Annotated[bool, typer.Option("--full", help="Every family and the whole match audit, not only what is pooled.")]
_STARTER = Path(__file__).parent / "starter.py.txt"


def read_settings(values: list[str] | None) -> dict[str, str]:
    """Parse `name=value` options.

    Raises:
        ConfigError: one has no equals sign.
    """
    settings = {}
    for value in values or []:
        name, equals, content = value.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set {value}: write it as --set name=value")
        settings[name] = content
    return settings


@app.command(epilog="Example:  ostrom sweep examples/first_sweep.py --out out/first")
def sweep(
    file: File,
    out: Out = Path("out/sweep"),
    setting: Settings = None,
    hosts: Annotated[
        int | None, typer.Option(min=0, help="Ray hosts; by default one per core. 0 runs in this process.")
    ] = None,
    address: Annotated[str, typer.Option(help='"local", "cluster", or the address of a Ray head.')] = "local",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before real money is spent.")] = False,
    fork: Annotated[bool, typer.Option("--fork", help="Go on in a folder made by another plan, and say so.")] = False,
    full: Full = False,
    as_json: AsJson = False,
) -> None:
    """Run an experiment, or go on where it was interrupted: finished trials are never run again."""
    settings = read_settings(setting)
    where = None if hosts == 0 else address
    done = run_async(_sweep, file, out, settings, where, hosts or None, yes, fork, full, as_json)
    if as_json:
        print_json(done)


async def _sweep(
    file: Path,
    out: Path,
    settings: dict[str, str],
    address: str | None,
    hosts: int | None,
    yes: bool,
    fork: bool,
    full: bool,
    as_json: bool,
) -> dict[str, Any]:
    experiment, modules = load_experiment(file, settings)
    screen = console()
    # The plan is made without any host, so that every mistake is told before Ray takes its seconds to start; and where all
    # trials are finished already, it need not start.
    async with Runtime(models=experiment.catalog) as checking:
        plan = experiment.plan(checking)
        Sweep(experiment, plan, checking).check()
    if plan.kind == "live":
        _ask(experiment, plan, yes)
    async with Runtime(models=experiment.catalog, out=out) as reading:
        work = Sweep(experiment, plan, reading, fork)
        await work.begin()
        write_plan(out, plan)
        if len(work.results) == len(plan.trials):
            if not as_json:
                screen.print(_opening(work, reading, None))
            return _finish(work, out, quiet=as_json, full=full)
    if address is not None and not as_json:
        screen.print("starting Ray, which takes some seconds" if address == "local" else f"joining Ray at {address}")
    async with Runtime(address, models=experiment.catalog, out=out, hosts=hosts, modules=modules) as runtime:
        work = Sweep(experiment, plan, runtime, fork)
        await work.begin()
        if not as_json:
            screen.print(_opening(work, runtime, address))
        with SweepProgress(work, screen, quiet=as_json) as progress:
            runtime.operator.gates.watch(progress.halted)
            async for trial, result in work.run():
                progress.step(trial, result)
        return _finish(work, out, quiet=as_json, full=full)


def _opening(work: Sweep, runtime: Runtime, address: str | None) -> Text:
    experiment, plan = work.experiment, work.plan
    arms = len({(trial.topology, trial.model) for trial in plan.trials})
    where = "in this process" if address is None else f"on Ray, {runtime.hosts} hosts"
    text = f"{experiment.name}: {len(plan.trials):,} trials = {arms} arms × {len(experiment.budgets)} budgets × "
    text += f"{len(experiment.tasks)} tasks × {len(experiment.seeds)} seeds, {where} ({plan.kind})"
    if work.resumed:
        text += f"\n{work.resumed:,} trials are finished already and will not be run again"
    return Text(text)


def _ask(experiment: Definition, plan: Plan, yes: bool) -> None:
    """Show the price of a live sweep and ask; on stderr, since stdout may be for JSON.

    Raises:
        ConfigError: the answer is no.
    """
    assert experiment.cap is not None
    most = sum(
        dict(zip(t.spec.budget.dimensions, t.spec.budget.caps, strict=True))["pico_usd"] or 0 for t in plan.trials
    )
    told = f"at most ${usd_text(most)} by its own budgets" if most else "without dollar limits of their own"
    typer.echo(
        f"{len(plan.trials):,} live trials, {told}; the experiment's cap is {experiment.cap.describe()}.", err=True
    )
    if not yes and not (sys.stdin.isatty() and typer.confirm("Spend real money?", err=True)):
        raise ConfigError("nothing was run; answer yes, or pass --yes")


def _finish(work: Sweep, out: Path, *, quiet: bool, full: bool) -> dict[str, Any]:
    """Write tables, manifest and report; print the table and the audit. Returns the document for `--json`."""
    trials = work.trials()
    if trials.is_empty():
        raise ConfigError("no trial was admitted: the cap is below the budgets of the first task × seed block")
    table = cells(trials)
    manifest = work.manifest(shlex.join(["ostrom", *sys.argv[1:]]))
    did = measures(work, trials)
    write_tables(out, trials, work.calls(), table, metrics=did.runs, channels=did.channels, teams=did.arms)
    (out / "manifest.json").write_bytes(orjson.dumps(dict(manifest), option=orjson.OPT_INDENT_2))
    drawings = drawings_of(work.experiment.topologies)
    write_report(out / "report.html", trials, manifest, drawings, did.arms, examples(work))
    if not quiet:
        screen = console()
        print_results(screen, trials, work.experiment.match, work.plan.kind, full=full)
        if work.not_admitted:
            screen.print(f"{work.not_admitted:,} trials were not admitted: the experiment's cap is reached.")
        told = f"table sha256 {manifest['sha256']}\n"
        told += f"tables  {out}/trials.parquet, and calls, cells, metrics, channels and teams beside it"
        told += f"\nreport  {out / 'report.html'}" + (
            "" if full else f"   (more here: ostrom report --full --out {out})"
        )
        screen.print(Text(told), soft_wrap=True)
    return {**manifest, "resumed": work.resumed, "not_admitted": work.not_admitted}


@app.command(epilog="Example:  ostrom plan examples/first_sweep.py")
def plan(file: File, setting: Settings = None, as_json: AsJson = False) -> None:
    """Check an experiment and show what it would run; nothing is run or spent."""
    run_async(_plan, file, read_settings(setting), as_json)


async def _plan(file: Path, settings: dict[str, str], as_json: bool) -> None:
    experiment, _ = load_experiment(file, settings)
    async with Runtime(models=experiment.catalog) as runtime:
        planned = experiment.plan(runtime)
    arms = sorted({f"{trial.topology} · {trial.model}" for trial in planned.trials})
    facts = {
        "experiment": experiment.name,
        "kind": planned.kind,
        "trials": len(planned.trials),
        "arms": arms,
        "budgets": [budget.describe() for budget in experiment.budgets],
        "tasks": len(experiment.tasks),
        "seeds": list(experiment.seeds),
        "match": experiment.match,
        "cap": None if experiment.cap is None else experiment.cap.describe(),
        "digest": planned.digest,
    }
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        shown = value if not isinstance(value, list) else ", ".join(map(str, value))
        console().print(Text(f"{name:<11} {shown}"))


def read_folder(out: Path) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The trials and the manifest of a finished sweep.

    Raises:
        ConfigError: there are none in this folder.
    """
    if not (out / "trials.parquet").is_file() or not (out / "manifest.json").is_file():
        if (out / STORE_FILE).is_file():
            raise ConfigError(f"{out} holds a sweep that is not finished; the same sweep command goes on where it was")
        raise ConfigError(f"{out} holds no sweep; run `ostrom sweep FILE --out {out}` first")
    try:
        return pl.read_parquet(out / "trials.parquet"), orjson.loads((out / "manifest.json").read_bytes())
    except (pl.exceptions.PolarsError, orjson.JSONDecodeError, OSError) as error:
        raise ConfigError(
            f"{out}: trials.parquet or manifest.json cannot be read ({error}); run the sweep again with this --out, "
            "which writes both anew from the store"
        ) from None


@app.command(epilog="Example:  ostrom report --out out/first")
def report(out: Out = Path("out/sweep"), full: Full = False, as_json: AsJson = False) -> None:
    """Print the table and the match audit of a finished sweep again."""
    trials, manifest = read_folder(out)
    if as_json:
        print_json({"manifest": manifest, "cells": cells(trials).to_dicts()})
        return
    print_results(console(), trials, manifest["match"], manifest["kind"], full=full)
    console().print(Text(f"report  {out / 'report.html'}"), soft_wrap=True)


@app.command(epilog="Example:  ostrom compare 'Star(4)' 'Single(fill)' --model sim/small --out out/first")
def compare(
    first: Annotated[str, typer.Argument(help="A topology as it stands in the table.")],
    second: Annotated[str, typer.Argument(help="The topology to hold it against.")],
    model: Annotated[str | None, typer.Option(help="Model of both; by default every model in turn.")] = None,
    out: Out = Path("out/sweep"),
    as_json: AsJson = False,
) -> None:
    """Compare two arms on the tasks and seeds both have: paired difference, interval, corrected p."""
    trials, manifest = read_folder(out)
    known = {Arm(*row) for row in trials.select("topology", "model").unique().iter_rows()}
    models = sorted({arm.model for arm in known if model in {None, arm.model}})
    pairs = [(Arm(first, name), Arm(second, name)) for name in models]
    pairs = [(a, b) for a, b in pairs if a in known and b in known]
    if not pairs:
        raise ConfigError(f"no such pair of arms; there are {', '.join(sorted(map(str, known)))}")
    found = compare_arms(trials, pairs)
    if as_json:
        print_json(found.to_dicts())
        return
    console().print(Text(f"{first} − {second} ({manifest['kind']})", style="bold"))
    for row in found.to_dicts():
        where = f"{row['family']:<14} {row['budget']:<10} {row['model']:<28}"
        span = f"[{signed(row['low'])}, {signed(row['high'])}]"
        console().print(Text(f"{where} {signed(row['difference'])} {span}  p {rate(row['p_holm'])}  n {row['pairs']}"))


@app.command(epilog="Example:  ostrom init my_sweep.py && ostrom sweep my_sweep.py")
def init(file: Annotated[Path, typer.Argument(help="The file to write.")] = Path("my_sweep.py")) -> None:
    """Write a small experiment file to begin with."""
    if file.exists():
        raise ConfigError(f"{file} is there already; it was left as it is")
    try:
        file.write_text(_STARTER.read_text(encoding="utf-8"), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}") from None
    console().print(f"wrote {file}; run it with: ostrom sweep {file}")
