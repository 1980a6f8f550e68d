"""Nodes hang: Ray gives their hosts up after a minute and starts others, and the old ones live on. The bank tells them apart."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.chaos, pytest.mark.ray]

LIMIT_S = 60
HOSTS = 6
"""Ray puts each on a node that chance decides."""
RUNS = 12
CALLS = 360
LATENCY_S = 0.25
"""So that a run lasts longer than it takes Ray to give a node up, 65 s."""
BUDGET = 200_000
PROGRAM = """
import importlib.util, json, sys

import anyio
from ray.cluster_utils import Cluster
from runtime import Budget, Runtime
import runtime.shipping

port, out, file, hosts, runs, calls, latency_s, tokens = sys.argv[1:]
found = importlib.util.spec_from_file_location("a_provider_that_bills", file)
billing = sys.modules[found.name] = importlib.util.module_from_spec(found)
found.loader.exec_module(billing)
runtime.shipping.LIVE_AT_ONCE = int(runs) // int(hosts)
nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
others = [nodes.add_node(num_cpus=1) for _ in range(2)]


async def main():
    models = {"billed": billing.Billed("billed", int(port), float(latency_s))}
    async with Runtime(nodes.address, hosts=int(hosts), models=models, out=out, modules=[billing]) as rt:
        print(json.dumps({"raylets": [node.all_processes["raylet"][0].process.pid for node in others]}), flush=True)
        team, budget = billing.Steady("billed"), Budget(tokens=int(tokens), calls=int(calls))
        names = [f"hung-{i:02}" for i in range(int(runs))]
        specs = [rt.spec(name, team, billing.question(name), budget, 0) for name in names]
        done = [result async for _, result in rt.map(specs)]
        found = {r.run_id: [r.status, r.disturbed, r.overspent, r.spend.total.tokens] for r in done}
        print(json.dumps(found), flush=True)
        sys.stdin.read()  # Ray's own farewell would wait for the node that hangs


anyio.run(main)
"""


@pytest.fixture
def short() -> Iterator[Path]:
    """For Ray, whose Unix sockets want short paths."""
    path = Path(tempfile.mkdtemp(prefix="o"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def told(running: Any) -> dict[str, Any]:
    """The next thing that the program says itself; Ray writes between."""
    line = next(line for line in iter(running.stdout.readline, "") if line.startswith("{"))
    found: dict[str, Any] = json.loads(line)
    return found


def test_hosts_of_nodes_that_hang_live_on_and_cannot_spend_beside_those_in_their_place(
    short: Path, tmp_path: Path, provider: Any, billing: Any, processes: Any, figures: Any
) -> None:
    home = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "OSTROM_"))}
    words = (provider.port, tmp_path, billing.__file__, HOSTS, RUNS, CALLS, LATENCY_S, BUDGET)
    running = subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM, *map(str, words)],
        # Loopback only, and no folder but ours.
        env=home | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": str(short)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        raylets = told(running)["raylets"]
        provider.wait_until(lambda bills: len({bill.who for bill in bills}) == RUNS, "hung-")
        old = {pid for raylet in raylets for pid in processes.hosts(raylet)}
        assert old & {bill.pid for bill in provider.bills("hung-")}, "all hosts are on the driver's node"
        for raylet in raylets:
            os.kill(raylet, signal.SIGSTOP)
        hung = {bill.who for bill in provider.bills("hung-") if bill.pid in old}
        known = old | {bill.pid for bill in provider.bills("hung-")}
        provider.wait_until(lambda bills: any(bill.pid not in known for bill in bills), "hung-")
        assert old <= processes.family_of(running.pid).keys(), "the old hosts live on"
        results = told(running)
        assert old <= processes.family_of(running.pid).keys()
    finally:
        family = processes.family_of(running.pid)
        processes.kill(family)
        running.communicate(timeout=LIMIT_S)
        assert processes.still_there(family, 20) == set()

    with closing(billing.Books(tmp_path)) as books:
        for name, (status, disturbed, overspent, tokens) in results.items():
            bills = provider.bills(name)
            lives = [pid for pid, _ in groupby(bill.pid for bill in bills)]
            sums = books.sums(name, bills)
            assert len(lives) == len(set(lives)), "no life sends once there is a newer one"
            assert (disturbed, len(lives)) == ((True, 2) if name in hung else (False, 1))
            assert (status, overspent) == ("completed", False)
            assert sums.billed <= books.above(name) == sums.booked <= tokens <= BUDGET
    switched_s = min(bill.at_s for bill in provider.bills("hung-") if bill.pid not in known)
    figures(
        runs=RUNS,
        hung=len(hung),
        billed_tokens=sum(bill.tokens for bill in provider.bills("hung-")),
        spent_tokens=sum(tokens for *_, tokens in results.values()),
        last_of_the_old_s=round(max(b.at_s for b in provider.bills("hung-") if b.pid in old) - switched_s, 3),
        outage_max_s=round(max(bill.gap_s for bill in provider.bills("hung-")), 3),
    )
