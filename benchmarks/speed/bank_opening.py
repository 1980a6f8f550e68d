"""Owns the loads of the bank's benchmark that open what is there already: proved, read, and taken up again."""

from pathlib import Path

from benchmarks.speed.bank_live import in_this_process
from benchmarks.speed.bank_runs import CAPS, LIMITS, live_run, sealed_runs
from benchmarks.speed.timing import Sample, stopwatch
from runtime.bank.ledger import Ledger
from runtime.bank.live import History
from runtime.bank.service import STORE_FILE, Bank
from runtime.bank.store import Store
from runtime.budget import BASE_DIMENSIONS


def filled_store(folder: Path, runs: int, attempts: int) -> None:
    """A closed store with so many sealed runs and their grants."""
    sealed_runs(folder, runs, attempts, group=50, scopes=1)


def journalled_store(folder: Path, entries: int) -> None:
    """A closed store with one live run under way, whose journal has so many entries, two an attempt."""
    in_this_process(folder, entries // 2, in_flight=100, call_s=0.0)


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


def taken_up(folder: Path, entries: int) -> Sample:
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
    assert len(rows) == entries // 2
    return sample
