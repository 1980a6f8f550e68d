"""A sweep from the command line: the same tables in one life or in several, here or on Ray; and what a cap lets in."""

import json
import os
import random
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from benchmarks.tables import canonical_sha256
from runtime.bank.service import Bank

Ostrom = Callable[..., Any]
PLANNED = 48
RUN_S = 120
HEAD = """
import os

from benchmarks import Experiment, setting
from benchmarks.tasks import companies
from runtime import Agent, Budget
from runtime.models import ScriptedModel
from topologies import Chain, Single, Star
"""
SWEEP = (
    HEAD
    + """
class Noted:
    # Leaves a mark for each time a trial is really worked on.
    async def solve(self, task, team):
        with open(os.environ["WORKED_ON"], "a") as file:
            file.write(f"{self.name} {task.id}\\n")
        return await super().solve(task, team)

class NotedSingle(Noted, Single): ...
class NotedStar(Noted, Star): ...
class NotedChain(Noted, Chain): ...

experiment = Experiment(
    "small",
    tasks=companies.generate(4, seed=int(setting("tasks", "3"))),
    topologies=[NotedSingle(), NotedStar(3), NotedChain(2)],
    models=["sim/small"],
    budgets=[Budget(tokens=4_000), Budget(tokens=12_000)],
    seeds=[0, 1],
)
"""
)


class Folder:
    """An experiment file, its `--out` folder, and how often its trials were worked on.

    Args:
        ostrom: runs the command line; where nothing is killed, in this process.
    """

    def __init__(self, root: Path, ostrom: Ostrom, text: str = SWEEP) -> None:
        self.root, self._ostrom = root, ostrom
        (root / "experiment.py").write_text(text)
        self.out, self._log = root / "out", root / "worked_on"
        self._log.touch()

    def sweep(self, *more: object, hosts: int = 0, **how: Any) -> Any:
        words = ("sweep", "experiment.py", "--out", "out", "--hosts", hosts, *more)
        return self._ostrom(*words, cwd=self.root, **{"WORKED_ON": str(self._log)} | how)

    def finish(self, *more: object, **how: Any) -> dict[str, Any]:
        """Run to the end and give the document of `--json`."""
        done = self.sweep("--json", *more, **how)
        assert (done.returncode, done.stderr) == (0, "")
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    @property
    def worked_on(self) -> int:
        return len(self._log.read_text().splitlines())

    @property
    def sealed(self) -> int:
        """How many trials lie finished in the store; while a sweep runs, nobody else can look."""
        bank = Bank(self.out)
        try:
            return len(list(bank.finished()))
        finally:
            bank.close()

    @property
    def manifest(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.out / "manifest.json").read_bytes())
        return found

    @property
    def trials(self) -> pl.DataFrame:
        return pl.read_parquet(self.out / "trials.parquet")


@pytest.fixture
def folder(tmp_path: Path, ostrom: Ostrom) -> Folder:
    """Swept by processes of their own."""
    return Folder(tmp_path, ostrom)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, ostrom: Ostrom) -> Folder:
    """The same sweep, run in one go."""
    folder = Folder(tmp_path_factory.mktemp("undisturbed"), ostrom)
    folder.finish(within=RUN_S)
    return folder


def test_a_sweep_leaves_tables_that_its_manifest_vouches_for(undisturbed: Folder) -> None:
    manifest, trials = undisturbed.manifest, undisturbed.trials

    assert (manifest["planned"], manifest["finished"], manifest["kind"]) == (PLANNED, PLANNED, "simulated")
    assert trials.height == PLANNED
    assert manifest["sha256"] == canonical_sha256(trials)
    assert pl.read_parquet(undisturbed.out / "cells.parquet").height == 6
    calls = pl.read_parquet(undisturbed.out / "calls.parquet")
    charged = calls.group_by("address").agg(pl.col("input_tokens").sum() + pl.col("output_tokens").sum())
    assert dict(charged.iter_rows()) == dict(trials.select("address", "tokens").iter_rows())
    assert (trials["over_tokens"] == 0).all()
    assert trials.select(["topology", "budget", "task", "seed"]).is_unique().all()
    assert b"simulated" in (undisturbed.out / "report.html").read_bytes()


# Committed are: that a driver took a folder, three times, the first in memory, to make the plan; the plan, twice; then
# what the trials are granted, and four batches of twelve trials.
@pytest.mark.parametrize(
    ("point", "sealed"),
    [
        ("store-before-commit:1", 0),
        ("store-before-commit:8", 12),
        ("store-after-commit:9", 36),
        ("store-after-commit:10", 48),
    ],
)
def test_a_sweep_that_was_killed_at_a_commit_goes_on_there(
    folder: Folder, undisturbed: Folder, point: str, sealed: int
) -> None:
    killed = folder.sweep(within=RUN_S, OSTROM_CRASH=point)

    assert killed.returncode == -signal.SIGKILL
    assert not (folder.out / "manifest.json").exists()
    assert folder.sealed == sealed
    before = folder.worked_on

    document = folder.finish(within=RUN_S)

    assert (document["resumed"], document["finished"]) == (sealed, PLANNED)
    assert folder.worked_on - before == PLANNED - sealed, "what is sealed is not worked on again"
    assert document["sha256"] == undisturbed.manifest["sha256"] == canonical_sha256(folder.trials)


@pytest.mark.parametrize("seed", range(3))
def test_a_sweep_that_was_killed_at_any_moment_goes_on_there(folder: Folder, undisturbed: Folder, seed: int) -> None:
    tenth = random.Random(seed).randrange(1, 9)
    running = folder.sweep()
    for line in running.stdout:
        done, slash, _ = line.partition(f"/{PLANNED} trials")
        if slash and int(done) * 10 >= tenth * PLANNED:
            break
    running.kill()
    running.communicate(timeout=RUN_S)
    sealed, before = folder.sealed, folder.worked_on

    ended = folder.sweep(within=RUN_S)

    assert ended.returncode == 0
    assert f"{sealed} trials are finished already and will not be run again" in ended.stdout
    assert folder.worked_on - before == PLANNED - sealed
    assert folder.manifest["sha256"] == undisturbed.manifest["sha256"] == canonical_sha256(folder.trials)


@pytest.mark.ray
def test_a_sweep_on_ray_makes_the_same_tables(folder: Folder, undisturbed: Folder) -> None:
    """Its hosts get the classes that the experiment file defines."""
    document = folder.finish(hosts=2, within=RUN_S)

    assert (document["sha256"], folder.worked_on) == (undisturbed.manifest["sha256"], PLANNED)


def test_another_plan_in_the_same_folder_is_refused_or_told(
    tmp_path: Path, ostrom: Ostrom, ostrom_here: Ostrom
) -> None:
    folder = Folder(tmp_path, ostrom_here)
    first, written = folder.finish(), (folder.out / "manifest.json").read_bytes()

    refused = folder.sweep("--set", "tasks=4")

    assert refused.returncode == 2
    assert "holds another plan of 'small'" in refused.stderr
    assert "--fork" in refused.stderr
    assert (folder.out / "manifest.json").read_bytes() == written

    Folder(tmp_path, ostrom).sweep("--set", "tasks=4", "--fork", within=RUN_S, OSTROM_CRASH="store-after-commit:8")
    forked = folder.finish("--set", "tasks=4")

    assert 0 < forked["resumed"] < PLANNED
    assert "forked from plan" in forked["revision"], "whoever takes a fork up has to say so, too"
    assert forked["sha256"] != first["sha256"]
    assert folder.sealed == 2 * PLANNED


def test_one_folder_has_one_sweep_at_a_time(tmp_path: Path, ostrom: Ostrom, ostrom_here: Ostrom) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    running = Folder(tmp_path, ostrom).sweep(WORKED_ON=str(gate))
    try:
        assert f"{PLANNED} trials" in running.stdout.readline(), "it has opened the store"
        second = Folder(tmp_path, ostrom_here).sweep()
    finally:
        # Its first trial waits at the gate until somebody reads there.
        reader = os.open(gate, os.O_RDONLY | os.O_NONBLOCK)
        running.communicate(timeout=RUN_S)
        os.close(reader)

    assert (running.returncode, second.returncode) == (0, 1)
    assert f"process {running.pid} on host {socket.gethostname()}" in second.stderr


def test_a_reader_that_goes_away_ends_nothing(tmp_path: Path, ostrom: Ostrom) -> None:
    """As `ostrom run … | head -1` does."""
    running = ostrom("run", "companies:1", "--tokens", "9000", "--out", "kept", cwd=tmp_path)
    running.stdout.close()

    assert running.stderr.read() == ""
    assert running.wait(RUN_S) == 0
    assert "completed" in ostrom("ls", "--out", "kept", cwd=tmp_path, within=RUN_S).stdout
    running.stderr.close()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Lets what is started here be interrupted, also where the tests themselves were started in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_a_sweep_and_the_same_command_goes_on(
    tmp_path: Path, ostrom: Ostrom, ostrom_here: Ostrom, undisturbed: Folder
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    running = Folder(tmp_path, ostrom).sweep(WORKED_ON=str(gate))
    assert f"{PLANNED} trials" in running.stdout.readline()
    running.send_signal(signal.SIGINT)
    reader = os.open(gate, os.O_RDONLY | os.O_NONBLOCK)
    _, told = running.communicate(timeout=RUN_S)
    os.close(reader)

    assert running.returncode == 130
    assert told.strip() == "interrupted; what is finished is kept, and the same command goes on from there"
    assert Folder(tmp_path, ostrom_here).finish()["sha256"] == undisturbed.manifest["sha256"]


CAPPED = (
    HEAD
    + """
experiment = Experiment(
    "capped",
    tasks=companies.generate(3, seed=3),
    topologies=[Single(Agent("executor", effort_tokens=64)), Star([Agent("executor", effort_tokens=64)] * 2)],
    models=["sim/small"],
    budgets=[Budget(usd="0.002")],
    seeds=[0, 1],
    cap=Budget(usd=setting("cap")),
)
"""
)


def test_a_cap_admits_whole_blocks_and_counts_what_it_left_out(tmp_path: Path, ostrom_here: Ostrom) -> None:
    """A block is two trials here, so its budgets are $0.004; what a block has left over lets later ones in."""
    folder = Folder(tmp_path, ostrom_here, CAPPED)

    capped = folder.finish("--set", "cap=0.006")

    trials = folder.trials
    assert 2 < capped["finished"] < capped["planned"] == 12
    assert capped["not_admitted"] == 12 - capped["finished"]
    assert trials.group_by("task", "seed").len()["len"].to_list() == [2] * (capped["finished"] // 2)
    spent = trials["pico_usd"].sum()
    assert spent <= 6_000_000_000 < spent + 4_000_000_000, "one block more would not have fitted"

    again = folder.sweep("--set", "cap=0.006")

    assert f"{capped['not_admitted']} trials were not admitted: the experiment's cap is reached" in again.stdout
    assert folder.manifest["sha256"] == capped["sha256"]
    assert folder.finish("--set", "cap=1")["finished"] == 12


def test_a_cap_below_the_first_block_admits_nothing_and_says_so(tmp_path: Path, ostrom_here: Ostrom) -> None:
    refused = Folder(tmp_path, ostrom_here, CAPPED).sweep("--set", "cap=0.003")

    assert refused.returncode == 2
    assert "no trial was admitted" in refused.stderr


LIVE = (
    HEAD
    + """
experiment = Experiment(
    "live",
    tasks=companies.generate(2, seed=3),
    topologies=[Single()],
    models=["paid"],
    budgets=[Budget(usd="0.01")],
    catalog={"paid": ScriptedModel(["42"], input_tokens=10, output_tokens=10, usd="0.001", virtual=False)},
    cap=Budget(**{setting("of", "usd"): int(setting("cap"))}) if setting("cap", "") else None,
)
"""
)


def test_real_money_is_spent_only_under_a_cap_and_after_a_yes(tmp_path: Path, ostrom_here: Ostrom) -> None:
    folder = Folder(tmp_path, ostrom_here, LIVE)

    without_cap = folder.sweep("--yes")
    under_another_cap = folder.sweep("--yes", "--set", "cap=9000", "--set", "of=tokens")
    without_yes = folder.sweep("--set", "cap=5", "--json")

    assert [run.returncode for run in (without_cap, under_another_cap, without_yes)] == [2, 2, 2]
    assert "real money and has no cap" in without_cap.stderr
    assert "cap limits tokens, but the budget '$0.01' of a run does not" in under_another_cap.stderr
    assert "at most $0.02 by its own budgets; the experiment's cap is $5" in without_yes.stderr
    assert without_yes.stdout == ""
    assert not folder.out.exists(), "nothing was begun"

    agreed = folder.sweep("--set", "cap=5", "--json", "--yes")

    document = json.loads(agreed.stdout)
    assert (document["kind"], document["finished"], document["not_admitted"]) == ("live", 2, 0)
    assert folder.trials["pico_usd"].sum() == 2 * 10**9
