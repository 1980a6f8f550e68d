"""Owns the money path of one run: permit, reserve, sent, call, settle, journal; and the retries, each a try of its own.

The order is the promise. The bound is held before bytes leave; in a live run `sent` is committed before they leave, and
the reply is committed together with what it cost. Whatever happens in between (error, deadline, cancellation, crash) the
ledger is never behind the bill: without proof that nothing was sent, the whole hold is charged.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast, get_args

import anyio
import orjson
from anyio.lowlevel import checkpoint_if_cancelled

from runtime.agents.tools import Tool, seen_of, units_of, use
from runtime.backoff import backoff_s
from runtime.bank.admission import Admission
from runtime.bank.book import AttemptId, Held, Need, Settled
from runtime.bank.vector import pack, unpack
from runtime.boundary import containing, encodable
from runtime.budget import PICO_USD, TOKENS, TOOL_CALLS
from runtime.clock import Clock, on_grid_s
from runtime.crash import crash_point
from runtime.errors import (
    AgentFailed,
    BadModelReply,
    BudgetExceeded,
    InternalError,
    ModelError,
    OrchestrationError,
    RunHalted,
    StaleEpoch,
    StoreError,
)
from runtime.ids import address
from runtime.journal import Attempt, Key, State
from runtime.models.base import ChatModel, ChatReply, ChatRequest, ToolCall, request_digest
from runtime.models.endpoints.visit import CUT_OFF, Ended, Lent, Visit
from runtime.models.prefixes import Prefixes
from runtime.models.probe import Unproved, prove
from runtime.models.spec import LimitField
from runtime.needs import chat_need, measure
from runtime.order import INSIDE, NO_REPLY, NOT_DONE, Done, Order
from runtime.protocols import Journal
from runtime.trampoline import handover, nap_s
from runtime.usage import Price, Usage

MAX_TRIES = 4
FIRST_PROBE = 1_000
"""Samples from here on are probes, so that no work of a seat is ever taken for one."""


@dataclass(slots=True)
class Attempts:
    """All attempts of one run. Everything it needs is handed in."""

    admission: Admission
    journal: Journal | None
    """None in virtual runs: they commit once, sealed, at their end."""
    clock: Clock
    permit_for: Callable[[ChatModel, Need], Lent | None]
    epoch: int
    began_s: float
    done: list[Attempt]
    prefixes: Prefixes = field(default_factory=Prefixes)

    async def chat(self, model: ChatModel, request: ChatRequest, order: Order) -> ChatReply:
        """Call a model, with retries inside the budget.

        Raises:
            BudgetExceeded: a try does not fit any more.
            ModelError: refused, failed for good, or out of tries.
        """
        request = self.prefixes.told(order.key.seat, model, request)
        digest = request_digest(request) if self.journal is not None else ""
        told = self._told(order.key, digest)
        if told is not None:
            return told
        await self._know(model, request, order, digest)
        need = chat_need(model, request, order.least)
        price = model.price or Price()

        async def work(units: int) -> Done:
            if not getattr(model, "naps", False):
                await handover()
            granted = request if units == request.max_tokens else replace(request, max_tokens=units)
            reply, failed = NO_REPLY, cast("BadModelReply | None", None)
            try:
                # A user's model may raise anything, and its asker goes on: the journal has to have it as one of ours.
                with containing("seat", order.key.seat):
                    reply = _encodable(await model.complete(granted))
                usage = reply.usage
            except BadModelReply as error:
                if error.usage is None:
                    raise
                usage, failed = Usage(*error.usage), error
            if usage is None:
                return Done(None, Usage(0, 0), reply)
            return Done(pack((usage.tokens, price.cost(usage), 1, 0)), usage, reply, failed)

        for turn in range(MAX_TRIES):
            try:
                return await self._attempt(order, need, digest, self._visit(model, need), work)
            except (BudgetExceeded, ModelError, AgentFailed) as error:
                if not isinstance(error, ModelError) or not error.retryable or turn == MAX_TRIES - 1:
                    await self._unanswered(order.key, digest, error)
                    raise
                await nap_s(on_grid_s(backoff_s(error, turn, request.seed)))
        raise InternalError("a loop of tries ended without a reply")

    def _visit(self, model: ChatModel, need: Need) -> Visit | None:
        place = self.permit_for(model, need)
        return None if place is None else Visit(place, self.clock)

    def _told(self, key: Key, digest: str) -> ChatReply | None:
        """The reply that an earlier life of a live run got; None where it was told nothing. What it was refused, it still is."""
        return None if self.journal is None else self.journal.replay(key, digest)

    async def _unanswered(self, key: Key, digest: str, error: OrchestrationError) -> None:
        """Have the journal of a live run know what its asker is told, since all that it does next rests on it."""
        if self.journal is not None:
            await self.journal.unanswered(key, digest, error)

    async def _know(self, model: ChatModel, request: ChatRequest, order: Order, digest: str) -> None:
        """Find out which limit the endpoint obeys, where nobody knows, and how long the prompt is, where it can tell."""
        try:
            if getattr(model, "unproved", False):
                await prove(cast("Unproved", model), partial(self._probe, order))
            await measure(model, request)
        except (BudgetExceeded, ModelError) as error:
            await self._unanswered(order.key, digest, error)
            raise

    async def _probe(self, order: Order, probe: ChatModel, request: ChatRequest) -> ChatReply:
        """Ask an endpoint which limit it obeys, as an attempt of the seat that needs to know first."""
        sample = FIRST_PROBE + get_args(LimitField).index(getattr(probe, "field", ""))
        key = order.key._replace(sample=sample)
        return await self.chat(probe, request, Order(key, "probe", order.name, scope=order.scope))

    async def tool(self, tool: Tool, arguments: Mapping[str, Any], order: Order, dimensions: tuple[str, ...]) -> str:
        """Call a tool; it costs exactly its price times its units.

        Raises:
            BudgetExceeded: the call does not fit any more.
        """
        try:
            units = units_of(tool, arguments)
        except AgentFailed as failure:
            return seen_of(failure)  # it was not called, so it costs nothing
        by_tool = tuple(units if name == f"tool_calls.{tool.name}" else 0 for name in dimensions[4:])
        cost = pack((0, tool.pico_usd * units, 0, units, *by_tool))

        async def work(_: int) -> Done:
            await handover()
            outside = INSIDE.set((*INSIDE.get(), order.key))
            try:
                return Done(cost, Usage(0, 0), ChatReply(await use(tool, arguments), Usage(0, 0)))
            finally:
                INSIDE.reset(outside)

        digest = address([tool.name, dict(arguments)]) if self.journal is not None else ""
        told = self._told(order.key, digest)
        try:
            return (told or await self._attempt(order, Need(cost, 0, 0, 0), digest, None, work)).text
        except (BudgetExceeded, ModelError) as error:  # its own, or one of an agent that it asked
            await self._unanswered(order.key, digest, error)
            raise

    async def _attempt(
        self,
        order: Order,
        need: Need,
        digest: str,
        visit: Visit | None,
        work: Callable[[int], Awaitable[Done]],
    ) -> ChatReply:
        left, done, why_not = False, NOT_DONE, cast("ModelError | None", None)
        held = await self.admission.admit(order.key, order.scope, need, order.floor, self.epoch, visit)
        try:
            if isinstance(held, Settled):
                raise InternalError(f"attempt {tuple(order.key)} was settled before")
            began_s = self.clock.now_s() - self.began_s
            crash_point("after-reserve")
            self.admission.sent(held.id, self.epoch)
            state: State = "released"  # for as long as nothing has left
            refused = False
            try:
                if self.journal is not None:
                    await self.journal.sent(held, need, order, digest, began_s)
                    # The deadline may have come meanwhile; then nothing leaves, and nothing is charged.
                    await checkpoint_if_cancelled()
                crash_point("after-sent")
                state = "charged_max"
                left = True
                if order.kind == "tool":
                    # What it costs is known, so it is charged now and holds nothing while it works: it may ask an agent.
                    self.admission.settle(held.id, None)
                done = await work(held.units)
                crash_point("after-reply")
                state = "settled" if done.used is not None else "charged_max"
            except ModelError as error:
                # A tool was called all the same, whatever model it met inside.
                state = "charged_max" if error.billed or order.kind == "tool" else "released"
                why_not = error
                raise
            except (StaleEpoch, RunHalted, StoreError):
                refused = state == "released"
                raise
            finally:
                row = self._close(held, need, order, state, done, began_s, 0.0 if visit is None else visit.waited_s)
                if visit is not None and left:
                    visit.release(_ended(done, why_not))
                # What the store never took as sent is not there to be closed; its key may be another host's by now.
                if self.journal is not None and not refused:
                    # A cancelled run must not lose what it owes: the entry is written whatever happened to the caller.
                    with anyio.CancelScope(shield=True):
                        reply = None if done.reply is NO_REPLY else done.reply
                        await self.journal.closed(row, done.used, reply, digest, done.failed)
        finally:
            if visit is not None:
                visit.release()
        if done.failed is not None:
            raise done.failed
        return done.reply

    def _close(
        self, held: Held, need: Need, order: Order, state: State, done: Done, began_s: float, waited_s: float
    ) -> Attempt:
        id: AttemptId = held.id
        amounts = unpack(held.amounts, 4)
        if state == "released":
            self.admission.release(id)
            charged, usage = unpack(0, 4), Usage(0, 0)
        else:
            self.admission.settle(id, done.used)
            charged = amounts if done.used is None else unpack(done.used, 4)
            # The split of an unknown usage is unknown too; the whole hold counts as output.
            usage = Usage(0, amounts[TOKENS]) if done.used is None else done.usage
        row = Attempt(
            *id.key,
            id.try_,
            order.kind,
            order.name,
            state,
            usage.input_tokens,
            usage.output_tokens,
            charged[PICO_USD],
            charged[TOOL_CALLS],
            amounts[TOKENS],
            amounts[PICO_USD],
            held.units,
            need.most,
            began_s,
            self.clock.now_s() - self.began_s,
            done.reply.finish,
            _said(done.reply),
            order.senders,
            waited_s,
            usage.cached_tokens,
            usage.reasoning_tokens,
            done.reply.floored,
        )
        self.done.append(row)
        return row


def _ended(done: Done, error: ModelError | None) -> Ended:
    """What the place at the endpoint is told of a call that was sent."""
    if error is None and done is NOT_DONE:
        return CUT_OFF
    return Ended(error or done.failed, None if done.used is None else done.usage.tokens)


def _encodable(reply: ChatReply) -> ChatReply:
    if reply.text.isascii() and not reply.tool_calls:
        return reply
    calls = tuple(ToolCall(*map(encodable, call)) for call in reply.tool_calls)
    return replace(reply, text=encodable(reply.text), tool_calls=calls)


def _said(reply: ChatReply) -> str:
    """What the journal keeps of a reply: its text, or the tools it called, as JSON."""
    if not reply.tool_calls:
        return reply.text
    return orjson.dumps([call._asdict() for call in reply.tool_calls]).decode()
