"""Owns the plan of an experiment: its definition, and every single trial with its place and its content address."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import UnionType
from typing import Literal

from runtime.addresses import canonical
from runtime.budget import Budget
from runtime.driver import Runtime
from runtime.errors import ConfigError
from runtime.ids import address, check_name
from runtime.models.base import ChatModel
from runtime.models.recorded import RecordedModel
from runtime.models.scripted import ScriptedModel
from runtime.models.simulated import SimulatedModel
from runtime.models.spec import ModelSpec
from runtime.nesting import agents_of
from runtime.operator import EXPERIMENT
from runtime.preflight import RunSpec
from runtime.protocols import Router
from runtime.task import Task
from topologies.base import Topology

Match = Literal["cap", "spend", "none"]


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of the experiment with its place in the plan."""

    spec: RunSpec
    topology: str
    model: str
    """Label of the model or router that fills the seats."""
    budget_rank: int
    block: int
    """Number of its task × seed block, over all arms; a capped sweep admits whole blocks."""
    kind: str
    """What answers: simulated, recorded, scripted or live."""


@dataclass(frozen=True)
class Plan:
    """All trials in the order in which they are admitted."""

    trials: tuple[Trial, ...]
    prices: str
    """Digest of the price table of all models."""
    models: tuple[str, ...]
    """Every model that may answer, by name."""

    @property
    def digest(self) -> str:
        """Content address of the whole plan."""
        return address([trial.spec.address for trial in self.trials])

    @property
    def kind(self) -> str:
        """What the experiment rests on: live if anything is, else what all trials are, or mixed."""
        kinds = {trial.kind for trial in self.trials}
        return "live" if "live" in kinds else kinds.pop() if len(kinds) == 1 else "mixed"


class Definition:
    """What is compared: every topology × model × budget on every task and seed.

    Args:
        name: names the experiment in tables and files.
        tasks: what is worked on; ids must differ.
        topologies: seats without a model of their own are filled with each of `models` in turn; a topology whose seats all
            have one is an arm by itself.
        budgets: limits, from small to large; the order of curves and tables.
        models: names of the catalogue, and routers.
        seeds: repetitions; all arms share them.
        match: "cap": all arms have the same limits and are free to stop below them; "spend": they repeat until nothing more
            fits; "none": the arms are not matched, and every table says so.
        cap: limit of the whole experiment; required before a live sweep. It admits whole task × seed blocks.
        catalog: models beside the catalogue's own.

    Raises:
        ConfigError: an empty axis, or labels or task ids that occur twice.
    """

    def __init__(
        self,
        name: str,
        *,
        tasks: Sequence[Task],
        topologies: Sequence[Topology],
        budgets: Sequence[Budget],
        models: Sequence[str | Router] = (),
        seeds: Sequence[int] = (0,),
        match: Match = "cap",
        cap: Budget | None = None,
        catalog: Mapping[str, ModelSpec | ChatModel] | None = None,
    ) -> None:
        _check_kinds(
            name, {"tasks": tasks, "topologies": topologies, "budgets": budgets, "models": models, "seeds": seeds}
        )
        if cap is not None and not isinstance(cap, Budget):
            raise ConfigError(f"experiment {name!r}: cap={cap!r} must be a Budget, as in cap=Budget(usd=5)")
        self.name = check_name(name, "experiment")
        self.tasks, self.topologies, self.budgets = tuple(tasks), tuple(topologies), tuple(budgets)
        self.models, self.seeds = tuple(models), tuple(seeds)
        self.cap, self.catalog = cap, dict(catalog or {})
        self.match: Match = match
        if cap is not None and (cap.seconds is not None or isinstance(cap.tool_calls, Mapping)):
            raise ConfigError(
                f"experiment {name!r}: its cap limits tokens, usd, calls or tool_calls, each by one number"
            )
        axes: dict[str, Sequence[object]] = {
            "tasks": [task.id for task in self.tasks],
            "topologies": [topology.name for topology in self.topologies],
            "budgets": [budget.describe() for budget in self.budgets],
            "seeds": self.seeds,
        }
        for axis, labels in axes.items():
            if not labels:
                raise ConfigError(f"experiment {name!r}: {axis} is empty")
            twice = sorted({str(label) for label in labels if labels.count(label) > 1})
            if twice:
                raise ConfigError(f"experiment {name!r}: {axis} contains {', '.join(twice[:5])} more than once")

    def plan(self, runtime: Runtime) -> Plan:
        """Check every trial and give it its content address; nothing is spent.

        Raises:
            ConfigError: a trial cannot run; says which and why.
        """
        arms = list(self._arms())
        trials: list[Trial] = []
        names = sorted({name for topology, _ in arms for a in agents_of(topology).values() for name in a.model_names()})
        models = {name: runtime.catalog.get(name) for name in names}
        kinds = {name: _kind(model) for name, model in models.items()}
        for t, task in enumerate(self.tasks):
            for s, seed in enumerate(self.seeds):
                for topology, label in arms:
                    used = {kinds[name] for agent in agents_of(topology).values() for name in agent.model_names()}
                    kind = "live" if "live" in used else used.pop() if len(used) == 1 else "mixed"
                    for rank, budget in enumerate(self.budgets):
                        spec = runtime.spec("planned", topology, task, budget, seed)
                        run_id = f"{self.name[:40]}-{spec.address[:16]}"
                        spec = replace(spec, run_id=run_id, scope=EXPERIMENT + self.name)
                        trials.append(Trial(spec, topology.name, label, rank, t * len(self.seeds) + s, kind))
        prices = address({name: canonical(model.price) for name, model in models.items()})
        return Plan(tuple(trials), prices, tuple(models))

    def _arms(self) -> Iterable[tuple[Topology, str]]:
        for topology in self.topologies:
            empty = [seat for seat, agent in agents_of(topology).items() if agent.model is None]
            if not empty:
                names = {name for agent in agents_of(topology).values() for name in agent.model_names()}
                yield topology, "+".join(sorted(names)) if len(names) < 3 else "mixed"
            elif not self.models:
                raise ConfigError(
                    f"{topology.name}: seat {empty[0]!r} has no model, and the experiment names no models"
                )
            for model in self.models if empty else ():
                yield topology.with_model(model), model if isinstance(model, str) else model.name


_KINDS: dict[str, tuple[type | UnionType, str]] = {
    "tasks": (Task, 'tasks, as in benchmarks.tasks.jsonl.load("tasks.jsonl")'),
    "topologies": (Topology, "topologies, as in [Single(), Star(4)]"),
    "budgets": (Budget, "budgets, as in [Budget(usd=0.02)]"),
    "models": (str | Router, 'model names and routers, as in ["sim/small"]'),
    "seeds": (int, "whole numbers, as in [0, 1, 2]"),
}


def _check_kinds(name: str, axes: Mapping[str, object]) -> None:
    for axis, values in axes.items():
        kind, wanted = _KINDS[axis]
        listed = isinstance(values, Sequence) and not isinstance(values, str)
        if not listed or not all(isinstance(value, kind) for value in values):  # type: ignore[attr-defined]
            raise ConfigError(f"experiment {name!r}: {axis}={values!r} must be a list of {wanted}")


def _kind(model: ChatModel) -> str:
    if not model.virtual:
        return "live"
    kinds = {SimulatedModel: "simulated", RecordedModel: "recorded", ScriptedModel: "scripted"}
    return next((kind for made_by, kind in kinds.items() if isinstance(model, made_by)), "virtual")
