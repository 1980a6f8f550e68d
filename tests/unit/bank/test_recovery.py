"""The books above the runs, read back out of the store: the same as those in memory, after whatever happened."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from runtime.bank.grants import ACCOUNT, Grants, Limits
from runtime.bank.recovery import read_grants
from runtime.bank.service import Bank
from runtime.bank.store import Entry, Opened, Sealed
from runtime.bank.vector import unpack
from runtime.budget import Amounts, Budget, Caps
from runtime.errors import BudgetExceeded, ConfigError, StaleEpoch, StoreError

LIVE = "experiment:live"
VIRTUAL = "experiment:virtual"
KEY = "0/a/0"


def cap(n: int | None) -> Caps:
    return (n, None, None, None)


def books(scope: str, settled: int, open_: int = 0) -> bytes:
    unknown = [[KEY, 0, [open_, 0, 1, 0]]] if open_ else []
    said = {"scope": scope, "settled": [settled, 5, 1, 0], "limited": [True, False, False, False], "open": unknown}
    return orjson.dumps(said)


def entry(run_id: str, epoch: int, state: Any, charged: int = 0, key: str = KEY) -> Entry:
    body = {"charged": [charged, 0, 1, 0]} if state == "settled" else {}
    return Entry(run_id, epoch, key, 0, state, orjson.dumps(body))


def opened(run_id: str, scope: str, tokens: int = 10) -> Opened:
    facts = {"scope": scope, "dimensions": ["tokens", "pico_usd", "calls", "tool_calls"], "caps": cap(tokens)}
    return Opened(run_id, f"address of {run_id}", orjson.dumps(facts))


def picture(grants: Grants) -> dict[str, Any]:
    """Everything that a book answers from. A scope in which nothing ever happened need not be in it."""
    grants.ledger.check()
    scopes = {
        name: (place.caps, place.settled, place.over, place.held, place.epoch, [above.name for above in place.path])
        for name, place in grants.ledger.scopes.items()
        if place.settled or place.held
    }
    runs = {}
    for run_id, ids in grants._main.items():
        states = [(record.state, record.amounts, record.charged) for record in map(grants.ledger.record, ids)]
        if states[0][0] not in {"released", "voided"}:
            runs[run_id] = states
    return {
        "scopes": scopes,
        "runs": runs,
        "uncertain": {id: grants.ledger.record(id).state for id in grants._uncertain},
    }


@dataclass
class Trial:
    """One run, as an independent bookkeeper sees it."""

    scope: str
    budget: int
    begun: bool = False
    closed: bool = False
    """Its driver is gone, or gave it up."""
    epoch: int = 0
    raised: int = 0
    sent: bool = False
    """Its first host sent an attempt, of which nothing more was heard."""
    sealed: int | None = None
    open: int = 0
    """What that attempt was charged at maximum in the seal."""
    late: int | None = None
    """What it had cost."""

    @property
    def live(self) -> bool:
        return self.scope != VIRTUAL

    @property
    def settled(self) -> int:
        if self.sealed is not None:
            return self.sealed + (self.open if self.late is None or not self.open else self.late)
        return self.budget + self.raised if self.closed and self.begun else 0

    @property
    def held(self) -> int:
        return self.budget + self.raised if not self.closed and self.sealed is None else 0


picks = st.integers(0, 1000)


class BankAndStore(RuleBasedStateMachine):
    """A bank under random work, with a store that may fail at any commit, and drivers that come and go.

    An own, simple bookkeeper says what must stand in each scope; and the store must always say the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bank = Bank(None)
        self.trials: dict[str, Trial] = {}
        self.caps: dict[str, int] = {}
        self.names = 0
        self.honest = True
        self.fails = False
        store = self.bank._store
        commit = store.commit

        def flaky(ops: Any, *, durable: bool = True) -> None:
            if self.fails:
                raise StoreError("the store", "the disk is full")
            commit(ops, durable=durable)

        store.commit = flaky  # type: ignore[method-assign]

    @initialize(account=st.none() | st.integers(40, 120), live=st.integers(20, 100), virtual=st.integers(20, 100))
    def begin(self, account: int | None, live: int, virtual: int) -> None:
        self.caps = {LIVE: live, VIRTUAL: virtual} | ({} if account is None else {ACCOUNT: account})
        self.declared = dict(self.caps)
        self.bank.open(cap(account))

    # ---- The bookkeeper.

    def limits(self, scope: str) -> Limits:
        return Limits(scope, scope != VIRTUAL, cap(self.declared.get(scope)))

    def balance(self, scope: str) -> tuple[int, int]:
        """What is settled and what is held."""
        trials = [t for t in self.trials.values() if t.scope == scope or (scope == ACCOUNT and t.live)]
        return sum(t.settled for t in trials), sum(t.held for t in trials)

    def fits(self, scope: str, tokens: int) -> bool:
        above = [scope] if scope == VIRTUAL else [scope, ACCOUNT]
        frozen = any(self.bank._grants.ledger.scopes[s].frozen for s in above if s in self.bank._grants.ledger.scopes)
        return not frozen and all(sum(self.balance(s)) + tokens <= self.caps[s] for s in above if s in self.caps)

    def pick(self, pick: int, want: Callable[[Trial], bool]) -> str | None:
        """One of the runs that are as wanted."""
        runs = [run for run, trial in self.trials.items() if want(trial)]
        return runs[pick % len(runs)] if runs else None

    def top_up(self, name: str, more: Budget) -> Amounts:
        serial = len(self.bank.raised(name))
        raised = self.bank.top_up(name, more, serial)
        assert self.bank.top_up(name, more, serial) == raised
        return raised

    # ---- What happens.

    @rule(
        scope=st.sampled_from([LIVE, VIRTUAL, ACCOUNT]),
        blocks=st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=3), min_size=1, max_size=3),
    )
    def enter(self, scope: str, blocks: list[list[int]]) -> None:
        asked, want = [], 0
        for block in blocks:
            self.names += len(block)
            asked.append([(f"r{self.names - i}", (n, 0, 0, 0)) for i, n in enumerate(block)])
        for block, named in zip(blocks, asked, strict=True):
            if not self.fits(scope, sum(block)):
                break
            want += 1
            self.trials.update({run_id: Trial(scope, amounts[0]) for run_id, amounts in named})
        assert self.bank.enter(self.limits(scope), asked) == want

    @rule(pick=picks)
    def enter_again(self, pick: int) -> None:
        run = self.pick(pick, lambda t: True)
        if run is None:
            return
        trial = self.trials[run]
        anew = trial.sealed is None and trial.closed and not trial.begun
        fits = not anew or self.fits(trial.scope, trial.budget)
        assert self.bank.enter(self.limits(trial.scope), [[(run, (trial.budget, 0, 0, 0))]]) == int(fits)
        trial.closed &= not (anew and fits)

    @rule(pick=picks)
    def take(self, pick: int) -> None:
        run = self.pick(pick, lambda t: t.live and (t.begun or not t.closed))
        if run is None:
            return
        trial = self.trials[run]
        scopes = self.bank._grants.ledger.scopes
        barred = not trial.begun and any(scopes[s].frozen for s in (trial.scope, ACCOUNT))
        try:
            life = self.bank.take(opened(run, trial.scope, trial.budget))
        except BudgetExceeded:
            assert barred
            assert run not in {o.run_id for o in self.bank.open_runs()}
            return
        assert not barred
        assert (life.sealed is None) == (trial.sealed is None)
        if trial.sealed is None:
            assert life.epoch == trial.epoch + 1
            trial.begun, trial.epoch = True, life.epoch

    @rule(pick=picks, back=st.integers(0, 2), state=st.sampled_from(["sent", "released"]))
    def host(self, pick: int, back: int, state: str) -> None:
        """A host that may be one of an older epoch sends, or gives back what it could not send."""
        run = self.pick(pick, lambda t: t.begun and t.sealed is None)
        if run is not None:
            epoch = max(1, self.trials[run].epoch - back)
            (verdict,) = self.bank.write([[entry(run, epoch, state, key=f"{epoch}/b/0")]])
            was_sent = (f"{epoch}/b/0", "sent") in {(e.key, e.state) for e in self.bank.entries(run)}
            stale = epoch < self.trials[run].epoch and (state == "sent" or not was_sent)
            assert isinstance(verdict, StaleEpoch) == stale

    @rule(pick=picks)
    def send(self, pick: int) -> None:
        run = self.pick(pick, lambda t: t.begun and t.epoch == 1 and t.sealed is None)
        if run is not None:
            assert self.bank.write([[entry(run, 1, "sent")]]) == [None]
            self.trials[run].sent = True

    @rule(
        pick=picks, used=st.integers(0, 14), unknown=st.integers(0, 8), over=st.integers(0, 29).map(lambda n: n // 29)
    )
    def seal(self, pick: int, used: int, unknown: int, over: int) -> None:
        run = self.pick(pick, lambda t: t.sealed is None and (t.begun or (not t.live and not t.closed)))
        if run is None:
            return
        trial = self.trials[run]
        budget = trial.budget + trial.raised
        unknown = min(unknown, budget) if trial.sent else 0
        used = min(used, budget - unknown) + 40 * over
        self.honest &= not over
        sealed = Sealed(run, f"address of {run}", b"{}", books(trial.scope, used, unknown))
        assert self.bank.write([[sealed]]) == [None]
        assert self.bank.write([[sealed], [sealed]]) == [None, None]
        trial.sealed, trial.open = used, unknown
        if trial.late is not None and trial.late > unknown:
            self.honest = False

    @rule(pick=picks, used=st.integers(0, 9), state=st.sampled_from(["settled", "released"]))
    def late_figure(self, pick: int, used: int, state: str) -> None:
        """What a host reports of what it had sent, maybe long after another one took its run over, or after its seal."""
        run = self.pick(pick, lambda t: t.sent and t.late is None)
        if run is not None:
            trial = self.trials[run]
            late = entry(run, 1, state, used)
            assert self.bank.write([[late]]) == [None]
            assert self.bank.write([[late], [late]]) == [None, None]
            trial.late = used if state == "settled" else 0
            self.honest &= trial.sealed is None or trial.late <= trial.open

    @rule(pick=picks)
    def give_up(self, pick: int) -> None:
        run = self.pick(pick, lambda t: not t.closed)
        if run is not None:
            self.bank.abandon([run, "unknown"])
            self.trials[run].closed = self.trials[run].sealed is None

    @rule(name=st.sampled_from([ACCOUNT, LIVE, VIRTUAL]), more=st.integers(0, 15))
    def raise_scope(self, name: str, more: int) -> None:
        if name in self.caps and (name == ACCOUNT or self.bank.knows_scope(name)):
            assert self.top_up(name, Budget(tokens=more)) == (more, 0, 0, 0)
            self.caps[name] += more
        else:
            with pytest.raises(ConfigError):
                self.top_up(name, Budget(tokens=more + 1))

    @rule(pick=picks, more=st.integers(1, 15))
    def raise_run(self, pick: int, more: int) -> None:
        run = self.pick(pick, lambda t: t.begun and t.sealed is None)
        if run is None:
            return
        trial = self.trials[run]
        if self.fits(trial.scope, more):
            self.top_up(run, Budget(tokens=more))
            trial.raised += more
        else:
            with pytest.raises(BudgetExceeded):
                self.top_up(run, Budget(tokens=more))

    @rule()
    def a_new_driver(self) -> None:
        self.bank.open(cap(self.declared.get(ACCOUNT)))
        for trial in self.trials.values():
            trial.closed |= trial.sealed is None

    @rule()
    def the_bank_comes_back(self) -> None:
        """Its process was killed, and what it had in memory is gone; the driver goes on."""
        for name in ("_grants", "_fence"):
            vars(self.bank).pop(name, None)

    @rule(pick=picks, what=st.sampled_from(["enter", "take", "seal", "top-up", "open", "rule", "give up"]))
    def the_store_fails(self, pick: int, what: str) -> None:
        """Then nothing has happened."""
        run = self.pick(pick, lambda t: t.live and t.begun and t.sealed is None)
        held = self.pick(pick, lambda t: not t.closed and t.sealed is None)
        before = picture(self.bank._grants)
        self.fails = True
        try:
            match what:
                case "enter":
                    self.bank.enter(self.limits(LIVE), [[("never", (1, 0, 0, 0))]])
                case "take" if run is not None:
                    self.bank.take(opened(run, self.trials[run].scope, self.trials[run].budget))
                case "seal":
                    (verdict,) = self.bank.write([[Sealed("never", "never", b"{}", books(LIVE, 5))]])
                    assert isinstance(verdict, StoreError)
                case "top-up" if run is not None:
                    self.top_up(run, Budget(tokens=1))
                case "open":
                    self.bank.open()
                case "give up" if held is not None:
                    self.bank.abandon([held])
                case _:
                    self.bank.rule("never", "paused")
        except (StoreError, BudgetExceeded) as error:
            event(f"{what}: {type(error).__name__}")
        finally:
            self.fails = False
        assert picture(self.bank._grants) == before
        assert "never" not in self.bank.rulings()

    @invariant()
    def the_books_say_what_the_bookkeeper_says(self) -> None:
        for name, place in self.bank._grants.ledger.scopes.items():
            assert (unpack(place.settled, 4)[0], unpack(place.held, 4)[0]) == self.balance(name), name
            if self.honest and name in self.caps:
                assert sum(self.balance(name)) <= self.caps[name]

    @invariant()
    def the_store_says_the_same(self) -> None:
        assert picture(read_grants(self.bank._store)) == picture(self.bank._grants)


BankAndStore.TestCase.settings = settings(stateful_step_count=40)
TestBankAndStore = BankAndStore.TestCase
