"""Owns who waits in front of a book: the requests, their order, and what can be done for one of them now."""

import re
from dataclasses import dataclass

from runtime.bank.book import Need, Refused, Scope
from runtime.bank.vector import Vector, unpack
from runtime.journal import Key

_DIGITS = re.compile(r"(\d+)")


def natural_order(key: Key) -> tuple[object, ...]:
    """Order of keys: step, then seat path with its numbers read as numbers, then sample. No two keys are equal in it."""
    seat = tuple((0, int(t), "") if t.isdecimal() else (1, 0, t) for t in _DIGITS.split(key.seat) if t)
    return (key.step, seat, key.seat, key.sample)


@dataclass(slots=True, eq=False)
class Request:
    """A reservation in the queue."""

    key: Key
    path: tuple[Scope, ...]
    need: Need
    floor: Vector
    order: tuple[object, ...]
    epoch: int

    def judge(self, dimensions: tuple[str, ...]) -> int | Refused | set[str]:
        """The reply limit it gets now; or why it never gets one; or the scopes that hold what it has to wait for."""
        seat, floor = self.key.seat, self.floor
        most = self.need.at(self.need.most)
        full = [scope for scope in self.path if not scope.fits(most, seat, floor)]
        if not full:
            return self.need.most
        return self._hopeless(dimensions) or {scope.name for scope in full if scope.open_holds} or self._largest()

    def _hopeless(self, dimensions: tuple[str, ...]) -> Refused | None:
        """A refusal when the least of it would not fit even if every hold came back whole."""
        least = unpack(self.need.at(self.need.least), len(dimensions))
        for scope in self.path:
            for i, left in enumerate(scope.left(0, self.key.seat, self.floor)):
                if least[i] > left:
                    return Refused(self.key, scope.name, dimensions[i], least[i], left)
            if scope.frozen:
                return Refused(self.key, scope.name, dimensions[0], least[0], 0)
        return None

    def _largest(self) -> int:
        """The largest reply limit that fits now, given that the least one does."""
        n = self.path[0].n
        fixed, per_unit = unpack(self.need.fixed, n), unpack(self.need.per_unit, n)
        units = self.need.most
        for scope in self.path:
            for i, left in enumerate(scope.left(scope.held, self.key.seat, self.floor)):
                if per_unit[i]:
                    units = min(units, (left - fixed[i]) // per_unit[i])
        return units
