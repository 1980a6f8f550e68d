"""Owns the books above the runs: what an account and its experiments granted to their runs, and what came back.

A run's budget is an attempt in this book, held whole when the run enters, sent when a host takes it, settled when it is
sealed; so the same machine keeps both levels. Runs enter in plan order, whole blocks or none: a block enters iff what
earlier ones settled, what they still hold and its own budgets fit. Timing can delay that, but not change it.

What an earlier driver left behind is closed by what is known of it. A virtual run that was under way is VOIDED, because
nobody billed for it. A live run that never began is RELEASED. One that did begin is CHARGED_MAX, its whole budget, until it is
taken up again and sealed with the true figure. An attempt that a sealed run could only charge at maximum stands here on its
own, so that a figure which comes later still finds its place.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import orjson

from runtime.bank.book import AttemptId, Held, Need
from runtime.bank.ledger import Ledger
from runtime.bank.store import Granted
from runtime.bank.vector import lanewise_min, pack, unpack
from runtime.budget import BASE_DIMENSIONS, Amounts, Budget, Caps
from runtime.errors import ConfigError
from runtime.journal import Key

ACCOUNT = "account"
"""Everything that somebody may be billed for, out of one folder."""
NO_CAPS: Caps = (None,) * len(BASE_DIMENSIONS)


class Limits(NamedTuple):
    """A scope above the runs."""

    scope: str
    live: bool
    """Whether it lies below the account; virtual spend does not."""
    caps: Caps


class Grants:
    """The books of one store.

    Args:
        epoch: life of the driver; what older ones hold is closed.
        account: caps of the account.
    """

    def __init__(self, epoch: int, account: Caps = NO_CAPS) -> None:
        self.ledger = Ledger(BASE_DIMENSIONS, "key")
        self.epoch = epoch
        self._main: dict[str, list[AttemptId]] = {}
        """Run → its grant and the grants of its top-ups."""
        self._serials: dict[str, int] = {}
        """Run → number of its last grant."""
        self._uncertain: set[AttemptId] = set()
        """Attempts that their sealed runs charged at maximum."""
        self._live: dict[str, bool] = {ACCOUNT: True}
        self.ledger.open(ACCOUNT, None, account)

    def open(self, limits: Limits) -> None:
        """Open an experiment's scope. Harmless when repeated."""
        if limits.scope not in self._live:
            self._live[limits.scope] = limits.live
            self.ledger.open(limits.scope, ACCOUNT if limits.live else None, limits.caps)

    def enter(self, scope: str, block: Sequence[tuple[str, Amounts]]) -> list[Granted] | None:
        """Hold the budgets of all runs of a block, or of none; those granted before are skipped.

        Args:
            block: run ids with their whole budgets, 0 where a run has no limit.

        Returns:
            What is to be committed; None when it does not fit now.
        """
        held: list[Granted] = []
        for run_id, amounts in block:
            if self._open(run_id):
                continue
            got = self._reserve(Key(0, run_id, 0), scope, amounts)
            if got is None:
                for granted in held:
                    self.ledger.release(self._main.pop(granted.run_id)[0])
                return None
            self._main[run_id] = [got]
            if not self._live[scope]:
                self.ledger.sent(got, self.epoch)  # no host takes a virtual run by name; it is shipped in a batch
            self._serials[run_id] = self._serials.get(run_id, -1) + 1
            held.append(Granted(run_id, scope, self._serials[run_id], amounts, self.epoch))
        return held

    def extend(self, run_id: str, serial: int, amounts: Amounts) -> bool:
        """Hold more for a run that was topped up; False when it does not fit. A run without a grant needs none."""
        ids = self._main.get(run_id)
        if ids is None:
            return True
        record = self.ledger.record(ids[0])
        got = self._reserve(Key(0, run_id, 1 + serial), record.path[0].name, amounts)
        if got is None:
            return False
        ids.append(got)
        if record.state == "sent":
            self.ledger.sent(got, self.epoch)
        return True

    def begun(self, run_id: str) -> None:
        """A host took the run: from here on somebody may bill for it."""
        for id in self._main.get(run_id, ()):
            if self.ledger.record(id).state == "held":
                self.ledger.sent(id, self.epoch)

    def seal(self, run_id: str, books: dict[str, Any], late: Callable[[str, int], Amounts | None]) -> None:
        """Settle a sealed run.

        Args:
            books: of the seal: "scope", "settled", and "open": [key, try, amounts] of what is charged at maximum.
            late: the true figure of such an attempt, if one came already.
        """
        if not books:
            return
        settled = pack(books["settled"])
        ids = self._main.get(run_id)
        if ids is None:
            self._main[run_id] = [AttemptId(Key(0, run_id, 0), 0)]
            need = _whole(tuple(books["settled"]))
            self.ledger.restore(self._main[run_id][0], books["scope"], need, 0, 0, "settled", settled)
            ids = []
        for id in ids:
            # A topped-up run fills its first grant before the later ones; what none of them covers was billed too much.
            last, hold = id is ids[-1], self.ledger.record(id).amounts
            used = settled if last else lanewise_min(settled, hold, len(BASE_DIMENSIONS))
            self.begun(run_id)
            self.ledger.settle(id, used)
            settled -= used
        for key, try_, amounts in books["open"]:
            id = _open_id(run_id, key, try_)
            if id in self._uncertain:
                continue
            self._uncertain.add(id)
            self._restore(id, books["scope"], tuple(amounts), "charged_max")
            figure = late(key, try_)
            if figure is not None:
                self.ledger.settle(id, pack(figure))

    def settled_before(self, scope: str, amounts: Amounts) -> None:
        """Take in what runs have cost that `gc` dropped from the store."""
        id = AttemptId(Key(2, scope, 0), 0)
        self.ledger.restore(id, scope, _whole(amounts), 0, 0, "settled", pack(amounts))

    def settle_late(self, run_id: str, key: str, try_: int, used: Amounts) -> None:
        """Book the true figure of an attempt that its sealed run charged at maximum. One that is known already is kept."""
        id = _open_id(run_id, key, try_)
        if id in self._uncertain and self.ledger.record(id).state == "charged_max":
            self.ledger.settle(id, pack(used))

    def room(self, scope: str) -> Amounts:
        """What may be held in a scope now; below 0 where it is overspent."""
        held = unpack(self.ledger.scopes[scope].held, len(BASE_DIMENSIONS))
        return tuple(left - h for left, h in zip(self.unsettled(scope), held, strict=True))

    def unsettled(self, scope: str) -> Amounts:
        """What might be held in a scope and everything above it if all holds came back."""
        n = len(BASE_DIMENSIONS)
        path = self.ledger.scopes[scope].path
        left = [[c - s for c, s in zip(unpack(p.caps, n), unpack(p.settled, n), strict=True)] for p in path]
        return tuple(map(min, zip(*left, strict=True)))

    def abandon(self, run_ids: Iterable[str]) -> None:
        """Give back what runs hold that their driver will not run: all but live runs that a host took."""
        for run_id in run_ids:
            for id in self._main.get(run_id, ()):
                record = self.ledger.record(id)
                if record.state == "held" or (record.state == "sent" and not self._live[record.path[0].name]):
                    self.ledger.release(id)

    def restore(self, granted: Granted, *, begun: bool) -> None:
        """Take in a grant that was committed, of a run that is not sealed."""
        id = AttemptId(Key(0, granted.run_id, 0), 0)
        self._main[granted.run_id] = [id]
        self._serials[granted.run_id] = granted.serial
        sent = begun or not self._live[granted.scope]
        self._restore(id, granted.scope, granted.amounts, "sent" if sent else "held", granted.epoch)

    def restore_extension(self, run_id: str, serial: int, amounts: Amounts) -> None:
        """Take in a top-up that was committed, of a run that is not sealed."""
        ids = self._main.get(run_id)
        if ids is not None:
            first = self.ledger.record(ids[0])
            ids.append(AttemptId(Key(0, run_id, 1 + serial), 0))
            self._restore(ids[-1], first.path[0].name, amounts, first.state, first.epoch)

    def take_over(self) -> None:
        """Close what drivers of older epochs hold."""
        for scope, live in self._live.items():
            self.ledger.open(scope, None, NO_CAPS, epoch=self.epoch)
            self.ledger.expire(scope, billed=live)

    def _open(self, run_id: str) -> bool:
        ids = self._main.get(run_id)
        return ids is not None and self.ledger.record(ids[0]).state in {"held", "sent", "charged_max", "settled"}

    def _reserve(self, key: Key, scope: str, amounts: Amounts) -> AttemptId | None:
        got = self.ledger.reserve(key, scope, _whole(amounts), epoch=self.epoch, at_once=True)
        if isinstance(got, Held):
            return got.id
        self.ledger.withdraw(key)
        return None

    def _restore(self, id: AttemptId, scope: str, amounts: Amounts, state: Any, epoch: int | None = None) -> None:
        at = self.epoch if epoch is None else epoch
        self.ledger.restore(id, scope, _whole(amounts), 0, 0, state, None, at)


def _whole(amounts: Amounts) -> Need:
    return Need(pack(amounts), 0, 0, 0)


def _open_id(run_id: str, key: str, try_: int) -> AttemptId:
    return AttemptId(Key(1, f"{run_id}/{key}/{try_}", 0), 0)


def granted_amounts(budget: Budget) -> Amounts:
    """What a run's budget holds in the books above it: its caps, in the base dimensions; 0 where it has none."""
    known = dict(zip(budget.dimensions, budget.caps, strict=True))
    return tuple(known.get(name) or 0 for name in BASE_DIMENSIONS)


def check_covered(caps: Caps, budget: Budget) -> None:
    """Refuse a run whose spend a scope limits but its own budget does not: it could not be held whole.

    Raises:
        ConfigError: it names the dimension.
    """
    known = dict(zip(budget.dimensions, budget.caps, strict=True))
    for name, cap in zip(BASE_DIMENSIONS, caps, strict=True):
        if cap is not None and known.get(name) is None:
            raise ConfigError(
                f"the cap limits {name.removeprefix('pico_')}, but the budget {budget.describe()!r} of a run does not; "
                "give it that limit too"
            )


def scope_caps(cap: Budget | None) -> Caps:
    """The caps of a scope above the runs.

    Raises:
        ConfigError: the cap limits seconds or single tools, which only runs can be held to.
    """
    if cap is None:
        return NO_CAPS
    if cap.seconds is not None or len(cap.dimensions) != len(BASE_DIMENSIONS):
        raise ConfigError(
            f"cap {cap.describe()!r}: a cap above runs limits tokens, usd, calls or all tool calls together"
        )
    return cap.caps


def books_of(scope: str, caps: Amounts, attempts: Iterable[Any]) -> bytes:
    """What a sealed run says to the books above it, in the dimensions that its own budget limits."""
    settled, open_ = [0] * len(BASE_DIMENSIONS), []
    for a in attempts:
        spent = (a.input_tokens + a.output_tokens, a.pico_usd, int(a.kind != "tool"), a.units)
        counted = [s if cap else 0 for s, cap in zip(spent, caps, strict=True)]
        if a.state == "charged_max":
            open_.append([f"{a.step}/{a.seat}/{a.sample}", a.try_, counted])
        elif a.state == "settled":
            settled = [x + y for x, y in zip(settled, counted, strict=True)]
    return orjson.dumps({"scope": scope, "settled": settled, "open": open_})
