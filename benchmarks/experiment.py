"""Owns Experiment, the comparison of teams as a user writes it, and how a Python file of the user is read."""

import sys
from collections.abc import Mapping
from contextvars import ContextVar
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import polars as pl

from benchmarks.comparisons import compare
from benchmarks.drawings import drawings_of
from benchmarks.engine import Sweep
from benchmarks.plan import Definition
from benchmarks.report import Manifest, write_report
from benchmarks.tables import Arm, cells
from benchmarks.teams import examples, measures
from runtime.boundary import contained_sync
from runtime.driver import Runtime
from runtime.errors import AgentFailed, ConfigError
from runtime.ids import address


class Experiment(Definition):
    """A comparison of teams under matched budgets, to run and to read. For its arguments see `benchmarks.plan.Definition`."""

    _done: tuple[Sweep, pl.DataFrame, Manifest] | None = None

    async def run(self, runtime: Runtime) -> pl.DataFrame:
        """Run every trial that the runtime's store does not hold yet; returns the table of all trials.

        Raises:
            ConfigError: a trial cannot run, or the experiment spends real money and has no cap; nothing was spent.
        """
        sweep = Sweep(self, self.plan(runtime), runtime)
        await sweep.begin()
        async for _ in sweep.run():
            pass
        trials = sweep.trials()
        self._done = sweep, trials, sweep.manifest(f"Experiment({self.name!r}).run(...)")
        return trials

    def table(self) -> pl.DataFrame:
        """One row per topology × model × budget × family: success with interval, spend, shares (see `tables.cells`)."""
        return cells(self._ran()[1])

    def compare(self, a: tuple[str, str], b: tuple[str, str]) -> pl.DataFrame:
        """Paired difference of two arms, each a (topology, model) as in the table (see `comparisons.compare`)."""
        return compare(self._ran()[1], [(Arm(*a), Arm(*b))])

    def report(self, path: Path | str) -> None:
        """Write the report as one HTML file, the same that `ostrom sweep` writes."""
        sweep, trials, manifest = self._ran()
        drawings = drawings_of(self.topologies)
        write_report(Path(path), trials, manifest, drawings, measures(sweep, trials).arms, examples(sweep))

    def _ran(self) -> tuple[Sweep, pl.DataFrame, Manifest]:
        if self._done is None:
            raise ConfigError(f"experiment {self.name!r} has not run yet: await experiment.run(runtime) first")
        return self._done


class _Settings:
    """What the command line gave to an experiment file, and what the file asked for."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self.given = given
        self.asked: set[str] = set()


_SETTINGS: ContextVar[_Settings] = ContextVar("settings")


def setting(name: str, default: str | None = None, *, help: str = "") -> str:
    """A value that an experiment file takes from the command line as `--set name=value`.

    Raises:
        ConfigError: it was not given and has no default.
    """
    settings = _SETTINGS.get(_Settings({}))
    settings.asked.add(name)
    value = settings.given.get(name, default)
    if value is None:
        raise ConfigError(f"this experiment needs --set {name}=VALUE" + (f" ({help})" if help else ""))
    return value


def load_experiment(path: Path, given: Mapping[str, str]) -> tuple[Experiment, list[ModuleType]]:
    """Run an experiment file and take the `experiment` it defines.

    Returns:
        The experiment, and its module with those it imported from its own folder, which have to be shipped to hosts.

    Raises:
        ConfigError: no such file, an error in it, no `experiment` in it, or a setting that it does not know.
    """
    settings = _Settings(given)
    token = _SETTINGS.set(settings)
    try:
        modules = load_file(path, "experiment file")
    finally:
        _SETTINGS.reset(token)
    experiment = getattr(modules[0], "experiment", None)
    if not isinstance(experiment, Experiment):
        raise ConfigError(f"{path}: the file must define `experiment = Experiment(...)`")
    unknown = sorted(set(given) - settings.asked)
    if unknown:
        known = ", ".join(sorted(settings.asked)) or "none"
        raise ConfigError(f"{path}: there is no setting {unknown[0]!r} in this experiment; it has {known}")
    return experiment, modules


def load_file(path: Path, what: str) -> list[ModuleType]:
    """Run a Python file of the user.

    The module gets a stable name, so that what it defines can be pickled and addressed. Files beside it can be imported, as
    they can from any script.

    Args:
        what: the file is to be, as errors tell it.

    Returns:
        Its module, then those that it imported from its own folder.

    Raises:
        ConfigError: no such file, or an error in it.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such {what}")
    found = spec_from_file_location(f"ostrom_experiment_{address(path.stem)[:8]}", path)
    if found is None or found.loader is None:
        raise ConfigError(f"{path}: the {what} must be a Python file, which ends in .py")
    folder = path.resolve().parent
    # At the end, so that a file beside it hides nothing of ours.
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    before = set(sys.modules)
    module = module_from_spec(found)
    # What the file defines is addressed by its source and pickled with its module, and both look the module up by name.
    sys.modules[module.__name__] = module
    try:
        contained_sync(str(path), found.loader.exec_module, module)
    except AgentFailed as error:
        raise ConfigError(str(error)) from None
    beside = [m for name, m in sys.modules.items() if name not in before and _lies_in(m, folder)]
    return [module, *(m for m in beside if m is not module)]


def _lies_in(module: ModuleType, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).resolve().parent == folder
