"""Kill -9, again and again: of sweeps, of hosts, of the bank. What was finished stays, and the tables come out the same."""

import json
import os
import random
import select
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from benchmarks.tasks import companies
from runtime import Budget, RunResult, Task
from topologies import Chain, Independent

pytestmark = [pytest.mark.chaos, pytest.mark.ray]

Ostrom = Callable[..., Any]
Kill = Callable[[str, int], bool]
KILLS = 20
ON_RAY = 6
"""Of these on Ray, where besides the sweep itself a host or the bank may be hit, which it survives."""
LIMIT_S = 180
PLANNED = 1_440
SWEEP = """
import os

from benchmarks import Experiment
from benchmarks.tasks import companies
from runtime import Budget
from topologies import Chain, Single, Star

class Noted:
    async def solve(self, task, team):
        with open(os.environ["WORKED_ON"], "a") as file:
            file.write(f"{self.name} {task.id}\\n")
        return await super().solve(task, team)

class NotedSingle(Noted, Single): ...
class NotedStar(Noted, Star): ...
class NotedChain(Noted, Chain): ...

experiment = Experiment(
    "big",
    tasks=companies.generate(40, seed=3),
    topologies=[NotedSingle(), NotedStar(3), NotedChain(2)],
    models=["sim/small"],
    budgets=[Budget(tokens=4_000), Budget(tokens=12_000)],
    seeds=range(6),
)
"""


class Trail:
    """Told of every trial that is worked on, one by one, so that a kill can follow any of them."""

    def __init__(self, root: Path) -> None:
        self.path = root / "trail"
        os.mkfifo(self.path)
        # Both ends open: it has no end when a writer dies, and nobody waits for a reader.
        self._file = os.fdopen(os.open(self.path, os.O_RDWR), "rb", 0)

    def close(self) -> None:
        self._file.close()

    def wait_for(self, n: int, running: Any) -> int:
        """Wait until n more trials are worked on, or the sweep ends before; how many were."""
        ends = os.pidfd_open(running.pid)
        seen, poll = 0, select.poll()
        poll.register(self._file, select.POLLIN)
        poll.register(ends, select.POLLIN)
        while seen < n and (ready := dict(poll.poll(LIMIT_S * 1000))):
            if self._file.fileno() not in ready:
                break
            seen += self._file.read(4096).count(b"\n")
        os.close(ends)
        return seen


@pytest.fixture
def trail(tmp_path: Path) -> Iterator[Trail]:
    with closing(Trail(tmp_path)) as found:
        yield found


@pytest.fixture
def kill(processes: Any) -> Callable[[str, int], bool]:
    """Kill hosts or the bank of a driver; whether there was one."""

    def call(what: str, driver: int) -> bool:
        found = processes.banks(driver) if what == "the bank" else processes.hosts(driver)
        processes.kill(found[:1] if what == "a host" else found)
        return bool(found)

    return call


def run_to_the_end(running: Any, trail: Trail) -> None:
    while running.poll() is None:
        trail.wait_for(10_000, running)


@pytest.fixture
def short() -> Iterator[Path]:
    """For Ray, whose Unix sockets want short paths, and whose folder stays behind when its driver is killed."""
    path = Path(tempfile.mkdtemp(prefix="o"))
    yield path
    shutil.rmtree(path)


def test_twenty_kills_leave_no_trace_in_the_tables(
    tmp_path: Path, short: Path, trail: Trail, ostrom: Ostrom, processes: Any, kill: Kill
) -> None:
    (tmp_path / "big.py").write_text(SWEEP)
    rng = random.Random(20)

    def sweep(out: str, hosts: int) -> Any:
        words = ("sweep", "big.py", "--out", out, "--hosts", hosts, "--json")
        return ostrom(*words, cwd=tmp_path, WORKED_ON=str(trail.path), TMPDIR=str(short))

    whole = sweep("whole", 0)
    run_to_the_end(whole, trail)
    agents: set[int] = set()
    kills, with_ray = 0, set(rng.sample(range(KILLS), ON_RAY))
    while kills < KILLS:
        on_ray = kills in with_ray
        running = sweep("killed", 2 if on_ray else 0)
        family: dict[int, str] = {}
        try:
            for victim in rng.sample(["a host", "all hosts", "the bank"], 2) if on_ray else []:
                trail.wait_for(rng.randrange(1, 130), running)
                family |= processes.family_of(running.pid)
                kills += kill(victim, running.pid)
            trail.wait_for(rng.randrange(1, 130), running)
            assert running.poll() is None, "the plan is too small: it was finished before it could be killed"
            family |= processes.family_of(running.pid)
        finally:
            running.kill()
            running.communicate(timeout=LIMIT_S)
        kills += 1
        # Ray's own agents look only now and then whether they are alone.
        agents |= {pid for pid, name in family.items() if name.endswith("Agent")}
        assert processes.still_there(family.keys() - agents, 30) == set(), "a sweep takes its cluster along"

    last = sweep("killed", 2)
    run_to_the_end(last, trail)

    expected, found = (json.loads(one.communicate(timeout=LIMIT_S)[0]) for one in (whole, last))
    assert (whole.returncode, last.returncode) == (0, 0)
    assert found["sha256"] == expected["sha256"]
    assert found["finished"] == expected["finished"] == PLANNED
    assert 0 < found["resumed"] < PLANNED
    assert expected["resumed"] == 0
    assert processes.still_there(agents, 90) == set()


def billed(endpoint: str) -> int:
    with urlopen(endpoint.removesuffix("/v1") + "/ostrom/ledger", timeout=10) as answer:
        books = json.load(answer)["models"]["m"]
    return books["input_tokens"] + books["output_tokens"]


def test_virtual_runs_of_a_lost_host_are_run_again_with_the_same_results(
    in_process: Any, ray_cluster: Any, kill: Kill
) -> None:
    def sealed(on: Any, during: Callable[[], bool]) -> dict[str, bytes]:
        tasks = companies.generate(40, seed=11)
        team = Chain(2, model="sim/small")
        specs = [
            on.runtime.spec(f"lost-{t.id}-{s}", team, t, Budget(tokens=9_000), s) for t in tasks for s in range(15)
        ]

        async def everything() -> dict[str, bytes]:
            found: dict[str, bytes] = {}
            async for spec, result in on.runtime.map(specs):
                if not found:
                    assert during() is (on is ray_cluster)
                found[spec.run_id] = result.to_json()
            return found

        return on.call(everything)

    disturbed = sealed(ray_cluster, lambda: kill("all hosts", os.getpid()))
    quiet = sealed(in_process, lambda: False)

    assert disturbed == quiet
    assert len(quiet) == 600


def test_live_runs_of_a_lost_host_go_on_and_no_bill_is_above_the_books(
    ray_cluster: Any, endpoint: str, kill: Kill
) -> None:
    """What was under way is paid for at most once more than is known, never less; and the result says that it was disturbed."""
    budget = Budget(tokens=9_000)
    before = billed(endpoint)

    runs: list[Future[RunResult]] = [
        ray_cluster.portal.start_task_soon(
            partial(
                ray_cluster.runtime.run,
                Independent(8, model="far/m"),
                Task("What is six times seven?", "42"),
                budget=budget,
                run_id=f"struck-{i}",
            )
        )
        for i in range(8)
    ]
    while billed(endpoint) == before:
        assert not all(run.done() for run in runs)
    assert kill("all hosts", os.getpid())
    results = [run.result(timeout=LIMIT_S) for run in runs]

    books = sum(result.spend.total.tokens for result in results)
    known = sum(a.input_tokens + a.output_tokens for r in results for a in r.attempts if a.state == "settled")
    assert any(result.disturbed for result in results)
    assert known <= billed(endpoint) - before <= books
    assert all(result.spend.total.tokens <= 9_000 and not result.overspent for result in results)
    assert {result.answer for result in results} == {"42"}
