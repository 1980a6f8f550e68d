"""Owns the replay of a recorded run: the same requests get the same replies, the same grants and the same refusals.

A replay is a virtual run. Nothing decides anew what the recording decided: admission is not asked, each attempt is held,
sent and settled in the run's ledger as it was, at the moment it was, and the ledger proves its balances at the end as after
any run. So the order in which a live run's requests happened to arrive plays no part, and neither does what runs beside it.

Every call is replayed at its recorded moments and not only for its recorded time: then a deadline, a timeout of the user's
own and a race between two replies end as they did, although a replay itself takes no time. What the run asks is held
against what it asked then. A request is looked up by its seat and its canonical form, first where it is expected; whatever
finds no counterpart ends the run with the first difference, and what nobody asked for is told at its end.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

import anyio

from runtime.agents.tools import Tool
from runtime.attempts import Attempts
from runtime.bank.book import AttemptId, Held
from runtime.bank.ledger_queue import natural_order
from runtime.bank.vector import unpack
from runtime.budget import TOKENS
from runtime.clock import TICK_S
from runtime.errors import BudgetExceeded, ConfigError, OrchestrationError, ReplayDiverged
from runtime.journal import Key, in_order
from runtime.models.asked import Asked, asked_of, asked_of_tool, digest_of, first_difference
from runtime.models.base import ChatModel, ChatReply, ChatRequest
from runtime.models.recorded import ReplayedModel
from runtime.order import NO_REPLY, Done, Order
from runtime.preflight import Prepared, RunSpec, prepare
from runtime.protocols import Outcome, Team
from runtime.recording import Foreign, RecordedAsk, RecordedRun
from runtime.result import RunResult
from runtime.run import Run
from runtime.tape import Solve
from runtime.task import Task
from runtime.team import RunTeam
from runtime.trampoline import handover, nap_s
from runtime.usage import Usage

_LATE_S = 1.0
"""How long after its recorded end a replay may go on before something in it is found to wait for what never comes."""


@dataclass(slots=True)
class Player:
    """The tape of a run that is replayed."""

    spec: RunSpec
    recorded: RecordedRun
    diverged: list[ReplayDiverged] = field(default_factory=list)
    """What first went another way, all at one instant."""
    left: dict[Key, RecordedAsk] = field(default_factory=dict)
    """What was not asked for yet."""
    probes: dict[tuple[int, str], list[RecordedAsk]] = field(default_factory=dict)
    """By step and seat, the probes that a call had to wait for."""
    began_s: float = 0.0
    now_s: Callable[[], float] = field(init=False)
    _stirred: anyio.Event = field(init=False)

    def prepare(self, find: Callable[[str], ChatModel]) -> Prepared:
        """Check the run, with models and tools that call nobody."""
        prepared = prepare(self.spec, models_of(self.recorded))
        for seat, facts in self.recorded.seats.items():
            place = prepared.places[seat]
            place.share, place.floor = facts.share, facts.floor
            prepared.floors[seat] = facts.kept
        prepared.virtual = True
        return prepared

    def lay_into(self, run: Run) -> None:
        """Bring the run's book to where earlier lives of the recorded run had left it."""
        self._stirred = anyio.Event()
        self.now_s = run.clock.now_s
        for ask in self.recorded.asks:
            if ask.kind == "probe":
                self.probes.setdefault(ask.key[:2], []).append(ask)
            else:
                self.left[ask.key] = ask
        for one in sorted(self.recorded.earlier, key=lambda one: in_order(one.row)):
            row = one.row
            id = AttemptId(Key(row.step, row.seat, row.sample), row.try_)
            run.ledger.restore(id, one.scope, one.need, one.floor, row.max_tokens, row.state, one.charged)
            run.earlier.append(row)
        if any(self.recorded.raised):
            run.raised.append(self.recorded.raised)
        run.disturbed = self.recorded.result.disturbed

    @property
    def attempts(self) -> "Callable[..., ReplayedAttempts]":
        """The money path that plays what is recorded."""
        return partial(ReplayedAttempts, tape=self)

    def around(self, solve: Solve) -> Solve:
        """`solve`; where the recorded run was cut off, it does not return before that."""
        was = self.recorded.result

        async def cut(task: Task, team: Team) -> Outcome:
            try:
                try:
                    await solve(task, team)
                finally:
                    await _for_ever()  # whatever it came to: then, it was not waited for
            finally:
                if isinstance(team, RunTeam) and not was.virtual:
                    # A live run may be cut off between a reply and what comes of it. How far it had come was a race, and it
                    # was decided then.
                    team.offered, team.tally.messages = was.answer, int(was.metrics["messages"])

        return cut if self.recorded.was_cut else solve

    def left_s(self, left_s: float | None) -> float | None:
        """The deadline where the recorded run met it, which may have been a little late: a loop sees replies and deadlines in
        turns. In virtual time it is never late, and a run that did not meet its deadline then does not meet it now."""
        if self.recorded.result.virtual:
            return left_s
        if self.recorded.result.status != "deadline":
            return None
        return max(0.0, self.began_s + self.recorded.result.seconds + TICK_S - self.now_s())

    async def watch(self, cancel: Callable[[], None]) -> None:
        """End the run at its first divergence, or where an operator had ended it, or when it outlives its recording."""
        ends_s = self.began_s + self.recorded.result.seconds
        cancelled = self.recorded.result.status == "cancelled"
        with anyio.move_on_after(max(0.0, ends_s + (0.0 if cancelled else _LATE_S) - self.now_s())) as scope:
            await self._stirred.wait()
            # Others may go another way at the same instant; which of them is told first must not be chance.
            await anyio.wait_all_tasks_blocked()
        if scope.cancelled_caught and not cancelled:
            text = (
                "it still waits, long after the end of the recorded run; what had cut it off there does not happen now"
            )
            self.diverged.append(ReplayDiverged(self.spec.run_id, "the run", 0, text))
        cancel()

    def finish(self, result: RunResult) -> None:
        """Tell what went another way.

        Raises:
            ReplayDiverged: something did, or was left out; of several at one instant, the first in the order of keys.
        """
        if self.diverged:
            raise min(self.diverged, key=lambda d: natural_order(Key(d.step, d.seat, 0)))
        # What was cut off before anything was booked or told is no part of the result: whether it was asked for was a race.
        left = [key for key, ask in self.left.items() if ask.tries or ask.end is not None]
        if left and not self.recorded.was_cut:
            first = min(left, key=natural_order)
            text = (
                "nobody asked for it now; a tool is not called in a replay, so one which asks agents cannot be replayed"
            )
            if result.status != self.recorded.result.status:
                text = f"{text}; the run ended {result.status} now {result.reason}".rstrip()
            raise ReplayDiverged(self.spec.run_id, first.seat, first.step, text)

    def take(self, order: Order, asked: Asked) -> RecordedAsk | None:
        """The recorded counterpart of a request, each once; None where the run is to wait until it is ended."""
        digest, key = digest_of(asked), order.key
        found = self.left.get(key)
        if found is None or (found.asked, found.name) != (digest, order.name):
            same = (key.seat, digest, order.name)
            found = next((a for a in self.left.values() if (a.key.seat, a.asked, a.name) == same), None)
        if found is not None:
            return self.left.pop(found.key)
        expected = next((ask for ask in self.recorded.asks if ask.key == key), None)
        if expected is not None or not self.recorded.was_cut:
            self.diverged.append(
                ReplayDiverged(self.spec.run_id, key.seat, key.step, self._told(order, expected, asked))
            )
            self._stirred.set()
        return None

    def _told(self, order: Order, expected: RecordedAsk | None, asked: Asked) -> str:
        if expected is None:
            n = sum(ask.key.seat == order.key.seat for ask in self.recorded.asks)
            return f"nothing was asked here; the recorded run holds {n} requests of this seat"
        if expected.asked == digest_of(asked):
            return f"{order.name} is asked, and recorded was {expected.name}"
        return first_difference(self.recorded.asked[expected.asked], asked)


@dataclass
class ReplayedAttempts(Attempts):
    """The money path of a run that is replayed."""

    tape: Player = field(kw_only=True)

    def __post_init__(self) -> None:
        self.tape.began_s = self.began_s

    async def chat(self, model: ChatModel, request: ChatRequest, order: Order) -> ChatReply:
        """Play a model call.

        Raises:
            BudgetExceeded: it was refused then.
            ModelError: it failed then.
        """
        return await self._play(order, asked_of(request))

    async def tool(self, tool: Tool, arguments: Mapping[str, Any], order: Order, dimensions: tuple[str, ...]) -> str:
        """Play a tool call; the tool itself is not called.

        Raises:
            BudgetExceeded: it was refused then.
        """
        return (await self._play(order, asked_of_tool(tool.name, arguments))).text

    async def _play(self, order: Order, asked: Asked) -> ChatReply:
        ask = self.tape.take(order, asked)
        if ask is None:
            await _for_ever()
        for probe in self.tape.probes.get(ask.key[:2], ()):
            await self._book(probe)  # it was made on the way to this call
        await self._book(ask)
        if not ask.tries or isinstance(ask.end, BudgetExceeded):
            await self._until(ask.at_s)  # not else: from the last try to here a live run may have waited for the disk
        if ask.end is None:
            await _for_ever()
        if isinstance(ask.end, Foreign):
            raise ask.end.again()
        if isinstance(ask.end, OrchestrationError):
            raise type(ask.end)(*ask.end.args)
        return ask.end

    async def _book(self, ask: RecordedAsk) -> None:
        ledger = self.admission.ledger
        for one in ask.tries:
            row = one.row
            await self._until(row.began_s)
            id = AttemptId(ask.key, row.try_)
            # Not by `reserve`: whether it fits was decided then, and what is booked here is what was decided.
            ledger.restore(id, one.scope, one.need, one.floor, row.max_tokens, "sent", None, self.epoch)
            held = Held(id, row.max_tokens, ledger.record(id).amounts)
            order = Order(ask.key, row.kind, row.model, 0, one.floor, row.senders, one.scope)
            usage = Usage(row.input_tokens, row.output_tokens, row.cached_tokens, 0, row.reasoning_tokens)
            done = Done(one.charged, usage, one.reply or NO_REPLY)
            began_s = self.clock.now_s() - self.began_s
            try:
                await self._until(row.ended_s)
            finally:
                self._close(held, one.need, order, row.state, done, began_s, row.waited_s)

    async def _until(self, at_s: float) -> None:
        """Nap until a moment of the recorded run, on the grid of virtual time."""
        left_s = math.floor(at_s / TICK_S) * TICK_S - (self.clock.now_s() - self.began_s)
        if left_s > 0:
            await nap_s(left_s)


def models_of(run: RecordedRun) -> Callable[[str], ChatModel]:
    """The models of a recorded run by name, as its replay sees them.

    Raises:
        ConfigError: from the function returned, for a model that has no part in the run.
    """
    n = len(run.budget.dimensions)
    bounds: dict[str, dict[str, Usage]] = {name: {} for name in run.models}
    for ask in run.asks:
        for one in ask.tries:
            if ask.kind != "tool":
                bounds[ask.name][ask.asked] = Usage(unpack(one.need.fixed, n)[TOKENS], one.need.most)
    models = {name: ReplayedModel(name, *facts, bounds[name]) for name, facts in run.models.items()}

    def find(name: str) -> ChatModel:
        if name not in models:
            raise ConfigError(f"model {name!r} has no part in run {run.run_id}, which used {', '.join(models)}")
        return models[name]

    return find


async def _for_ever() -> NoReturn:
    """Wait to be cancelled."""
    await handover()
    await anyio.sleep_forever()
    raise AssertionError("somebody ended eternity")
