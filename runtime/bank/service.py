"""Owns the bank's one door: who may write, who enters under which cap, what an operator ruled; and the store behind it.

Everything durable goes through `Bank.write`. There an old host is fenced and a halted run is stopped: before the bytes of a
live attempt leave, its `sent` has to be committed here, so who cannot come through cannot spend.
"""

import socket
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import count
from pathlib import Path

import orjson

from runtime.bank.client import Parts, Verdicts
from runtime.bank.fence import Fence
from runtime.bank.grants import ACCOUNT, NO_CAPS, Grants, Limits
from runtime.bank.limits import declared_limits, limits_note, raised_caps, top_up_amounts
from runtime.bank.live import Life
from runtime.bank.recovery import late_figures, read_grants, true_figure
from runtime.bank.store import Entry, Granted, Op, Opened, Ruled, Sealed, Store, Taken, ToppedUp
from runtime.books import Books, open_books, sealed_books
from runtime.budget import BASE_DIMENSIONS, Amounts, Budget, Caps
from runtime.errors import ConfigError, InternalError, OrchestrationError, StoreError
from runtime.result import RunResult

STORE_FILE = "store.sqlite"
_DURABLE = (Opened, Taken, Entry, ToppedUp, Ruled)


class Bank:
    """Holds the store. Synchronous; one caller at a time. The store is opened, and proved, on first use.

    Not in the constructor: what a Ray actor's constructor raises reaches nobody, and after a restart of the actor the first
    call opens the store anew, and the books with it.

    Args:
        folder: where the store lies; None keeps it in memory, and nothing can be resumed.
        read_only: look, while another driver works on it.
    """

    def __init__(self, folder: Path | None, *, read_only: bool = False) -> None:
        self._folder = folder
        self._read_only = read_only

    @cached_property
    def _store(self) -> Store:
        if self._folder is None:
            return Store(None)
        try:
            if not self._read_only:
                self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(str(self._folder), f"cannot be made a folder: {error.strerror}; choose another") from None
        return Store(self._folder / STORE_FILE, read_only=self._read_only)

    @cached_property
    def _grants(self) -> Grants:
        return read_grants(self._store)

    @cached_property
    def _fence(self) -> Fence:
        return Fence(self._store)

    def open(self, account: Caps = NO_CAPS) -> Caps:
        """Open the store for a new driver: what is wrong with it is told now, and older drivers are fenced.

        Args:
            account: caps of the account; without any, those that an earlier driver declared stay.

        Returns:
            The caps of the account as they are declared, without top-ups.
        """
        before = declared_limits(self._store, ACCOUNT)
        if before is not None and account == NO_CAPS:
            account = before.caps
        taken = Taken("", self._store.epoch("") + 1, socket.gethostname())
        self._commit([*self._news(Limits(ACCOUNT, True, account)), taken])
        self._forget()
        return account

    def write(self, parts: Parts) -> Verdicts:
        """Commit parts, each whole or not at all; waits for the disk only where somebody may be billed.

        A host of an older epoch, and one whose run was halted, cannot note that something is about to be sent. How an
        attempt ended is taken from everybody: a spend is a fact.
        """
        verdicts: list[OrchestrationError | None] = [self._fence.bars(part) for part in parts]
        sound = [i for i, verdict in enumerate(verdicts) if verdict is None]
        try:
            self._commit([op for i in sound for op in parts[i]])
        except StoreError:
            # Nothing of it was committed. Alone, each part fails or succeeds by itself: no run pays for another's fault.
            for i in sound:
                try:
                    self._commit(parts[i])
                except StoreError as error:
                    verdicts[i] = error
        return verdicts

    def enter(self, limits: Limits, blocks: Sequence[Sequence[tuple[str, Amounts]]]) -> int:
        """Let the next blocks of runs in, in order, as many as fit; returns how many.

        Args:
            limits: the experiment, or the account itself.
            blocks: run ids with their whole budgets; a block enters whole or not at all.
        """
        news, before = self._news(limits), declared_limits(self._store, limits.scope)
        if news and before is not None:
            if before.live != limits.live:
                raise ConfigError(f"{limits.scope} was run with models that {'bill' if before.live else 'do not bill'}")
            self._commit(news)  # under another cap than before: the books are read again
            self._forget()
        self._grants.open(limits._replace(caps=raised_caps(self._store, limits.scope, limits.caps)))
        held: list[Granted] = []
        entered = 0
        for block in blocks:
            more = self._grants.enter(limits.scope, block)
            if more is None:
                break
            held += more
            entered += 1
        try:
            self._store.commit([*self._news(limits), *held], durable=limits.live)
        except StoreError:
            self._forget()
            raise
        return entered

    def check_room(self, scope: str, amounts: Amounts) -> None:
        """Tell a run that waits for room whether it may go on waiting.

        Raises:
            BudgetExceeded: it would not fit even if everything that is held came back.
        """
        refusal = self._grants.refusal(scope, amounts, held=False)
        if refusal is not None:
            raise refusal

    def abandon(self, run_ids: Sequence[str]) -> None:
        """Close what runs hold that this driver will not run to their end. Harmless when repeated.

        It need not wait for the disk: what a power cut takes of it is closed by the next driver.
        """
        back = self._grants.abandon(run_ids)
        try:
            self._commit(back)
        except StoreError:
            self._forget()
            raise

    def take(self, opened: Opened) -> Life:
        """Give a live run to a host: fences all hosts that had it before.

        Raises:
            StoreError: the run id belongs to another run.
            BudgetExceeded: its scope was billed above its cap, so nothing new begins in it.
            ConfigError: it cannot have this name, or was not let into the scope it belongs to.
        """
        run_id, scope = opened.run_id, orjson.loads(opened.body)["scope"]
        finished = next(self._store.results([opened.address]), None)
        if finished is not None:
            return Life(self._store.epoch(run_id), [], [], finished[2])
        if run_id == ACCOUNT:
            raise ConfigError(f"a live run cannot be named {ACCOUNT!r}, which is the limit above all of them")
        if scope != ACCOUNT and not self._grants.holds(run_id):
            raise ConfigError(f"run {run_id} was not let into {scope}; call `Runtime.enter` first")
        try:
            self._grants.begun(run_id)
            epoch = self._store.epoch(run_id) + 1
            self._commit([opened, Taken(run_id, epoch, socket.gethostname())])
        except StoreError:
            self._forget()
            raise
        self._fence.scopes[run_id] = scope
        return Life(epoch, self._store.entries(run_id), self.raised(run_id))

    def rule(self, name: str, ruling: str) -> None:
        """Note what an operator decided about a run or an experiment: paused, resumed or cancelled."""
        self._commit([Ruled(name, ruling)])
        self._fence.rulings[name] = ruling

    def rulings(self) -> dict[str, str]:
        """The last ruling about each run and experiment that has one."""
        return dict(self._fence.rulings)

    def top_up(self, name: str, more: Budget, serial: int | None = None) -> Amounts:
        """Raise the cap of a scope, or the budget of a live run that is not sealed; returns by what, in its own dimensions.

        Args:
            serial: how many top-ups it had before, so that one which was made already is not made again.

        Raises:
            ConfigError: there is no such scope or run, or it has no limit there that could be raised.
            BudgetExceeded: the scope above has no room for it.
        """
        amounts, raised = top_up_amounts(self._store, name, more), self.raised(name)
        if serial is None:
            serial = len(raised)
        if serial < len(raised):
            return raised[serial]
        above, scope = amounts[: len(BASE_DIMENSIONS)], self._fence.scopes.get(name)
        if scope is not None and not self._grants.extend(name, serial, above):
            raise self._grants.refusal(scope, above, held=True) or InternalError(f"{name} cannot be topped up")
        try:
            self._commit([ToppedUp(name, serial, amounts)])
        finally:
            self._forget()  # under other caps, or without what was held for a top-up that could not be noted
        return amounts

    def knows_scope(self, name: str) -> bool:
        """Whether there is an experiment of this name."""
        return declared_limits(self._store, name) is not None

    def raised(self, name: str) -> list[Amounts]:
        """All top-ups of a scope or run."""
        return [more.amounts for more in self._store.top_ups() if more.scope == name]

    def results(self, addresses: Sequence[str]) -> dict[str, RunResult]:
        """The finished ones of these trials, by address."""
        return {address: RunResult.from_json(body) for _, address, body in self._store.results(addresses)}

    def result(self, run_id: str) -> RunResult | None:
        """One finished run."""
        body = self._store.result(run_id)
        return None if body is None else RunResult.from_json(body)

    def finished(self) -> Iterator[RunResult]:
        """Every finished run, in the order in which they were sealed."""
        return (RunResult.from_json(body) for _, _, body in self._store.results())

    def open_runs(self) -> list[Opened]:
        """Every live run that is begun and not finished."""
        return list(self._store.opened())

    def free_number(self, above: int) -> int:
        """The lowest number above this one for which no run `run-N` was begun or finished."""
        known = self._store.names()
        return next(n for n in count(above + 1) if f"run-{n}" not in known)

    def entries(self, run_id: str) -> list[Entry]:
        """What a live run wrote so far."""
        return self._store.entries(run_id)

    def note(self, name: str) -> bytes | None:
        """A named document."""
        return self._store.note(name)

    def books(self, run_id: str) -> Books | None:
        """The books of a run, finished or open; None where it is neither."""
        entries = self._store.entries(run_id)
        for opened in self._store.opened():
            if opened.run_id == run_id:
                return open_books(opened, entries, self.raised(run_id), self._grants)
        result = self.result(run_id)
        if result is None:
            return None
        above = next(orjson.loads(body) for name, _, body in self._store.books() if name == run_id)
        return sealed_books(result, entries, self._grants, above.get("scope", ""))

    def close(self) -> None:
        """Close the store and give up its lock; nothing to do where it was never opened."""
        if "_store" in vars(self):
            self._store.close()

    def _commit(self, ops: Sequence[Op]) -> None:
        self._store.commit(ops, durable=any(isinstance(op, _DURABLE) for op in ops))
        for op in ops:
            if isinstance(op, Sealed):
                self._grants.seal(op.run_id, orjson.loads(op.books), late_figures(self._store, op.run_id))
                self._fence.scopes.pop(op.run_id, None)
            elif isinstance(op, Entry) and op.run_id not in self._fence.scopes:
                figure = true_figure(op)
                if figure is not None:
                    self._grants.settle_late(op.run_id, op.key, op.try_, figure)
                    if self._grants.frozen:
                        self._forget()  # it may thaw

    def _news(self, limits: Limits) -> list[Op]:
        """The note about a scope's limits, where it says something new."""
        known = declared_limits(self._store, limits.scope) or Limits(ACCOUNT, True, NO_CAPS)
        return [] if limits == known else [limits_note(limits)]

    def _forget(self) -> None:
        vars(self).pop("_grants", None)
