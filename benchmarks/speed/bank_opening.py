"""Owns the loads of the bank's benchmark that open what is there already: proved, read, and taken up again."""

from collections.abc import Iterator
from pathlib import Path

import orjson

from benchmarks.speed.bank_runs import CAPS, INPUT_PICO, LIMITS, OUTPUT_PICO, sealed_runs, work
from benchmarks.speed.timing import Sample, stopwatch
from runtime.bank.ledger import Ledger
from runtime.bank.live import History
from runtime.bank.service import STORE_FILE, Bank
from runtime.bank.store import Entry, Opened, Store
from runtime.bank.vector import unpack
from runtime.budget import BASE_DIMENSIONS
from runtime.ids import address


def filled_store(folder: Path, runs: int, attempts: int) -> None:
    """A closed store with so many sealed runs and their grants."""
    sealed_runs(folder, runs, attempts, group=50, scopes=1)


def entries_of(run_id: str, n: int) -> Iterator[Entry]:
    """The journal of a live run with n entries, two an attempt."""
    digest = address(["request"])
    for key, used, row in work(n // 2):
        name = f"{key.step}/{key.seat}/{key.sample}"
        fixed, per_unit = (900, 900 * INPUT_PICO, 1, 0), (1, OUTPUT_PICO, 0, 0)
        sent = {"digest": digest, "order": ["work", "small", ["planner"]], "fixed": fixed, "per_unit": per_unit}
        body = orjson.dumps(sent | {"limits": [1000, 1000, 1000], "floor": (0, 0, 0, 0)})
        yield Entry(run_id, 1, name, 0, "sent", body)
        closed = {"digest": digest, "row": list(row), "charged": unpack(used, 4)}
        body = orjson.dumps(closed | {"reply": [row.reply, (row.input_tokens, row.output_tokens), "stop", ()]})
        yield Entry(run_id, 1, name, 0, "settled", body)


def journalled_store(folder: Path, n: int) -> None:
    """A closed store with one live run under way, whose journal has n entries."""
    bank = Bank(folder)
    bank.open()
    bank.take(live_run("live"))
    entries = list(entries_of("live", n))
    for first in range(0, n, 100):
        assert not any(bank.write([entries[first : first + 100]]))
    bank.close()


def live_run(run_id: str) -> Opened:
    """What the bank gets to know of a live run when a host takes it."""
    facts = {"scope": "account", "dimensions": BASE_DIMENSIONS, "caps": CAPS}
    return Opened(run_id, address([run_id]), orjson.dumps(facts))


def opened_store(folder: Path) -> Sample:
    """Open and prove the file."""
    with stopwatch() as sample:
        store = Store(folder / STORE_FILE)
    store.close()
    sample.n = 1
    return sample


def opened_bank(folder: Path) -> Sample:
    """The same with all that a driver needs before its first run: its epoch, and the books above the runs."""
    bank = Bank(folder)
    with stopwatch() as sample:
        bank.open()
        bank.enter(LIMITS, [])
    bank.close()
    sample.n = 1
    return sample


def taken_up(folder: Path, n: int) -> Sample:
    """Open a bank, take a live run over and bring its ledger to where the earlier life ended."""
    bank = Bank(folder)
    with stopwatch() as sample:
        bank.open()
        life = bank.take(live_run("live"))
        ledger = Ledger(BASE_DIMENSIONS, "arrival")
        ledger.open("run", None, CAPS, epoch=life.epoch)
        rows = History(life.entries, len(BASE_DIMENSIONS)).restore(ledger, "run")
    bank.close()
    sample.n = 1
    assert len(rows) == n // 2
    return sample
