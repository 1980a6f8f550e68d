"""Measures the bank: ledger steps, sealed runs, live attempts, attempts over Ray, opening a store; each beside bare anchors.

    python -m benchmarks.speed.bank [--only ledger sealed live ray opening] [--rounds 5] [--out benchmarks/results/bank.json]

A pair is a reservation and its settlement, with the `sent` that has to stand between them. Anchors and ours take turns in
one process, so the ratio to an anchor travels better to another machine than the rate does. On a machine that others use
too, CPU per operation is the figure to compare; the wall clock also counts their work, and the wait for the disk.
"""

import argparse
import gc
import os
import platform
import sqlite3
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import orjson
from rich.console import Console
from rich.table import Table

from benchmarks.engine import code_revision
from benchmarks.speed import anchors, bank_live, bank_opening, bank_runs
from benchmarks.speed.timing import Sample, figures, load_average, turns
from runtime.host import GC_THRESHOLD

Figures = dict[str, Any]

_LIVE_ON_RAY = (
    "every live attempt is two commits on disk, one before its bytes leave and one with its reply, and waits for both, "
    "where a sealed pair is a tenth of a row in a batch; with 100 in flight at each host these waits bound it (1.1 of two cores "
    "are busy), with 400 CPU (1.6 are), of which an attempt takes some 50 µs at its host and 35 in the bank"
)


@dataclass(frozen=True)
class Sizes:
    """How much is done a round."""

    pairs: int = 50_000
    waits: int = 500
    """Pairs that wait for the disk, or for Ray, each on its own."""
    runs: int = 500
    attempts: int = 100
    """Attempts a run, live ones in flight."""
    live: int = 10_000
    sealed: int = 3_000
    entries: int = 10_000
    calls_s: tuple[float, float] = (0.05, 0.5)
    """How long live models take."""


@dataclass(frozen=True)
class Row:
    """One line of the report.

    Args:
        load: does the work of one round.
        anchor: name of the row to hold it against; none for anchors themselves.
        goal_per_s: what was aimed at.
        goal_p50_ms: the same for the latency.
        reason: why less is reached, to be told where it is.
    """

    load: Callable[[], Any]
    anchor: str = ""
    goal_per_s: int = 0
    goal_p50_ms: float = 0.0
    reason: str = ""


def fresh(root: Path, work: Callable[[Path], Sample]) -> Callable[[], Sample]:
    """A load that gets a folder of its own each time."""

    def load() -> Sample:
        with TemporaryDirectory(dir=root) as folder:
            return work(Path(folder))

    return load


def ledger(sizes: Sizes, root: Path) -> dict[str, Row]:
    """The book in process, four dimensions, every reservation tested against every limit."""
    n, bare = sizes.pairs, "anchor: two bare methods on a counter"
    rows = {bare: Row(partial(anchors.counter, 4 * n))}
    for name, make in anchors.LOCKS.items():
        rows[f"anchor: the same, {name} around each"] = Row(partial(anchors.locked_counter, n, make))
    for scopes, goal in ((1, 0), (3, 300_000), (4, 300_000)):
        rows[f"pair including sent, {scopes} scopes"] = Row(partial(bank_runs.triples, n, scopes), bare, goal)
    rows["the same step by step, 3 scopes"] = Row(partial(bank_runs.steps, n, 3), bare)
    rows["reserve and release, 3 scopes"] = Row(partial(bank_runs.releases, n, 3), bare)
    return rows


def sealed(sizes: Sizes, root: Path) -> dict[str, Row]:
    """Virtual runs of 100 attempts, from the first reservation to the store on disk; 50 runs a commit."""
    n, bare = sizes.pairs, "anchor: SQLite WAL NORMAL, 100 pairs a transaction"
    ours = partial(bank_runs.sealed_runs, runs=sizes.runs, attempts=sizes.attempts, group=50)
    return {
        bare: Row(fresh(root, partial(anchors.sqlite_pairs, n=n, group=100, synchronous="NORMAL"))),
        "anchor: SQLite WAL FULL, 100 pairs a transaction": Row(
            fresh(root, partial(anchors.sqlite_pairs, n=n, group=100, synchronous="FULL"))
        ),
        "pair, 3 scopes, journalled and sealed": Row(fresh(root, ours), bare, 150_000),
        "pair, 1 scope, journalled and sealed": Row(fresh(root, partial(ours, scopes=1)), bare, 150_000),
    }


def live(sizes: Sizes, root: Path) -> dict[str, Row]:
    """Live attempts in this process, 100 in flight, `sent` and reply each durable; latency is what the bank adds."""
    waits, bare = sizes.waits, "anchor: a line and fdatasync a pair"
    quick_s, slow_s = sizes.calls_s
    ours = partial(bank_live.in_this_process, in_flight=sizes.attempts)
    return {
        bare: Row(fresh(root, partial(anchors.synced_lines, n=waits, group=1))),
        "anchor: a line a pair, fdatasync a 100 pairs": Row(
            fresh(root, partial(anchors.synced_lines, n=20 * waits, group=min(100, waits)))
        ),
        "anchor: SQLite WAL FULL, a pair a transaction": Row(
            fresh(root, partial(anchors.sqlite_pairs, n=waits, group=1, synchronous="FULL"))
        ),
        "attempt, models take no time": Row(fresh(root, partial(ours, n=sizes.live, call_s=0.0)), bare, 3_000),
        f"attempt, models take {quick_s * 1e3:g} ms": Row(
            fresh(root, partial(ours, n=sizes.live // 2, call_s=quick_s)), bare, 0, 5.0
        ),
        f"attempt, models take {slow_s * 1e3:g} ms": Row(
            fresh(root, partial(ours, n=sizes.live // 10, call_s=slow_s)), bare, 0, 5.0
        ),
    }


def opening(sizes: Sizes, root: Path) -> dict[str, Row]:
    """Opening what is there already; an operation is one opening."""
    runs, journal = root / "runs", root / "journal"
    bank_opening.filled_store(runs, sizes.sealed, 10)
    bank_opening.journalled_store(journal, sizes.entries)
    return {
        f"prove {sizes.sealed:,} sealed runs and grants": Row(partial(bank_opening.opened_store, runs)),
        f"the same, and the books above {sizes.sealed:,} runs": Row(partial(bank_opening.opened_bank, runs)),
        f"prove a live journal of {sizes.entries:,} entries": Row(partial(bank_opening.opened_store, journal)),
        f"take its run up: {sizes.entries:,} entries": Row(partial(bank_opening.taken_up, journal, sizes.entries)),
    }


def on_ray(sizes: Sizes, ray: bank_live.OnRay) -> dict[str, Row]:
    """Attempts from two hosts into the bank's actor, each entry durable; CPU is that of all processes."""
    n, waits, many = sizes.live, sizes.waits, sizes.attempts
    bare = f"anchor: from 2 hosts, {many} in flight each, coalesced, nothing in it"
    return {
        "anchor: a call a pair, one after another": Row(partial(ray.bare_calls, waits, 1)),
        f"anchor: a call a pair, {many} in flight": Row(partial(ray.bare_calls, 3 * waits, many)),
        f"anchor: from the driver, {many} in flight, coalesced": Row(partial(ray.from_driver, 2 * n, many)),
        bare: Row(partial(ray.from_hosts, n, many, bare=True)),
        f"attempt, from 2 hosts, {many} in flight each": Row(
            partial(ray.from_hosts, n // 2, many, bare=False), bare, 20_000, reason=_LIVE_ON_RAY
        ),
        f"attempt, from 2 hosts, {4 * many} in flight each": Row(
            partial(ray.from_hosts, n // 2, 4 * many, bare=False), bare, 20_000, reason=_LIVE_ON_RAY
        ),
        "pair of a virtual run, granted and sealed, 10 each": Row(
            partial(ray.granted, sizes.runs, 10, 50, 4), bare, 20_000
        ),
    }


LOCAL: dict[str, Callable[[Sizes, Path], Mapping[str, Row]]] = {
    "ledger": ledger,
    "sealed": sealed,
    "live": live,
    "opening": opening,
}


def measured(rows: Mapping[str, Row], rounds: int) -> Figures:
    """Measure loads of this process."""
    samples: dict[str, list[Sample]] = {name: [] for name in rows}
    for name in turns(rows, rounds):
        samples[name].append(rows[name].load())
    return compared(rows, samples)


async def measured_on_ray(sizes: Sizes, rounds: int, root: Path) -> Figures:
    """Measure loads over Ray; starting it, and a first round that warms it up, are not counted."""
    ray = await bank_live.OnRay.started(root / "ray", 2)
    try:
        rows = on_ray(sizes, ray)
        samples: dict[str, list[Sample]] = {name: [] for name in rows}
        for name in turns(rows, 1 + rounds):
            samples[name].append(await rows[name].load())
        return compared(rows, {name: taken[1:] for name, taken in samples.items()})
    finally:
        await ray.stop()


def compared(rows: Mapping[str, Row], samples: Mapping[str, Sequence[Sample]]) -> Figures:
    """The figures of all rows, held against their goals and anchors."""
    found: Figures = {name: figures(taken) for name, taken in samples.items()}
    for name, row in rows.items():
        if row.goal_per_s:
            found[name]["goal_per_s"] = row.goal_per_s
        if row.goal_p50_ms:
            found[name]["goal_p50_ms"] = row.goal_p50_ms
        if row.reason and found[name]["per_s"]["median"] < row.goal_per_s:
            found[name]["reason"] = row.reason
        if row.anchor:
            anchor = found[row.anchor]
            found[name]["times_anchor"] = {
                clock: round(found[name][clock]["median"] / anchor[clock]["median"], 2)
                for clock in ("wall_us", "cpu_us")
            }
    return found


def table(part: str, of_part: Figures) -> Table:
    """One part of the report as people read it: medians, with least and most."""
    shown = Table(
        title=f"{part}, load {of_part['load_before']} to {of_part['load_after']}",
        title_justify="left",
        caption_justify="left",
    )
    for i, column in enumerate(("", "/s", "/s of CPU", "goal", "CPU µs", "× anchor", "p50 ms", "p99 ms")):
        shown.add_column(column, justify="right" if i else "left", no_wrap=True)
    shown.columns[0].min_width = max(map(len, of_part["rows"]))
    for name, row in of_part["rows"].items():
        latencies = [_shown(row[p]) if p in row else "" for p in ("p50_ms", "p99_ms")]
        ratio = row.get("times_anchor")
        goal = f"{row['goal_per_s']:,}" if "goal_per_s" in row else ""
        goal += f"p50 {row['goal_p50_ms']:g} ms" if "goal_p50_ms" in row else ""
        shown.add_row(
            name,
            _shown(row["per_s"]),
            _number(row["per_cpu_s"]["median"]),
            goal,
            _shown(row["cpu_us"]),
            _number(ratio["cpu_us"]) if ratio else "",
            *latencies,
        )
        for stage, cpu_us in row.get("cpu_us_by_stage", {}).items():
            shown.add_row(f"    {stage}", "", "", "", _number(cpu_us), "", "", "", style="dim")
    reasons = dict.fromkeys(row["reason"] for row in of_part["rows"].values() if "reason" in row)
    shown.caption = "\n".join(f"below the goal: {reason}" for reason in reasons)
    return shown


def _shown(spread: Mapping[str, float]) -> str:
    median, least, most = (_number(spread[name]) for name in ("median", "min", "max"))
    return f"{median} ({least} to {most})"


def _number(value: float) -> str:
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def main(arguments: Sequence[str], sizes: Sizes = Sizes()) -> None:
    """Measure, print, and write the figures with the command that made them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.bank", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=[*LOCAL, "ray"], default=[*LOCAL, "ray"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the stores are to lie for the while; the disk counts")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/bank.json"))
    options = parser.parse_args(arguments)
    gc.set_threshold(*GC_THRESHOLD)
    found: Figures = {
        "command": " ".join(["python -m benchmarks.speed.bank", *arguments]),
        "revision": code_revision(),
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "sqlite": sqlite3.sqlite_version},
        "versions": {name: version(name) for name in ("ray", "anyio", "orjson")},
        "gc_threshold": list(GC_THRESHOLD),
        "rounds": options.rounds,
        "parts": {},
    }
    console = Console(width=None if sys.stdout.isatty() else 200)  # a file or a pipe has no width of its own
    for part in options.only:
        with TemporaryDirectory(dir=options.folder) as folder:
            before = load_average()
            if part == "ray":
                rows = anyio.run(measured_on_ray, sizes, options.rounds, Path(folder))
            else:
                rows = measured(LOCAL[part](sizes, Path(folder)), options.rounds)
        found["parts"][part] = {"load_before": before, "load_after": load_average(), "rows": rows}
        console.print(table(part, found["parts"][part]))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    # What a test measured, the crowds, lies in the same file.
    before = orjson.loads(options.out.read_bytes()) if options.out.exists() else {}
    options.out.write_bytes(orjson.dumps(before | found, option=orjson.OPT_INDENT_2))
    console.print(f"wrote {options.out}")


if __name__ == "__main__":
    main(sys.argv[1:])
