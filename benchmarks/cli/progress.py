"""Owns the live picture of a sweep: cells, trials, spend, time left."""

from collections import Counter
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.engine import Sweep
from benchmarks.plan import Trial
from benchmarks.tables import dollars
from runtime.operator import EXPERIMENT
from runtime.result import RunResult
from runtime.usage import PICO


class SweepProgress:
    """A progress line that a sweep steps; silent where output is no terminal, except for a line each tenth."""

    def __init__(self, work: Sweep, screen: Console, *, quiet: bool) -> None:
        self._screen, self._quiet = screen, quiet
        self._total = len(work.plan.trials)
        self._kind = work.plan.kind
        self._left = Counter(_cell(trial) for trial in work.plan.trials)
        self._left.subtract(_cell(t) for t in work.plan.trials if t.spec.address in work.results)
        self._n_cells = len(self._left)
        self._done = len(work.results)
        self._pico = sum(result.spend.total.pico_usd for result in work.results.values())
        self._said = 10 * self._done // self._total
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("trials  {task.fields[cells]} cells  {task.fields[spend]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=screen, disable=quiet or not screen.is_terminal, refresh_per_second=4)
        cells, spend = self._fields()
        self._task = self._bar.add_task("running", total=self._total, completed=self._done, cells=cells, spend=spend)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self, trial: Trial, result: RunResult) -> None:
        """Count one finished trial."""
        self._done += 1
        self._pico += result.spend.total.pico_usd
        self._left[_cell(trial)] -= 1
        cells, spend = self._fields()
        self._bar.update(self._task, completed=self._done, cells=cells, spend=spend)
        tenth = 10 * self._done // self._total
        if tenth > self._said and not self._quiet and not self._screen.is_terminal:
            self._said = tenth
            self._screen.print(f"{self._done:,}/{self._total:,} trials  {cells} cells  {spend}")

    def halted(self, name: str, closed: bool) -> None:
        """Say that an operator paused something, or let it go on."""
        self._bar.update(self._task, description="paused" if closed else "running")
        if not self._quiet:
            short = name.removeprefix(EXPERIMENT)
            self._screen.print(
                f"{name} is paused; `ostrom resume {short}` lets it go on" if closed else f"{name} goes on"
            )

    def _fields(self) -> tuple[str, str]:
        finished = sum(left == 0 for left in self._left.values())
        what = "spent" if self._kind == "live" else f"{self._kind} spend"
        return f"{finished}/{self._n_cells}", f"{dollars(self._pico / PICO)} {what}"


def _cell(trial: Trial) -> tuple[str, str, int, str]:
    return trial.topology, trial.model, trial.budget_rank, trial.spec.task.family
