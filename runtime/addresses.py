"""Owns content addresses: the canonical form of a run's ingredients, down to the source of the user's own classes.

Of a class its own source and that of its bases counts, not what they import; the code of Ostrom itself is compared as a whole
when a folder is used again (`benchmarks.engine`).
"""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from decimal import Decimal
from functools import cache, partial
from types import FunctionType, MethodType
from typing import Any

from runtime.agents.roles import words_for
from runtime.budget import Budget
from runtime.errors import ConfigError
from runtime.ids import address
from runtime.models.base import ChatModel
from runtime.nesting import agents_of
from runtime.protocols import Topology
from runtime.task import Task


def run_address(topology: Topology, task: Task, budget: Budget, seed: int, models: Mapping[str, ChatModel]) -> str:
    """Content address of one run: everything that decides its outcome, and nothing else.

    Raises:
        ConfigError: something in it is a lambda, or of a class whose source cannot be found.
    """
    priced = {name: canonical([model.price, getattr(model, "settings", None)]) for name, model in models.items()}
    words = {agent.role: agent.prompt or words_for(agent.role) for agent in agents_of(topology).values()}
    checked = [task.address, canonical(task.checker)]
    return address([canonical(topology), checked, canonical(budget), canonical(seed), priced, words])


def canonical(value: Any) -> Any:
    """A form of `value` that JSON can hold and that is equal exactly where the values are.

    Raises:
        ConfigError: a lambda, a nested function or another thing that nothing identifies.
    """
    if value is None or isinstance(value, (str, float, bool)):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else ["int", str(value)]
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, Mapping):
        return [[canonical(key), canonical(item)] for key, item in value.items()]
    if isinstance(value, Set):
        return sorted(map(canonical, value), key=address)
    if isinstance(value, (FunctionType, type)):
        return _source(value)
    if isinstance(value, partial):
        return [canonical(value.func), canonical(value.args), canonical(value.keywords)]
    if isinstance(value, MethodType):
        return [canonical(value.__func__), canonical(value.__self__)]
    if isinstance(value, Sequence):
        return [canonical(item) for item in value]
    if not (is_dataclass(value) or hasattr(value, "__dict__")):
        raise ConfigError(f"{value!r} cannot be told from others of its kind in a content address")
    state = {f.name: getattr(value, f.name) for f in fields(value)} if is_dataclass(value) else vars(value)
    kind: Callable[..., Any] = type(value)
    return [_source(kind), canonical(state)]


@cache
def _source(thing: Callable[..., Any]) -> list[str]:
    if "<lambda>" in thing.__qualname__ or "<locals>" in thing.__qualname__:
        raise ConfigError(
            f"{thing.__module__}.{thing.__qualname__} has no name a resumed experiment could find again; define it at the "
            "top of a module"
        )
    # A class does what its bases do, too; those of the standard library come with the Python version.
    parts = [base for base in inspect.getmro(thing) if not _is_standard(base)] if isinstance(thing, type) else [thing]
    try:
        return [thing.__qualname__, *(address(inspect.getsource(part)) for part in parts)]
    except (OSError, TypeError):
        raise ConfigError(f"the source of {thing.__module__}.{thing.__qualname__} cannot be found") from None


def _is_standard(base: type) -> bool:
    return base.__module__.partition(".")[0] in sys.stdlib_module_names
