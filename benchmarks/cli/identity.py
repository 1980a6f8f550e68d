"""Owns how the command line knows which run is which, since no result tells it: team, model, task, seed and budget.

A sweep writes its plan beside its store before the first trial runs, so that trials have names while it goes on, and after it
was killed. A single run has no plan; what it is goes into the store when it is finished.
"""

from pathlib import Path
from typing import NamedTuple

import orjson

from benchmarks.plan import Plan
from runtime.bank.service import Bank
from runtime.budget import Budget
from runtime.driver import Runtime
from runtime.errors import ConfigError
from runtime.nesting import agents_of
from runtime.task import Task
from topologies import Topology

PLAN_FILE = "plan.json"
_RUN = "run/"
_TASK_SIGNS = 40
"""Of a task without an id of its own, so many signs of its text name it."""


class Identity(NamedTuple):
    """Which run it is. Names of teams, models and budgets are those of the tables."""

    team: str
    model: str
    task: str
    seed: int
    budget: str

    @classmethod
    def of(cls, team: Topology, task: Task, seed: int, budget: Budget) -> "Identity":
        """That of a single run."""
        models = [agent.model for agent in agents_of(team).values() if agent.model is not None]
        names = {model if isinstance(model, str) else model.name for model in models}
        return cls(team.name, names.pop() if len(names) == 1 else "mixed", task_label(task), seed, budget.describe())


def task_label(task: Task) -> str:
    """Its id, or the beginning of its text where nobody gave it one."""
    if task.id != task.address[:12]:
        return task.id
    text = " ".join(task.prompt.split())
    return text if len(text) <= _TASK_SIGNS else text[: _TASK_SIGNS - 1] + "…"


def write_plan(out: Path, plan: Plan) -> None:
    """Write which trial each run is, after what plans before wrote in this folder.

    Raises:
        ConfigError: the file cannot be written, or one that is there cannot be read.
    """
    known = _read_plan(out)
    whole = dict(known)
    for trial in plan.trials:
        spec = trial.spec
        named = Identity(trial.topology, trial.model, task_label(spec.task), spec.seed, spec.budget.describe())
        whole.setdefault(spec.run_id, named)
    if whole == known:
        return
    unfinished = out / f"{PLAN_FILE}.new"
    try:
        unfinished.write_bytes(orjson.dumps({run_id: named._asdict() for run_id, named in whole.items()}))
        unfinished.replace(out / PLAN_FILE)  # at once, since `ostrom ls` may be reading it
    except OSError as error:
        raise ConfigError(f"{out / PLAN_FILE} cannot be written: {error.strerror}") from None


def _read_plan(out: Path) -> dict[str, Identity]:
    """Trials by run id, in the order of their plans."""
    path = out / PLAN_FILE
    try:
        return {run_id: Identity(**named) for run_id, named in orjson.loads(path.read_bytes()).items()}
    except FileNotFoundError:
        return {}
    except (orjson.JSONDecodeError, AttributeError, TypeError, OSError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}); delete it, and the same sweep command writes it anew"
        ) from None


async def note_run(runtime: Runtime, run_id: str, identity: Identity) -> None:
    """Note in the store which run a single one is, where that is not known yet."""
    if await runtime.note(_RUN + run_id) is None:
        await runtime.set_note(_RUN + run_id, orjson.dumps(identity, default=tuple))


class Identities:
    """All that is known in a folder.

    Raises:
        ConfigError: its plan cannot be read.
    """

    def __init__(self, out: Path, bank: Bank) -> None:
        self._bank = bank
        self._trials = _read_plan(out)
        self._places = {run_id: place for place, run_id in enumerate(self._trials)}

    def of(self, run_id: str) -> Identity | None:
        """That of a run; None where it is not known, as for runs that a program began."""
        if run_id in self._trials:
            return self._trials[run_id]
        body = self._bank.note(_RUN + run_id)
        return None if body is None else Identity(*orjson.loads(body))

    def place(self, run_id: str) -> int:
        """The place of a trial in its plan; others come after all of them."""
        return self._places.get(run_id, len(self._places))
