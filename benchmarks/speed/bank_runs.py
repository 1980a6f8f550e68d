"""Owns the loads of the bank's benchmark that need no loop: ledger steps, and virtual runs up to their seal."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import orjson

from benchmarks.speed.timing import Sample, stopwatch
from runtime.bank.book import Held, Need
from runtime.bank.grants import Limits
from runtime.bank.ledger import Ledger
from runtime.bank.service import Bank
from runtime.bank.statement import books_of, statement
from runtime.bank.store import Op, Opened, Sealed
from runtime.bank.vector import Vector, pack
from runtime.budget import BASE_DIMENSIONS, Amounts
from runtime.ids import address, draw
from runtime.journal import Attempt, Key
from runtime.messages import Report, reply_json
from runtime.result import RunResult, SpendReport

SCOPES = ("run", "experiment", "project", "account")
"""Innermost first."""
CAPS = (10**15, 10**18, 10**12, 10**12)
LIMITS = Limits("experiment/speed", False, CAPS)
EPOCH = 3
INPUT_PICO, OUTPUT_PICO = 150_000, 600_000
NEED = Need(pack((900, 900 * INPUT_PICO, 1, 0)), pack((1, OUTPUT_PICO)), 1000, 1000)
MOST_USED: Amounts = (1900, 900 * INPUT_PICO + 1000 * OUTPUT_PICO, 1, 0)
"""What `NEED` holds."""
_WORDS = (
    "of",
    "the",
    "six",
    "suppliers",
    "two",
    "ship",
    "within",
    "a",
    "week",
    "at",
    "less",
    "than",
    "forty",
    "dollars",
)


def opened_ledger(scopes: int) -> Ledger:
    """A book with so many scopes, one below the other, each with a limit in each dimension, and of a later epoch than 0."""
    ledger = Ledger(BASE_DIMENSIONS, "arrival")
    for i, name in enumerate(reversed(SCOPES[:scopes])):
        ledger.open(name, SCOPES[scopes - i] if i else None, CAPS, epoch=EPOCH)
    return ledger


def keys(n: int) -> list[Key]:
    """Of the attempts of a team."""
    return [Key(i, f"executor[{i % 8}]", 0) for i in range(n)]


def triples(n: int, scopes: int) -> Sample:
    """Pairs of `reserve` and `settle`, with the `sent` that has to stand between them, in one book."""
    ledger, todo = opened_ledger(scopes), keys(n)
    used = pack((700, 600 * INPUT_PICO + 100 * OUTPUT_PICO, 1, 0))
    with stopwatch() as sample:
        for key in todo:
            held = ledger.reserve(key, "run", NEED, 0, EPOCH, True)
            assert isinstance(held, Held)
            ledger.sent(held.id, EPOCH)
            ledger.settle(held.id, used)
    sample.n = n
    assert all(ledger.scopes[name].settled == n * used for name in SCOPES[:scopes])
    ledger.check()
    return sample


def releases(n: int, scopes: int) -> Sample:
    """Pairs of `reserve` and `release`, that is, of attempts that were never sent."""
    ledger, todo = opened_ledger(scopes), keys(n)
    with stopwatch() as sample:
        for key in todo:
            held = ledger.reserve(key, "run", NEED, 0, EPOCH, True)
            assert isinstance(held, Held)
            ledger.release(held.id)
    sample.n = n
    assert ledger.scopes["run"].held == ledger.scopes["run"].settled == 0
    return sample


def steps(n: int, scopes: int) -> Sample:
    """The same triples, first all reservations, then all `sent`, then all settlements: what each step costs."""
    ledger, todo = opened_ledger(scopes), keys(n)
    used = pack((700, 600 * INPUT_PICO + 100 * OUTPUT_PICO, 1, 0))
    with stopwatch() as sample:
        began = time.process_time()
        held = [ledger.reserve(key, "run", NEED, 0, EPOCH, True) for key in todo]
        reserved = time.process_time()
        for one in held:
            assert isinstance(one, Held)
            ledger.sent(one.id, EPOCH)
        sent = time.process_time()
        for one in held:
            assert isinstance(one, Held)
            ledger.settle(one.id, used)
        settled = time.process_time()
    sample.n = n
    sample.stages_s = {"reserve": reserved - began, "sent": sent - reserved, "settle": settled - sent}
    return sample


class Work(NamedTuple):
    """One attempt as it will turn out. No two are alike, because equal rows pack too well and too fast."""

    key: Key
    used: Vector
    row: Attempt
    """Of the journal."""


def work(n: int) -> list[Work]:
    """n attempts of a team: prompts of 400 to 900 tokens, replies of 50 to 400, as JSON of some 130 characters."""
    return [_one(i, key) for i, key in enumerate(keys(n))]


def _one(i: int, key: Key) -> Work:
    input_tokens, output_tokens = (
        int(least + draw("tokens", i, least) * more) for least, more in ((400, 500), (50, 350))
    )
    pico = input_tokens * INPUT_PICO + output_tokens * OUTPUT_PICO
    began_s = round(i * 0.7 + draw("began", i), 6)
    text = " ".join(_WORDS[int(draw("word", i, j) * len(_WORDS))] for j in range(20))
    reply = reply_json(Report(str(i), text))
    row = Attempt(
        *key,
        try_=0,
        kind="work",
        model="sim/small",
        state="settled",
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        pico_usd=pico,
        units=0,
        held_tokens=MOST_USED[0],
        held_pico_usd=MOST_USED[1],
        max_tokens=1000,
        wanted_tokens=1000,
        began_s=began_s,
        ended_s=round(began_s + 1 + draw("ended", i), 6),
        finish="stop",
        reply=reply,
        senders=("planner",),
    )
    return Work(key, pack((input_tokens + output_tokens, pico, 1, 0)), row)


def result_of(run_id: str, ledger: Ledger, rows: Sequence[Attempt]) -> RunResult:
    """The result of a virtual run. Its sums are left out: they are not the bank's work, and are not sealed."""
    return RunResult(
        run_id=run_id,
        status="completed",
        reason="",
        answer="42",
        correct=True,
        spend=SpendReport(),
        overspend=dict(zip(BASE_DIMENSIONS, ledger.overspend("run"), strict=True)),
        books=statement(ledger.scopes["run"], BASE_DIMENSIONS),
        seconds=12.5,
        virtual=True,
        deterministic="D1",
        disturbed=False,
        metrics={"turns": len(rows), "messages": len(rows), "refusals": 0, "shrunk": 0},
        attempts=tuple(rows),
    )


class _Stages:
    """CPU by stage."""

    def __init__(self) -> None:
        self.s: dict[str, float] = {}
        self._last = time.process_time()

    def end(self, stage: str) -> None:
        now = time.process_time()
        self.s[stage] = self.s.get(stage, 0.0) + now - self._last
        self._last = now


def _nothing(stage: str) -> None:
    pass


def sealed_run(run_id: str, todo: Sequence[Work], scopes: int, end: Callable[[str], None] = _nothing) -> Sealed:
    """One virtual run from its first reservation to the row that is to be sealed, in a book of its own.

    Args:
        end: is told when a stage is done.
    """
    ledger = opened_ledger(scopes)
    for key, used, _ in todo:
        held = ledger.reserve(key, "run", NEED, 0, EPOCH, True)
        assert isinstance(held, Held)
        ledger.sent(held.id, EPOCH)
        ledger.settle(held.id, used)
    end("ledger")
    result = result_of(run_id, ledger, [Attempt(*row) for _, _, row in todo])
    end("journal rows and result")
    body = result.to_json()
    end("to_json")
    books = books_of(LIMITS.scope, CAPS, result.attempts)
    end("books_of")
    return Sealed(run_id, address(["run", run_id]), body, books)


def sealed_runs(folder: Path, runs: int, attempts: int, group: int, scopes: int = 3) -> Sample:
    """Pairs of virtual runs, from the first reservation to the sealed row in a store on disk.

    An experiment above the runs, with a limit in each dimension, granted them their budgets.
    """
    todo = work(attempts)
    bank = granting_bank(folder, runs, attempts)
    with stopwatch() as sample:
        stages = _Stages()
        for first in range(0, runs, group):
            last = min(first + group, runs)
            seals: list[Op] = [sealed_run(f"r{i}", todo, scopes, stages.end) for i in range(first, last)]
            assert not any(bank.write([seals]))
            stages.end("Bank.write: pack, hash, chain, commit, books")
    sample.n, sample.stages_s = runs * attempts, stages.s
    bank.close()
    return sample


def granting_bank(folder: Path, runs: int, attempts: int) -> Bank:
    """A bank on disk whose experiment granted budgets to so many runs."""
    bank = Bank(folder)
    bank.open()
    assert bank.enter(LIMITS, [[(f"r{i}", tuple(attempts * a for a in MOST_USED))] for i in range(runs)]) == runs
    return bank


def live_run(run_id: str) -> Opened:
    """What the bank gets to know of a live run when a host takes it."""
    facts = {"scope": "account", "dimensions": BASE_DIMENSIONS, "caps": CAPS}
    return Opened(run_id, address([run_id]), orjson.dumps(facts))
