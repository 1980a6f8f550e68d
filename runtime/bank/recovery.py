"""Owns how the books above the runs are read back out of the store: what was granted, and what came of it."""

import json
from collections.abc import Callable

import orjson

from runtime.bank.grants import ACCOUNT, NO_CAPS, Grants
from runtime.bank.limits import declared_limits, raised_caps
from runtime.bank.store import Entry, Store
from runtime.budget import BASE_DIMENSIONS, Amounts


def read_grants(store: Store) -> Grants:
    """The books above the runs, as the store proves them; what was given up, and what older drivers held, is closed."""
    account = declared_limits(store, ACCOUNT)
    grants = Grants(store.epoch(""), raised_caps(store, ACCOUNT, NO_CAPS if account is None else account.caps))
    begun = {opened.run_id for opened in store.opened()}
    words = store.grants()
    last = {granted.run_id: granted for granted in words if granted.amounts}
    given_up = [run_id for run_id, word in {word.run_id: word for word in words}.items() if not word.amounts]
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
    for run_id, granted in last.items():
        grants.restore(granted, begun=run_id in begun or run_id in books)
    for more in store.top_ups():
        if more.scope in last:
            grants.restore_extension(more.scope, more.serial, more.amounts[: len(BASE_DIMENSIONS)])
    grants.abandon(given_up)
    for run_id, book in books.items():
        grants.seal(run_id, book, late_figures(store, run_id))
    grants.take_over()
    return grants


def late_figures(store: Store, run_id: str) -> Callable[[str, int], Amounts | None]:
    """Finds the true figure of an attempt that came when its run had charged it at maximum."""

    def find(key: str, try_: int) -> Amounts | None:
        # The last word counts: what was said before the attempt was sent was about another attempt of the same name.
        said = [entry for entry in store.entries(run_id) if (entry.key, entry.try_) == (key, try_)]
        return true_figure(said[-1]) if said else None

    return find


def true_figure(entry: Entry) -> Amounts | None:
    """What an entry proves that its attempt cost, in the base dimensions; None where it proves nothing."""
    match entry.state:
        case "settled":
            return tuple(orjson.loads(entry.body)["charged"][: len(BASE_DIMENSIONS)])
        case "released":
            return (0,) * len(BASE_DIMENSIONS)
        case _:
            return None
