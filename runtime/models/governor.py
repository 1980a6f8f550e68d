"""Owns the places of one host at each endpoint: who has to wait does so here, first in the order of runs, then of arrival.

What may be in flight, and what may start a second, is decided in one book for all hosts (`runtime.models.endpoints.sharing`).
This host decides alone within its share; what it has to tell travels for all endpoints and callers together, one message at
a time. Where no answer comes, it goes on within what it has.
"""

import math
from collections.abc import Awaitable, Callable, Mapping

import anyio

from runtime.bank.book import Need
from runtime.bank.vector import unpack
from runtime.budget import TOKENS
from runtime.clock import Clock, LoopClock
from runtime.errors import HostLost, ModelError, ModelRateLimited, ModelTimeout, ModelUnavailable, ModelUnreachable
from runtime.models.base import ChatModel
from runtime.models.endpoints.endpoint import Declared, Kind, Loss
from runtime.models.endpoints.lane import Lane, Ticket
from runtime.models.endpoints.sharing import Share, Sharing, Told
from runtime.models.endpoints.visit import Ended, Lent
from runtime.models.origins import limits_each_model
from runtime.models.spec import ModelSpec

Exchange = Callable[[str, Mapping[str, Told]], Awaitable[Mapping[str, Share]]]

HERE_S, AFAR_S = 0.01, 0.05
"""How often a host tells, at most, what can wait: a book in this process, and one in another."""
POLL_S, POLL_MOST_S = 0.1, 10.0
"""How often it asks for more while callers wait and nothing else happens: others may have given back. The latter while the
endpoint cools down."""
ALIVE_S = 1.0
"""How often it speaks while it has a share or calls in flight, so that it is not taken for dead."""
ANSWER_S = 2.0
"""How long it waits for its share before it goes on with what it has."""


class Hub:
    """The one book of all hosts: an object in this process, or a small actor of the cluster."""

    def __init__(self) -> None:
        self._sharing = Sharing()
        self._clock = LoopClock()

    async def exchange(self, host: str, tells: Mapping[str, Told]) -> dict[str, Share]:
        """Take in what a host tells, and give it its shares."""
        return self._sharing.exchange(host, tells, self._clock.now_s())


class Governor:
    """Hands out places. Virtual models need none: nothing of theirs can be overloaded.

    Args:
        host: the name under which this host has its share.
        exchange: tells the hub; None: this host is the only one.
        clock: for waits and rates.
    """

    def __init__(self, host: str = "here", exchange: Exchange | None = None, clock: Clock | None = None) -> None:
        self._host = host
        self._exchange = exchange or Hub().exchange
        self._every_s = HERE_S if exchange is None else AFAR_S
        self._clock = clock or LoopClock()
        self._lanes: dict[str, Lane[_Place]] = {}
        self._leading = anyio.Lock()
        self._stirred = anyio.Event()
        self._told_s = self._answered_s = -math.inf
        self._sleeps_until_s = -math.inf

    def permit(self, run: str, model: ChatModel, need: Need) -> Lent | None:
        """A place at the model's endpoint, not yet acquired; None where it has no limit."""
        if model.virtual:
            return None
        endpoint = _endpoint(model)
        if endpoint is None:
            return None
        name, declared = endpoint
        lane = self._lanes.setdefault(name, Lane(declared))
        lane.declared = lane.declared.and_also(declared)
        # Counted whether or not tokens are limited: a limit may be announced while the call waits.
        tokens = unpack(need.at(need.most), TOKENS + 1)[TOKENS]
        return _Place(self, lane, Ticket(run, tokens), model)

    async def serve(self) -> None:
        """Exchange with the hub and wake who may go, until cancelled. Runs beside every live run; one at a time works."""
        async with self._leading:
            try:
                while True:
                    await self._step()
            finally:
                if any(lane.changed for lane in self._lanes.values()):
                    # The end of a run gives its places back, whether or not another one goes on.
                    with anyio.CancelScope(shield=True):
                        await self._tell()

    async def _step(self) -> None:
        self._stirred = anyio.Event()
        now_s = self._clock.now_s()
        for lane in self._lanes.values():
            self.go_on(lane)
        if self._due_s(now_s) <= now_s:
            await self._tell()
            return
        self._sleeps_until_s = self._next_s(now_s)
        with anyio.move_on_after(self._sleeps_until_s - now_s):
            await self._stirred.wait()

    def _next_s(self, now_s: float) -> float:
        """When there is something to do."""
        waits = [lane.wait_s(now_s) for lane in self._lanes.values()]
        return min([self._due_s(now_s), *(now_s + wait_s for wait_s in waits if wait_s is not None)])

    def _due_s(self, now_s: float) -> float:
        """When to tell next."""
        if self._answered_s < self._told_s:
            return self._told_s + ALIVE_S  # nobody answered
        due_s = math.inf
        for lane in self._lanes.values():
            if lane.urgent:
                return now_s
            if lane.changed:
                due_s = min(due_s, self._told_s + self._every_s)
            elif lane.waiting:
                due_s = min(due_s, self._answered_s + min(max(lane.again_s, POLL_S), POLL_MOST_S))
            elif lane.places or lane.in_flight:
                due_s = min(due_s, self._told_s + ALIVE_S)
        return due_s

    async def _tell(self) -> None:
        self._told_s = self._clock.now_s()
        told = {name: lane.tell() for name, lane in self._lanes.items() if not lane.idle}
        shares: Mapping[str, Share] = {}
        try:
            # A cancelled exchange would leave two opinions on what this host may do.
            with anyio.move_on_after(ANSWER_S, shield=True):
                shares = await self._exchange(self._host, told)
        except HostLost:
            pass
        finally:
            now_s = self._clock.now_s()
            for name, tell in told.items():
                if name in shares:
                    self._lanes[name].apply(shares[name], now_s)
                else:
                    self._lanes[name].untell(tell)
            if len(shares) == len(told):
                self._answered_s = now_s
        for lane in self._lanes.values():
            self.go_on(lane)
            for ticket in lane.hopeless():
                ticket.caller.decide(lane.outage)

    def go_on(self, lane: "Lane[_Place]") -> None:
        """Let go who may, and have the others told when it is time."""
        now_s = self._clock.now_s()
        for ticket in lane.grant(now_s):
            ticket.caller.decide("")
        if self._next_s(now_s) < self._sleeps_until_s:
            self._stirred.set()


class _Place:
    """One caller's place."""

    __slots__ = ("_decided", "_governor", "_lane", "_model", "_outage", "_ticket")

    def __init__(self, governor: Governor, lane: "Lane[_Place]", ticket: "Ticket[_Place]", model: ChatModel) -> None:
        self._governor, self._lane, self._ticket, self._model = governor, lane, ticket, model
        self._outage = ""

    def decide(self, outage: str) -> None:
        """Let the caller go, or tell why there is no hope."""
        self._outage = outage
        self._decided.set()

    async def acquire(self) -> None:
        """Wait for a place.

        Raises:
            ModelUnreachable: the endpoint has not answered anybody for long.
        """
        self._decided = anyio.Event()
        self._ticket.caller = self
        self._lane.enter(self._ticket)
        self._governor.go_on(self._lane)
        if not self._decided.is_set():
            try:
                await self._decided.wait()
            except BaseException:
                if not self._decided.is_set():
                    self._lane.withdraw(self._ticket)
                elif not self._outage:
                    self.release()
                raise
        if self._outage:
            raise ModelUnreachable(self._model.name, self._outage)

    def release(self, ended: Ended | None = None) -> None:
        """Give the place back.

        Args:
            ended: how the call ended; None: nothing was sent.
        """
        lane, ticket = self._lane, self._ticket
        announced = getattr(self._model, "announced", None)
        if announced is not None:
            lane.hear(self._model.name, announced)
        if ended is None:
            lane.give_back(ticket)
        elif ended.error is None:
            lane.landed(ticket, ended.used_tokens, answered=ended.answered)
        else:
            kind = _kind(ended.error)
            if kind is None:
                lane.landed(ticket, ended.used_tokens, answered=True)
            else:
                error = ended.error
                lane.lost(ticket, Loss(kind, ticket.round, ticket.full, error.retry_after_s, str(error)))
        self._governor.go_on(lane)


def _kind(error: ModelError) -> Kind | None:
    """What an error says about the endpoint; None: that it is there and has the time."""
    if isinstance(error, ModelRateLimited):
        return "limited"
    return "failed" if isinstance(error, ModelUnavailable | ModelTimeout) else None


def _endpoint(model: ChatModel) -> tuple[str, Declared] | None:
    """The name under which a model's endpoint keeps its limits, and what is declared of them.

    An endpoint is an address with a key: what servers and gateways count, they count for both together, whatever the model.
    The large providers count for each model.
    """
    spec = getattr(model, "spec", None)
    if isinstance(spec, ModelSpec):
        counted = spec.model if limits_each_model(spec.endpoint) else ""
        declared = Declared(spec.max_parallel, spec.requests_per_minute, spec.tokens_per_minute)
        return f"{spec.endpoint} {spec.key_env} {counted}", declared
    most = getattr(model, "max_parallel", None)
    return None if most is None else (model.name, Declared(most))
