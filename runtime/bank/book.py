"""Owns the ledger's values: needs, outcomes, scopes, records and requests.

The rules stand in `runtime.bank.ledger`.
"""

from dataclasses import dataclass
from typing import NamedTuple

from runtime.bank.vector import LANE, Vector, fits, guards, lanewise_min, unpack
from runtime.budget import Amounts
from runtime.journal import Key, State

MOST_HOLDS = 1 << 94


def one_hold(n: int) -> Vector:
    """One open hold, in the lane above n dimensions."""
    return 1 << (LANE * n)


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


class Scope:
    """One budget in the tree. All balances are packed vectors.

    What may still be held stands as one integer, `room` = guards + caps - settled - held - kept, so that a reservation is one
    subtraction and one test per scope: the guard of a lane survives exactly where the amounts fit. A lane above the
    dimensions counts the open holds.
    """

    __slots__ = ("caps", "epoch", "frozen", "guard", "kept", "n", "name", "over", "path", "room", "settled", "shares")

    def __init__(
        self, name: str, above: "tuple[Scope, ...]", caps: Vector, shares: dict[str, Vector], epoch: int, n: int
    ) -> None:
        self.name = name
        self.path: tuple[Scope, ...] = (self, *above)
        """This scope and its ancestors, innermost first."""
        self.caps = caps
        self.shares = shares
        """By seat, what is left of its share of the floor."""
        self.epoch = epoch
        self.n = n
        """Number of dimensions."""
        self.guard: Vector = guards(n)
        self.kept: Vector = sum(shares.values())
        """What is left of the floor: the sum of the shares."""
        self.settled: Vector = 0
        self.over: Vector = 0
        """Sum of what was billed above its hold."""
        self.frozen = False
        self.room: Vector = self._empty() - self.kept

    @property
    def _holds(self) -> Vector:
        """What is held, and above it how many holds are open."""
        return self._empty() - self.kept - self.settled - self.room

    @property
    def held(self) -> Vector:
        """Sum of the open holds."""
        return self._holds & (one_hold(self.n) - 1)

    @property
    def open_holds(self) -> int:
        """Number of open holds."""
        return self._holds >> (LANE * self.n)

    def own(self, request: "Request | Record") -> Vector:
        """What the request may draw out of what is kept."""
        return lanewise_min(self.shares.get(request.key.seat, 0), request.floor, self.n) if request.floor else 0

    def fits(self, request: "Request | Record", amounts: Vector) -> bool:
        """Whether these amounts may be held for the request now."""
        room = self.room + self.own(request) if request.floor else self.room
        return not self.frozen and (room - amounts) & self.guard == self.guard

    def left(self, request: "Request", *, held: Vector) -> Amounts:
        """What might be held for the request if `held` were held; 0 where nothing is left."""
        if self.frozen:
            return (0,) * self.n
        taken = unpack(self.settled + held + self.kept - self.own(request), self.n)
        return tuple(max(0, c - t) for c, t in zip(unpack(self.caps, self.n), taken, strict=True))

    def take(self, record: "Record", hold: Vector) -> Vector:
        """Hold amounts; return what was drawn out of what is kept."""
        self.room -= hold
        if not record.floor:
            return 0
        own = self.own(record)
        self.room += own
        self.kept -= own
        self.shares[record.key.seat] = self.shares.get(record.key.seat, 0) - own
        return own

    def charge_over(self, record: "Record", charged: Vector) -> None:
        """Note what was billed above its hold, and freeze a scope whose cap was passed."""
        if not fits(charged, record.amounts, self.guard):
            self.over += charged - lanewise_min(charged, record.amounts, self.n)
        if self.over and not fits(self.settled, self.caps, self.guard):
            self.frozen = True

    def give_back(self, record: "Record", hold: Vector, drawn: Vector) -> None:
        """Undo `take`."""
        self.room += hold - drawn
        if drawn:
            self.kept += drawn
            self.shares[record.key.seat] += drawn

    def raise_caps(self, amounts: Vector) -> None:
        """Add to the caps; an overspent scope thaws when they cover what was settled."""
        self.caps += amounts
        self.room += amounts
        self.frozen = self.frozen and not fits(self.settled, self.caps, self.guard)

    def _empty(self) -> Vector:
        return self.guard + one_hold(self.n) * MOST_HOLDS + self.caps


class Record:
    """One attempt in the book."""

    __slots__ = ("amounts", "charged", "drawn", "epoch", "floor", "key", "need", "path", "state", "try_", "units")

    def __init__(
        self, key: Key, try_: int, path: tuple[Scope, ...], need: Need, floor: Vector, units: int, epoch: int
    ) -> None:
        self.key = key
        self.try_ = try_
        self.path = path
        self.need = need
        self.floor = floor
        """What it may draw out of its seat's share of the floor; 0 for all but finishing calls."""
        self.units = units
        self.epoch = epoch
        """Of the host that holds it."""
        self.amounts: Vector = need.at(units)
        self.drawn: tuple[Vector, ...] = ()
        """What it took out of the floor of each scope of its path; empty for nothing."""
        self.state: State = "held"
        self.charged: Vector | None = None
        """What is settled for it: the true figure, or the hold when charged at maximum."""

    @property
    def id(self) -> AttemptId:
        """Names it."""
        return AttemptId(self.key, self.try_)


@dataclass(slots=True, eq=False)
class Request:
    """A reservation in the queue."""

    key: Key
    path: tuple[Scope, ...]
    need: Need
    floor: Vector
    order: tuple[object, ...]
    epoch: int

    def hopeless(self, dimensions: tuple[str, ...]) -> Refused | None:
        """A refusal when the least of it would not fit even if every hold came back whole."""
        least = unpack(self.need.at(self.need.least), len(dimensions))
        for scope in self.path:
            for i, left in enumerate(scope.left(self, held=0)):
                if least[i] > left:
                    return Refused(self.key, scope.name, dimensions[i], least[i], left)
            if scope.frozen:
                return Refused(self.key, scope.name, dimensions[0], least[0], 0)
        return None

    def largest(self) -> int:
        """The largest reply limit that fits now, given that the least one does."""
        n = self.path[0].n
        fixed, per_unit = unpack(self.need.fixed, n), unpack(self.need.per_unit, n)
        units = self.need.most
        for scope in self.path:
            for i, left in enumerate(scope.left(self, held=scope.held)):
                if per_unit[i]:
                    units = min(units, (left - fixed[i]) // per_unit[i])
        return units
