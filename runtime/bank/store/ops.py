"""Owns what may be written into the store, how it lies in a row, and the bytes of a row that the hash chain covers."""

import json
import zlib
from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple

import orjson

from runtime.journal import State, Unanswered

# Packing is most of what sealing costs, and the bank seals for all hosts. A journal of 100 steps with 600 characters of
# English each (75 KB of JSON) took 0.68 ms at level 1, 0.97 at 3 for 5 % less disk, and 2.1 at zlib's own choice, 6, for
# 12 % less.
_LEVEL = 1


class Opened(NamedTuple):
    """A live run was begun: from here on its attempts are written one by one."""

    run_id: str
    address: str
    """Content address of the run."""
    body: bytes
    """Whatever is to be known of it, as JSON."""


class Taken(NamedTuple):
    """A host took a live run over. Hosts with older epochs are fenced; that is the service's work, not the store's."""

    run_id: str
    epoch: int
    """From 1."""
    host: str


class Entry(NamedTuple):
    """One journal entry of a live attempt. An attempt has several, one for each state it went through."""

    run_id: str
    epoch: int
    """Epoch of the host that wrote it. A retry by a later host is the same entry."""
    key: str
    """"step/seat/sample": which piece of work of the run."""
    try_: int
    state: State | Unanswered
    body: bytes
    """The attempt as JSON."""


class Granted(NamedTuple):
    """A run was given budget out of a scope, or gave it back: its driver will not run it to its end. The last word counts."""

    run_id: str
    scope: str
    serial: int
    """From 0; what is given back, and granted anew, goes under the next one."""
    amounts: tuple[int, ...]
    """By dimension; () where it was given back."""
    epoch: int = 0
    """Of the driver that granted it."""


class Sealed(NamedTuple):
    """A finished run with its closed books."""

    run_id: str
    address: str
    """Content address of the run."""
    body: bytes
    """Result and journal as JSON; the store compresses it."""
    books: bytes = b"{}"
    """What the run cost as a small JSON object, not compressed: "scope" (text), "settled" (amounts by dimension), and
    "open", [key, try, amounts] of each attempt that is charged at maximum beside that, until its true figure comes. Only
    `gc` reads it in here; {} says that no scope paid."""


class ToppedUp(NamedTuple):
    """The cap of a scope or of a run was raised."""

    scope: str
    """The scope, or the run's id."""
    serial: int
    amounts: tuple[int, ...]
    """What was added, by dimension."""


class Ruled(NamedTuple):
    """What an operator ruled about a run or a scope. The last ruling counts."""

    name: str
    status: str
    """paused, resumed or cancelled."""


class Note(NamedTuple):
    """A named document. Of several with one name the last one counts."""

    name: str
    body: bytes
    """The document as JSON."""


class Pruned(NamedTuple):
    """The first row of a store that took the place of a larger one; `gc` writes it and nobody else may."""

    body: bytes
    """JSON: "link" and "commits", the last link of the file it replaced and how many it had; "runs", how many runs were
    left out so far; "settled", what those have cost, amounts by scope, with what was charged at maximum."""


Op = Opened | Taken | Entry | Granted | Sealed | ToppedUp | Ruled | Note | Pruned


class Row(NamedTuple):
    """An op as it lies in the table `op`. Columns that a kind does not use are empty or 0, never NULL."""

    kind: str
    """opened, taken, entry, granted, sealed, topped up, ruled, note or pruned."""
    name: str
    """The run's id, or the name of the scope or the note."""
    address: str = ""
    key: str = ""
    """Which piece of work, for entries; the host, for taken; the scope, for granted."""
    try_: int = 0
    """The serial, for granted and topped up."""
    state: str = ""
    """The status, for ruled."""
    epoch: int = 0
    digest: str = ""
    """sha256 of the body as it was handed in, for opened, entry and sealed."""
    books: bytes = b""
    """For sealed. It stands before the body, so that reading it does not touch the pages that only the body fills."""
    body: bytes = b""
    """The body as it was handed in; for sealed, compressed; for granted and topped up, the amounts as JSON."""


class Fact(NamedTuple):
    """What a row says once and for all. Saying it again is harmless; saying something else is a conflict."""

    about: str
    """address (of a run), opened (spec of a run), sealed (result at an address), entry, granted or topped up."""
    name: str
    value: str


def row_of(op: Op) -> Row:
    """Return the row that holds this op."""
    match op:
        case Opened(run_id, address, body):
            return Row("opened", run_id, address, digest=sha256(body).hexdigest(), body=body)
        case Taken(run_id, epoch, host):
            return Row("taken", run_id, key=host, epoch=epoch)
        case Entry(run_id, epoch, key, try_, state, body):
            return Row("entry", run_id, "", key, try_, state, epoch, sha256(body).hexdigest(), b"", body)
        case Granted(run_id, scope, serial, amounts, epoch):
            return Row("granted", run_id, key=scope, try_=serial, epoch=epoch, body=_amounts_body(amounts))
        case Sealed(run_id, address, body, books):
            packed = zlib.compress(body, _LEVEL)
            return Row("sealed", run_id, address, digest=sha256(body).hexdigest(), books=books, body=packed)
        case ToppedUp(scope, serial, amounts):
            return Row("topped up", scope, try_=serial, body=_amounts_body(amounts))
        case Ruled(name, status):
            return Row("ruled", name, state=status)
        case Note(name, body):
            return Row("note", name, body=body)
        case Pruned(body):
            return Row("pruned", "", body=body)


def facts_of(row: Row) -> tuple[Fact, ...]:
    """Return what this row says once and for all; nothing for taken, ruled, notes and pruned."""
    match row.kind:
        case "sealed":
            return Fact("address", row.name, row.address), Fact("sealed", row.address, row.digest)
        case "entry":
            # As JSON, because keys and run ids may hold any character that could stand between them.
            names = orjson.dumps((row.name, row.key, row.try_, row.state)).decode()
            return (Fact("entry", names, row.digest),)
        case "opened":
            return Fact("address", row.name, row.address), Fact("opened", row.name, row.digest)
        case "granted":
            return (Fact("granted", f"{row.try_} {row.name}", row.key + row.body.decode()),)
        case "topped up":
            return (Fact("topped up", f"{row.try_} {row.name}", row.body.decode()),)
        case _:
            return ()


def closes(row: Row) -> bool:
    """Whether this row only ends something, so that a full disk must not keep it out."""
    match row.kind:
        case "sealed" | "ruled":
            return True
        case "entry":
            return row.state not in {"held", "sent"}
        case "granted":
            return not amounts_of(row)
        case _:
            return False


def link_of(previous: bytes, rows: Iterable[Row]) -> bytes:
    """Return the link of a commit: sha256 over the link before it and its rows in order.

    A row goes in as the JSON list of its columns, with the lengths of books and body in their places, and then both. The
    lengths make the bytes of two different lists of rows differ; JSON tells text from numbers, which SQLite does not.

    Raises:
        TypeError: a column holds something else than it should; so does a row read back from a damaged file.
    """
    digest = sha256(previous)
    for row in rows:
        digest.update(orjson.dumps((*row[:-2], len(row.books), len(row.body))))
        digest.update(row.books)
        digest.update(row.body)
    return digest.digest()


def unpacked(row: Row) -> bytes | None:
    """Return the body of an opened, entry or sealed row as it was handed in, or None if it is not what it was."""
    try:
        body = zlib.decompress(row.body) if row.kind == "sealed" else row.body
    except zlib.error:
        return None
    return body if sha256(body).hexdigest() == row.digest else None


def amounts_of(row: Row) -> tuple[int, ...]:
    """Return the amounts of a granted or topped-up row."""
    return tuple(json.loads(row.body))


def _amounts_body(amounts: tuple[int, ...]) -> bytes:
    # Not orjson: it ends at 64 bits, and a ledger's amounts have 96.
    return json.dumps(amounts, separators=(",", ":")).encode()
