"""Recorded work in the office of WorkBench: the price rule, our office against the recorded verdicts, and broken files.

The recordings are no part of the repository. They are looked for in the folder named by OSTROM_DATA, or else in
`../shared/data` beside the repository; the tests that need them are skipped without.
"""

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks.experiment import load_experiment
from benchmarks.tasks.office import UNCHANGED
from benchmarks.tasks.office_tools import KEYS, TOOLS
from benchmarks.tasks.workbench import FILES, Data, load, usage_of
from runtime.budget import Budget
from runtime.driver import Runtime
from runtime.errors import ConfigError
from runtime.host import run_virtual
from runtime.preflight import RunSpec
from runtime.result import RunResult
from runtime.usage import Usage
from topologies import Single

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("OSTROM_DATA") or ROOT.parent / "shared" / "data") / "workbench"
EXAMPLE = ROOT / "examples" / "workbench_recorded.py"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no recordings at {DATA}; set OSTROM_DATA to their folder")

NAMES = {
    "gpt-4": "gpt-4",
    "claude-2": "claude-2",
    "gpt-3.5": "gpt-3.5",
    "llama2-70b": "llama2-70b",
    "mistral-8x7B": "mixtral-8x7b",
}
USD_PER_MILLION = {"gpt-4": 37.5, "claude-2": 12, "gpt-3.5": 0.75, "llama2-70b": 1, "mistral-8x7B": 0.5}
SYSTEMS = [
    ("gpt-4", "all"),
    ("gpt-4", "domains"),
    ("claude-2", "all"),
    ("claude-2", "domains"),
    ("gpt-3.5", "domains"),
    ("llama2-70b", "domains"),
    ("mistral-8x7B", "all"),
    ("mistral-8x7B", "domains"),
]
DELETE = 'email.delete_email.func(email_id="00000001")'
SEARCH = 'email.search_emails.func(query="x")'


def query(i: int = 0, **changes: Any) -> dict[str, Any]:
    right = {"answer_calls": [DELETE], "domains": ["email"]}
    return {"id": f"q{i}", "domain": "email", "query": f"Delete number {i}"} | right | changes


def recorded(i: int = 0, model: str = "gpt-4", toolset: str = "all", **changes: Any) -> dict[str, Any]:
    said = {"function_calls": [SEARCH, DELETE], "error": "", "response_chars": 41}
    return {"model": model, "toolset": toolset, "query": f"Delete number {i}"} | said | changes


def lines(*rows: object) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def documents() -> list[dict[str, Any]]:
    """Documentation of 10 characters for each tool."""
    return [{"name": name, "params": list(parameters), "doc": "d" * 10} for name, (_, parameters) in TOOLS.items()]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with one record in each table and one query, on which GPT-4 is recorded."""
    for table, (file, columns) in FILES.items():
        names = columns.split()
        row = ["00000001" if name == KEYS.get(table) else "2023-11-01" for name in names]
        (tmp_path / file).write_text("".join(",".join(cells) + "\n" for cells in (names, row)))
    (tmp_path / "email_addresses.csv").write_text("ana@atlas.com\n")
    (tmp_path / "tools.json").write_text(json.dumps(documents()))
    (tmp_path / "queries.jsonl").write_text(lines(query()))
    (tmp_path / "recorded.jsonl").write_text(lines(recorded()))
    return tmp_path


def run(data: Data, model: str) -> list[RunResult]:
    team = Single(model=model)
    specs = [RunSpec(f"r{i}", team, task, Budget(usd=100), seed=0) for i, task in enumerate(data.tasks)]
    return run_virtual(specs, data.models.__getitem__)


def test_a_query_becomes_a_task_whose_answer_is_what_the_right_calls_change(home: Path) -> None:
    (home / "recorded.jsonl").write_text(lines(recorded(), recorded(model="mistral-8x7B", toolset="domains")))
    data = load(str(home))
    (task,) = data.tasks
    office = data.office()
    office.call("email.delete_email", email_id="00000001")

    assert (task.prompt, task.id, task.family, task.check) == ("Delete number 0", "q0", "workbench email", "exact")
    assert task.answer == office.changes() != UNCHANGED
    assert list(data.models) == ["recorded/gpt-4-all", "recorded/mixtral-8x7b-domains"]


def test_tokens_are_characters_by_four_and_the_documentation_once_a_call() -> None:
    assert usage_of(8, 1, ["d" * 8]) == Usage(2, 2)
    assert usage_of(9, 3, ["d" * 5, "d" * 4]) == Usage(3 * 3, 3)
    assert usage_of(0, 0, ["d" * 8]) == Usage(0, 0)


@pytest.mark.parametrize(
    ("model", "toolset", "pico_usd"),
    [
        # 41 characters are 11 tokens; 27 docs of 10 characters are 68 tokens, the 7 of a domain 18; each for two calls.
        ("gpt-4", "all", (2 * 68 + 11) * 37_500_000),
        ("gpt-4", "domains", (2 * 18 + 11) * 37_500_000),
        ("claude-2", "all", (2 * 68 + 11) * 12_000_000),
        ("gpt-3.5", "all", (2 * 68 + 11) * 750_000),
        ("llama2-70b", "all", (2 * 68 + 11) * 1_000_000),
        ("mistral-8x7B", "all", (2 * 68 + 11) * 500_000),
    ],
)
def test_a_run_costs_what_the_rule_says(home: Path, model: str, toolset: str, pico_usd: int) -> None:
    (home / "recorded.jsonl").write_text(lines(recorded(model=model, toolset=toolset)))
    (result,) = run(load(home), f"recorded/{NAMES[model]}-{toolset}")

    assert (result.correct, result.spend.total.pico_usd) == (True, pico_usd)


@pytest.mark.parametrize(
    ("changes", "correct"),
    [
        ({"function_calls": [DELETE, DELETE]}, True),
        ({"function_calls": [SEARCH]}, False),
        ({"function_calls": [DELETE], "error": "gave up"}, False),
        ({"function_calls": ["email.delete_email.func(", DELETE]}, True),
    ],
)
def test_a_system_is_right_when_it_leaves_the_right_office_without_an_error(
    home: Path, changes: dict[str, Any], correct: bool
) -> None:
    (home / "recorded.jsonl").write_text(lines(recorded(**changes)))
    (result,) = run(load(home), "recorded/gpt-4-all")

    assert result.correct is correct


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("queries.jsonl", "", ": no queries in it"),
        ("queries.jsonl", lines(query(), "{"), ":2: not valid JSON"),
        ("queries.jsonl", lines({"id": "q"}), ":1: domain: is missing"),
        ("queries.jsonl", lines(query(), query(1, query="Delete number 0")), ":2: query: the same as in line 1"),
        ("queries.jsonl", lines(query(), query(1, id="q0")), ":2: id: the same as in line 1"),
        ("queries.jsonl", lines(query(), query(1, query=" ")), ":2: query: is empty"),
        ("recorded.jsonl", "", ": no recordings in it"),
        ("recorded.jsonl", lines(recorded(), "[]"), ":2: not a JSON object"),
        ("recorded.jsonl", lines(recorded(toolset="none")), ":1: toolset: unknown; take 'all' or 'domains'"),
        ("recorded.jsonl", lines(recorded(response_chars=-1)), ":1: response_chars: Input should be greater"),
        (
            "recorded.jsonl",
            lines(recorded(model="eliza")),
            ":1: model: there is no price for 'eliza'; known are gpt-4,",
        ),
        ("recorded.jsonl", lines(recorded(), recorded(1)), ":2: query: is not among the queries"),
        ("recorded.jsonl", lines(recorded(), recorded()), ":2: query: this system answers it in an earlier line"),
        ("tools.json", "{}", ": Input should be a valid array"),
        ("tools.json", "[", ": Invalid JSON"),
        ("tools.json", json.dumps([documents()[0], {"name": "x"}]), ": 1.params: Field required"),
        ("tools.json", json.dumps(documents()[1:]), ": calendar.get_event_information_by_id is missing"),
        (
            "tools.json",
            json.dumps([*documents(), {"name": "a.b", "params": [], "doc": ""}]),
            ": a.b is missing, or is not",
        ),
        (
            "tools.json",
            json.dumps([documents()[0] | {"params": ["id"]}, *documents()[1:]]),
            ": calendar.get_event_information_by_id is missing, or is not a tool of this office with these parameters",
        ),
        ("analytics_data.csv", "", ":1: the columns must be date_of_visit, visitor_id,"),
        ("project_tasks.csv", "task_id,task_name\n", ":1: the columns must be task_id, task_name, assigned_to_email,"),
        ("calendar_events.csv", FILES["calendar"][1].replace(" ", ",") + "\n1,2,3\n", ":2: has not one value for each"),
        (
            "emails.csv",
            FILES["email"][1].replace(" ", ",") + "\n1,2,3,4,5,6,7\n",
            ":2: has not one value for each of the 6",
        ),
        ("emails.csv", FILES["email"][1].replace(" ", ",") + '\n1,2,3,4,5,"6\n', ":2: unexpected end of data"),
        ("emails.csv", FILES["email"][1].replace(" ", ",") + "\nx,2,3,4,5,6\n", ":2: email_id: 'x' is no number"),
    ],
)
def test_a_broken_file_is_named_with_the_place(home: Path, file: str, text: str, complaint: str) -> None:
    (home / file).write_text(text)

    with pytest.raises(ConfigError) as caught:
        load(home)

    assert str(caught.value).startswith(f"{home / file}{complaint}")


@pytest.mark.parametrize(
    "file",
    ["queries.jsonl", "recorded.jsonl", "tools.json", "email_addresses.csv", *(file for file, _ in FILES.values())],
)
def test_a_missing_file_is_named(home: Path, file: str) -> None:
    (home / file).unlink()

    with pytest.raises(ConfigError) as caught:
        load(home)

    assert str(caught.value) == f"{home / file}: cannot be read: No such file or directory"


def test_a_table_that_is_no_text_is_named(home: Path) -> None:
    (home / "emails.csv").write_bytes(b"\xff")

    with pytest.raises(ConfigError, match=r"emails\.csv: cannot be read: 'utf-8' codec"):
        load(home)


def test_a_system_that_lacks_a_query_is_named(home: Path) -> None:
    (home / "queries.jsonl").write_text(lines(query(), query(1)))

    with pytest.raises(ConfigError, match="recorded/gpt-4-all has no row for the query 'Delete number 1'"):
        load(home)


async def test_the_example_puts_each_system_beside_the_vote_and_the_cascade(home: Path) -> None:
    (home / "recorded.jsonl").write_text(lines(*(recorded(0, *system) for system in SYSTEMS)))
    experiment, _ = load_experiment(EXAMPLE, {"data": str(home)})
    async with Runtime(models=experiment.catalog) as runtime:
        trials = experiment.plan(runtime).trials
        results = [result async for _, result in runtime.map([trial.spec for trial in trials])]

    assert [trial.topology for trial in trials[-2:]] == ["Independent(8)", "Cascade(8,2)"]
    assert {f"recorded/{trial.topology}" for trial in trials[:-2]} == set(load(home).models)
    assert {trial.kind for trial in trials} == {"recorded"}
    assert [(result.status, result.correct) for result in results] == [("completed", True)] * 10


def test_the_example_asks_for_its_data() -> None:
    with pytest.raises(ConfigError, match="--set data="):
        load_experiment(EXAMPLE, {})


@pytest.fixture(scope="module")
def real() -> Data:
    return load(DATA)


def rows_of(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text("utf-8").splitlines()]


@needs_data
def test_our_office_agrees_with_the_recorded_verdict_on_every_row_at_the_price_of_the_rule(real: Data) -> None:
    rows = rows_of("recorded.jsonl")
    docs = {tool["name"]: len(tool["doc"]) for tool in json.loads((DATA / "tools.json").read_text("utf-8"))}
    domains = {row["query"]: {*row["domains"], "company_directory"} for row in rows_of("queries.jsonl")}
    wanted, found = {}, {}
    for row in rows:
        # The rule once more, from the files alone.
        given = [name for name in docs if row["toolset"] == "all" or name.partition(".")[0] in domains[row["query"]]]
        tokens = (row["response_chars"] + 3) // 4 + len(row["function_calls"]) * (
            (sum(docs[name] for name in given) + 3) // 4
        )
        usd = round(tokens * USD_PER_MILLION[row["model"]] * 1_000_000)
        wanted[f"recorded/{NAMES[row['model']]}-{row['toolset']}", row["query"]] = (row["correct"], tokens, usd)
    for name in real.models:
        for task, result in zip(real.tasks, run(real, name), strict=True):
            total = result.spend.total
            found[name, task.prompt] = (result.correct, total.tokens, total.pico_usd)

    assert len(rows) == len(wanted) == 3_840
    assert {key: (found.get(key), told) for key, told in wanted.items() if found.get(key) != told} == {}


@needs_data
def test_the_tables_are_read_whole(real: Data) -> None:
    for table, (file, _) in FILES.items():
        with (DATA / file).open(encoding="utf-8", newline="") as lines_of:
            assert list(real.tables[table]) == list(csv.DictReader(lines_of))
