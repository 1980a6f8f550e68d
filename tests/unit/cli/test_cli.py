"""The command line: a mistake is one line and exit code 2 before anything is spent, and every command does its work."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from benchmarks.cli.app import app

Here = Callable[..., "subprocess.CompletedProcess[str]"]

HEAD = """
from benchmarks import Experiment, setting
from benchmarks.tasks import companies, jsonl
from runtime import Agent, Budget
from topologies import Chain, Graph, Single, Star

def experiment_of(**more):
    usual = dict(tasks=companies.generate(2, seed=3), topologies=[Single(), Star(2)], models=["sim/small"],
                 budgets=[Budget(tokens=20_000)])
    return Experiment(more.pop("name", "little"), **usual | more)

def wired(*edges):
    return Graph({seat: Agent("executor") for seat in "abcd"}, edges)
"""

OWN = """
from runtime import Agent
from topologies import Independent, Topology

class Pair(Topology):
    def __init__(self):
        super().__init__("Pair", {"a": Agent("executor"), "b": Agent("executor")})

    def channels(self):
        return [("a", "b")]

    async def solve(self, task, team):
        return await team.ask("b", await team.ask("a", task))

pair, three = Pair(), 3

def sized(n):
    return Independent(n)

async def solve():
    return pair
"""


@pytest.fixture
def cli(ostrom_here: Here, tmp_path: Path) -> Here:
    """The command in an empty folder."""

    def call(*args: object, **env: str) -> "subprocess.CompletedProcess[str]":
        return ostrom_here(*args, cwd=tmp_path, **env)

    return call


def write(folder: Path, what: str = "experiment = experiment_of()") -> None:
    (folder / "x.py").write_text(f"{HEAD}\n{what}\n")


def check_refused(done: "subprocess.CompletedProcess[str]", *words: str) -> None:
    """One line on stderr, with these words, and nothing on stdout."""
    assert (done.returncode, done.stdout) == (2, ""), done
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    for word in words:
        assert word in done.stderr


# ---- mistakes


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("experiment = experiment_of(models=['sim/smal'])", ["'sim/smal'", "did you mean 'sim/small'?", "ostrom.toml"]),
        (
            "experiment = experiment_of(models=['free'], budgets=[Budget(usd=1)])",
            ["'free'", "no known price", "input_usd"],
        ),
        (
            "experiment = experiment_of(budgets=[Budget(tokens=900)])",
            ["Star(2)", "900 tokens", "too small for one call"],
        ),
        ("experiment = experiment_of(topologies=[wired('ab', 'bc', 'ca', 'cd')])", ["cycle: a → b → c → a"]),
        ("experiment = experiment_of(topologies=[wired('ab', 'ab')])", ["edge a → b is there twice"]),
        ("experiment = experiment_of(topologies=[wired('ax')])", ["'x'", "no node"]),
        ("experiment = experiment_of(name='../up')", ["'../up'", "not a usable name"]),
        ("experiment = experiment_of(tasks=jsonl.load('bad.jsonl'))", ["bad.jsonl:2: check: is missing"]),
        ("experiment = experiment_of(tasks=jsonl.load('worse.jsonl'))", ["worse.jsonl:1: not valid JSON"]),
        ("experiment = experiment_of(tasks=[])", ["tasks is empty"]),
        ("experiment = experiment_of(seeds=[1, 1])", ["seeds contains 1 more than once"]),
        ("experiment = experiment_of(seeds=[int(setting('seeds'))])", ["--set seeds=VALUE"]),
        ("experiment = 3", ["must define `experiment = Experiment(...)`"]),
        ("def broken(:", ["x.py", "SyntaxError", "line"]),
        ("import no_such_module", ["x.py", "No module named 'no_such_module'"]),
        ("raise SystemExit(0)", ["x.py", "SystemExit"]),
    ],
)
@pytest.mark.parametrize("command", ["plan", "sweep"])
def test_a_fault_in_an_experiment_is_told_before_anything_is_spent(
    cli: Here, tmp_path: Path, command: str, what: str, words: list[str]
) -> None:
    (tmp_path / "ostrom.toml").write_text('[models.free]\nendpoint="http://127.0.0.1:9/v1"\nmodel="x"\nkey_env=""\n')
    good = '{"prompt": "a", "answer": "1", "check": "exact"}\n'
    (tmp_path / "bad.jsonl").write_text(good + '{"prompt": "b", "answer": "1"}\n')
    (tmp_path / "worse.jsonl").write_text('{"prompt": \n' + good)
    write(tmp_path, what)

    check_refused(cli(command, "x.py"), *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("sweep gone.py", ["gone.py: no such experiment file"]),
        ("sweep .", ["no such experiment file"]),
        ("plan notes.txt", ["ends in .py"]),
        ("plan x.py --set seeds", ["--set seeds", "--set name=value"]),
        ("plan x.py --set =3", ["--set name=value"]),
        ("plan x.py --set sede=3", ["no setting 'sede'", "it has seed"]),
        ("report", ["holds no sweep", "ostrom sweep FILE --out"]),
        ("report --out damaged", ["cannot be read", "run the sweep again"]),
        ("compare Single Star(2)", ["holds no sweep"]),
        ("ls", ["holds no store"]),
        ("show some-run", ["holds no store"]),
        ("init x.py", ["x.py is there already"]),
        ("init no/folder/x.py", ["cannot be written"]),
        ("run What?", ["at least one of tokens, usd"]),
        ("run What? --usd much", ["'much' is not an amount of dollars"]),
        ("run What? --usd=-1", ["not negative"]),
        ("run What? --tokens=-1", ["tokens=-1"]),
        ("run What? --seconds nan", ["seconds=nan"]),
        ("run companies:1 --tokens 90", ["too small for one call"]),
        ("run companies:1 --usd 0.00001", ["the budget of $0.00001 is too small", "which need $0.000"]),
        ("run companis:2 --tokens 9000", ["no generator 'companis'", "companies, craft, register"]),
        ("run What? --tokens 9000", ["sim/small is simulated", "name a real model"]),
        ("run What? --tokens 9000 --model nobody", ["no model 'nobody'"]),
        ("run What? --tokens 9000 --model auction:sim/small", ["two or more different models"]),
        ("run What? --tokens 9000 --topology ring:3", ["unknown topology 'ring:3'"]),
        ("run What? --tokens 9000 --topology star:x", ["whole numbers"]),
        ("run What? --tokens 9000 --topology star:0", ["1 to 1000 agents"]),
        ("run What? --tokens 9000 --topology star:1,2", ["takes one size"]),
        ("run What? --tokens 9000 --topology single:2", ["takes no size"]),
        ("run What? --tokens 9000 --topology single:full", ["whole numbers"]),
        ("run What? --tokens 9000 --topology own.py", ["name the one that is meant, as in own.py:NAME"]),
        ("run What? --tokens 9000 --topology gone.py:Mine", ["gone.py: no such topology file"]),
        ("run What? --tokens 9000 --topology own.py:Nobody", ["no 'Nobody' in it", "it has Pair, pair"]),
        ("run What? --tokens 9000 --topology own.py:three", ["is of type int and no topology"]),
        ("run What? --tokens 9000 --topology own.py:solve", ["is of type function and no topology"]),
        (
            "run What? --tokens 9000 --topology own.py:sized",
            ["missing 1 required positional argument", "without arguments"],
        ),
        ("draw broken.py:Pair", ["broken.py raised SyntaxError"]),
        ("run What? --tool-calls few", ["--tool-calls few: write one whole number", "search=5"]),
        ("run What? --tool-calls=-1", ["--tool-calls -1: write one whole number"]),
        ("run What? --tool-calls 3 --tool-calls search=1", ["--tool-calls 3: write one whole number"]),
        ("run What? --tool-calls search=1 --tool-calls search=2", ["each tool once"]),
        ("run register:1 --tool-calls search=1", ["nobody in Single has a tool", "there is register"]),
        ("run gone.jsonl --tokens 9000", ["gone.jsonl: cannot be read"]),
        ("serve --scripted m", ["NAME=INPUT,OUTPUT,SECONDS,TEXT"]),
        ("serve --scripted =1,2,3,x", ["has no name"]),
        ("serve --port 99999", ["cannot listen on 127.0.0.1 port 99999"]),
        ("serve --host 192.0.2.1", ["cannot listen on 192.0.2.1"]),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_with_the_cure(
    cli: Here, tmp_path: Path, args: str, words: list[str]
) -> None:
    write(tmp_path, "experiment = experiment_of(seeds=[int(setting('seed', '0'))])")
    (tmp_path / "notes.txt").write_text("experiment = 3")
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "broken.py").write_text("def broken(:")
    (tmp_path / "damaged").mkdir()
    for name in ("trials.parquet", "manifest.json"):
        (tmp_path / "damaged" / name).write_text("{")

    check_refused(cli(*args.split(" ")), *words)


def test_a_folder_that_cannot_be_made_is_named(cli: Here, tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "file").touch()

    done = cli("sweep", "x.py", "--hosts", 0, "--out", "file/inside")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: file/inside: cannot be made a folder: Not a directory; choose another\n"


@pytest.mark.parametrize(
    "args", [["sweep"], ["no-such-command"], ["sweep", "x.py", "--hosts", "-1"], ["ls", "--colour"]]
)
def test_what_the_parser_refuses_is_misuse_too(cli: Here, args: list[str]) -> None:
    done = cli(*args)

    assert (done.returncode, done.stdout) == (2, "")
    assert "--help" in done.stderr


def test_a_key_that_is_not_set_is_named_and_never_shown(cli: Here, tmp_path: Path) -> None:
    table = '[models.far]\nendpoint="http://127.0.0.1:9/v1"\nmodel="x"\nkey_env="{}"\n'
    (tmp_path / "ostrom.toml").write_text(table.format("FAR_KEY"))

    check_refused(
        cli("run", "What?", "--tokens", 9000, "--model", "far"), "environment variable FAR_KEY, which is not set"
    )

    (tmp_path / "ostrom.toml").write_text(table.format("sk-proj-0123456789abcdef"))
    pasted = cli("run", "What?", "--tokens", 9000, "--model", "far")
    check_refused(pasted, "[models.far]", "the NAME of an environment variable")
    assert "0123456789" not in pasted.stderr


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("cluster", ['Runtime("cluster") joins the cluster of the Ray job', "RAY_ADDRESS is not set"]),
        ("127.0.0.1:1", ["cannot join a Ray cluster at '127.0.0.1:1'", "refused"]),
        ("head", ["'head' is no address of a Ray head", "host:port"]),
    ],
)
def test_a_cluster_that_is_not_there_is_told_at_once(
    ostrom: Callable[..., Any], tmp_path: Path, address: str, words: list[str]
) -> None:
    """In a process of its own: in this one a test may have started Ray."""
    write(tmp_path)

    done = ostrom("sweep", "x.py", "--address", address, cwd=tmp_path, within=60)

    assert (done.returncode, done.stdout) == (2, f"joining Ray at {address}\n")
    assert done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in words)


# ---- work


@pytest.fixture
def swept(cli: Here, tmp_path: Path) -> dict[str, Any]:
    """A finished sweep in the folder `out/sweep`; its document."""
    write(tmp_path, "experiment = experiment_of(seeds=[0, 1])")
    done = cli("sweep", "x.py", "--hosts", 0, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_plan_shows_what_would_run_and_runs_nothing(cli: Here, tmp_path: Path) -> None:
    write(tmp_path, "experiment = experiment_of(seeds=[int(setting('seed', '7'))], cap=Budget(usd=5))")

    shown, document = cli("plan", "x.py"), json.loads(cli("plan", "x.py", "--json", "--set", "seed=8").stdout)

    assert "trials      4" in shown.stdout
    assert (document["trials"], document["kind"], document["seeds"], document["cap"]) == (4, "simulated", [8], "$5")
    assert document["arms"] == ["Single · sim/small", "Star(2) · sim/small"]
    assert [path.name for path in tmp_path.iterdir()] == ["x.py"]


def test_a_plan_is_the_same_each_time_and_another_for_another_setting(cli: Here, tmp_path: Path) -> None:
    write(tmp_path, "experiment = experiment_of(seeds=[int(setting('seed', '7'))])")

    digests = [
        json.loads(cli("plan", "x.py", "--json", *more).stdout)["digest"] for more in ([], [], ["--set", "seed=8"])
    ]

    assert digests[0] == digests[1] != digests[2]


def test_sweep_prints_table_audit_and_where_the_files_are(cli: Here, tmp_path: Path) -> None:
    write(tmp_path)

    done = cli("sweep", "x.py", "--hosts", 0, "--out", "here")

    assert (done.returncode, done.stderr) == (0, "")
    for text in (
        "4/4 trials",
        "(simulated, matched)",
        "Star(2)",
        "Match audit: matched",
        "table sha256",
        "here/report.html",
    ):
        assert text in done.stdout
    assert {path.name for path in (tmp_path / "here").iterdir()} >= {
        "trials.parquet",
        "calls.parquet",
        "cells.parquet",
        "manifest.json",
        "report.html",
        "store.sqlite",
    }


def test_report_prints_the_table_again(cli: Here, swept: dict[str, Any]) -> None:
    shown, document = cli("report"), json.loads(cli("report", "--json").stdout)

    assert "Match audit" in shown.stdout
    assert document["manifest"]["sha256"] == swept["sha256"]
    assert {(cell["topology"], cell["n"]) for cell in document["cells"]} == {("Single", 4), ("Star(2)", 4)}


def test_compare_pairs_two_arms_and_refuses_others(cli: Here, swept: dict[str, Any]) -> None:
    shown, rows = cli("compare", "Star(2)", "Single"), json.loads(cli("compare", "Star(2)", "Single", "--json").stdout)
    turned = json.loads(cli("compare", "Single", "Star(2)", "--json").stdout)

    assert "Star(2) − Single (simulated)" in shown.stdout
    assert [row["pairs"] for row in rows] == [4]
    assert rows[0]["difference"] == -turned[0]["difference"]
    check_refused(cli("compare", "Star(9)", "Single"), "there are Single · sim/small, Star(2) · sim/small")


def test_ls_and_show_give_what_the_store_holds(cli: Here, tmp_path: Path, swept: dict[str, Any]) -> None:
    rows = json.loads(cli("ls", "--json").stdout)
    ids = [row["run_id"] for row in rows]
    shown, document = cli("show", ids[0]), json.loads(cli("show", ids[0], "--json").stdout)

    assert [line.split()[0] for line in cli("ls").stdout.splitlines()[1:]] == ids
    assert json.loads(cli("ls", "--status", "failed", "--json").stdout) == []
    assert cli("ls", "--status", "failed").stdout == "no runs with status failed\n"
    assert len(ids) == swept["finished"] == 8
    assert document["run_id"] == ids[0]
    assert document["spend"]["tokens"] == sum(a["input_tokens"] + a["output_tokens"] for a in document["attempts"])
    assert f"{document['spend']['tokens']:,} tokens" in shown.stdout
    check_refused(cli("show", "no-such-run"), "no finished run 'no-such-run'")


def test_the_books_of_a_run_explain_every_unit(cli: Here, swept: dict[str, Any]) -> None:
    run_id = json.loads(cli("ls", "--json").stdout)[0]["run_id"]
    total = json.loads(cli("show", run_id, "--json").stdout)["spend"]

    shown, books = cli("show", run_id, "--books"), json.loads(cli("show", run_id, "--books", "--json").stdout)

    assert set(books["unexplained"].values()) == {0}
    assert books["total"]["settled"]["tokens"] == total["tokens"]
    assert sum(agent["settled"]["tokens"] for agent in books["agents"].values()) == total["tokens"]
    assert "unexplained 0" in shown.stdout
    assert "virtual, nobody is billed" in shown.stdout
    assert [above["scope"] for above in books["above"]] == [f"experiment:{swept['name']}"]


def test_an_operator_is_told_what_is_open_and_what_cannot_be_done(cli: Here, swept: dict[str, Any]) -> None:
    run_id = json.loads(cli("ls", "--json").stdout)[0]["run_id"]

    assert json.loads(cli("ps", "--json").stdout) == {}
    assert cli("ps").stdout == "nothing is open\n"
    check_refused(cli("pause", run_id), f"{run_id} is finished, and pause needs under way")
    check_refused(cli("top-up", run_id, "--usd", "1"), "run it anew with a larger budget")
    check_refused(cli("resume", "nobody"), "no open run and no experiment 'nobody'")
    check_refused(cli("top-up", swept["name"], "--usd", "1"), "has no such limit")
    check_refused(cli("top-up", swept["name"]), "say what to add")
    check_refused(cli("cancel", run_id, "--out", "nowhere"), "holds no store")


def test_gc_drops_old_results_and_keeps_what_they_cost(cli: Here, swept: dict[str, Any]) -> None:
    rows = json.loads(cli("ls", "--json").stdout)
    before = json.loads(cli("show", rows[0]["run_id"], "--books", "--json").stdout)["above"]

    kept = json.loads(cli("gc", "--keep-runs", "3", "--json").stdout)

    assert (kept["n_runs"], kept["n_dropped_runs"]) == (3, len(rows) - 3)
    left = json.loads(cli("ls", "--json").stdout)
    assert len(left) == 3
    assert json.loads(cli("show", left[0]["run_id"], "--books", "--json").stdout)["above"] == before


def test_run_works_on_a_file_of_tasks_and_keeps_what_it_did(cli: Here, tmp_path: Path) -> None:
    """Runs without a name never take one that is in the store: a second session goes on counting."""
    from benchmarks.tasks import companies

    tasks = companies.generate(2, seed=3)
    rows = [{"prompt": t.prompt, "answer": t.answer, "check": t.check, "id": t.id} for t in tasks]
    (tmp_path / "tasks.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    words = ["run", "tasks.jsonl", "--topology", "star:2", "--tokens", "20000", "--out", "kept"]

    first = json.loads(cli(*words, "--json").stdout)
    second = cli(*words, "--seed", 1)
    again = json.loads(cli(*words, "--json").stdout)

    assert [run["run_id"] for run in first] == ["run-1", "run-2"]
    assert {run["status"] for run in first} == {"completed"}
    assert [line.split()[0] for line in second.stdout.splitlines() if line.startswith("run-")] == ["run-3", "run-4"]
    assert again == first, "the same runs are taken from the store"
    listed = json.loads(cli("ls", "--out", "kept", "--json").stdout)
    assert [row["run_id"] for row in listed] == ["run-1", "run-2", "run-3", "run-4"]


def test_run_ends_with_1_where_a_run_failed(cli: Here, endpoint: str) -> None:
    far = {"OPENAI_BASE_URL": endpoint, "OPENAI_API_KEY": "none"}

    failed = cli("run", "What is 6 times 7?", "--model", "openai/nobody", "--tokens", 5000, "--json", **far)
    answered = cli("run", "What is 6 times 7?", "--model", "openai/m", "--tokens", 5000, "--json", **far)

    assert (failed.returncode, answered.returncode) == (1, 0)
    assert json.loads(failed.stdout)["status"] == "failed"
    assert "no model 'nobody' here" in json.loads(failed.stdout)["reason"]
    assert json.loads(answered.stdout)["answer"] == "42"


def test_init_writes_an_experiment_that_runs(cli: Here, tmp_path: Path) -> None:
    written = cli("init", "mine.py")

    assert written.stdout == "wrote mine.py; run it with: ostrom sweep mine.py\n"
    assert json.loads(cli("plan", "mine.py", "--json").stdout)["trials"] == 360


# ---- doctor


def test_doctor_finds_nothing_wrong_in_an_empty_folder(cli: Here) -> None:
    done = cli("doctor", "--no-ray", "--json")

    assert done.returncode == 0
    assert {check["name"]: check["ok"] for check in json.loads(done.stdout)} == {
        "python": True,
        "names": True,
        "store": True,
        "catalogue": True,
        "other ray": True,
    }


def found_by(done: "subprocess.CompletedProcess[str]") -> list[str]:
    assert done.returncode == 1
    return [line for line in done.stdout.splitlines() if line.startswith("FAIL")]


def test_doctor_names_the_key_that_is_missing(cli: Here, tmp_path: Path) -> None:
    (tmp_path / "ostrom.toml").write_text(
        '[models.far]\nendpoint="http://127.0.0.1:9/v1"\nmodel="x"\nkey_env="FAR_KEY"\n'
    )

    (line,) = found_by(cli("doctor", "--no-ray"))

    assert line.endswith("far needs FAR_KEY; export FAR_KEY=...")
    assert cli("doctor", "--no-ray", FAR_KEY="sk-1").returncode == 0
    assert "sk-1" not in cli("doctor", "--no-ray", FAR_KEY="sk-1").stdout


def test_doctor_finds_a_folder_that_hides_ours(cli: Here, tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "__init__.py").touch()

    (line,) = found_by(cli("doctor", "--no-ray"))

    assert "./policies/" in line
    assert "start Python with -P" in line


def test_doctor_finds_the_package_that_was_imported_instead_of_ours(tmp_path: Path) -> None:
    """Seen from a process in which it has happened already."""
    (tmp_path / "topologies").mkdir()
    (tmp_path / "topologies" / "__init__.py").touch()
    program = "import sys; from benchmarks.cli import checks; sys.path.insert(0, '.'); print(checks._names())"
    shadowed = (
        "import sys; sys.path.insert(0, '.'); import importlib.util as u; print(u.find_spec('topologies').origin)"
    )

    real = subprocess.run(
        [sys.executable, "-P", "-c", shadowed], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )

    assert str(tmp_path) in os.path.realpath(real.stdout.strip())
    assert "ok=False" in done.stdout


def test_doctor_tells_a_fault_in_the_catalogue_and_a_folder_it_cannot_write(cli: Here, tmp_path: Path) -> None:
    (tmp_path / "ostrom.toml").write_text("[models.far\n")
    (tmp_path / "file").touch()

    store, catalogue = found_by(cli("doctor", "--no-ray", "--out", "file/inside"))

    assert "file/inside" in store
    assert "ostrom.toml: no valid TOML" in catalogue


# ---- help

COMMANDS = sorted(command.name or command.callback.__name__ for command in app.registered_commands if command.callback)


def test_there_are_as_many_commands_as_help_shows(cli: Here) -> None:
    shown = cli("--help").stdout

    assert len(COMMANDS) >= 9
    assert [command for command in COMMANDS if f" {command} " not in shown] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_shows_an_example(cli: Here, command: str) -> None:
    done = cli(command, "--help")

    assert done.returncode == 0
    assert "Example" in done.stdout
    assert f"ostrom {command}" in done.stdout
