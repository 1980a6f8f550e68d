"""A cluster on this machine: whom it lets in, what it leaves behind, and that it is never somebody else's."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest

from runtime import Runtime, cluster
from runtime.errors import ConfigError, HostLost

pytestmark = pytest.mark.ray

LIMIT_S = 60
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Keeps Ray from taking 127.0.0.1 for the machine's address in the network, which no test is to listen on."""
PROGRAM = """
import json, os, sys
if "RAY_FIRST" in os.environ:
    import ray
import anyio
from runtime import Budget, Runtime, Task
from runtime.models import ScriptedModel
from topologies import Single

async def main():
    models = {"m": ScriptedModel(["42"]), "live": ScriptedModel(["43"], virtual=False)}
    async with Runtime(sys.argv[1], hosts=1, models=models) as runtime:
        answers = [(await runtime.run(Single(model=m), Task("x"), budget=Budget(calls=1))).answer for m in models]
        import ray
        print(json.dumps({"answers": answers, "cluster": ray.get_runtime_context().gcs_address}), flush=True)
        sys.stdin.readline()

anyio.run(main)
"""


def environment(**more: str) -> dict[str, str]:
    """This process's, without what its own Ray or a tester's shell put there."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "OSTROM_"))} | more


def start(address: str, **more: str) -> subprocess.Popen[str]:
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-P", "-c", PROGRAM, address], text=True, env=environment(**more), **pipes)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, because the paths of Unix sockets lie below it; those of pytest are too long."""
    path = Path(tempfile.mkdtemp(prefix="o"))
    yield path
    shutil.rmtree(path)


def listening_to_others(pids: Iterable[int]) -> list[str]:
    """Where these processes listen, as far as another machine could reach it."""
    found = {}
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            words = bytes.fromhex(local.partition(":")[0])
            raw = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
            host = socket.inet_ntop(family, raw).removeprefix("::ffff:")
            if state == "0A" and host != "::1" and not host.startswith("127."):
                found[f"socket:[{inode}]"] = f"{host} port {int(local.partition(':')[2], 16)}"
    open_files = []
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                open_files.append(os.readlink(link))
            except FileNotFoundError:
                continue
    return sorted(found[file] for file in open_files if file in found)


@pytest.mark.parametrize("imported", [{}, {"RAY_FIRST": "1"}], ids=["Ray comes with us", "Ray was there before"])
def test_a_local_cluster_is_private_and_leaves_nothing_behind(
    imported: dict[str, str], folder: Path, processes: Any
) -> None:
    running = start("local", TMPDIR=str(folder), **imported)
    try:
        told = json.loads(running.stdout.readline())  # type: ignore[union-attr]
        family = processes.family_of(running.pid)
        (home,) = folder.iterdir()

        assert told["answers"] == ["42", "43"]
        assert len(family) > 4, "driver, gcs, raylet, bank and host at least"
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        assert listening_to_others(family) == []
    finally:
        _, errors = running.communicate("\n", timeout=LIMIT_S)

    assert running.returncode == 0, errors
    assert processes.still_there(family, 20) == set()
    assert list(folder.iterdir()) == []


@pytest.fixture
def head(folder: Path, processes: Any) -> Iterator[str]:
    """A cluster that somebody else started on this machine. Ends with its process group, not by `ray stop`, which would
    end every cluster of the machine."""
    words = [
        "start",
        "--head",
        "--block",
        "--port=0",
        "--num-cpus=1",
        "--include-dashboard=false",
        f"--temp-dir={folder}",
    ]
    settings = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", **LOOPBACK}
    running = subprocess.Popen(
        [str(Path(sysconfig.get_path("scripts"), "ray")), *words, "--node-ip-address=127.0.0.1"],
        env=environment(**settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert any("will now block" in line for line in iter(running.stdout.readline, ""))  # type: ignore[union-attr]
        yield (folder / "ray_current_cluster").read_text().strip()
    finally:
        family = processes.family_of(running.pid)
        os.killpg(running.pid, signal.SIGKILL)  # to SIGTERM it would listen for half a minute
        running.communicate(timeout=LIMIT_S)
        assert processes.still_there(family, 20) == set()


@pytest.mark.long
def test_a_foreign_cluster_is_joined_by_its_address_and_never_otherwise(head: str) -> None:
    """Ray itself joins whatever it finds on the machine, unless it is told where to go."""
    runs = [
        start("local"),
        start("local", RAY_ADDRESS=head),
        start(head, **LOOPBACK),
        start("cluster", RAY_ADDRESS=head, **LOOPBACK),
    ]
    try:
        with ThreadPoolExecutor(len(runs)) as pool:
            ended = list(pool.map(lambda run: run.communicate("\n", timeout=LIMIT_S), runs))
    finally:
        for run in runs:
            run.kill()

    told = [json.loads(output) if output else errors for output, errors in ended]
    assert [one["answers"] for one in told] == [["42", "43"]] * 4
    assert [one["cluster"] == head for one in told] == [False, False, True, True]


@pytest.mark.long
def test_what_answers_but_is_no_head_is_told_within_a_minute(folder: Path) -> None:
    """Ray itself would go on asking for many minutes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        joining = start(f"127.0.0.1:{server.getsockname()[1]}", **LOOPBACK)
        _, errors = joining.communicate("", timeout=LIMIT_S)

    assert "does not answer as a Ray head" in errors
    assert "ConfigError" in errors


@pytest.mark.chaos
def test_what_a_killed_driver_left_behind_is_swept_up_by_the_next(folder: Path, processes: Any) -> None:
    """Its own folder, too, and what its cluster's last processes may write there while they end."""
    killed = start("local", TMPDIR=str(folder))
    killed.stdout.readline()  # type: ignore[union-attr]
    family = processes.family_of(killed.pid)
    killed.kill()
    killed.communicate(timeout=LIMIT_S)
    assert len(list(folder.iterdir())) == 1
    assert processes.still_there(family, 90) == set()

    _, errors = start("local", TMPDIR=str(folder)).communicate("\n", timeout=LIMIT_S)

    assert list(folder.iterdir()) == [], errors


def test_a_bank_in_memory_that_is_lost_is_told_and_does_not_come_back_empty(
    ray_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty one would know nothing of what was spent under its cap."""
    import ray

    monkeypatch.setattr(cluster, "_BANK", "a bank in memory")
    monkeypatch.setattr(cluster, "_HUB", "a hub beside the other")

    async def lose() -> HostLost:
        beside = await cluster.Cluster._equip(1, ray_cluster.runtime.catalog, None, [])
        try:
            await beside.on_bank("open")
            ray.kill(beside._bank, no_restart=False)  # as a crash would, and as late
            with anyio.fail_after(LIMIT_S):
                while True:
                    await beside.on_bank("open_runs")
        except HostLost as lost:
            return lost
        finally:
            ray.kill(beside._hosts[0])

    assert ray_cluster.call(lose).host == "the bank"


def test_ray_that_is_in_use_in_this_process_already_is_left_alone(ray_cluster: Any) -> None:
    async def second() -> None:
        async with Runtime("local"):
            pass

    with pytest.raises(ConfigError, match=r"already started in this process.*ray\.shutdown\(\)"):
        ray_cluster.call(second)

    ray_cluster.call(ray_cluster.runtime.sealed, [])  # still answers
