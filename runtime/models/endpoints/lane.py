"""Owns one host's share of one endpoint: who waits, who goes next, what is in flight, what is to be told. Pure.

Places go round the runs, and within a run by arrival, so that a run with a thousand callers takes no more turns than one
with three.
"""

from collections import Counter
from functools import reduce
from typing import Generic, TypeVar

from runtime.models.endpoints.announced import Announced
from runtime.models.endpoints.bucket import Bucket
from runtime.models.endpoints.endpoint import Declared, Loss
from runtime.models.endpoints.sharing import Flow, Share, Told

Caller = TypeVar("Caller")

AHEAD_S = 0.1
"""How long a host's part of a rate may heap up where nobody draws it."""


class Ticket(Generic[Caller]):
    """One call, from the moment it wants to start.

    Args:
        run: whose turn it takes.
        tokens: what it counts for at most, where tokens are counted.
    """

    __slots__ = ("caller", "full", "round", "run", "tokens")

    caller: Caller
    """Who is told."""

    def __init__(self, run: str, tokens: int) -> None:
        self.run, self.tokens = run, tokens
        self.round = 0
        self.full = False


class Lane(Generic[Caller]):
    """What a host knows of one endpoint."""

    def __init__(self, declared: Declared) -> None:
        self.declared = declared
        """By the specs of the models that are asked there."""
        self.places = 0
        self.in_flight = 0
        self.again_s = 0.0
        self.outage = ""
        self.changed = False
        """Whether something happened that the others do not know of."""
        self.urgent = False
        """Whether they should hear it at once."""
        self.halted = False
        """Refused, and no share since: nothing starts meanwhile."""
        self._round = 0
        self._buckets: list[Bucket | None] = [None, None]
        self._queue: dict[str, dict[Ticket[Caller], None]] = {}
        self._flying: Counter[str] = Counter()
        self._started = self._answered = self._fresh = 0
        self._losses: list[Loss] = []
        self._announced: dict[str, Announced] = {}

    @property
    def limits(self) -> Declared:
        """What is declared, and what the endpoint announced: the strictest, where it counts for each model apart."""
        return reduce(Declared.within, self._announced.values(), self.declared)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(map(len, self._queue.values()))

    @property
    def idle(self) -> bool:
        """Whether nothing is in flight, nobody waits, and everything is told and given back."""
        return not (self.in_flight or self._queue or self.places or self.changed)

    def hear(self, model: str, announced: Announced) -> None:
        """Take in what the endpoint announced to calls of a model."""
        if self._announced.get(model) != announced:
            self._announced[model] = announced
            self.changed = self.urgent = True

    def enter(self, ticket: Ticket[Caller]) -> None:
        """Queue up."""
        self.urgent |= not (self.places or self._queue)
        self.changed |= not self._queue
        self._queue.setdefault(ticket.run, {})[ticket] = None

    def withdraw(self, ticket: Ticket[Caller]) -> None:
        """Leave the queue."""
        line = self._queue[ticket.run]
        del line[ticket]
        if not line:
            del self._queue[ticket.run]
        self.changed = True

    def grant(self, now_s: float) -> list[Ticket[Caller]]:
        """Let go who may, in turns."""
        granted = []
        for bucket in self._buckets:
            if bucket is not None:
                bucket.fill(now_s)
        while self._queue and not self.halted and self.in_flight < self.places:
            run = next(iter(self._queue))
            ticket = next(iter(self._queue[run]))
            costs = (1.0, float(ticket.tokens))
            if any(b is not None and b.wait_s(c) > 0 for b, c in zip(self._buckets, costs, strict=True)):
                break
            line = self._queue.pop(run)
            del line[ticket]
            if line:
                self._queue[run] = line  # behind the other runs
            if self._buckets[1] is None:
                ticket.tokens = 0  # drawn from nothing; if a limit is heard of meanwhile, it pays when it lands
            self._draw(1.0, ticket.tokens)
            self.in_flight += 1
            self._flying[run] += 1
            self._started += 1
            ticket.round, ticket.full = self._round, self.in_flight >= self.places
            granted.append(ticket)
        self.changed |= bool(granted)
        return granted

    def wait_s(self, now_s: float) -> float | None:
        """When `grant` lets somebody go without anything else happening; None: not so."""
        if not self._queue or self.halted or self.in_flight >= self.places:
            return None
        ticket = next(iter(next(iter(self._queue.values()))))
        costs = (1.0, float(ticket.tokens))
        return max((b.wait_s(c) for b, c in zip(self._buckets, costs, strict=True) if b is not None), default=0.0)

    def hopeless(self) -> list[Ticket[Caller]]:
        """Send away who waits while there is an outage and no place to ask from."""
        if not self.outage or self.places:
            return []
        told = [ticket for line in self._queue.values() for ticket in line]
        self._queue.clear()
        return told

    def give_back(self, ticket: Ticket[Caller]) -> None:
        """Take back a place from which nothing was sent."""
        self._land(ticket)
        self._draw(-1.0, -ticket.tokens)
        self._started -= 1

    def landed(self, ticket: Ticket[Caller], used_tokens: int | None, *, answered: bool) -> None:
        """Take back the place of a call that ended.

        Args:
            used_tokens: None: not known.
            answered: False: it was cut off by its caller, and the endpoint said nothing.
        """
        self._land(ticket)
        self._answered += answered
        self._fresh += answered and ticket.round == self._round
        if used_tokens is not None:
            self._draw(0.0, used_tokens - ticket.tokens)

    def lost(self, ticket: Ticket[Caller], loss: Loss) -> None:
        """Take back the place of a call that was refused for haste, or failed."""
        self._land(ticket)
        self._losses.append(loss)
        self.urgent = True
        if loss.round == self._round:
            self.halted = True

    def tell(self) -> Told:
        """Tell what happened since the last time, and give back what is not needed."""
        flows = self._give(0), self._give(1)
        runs = len(self._flying.keys() | self._queue.keys())
        told = Told(
            self.limits,
            self.places,
            self.in_flight,
            self.waiting,
            runs,
            self._started,
            self._answered,
            self._fresh,
            tuple(self._losses),
            flows,
        )
        self._started = self._answered = self._fresh = 0
        self._losses = []
        self.changed = self.urgent = False
        return told

    def untell(self, told: Told) -> None:
        """Nobody heard: keep it for the next time, and go on with what there is."""
        self._started += told.started
        self._answered += told.answered
        self._fresh += told.fresh
        self._losses = [*told.losses, *self._losses]
        for bucket, flow in zip(self._buckets, told.flows, strict=True):
            if bucket is not None and flow is not None:
                bucket.stock += flow.stock
        self.changed, self.halted = True, False

    def apply(self, share: Share, now_s: float) -> None:
        """Live by a new share."""
        # Others get what this host has no more only after it has said that it lives without.
        had = self.places > 0 or any(bucket is not None and bucket.per_s > 0 for bucket in self._buckets)
        self.changed |= share.places < self.places or (had and not (self.in_flight or self._queue))
        self.urgent |= share.places == 0 < self.places
        self.places, self.again_s, self.outage = share.places, share.again_s, share.outage
        if share.round != self._round:
            self._round, self._fresh = share.round, 0
        self.halted = any(loss.round == self._round for loss in self._losses)
        for i, flow in enumerate(share.flows):
            self._buckets[i] = _refilled(self._buckets[i], flow, now_s)

    def _land(self, ticket: Ticket[Caller]) -> None:
        self.in_flight -= 1
        self.changed = True
        self._flying[ticket.run] -= 1
        if not self._flying[ticket.run]:
            del self._flying[ticket.run]

    def _draw(self, starts: float, tokens: float) -> None:
        for bucket, cost in zip(self._buckets, (starts, tokens), strict=True):
            if bucket is not None:
                bucket.draw(cost)

    def _give(self, i: int) -> Flow | None:
        bucket = self._buckets[i]
        if bucket is None:
            return None
        if self._queue or self.in_flight:
            return Flow(bucket.per_s)
        stock, bucket.stock = bucket.stock, 0.0
        return Flow(bucket.per_s, stock)


def _refilled(bucket: Bucket | None, flow: Flow | None, now_s: float) -> Bucket | None:
    if flow is None:
        return None
    if bucket is None:
        bucket = Bucket(0.0, 0.0, 0.0, now_s)
    bucket.fill(now_s)
    bucket.per_s = flow.per_s
    # Above one start, or whatever comes in between a start that is due and the moment it is made would be lost.
    bucket.most = max(1.0 + AHEAD_S * flow.per_s, bucket.stock + flow.stock)
    bucket.stock += flow.stock
    return bucket
