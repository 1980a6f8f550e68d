"""Owns the books of a run as a person reads them: who reserved, spent and gave back what, and a rest that must be 0.

Two accounts of the same run are held against each other. The attempts say what was held and charged, one by one; the
ledger's closing balances were kept apart from them, by additions alone. For each dimension

    limit + over = settled + charged at maximum + unspent + still held        and the unexplained rest is the difference.

A finished run is told so for itself and for each ceiling inside it; of the scopes above it the balances are told.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from runtime.bank.grants import Grants
from runtime.bank.ledger import Ledger
from runtime.bank.live import History
from runtime.bank.statement import Balance, Ceiling, statement
from runtime.bank.store import Entry, Opened
from runtime.bank.vector import UNLIMITED, pack, unpack
from runtime.budget import BASE_DIMENSIONS, Amounts
from runtime.journal import Attempt, State
from runtime.result import RunResult

_RUN = "run"
_N = len(BASE_DIMENSIONS)


class Item(NamedTuple):
    """One attempt, in the base dimensions."""

    seat: str
    state: State
    held: Amounts
    charged: Amounts
    """0 where nothing is charged, or not yet."""


@dataclass(slots=True)
class Line:
    """Sums of one agent, of a ceiling, or of the run."""

    who: str
    attempts: int = 0
    reserved: list[int] = field(default_factory=lambda: [0] * _N)
    """Everything that was ever held."""
    open: list[int] = field(default_factory=lambda: [0] * _N)
    """Held now."""
    returned: list[int] = field(default_factory=lambda: [0] * _N)
    """Held and not needed, or released."""
    settled: list[int] = field(default_factory=lambda: [0] * _N)
    """Charged at true figures."""
    charged_max: list[int] = field(default_factory=lambda: [0] * _N)
    """Charged at the whole hold, because the truth is not known."""
    over: list[int] = field(default_factory=lambda: [0] * _N)
    """Billed above the hold; part of what is settled."""

    def add(self, item: Item) -> None:
        """Count one attempt."""
        self.attempts += 1
        for i, (held, charged) in enumerate(zip(item.held, item.charged, strict=True)):
            self.reserved[i] += held
            if item.state in {"held", "sent"}:
                self.open[i] += held
            elif item.state == "charged_max":
                self.charged_max[i] += charged
            else:
                self.settled[i] += charged
                self.returned[i] += max(0, held - charged)
                self.over[i] += max(0, charged - held)


@dataclass(frozen=True, slots=True)
class Within:
    """A ceiling inside the run."""

    scope: str
    parent: str
    """The run, or the ceiling around it."""
    depth: int
    """1 for those that lie in no other."""
    line: Line
    """Sums of all agents under it."""
    balances: Mapping[str, Balance]
    rest: dict[str, int]
    """As of the run."""


@dataclass(frozen=True, slots=True)
class Above:
    """A scope above the run, in the base dimensions; a limit of None is none."""

    scope: str
    limit: tuple[int | None, ...]
    held: Amounts
    settled: Amounts
    over: Amounts


@dataclass(frozen=True, slots=True)
class Books:
    """The books of one run."""

    run_id: str
    status: str
    virtual: bool
    """Whether nobody bills for it."""
    total: Line
    agents: tuple[Line, ...]
    """In the order of their first attempt."""
    balances: dict[str, Balance]
    """What the ledger says, by dimension; per-tool dimensions come after the base ones."""
    rest: dict[str, int]
    """What attempts and ledger do not explain, by base dimension: 0, or the books are wrong."""
    ceilings: tuple[Within, ...]
    """Each before those in it. Empty for a run that is not finished: its journal does not know their limits."""
    above: tuple[Above, ...]
    """Innermost first; empty where no scope above counts the run."""
    late: int
    """Attempts whose true figure came after the run was sealed; the scopes above have it."""

    @property
    def reconciled(self) -> bool:
        """Whether everything is explained."""
        return not any(any(rest.values()) for rest in (self.rest, *(ceiling.rest for ceiling in self.ceilings)))


def sealed_books(result: RunResult, entries: Sequence[Entry], grants: Grants, scope: str) -> Books:
    """The books of a finished run.

    Args:
        entries: what its host wrote, for live runs; later figures are among them.
        scope: the innermost scope above it; empty where there is none.
    """
    known_max = {(f"{a.step}/{a.seat}/{a.sample}", a.try_) for a in result.attempts if a.state == "charged_max"}
    late = sum(entry.state == "settled" and (entry.key, entry.try_) in known_max for entry in entries)
    items, what = map(_item_of, result.attempts), (result.run_id, result.status, result.virtual)
    return _books(what, items, dict(result.books), result.ceilings, _above(grants, scope), late)


def open_books(opened: Opened, entries: Sequence[Entry], raised: Sequence[Amounts], grants: Grants) -> Books:
    """The books of a live run that is not finished, as its journal proves them."""
    facts = orjson.loads(opened.body)
    dimensions = tuple(facts["dimensions"])
    ledger = Ledger(dimensions, "arrival")
    ledger.open(_RUN, None, tuple(facts["caps"]))
    for amounts in raised:
        ledger.top_up(_RUN, pack(amounts))
    History(entries, len(dimensions)).restore(ledger, _RUN)
    items = [
        Item(record.id.key.seat, record.state, unpack(record.amounts, _N), unpack(record.charged or 0, _N))
        for record in ledger.records()
    ]
    balances = statement(ledger.scopes[_RUN], dimensions)
    return _books((opened.run_id, "open", False), items, balances, (), _above(grants, facts["scope"]), 0)


def as_json(books: Books) -> dict[str, Any]:
    """The books as plain values."""

    def line(of: Line) -> dict[str, Any]:
        columns = ("reserved", "open", "returned", "settled", "charged_max", "over")
        figures = {name: dict(zip(BASE_DIMENSIONS, getattr(of, name), strict=True)) for name in columns}
        return {"attempts": of.attempts, **figures}

    return {
        "run_id": books.run_id,
        "status": books.status,
        "virtual": books.virtual,
        "total": line(books.total),
        "agents": {agent.who: line(agent) for agent in books.agents},
        "balances": books.balances,
        "unexplained": books.rest,
        "ceilings": [
            {
                "scope": within.scope,
                "parent": within.parent,
                **line(within.line),
                "balances": within.balances,
                "unexplained": within.rest,
            }
            for within in books.ceilings
        ],
        "above": [
            {
                "scope": above.scope,
                **{
                    name: dict(zip(BASE_DIMENSIONS, getattr(above, name), strict=True))
                    for name in ("limit", "held", "settled", "over")
                },
            }
            for above in books.above
        ],
        "late_figures": books.late,
    }


def _books(
    what: tuple[str, str, bool],
    items: Iterable[Item],
    balances: dict[str, Balance],
    ceilings: Sequence[Ceiling],
    above: tuple[Above, ...],
    late: int,
) -> Books:
    total, agents = Line(_RUN), dict[str, Line]()
    lines = {ceiling["scope"]: Line(ceiling["scope"]) for ceiling in ceilings}
    parents = {ceiling["scope"]: ceiling["parent"] for ceiling in ceilings}
    # Not by the path: a seat of the run may have a name that looks like a place in a ceiling.
    places = {seat: ceiling["scope"] for ceiling in ceilings for seat in ceiling["seats"]}
    for item in items:
        total.add(item)
        agents.setdefault(item.seat, Line(item.seat)).add(item)
        scope = places.get(item.seat, _RUN)
        while scope in lines:
            lines[scope].add(item)
            scope = parents[scope]
    depths = {_RUN: 0}
    within = []
    for ceiling in ceilings:
        scope, parent, line, said = ceiling["scope"], ceiling["parent"], lines[ceiling["scope"]], ceiling["balances"]
        depths[scope] = depths[parent] + 1
        within.append(Within(scope, parent, depths[scope], line, said, _rest(line, said)))
    rest = _rest(total, balances)
    return Books(*what, total, tuple(agents.values()), balances, rest, tuple(within), above, late)


def _rest(line: Line, balances: Mapping[str, Balance]) -> dict[str, int]:
    """What the ledger says beyond the attempts, by base dimension."""
    rest = {}
    for i, dimension in enumerate(BASE_DIMENSIONS):
        balance = balances[dimension]
        charged = line.settled[i] + line.charged_max[i]
        unexplained = balance["settled"] - charged
        if balance["cap"] is not None and balance["unspent"] is not None:
            unexplained = balance["cap"] - charged - balance["unspent"]
        rest[dimension] = unexplained
    return rest


def _item_of(a: Attempt) -> Item:
    call = int(a.kind != "tool")
    units = 0 if call else a.units  # a tool call costs exactly what was held for it
    held = (a.held_tokens, a.held_pico_usd, call, units)
    if a.state == "settled":
        return Item(a.seat, a.state, held, (a.input_tokens + a.output_tokens, a.pico_usd, call, a.units))
    return Item(a.seat, a.state, held, held if a.state == "charged_max" else (0,) * _N)


def _above(grants: Grants, scope: str) -> tuple[Above, ...]:
    place = grants.ledger.scopes.get(scope)
    if place is None:
        return ()
    return tuple(
        Above(
            p.name,
            tuple(None if cap == UNLIMITED else cap for cap in unpack(p.caps, _N)),
            unpack(p.held, _N),
            unpack(p.settled, _N),
            unpack(p.over, _N),
        )
        for p in place.path
    )
