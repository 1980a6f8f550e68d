"""Owns the index of what lies where in the store: numbers of rows, by what is asked for.

It lives in memory and is built in the pass that proves the chain. There is none in the file, because a damaged one would
hide rows that the chain has just found sound. It holds some 490 bytes a sealed run, and as much an entry.
"""

import json
from hashlib import sha256

from runtime.bank.store.lock import Mark
from runtime.bank.store.ops import Fact, Row, facts_of

FORMAT = 2
"""Version of the tables and of the bytes that are hashed."""
_START = sha256(f"ostrom store {FORMAT}".encode()).digest()


class Index:
    """What lies where."""

    def __init__(self) -> None:
        self.n_commits = 0
        self.n_ops = 0
        self.link = _START
        """Link of the last commit."""
        self.facts: dict[str, dict[str, tuple[int, str]]] = {
            about: {} for about in ("address", "opened", "sealed", "entry", "granted", "topped up")
        }
        """about → name → (number of the row that said it first, what it said)."""
        self.kinds: dict[str, list[int]] = {"sealed": [], "granted": [], "topped up": []}
        """Kind → numbers of all its rows, in order."""
        self.entries: dict[str, list[int]] = {}
        """Run → numbers of its entries, in order."""
        self.epochs: dict[str, int] = {}
        """Run → the highest epoch that took it."""
        self.rulings: dict[str, tuple[int, str]] = {}
        """Run or scope → (number of its last ruling, the status)."""
        self.notes: dict[str, int] = {}
        self.pruned: bytes | None = None
        """Body of the first row, if `gc` wrote it."""

    def add(self, rows: list[Row], link: bytes) -> None:
        """Take in one commit that is sound and on disk."""
        for n, row in enumerate(rows, self.n_ops + 1):
            self._place(n, row)
            for fact in facts_of(row):
                self.facts[fact.about].setdefault(fact.name, (n, fact.value))
        self.n_commits += 1
        self.n_ops += len(rows)
        self.link = link

    def said(self, fact: Fact) -> str | None:
        """Return what was said before about the same thing."""
        found = self.facts[fact.about].get(fact.name)
        return None if found is None else found[1]

    def open_runs(self) -> list[int]:
        """Return the numbers of the rows that opened what has no result at its address, first opened first."""
        sealed, addresses = self.facts["sealed"], self.facts["address"]
        return [n for name, (n, _) in self.facts["opened"].items() if addresses[name][1] not in sealed]

    @property
    def mark(self) -> Mark:
        """The last commit, as the lock file remembers it."""
        return Mark(self.n_commits, self.link.hex())

    @property
    def replaced(self) -> Mark | None:
        """The last commit of the file whose place this one took; None if it is the first of its name."""
        if self.pruned is None:
            return None
        body = json.loads(self.pruned)
        return Mark(body["commits"], body["link"])

    def _place(self, n: int, row: Row) -> None:
        kind, name = row.kind, row.name
        if kind in self.kinds:
            self.kinds[kind].append(n)
        elif kind == "entry":
            self.entries.setdefault(name, []).append(n)
        elif kind == "taken":
            self.epochs[name] = max(row.epoch, self.epochs.get(name, 0))
        elif kind == "ruled":
            self.rulings[name] = n, row.state
        elif kind == "note":
            self.notes[name] = n
        elif kind == "pruned":
            self.pruned = row.body
