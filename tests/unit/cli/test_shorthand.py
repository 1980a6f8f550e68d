"""Words of the command line become teams, tasks and limits; a team of one's own is used like a shipped one."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.cli.shorthand import TASKS, TOPOLOGIES, tasks_of, team_of, tool_calls_of, topology_of
from benchmarks.tasks import register
from runtime.nesting import agents_of

EXAMPLE = Path(__file__).parents[3] / "examples" / "own_topology.py"
Here = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("single", "Single"),
        ("single:fill", "Single(fill)"),
        ("independent:5", "Independent(5)"),
        ("star", "Star(4)"),
        ("STAR:2", "Star(2)"),
        ("chain:1", "Chain(1)"),
        ("tree:3,1", "Tree(3,1)"),
        (f"{EXAMPLE}:Review", "Review"),
    ],
)
def test_a_shorthand_is_a_topology(text: str, name: str) -> None:
    assert topology_of(text).name == name


@pytest.mark.parametrize("text", TOPOLOGIES.split(", or ")[0].replace("tree:2,2", "tree:2;2").split(", "))
def test_every_team_that_help_names_gets_the_tool_that_a_family_needs(text: str) -> None:
    text = text.replace(";", ",")
    plain, equipped = (team_of(text, "sim/small", task) for task in ("companies:1", "register:1"))
    tools = {seat: agent.tools for seat, agent in agents_of(equipped).items()}

    assert equipped.name == plain.name
    assert list(tools) == list(agents_of(plain))
    assert not any(agent.tools for agent in agents_of(plain).values())
    assert {seat for seat, has in tools.items() if has == (register.REGISTER,)} == {
        seat for seat, agent in agents_of(plain).items() if agent.role == "executor"
    }


def test_tasks_of_every_family_that_help_names_are_made() -> None:
    families = [word.partition(":")[0] for word in TASKS.removesuffix(" (generated)").split(", ")]

    assert [[task.family for task in tasks_of(f"{family}:2")] for family in families] == [[f, f] for f in families]


@pytest.mark.parametrize(
    ("texts", "limit"),
    [(None, None), ([], None), (["20"], 20), (["a=5"], {"a": 5}), (["a=5", "b=0"], {"a": 5, "b": 0})],
)
def test_tool_calls_are_limited_together_or_one_by_one(
    texts: list[str] | None, limit: int | dict[str, int] | None
) -> None:
    assert tool_calls_of(texts) == limit


def test_a_limit_of_tool_calls_holds_and_a_family_with_a_tool_is_solved(ostrom_here: Here, tmp_path: Path) -> None:
    def run(*more: str) -> dict[str, object]:
        done = ostrom_here("run", "register:1", "--model", "sim/large", *more, "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        found: dict[str, object] = json.loads(done.stdout)
        return found

    assert run("--topology", "mesh:3", "--tokens", "60000")["correct"] is True
    for limit in ("5", "register=5"):
        short = run("--tool-calls", limit)
        assert short["status"] == "exhausted"
        assert short["spend"]["tool_calls"] == 5  # type: ignore[index]


@pytest.mark.parametrize("name", ["Pair", "pair", "made"])
def test_a_class_an_object_and_a_function_are_topologies(ostrom_here: Here, tmp_path: Path, name: str) -> None:
    (tmp_path / "beside.py").write_text("NAME = 'Pair'\n")
    (tmp_path / "own.py").write_text(
        "from beside import NAME\nfrom topologies import Single, Star\n\n"
        "class Pair(Star):\n    def __init__(self):\n        super().__init__(2, name=NAME)\n\n"
        "pair = Pair()\n\ndef made():\n    return Star([Single(), Pair()], name=NAME)\n"
    )

    drawn = ostrom_here("draw", f"own.py:{name}", cwd=tmp_path)
    done = ostrom_here(
        "run", "companies:1", "--topology", f"own.py:{name}", "--tokens", "20000", "--out", "kept", cwd=tmp_path
    )

    assert (drawn.returncode, done.returncode) == (0, 0), drawn.stderr + done.stderr
    assert 'aria-label="Pair"' in drawn.stdout
    assert "team    Pair · sim/small" in done.stdout
    assert json.loads(ostrom_here("ls", "--out", "kept", "--json", cwd=tmp_path).stdout)[0]["team"] == "Pair"
