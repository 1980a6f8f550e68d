"""Owns how a live run that nobody will take up again is closed: its books follow from its journal alone."""

import orjson

from runtime.bank.ledger import Ledger
from runtime.bank.live import History, Life
from runtime.bank.statement import statement
from runtime.bank.store import Opened
from runtime.bank.vector import pack
from runtime.result import RunResult, SpendReport

_SCOPE = "run"


def cancelled_result(opened: Opened, life: Life) -> RunResult:
    """The result of an interrupted run that an operator cancelled: no answer, and everything it was charged."""
    facts = orjson.loads(opened.body)
    dimensions = tuple(facts["dimensions"])
    ledger = Ledger(dimensions, "arrival")
    ledger.open(_SCOPE, None, tuple(facts["caps"]), epoch=life.epoch)
    attempts = sorted(
        History(life.entries, len(dimensions)).restore(ledger, _SCOPE), key=lambda a: (a.step, a.seat, a.sample, a.try_)
    )
    for amounts in life.raised:
        ledger.top_up(_SCOPE, pack(amounts))
    return RunResult(
        run_id=opened.run_id,
        status="cancelled",
        reason="an operator cancelled the run while no driver had it",
        answer=None,
        correct=None,
        spend=SpendReport.of(attempts, virtual=False),
        overspend=dict(zip(dimensions, ledger.overspend(_SCOPE), strict=True)),
        books=statement(ledger.scopes[_SCOPE], dimensions),
        seconds=max((a.ended_s for a in attempts), default=0.0),
        virtual=False,
        deterministic="D2",
        disturbed=False,
        metrics={},
        attempts=tuple(attempts),
    )
