"""Owns the recording of one run while it goes on: every request, every try, and what admission decided."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from runtime.agents.tools import Tool
from runtime.attempts import Attempts
from runtime.bank.book import AttemptId, Held, Need, Record
from runtime.bank.store import Note
from runtime.bank.vector import unpack
from runtime.errors import OrchestrationError
from runtime.journal import Attempt, Key, State
from runtime.models.asked import Asked, asked_of, asked_of_tool, digest_of
from runtime.models.base import ChatModel, ChatReply, ChatRequest
from runtime.nesting import RUN_SCOPE, Wiring
from runtime.order import NO_REPLY, Done, Order
from runtime.preflight import Prepared, RunSpec, prepare
from runtime.recording import Foreign, ModelFacts, RecordedAsk, RecordedRun, RecordedTry, SeatFacts
from runtime.recording_file import to_body
from runtime.result import RunResult
from runtime.run import Run
from runtime.tape import NOTE, Solve


@dataclass(slots=True)
class _Open:
    """An ask as it is noted, from the moment it is made."""

    order: Order
    asked: str
    end: ChatReply | OrchestrationError | Foreign | None = None
    at_s: float = 0.0
    """When it ended."""


@dataclass(slots=True)
class Recorder:
    """The tape of a run that is recorded. All of it is kept in memory until the run ends; what a crash takes is asked again
    by the next life of the run, and noted there."""

    spec: RunSpec
    prepared: Prepared = field(init=False)
    run: Run = field(init=False)
    earlier: list[Attempt] = field(init=False)
    asks: dict[Key, _Open] = field(default_factory=dict)
    asked: dict[str, Asked] = field(default_factory=dict)
    tries: dict[Key, list[tuple[Attempt, ChatReply | None]]] = field(default_factory=dict)

    def prepare(self, find: Callable[[str], ChatModel]) -> Prepared:
        """Check the run."""
        self.prepared = prepare(self.spec, find)
        return self.prepared

    def lay_into(self, run: Run) -> None:
        """Note what earlier lives of the run left."""
        self.run = run
        self.earlier = list(run.earlier)

    @property
    def attempts(self) -> "Callable[..., RecordingAttempts]":
        """A money path that notes what it does here."""
        return partial(RecordingAttempts, tape=self)

    def around(self, solve: Solve) -> Solve:
        """`solve` itself."""
        return solve

    def left_s(self, left_s: float | None) -> float | None:
        """The deadline itself."""
        return left_s

    async def watch(self, cancel: Callable[[], None]) -> None:
        """Nothing has to be watched."""

    def finish(self, result: RunResult) -> Note:
        """The recording as a note of the store."""
        return Note(NOTE + self.spec.run_id, to_body(self.recorded(result)))

    def recorded(self, result: RunResult) -> RecordedRun:
        """Everything that was noted."""
        spec, ledger, n = self.spec, self.run.ledger, len(self.spec.budget.dimensions)
        caps = zip(unpack(ledger.scopes[RUN_SCOPE].caps, n), spec.budget.caps, strict=True)

        def kept(row: Attempt, reply: ChatReply | None) -> RecordedTry:
            return _kept(ledger.record(AttemptId(Key(row.step, row.seat, row.sample), row.try_)), row, reply)

        return RecordedRun(
            spec.run_id,
            spec.address,
            {"id": spec.task.id, "address": spec.task.address, "prompt": spec.task.prompt},
            facts_of(spec.topology.name, self.prepared.wiring),
            spec.budget,
            spec.seed,
            {name: ModelFacts(m.price, m.window_tokens, m.shrinkable) for name, m in self.prepared.models.items()},
            {
                seat: SeatFacts(place.share, place.floor, self.prepared.floors.get(seat, 0))
                for seat, place in self.prepared.places.items()
            },
            tuple(0 if before is None else now - before for now, before in caps),
            tuple(kept(row, None) for row in self.earlier),
            tuple(
                RecordedAsk(
                    key,
                    ask.order.kind,
                    ask.order.name,
                    ask.asked,
                    tuple(kept(*one) for one in self.tries.get(key, ())),
                    ask.end,
                    ask.at_s,
                )
                for key, ask in sorted(self.asks.items())
            ),
            self.asked,
            result,
        )


@dataclass
class RecordingAttempts(Attempts):
    """The money path of a run that is recorded."""

    tape: Recorder = field(kw_only=True)

    async def chat(self, model: ChatModel, request: ChatRequest, order: Order) -> ChatReply:
        """Call a model, and note it."""
        return await self._noted(order, asked_of(request), Attempts.chat(self, model, request, order))

    async def tool(self, tool: Tool, arguments: Mapping[str, Any], order: Order, dimensions: tuple[str, ...]) -> str:
        """Call a tool, and note it."""

        async def call() -> ChatReply:
            return ChatReply(await Attempts.tool(self, tool, arguments, order, dimensions), None)

        return (await self._noted(order, asked_of_tool(tool.name, arguments), call())).text

    async def _noted(self, order: Order, asked: Asked, work: Awaitable[ChatReply]) -> ChatReply:
        ask = _Open(order, digest_of(asked))
        self.tape.asked[ask.asked] = asked
        self.tape.asks[order.key] = ask
        try:
            reply = ask.end = await work
        except OrchestrationError as error:
            ask.end = error
            raise
        except BaseException as error:
            # A user's model may raise anything. What is no Exception is a cancellation.
            if isinstance(error, Exception):
                ask.end = Foreign.of(error)
            raise
        finally:
            ask.at_s = self.clock.now_s() - self.began_s
        return reply

    def _close(
        self, held: Held, need: Need, order: Order, state: State, done: Done, began_s: float, waited_s: float
    ) -> Attempt:
        row = Attempts._close(self, held, need, order, state, done, began_s, waited_s)
        reply = None if done.reply is NO_REPLY else done.reply
        self.tape.tries.setdefault(order.key, []).append((row, reply))
        return row


def facts_of(name: str, wiring: Wiring) -> dict[str, Any]:
    """What is compared of a topology, and told where it differs: its name, its seats and its ceilings.

    Its prompts and its code are not in it: where one of them differs, the first request that this changes says so, with both
    texts.
    """
    seats = {
        seat: {"role": agent.role, "models": list(agent.model_names()), "tools": [tool.name for tool in agent.tools]}
        for seat, agent in wiring.agents.items()
    }
    ceilings = {scope: ceiling.describe() for scope, (_, ceiling) in wiring.scopes.items()}
    return {"name": name, "seats": seats, "ceilings": ceilings}


def _kept(record: Record, row: Attempt, reply: ChatReply | None) -> RecordedTry:
    charged = record.charged if record.state == "settled" else None
    return RecordedTry(row, record.need, record.floor, record.path[0].name, charged, reply)
