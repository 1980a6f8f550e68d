"""Owns how words of the command line become a team, its model, tasks and a limit of tool calls."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import iscoroutinefunction
from pathlib import Path
from typing import NamedTuple

from benchmarks.experiment import load_file
from benchmarks.tasks import companies, craft, register
from benchmarks.tasks.jsonl import load
from policies import StrategyAuction
from runtime.agents.agent import Agent
from runtime.agents.tools import Tool
from runtime.boundary import contained_sync
from runtime.errors import AgentFailed, ConfigError
from runtime.nesting import agents_of
from runtime.protocols import Router
from runtime.task import Task
from topologies import Chain, Hybrid, Independent, Mesh, Single, Star, Topology, Tree


class _Family(NamedTuple):
    generate: Callable[[int], list[Task]]
    tools: tuple[Tool, ...] = ()
    """Without them no task of the family can be solved."""


class _Shape(NamedTuple):
    make: Callable[..., Topology]
    n_sizes: int
    """How many sizes it takes."""
    member: str = ""
    """Its argument for the one executor that fills all seats of that kind; empty where the first argument is a list of them."""


_FAMILIES = {
    "companies": _Family(companies.generate),
    "craft": _Family(craft.generate),
    "register": _Family(register.generate, (register.REGISTER,)),
}
_SHAPES = {
    "single": _Shape(Single, 0, "agent"),
    "single:fill": _Shape(partial(Single, fill=True), 0, "agent"),
    "independent": _Shape(Independent, 1),
    "star": _Shape(Star, 1),
    "chain": _Shape(Chain, 1),
    "tree": _Shape(Tree, 2, "executor"),
    "mesh": _Shape(Mesh, 1),
    "hybrid": _Shape(Hybrid, 1),
}
TOPOLOGIES = (
    "single, single:fill, independent:3, star:4, chain:3, tree:2,2, mesh:3, hybrid:3, or FILE.py:NAME for your own"
)
"""What may be written for a topology, as `--help` tells it."""
TASKS = f"{', '.join(f'{family}:N' for family in _FAMILIES)} (generated)"
"""What may be written for generated tasks, as `--help` tells it."""


def team_of(topology: str, model: str, task: str) -> Topology:
    """The team of these words, for the task of this word: who executes gets the tools that its family needs.

    Raises:
        ConfigError: see `topology_of`.
    """
    family = _FAMILIES.get(task.partition(":")[0])
    return topology_of(topology, family.tools if family else ()).with_model(model_of(model))


def topology_of(text: str, tools: tuple[Tool, ...] = ()) -> Topology:
    """A topology from its shorthand, `star`, `star:4`, `tree:2,2`, `single:fill`, or from a file, `own.py:Debate`.

    Args:
        tools: of its executors; one from a file has its own.

    Raises:
        ConfigError: unknown, or sizes that are no numbers; for a file, see `_own`.
    """
    file, _, name = text.rpartition(":")
    if file.endswith(".py") or text.endswith(".py"):
        return _own(text, Path(file or text), name if file else "")
    name, sizes = text.lower(), ""
    if name not in _SHAPES:
        name, _, sizes = name.partition(":")
    if name not in _SHAPES:
        raise ConfigError(
            f"unknown topology {text!r}; take one of {', '.join(_SHAPES)}, with sizes as in star:4 or tree:2,2, or one of "
            "your own as FILE.py:NAME"
        )
    shape = _SHAPES[name]
    try:
        numbers = [int(size) for size in sizes.split(",")] if sizes else []
    except ValueError:
        raise ConfigError(f"topology {text!r}: sizes are whole numbers, as in star:4 or tree:2,2") from None
    if len(numbers) > shape.n_sizes:
        raise ConfigError(f"topology {text!r}: {name} takes {('no size', 'one size', 'two sizes')[shape.n_sizes]}")
    return _equipped(shape, numbers, tools)


def _equipped(shape: _Shape, sizes: Sequence[int], tools: tuple[Tool, ...]) -> Topology:
    team = shape.make(*sizes)
    if not tools:
        return team
    executor = Agent("executor", tools=tools)
    if shape.member:
        return shape.make(*sizes, **{shape.member: executor})
    n_executors = sum(isinstance(seat, Agent) and seat.role == executor.role for seat in team.seats().values())
    return shape.make([executor] * n_executors)


def _own(text: str, file: Path, name: str) -> Topology:
    """A topology of the user's: an object, or what a class or function makes without arguments.

    Raises:
        ConfigError: no such file or name, an error in it, or something else than a topology.
    """
    if not name:
        raise ConfigError(f"topology {text!r}: name the one that is meant, as in {text.rstrip(':')}:NAME")
    module, *_ = load_file(file, "topology file")
    found = getattr(module, name, None)
    if found is None:
        known = [n for n, thing in vars(module).items() if _is_topology(thing, module.__name__)]
        raise ConfigError(f"{file}: there is no {name!r} in it; it has {', '.join(known) or 'no topology'}")
    if callable(found) and not isinstance(found, Topology) and not iscoroutinefunction(found):
        try:
            found = contained_sync(text, found)
        except AgentFailed as error:
            raise ConfigError(f"{error} (it is called without arguments)") from None
    if not isinstance(found, Topology):
        raise ConfigError(
            f"{text} is of type {type(found).__name__} and no topology; name a Topology, or a class or function that makes one "
            "without arguments"
        )
    return found


def _is_topology(thing: object, module: str) -> bool:
    own = isinstance(thing, type) and issubclass(thing, Topology) and thing.__module__ == module
    return own or isinstance(thing, Topology)


def model_of(text: str) -> str | Router:
    """A model name, or an auction written as `auction:sim/small,sim/large`."""
    kind, _, names = text.partition(":")
    return StrategyAuction(*names.split(",")) if kind == "auction" else text


def tasks_of(text: str) -> list[Task]:
    """Tasks from a .jsonl file, from a generator as in `companies:3`, or one task of this text.

    Raises:
        ConfigError: an unknown generator, or see `benchmarks.tasks.jsonl.load`.
    """
    family, _, n = text.partition(":")
    if family in _FAMILIES and n.isdecimal():
        return _FAMILIES[family].generate(int(n))
    if n.isdecimal() and family.isidentifier():
        raise ConfigError(f"{text!r} is no task: there is no generator {family!r} here, only {', '.join(_FAMILIES)}")
    return load(Path(text)) if text.endswith(".jsonl") else [Task(text)]


def check_tools(limits: int | Mapping[str, int] | None, team: Topology) -> None:
    """Refuse a limit of a tool that nobody in the team has: it would limit nothing.

    Raises:
        ConfigError: it names the tool, and those that there are.
    """
    known = {tool.name for agent in agents_of(team).values() for tool in agent.tools}
    unknown = sorted(limits.keys() - known) if isinstance(limits, Mapping) else []
    if unknown:
        raise ConfigError(
            f"--tool-calls {unknown[0]}: nobody in {team.name} has a tool of this name; there is "
            f"{', '.join(sorted(known)) or 'none'}"
        )


def tool_calls_of(texts: Sequence[str] | None) -> int | dict[str, int] | None:
    """The limit of tool calls: `20` for all tools together, or `search=5`, any number of times, for each named one.

    Raises:
        ConfigError: another form, both forms, or one tool twice.
    """
    if not texts:
        return None
    if len(texts) == 1 and texts[0].isdecimal():
        return int(texts[0])
    limits: dict[str, int] = {}
    for text in texts:
        tool, _, most = text.partition("=")
        if not tool.isidentifier() or not most.isdecimal() or tool in limits:
            raise ConfigError(
                f"--tool-calls {text}: write one whole number for all tools together, or each tool once with its own, as in "
                "--tool-calls search=5 --tool-calls register=20"
            )
        limits[tool] = int(most)
    return limits
