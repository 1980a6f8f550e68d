"""Owns the ledger's values: needs, outcomes, scopes and records, and the arithmetic that each does on its own balances.

What may happen, and when, stands in `runtime.bank.ledger`.
"""

from typing import NamedTuple

from runtime.bank.vector import LANE, Vector, fits, guards, lanewise_min, unpack
from runtime.budget import Amounts
from runtime.journal import Key, State

MOST_HOLDS = 1 << 94
OPEN = frozenset({"held", "sent"})


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

    __slots__ = (
        "caps",
        "epoch",
        "frozen",
        "guard",
        "kept",
        "n",
        "name",
        "one",
        "over",
        "path",
        "room",
        "settled",
        "shares",
    )

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
        self.one: Vector = one_hold(n)
        self.kept: Vector = sum(shares.values())
        """What is left of the floor: the sum of the shares."""
        self.settled: Vector = 0
        self.over: Vector = 0
        """Sum of what was billed above its hold."""
        self.frozen = False
        self.room: Vector = self._empty - self.kept

    @property
    def _holds(self) -> Vector:
        """What is held, and above it how many holds are open."""
        return self._empty - self.kept - self.settled - self.room

    @property
    def held(self) -> Vector:
        """Sum of the open holds."""
        return self._holds & (self.one - 1)

    @property
    def open_holds(self) -> int:
        """Number of open holds."""
        return self._holds >> (LANE * self.n)

    def own(self, seat: str, floor: Vector) -> Vector:
        """What a call of this seat may draw out of what is kept; `floor` is 0 for all but finishing calls."""
        return lanewise_min(self.shares.get(seat, 0), floor, self.n) if floor else 0

    def fits(self, amounts: Vector, seat: str, floor: Vector) -> bool:
        """Whether these amounts may be held now."""
        room = self.room + self.own(seat, floor)
        return not self.frozen and (room - amounts) & self.guard == self.guard

    def left(self, held: Vector, seat: str, floor: Vector) -> Amounts:
        """What might be held if `held` were held; 0 where nothing is left."""
        if self.frozen:
            return (0,) * self.n
        taken = unpack(self.settled + held + self.kept - self.own(seat, floor), self.n)
        return tuple(max(0, c - t) for c, t in zip(unpack(self.caps, self.n), taken, strict=True))

    def overspend(self) -> Amounts:
        """What is settled above the caps."""
        return tuple(
            max(0, s - c) for s, c in zip(unpack(self.settled, self.n), unpack(self.caps, self.n), strict=True)
        )

    def draw(self, seat: str, amounts: Vector) -> Vector:
        """Take amounts out of what is kept; negative ones go back."""
        self.room += amounts
        self.kept -= amounts
        self.shares[seat] = self.shares.get(seat, 0) - amounts
        return amounts

    def note_excess(self, excess: Vector) -> None:
        """Add up what was billed above its hold, and freeze where the cap was passed."""
        self.over += excess
        if not fits(self.settled, self.caps, self.guard):
            self.frozen = True

    def raise_caps(self, amounts: Vector) -> None:
        """Add to the caps; an overspent scope thaws when they cover what was settled."""
        self.caps += amounts
        self.room += amounts
        self.frozen = self.frozen and not fits(self.settled, self.caps, self.guard)

    @property
    def _empty(self) -> Vector:
        """The room of a scope in which nothing is settled, held or kept."""
        return self.guard + self.one * MOST_HOLDS + self.caps


class Record:
    """One attempt in the book."""

    __slots__ = ("amounts", "charged", "drawn", "epoch", "floor", "id", "late", "need", "path", "state", "units")

    def __init__(
        self, id: AttemptId, path: tuple[Scope, ...], need: Need, floor: Vector, units: int, epoch: int
    ) -> None:
        self.id = id
        self.path = path
        self.need = need
        self.floor = floor
        """What it may draw out of its seat's share of the floor; 0 for all but finishing calls."""
        self.units = units
        self.epoch = epoch
        """Of the host that holds it."""
        self.amounts: Vector = need.fixed + units * need.per_unit
        self.drawn: tuple[Vector, ...] = ()
        """What it took out of the floor of each scope of its path; empty for nothing."""
        self.state: State = "held"
        self.charged: Vector | None = None
        """What is settled for it: the true figure, or the hold when charged at maximum."""
        self.late = False
        """Whether the true figure came after it had been charged at maximum."""

    @property
    def is_open(self) -> bool:
        """Whether its amounts are held."""
        return self.state in OPEN

    @property
    def takes_key(self) -> bool:
        """Whether its key is not free for another try: it is open, or was answered. A late figure is no answer."""
        return self.is_open or (self.state == "settled" and not self.late)

    def spares(self) -> list[Vector]:
        """In each scope of the path, what it drew beyond its amounts; empty for nothing.

        Held as well while it is open, or others could take it, and a release would have nothing to give back to the floor.
        """
        return [drawn - lanewise_min(drawn, self.amounts, s.n) for s, drawn in zip(self.path, self.drawn, strict=False)]

    def hold(self) -> None:
        """Hold the amounts in every scope of the path, whether or not they fit."""
        hold = self.amounts + self.path[0].one
        for scope in self.path:
            scope.room -= hold
        if self.floor:
            seat = self.id.key.seat
            self.drawn = tuple(scope.draw(seat, scope.own(seat, self.floor)) for scope in self.path)
            for scope, spare in zip(self.path, self.spares(), strict=True):
                scope.room -= spare

    def hold_if_it_fits(self) -> bool:
        """Hold the amounts in every scope of the path, or in none. One pass, because every attempt comes through here."""
        if self.floor:
            fitting = all(scope.fits(self.amounts, self.id.key.seat, self.floor) for scope in self.path)
            if fitting:
                self.hold()
            return fitting
        hold = self.amounts + self.path[0].one
        for scope in self.path:
            room = scope.room - hold
            if room & scope.guard != scope.guard or scope.frozen:
                for taken in self.path[: self.path.index(scope)]:
                    taken.room += hold
                return False
            scope.room = room
        return True

    def give_back(self, state: State) -> None:
        """Undo the hold: nothing was sent, or nobody bills for it."""
        hold = self.amounts + self.path[0].one
        for scope in self.path:
            scope.room += hold
        for scope, spare, drawn in zip(self.path, self.spares(), self.drawn, strict=False):
            scope.room += spare
            scope.draw(self.id.key.seat, -drawn)
        self.state = state

    def charge(self, used: Vector | None) -> None:
        """Settle the true figure, or the whole hold, in the place of the hold or of what was charged before."""
        place = self.path[0]
        charged = self.amounts if used is None else used
        back = self.amounts - charged + (place.one if self.charged is None else 0)
        more = charged - (self.charged or 0)
        excess = 0
        if not fits(charged, self.amounts, place.guard):
            excess = charged - lanewise_min(charged, self.amounts, place.n)
        if self.drawn and self.charged is None:
            self._let_go_of_spares(again=used is None)
        for scope in self.path:
            scope.room += back
            scope.settled += more
            if excess or scope.over:
                scope.note_excess(excess)
        self.late = self.charged is not None
        self.charged = charged
        self.state = "charged_max" if used is None else "settled"

    def _let_go_of_spares(self, *, again: bool) -> None:
        """What was drawn beyond the hold is free when the call is done; where it may be made again, the floor gets it."""
        spares = self.spares()
        for scope, spare in zip(self.path, spares, strict=True):
            scope.room += spare
            scope.draw(self.id.key.seat, -spare if again else 0)
        if again:
            self.drawn = tuple(drawn - spare for drawn, spare in zip(self.drawn, spares, strict=True))
