"""Owns what `solve()` makes of several replies: parts for whom there are, who was lost, and what ends the run then."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

import anyio

from runtime.errors import OrchestrationError
from runtime.messages import Failure, Lost, Part
from runtime.protocols import Outcome

T = TypeVar("T")


def ended(lost: Lost | None, answer: Outcome) -> Outcome:
    """The answer; where a seat was lost, what ends the run in its place, so that only what was offered is answered with.

    Raises:
        OrchestrationError: what a seat failed of.
    """
    if isinstance(lost, Failure):
        raise lost.error
    return lost or answer


def first_lost(replies: Iterable[object]) -> Lost | None:
    """The first among the replies that is none."""
    return next((reply for reply in replies if isinstance(reply, Lost)), None)


def joined(parts: Sequence[Part], n: int) -> list[Part]:
    """At most n parts; what is beyond them becomes part of the last."""
    if len(parts) <= n:
        return list(parts)
    tail = parts[n - 1 :]
    return [*parts[: n - 1], Part("\n".join(part.text for part in tail), tail[0].needs, tail[0].sender)]


async def gathered(calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """Await several things at once; results in the order of `calls`.

    All of them come to their end before an error is raised, and then it is the error of the first in `calls`: which of two
    that fail at the same instant came first is chance, and a run's spend must not hang on it.
    """
    results: dict[int, T] = {}
    errors: dict[int, OrchestrationError] = {}

    async def keep(i: int) -> None:
        try:
            results[i] = await calls[i]()
        except OrchestrationError as error:
            errors[i] = error

    async with anyio.create_task_group() as group:
        for i in range(len(calls)):
            group.start_soon(keep, i)
    if errors:
        raise errors[min(errors)]
    return [results[i] for i in range(len(calls))]
