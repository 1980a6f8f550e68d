"""Owns what may be written into the store, how it lies in a row, and the bytes of a row that the hash chain covers."""

import zlib
from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple

import orjson

from runtime.journal import State

# Packing is most of what sealing costs, and the bank seals for all hosts. A journal of 20 steps (8 KB of JSON) takes
# 60 to 110 µs at level 3, and 95 to 150 at zlib's own choice, 6, for 7 % less disk.
_LEVEL = 3


class Opened(NamedTuple):
    """A live run was begun: from here on its attempts are written one by one."""

    run_id: str
    address: str
    """Content address of the run."""
    body: bytes
    """Whatever is to be known of it, as JSON."""


class Entry(NamedTuple):
    """One journal entry of a live attempt. An attempt has several; the last one counts."""

    run_id: str
    key: str
    """"step/seat/sample": which piece of work of the run."""
    try_: int
    state: State
    body: bytes
    """The attempt as JSON."""


class Sealed(NamedTuple):
    """A finished run with its closed books."""

    run_id: str
    address: str
    """Content address of the run."""
    body: bytes
    """Result and journal as JSON; the store compresses it."""


class Note(NamedTuple):
    """A named document. Of several with one name the last one counts."""

    name: str
    body: bytes
    """The document as JSON."""


Op = Opened | Entry | Sealed | Note


class Row(NamedTuple):
    """An op as it lies in the table `op`. Columns that a kind does not use are empty, never NULL."""

    kind: str
    """opened, entry, sealed or note."""
    name: str
    """The run's id, or the note's name."""
    address: str
    key: str
    try_: int
    state: str
    digest: str
    """sha256 of the body as it was handed in, for opened and sealed."""
    body: bytes
    """The body as it was handed in; for sealed, compressed."""


class Fact(NamedTuple):
    """What a row says once and for all. Saying it again is harmless; saying something else is a conflict."""

    about: str
    """address (of a run), opened (spec of a run) or sealed (result at an address)."""
    name: str
    value: str


def row_of(op: Op) -> Row:
    """Return the row that holds this op."""
    match op:
        case Opened(run_id, address, body):
            return Row("opened", run_id, address, "", 0, "", sha256(body).hexdigest(), body)
        case Entry(run_id, key, try_, state, body):
            return Row("entry", run_id, "", key, try_, state, "", body)
        case Sealed(run_id, address, body):
            packed = zlib.compress(body, _LEVEL)
            return Row("sealed", run_id, address, "", 0, "", sha256(body).hexdigest(), packed)
        case Note(name, body):
            return Row("note", name, "", "", 0, "", "", body)


def facts_of(row: Row) -> tuple[Fact, ...]:
    """Return what this row says once and for all; nothing for entries and notes."""
    if row.kind == "opened":
        return Fact("address", row.name, row.address), Fact("opened", row.name, row.digest)
    if row.kind == "sealed":
        return Fact("address", row.name, row.address), Fact("sealed", row.address, row.digest)
    return ()


def link_of(previous: bytes, rows: Iterable[Row]) -> bytes:
    """Return the link of a commit: sha256 over the link before it and its rows in order.

    A row goes in as the JSON list of its columns, with the body's length in the body's place, and then the body. The
    length makes the bytes of two different lists of rows differ; JSON tells text from numbers, which SQLite does not.

    Raises:
        TypeError: a column holds something else than it should; so does a row read back from a damaged file.
    """
    digest = sha256(previous)
    for row in rows:
        digest.update(orjson.dumps((*row[:-1], len(row.body))))
        digest.update(row.body)
    return digest.digest()


def unpacked(row: Row) -> bytes | None:
    """Return the body of a sealed row as it was handed in, or None if it is not what was sealed."""
    try:
        body = zlib.decompress(row.body)
    except zlib.error:
        return None
    return body if sha256(body).hexdigest() == row.digest else None
