"""What a report shows of the teams is the same, whether a sweep was started from Python or from the command line."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio

from benchmarks.experiment import load_experiment
from runtime.driver import Runtime

FILE = """
from benchmarks import Experiment
from benchmarks.tasks import companies
from runtime import Budget
from topologies import Single, Star

experiment = Experiment(
    "both-ways", tasks=companies.generate(2, seed=3), topologies=[Single(), Star(2)], models=["sim/small"],
    budgets=[Budget(tokens=6_000), Budget(tokens=20_000)]
)
"""


def shown(file: Path) -> str:
    """The report without the words that say how and when it was made."""
    return re.sub(
        r"\d{4}-\d\d-\d\d \d\d:\d\d UTC|Experiment\(.*?\)\.run\(\.\.\.\)|ostrom sweep [^<]*", "", file.read_text()
    )


def test_a_report_from_python_shows_what_that_of_the_command_line_shows(
    ostrom_here: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "x.py"
    file.write_text(FILE)
    done = ostrom_here("sweep", "x.py", "--out", "out", "--hosts", "0", cwd=tmp_path)
    assert done.returncode == 0, done

    async def from_python() -> None:
        experiment, _ = load_experiment(file, {})
        async with Runtime() as runtime:
            await experiment.run(runtime)
        experiment.report(tmp_path / "mine.html")

    anyio.run(from_python)

    mine = shown(tmp_path / "mine.html")
    assert mine == shown(tmp_path / "out" / "report.html")
    assert "What the teams did" in mine
    assert ": completed (simulated, virtual time)" in mine, "a run of the star is drawn"
