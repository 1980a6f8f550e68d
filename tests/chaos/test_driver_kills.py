"""The driver of live sweeps is killed, another one goes on: what the dead one let in stays on the books as what it may cost."""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runtime.bank.service import Bank

LIMIT_S = 120
BUDGET = 300_000
PROGRAM = """
import importlib.util, json, sys
from dataclasses import replace
from pathlib import Path

import anyio
from benchmarks import Experiment
from benchmarks.tasks import companies
from runtime import Budget, Runtime
from runtime.bank.grants import Limits, scope_caps
from topologies import Chain

FREE = "experiment:modelled"
address, port, out, file, runs, calls, latency_s, tokens = sys.argv[1:]
found = importlib.util.spec_from_file_location("a_provider_that_bills", file)
billing = sys.modules[found.name] = importlib.util.module_from_spec(found)
found.loader.exec_module(billing)
models = {"billed": billing.Billed("billed", int(port), float(latency_s))}
live = Experiment(
    "live",
    tasks=[billing.question(f"{Path(out).name}-{i:02}") for i in range(int(runs))],
    topologies=[billing.Steady("billed")],
    budgets=[Budget(tokens=int(tokens), calls=int(calls))],
    cap=Budget(tokens=int(tokens) * int(runs) // 2),
)


async def main():
    hosts = None if address == "none" else 2
    async with Runtime(None if address == "none" else address, models=models, out=out, hosts=hosts, modules=[billing]) as rt:
        names = {trial.spec.run_id: trial.spec.task.id for trial in live.plan(rt).trials}
        specs = [
            replace(rt.spec(f"{task.id}-{seed}", Chain(2, model="sim/small"), task, Budget(tokens=9_000), seed), scope=FREE)
            for task in companies.generate(15, seed=4)
            for seed in range(20)
        ]
        print(json.dumps([names, [spec.run_id for spec in specs]]), flush=True)
        done = await rt.sealed([spec.address for spec in specs])
        todo = [spec for spec in specs if spec.address not in done]
        assert await rt.enter(Limits(FREE, False, scope_caps(Budget(tokens=9_000 * len(specs)))), [todo]) == 1

        async def virtual():
            async for _ in rt.map(todo):
                pass

        async with anyio.create_task_group() as group:
            group.start_soon(live.run, rt)
            group.start_soon(virtual)


anyio.run(main)
"""


@pytest.fixture
def short() -> Iterator[Path]:
    """For Ray, whose Unix sockets want short paths, and whose folder stays behind when its driver is killed."""
    path = Path(tempfile.mkdtemp(prefix="o"))
    yield path
    shutil.rmtree(path)


def start(address: str, out: Path, plan: tuple[int, int, float], provider: Any, billing: Any, short: Path) -> Any:
    words = (provider.port, out, billing.__file__, *plan, BUDGET)
    home = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "OSTROM_"))}
    return subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM, address, *map(str, words)],
        env=home | {"TMPDIR": str(short)},
        stdout=subprocess.PIPE,
        text=True,
    )


def held_above(out: Path, names: dict[str, str], more: list[str], cap: int, billing: Any) -> Counter[str]:
    """What a second driver finds of what the dead one let in: the states of the grants, each of them looked at."""
    second = Bank(out)
    second.open()
    second.close()
    with closing(billing.Books(out)) as books:
        begun = set(books.open_runs())
        states = {run_id: books.state_above(run_id) for run_id in [*names, *more] if books.was_granted(run_id)}
        for run_id, state in states.items():
            if run_id in more:
                assert state in {"settled", "voided"}, "nobody billed for it"
            elif run_id in begun:
                assert (state, books.above(run_id)) == ("charged_max", BUDGET)
            else:
                assert state in {"settled", "released"}
        assert sum(books.above(run_id) for run_id in names) <= cap
    return Counter(states.values())


@pytest.mark.parametrize(
    ("address", "plan", "kills"),
    [
        pytest.param("none", (20, 12, 0.05), 1, id="in process"),
        # For some seconds the hosts of a dead driver go on, and so does the bank.
        pytest.param("local", (40, 90, 0.25), 5, marks=[pytest.mark.ray, pytest.mark.chaos], id="on Ray"),
    ],
)
def test_a_sweep_whose_driver_is_killed_is_gone_on_with_by_another_and_no_bill_is_missing(
    address: str,
    plan: tuple[int, int, float],
    kills: int,
    tmp_path: Path,
    short: Path,
    provider: Any,
    billing: Any,
    processes: Any,
    figures: Any,
) -> None:
    out = tmp_path / f"driver-{address}"
    rng = random.Random(address)
    found: Counter[str] = Counter()
    cap = BUDGET * plan[0] // 2
    for n in range(kills + 1):
        running = start(address, out, plan, provider, billing, short)
        family: dict[int, str] = {}
        try:
            names, more = json.loads(running.stdout.readline())
            if n < kills:
                provider.wait_for(rng.randrange(1, 80) if n else 1, out.name)
                assert running.poll() is None, "the sweep is too small: it was finished before it could be killed"
                family = processes.family_of(running.pid)
                running.kill()
            running.communicate(timeout=LIMIT_S)
        finally:
            running.kill()
            running.communicate(timeout=LIMIT_S)
        left = {pid for pid, name in family.items() if not name.endswith("Agent")}
        assert processes.still_there(left, 30) == set()
        if n < kills:
            found += held_above(out, names, more, cap, billing)
    assert running.returncode == 0

    assert found["voided"], "a virtual run was under way at some kill"
    assert found["charged_max"], "and so was a live one"
    with closing(billing.Books(out)) as books:
        sums = [books.sums(run_id, provider.bills(who)) for run_id, who in names.items()]
        assert all(one.billed <= one.booked <= BUDGET for one in sums)
        assert [one.booked for one in sums] == [books.above(run_id) for run_id in names]
        assert sum(one.booked for one in sums) <= cap
        assert {books.state_above(run_id) for run_id in more} == {"settled"}
        finished = [run_id for run_id in names if books.is_sealed(run_id)]
        assert len(finished) >= plan[0] // 2
        assert books.open_runs() == []
    figures(
        kills=kills,
        finished=len(finished),
        billed_tokens=sum(one.billed for one in sums),
        booked_tokens=sum(one.booked for one in sums),
        cap_tokens=cap,
        charged_whole=sum(one.n_lost for one in sums),
        **{f"grants_{state}": n for state, n in found.items()},
    )
