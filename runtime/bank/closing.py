"""Owns how a live run that nobody will take up again is closed: its books follow from its journal alone."""

from collections.abc import Sequence

import orjson

from runtime.bank.ledger import Ledger
from runtime.bank.live import History, Life
from runtime.bank.statement import statement
from runtime.bank.store import Opened
from runtime.bank.vector import pack
from runtime.journal import Attempt, in_order
from runtime.result import RunResult, SpendReport

_SCOPE = "run"


def cancelled_result(opened: Opened, life: Life) -> RunResult:
    """The result of an interrupted run that an operator cancelled: no answer, and everything it was charged."""
    facts = orjson.loads(opened.body)
    dimensions = tuple(facts["dimensions"])
    ledger = Ledger(dimensions, "arrival")
    ledger.open(_SCOPE, None, tuple(facts["caps"]), epoch=life.epoch)
    attempts = sorted(History(life.entries, len(dimensions)).restore(ledger, _SCOPE), key=in_order)
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
        metrics=_metrics(attempts),
        attempts=tuple(attempts),
    )


def _metrics(attempts: Sequence[Attempt]) -> dict[str, float]:
    """What the journal tells. Messages it does not tell; and nobody is there any more whose refusal could count."""
    lost = [a for a in attempts if a.state == "charged_max"]
    return {
        "turns": sum(a.kind == "work" for a in attempts),
        "refusals": 0,
        "failures": 0,
        "shrunk": sum(a.max_tokens < a.wanted_tokens for a in attempts),
        "charged_max_tokens": sum(a.held_tokens for a in lost),
        "charged_max_pico_usd": sum(a.held_pico_usd for a in lost),
        "slack_tokens": 0,
        "slack_pico_usd": 0,
    }
