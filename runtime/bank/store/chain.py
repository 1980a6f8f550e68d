"""Owns the tables, and the proof at open that nothing in them was changed.

SQLite keeps no checksums: after 2,000 flipped bytes both of its own checks said "ok". So each commit adds one link, a
sha256 over the link before it and the commit's rows, and opening computes all of them again; in the same pass the index
is built. The pass takes 4 to 10 µs a row.
"""

import sqlite3
from collections.abc import Iterator
from itertools import islice

from runtime.bank.store.faults import FOREIGN, words_for
from runtime.bank.store.index import FORMAT, Index
from runtime.bank.store.lock import Mark
from runtime.bank.store.ops import Row, link_of
from runtime.errors import StoreError

_APPLICATION = 0x4F53_5452  # "OSTR": tells a store from other people's databases
_TABLES = {
    "chain": "CREATE TABLE chain (n INTEGER PRIMARY KEY, last_op INTEGER NOT NULL, link BLOB NOT NULL)",
    "op": "CREATE TABLE op (n INTEGER PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, address TEXT NOT NULL,"
    " key TEXT NOT NULL, try INTEGER NOT NULL, state TEXT NOT NULL, epoch INTEGER NOT NULL, digest TEXT NOT NULL,"
    " books BLOB NOT NULL, body BLOB NOT NULL)",
}
_CURE = "the file was changed or damaged; it is left as it is, so restore it from a copy"


def is_new(db: sqlite3.Connection) -> bool:
    """Tell whether this database has nothing in it: new, or its maker was killed before the tables were there."""
    (n_tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    return (n_tables, *_versions(db)) == (0, 0, 0)


def create(db: sqlite3.Connection) -> None:
    """Make the tables, all or none."""
    db.execute("BEGIN IMMEDIATE")
    for table in _TABLES.values():
        db.execute(table)
    db.execute(f"PRAGMA application_id = {_APPLICATION}")
    db.execute(f"PRAGMA user_version = {FORMAT}")
    db.execute("COMMIT")


def check_writable(db: sqlite3.Connection) -> None:
    """Let a file that is locked, or may only be read, fail at open, before any money moves. Changes nothing."""
    db.execute("BEGIN IMMEDIATE")
    # On a file that may only be read SQLite begins without a word, so something has to be written.
    db.execute(f"PRAGMA user_version = {FORMAT}")
    db.execute("ROLLBACK")


def load(db: sqlite3.Connection, name: str, mark: Mark) -> Index:
    """Read the whole store, prove the chain and return the index. Changes nothing.

    Args:
        db: the database, open for reading.
        name: what errors call the store.
        mark: the last commit that was acknowledged; the chain has to pass through it.

    Raises:
        StoreError: not a store, another format, or the first commit that is not as it was written.
    """
    index = Index()
    try:
        if not is_new(db):
            _check_format(db, name)
            mark = _read_chain(db, name, mark, index)
        if index.n_commits < mark.commit:
            raise StoreError(
                name,
                f"commits {index.n_commits + 1} to {mark.commit} are missing; the file is left as it is, so restore it"
                f" and the -wal file beside it, or delete {name}.lock to go on without them",
            )
        (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise StoreError(name, f"{verdict.splitlines()[-1]}: {_CURE}")
    except FOREIGN as error:
        raise StoreError(name, f"reading stopped after commit {index.n_commits}: {words_for(error, _CURE)}") from error
    return index


def _versions(db: sqlite3.Connection) -> tuple[int, int]:
    return db.execute("PRAGMA application_id").fetchone()[0], db.execute("PRAGMA user_version").fetchone()[0]


def _check_format(db: sqlite3.Connection, name: str) -> None:
    application, version = _versions(db)
    if application != _APPLICATION:
        raise StoreError(name, "this is a database, but not a store; it is left as it is, so choose another file")
    if version != FORMAT:
        raise StoreError(
            name,
            f"written in store format {version}, and this Ostrom reads {FORMAT}; open it with the Ostrom that wrote it",
        )
    # A changed declaration changes what the same bytes mean, and a trigger would run on our writes.
    tables = db.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name").fetchall()
    if tables != [("table", table, table, sql) for table, sql in _TABLES.items()]:
        raise StoreError(name, f"the tables are not declared as they were: {_CURE}")


def _read_chain(db: sqlite3.Connection, name: str, mark: Mark, index: Index) -> Mark:
    ops: Iterator[tuple[int, Row]] = ((n, Row(*columns)) for n, *columns in db.execute("SELECT * FROM op ORDER BY n"))
    for number, last_op, link in db.execute("SELECT * FROM chain ORDER BY n"):
        commit = index.n_commits + 1
        # Nothing here may be trusted to have its type: a damaged byte can make a number text, or huge.
        numbered = list(islice(ops, max(0, last_op - index.n_ops))) if isinstance(last_op, int) else []
        rows = [row for _, row in numbered]
        in_order = all(n == due for due, (n, _) in enumerate(numbered, index.n_ops + 1))
        complete = number == commit and index.n_ops + len(rows) == last_op
        try:
            sound = in_order and complete and link_of(index.link, rows) == link
        except TypeError:
            sound = False
        if not sound:
            raise StoreError(name, f"commit {commit} is not as it was written: {_CURE}")
        index.add(rows, link)
        if commit == 1 and index.replaced == mark:
            mark = index.mark  # gc was killed before it could say that its file has taken the place of the old one
        if commit == mark.commit and index.mark != mark:
            raise StoreError(name, f"commit {commit} is not the one that was acknowledged: {_CURE}")
    if next(ops, None) is not None:
        raise StoreError(name, f"commit {index.n_commits + 1} is missing, but its rows are there: {_CURE}")
    return mark
