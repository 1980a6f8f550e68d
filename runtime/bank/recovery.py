"""Owns how the books above the runs are read back out of the store: the limits, what was granted, what came of it."""

import json
from collections.abc import Callable

import orjson

from runtime.bank.grants import ACCOUNT, NO_CAPS, Grants, Limits
from runtime.bank.store import Entry, Note, Store
from runtime.budget import BASE_DIMENSIONS, Amounts, Caps

_LIMITS = "limits/"


def limits_note(limits: Limits) -> Note:
    """The note that holds a scope's limits, as they were declared."""
    return Note(_LIMITS + limits.scope, orjson.dumps({"live": limits.live, "caps": limits.caps}))


def declared_limits(store: Store, scope: str) -> Limits | None:
    """A scope's limits as they were declared, without top-ups; None for an unknown scope."""
    note = store.note(_LIMITS + scope)
    if note is None:
        return None
    body = orjson.loads(note)
    return Limits(scope, body["live"], tuple(body["caps"]))


def raised_caps(store: Store, name: str, caps: Caps) -> Caps:
    """Caps with all top-ups of that scope or run added."""
    for more in store.top_ups():
        if more.scope == name:
            caps = tuple(None if c is None else c + a for c, a in zip(caps, more.amounts, strict=True))
    return caps


def read_grants(store: Store) -> Grants:
    """The books above the runs, as the store proves them; what older drivers held is closed."""
    account = declared_limits(store, ACCOUNT)
    grants = Grants(store.epoch(""), raised_caps(store, ACCOUNT, NO_CAPS if account is None else account.caps))
    begun = {opened.run_id for opened in store.opened()}
    last = {granted.run_id: granted for granted in store.grants()}
    books = {run_id: orjson.loads(body) for run_id, _, body in store.books() if body != b"{}"}
    dropped: dict[str, list[int]] = json.loads(store.pruned() or b"{}").get("settled", {})
    for scope in (
        {granted.scope for granted in last.values()} | {book["scope"] for book in books.values()} | set(dropped)
    ):
        limits = declared_limits(store, scope)
        if limits is not None:
            grants.open(limits._replace(caps=raised_caps(store, scope, limits.caps)))
    for scope, settled in dropped.items():
        grants.settled_before(scope, tuple(settled))
    for run_id, book in books.items():
        grants.seal(run_id, book, late_figures(store, run_id))
    for run_id, granted in last.items():
        if run_id not in books:
            grants.restore(granted, begun=run_id in begun)
    for more in store.top_ups():
        if more.scope in last and more.scope not in books:
            grants.restore_extension(more.scope, more.serial, more.amounts[: len(BASE_DIMENSIONS)])
    grants.take_over()
    return grants


def late_figures(store: Store, run_id: str) -> Callable[[str, int], Amounts | None]:
    """Finds the true figure of an attempt that came when its run had charged it at maximum."""

    def find(key: str, try_: int) -> Amounts | None:
        for entry in store.entries(run_id):
            if (entry.key, entry.try_, entry.state) == (key, try_, "settled"):
                return charged_in(entry)
        return None

    return find


def charged_in(entry: Entry) -> Amounts:
    """What an entry that closes an attempt says it cost, in the base dimensions."""
    return tuple(orjson.loads(entry.body)["charged"][: len(BASE_DIMENSIONS)])
