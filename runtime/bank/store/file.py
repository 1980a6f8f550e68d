"""Owns the store's one file: commits that happen whole or not at all, and reads of what was committed.

What could go wrong, and what is promised:
- Killed at any moment: the file holds every acknowledged commit, and possibly the one that was on its way. Committing that
  one again is harmless and tells whether it arrived.
- Changed, damaged or cut: noticed at open, with the number of the commit; see `chain` and `lock`.
- File locked, disk failing: the commit is refused as a whole, and the store goes on when the cause is gone.
- Disk full: the same for what would begin something; what ends something finds room; see `ballast`.
- Two drivers: the second is refused. Any number may read; see `snapshot`.
Not promised: that commits made with `durable=False` survive a power cut. Encryption, and a proof against somebody who
computes the chain anew, are not promised either.

It waits for the disk and for nothing else, has no thread and no clock. Which ops go together into one commit, and
when, is the choice of the bank's service; one caller at a time.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from runtime.bank.store.ballast import Ballast
from runtime.bank.store.database import Database, real
from runtime.bank.store.faults import was_full
from runtime.bank.store.ops import Fact, Op, Row, closes, facts_of, row_of
from runtime.bank.store.reads import Reads
from runtime.bank.store.snapshot import Snapshot
from runtime.errors import StoreError

_CONFLICTS = {
    "address": "run {name!r} is already here with other content; take another run id or another folder",
    "opened": "run {name!r} was begun with another specification; take another run id or another folder",
    "sealed": "address {name} was sealed with another result; the first one is kept",
    "entry": "entry {name} was journalled with another content; the first one is kept",
    "granted": "grant {name!r} (serial, run) was made with another scope or other amounts; the first one is kept",
    "topped up": "top-up {name!r} (serial, scope) was made with other amounts; the first one is kept",
}


class Store(Reads):
    """Everything a bank must not forget.

    Opening reads the whole file once: about 25 ms for 3,000 sealed runs of 1.5 KB.

    Args:
        path: the file, made if it is not there; None keeps everything in memory, and nothing can be resumed.
        read_only: see what is there now, while a driver may go on writing: takes no lock, changes nothing, makes nothing.
            What is committed later is not seen.
        busy_s: how long to wait for a program outside Ostrom that holds the file, before an error.

    Raises:
        StoreError: see `runtime.errors`; every text says what to do. The file was not changed.
    """

    def __init__(self, path: Path | None, *, read_only: bool = False, busy_s: float = 5.0) -> None:
        path = None if path is None else real(path)
        self._ballast = Ballast(path)
        self._has_live = False
        self._file: Database | Snapshot
        if not read_only:
            self._file = self._driven(path, busy_s)
        elif path is not None:
            self._file = Snapshot(path, busy_s)
        else:
            raise StoreError("the store in memory", "there is nothing to read yet; name a file to read")
        super().__init__(self._file.name, self._file.index, self._file.fetch)

    def commit(self, ops: Sequence[Op], *, durable: bool = True) -> None:
        """Write these ops as one transaction and one link of the chain: all of them or none.

        What was opened, journalled, granted, topped up or sealed before with the same content is skipped, so repeating a
        commit of such ops is harmless; so is a ruling that is in force. `Taken` and notes are always added. With nothing
        left to add, nothing is written.

        Args:
            ops: in the order in which they happened.
            durable: wait until the disk has it (fsync), power cut or not. It is an argument here and not a setting of
                the store because one store holds both kinds of runs: bytes must not leave for a paid model before
                the hold is safe, while a virtual run that a power cut takes is run again with the same outcome,
                so its seal need not wait. A kill of the process takes neither.

        Raises:
            StoreError: an op contradicts what is stored, or the disk, or a program that holds the file, refused, or the
                store is open for reading only. Nothing of this commit was written.
        """
        file = self._file
        if isinstance(file, Snapshot):
            raise StoreError(file.name, "it was opened for reading only; open it without read_only to write")
        rows = self._new_rows(ops)
        if not rows:
            return
        only_closes = all(map(closes, rows))
        begins = any(row.kind == "opened" for row in rows)
        if begins or (self._has_live and not only_closes):
            self._ballast.keep()
        try:
            file.write(rows, durable)
        except StoreError as error:
            if not (only_closes and was_full(error) and self._ballast.give_up()):
                if begins and not self._has_live:
                    self._ballast.give_up()
                raise
            file.write(rows, durable)
        self._has_live |= begins

    def close(self) -> None:
        """Move everything into the one file and let the next driver in. Calling it again is harmless."""
        if isinstance(self._file, Database) and not self._file.is_closed and not self._index.open_runs():
            self._ballast.give_up()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _driven(self, path: Path | None, busy_s: float) -> Database:
        try:
            file = Database(path, busy_s)
        except StoreError as error:
            # To open is the first step to close what is open. A second driver does not come here: it met the lock.
            if not (was_full(error) and self._ballast.give_up()):
                raise
            file = Database(path, busy_s)
        self._has_live = bool(file.index.open_runs())
        if self._has_live:
            # Without it the store opens all the same, and only begins nothing.
            with suppress(StoreError):
                self._ballast.keep()
        return file

    def _new_rows(self, ops: Sequence[Op]) -> list[Row]:
        """Return the rows that say something new."""
        rows = []
        said: dict[tuple[str, str], str] = {}
        rulings: dict[str, str] = {}
        for row in map(row_of, ops):
            facts = facts_of(row)
            news = [fact for fact in facts if self._is_news(fact, said)]
            said.update({(fact.about, fact.name): fact.value for fact in news})
            match row.kind:
                case "ruled":
                    _, in_force = self._index.rulings.get(row.name, (0, None))
                    in_force = rulings.get(row.name, in_force)
                    rulings[row.name] = row.state
                    is_new = in_force != row.state
                case "pruned":
                    raise StoreError(self._name, "only gc may say what was left out")
                case _:
                    is_new = bool(news) or not facts
            if is_new:
                rows.append(row)
        return rows

    def _is_news(self, fact: Fact, said: dict[tuple[str, str], str]) -> bool:
        before = said.get((fact.about, fact.name), self._index.said(fact))
        if before not in {None, fact.value}:
            raise StoreError(self._name, _CONFLICTS[fact.about].format(name=fact.name))
        return before is None
