"""The README and the examples do what they say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from runtime.models.catalog import Catalog

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DATA = Path(os.environ.get("OSTROM_DATA", ROOT.parent / "shared" / "data")) / "gsm8k" / "recorded.jsonl"


OWN = """
import anyio
from benchmarks.tasks import companies
from runtime import Budget, Runtime

async def main():
    async with Runtime() as rt:
        [task] = companies.generate(1, seed=5)
        for calls in (3, 1):
            result = await rt.run(Debate().with_model("sim/small"), task, budget=Budget(calls=calls))
            print(result.status)
anyio.run(main)
"""


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def run(*command: str, cwd: Path) -> str:
    """Output of a command that must succeed, run outside the repository as a user's program is."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ostrom(*arguments: str, cwd: Path) -> str:
    """Output of an `ostrom` command."""
    return run(str(Path(sys.executable).parent / "ostrom"), *arguments, cwd=cwd)


def test_the_python_of_the_first_screen_prints_what_the_readme_shows(tmp_path: Path) -> None:
    [code, _], [shown] = blocks("python"), blocks("text")
    (tmp_path / "first.py").write_text(code)

    assert run(sys.executable, "first.py", cwd=tmp_path).rstrip() == shown.rstrip()


def test_the_topology_of_the_readme_runs(tmp_path: Path) -> None:
    [_, code] = blocks("python")
    (tmp_path / "own.py").write_text(code + OWN)

    assert run(sys.executable, "own.py", cwd=tmp_path).split() == ["completed", "exhausted"]


def test_the_catalogue_of_the_readme_is_read(tmp_path: Path) -> None:
    [toml] = blocks("toml")
    (tmp_path / "ostrom.toml").write_text(toml)

    model = Catalog(toml=tmp_path / "ostrom.toml").get("small")

    assert (model.virtual, model.price is None) == (False, False)


def test_every_command_the_readme_names_exists(tmp_path: Path) -> None:
    named = set(re.findall(r"(?<![./])\bostrom ([a-z]+(?:-[a-z]+)*)", README))

    assert named >= {"sweep", "plan", "report", "compare", "ls", "show", "init", "serve", "doctor", "run"}
    for command in named:
        assert "Usage" in ostrom(command, "--help", cwd=tmp_path)


def test_every_target_the_readme_names_is_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"^make ([a-z-]+)", README, re.MULTILINE))

    assert named == {"demo", "test"}
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in named)


def test_the_first_sweep_runs_and_says_that_it_is_simulated(tmp_path: Path) -> None:
    out = ostrom("sweep", str(ROOT / "examples/first_sweep.py"), "--hosts", "0", "--out", "o", cwd=tmp_path)

    manifest = orjson.loads((tmp_path / "o/manifest.json").read_bytes())
    report = (tmp_path / "o/report.html").read_text(encoding="utf-8")
    assert (manifest["planned"], manifest["finished"], manifest["kind"]) == (2700, 2700, "simulated")
    assert out.count("simulated") > 9
    assert report.count("simulated") > 9
    assert "<svg" in report
    assert {file.name for file in (tmp_path / "o").glob("*.parquet")} == {
        "trials.parquet",
        "calls.parquet",
        "cells.parquet",
        "metrics.parquet",
        "channels.parquet",
        "teams.parquet",
    }


def test_the_starter_of_init_runs(tmp_path: Path) -> None:
    ostrom("init", "mine.py", cwd=tmp_path)

    assert "my-sweep" in ostrom("sweep", "mine.py", "--hosts", "0", "--out", "o", cwd=tmp_path)


@pytest.mark.skipif(not DATA.is_file(), reason="the GSM8K recordings are not here (OSTROM_DATA names their folder)")
def test_the_recorded_systems_score_what_was_recorded(tmp_path: Path) -> None:
    example = str(ROOT / "examples/gsm8k_recorded.py")

    out = ostrom("sweep", example, "--set", f"data={DATA}", "--hosts", "0", "--out", "o", cwd=tmp_path)

    assert "recorded, not matched" in out
    cells = orjson.loads(ostrom("report", "--out", "o", "--json", cwd=tmp_path))["cells"]
    scored = {cell["model"]: round(cell["success"], 3) for cell in cells if cell["topology"] in cell["model"]}
    assert scored == {
        "recorded/6b-finetuning": 0.197,
        "recorded/6b-verification": 0.408,
        "recorded/175b-finetuning": 0.333,
        "recorded/175b-verification": 0.556,
    }
