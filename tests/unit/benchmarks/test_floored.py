"""An endpoint that tells less than it sent is not believed, and it is told: by model, in the report and in `ostrom show`."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Here = Callable[..., "subprocess.CompletedProcess[str]"]

FILE = """
from dataclasses import replace

from benchmarks import Experiment
from runtime import Agent, Budget, Task
from runtime.models import ScriptedModel
from topologies import Cascade

class Shy(ScriptedModel):
    async def complete(self, request):
        return replace(await super().complete(request), floored=True)

def answer(request):
    return "42"

experiment = Experiment(
    "shy", tasks=[Task("six times seven?", "42", "numeric"), Task("seven times six?", "42", "numeric")],
    topologies=[Cascade([Agent("executor", model="shy"), Agent("executor", model="plain")])], budgets=[Budget(tokens=9_000)],
    catalog={
        "shy": Shy(answer, output_tokens=300, name="shy"),
        "plain": ScriptedModel(answer, output_tokens=300, name="plain"),
    },
)
"""


@pytest.fixture
def cli(ostrom_here: Here, tmp_path: Path) -> Here:
    def call(*args: object) -> "subprocess.CompletedProcess[str]":
        done = ostrom_here(*args, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done

    return call


def swept(cli: Here, folder: Path, text: str) -> tuple[str, dict[str, int], str]:
    """The report, what the manifest says, and what `show` says of the first run."""
    (folder / "x.py").write_text(text)
    cli("sweep", "x.py", "--hosts", "0")
    out = folder / "out" / "sweep"
    rows: list[dict[str, Any]] = json.loads(cli("ls", "--json").stdout)
    manifest = json.loads((out / "manifest.json").read_bytes())
    return (out / "report.html").read_text("utf-8"), manifest["floored"], cli("show", rows[0]["run_id"]).stdout


def test_calls_charged_by_our_own_count_are_told_by_model(cli: Here, tmp_path: Path) -> None:
    report, told, shown = swept(cli, tmp_path, FILE)
    n = told["shy"]

    assert set(told) == {"shy"}
    assert n >= 2
    assert f"shy: {n} calls" in report
    assert "charged by our own count" in report
    [line] = [line for line in shown.splitlines() if "charged by our own count" in line]
    assert line.startswith("count ")
    assert f"shy: {n // 2} call" in line
    assert "plain" not in line


def test_where_all_endpoints_tell_enough_nothing_is_said(cli: Here, tmp_path: Path) -> None:
    report, told, shown = swept(cli, tmp_path, FILE.replace("floored=True", "floored=False"))

    assert told == {}
    assert "our own count" not in report
    assert "our own count" not in shown
