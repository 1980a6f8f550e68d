"""Owns the border to code that is not ours and may raise anything: topologies, routers, checkers and tools of the user.

Everywhere else a broad `except` is forbidden. What comes through here is one of our errors: Ray drops `__cause__`, so the
text of the cause is kept.
"""

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TypeVar, TypeVarTuple

from runtime.errors import AgentFailed, OrchestrationError

Ts = TypeVarTuple("Ts")
T = TypeVar("T")


class containing:
    """A block in which foreign code runs. It costs no frame and no text, because thousands of calls wait in one.

    Args:
        where: what errors call the place.
        name: what tells it from others of its kind.

    Raises:
        OrchestrationError: what the code raised, if it was one of ours, also out of an exception group (the first one
            in it; ours before foreign ones); everything else, `sys.exit()` included, as AgentFailed.
    """

    __slots__ = ("_name", "_where")

    def __init__(self, where: str, name: str = "") -> None:
        self._where = where
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, (Exception, SystemExit)) and not isinstance(error, OrchestrationError):
            raise _ours(f"{self._where} {self._name}".rstrip(), error) from error


async def contained(where: str, call: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
    """Await foreign code, as in a block of `containing`."""
    with containing(where):
        return await call(*args)


def contained_sync(where: str, call: Callable[[*Ts], T], *args: *Ts) -> T:
    """Call foreign code that does not wait; otherwise as `contained`."""
    with containing(where):
        return call(*args)


def encodable(text: str) -> str:
    """The text with `?` for lone surrogates, which neither the store nor an endpoint takes."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def _ours(where: str, error: BaseException) -> OrchestrationError:
    leaves = _leaves(error)
    for leaf in leaves:
        if isinstance(leaf, OrchestrationError):
            return leaf
    return AgentFailed(where, type(leaves[0]).__name__, encodable(str(leaves[0])))


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
