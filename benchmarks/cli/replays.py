"""Owns `ostrom replay`: recorded runs once more, with the recorded replies and decisions, and held against the recording."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.text import Text

from benchmarks.cli.app import AsJson, Settings, app, console, print_json, run_async
from benchmarks.cli.runs import print_run, summary
from benchmarks.cli.shorthand import tasks_of, team_of
from benchmarks.cli.sweeps import read_settings
from benchmarks.experiment import Experiment, load_experiment
from benchmarks.tables import plain
from runtime.driver import Runtime
from runtime.errors import ConfigError
from runtime.preflight import RunSpec
from runtime.recording import Recording
from runtime.result import RunResult


class _Ingredients(NamedTuple):
    """What the recorded runs were made of, as far as a recording does not hold it."""

    task: str
    topology: str
    model: str


@app.command(
    epilog="Examples:  ostrom run companies:3 --topology star:4 --usd 0.02 --record first.jsonl\n\n"
    "ostrom replay first.jsonl\n\n"
    "ostrom replay first.jsonl companies:3 --topology star:4 --model sim/small"
)
def replay(
    file: Annotated[Path, typer.Argument(help="A recording.", show_default=False)],
    task: Annotated[
        str | None, typer.Argument(help="What was worked on, as for `ostrom run`; by default as recorded.")
    ] = None,
    topology: Annotated[str | None, typer.Option(help="As for `ostrom run`; by default as recorded.")] = None,
    model: Annotated[str | None, typer.Option(help="As for `ostrom run`; by default as recorded.")] = None,
    experiment: Annotated[
        Path | None, typer.Option(help="The experiment file, where a sweep was recorded by a program.")
    ] = None,
    setting: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Replay recorded runs: nothing is called and nobody is billed. Exit code 1 if one does not end as it did."""
    recording = Recording.load(file)
    if experiment is not None:
        if (task, topology, model) != (None, None, None):
            raise ConfigError("--experiment names task, topology and model itself; leave those out")
        comparison, _ = load_experiment(experiment, read_settings(setting))
        results = run_async(_replay_experiment, recording, comparison)
    else:
        results = run_async(_replay, recording, _ingredients(file, recording, task, topology, model))
    found = [(result, recording.differences(result)) for result in results]
    if as_json:
        print_json([{**summary(result), "differences": differences} for result, differences in found])
    else:
        for result, differences in found:
            print_run(result)
            said = [f"differs {difference}" for difference in differences] or ["equal   to the recorded run"]
            for line in said:
                console().print(Text(plain(line)), soft_wrap=True)
    if any(differences for _, differences in found):
        raise typer.Exit(1)


def _ingredients(
    file: Path, recording: Recording, task: str | None, topology: str | None, model: str | None
) -> _Ingredients:
    known = recording.command or {}
    given = {"task": task, "topology": topology, "model": model}
    named = {name: value or known.get(name) for name, value in given.items()}
    missing = [name for name, value in named.items() if value is None]
    if missing:
        raise ConfigError(
            f"{file} was recorded by a program and does not say which {missing[0]} it was; name it here as "
            f"{'TASK' if missing[0] == 'task' else '--' + missing[0]}, or replay in that program: Runtime(replay={str(file)!r})"
        )
    return _Ingredients(**{name: str(value) for name, value in named.items()})


async def _replay(recording: Recording, made_of: _Ingredients) -> list[RunResult]:
    team = team_of(made_of.topology, made_of.model, made_of.task)
    tasks = {task.address: task for task in tasks_of(made_of.task)}
    async with Runtime(replay=recording) as runtime:

        def specs() -> Iterator[RunSpec]:
            for run in recording.runs.values():
                # Where it is not among them, another one is as good: the runtime then says what differs.
                task = tasks.get(run.task["address"]) or next(iter(tasks.values()))
                yield runtime.spec(run.run_id, team, task, run.budget, run.seed)

        found = {spec.run_id: result async for spec, result in runtime.map(specs())}
    return [found[run_id] for run_id in recording.runs]


async def _replay_experiment(recording: Recording, experiment: Experiment) -> list[RunResult]:
    async with Runtime(models=experiment.catalog, replay=recording) as runtime:
        specs = [trial.spec for trial in experiment.plan(runtime).trials]
        found = {spec.run_id: result async for spec, result in runtime.map(specs)}
    return [found[run_id] for run_id in recording.runs if run_id in found]
