"""Owns closing statements: of a scope, to be held against its attempts, and of a sealed run, for the books above it."""

from collections.abc import Iterable
from typing import TypedDict

import orjson

from runtime.bank.book import Scope
from runtime.bank.vector import UNLIMITED, unpack
from runtime.budget import Amounts
from runtime.journal import Attempt


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


class Ceiling(TypedDict):
    """A ceiling inside a run, when the run was closed."""

    scope: str
    parent: str
    """The run, or the ceiling around it."""
    seats: list[str]
    """Agents whose innermost limit it is; those of the ceilings in it are theirs."""
    balances: dict[str, Balance]


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


def books_of(scope: str, limits: Amounts, attempts: Iterable[Attempt]) -> bytes:
    """What a sealed run says to the books above it.

    "settled" is what it spent, without the attempts that are charged at maximum: those are "open", as [key, try, amounts].
    "limited" says where its own budget has a limit, so that something was held for it above.

    Args:
        limits: of its budget, by `grants.granted_amounts`.
    """
    tokens = pico_usd = calls = units = 0
    open_ = []
    for a in attempts:
        if a.state == "settled":
            tokens += a.input_tokens + a.output_tokens
            pico_usd += a.pico_usd
            calls += a.kind != "tool"
            units += a.units
        elif a.state == "charged_max":
            spent = (a.input_tokens + a.output_tokens, a.pico_usd, int(a.kind != "tool"), a.units)
            open_.append([f"{a.step}/{a.seat}/{a.sample}", a.try_, spent])
    settled = (tokens, pico_usd, calls, units)
    books = {"scope": scope, "settled": settled, "limited": [limit > 0 for limit in limits], "open": open_}
    return orjson.dumps(books)
