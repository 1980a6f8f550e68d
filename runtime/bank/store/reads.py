"""Owns all that is asked of a store: answers from the index in memory, and from single rows where the index has no answer.

Nothing here scans a table. What is read twice is the same twice, because rows are only ever added.
"""

from collections.abc import Callable, Iterable, Iterator, Set
from typing import Any, cast

from runtime.bank.store.index import Index
from runtime.bank.store.ops import Entry, Granted, Opened, Row, ToppedUp, amounts_of, unpacked
from runtime.errors import StoreError
from runtime.journal import State, Unanswered

Fetch = Callable[[str, int], tuple[Any, ...] | None]
"""Runs a SELECT that has one place for a row's number."""


class Reads:
    """The reading half of a store.

    Args:
        name: what errors call the store.
        index: of the rows that `fetch` finds; it may grow.
        fetch: one row, or None if there is none.
    """

    def __init__(self, name: str, index: Index, fetch: Fetch) -> None:
        self._name = name
        self._index = index
        self._fetch = fetch

    def sealed(self, addresses: Iterable[str]) -> set[str]:
        """Return those of the addresses that have a sealed run. Touches no disk."""
        return self._index.facts["sealed"].keys() & set(addresses)

    def results(self, addresses: Iterable[str] | None = None) -> Iterator[tuple[str, str, bytes]]:
        """Yield (run id, address, body) of the sealed runs at these addresses, or of all, in order of address.

        An address without a sealed run is passed over. A run sealed while this iterates may be missing.
        """
        rows = self._index.facts["sealed"]
        for address in sorted(rows if addresses is None else self.sealed(addresses)):
            row = self._row(rows[address][0])
            yield row.name, address, self._body(row)

    def result(self, run_id: str) -> bytes | None:
        """Return the body of this sealed run, or None if it is unknown or not sealed."""
        _, address = self._index.facts["address"].get(run_id, (0, ""))
        found = self._index.facts["sealed"].get(address)
        return None if found is None else self._body(self._row(found[0]))

    def books(self) -> Iterator[tuple[str, str, bytes]]:
        """Yield (run id, address, books) of all sealed runs, first sealed first. Unpacks nothing; 5 µs a run."""
        for n in tuple(self._index.kinds["sealed"]):
            run_id, address, books = self._columns(n, "name, address, books")
            yield run_id, address, books

    def names(self) -> Set[str]:
        """Return the ids of all runs that were opened or sealed. Touches no disk."""
        return self._index.facts["address"].keys()

    def entries(self, run_id: str) -> list[Entry]:
        """Return the journal entries of this run in the order in which they were committed."""
        rows = map(self._row, self._index.entries.get(run_id, ()))
        return [
            Entry(row.name, row.epoch, row.key, row.try_, cast(State | Unanswered, row.state), self._body(row))
            for row in rows
        ]

    def opened(self) -> list[Opened]:
        """Return the runs that were opened and have no result at their address, first opened first."""
        rows = map(self._row, self._index.open_runs())
        return [Opened(row.name, row.address, self._body(row)) for row in rows]

    def epoch(self, run_id: str) -> int:
        """Return the highest epoch that took this run; 0 before any did. Touches no disk."""
        return self._index.epochs.get(run_id, 0)

    def grants(self) -> list[Granted]:
        """Return all grants in the order in which they were made, those to sealed runs too."""
        rows = map(self._row, self._index.kinds["granted"])
        return [Granted(row.name, row.key, row.try_, amounts_of(row), row.epoch) for row in rows]

    def top_ups(self) -> list[ToppedUp]:
        """Return all raises of caps in the order in which they were made."""
        rows = map(self._row, self._index.kinds["topped up"])
        return [ToppedUp(row.name, row.try_, amounts_of(row)) for row in rows]

    def rulings(self) -> dict[str, str]:
        """Return the last status of each run and scope about which an operator ruled. Touches no disk."""
        return {name: status for name, (_, status) in self._index.rulings.items()}

    def note(self, name: str) -> bytes | None:
        """Return the last document of this name, or None."""
        n = self._index.notes.get(name)
        return None if n is None else self._row(n).body

    def pruned(self) -> bytes | None:
        """Return what `gc` left in the place of the runs it dropped, or None if it never did. Touches no disk."""
        return self._index.pruned

    def _row(self, n: int) -> Row:
        return Row(*self._columns(n, "*")[-len(Row._fields) :])

    def _columns(self, n: int, columns: str) -> tuple[Any, ...]:
        found = self._fetch(f"SELECT {columns} FROM op WHERE n = ?", n)
        if found is None:
            raise StoreError(
                self._name, f"row {n} was taken away while the store was open; restore the file from a copy"
            )
        return found

    def _body(self, row: Row) -> bytes:
        body = unpacked(row)
        if body is None:
            raise StoreError(self._name, f"run {row.name!r} was changed while the store was open; restore the file")
        return body
