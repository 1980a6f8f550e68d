"""Owns the proof that a book's balances follow from its records."""

from collections.abc import Iterable, Mapping

from runtime.bank.book import Record, Scope
from runtime.bank.vector import unpack
from runtime.errors import InternalError


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
        is_open = record.is_open
        for scope in record.path:
            held[scope.name] += record.amounts if is_open else 0
            settled[scope.name] += record.charged or 0
            opened[scope.name] += is_open
        for scope, spare in zip(record.path, record.spares(), strict=False):
            held[scope.name] += spare if is_open else 0
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
