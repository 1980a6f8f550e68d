"""Owns Experiment, the comparison of teams as a user writes it, and how an experiment file is read."""

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
from runtime.boundary import contained_sync
from runtime.driver import Runtime
from runtime.errors import AgentFailed, ConfigError
from runtime.ids import address

_SETTINGS: ContextVar[Mapping[str, str]] = ContextVar("settings")


class Experiment(Definition):
    """A comparison of teams under matched budgets, to run and to read. For its arguments see `benchmarks.plan.Definition`."""

    _done: tuple[pl.DataFrame, Manifest] | None = None

    async def run(self, runtime: Runtime) -> pl.DataFrame:
        """Run every trial that the runtime's store does not hold yet; returns the table of all trials.

        Raises:
            ConfigError: a trial cannot run, or the experiment spends real money and has no cap; nothing was spent.
        """
        sweep = Sweep(self, self.plan(runtime), runtime)
        await sweep.begin()
        async for _ in sweep.run():
            pass
        self._done = sweep.trials(), sweep.manifest(f"Experiment({self.name!r}).run(...)")
        return self._done[0]

    def table(self) -> pl.DataFrame:
        """One row per topology × model × budget × family: success with interval, spend, shares (see `tables.cells`)."""
        return cells(self._ran()[0])

    def compare(self, a: tuple[str, str], b: tuple[str, str]) -> pl.DataFrame:
        """Paired difference of two arms, each a (topology, model) as in the table (see `comparisons.compare`)."""
        return compare(self._ran()[0], [(Arm(*a), Arm(*b))])

    def report(self, path: Path | str) -> None:
        """Write the report as one HTML file."""
        trials, manifest = self._ran()
        write_report(Path(path), trials, manifest, drawings_of(self.topologies))

    def _ran(self) -> tuple[pl.DataFrame, Manifest]:
        if self._done is None:
            raise ConfigError(f"experiment {self.name!r} has not run yet: await experiment.run(runtime) first")
        return self._done


def setting(name: str, default: str | None = None, *, help: str = "") -> str:
    """A value that an experiment file takes from the command line as `--set name=value`.

    Raises:
        ConfigError: it was not given and has no default.
    """
    value = _SETTINGS.get({}).get(name, default)
    if value is None:
        raise ConfigError(f"this experiment needs --set {name}=VALUE" + (f" ({help})" if help else ""))
    return value


def load_experiment(path: Path, settings: Mapping[str, str]) -> tuple[Experiment, ModuleType]:
    """Run an experiment file and take the `experiment` it defines; also its module, to be shipped to hosts.

    The module gets a stable name, so that what it defines can be pickled and addressed.

    Raises:
        ConfigError: no such file, an error in it, or no `experiment` in it.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such experiment file")
    found = spec_from_file_location(f"ostrom_experiment_{address(path.stem)[:8]}", path)
    if found is None or found.loader is None:
        raise ConfigError(f"{path}: an experiment file is a Python file and ends in .py")
    module = module_from_spec(found)
    # What the file defines is addressed by its source and pickled with its module, and both look the module up by name.
    sys.modules[module.__name__] = module
    token = _SETTINGS.set(settings)
    try:
        contained_sync(str(path), found.loader.exec_module, module)
    except AgentFailed as error:
        raise ConfigError(str(error)) from None
    finally:
        _SETTINGS.reset(token)
    experiment = getattr(module, "experiment", None)
    if not isinstance(experiment, Experiment):
        raise ConfigError(f"{path}: the file must define `experiment = Experiment(...)`")
    return experiment, module
