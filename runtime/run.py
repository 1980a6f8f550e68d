"""Owns one run from its opened scope to its closed books: ledger, team, deadline, result."""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio

from runtime.agents.loop import Desk
from runtime.attempts import Attempts
from runtime.bank.admission import Admission
from runtime.bank.book import Need
from runtime.bank.ledger import Ledger
from runtime.bank.statement import Balance, Ceiling, statement
from runtime.bank.vector import pack
from runtime.boundary import contained, contained_sync
from runtime.budget import Amounts
from runtime.clock import Clock, on_grid_s
from runtime.errors import BudgetExceeded, OrchestrationError, RunHalted
from runtime.journal import Attempt, in_order
from runtime.messages import Failure, Refusal
from runtime.models.base import ChatModel
from runtime.models.endpoints.visit import Lent
from runtime.nesting import RUN_SCOPE
from runtime.outcome import text_of
from runtime.preflight import Prepared
from runtime.protocols import Journal, Outcome
from runtime.result import RunResult, SpendReport, Status
from runtime.shares import allowances_of
from runtime.slack import bound_slack
from runtime.spread import Spread
from runtime.tape import Solve, Tape
from runtime.team import RunTeam

SCOPE = RUN_SCOPE


@dataclass(slots=True)
class _Ending:
    status: Status = "cancelled"
    reason: str = "the caller cancelled the run"
    outcome: Outcome = None


@dataclass(slots=True)
class Run:
    """A run on its home host. `execute` is called once."""

    prepared: Prepared
    clock: Clock
    journal: Journal | None
    permit_for: Callable[[ChatModel, Need], Lent | None]
    epoch: int
    """This host's, for live runs; virtual ones have one host only, and 0."""
    earlier: list[Attempt] = field(default_factory=list)
    """Attempts of an earlier, interrupted life of a live run; its time counts against the deadline."""
    raised: list[Amounts] = field(default_factory=list)
    """Top-ups that came in earlier lives."""
    tape: Tape | None = None
    """What the run is recorded on, or played back from."""
    beside: Callable[[], Coroutine[Any, Any, None]] | None = None
    """What has to go on for as long as the run does, such as the exchange about its places."""
    spread: Spread | None = None
    """Which hosts work for which seats; None: this one for all."""
    ledger: Ledger = field(init=False)
    disturbed: bool = False
    desk: Desk = field(init=False)
    _stop: anyio.CancelScope = field(init=False, default_factory=anyio.CancelScope)

    def __post_init__(self) -> None:
        budget = self.prepared.spec.budget
        self.ledger = Ledger(budget.dimensions, "key" if self.prepared.virtual else "arrival")
        self.ledger.open(SCOPE, None, budget.caps, self.prepared.floors, self.epoch)
        wiring = self.prepared.wiring
        for scope, caps in self.prepared.ceilings.items():
            floors = {seat: kept for seat, kept in self.prepared.floors.items() if wiring.lies_in(seat, scope)}
            self.ledger.open(scope, wiring.scopes[scope][0], caps, floors, self.epoch)

    async def execute(self) -> RunResult:
        """Run to the end. Only misuse and bugs raise; everything else is a status of the result.

        Raises:
            RunHalted: an operator paused it; its journal is where it is taken up again.
            StaleEpoch: another host took it over.
        """
        # The time of earlier lives counts; this one begins where they ended.
        lived_s = max((attempt.ended_s for attempt in self.earlier), default=0.0)
        began_s = self.clock.now_s() - lived_s
        self.desk = desk = self._make_desk(began_s)
        for amounts in self.raised:
            self.top_up(amounts)
        spec = self.prepared.spec
        team = RunTeam(spec.task, self.prepared.wiring, self.prepared.places, desk)
        ending = _Ending()
        async with anyio.create_task_group() as group:
            admission = desk.attempts.admission
            admission.on_first_stir = lambda: group.start_soon(admission.decide_at_quiescence)
            if self.tape is not None:
                group.start_soon(self.tape.watch, self.cancel)
            if self.beside is not None:
                group.start_soon(self.beside)
            with self._stop:
                await self._solve(team, ending, lived_s)
            group.cancel_scope.cancel()
        halted = None if self.journal is None else self.journal.halted
        cancelled = self._stop.cancel_called or (isinstance(halted, RunHalted) and halted.ruling == "cancelled")
        if halted is not None and not cancelled:
            raise halted
        if cancelled:
            ending.status, ending.reason = "cancelled", "an operator cancelled the run"
        self.ledger.check()
        return self._result(ending, team, desk, self.clock.now_s() - began_s)

    def cancel(self) -> None:
        """End the run now; what is in flight is charged at maximum unless its endpoint says otherwise."""
        self._stop.cancel()

    def top_up(self, amounts: Amounts) -> None:
        """Raise the run's budget, in its own dimensions; who waits for it is asked again."""
        self.ledger.top_up(SCOPE, pack(amounts))
        caps = self.desk.caps
        self.desk.caps = tuple(None if c is None else c + a for c, a in zip(caps, amounts, strict=True))
        self.desk.attempts.admission.stir()

    async def _solve(self, team: RunTeam, ending: _Ending, lived_s: float) -> None:
        where = f"topology {self.prepared.spec.topology.name}"
        try:
            # Once more, because what foreign code raises while the deadline cancels it comes out of the deadline's scope.
            await contained(where, self._in_time, where, team, ending, lived_s)
        except OrchestrationError as error:
            ending.status, ending.reason = "failed", str(error)

    async def _in_time(self, where: str, team: RunTeam, ending: _Ending, lived_s: float) -> None:
        spec = self.prepared.spec
        seconds = spec.budget.seconds
        left_s = None if seconds is None else max(0.0, on_grid_s(seconds) - lived_s)
        solve: Solve = spec.topology.solve
        if self.tape is not None:
            solve, left_s = self.tape.around(solve), self.tape.left_s(left_s)
        with anyio.move_on_after(left_s) as scope:
            try:
                outcome = await contained(where, solve, spec.task, team)
            except BudgetExceeded as error:
                ending.status, ending.reason = "exhausted", str(error)
            except OrchestrationError as error:
                ending.status, ending.reason = "failed", str(error)
            else:
                if isinstance(outcome, Refusal):
                    refused = BudgetExceeded(outcome.scope, outcome.dimension, outcome.need, outcome.left)
                    ending.status, ending.reason = "exhausted", f"{outcome.seat}: {refused}"
                elif isinstance(outcome, Failure):
                    ending.status, ending.reason = "failed", f"{outcome.seat}: {outcome.error}"
                elif not isinstance(outcome, Outcome):
                    kind = type(outcome).__name__
                    ending.status, ending.reason = "failed", f"{where} returned a {kind}, which is no answer"
                else:
                    ending.status, ending.reason, ending.outcome = "completed", "", outcome
        if scope.cancelled_caught:
            ending.status, ending.reason = "deadline", f"the deadline of {seconds:g} s passed"

    def _make_desk(self, began_s: float) -> Desk:
        prepared = self.prepared
        spec, budget = prepared.spec, prepared.spec.budget
        allowances = allowances_of(budget, prepared.wiring, prepared.ceilings, prepared.floors)
        make = Attempts if self.tape is None else self.tape.attempts
        attempts = make(
            Admission(self.ledger, allowances),
            self.journal,
            self.clock,
            self.permit_for,
            self.epoch,
            began_s,
            self.earlier,
        )
        return Desk(
            attempts,
            prepared.models,
            budget.caps,
            budget.dimensions,
            (spec.seed, spec.task.address),
            prepared.places,
            self.spread,
        )

    def _result(self, ending: _Ending, team: RunTeam, desk: Desk, seconds: float) -> RunResult:
        spec, virtual = self.prepared.spec, self.prepared.virtual
        answer = text_of(ending.outcome if ending.status == "completed" else team.offered)
        try:
            correct = contained_sync(f"checker of task {spec.task.id}", spec.task.correct, answer)
        except OrchestrationError as error:
            # What was bought and answered is still a result.
            correct, ending.status, ending.reason = None, "failed", str(error)
        attempts = sorted(desk.attempts.done, key=in_order)
        dimensions, scopes = spec.budget.dimensions, self.ledger.scopes
        over = map(max, *(self.ledger.overspend(scope) for scope in scopes), (0,) * len(dimensions))
        books = statement(scopes[SCOPE], dimensions)
        return RunResult(
            run_id=spec.run_id,
            status=ending.status,
            reason=ending.reason,
            answer=answer,
            correct=correct,
            spend=SpendReport.of(attempts, virtual=virtual),
            overspend=dict(zip(dimensions, over, strict=True)),
            books=books,
            seconds=seconds,
            virtual=virtual,
            deterministic="D1" if virtual and not self._by_arrival(team) else "D2",
            disturbed=self.disturbed or (self.spread is not None and self.spread.disturbed),
            metrics=self._metrics(team, attempts, books),
            attempts=tuple(attempts),
            ceilings=self._ceilings(),
        )

    def _ceilings(self) -> tuple[Ceiling, ...]:
        wiring, dimensions = self.prepared.wiring, self.prepared.spec.budget.dimensions
        return tuple(
            Ceiling(
                scope=scope,
                parent=wiring.scopes[scope][0],
                seats=[seat for seat, level in wiring.level_of.items() if level.scope == scope],
                balances=statement(self.ledger.scopes[scope], dimensions),
            )
            for scope in self.prepared.ceilings
        )

    def _by_arrival(self, team: RunTeam) -> bool:
        return team.tally.collided or any(
            getattr(model, "by_arrival", False) for model in self.prepared.models.values()
        )

    def _metrics(self, team: RunTeam, attempts: list[Attempt], books: Mapping[str, Balance]) -> dict[str, float]:
        unspent = (books["tokens"]["unspent"], books["pico_usd"]["unspent"])
        places, models = self.prepared.places, self.prepared.models
        slack = bound_slack(team.tally.refusals, attempts, unspent, places, models)
        return {
            "turns": sum(a.kind == "work" for a in attempts),
            "messages": team.tally.messages,
            "refusals": len(team.tally.refusals),
            "failures": len(team.tally.failures),
            "shrunk": sum(a.max_tokens < a.wanted_tokens for a in attempts),
            "charged_max_tokens": sum(a.held_tokens for a in attempts if a.state == "charged_max"),
            "charged_max_pico_usd": sum(a.held_pico_usd for a in attempts if a.state == "charged_max"),
            "slack_tokens": slack[0],
            "slack_pico_usd": slack[1],
        }
