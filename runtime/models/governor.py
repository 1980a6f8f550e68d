"""Owns the places at each endpoint: how many calls of one host may be in flight to a model at once."""

import anyio

from runtime.bank.admission import Permit
from runtime.models.base import ChatModel


class _Place:
    """One caller's place. A CapacityLimiter knows its borrowers by object, so every call brings its own."""

    __slots__ = ("_limiter",)

    def __init__(self, limiter: anyio.CapacityLimiter) -> None:
        self._limiter = limiter

    async def acquire(self) -> None:
        """Wait for a place, first come first served."""
        await self._limiter.acquire_on_behalf_of(self)

    def release(self) -> None:
        """Give the place back."""
        self._limiter.release_on_behalf_of(self)


class Governor:
    """Hands out places. Virtual models need none: nothing of theirs can be overloaded."""

    def __init__(self) -> None:
        self._limiters: dict[str, anyio.CapacityLimiter] = {}

    def permit(self, model: ChatModel) -> Permit | None:
        """A place at the model's endpoint, not yet acquired; None where it has no limit."""
        most = getattr(model, "max_parallel", None)
        if model.virtual or most is None:
            return None
        return _Place(self._limiters.setdefault(model.name, anyio.CapacityLimiter(most)))
