"""The page on writing a topology is one program that prints what it shows; the example beside it runs, too."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "write-your-own-topology.md").read_text(encoding="utf-8")
MAX_LINES = 15


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def run(file: Path, cwd: Path) -> str:
    """What a user's program prints, run outside the repository."""
    done = subprocess.run([sys.executable, str(file)], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_code_of_the_page_prints_what_the_page_shows(tmp_path: Path) -> None:
    (tmp_path / "page.py").write_text("\n".join(blocks("python")), encoding="utf-8")

    assert run(tmp_path / "page.py", tmp_path) == "".join(blocks("text"))


def test_the_first_topology_of_the_page_is_as_short_as_it_says() -> None:
    first = blocks("python")[0].partition("class ")[2]

    assert len([line for line in first.splitlines() if line.strip()]) <= MAX_LINES


def test_the_example_runs(tmp_path: Path) -> None:
    out = run(ROOT / "examples" / "own_topology.py", tmp_path)

    assert len(out.splitlines()) == 9
    assert out.count("Review") == 3
    assert "completed" in out
