"""Owns the division of endpoints among hosts: one book for the whole cluster. Pure: it is told the time.

Every host tells what it does and gets its share back, in one message for all its endpoints. A share is good until the next
one: a host that hears nothing goes on within what it has. So a place or a pace that is taken from one host is given to
another only after the first has said that it lives without it, and what all hosts may do together never passes the limit.
A host that is silent for too long is taken for dead, and what it had is free.
"""

from collections.abc import Mapping
from functools import reduce
from typing import NamedTuple

from runtime.models.endpoints.bucket import Bucket
from runtime.models.endpoints.endpoint import MINUTE_S, Declared, Endpoint, Loss, News

SILENCE_S = 30.0
"""A host that has a share speaks every second."""
BURST = 50
"""A declared limit of a minute keeps one part in so many for starts that come together."""
ASK_AGAIN_S = 1.0
_USE = 2.0
"""What a host may start a second where nobody waits there, as a multiple of what it lately did."""


class Flow(NamedTuple):
    """A host's part of a rate."""

    per_s: float
    stock: float = 0.0
    """What comes along, or back, at once."""


class Told(NamedTuple):
    """What a host says of one endpoint."""

    declared: Declared
    places: int
    """The share it lives by, and has lived by since it heard of it."""
    in_flight: int
    waiting: int
    runs: int
    """How many runs have calls in flight or waiting."""
    started: int
    answered: int
    fresh: int
    losses: tuple[Loss, ...]
    flows: tuple[Flow | None, Flow | None]
    """Of starts and of tokens: the rates it lives by, and what it has no use for."""


class Share(NamedTuple):
    """What a host may do at one endpoint until it hears otherwise."""

    places: int
    flows: tuple[Flow | None, Flow | None]
    """Of starts and of tokens; None: no limit."""
    round: int
    again_s: float
    """When asking again may bring more, for a host whose callers wait."""
    outage: str
    """Why those who wait without a place should be told that there is no hope; empty where there is."""


class _Host:
    __slots__ = ("heard_s", "places", "rate_s", "rates", "since", "told")

    def __init__(self, now_s: float) -> None:
        self.heard_s = now_s
        self.places = 0
        """What it may have in flight until it is heard again."""
        self.rates = [0.0, 0.0]
        """What it may start a second until it is heard again: calls, tokens."""
        self.since = 0
        """The turn in which it came to have places; negative: in which it came to have none."""
        self.rate_s = 0.0
        self.told: Told | None = None

    @property
    def rank(self) -> tuple[bool, int]:
        """Where there are fewer places than hosts: who has been without for longest comes first, who has had one for longest
        comes last."""
        return self.since > 0, -self.since

    @property
    def demand(self) -> int:
        return 0 if self.told is None else self.told.in_flight + self.told.waiting


class _Shared:
    """One endpoint and the hosts that use it."""

    def __init__(self, declared: Declared, now_s: float) -> None:
        self.endpoint = Endpoint(declared)
        self.hosts: dict[str, _Host] = {}
        self.turns = 0
        self.starts = _bucket(declared.requests_per_minute, now_s)
        self.tokens = _bucket(declared.tokens_per_minute, now_s)

    def exchange(self, name: str, told: Told, now_s: float) -> Share:
        """Take in what a host tells, and give it its share."""
        self.hosts = {n: h for n, h in self.hosts.items() if now_s - h.heard_s < SILENCE_S}
        host = self.hosts.setdefault(name, _Host(now_s))
        self._hear(host, told, now_s)
        in_flight = sum(h.told.in_flight for h in self.hosts.values() if h.told is not None)
        busy = any(h.told.waiting for h in self.hosts.values() if h.told is not None)
        news = News(told.started, told.answered, told.fresh, told.losses, in_flight, busy)
        self.endpoint.tell(news, now_s)
        self._declare(now_s)
        self._set_pace(now_s)
        places = self._places_for(host, now_s)
        flows = self._flow(0, self.starts, host, now_s), self._flow(1, self.tokens, host, now_s)
        wait_s = self.endpoint.wait_s(now_s)
        outage = self.endpoint.outage(now_s)
        return Share(places, flows, self.endpoint.round, wait_s, outage)

    def _declare(self, now_s: float) -> None:
        """Keep to the strictest of what the hosts know. What is announced may also become more again."""
        declared = reduce(Declared.and_also, (h.told.declared for h in self.hosts.values() if h.told is not None))
        if declared != self.endpoint.declared:
            self.endpoint.declared = declared
            self.starts = _renewed(self.starts, declared.requests_per_minute, self.endpoint.lately, now_s)
            self.tokens = _renewed(self.tokens, declared.tokens_per_minute, 0.0, now_s)

    def _hear(self, host: _Host, told: Told, now_s: float) -> None:
        since_s = max(1e-3, now_s - host.heard_s)
        keep = 0.5 ** (since_s / ASK_AGAIN_S)
        host.rate_s = keep * host.rate_s + (1 - keep) * told.started / since_s
        host.heard_s, host.told = now_s, told
        # It may have begun calls under the share it had when it wrote, and does so until the answer is there.
        host.places = max(told.places, told.in_flight)
        for i, (flow, bucket) in enumerate(zip(told.flows, (self.starts, self.tokens), strict=True)):
            host.rates[i] = 0.0 if flow is None else flow.per_s
            if bucket is not None:
                self._fill(i, bucket, now_s)
                bucket.pour(0.0 if flow is None else flow.stock)

    def _fill(self, i: int, bucket: Bucket, now_s: float) -> None:
        """Let come in what no host lets in."""
        total, given = bucket.per_s, sum(h.rates[i] for h in self.hosts.values())
        bucket.per_s = max(0.0, total - given)
        bucket.fill(now_s)
        bucket.per_s = total

    def _set_pace(self, now_s: float) -> None:
        pace, declared = self.endpoint.pace, self.endpoint.declared.requests_per_minute
        if pace is None:
            return
        top = None if declared is None else _bucket(declared, now_s)
        if self.starts is None:
            self.starts = Bucket(pace, 1.0, 0.0, now_s)
        self.starts.per_s = pace if top is None else min(pace, top.per_s)
        self.starts.most = max(1.0, self.starts.per_s)

    def _places_for(self, host: _Host, now_s: float) -> int:
        total = self.endpoint.places(now_s)
        order = sorted(self.hosts.values(), key=lambda h: h.rank)
        parts = divide(total, [(h.told.runs if h.told else 0, h.demand) for h in order])
        mine = order.index(host)
        # Also what those ahead have not come for yet, or whoever asks most often takes it before them.
        ahead = sum(max(h.places, part) for h, part in zip(order[:mine], parts, strict=False))
        free = total - ahead - sum(h.places for h in order[mine + 1 :])
        places = max(0, min(parts[mine], free))
        if (places > 0) != (host.since > 0):
            self.turns += 1
            host.since = self.turns if places else -self.turns
        host.places = max(host.places, places)
        return places

    def _flow(self, i: int, bucket: Bucket | None, host: _Host, now_s: float) -> Flow | None:
        if bucket is None:
            host.rates[i] = 0.0
            return None
        hosts = list(self.hosts.values())
        needs = [(_weight(h), _need(h, bucket.per_s)) for h in hosts]
        fair = spread(bucket.per_s, needs)[hosts.index(host)]
        free = bucket.per_s - sum(h.rates[i] for h in hosts if h is not host)
        per_s = max(0.0, min(fair, free))
        host.rates[i] = max(host.rates[i], per_s)
        if host.told is None or not host.told.waiting:
            return Flow(per_s)
        stock = bucket.stock / sum(h.told is not None and h.told.waiting > 0 for h in hosts)
        stock = min(stock, float(host.told.waiting)) if i == 0 else stock
        bucket.draw(stock)
        return Flow(per_s, stock)


class Sharing:
    """All endpoints."""

    def __init__(self) -> None:
        self._shared: dict[str, _Shared] = {}

    def exchange(self, host: str, tells: Mapping[str, Told], now_s: float) -> dict[str, Share]:
        """Take in what a host tells of some endpoints, and give it its shares of them."""
        shares = {}
        for name, told in tells.items():
            if name not in self._shared:
                self._shared[name] = _Shared(told.declared, now_s)
            shares[name] = self._shared[name].exchange(host, told, now_s)
        return shares


def divide(total: int, demands: list[tuple[int, int]]) -> list[int]:
    """Divide places by weight: nobody gets more than the demand before all demands are met; the rest is divided evenly.

    Odd ones go to the first of those who want more. Whoever demands nothing gets nothing.

    Args:
        demands: weight and demand of each.
    """
    parts = [0] * len(demands)
    wanting = [i for i, (weight, demand) in enumerate(demands) if demand and weight]
    everyone = list(wanting)
    while total and wanting:
        weight = sum(demands[i][0] for i in wanting)
        fair = {i: total * demands[i][0] // weight for i in wanting}
        met = [i for i in wanting if demands[i][1] - parts[i] <= fair[i]]
        if met:
            for i in met:
                total -= demands[i][1] - parts[i]
                parts[i] = demands[i][1]
            wanting = [i for i in wanting if i not in met]
            continue
        for i in wanting:
            parts[i] += fair[i]
        total -= sum(fair.values())
        for i in wanting[:total]:
            parts[i] += 1
        return parts
    for n, i in enumerate(everyone):
        parts[i] += total // len(everyone) + (n < total % len(everyone))
    return parts


def spread(total: float, needs: list[tuple[int, float]]) -> list[float]:
    """Divide a rate by weight: nobody gets more than the need before all needs are met; the rest is divided by weight."""
    parts = [0.0] * len(needs)
    wanting = [i for i, (weight, _) in enumerate(needs) if weight]
    everyone = list(wanting)
    while wanting:
        weight = sum(needs[i][0] for i in wanting)
        met = [i for i in wanting if needs[i][1] <= total * needs[i][0] / weight]
        for i in met or wanting:
            parts[i] = needs[i][1] if met else total * needs[i][0] / weight
        if not met:
            return parts
        total -= sum(needs[i][1] for i in met)
        wanting = [i for i in wanting if i not in met]
    weight = sum(needs[i][0] for i in everyone)
    for i in everyone:
        parts[i] += max(0.0, total) * needs[i][0] / weight
    return parts


def _weight(host: _Host) -> int:
    return host.told.runs if host.told is not None and host.demand else 0


def _need(host: _Host, total: float) -> float:
    waits = host.told is not None and host.told.waiting > 0
    return total if waits else min(total, _USE * host.rate_s)


def _bucket(per_minute: int | None, now_s: float) -> Bucket | None:
    """A bucket that lets no minute see more than this: what may come together is taken off what comes evenly."""
    if per_minute is None:
        return None
    burst = max(1, per_minute // BURST)
    return Bucket((per_minute - burst + 1) / MINUTE_S, burst, burst, now_s)


def _renewed(old: Bucket | None, per_minute: int | None, spent: float, now_s: float) -> Bucket | None:
    """The bucket of a limit that has changed: what was given out before is not given again.

    Args:
        spent: what was used in the last minute without a bucket.
    """
    new = _bucket(per_minute, now_s)
    if new is not None:
        new.stock = new.stock - spent if old is None else min(new.stock, old.stock)
    return new
