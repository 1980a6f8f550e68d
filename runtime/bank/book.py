"""Owns the ledger's values (needs, outcomes, scopes, records) and the proof that balances follow from records.

The rules stand in `runtime.bank.ledger`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from runtime.bank.vector import Vector, fits, guards, lanewise_min, unpack
from runtime.budget import Amounts
from runtime.errors import InternalError
from runtime.journal import Key, State

_DIGITS = re.compile(r"(\d+)")


class AttemptId(NamedTuple):
    """One try of one key. Tries are numbered by the ledger, from 0."""

    key: Key
    try_: int


class Need(NamedTuple):
    """An upper bound as a straight line in the reply limit, so that shrinking is exact."""

    fixed: Vector
    """Held however short the reply is: the prompt, the call itself."""
    per_unit: Vector
    """Held in addition for each unit (token) of the reply limit."""
    most: int
    """Units asked for."""
    least: int
    """Units below which the attempt is not worth making; equal to `most` where it cannot be shrunk."""

    def at(self, units: int) -> Vector:
        """The amounts held for a reply limit of `units`."""
        return self.fixed + units * self.per_unit


class Held(NamedTuple):
    """Granted: send, or release."""

    id: AttemptId
    units: int
    """The reply limit that is covered; below `need.most` when it was shrunk."""
    amounts: Vector


class Waiting(NamedTuple):
    """Queued until `decide` grants or refuses it."""

    key: Key


class Refused(NamedTuple):
    """Does not fit and waiting cannot help. Figures in the dimension's integer unit."""

    key: Key
    scope: str
    dimension: str
    need: int
    left: int


class Settled(NamedTuple):
    """This key was settled before: its reply is in the journal and nothing is to be sent."""

    id: AttemptId


@dataclass(slots=True, eq=False)
class Scope:
    """One budget in the tree. All balances are packed vectors."""

    name: str
    path: "tuple[Scope, ...]"
    """This scope and its ancestors, innermost first; it is built with its ancestors alone."""
    caps: Vector
    shares: dict[str, Vector]
    """By seat, what is left of its share of the floor."""
    epoch: int
    n: int
    """Number of dimensions."""
    guard: Vector = 0
    kept: Vector = 0
    """What is left of the floor: the sum of the shares."""
    held: Vector = 0
    settled: Vector = 0
    over: Vector = 0
    """Sum of what was billed above its hold."""
    open_holds: int = 0
    frozen: bool = False

    def __post_init__(self) -> None:
        self.path = (self, *self.path)
        self.guard = guards(self.n)
        self.kept = sum(self.shares.values())

    def own(self, request: "Request") -> Vector:
        """What the request may draw out of what is kept."""
        return lanewise_min(self.shares.get(request.key.seat, 0), request.floor, self.n) if request.floor else 0

    def fits(self, request: "Request", amounts: Vector) -> bool:
        """Whether these amounts may be held for the request now."""
        taken = self.settled + self.held + self.kept - self.own(request)
        return not self.frozen and fits(taken + amounts, self.caps, self.guard)

    def left(self, request: "Request", *, held: Vector) -> Amounts:
        """What might be held for the request if `held` were held; 0 where nothing is left."""
        if self.frozen:
            return (0,) * self.n
        taken = unpack(self.settled + held + self.kept - self.own(request), self.n)
        return tuple(max(0, c - t) for c, t in zip(unpack(self.caps, self.n), taken, strict=True))

    def take(self, request: "Request", amounts: Vector) -> Vector:
        """Hold amounts; return what was drawn out of what is kept."""
        own = self.own(request)
        self.held += amounts
        self.open_holds += 1
        if own:
            self.kept -= own
            self.shares[request.key.seat] -= own
        return own

    def charge(self, record: "Record", charged: Vector) -> None:
        """Book what was charged, in the place of a hold or, for a late figure, of the maximum charged before."""
        if record.state == "charged_max":
            self.settled -= record.amounts
        else:
            self.held -= record.amounts
            self.open_holds -= 1
        self.settled += charged
        if not fits(charged, record.amounts, self.guard):
            self.over += charged - lanewise_min(charged, record.amounts, self.n)
        if self.over and not fits(self.settled, self.caps, self.guard):
            self.frozen = True

    def give_back(self, record: "Record", drawn: Vector) -> None:
        """Undo `take`."""
        self.held -= record.amounts
        self.open_holds -= 1
        if drawn:
            self.kept += drawn
            self.shares[record.id.key.seat] += drawn


@dataclass(slots=True, eq=False)
class Record:
    """One attempt in the book."""

    id: AttemptId
    path: tuple[Scope, ...]
    need: Need
    floor: Vector
    """What it may draw out of its seat's share of the floor; 0 for all but finishing calls."""
    drawn: tuple[Vector, ...]
    """What it took out of the floor of each scope of its path."""
    units: int
    amounts: Vector
    state: State = "held"
    charged: Vector | None = None
    """What is settled for it: the true figure, or the hold when charged at maximum."""


@dataclass(slots=True, eq=False)
class Request:
    """A reservation in the queue."""

    key: Key
    path: tuple[Scope, ...]
    need: Need
    floor: Vector
    order: tuple[object, ...]


def natural_order(key: Key) -> tuple[object, ...]:
    """Order of keys: step, then seat path with its numbers read as numbers, then sample. No two keys are equal in it."""
    seat = tuple((0, int(t), "") if t.isdecimal() else (1, 0, t) for t in _DIGITS.split(key.seat) if t)
    return (key.step, seat, key.seat, key.sample)


def prove(scopes: Mapping[str, Scope], records: Iterable[Record], dimensions: tuple[str, ...]) -> None:
    """Verify that every balance follows from the records, and that no cap was passed but by a bill above its hold.

    Raises:
        InternalError: one does not.
    """
    n = len(dimensions)
    held = dict.fromkeys(scopes, 0)
    settled = dict.fromkeys(scopes, 0)
    opened = dict.fromkeys(scopes, 0)
    for record in records:
        is_open = record.state in {"held", "sent"}
        for scope in record.path:
            held[scope.name] += record.amounts if is_open else 0
            settled[scope.name] += record.charged or 0
            opened[scope.name] += is_open
    for name, scope in scopes.items():
        if (scope.held, scope.settled, scope.open_holds) != (held[name], settled[name], opened[name]):
            raise InternalError(f"{name}: balances differ from the records")
        if min(scope.held, scope.settled, scope.over, *scope.shares.values(), 0) < 0:
            raise InternalError(f"{name}: a balance is negative")
        if scope.kept != sum(scope.shares.values()):
            raise InternalError(f"{name}: the floor differs from its shares")
        used, limit = unpack(scope.settled + scope.held, n), unpack(scope.caps + scope.over, n)
        for i, dimension in enumerate(dimensions):
            if used[i] > limit[i]:
                raise InternalError(f"{name}: {used[i]} {dimension} passed the cap of {limit[i]}")
