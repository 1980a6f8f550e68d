"""Owns the ledger's values: needs, outcomes, scopes and records. The rules stand in `runtime.bank.ledger`."""

import re
from dataclasses import dataclass
from typing import NamedTuple

from runtime.bank.vector import Vector
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
    """This scope and its ancestors, innermost first."""
    caps: Vector
    kept: Vector
    """What is left of the floor."""
    epoch: int
    held: Vector = 0
    settled: Vector = 0
    over: Vector = 0
    """Sum of what was billed above its hold."""
    open_holds: int = 0
    frozen: bool = False


@dataclass(slots=True, eq=False)
class Record:
    """One attempt in the book."""

    id: AttemptId
    path: tuple[Scope, ...]
    need: Need
    floor: Vector
    """What was kept back for this very call; 0 for all but finishing calls."""
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
    """Order of keys: step, then seat path with its numbers read as numbers, then sample."""
    seat = tuple((0, int(t), "") if t.isdigit() else (1, 0, t) for t in _DIGITS.split(key.seat) if t)
    return (key.step, seat, key.sample)
