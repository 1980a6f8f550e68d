"""Owns the books above the runs: what an account and its experiments granted to their runs, and what came back.

A run's budget is an attempt in this book, held whole when the run enters, sent when a host takes it, settled when it is
sealed; so the same machine keeps both levels. Runs enter in plan order, whole blocks or none: a block enters iff what
earlier ones settled, what they still hold and its own budgets fit. Timing can delay that, but not change it.

What an earlier driver left behind, or this one gave up, is closed by what is known of it. A virtual run comes back whole,
because nobody billed for it. So does a live run that never began. One that did begin is CHARGED_MAX, its whole budget, until
it is taken up again and sealed with the true figure. An attempt that a sealed run could only charge at maximum stands here on
its own, so that a figure which comes later still finds its place.

Where a run has no limit, nothing is held for it, and no scope above has one. What it spent there counts all the same, because
a limit may be set later.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from runtime.bank.book import AttemptId, Held, Need
from runtime.bank.ledger import Ledger
from runtime.bank.store import Granted
from runtime.bank.vector import Vector, lanewise_min, pack, unpack
from runtime.budget import BASE_DIMENSIONS, Amounts, Budget, Caps
from runtime.errors import BudgetExceeded, ConfigError
from runtime.journal import Key, State

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
        self._sealed: set[str] = set()
        self._live: dict[str, bool] = {ACCOUNT: True}
        self.ledger.open(ACCOUNT, None, account, epoch=epoch)

    def open(self, limits: Limits) -> None:
        """Open an experiment's scope. Harmless when repeated."""
        if limits.scope not in self._live:
            self._live[limits.scope] = limits.live
            self.ledger.open(limits.scope, ACCOUNT if limits.live else None, limits.caps, epoch=self.epoch)

    def enter(self, scope: str, block: Sequence[tuple[str, Amounts]]) -> list[Granted] | None:
        """Hold the budgets of all runs of a block, or of none; those granted before are skipped.

        Args:
            block: run ids with their whole budgets, 0 where a run has no limit.

        Returns:
            What is to be committed; None when it does not fit now.
        """
        held: list[Granted] = []
        for run_id, amounts in block:
            if self.holds(run_id):
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
        if record.state != "held":
            self.ledger.sent(got, self.epoch)
        if record.state == "charged_max":
            self.ledger.settle(got, None)
        return True

    def holds(self, run_id: str) -> bool:
        """Whether the run was let in; also when it is settled, or charged at maximum."""
        states = {self.ledger.record(id).state for id in self._main.get(run_id, ())}
        return run_id in self._sealed or not states.isdisjoint({"held", "sent", "charged_max"})

    def begun(self, run_id: str) -> None:
        """A host took the run: from here on somebody may bill for it."""
        for id in self._main.get(run_id, ()):
            if self.ledger.record(id).state == "held":
                self.ledger.sent(id, self.epoch)

    def seal(self, run_id: str, books: dict[str, Any], late: Callable[[str, int], Amounts | None]) -> None:
        """Settle a sealed run, whatever this book knew of it: a spend is a fact. Harmless when repeated.

        Args:
            books: of the seal, see `statement.books_of`.
            late: the true figure of an attempt that is charged at maximum, if one came already.
        """
        scope = books.get("scope")
        if scope not in self._live or run_id in self._sealed:
            return
        self._sealed.add(run_id)
        ids = self._main.get(run_id, [])
        limited = books["limited"] if ids else NO_CAPS
        kept = tuple(used if limit else 0 for used, limit in zip(books["settled"], limited, strict=True))
        rest = pack(kept)
        for id in ids:
            # A topped-up run fills its first grant before the later ones; what none of them covers was billed too much.
            last, hold = id is ids[-1], self.ledger.record(id).amounts
            used = rest if last else lanewise_min(rest, hold, len(BASE_DIMENSIONS))
            self._charge(id, used)
            rest -= used
        unheld = tuple(used - part for used, part in zip(books["settled"], kept, strict=True))
        if any(unheld):
            self._restore(AttemptId(Key(3, run_id, 0), 0), scope, unheld, "settled")
        for key, try_, amounts in books["open"]:
            id = _open_id(run_id, key, try_)
            self._uncertain.add(id)
            figure = late(key, try_)
            state: State = "charged_max" if figure is None else "settled"
            self.ledger.restore(id, scope, _whole(tuple(amounts)), 0, 0, state, pack(figure or ()), self.epoch)

    def settled_before(self, scope: str, amounts: Amounts) -> None:
        """Take in what runs have cost that `gc` dropped from the store."""
        if scope in self._live:
            self._restore(AttemptId(Key(2, scope, 0), 0), scope, amounts, "settled")

    def settle_late(self, run_id: str, key: str, try_: int, used: Amounts) -> None:
        """Book the true figure of an attempt that its sealed run charged at maximum. One that is known already is kept."""
        id = _open_id(run_id, key, try_)
        if id in self._uncertain and self.ledger.record(id).state == "charged_max":
            self.ledger.settle(id, pack(used))

    def refusal(self, scope: str, amounts: Amounts, *, held: bool) -> BudgetExceeded | None:
        """Why these amounts do not fit into a scope or one above it; None where they do.

        Args:
            held: count what is held, too; otherwise ask whether they would fit if all of it came back.
        """
        n = len(BASE_DIMENSIONS)
        for place in self.ledger.scopes[scope].path:
            taken = unpack(place.settled + (place.held if held else 0), n)
            for dimension, need, cap, used in zip(BASE_DIMENSIONS, amounts, unpack(place.caps, n), taken, strict=True):
                if need > cap - used:
                    return BudgetExceeded(place.name, dimension, need, max(0, cap - used))
        return None

    @property
    def frozen(self) -> bool:
        """Whether a scope was billed above its cap, so that nothing enters it any more."""
        return any(scope.frozen for scope in self.ledger.scopes.values())

    def abandon(self, run_ids: Iterable[str]) -> list[Granted]:
        """Close what runs hold that their driver will not run to their end, as `take_over` does.

        Returns:
            What is to be committed; nothing for runs that hold nothing.
        """
        back: list[Granted] = []
        for run_id in run_ids:
            held = [(id, record) for id in self._main.get(run_id, ()) if (record := self.ledger.record(id)).is_open]
            for id, record in held:
                if record.state == "sent" and self._live[record.path[0].name]:
                    self.ledger.settle(id, None)
                else:
                    self.ledger.release(id)
            if held:
                self._serials[run_id] += 1
                back.append(Granted(run_id, held[0][1].path[0].name, self._serials[run_id], (), self.epoch))
        return back

    def restore(self, granted: Granted, *, begun: bool) -> None:
        """Take in a grant that was committed."""
        if granted.scope in self._live:
            id = AttemptId(Key(0, granted.run_id, 0), 0)
            self._main[granted.run_id] = [id]
            self._serials[granted.run_id] = granted.serial
            sent = begun or not self._live[granted.scope]
            self._restore(id, granted.scope, granted.amounts, "sent" if sent else "held", granted.epoch)

    def restore_extension(self, run_id: str, serial: int, amounts: Amounts) -> None:
        """Take in a top-up of a run that was committed."""
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

    def _reserve(self, key: Key, scope: str, amounts: Amounts) -> AttemptId | None:
        got = self.ledger.reserve(key, scope, _whole(amounts), epoch=self.epoch, at_once=True)
        if isinstance(got, Held):
            return got.id
        self.ledger.withdraw(key)
        return None

    def _charge(self, id: AttemptId, used: Vector) -> None:
        """Settle a grant at this figure; under the next try, where it was given up and its run ended all the same."""
        record = self.ledger.record(id)
        if record.state not in {"sent", "charged_max"}:
            if record.is_open:
                self.ledger.release(id)
            id = AttemptId(id.key, id.try_ + 1)
            self.ledger.restore(id, record.path[0].name, record.need, 0, 0, "sent", None, self.epoch)
        self.ledger.settle(id, used)

    def _restore(self, id: AttemptId, scope: str, amounts: Amounts, state: State, epoch: int | None = None) -> None:
        at = self.epoch if epoch is None else epoch
        self.ledger.restore(id, scope, _whole(amounts), 0, 0, state, pack(amounts), at)


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
