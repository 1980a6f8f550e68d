"""Owns who may not send: hosts whose run another one took over, and runs that an operator halted."""

from collections.abc import Sequence

import orjson

from runtime.bank.store import Entry, Op, Store
from runtime.errors import OrchestrationError, RunHalted, StaleEpoch


class Fence:
    """Stands in front of the store: what it bars is not committed, and what is not committed as sent does not leave."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.rulings = store.rulings()
        """The last ruling about each run and experiment that has one."""
        self.scopes: dict[str, str] = {o.run_id: orjson.loads(o.body)["scope"] for o in store.opened()}
        """Scope of each live run that is begun and not finished."""

    def bars(self, part: Sequence[Op]) -> OrchestrationError | None:
        """Why a part must not be committed; None where it may."""
        for op in part:
            if isinstance(op, Entry) and op.state in {"sent", "released", "unanswered"}:
                current = self._store.epoch(op.run_id)
                if op.epoch < current and (op.state == "sent" or not self._was_sent(op)):
                    return StaleEpoch(op.run_id, op.epoch, current)
                if op.state == "sent":
                    for name in (op.run_id, self.scopes.get(op.run_id, "")):
                        ruling = self.rulings.get(name, "resumed")
                        if ruling != "resumed":
                            return RunHalted(op.run_id, ruling)
        return None

    def _was_sent(self, entry: Entry) -> bool:
        """Whether the host that gives this attempt back had sent it, and not the one that has the run now."""
        attempt = (entry.epoch, entry.key, entry.try_, "sent")
        return any((e.epoch, e.key, e.try_, e.state) == attempt for e in self._store.entries(entry.run_id))
