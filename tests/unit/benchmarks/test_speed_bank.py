"""The bank's speed benchmark at tiny sizes: every load that needs no cluster does its work, and the report is whole."""

import gc
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.lowlevel
import orjson
import pytest

from benchmarks.speed import bank
from benchmarks.speed.anchors import Coalesced
from benchmarks.speed.bank_live import pairs
from benchmarks.speed.timing import Sample, figures, percentile, turns

TINY = bank.Sizes(pairs=200, waits=2, runs=4, attempts=5, live=10, sealed=3, entries=8, calls_s=(0.001, 0.002))


@pytest.fixture(autouse=True)
def _own_gc_threshold() -> Iterator[None]:
    """The benchmark sets that of a host for its whole process."""
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def test_each_part_is_measured_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results" / "bank.json"

    bank.main(["--only", *bank.LOCAL, "--rounds", "1", "--folder", str(tmp_path), "--out", str(out)], TINY)

    found = orjson.loads(out.read_bytes())
    assert list(found["parts"]) == list(bank.LOCAL)
    assert found["gc_threshold"] == [50_000, 20, 50]
    printed = capsys.readouterr().out
    for part in found["parts"].values():
        for name, row in part["rows"].items():
            assert row["per_s"]["min"] <= row["per_s"]["median"] <= row["per_s"]["max"]
            assert name in printed


def test_what_has_a_goal_or_an_anchor_says_so(tmp_path: Path) -> None:
    rows = bank.measured(bank.ledger(TINY, tmp_path), rounds=1)

    ours = rows["pair including sent, 3 scopes"]
    assert ours["goal_per_s"] == 300_000
    assert ours["times_anchor"].keys() == {"wall_us", "cpu_us"}
    assert rows["the same step by step, 3 scopes"]["cpu_us_by_stage"].keys() == {"reserve", "sent", "settle"}


def test_stores_of_earlier_rounds_are_gone(tmp_path: Path) -> None:
    bank.measured(bank.sealed(TINY, tmp_path), rounds=2)

    assert not list(tmp_path.iterdir())


def test_pairs_that_wait_at_the_same_time_travel_in_one_call() -> None:
    batches: list[int] = []

    async def call(n: int) -> None:
        batches.append(n)
        await anyio.lowlevel.checkpoint()

    async def work() -> list[float]:
        return await pairs(Coalesced(call), 12, in_flight=4)

    assert len(anyio.run(work)) == sum(batches) == 12
    assert max(batches) == 4


def test_loads_take_turns_so_that_a_disturbance_meets_them_all() -> None:
    assert list(turns(["a", "b"], 2)) == ["a", "b", "a", "b"]


def test_figures_are_medians_with_their_spread() -> None:
    samples = [Sample(n, wall_s, 0.5, [0.001, 0.002, 0.009]) for n, wall_s in ((10, 1.0), (10, 2.0), (10, 5.0))]

    found = figures(samples)

    assert found["per_s"] == {"median": 5, "min": 2, "max": 10}
    assert found["wall_us"]["median"] == 200_000
    assert found["per_cpu_s"]["median"] == 20
    assert (found["p50_ms"]["median"], found["p99_ms"]["median"]) == (2.0, 9.0)


@pytest.mark.parametrize(("share", "value"), [(0.0, 1.0), (0.5, 3.0), (0.99, 5.0), (1.0, 5.0)])
def test_a_percentile_is_one_of_the_values(share: float, value: float) -> None:
    assert percentile([5.0, 3.0, 1.0, 2.0, 4.0], share) == value
