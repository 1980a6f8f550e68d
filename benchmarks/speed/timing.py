"""Owns how a speed benchmark measures: samples of wall and CPU time, rounds that take turns, medians with their spread; and
how several of them keep their figures in one file.
"""

import gc
import os
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson


@dataclass
class Sample:
    """One round of one load."""

    n: int = 0
    """Operations done."""
    wall_s: float = 0.0
    cpu_s: float = 0.0
    latencies_s: Sequence[float] = ()
    """Of single operations, where they are of interest."""
    stages_s: dict[str, float] = field(default_factory=dict)
    """CPU seconds by stage, where the work has some."""


@contextmanager
def stopwatch(*, children: bool = False) -> Iterator[Sample]:
    """Time the block; the caller fills in how much was done.

    Args:
        children: count the CPU of all descendants too, in ticks of 10 ms. Otherwise all threads of this process.
    """
    sample = Sample()
    cpu_s, began = _cpu_s(children), time.perf_counter()
    yield sample
    sample.wall_s, sample.cpu_s = time.perf_counter() - began, _cpu_s(children) - cpu_s


def turns(names: Iterable[str], rounds: int) -> Iterator[str]:
    """Name who is measured next: all in turn, round by round, so that what else the machine does disturbs all alike."""
    names = list(names)
    for _ in range(rounds):
        for name in names:
            gc.collect()  # nobody pays for another one's garbage
            yield name


def figures(samples: Sequence[Sample]) -> dict[str, Any]:
    """What a report says of one load: rates, and time an operation."""
    found: dict[str, Any] = {
        "operations_a_round": samples[0].n,
        "per_s": spread([s.n / s.wall_s for s in samples], 0),
        "per_cpu_s": spread([s.n / s.cpu_s for s in samples if s.cpu_s], 0),
        "wall_us": spread([s.wall_s / s.n * 1e6 for s in samples], 2),
        "cpu_us": spread([s.cpu_s / s.n * 1e6 for s in samples], 2),
    }
    if any(s.latencies_s for s in samples):
        for name, share in (("p50_ms", 0.50), ("p99_ms", 0.99)):
            found[name] = spread([percentile(s.latencies_s, share) * 1e3 for s in samples], 2)
    for stage in samples[0].stages_s:
        of_stage = [s.stages_s[stage] / s.n * 1e6 for s in samples]
        found.setdefault("cpu_us_by_stage", {})[stage] = round(statistics.median(of_stage), 2)
    return found


def spread(values: Sequence[float], digits: int) -> dict[str, float]:
    """Median, least and most; zeros for nothing, where a load was too short for the clock."""
    values = values or [0.0]
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of them lies, by nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def load_average() -> float:
    """Of the last minute."""
    return round(os.getloadavg()[0], 2)


def machine(load: float) -> dict[str, Any]:
    """What a report says of the machine.

    Args:
        load: its load average before the benchmark, which adds to it.
    """
    return {"cores": os.cpu_count(), "load_1min_before": load, "python": sys.version.split()[0]}


def merge(file: Path, key: str, found: Mapping[str, Any]) -> None:
    """Keep the figures of one benchmark in a file of several, under a key of its own, and print them."""
    kept = orjson.loads(file.read_bytes()) if file.exists() else {}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(orjson.dumps(kept | {key: found}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    print(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
    print(f"wrote {file}: {key}")


def _cpu_s(children: bool) -> float:
    return _tree_cpu_s(os.getpid()) if children else time.process_time()


def _tree_cpu_s(pid: int) -> float:
    """CPU seconds of a process and all its descendants, those that ended included."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it ended meanwhile
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK") + sum(_tree_cpu_s(int(child)) for child in children)
