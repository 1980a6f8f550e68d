"""Owns the closing statement of a scope: its balances as the ledger kept them, to be held against the attempts."""

from typing import TypedDict

from runtime.bank.book import Scope
from runtime.bank.vector import UNLIMITED, unpack


class Balance(TypedDict):
    """One dimension of a closed scope, in its integer unit."""

    cap: int | None
    """The limit, top-ups included; None where there is none."""
    settled: int
    """Charged, at true figures or at maximum."""
    over: int
    """What was billed above its holds."""
    unspent: int | None
    """What is left of the limit; below 0 where it was passed."""


def statement(scope: Scope, dimensions: tuple[str, ...]) -> dict[str, Balance]:
    """The balances of a scope in which nothing is held any more, by dimension."""
    n = scope.n
    figures = zip(unpack(scope.caps, n), unpack(scope.settled, n), unpack(scope.over, n), strict=True)
    return {
        dimension: Balance(
            cap=None if cap == UNLIMITED else cap,
            settled=settled,
            over=over,
            unspent=None if cap == UNLIMITED else cap - settled,
        )
        for dimension, (cap, settled, over) in zip(dimensions, figures, strict=True)
    }
