"""Owns the limits of scopes and live runs as the store knows them: declared once, and raised by top-ups."""

import orjson

from runtime.bank.grants import ACCOUNT, NO_CAPS, Limits
from runtime.bank.store import Note, Store
from runtime.bank.vector import UNLIMITED
from runtime.budget import BASE_DIMENSIONS, Amounts, Budget, Caps
from runtime.errors import ConfigError

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


def top_up_amounts(store: Store, name: str, more: Budget) -> Amounts:
    """What a top-up adds to a scope or an open live run, in its own dimensions.

    Raises:
        ConfigError: there is no such scope or run, or it has no limit there that could be raised.
    """
    caps = _limits_of(store, name)
    wanted = {d: amount for d, amount in zip(more.dimensions, more.caps, strict=True) if amount}
    for dimension, amount in wanted.items():
        cap = caps.get(dimension)
        if cap is None:
            what = dimension.removeprefix("pico_")
            raise ConfigError(
                f"{name} has no such limit: only one that exists can be raised, and it has none of {what}"
            )
        if cap + amount >= UNLIMITED:
            raise ConfigError(f"{name}: {cap} {dimension} cannot be raised by {amount}; that cannot be counted")
    return tuple(wanted.get(dimension, 0) for dimension in caps)


def _limits_of(store: Store, name: str) -> dict[str, int | None]:
    for opened in store.opened():
        if opened.run_id == name:
            facts = orjson.loads(opened.body)
            return dict(zip(facts["dimensions"], raised_caps(store, name, tuple(facts["caps"])), strict=True))
    limits = declared_limits(store, name)
    if limits is None and name == ACCOUNT:
        limits = Limits(ACCOUNT, True, NO_CAPS)
    if limits is None:
        raise ConfigError(f"there is no open run and no experiment {name!r}; `ostrom ps` names what there is")
    return dict(zip(BASE_DIMENSIONS, raised_caps(store, name, limits.caps), strict=True))
