"""Measures CPU per agent step (one model call with everything around it) on a star of 1 + 8 + 1, and where it goes.

    python -m benchmarks.speed.step [--out benchmarks/results/step.json] [--no-ray]

A floor is measured in the same run and on the same loop: the same star in bare asyncio, without budget, journal, prompts or
types. Machines differ and are shared, so the ratio to the floor travels better than the microseconds.
"""

import argparse
import asyncio
import cProfile
import gc
import os
import pstats
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import orjson

from runtime.budget import Budget
from runtime.driver import Runtime
from runtime.host import GC_THRESHOLD, run_virtual
from runtime.messages import Part, Plan, Report, Verdict, reply_json
from runtime.models.base import ChatModel, ChatRequest
from runtime.models.scripted import ScriptedModel
from runtime.preflight import RunSpec
from runtime.task import Task
from topologies import Star

EXECUTORS = 8
STEPS = EXECUTORS + 2
RUNS, ROUNDS = 300, 5
RAY_RUNS = 4000
_REPLIES = {
    "plan": reply_json(Plan(tuple(Part(f"part {i} of the work") for i in range(EXECUTORS)))),
    "report": reply_json(Report("42", "worked it out")),
    "verdict": reply_json(Verdict("accept", "42")),
}
_PARTS = {
    "trio and anyio": ("/trio/", "/anyio/", "contextlib.py", "/outcome/", "/sortedcontainers/"),
    "bank: ledger and admission": ("/runtime/bank/",),
    "attempts and journal": ("/runtime/attempts.py", "/runtime/journal.py", "/runtime/result.py"),
    "agent: prompt, route, reply": ("/runtime/agents/", "/runtime/messages.py", "pydantic"),
    "team, run and checks": ("/runtime/team.py", "/runtime/run.py", "/runtime/preflight.py", "/runtime/host.py"),
    "topology and policies": ("/topologies/", "/policies/"),
    "model (scripted)": ("/runtime/models/",),
}


def script(request: ChatRequest) -> str:
    """The scripted star: a plan of eight parts, reports, an accepting verdict."""
    return _REPLIES[request.reply]


def specs(n: int) -> list[RunSpec]:
    """n runs of the star with a budget that does not bind."""
    star = Star(EXECUTORS, model="m")
    return [RunSpec(f"r{i}", star, Task("What is 6 times 7?", answer="42"), Budget(tokens=10**6), i) for i in range(n)]


def model(latency_s: float) -> ScriptedModel:
    """The fake model, with exactly known usage."""
    return ScriptedModel(script, input_tokens=800, output_tokens=200, latency_s=latency_s)


def in_process(latency_s: float) -> float:
    """CPU microseconds per step of virtual runs in this process."""
    fake = model(latency_s)
    todo = specs(RUNS)
    began = time.process_time()
    results = run_virtual(todo, lambda _: fake)
    spent = time.process_time() - began
    assert sum(len(result.attempts) for result in results) == RUNS * STEPS
    return spent / (RUNS * STEPS) * 1e6


def floor() -> float:
    """The same star in bare asyncio, 100 in flight: a coroutine per call, one pass through the loop for each."""

    async def call(text: str) -> str:
        await asyncio.sleep(0)
        return text

    async def star() -> str:
        await call("plan")
        reports = await asyncio.gather(*(call(f"part {i}") for i in range(EXECUTORS)))
        return await call(" ".join(reports))

    async def all_of_them() -> None:
        for _ in range(RUNS // 100):
            await asyncio.gather(*(star() for _ in range(100)))

    began = time.process_time()
    asyncio.run(all_of_them())
    return (time.process_time() - began) / (RUNS // 100 * 100 * STEPS) * 1e6


def by_part() -> dict[str, float]:
    """Share of each part of the code, by cProfile's own time; the profiler makes small functions look dearer."""
    fake = model(0.05)
    profile = cProfile.Profile()
    todo = specs(RUNS)
    profile.enable()
    run_virtual(todo, lambda _: fake)
    profile.disable()
    shares: defaultdict[str, float] = defaultdict(float)
    stats: dict[Any, Any] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    for (file, _, name), (_, _, own, _, callers) in stats.items():
        # Built-in functions have no file; they count where they were called from.
        places = [(caller[0], times[2]) for caller, times in callers.items()] if file == "~" else [(file, own)]
        for place, seconds in places:
            part = next((p for p, marks in _PARTS.items() if any(m in place or m in name for m in marks)), "other")
            shares[part] += seconds
    total = sum(shares.values())
    return {part: round(seconds / total, 3) for part, seconds in sorted(shares.items(), key=lambda item: -item[1])}


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process and all its descendants, those that ended included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    own = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(_cpu_s(int(child)) for child in children)


async def on_ray(hosts: int) -> dict[str, float]:
    """CPU per step over all processes, and steps per second, on a local cluster; start-up is not counted."""
    fake: ChatModel = model(0.05)
    async with Runtime("local", models={"m": fake}, hosts=hosts) as runtime:
        async for _ in runtime.map(specs(200)):
            pass  # warms the hosts up
        # Checked and addressed beforehand, as the plan of an experiment is.
        todo = [runtime.spec(f"w{s.run_id}", s.topology, s.task, s.budget, 10**6 + s.seed) for s in specs(RAY_RUNS)]
        cpu_s, began = _cpu_s(os.getpid()), time.perf_counter()
        n = 0
        async for _, result in runtime.map(todo):
            n += len(result.attempts)
        wall_s = time.perf_counter() - began
        return {
            "cpu_us_per_step": round((_cpu_s(os.getpid()) - cpu_s) / n * 1e6, 1),
            "steps_per_s": round(n / wall_s),
        }


def _spread(measure: Callable[[], float]) -> dict[str, float]:
    values = [measure() for _ in range(ROUNDS)]
    return {"median": round(statistics.median(values), 1), "min": round(min(values), 1), "max": round(max(values), 1)}


def main(arguments: Sequence[str]) -> None:
    """Measure, print, and write the figures with the command that made them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.step", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/step.json"))
    parser.add_argument("--no-ray", action="store_true")
    options = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    gc.set_threshold(*GC_THRESHOLD)
    in_process(0.05)
    found: dict[str, Any] = {
        "command": "python -m benchmarks.speed.step",
        "what": "CPU microseconds per agent step, star 1+8+1, virtual runs; every run's budget, journal and checks included",
        "machine": {"cores": os.cpu_count(), "load_1min_before": round(load, 2), "python": sys.version.split()[0]},
        "gc_threshold": list(GC_THRESHOLD),
        "rounds": ROUNDS,
        "floor_bare_asyncio": _spread(floor),
        "in_process_latency_0": _spread(lambda: in_process(0.0)),
        "in_process_latency_50ms": _spread(lambda: in_process(0.05)),
        "share_by_part": by_part(),
    }
    found["ratio_to_floor"] = round(found["in_process_latency_0"]["median"] / found["floor_bare_asyncio"]["median"], 1)
    if not options.no_ray:
        found["ray_two_hosts_all_processes"] = anyio.run(on_ray, 2)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    print(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main(sys.argv[1:])
