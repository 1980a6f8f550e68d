"""Owns the even split of a budget among asks and seats, which effort and the order-free grants rest on."""

from collections.abc import Mapping

from runtime.bank.vector import Vector, lanewise_min, pack, unpack
from runtime.budget import Budget, Caps
from runtime.nesting import RUN_SCOPE, Wiring

PLENTY = 1 << 80
"""Where there is no cap: more than any call can need."""


def shares_of(
    budget: Budget, wiring: Wiring, ceilings: Mapping[str, Caps], floors: Mapping[str, Vector]
) -> dict[str, Vector]:
    """By seat, one ask's even share of what is not kept for finishing, in the narrowest of its scopes."""
    return _narrowest(budget, wiring, ceilings, floors, wiring.asks)


def allowances_of(
    budget: Budget, wiring: Wiring, ceilings: Mapping[str, Caps], floors: Mapping[str, Vector]
) -> dict[str, Vector]:
    """By seat, what it may be granted at once; in every scope the allowances of its seats together fit the cap."""
    return _narrowest(budget, wiring, ceilings, floors, {})


def _narrowest(
    budget: Budget,
    wiring: Wiring,
    ceilings: Mapping[str, Caps],
    floors: Mapping[str, Vector],
    among: Mapping[str, int],
) -> dict[str, Vector]:
    """The smallest even part over a seat's scopes; a scope is split `among` so many, or among its seats."""
    n = len(budget.dimensions)
    parts: dict[str, Vector] = {}
    for scope, caps in ((RUN_SCOPE, budget.caps), *ceilings.items()):
        seats = [seat for seat in wiring.agents if wiring.lies_in(seat, scope)]
        kept = unpack(sum(floors.get(seat, 0) for seat in seats), n)
        part = _even(caps, kept, among.get(scope, len(seats)))
        for seat in seats:
            parts[seat] = lanewise_min(parts[seat], part, n) if seat in parts else part
    return parts


def _even(caps: Caps, kept: tuple[int, ...], n: int) -> Vector:
    free = (PLENTY if cap is None else max(0, cap - k) // max(1, n) for cap, k in zip(caps, kept, strict=True))
    return pack(tuple(free))
