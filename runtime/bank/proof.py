"""Owns the proof that a book's balances follow from its records, and the order in which keys are decided."""

import re
from collections.abc import Iterable, Mapping

from runtime.bank.book import Record, Scope
from runtime.bank.vector import unpack
from runtime.errors import InternalError
from runtime.journal import Key

_DIGITS = re.compile(r"(\d+)")


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
